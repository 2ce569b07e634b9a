"""The context of a request, by the names of RudderStack's common fields."""

from __future__ import annotations

from typing import Any

from rudderpipe.errors import SettingsError


def of_request(
    *,
    ip: str | None = None,
    user_agent: str | None = None,
    languages: str | None = None,
    path: str | None = None,
    search: str | None = None,
    referrer: str | None = None,
) -> dict[str, Any]:
    """What is known of it; ``languages`` is the header ``Accept-Language``, of which the first is the locale."""
    locale = (languages or "").partition(",")[0].partition(";")[0].strip()
    page = {"path": path, "search": f"?{search}" if search else None, "referrer": referrer}
    whole = {"ip": ip, "userAgent": user_agent, "locale": locale, "page": _known(page)}
    return _known(whole)


def _known(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value}


def client_ip(remote: str | None, forwarded_for: str | None, proxies: int) -> str | None:
    """Who asked, behind so many proxies of our own.

    Each adds the address that it was asked from at the end of ``X-Forwarded-For``; what stands before those, anybody
    may have written, and all of it when there are fewer: then the request came past a proxy.
    """
    hops = [hop.strip() for hop in (forwarded_for or "").split(",") if hop.strip()]
    return hops[-proxies] if 0 < proxies <= len(hops) else remote


def checked_proxies(value: Any) -> int:
    """The number of proxies, before there is a request that it could break. Raises ``SettingsError``."""
    if not isinstance(value, int) or value < 0:
        raise SettingsError("proxies", "must be a number of proxies, 0 or more")
    return value

"""The context of a request, with the names of RudderStack's common fields."""

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
    """Return the context without empty fields.

    ``languages`` is the header ``Accept-Language``, whose first language is the locale.
    """
    locale = (languages or "").partition(",")[0].partition(";")[0].strip()
    page = {"path": path, "search": f"?{search}" if search else None, "referrer": referrer}
    whole = {"ip": ip, "userAgent": user_agent, "locale": locale, "page": _known(page)}
    return _known(whole)


def _known(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value}


def client_ip(remote: str | None, forwarded_for: str | None, proxies: int) -> str | None:
    """Return the client's address, behind ``proxies`` proxies of the application's owner.

    Each proxy appends the address of its own client to ``X-Forwarded-For``. Any client may have written the entries
    before those. With fewer entries than proxies, the request did not pass all proxies, and any client may have
    written the whole header; the result is then ``remote``.
    """
    hops = [hop.strip() for hop in (forwarded_for or "").split(",") if hop.strip()]
    return hops[-proxies] if 0 < proxies <= len(hops) else remote


def checked_proxies(value: Any) -> int:
    """Return the number of proxies, checked at the start and not in a request. Raise ``SettingsError``."""
    if not isinstance(value, int) or value < 0:
        raise SettingsError("proxies", "must be the number of proxies, 0 or more")
    return value

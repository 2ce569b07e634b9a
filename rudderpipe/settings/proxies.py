"""The proxy that the usual variables name: HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY."""

from __future__ import annotations

from collections.abc import Mapping

from rudderpipe import log_text

logger = log_text.logger()


def from_environment(environment: Mapping[str, str], url: str) -> str | None:
    """Return the URL of the proxy for this URL; None for a straight connection.

    As in requests and urllib: a name in lower case counts before one in upper case, also when it is empty, and
    HTTP_PROXY does not count in a CGI program, where the header ``Proxy`` of a request sets it.
    """
    from urllib.parse import urlsplit  # here, as few processes need it

    try:
        parts = urlsplit(url)
        host, port = (parts.hostname or "").lower(), parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError:
        return None  # what is no URL is refused elsewhere
    for name in (f"{parts.scheme}_proxy", "all_proxy"):
        if name == "http_proxy" and "REQUEST_METHOD" in environment:
            text = environment.get(name, "")
        else:
            text = _value(environment, name)
        if not text or _is_excepted(_value(environment, "no_proxy"), host, port):
            continue
        proxy = text if "://" in text else f"http://{text}"
        if _is_usable(proxy):
            return proxy
        logger.warning("%s names no http or https proxy: ignored, events go straight to the data plane", name.upper())
        return None
    return None


def _value(environment: Mapping[str, str], name: str) -> str:
    return environment.get(name, environment.get(name.upper(), "")).strip()


def _is_usable(proxy: str) -> bool:
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(proxy)
        _ = parts.port
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname) and all("!" <= each <= "~" for each in proxy)


def _is_excepted(no_proxy: str, host: str, port: int | None) -> bool:
    """Return whether NO_PROXY names the host: itself, a domain above it, its port, a network, or ``*`` for all."""
    for entry in no_proxy.lower().replace(",", " ").split():
        name = entry.lstrip("*").lstrip(".").strip("[]")
        if entry == "*" or name in (host, f"{host}:{port}") or _is_in_network(host, entry):
            return True
        if name and (host.endswith(f".{name}") or f"{host}:{port}".endswith(f".{name}")):
            return True
    return False


def _is_in_network(host: str, entry: str) -> bool:
    if "/" not in entry:
        return False
    import ipaddress  # here, as few processes need it

    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(entry, strict=False)
    except ValueError:
        return False

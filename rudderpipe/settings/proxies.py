"""The proxy from the usual environment variables: HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY."""

from __future__ import annotations

from collections.abc import Mapping

from rudderpipe import log_text

logger = log_text.logger()


def from_environment(environment: Mapping[str, str], url: str) -> str | None:
    """Return the URL of the proxy for this URL, or None for a direct connection.

    Same as requests and urllib: a variable in lower case takes precedence over one in upper case, even if it is empty.
    HTTP_PROXY is ignored in a CGI program, because there a request's header ``Proxy`` sets it.
    """
    from urllib.parse import urlsplit  # here, because few processes need it

    try:
        parts = urlsplit(url)
        host, port = (parts.hostname or "").lower(), parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError:
        return None  # Settings refuses the URL
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
        logger.warning(
            "%s names no http or https proxy and is ignored; events go directly to the data plane", name.upper()
        )
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
    """Return True if NO_PROXY lists the host, a parent domain, ``host:port``, a network of the host, or ``*``."""
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
    import ipaddress  # here, because few processes need it

    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(entry, strict=False)
    except ValueError:
        return False

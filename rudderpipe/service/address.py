"""Where the administration listens, as an operator writes it."""

from __future__ import annotations

from rudderpipe.errors import SettingsError

LOOPBACK = "127.0.0.1"
FORMS = "8080, :8080, 127.0.0.1:8080, 0.0.0.0:8080 or [::1]:8080"


def parse_address(text: str) -> tuple[str, int]:
    """Host and port of ``HOST:PORT``; without a host it is loopback, as nobody else shall reach it unless told so.

    Port 0 lets the system choose. Raises ``SettingsError``.
    """
    host, colon, port = text.strip().rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if bracketed:
        host = host[1:-1]
    if not (port.isascii() and port.isdecimal() and int(port) <= 65_535):
        raise SettingsError("admin", f"names no port: write {FORMS}")
    if bracketed != (":" in host):
        raise SettingsError("admin", f"is ambiguous, as only an IPv6 address has brackets: write {FORMS}")
    if (bracketed and not host) or any(character <= " " or character in "/@[]" for character in host):
        raise SettingsError("admin", f"names no host: write {FORMS}")
    return (host if colon and host else LOOPBACK), int(port)


def text_of(host: str, port: int) -> str:
    """The same for people."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

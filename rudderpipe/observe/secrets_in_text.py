"""The removal of secrets from text that comes from outside, such as a response of the data plane."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

from rudderpipe.errors import SettingsError
from rudderpipe.settings import Settings


def without_secrets(text: str, settings: Settings, *others: str) -> str:
    """Return the text without write key and passwords, which we never print, but a server may repeat.

    ``others`` are secrets that the settings do not have, such as the write key of a job.
    """
    for secret in (*_secrets(settings), *(each for each in others if len(each) > 2)):
        text = text.replace(secret, "…")
    return text


def _secrets(settings: Settings) -> Iterator[str]:
    found = [settings.write_key]
    with suppress(SettingsError):  # check 32 says what is wrong with a file
        found.append(settings.current_write_key)
        found.append(settings.redis_password() or "" if settings.redis is not None else "")
    for server in settings.redis_servers:
        found += [server.password or "", server.sentinel_password or ""]
    if settings.proxy_url and "@" in settings.proxy_url:
        found.append(settings.proxy_url.partition("//")[2].rpartition("@")[0].partition(":")[2])
    yield from (secret for secret in found if len(secret) > 2)  # a shorter one would also hit harmless text

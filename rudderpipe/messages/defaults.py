"""The defaults that a client adds to the arguments of its calls, and the message made of both."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rudderpipe.errors import EventError, SettingsError
from rudderpipe.messages import build, encode, validate
from rudderpipe.messages.context import current as ambient

_NO_PARTS = frozenset(("userId", "anonymousId", "groupId", "previousId", "messageId", "timestamp", "originalTimestamp"))
"""Keys with rules of their own; ``default`` does not convert their values."""


class Defaults:
    """The maker of a client's messages.

    ``context`` and ``integrations`` are defaults by key. ``default`` converts values of unknown type. A key of the
    request's context takes precedence over the client's, and a key of the call over both. The constructor raises
    ``SettingsError``.
    """

    def __init__(
        self, context: Mapping[str, Any] | None, integrations: Mapping[str, Any] | None, default: encode.Default | None
    ) -> None:
        self._context = _part("context", context)
        self._integrations = _part("integrations", integrations)
        self._default = default

    @property
    def adds(self) -> bool:
        """True if this client adds or converts anything, apart from a request's context."""
        return bool(self._context or self._integrations or self._default)

    def encoded(self, kind: str, arguments: dict[str, Any]) -> bytes:
        """Return the JSON of a call; ``arguments`` are in the order of ``build``'s functions. Raise ``EventError``."""
        first = next(iter(arguments))
        if self._default is not None:
            self._ask_default(first, arguments)
        whole = arguments[first]
        added = {"context": {**self._context, **(ambient.get() or {})}, "integrations": self._integrations}
        added = {name: mine for name, mine in added.items() if mine}
        if isinstance(whole, Mapping):
            if added:
                arguments[first] = {**whole, **_merged(added, whole)}
        else:
            arguments |= _merged(added, arguments)
        return bytes(getattr(build, kind)(*arguments.values()))

    def _ask_default(self, first: str, arguments: dict[str, Any]) -> None:
        for name in ("properties", "traits", "context", "integrations"):
            if arguments.get(name) is not None:
                arguments[name] = encode.plain(arguments[name], name, self._default)
        whole = arguments[first]
        if isinstance(whole, Mapping):
            arguments[first] = {
                name: child if name in _NO_PARTS else encode.plain(child, name, self._default)
                for name, child in encode.shallow(whole, "message").items()
            }
        elif whole is not None and not issubclass(type(whole), validate.IDS):
            arguments[first] = encode.plain(whole, "", self._default)


def _merged(added: Mapping[str, Mapping[str, Any]], given: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the added parts; a key of ``given`` takes precedence over the same key of ``added``."""
    return {
        name: dict(mine) if given.get(name) is None else {**mine, **validate.mapping(name, given[name])}
        for name, mine in added.items()
    }


def _part(name: str, value: Mapping[str, Any] | None) -> dict[str, Any]:
    try:
        return {} if value is None else validate.mapping(name, value)
    except EventError as error:
        raise SettingsError(error.field, error.reason) from None

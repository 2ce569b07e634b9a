"""The defaults that a client adds to the arguments of its calls, and the message made of both."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from rudderpipe.errors import EventError, SettingsError
from rudderpipe.messages import build, encode, trace, validate, wire
from rudderpipe.messages.context import current
from rudderpipe.types import Kind

KINDS: dict[Any, str] = {kind: kind for kind in sorted(get_args(Kind))}
"""The ``type`` of each call's messages."""
_NOT_CONVERTED = frozenset(
    ("userId", "anonymousId", "groupId", "previousId", "messageId", "timestamp", "originalTimestamp")
)
"""Keys with rules of their own; ``default`` does not convert their values."""


class Defaults:
    """The maker of a client's messages.

    ``context`` and ``integrations`` are defaults by key. ``default`` converts values of unknown type. A key of the
    request's context takes precedence over the client's, and a key of the call over both. All take precedence over the
    ids of the current span. The constructor raises ``SettingsError``.
    """

    def __init__(
        self, context: Mapping[str, Any] | None, integrations: Mapping[str, Any] | None, default: encode.Default | None
    ) -> None:
        self._context = _part("context", context)
        self._integrations = _part("integrations", integrations)
        self._default = default
        self.use_trace(is_used=False)

    def use_trace(self, *, is_used: bool) -> None:
        """Add the ids of OpenTelemetry's current span to the context of each message, or do not."""
        self._uses_trace = is_used
        self.adds = bool(self._context or self._integrations or self._default or is_used)
        """True if this client adds or converts anything, apart from a request's context."""

    def usual(self, kind: str, arguments: dict[str, Any]) -> bytes | bytearray | None:
        """Return the JSON of a usual call to which nothing is added; None of another one. Raise ``EventError``.

        ``arguments`` is as for ``wire.fields``.
        """
        return None if self.adds or current.get() else build.usual(kind, arguments)

    def encoded(self, kind: str, arguments: dict[str, Any]) -> bytes | bytearray:
        """Return the JSON of any call, as ``usual`` does."""
        data = self.usual(kind, arguments)
        return self.general(kind, arguments) if data is None else data

    def general(self, kind: str, arguments: dict[str, Any]) -> bytes:
        """Return the JSON of a call that is not usual. Raise ``EventError``."""
        in_request = current.get()
        if self._default is not None:
            arguments = self._convert_first(arguments)
        given, form = wire.fields(arguments)
        if self._default is not None:
            for name, value in given.items():
                if name not in _NOT_CONVERTED:
                    given[name] = encode.plain(value, name, self._default)
        context = {**self._context, **in_request} if in_request else self._context
        if self._uses_trace:
            context = {**trace.ids(), **context}
        if context:
            given["context"] = _merged("context", context, given, form)
        if self._integrations:
            given["integrations"] = _merged("integrations", self._integrations, given, form)
        return wire.from_fields(kind, given, form)

    def encoded_whole(self, message: object) -> bytes | bytearray:
        """Return the JSON of a whole message, whose ``type`` names its call. Raise ``EventError``."""
        if type(message) is dict and not self.adds and not current.get():
            usual = build.whole_track(message)
            if usual is not None:
                return usual
        if not isinstance(message, Mapping):
            raise EventError("message", f"must be a mapping, not {type(message).__name__}")
        return self.encoded(kind_of(message), {"message": message})

    def _convert_first(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Convert the first argument if it is of unknown type, because it may be an id or a whole message."""
        name, first = next(iter(arguments.items()))
        if first is None or issubclass(type(first), validate.IDS) or isinstance(first, Mapping):
            return arguments
        return {**arguments, name: encode.plain(first, wire.ARGUMENT_NAMES[name], self._default)}


def kind_of(message: Mapping[str, Any]) -> str:
    """Return the call of a whole message, which its ``type`` names. Raise ``EventError``."""
    named = message.get("type")
    kind = KINDS.get(named) if isinstance(named, str) else None
    if kind is None:
        raise EventError("type", f"must be one of {', '.join(KINDS)}")
    return kind


def _merged(name: str, default: Mapping[str, Any], given: Mapping[str, Any], form: wire.Form) -> dict[str, Any]:
    """Return the default with the given keys, which take precedence."""
    own = given.get(name)
    is_missing = validate.is_falsy(own) if form is wire.WHOLE else own is None
    return {**default} if is_missing else {**default, **validate.mapping(name, own)}


def _part(name: str, value: Mapping[str, Any] | None) -> dict[str, Any]:
    try:
        return {} if value is None else validate.mapping(name, value)
    except EventError as error:
        raise SettingsError(error.field, error.reason) from None

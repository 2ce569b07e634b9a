"""The capture of events in a list, in place of sending them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, overload

import msgspec

from rudderpipe.encoder import encode
from rudderpipe.messages import validate
from rudderpipe.messages.encode import plain
from rudderpipe.transports import intake
from rudderpipe.transports.base import Encoded, FastPath
from rudderpipe.transports.callbacks import Callback, callbacks
from rudderpipe.transports.flush import Done, Flush, Until

SHOWN = 20


class CapturedEvents(Sequence[dict[str, Any]]):
    """The captured messages with their wire names, in the order of the calls.

    Capturing uses no other process, no shared memory and no Redis. With ``strict``, a call raises the error that
    production would log, so that the test fails at the wrong call.
    """

    def __init__(self, *, strict: bool = True) -> None:
        self.strict = strict
        self.refused: dict[str, int] = {}
        """Number of refused events by reason; ``dropped`` counts events that sampling or ``before_send`` left out."""
        self._messages: list[dict[str, Any]] = []

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...

    @overload
    def __getitem__(self, index: slice) -> list[dict[str, Any]]: ...

    def __getitem__(self, index: int | slice) -> dict[str, Any] | list[dict[str, Any]]:
        return self._messages[index]

    def __len__(self) -> int:
        return len(self._messages)

    def clear(self) -> None:
        """Delete the captured messages and the counts of refused events."""
        self._messages.clear()
        self.refused.clear()

    def of_type(self, kind: str) -> list[dict[str, Any]]:
        """Return the messages of one call: ``track``, ``identify``, ``page``, ``screen``, ``group`` or ``alias``."""
        return [message for message in self._messages if message["type"] == kind]

    def assert_tracked(
        self,
        event: str,
        *,
        user_id: Any = None,
        anonymous_id: Any = None,
        properties: Mapping[str, Any] | None = None,
        context: Mapping[str, Any] | None = None,
        times: int | None = None,
    ) -> dict[str, Any]:
        """Assert that a matching ``track`` was captured, and return the first match.

        Only the given arguments are compared, in their wire form; properties and context may hold other keys.
        ``times`` is the exact number of matches. With ``times=0`` the result is an empty ``dict``.
        """
        wanted = msgspec.json.decode(
            encode(
                {
                    **({} if user_id is None else {"userId": validate.one_id("user_id", user_id)}),
                    **({} if anonymous_id is None else {"anonymousId": validate.one_id("anonymous_id", anonymous_id)}),
                    **({} if properties is None else {"properties": plain(properties, "properties")}),
                    **({} if context is None else {"context": plain(context, "context")}),
                }
            )
        )
        named = [message for message in self.of_type("track") if message["event"] == event]
        found = [message for message in named if not _difference(wanted, message)]
        if (times is None and found) or (times is not None and len(found) == times):
            return found[0] if found else {}
        raise AssertionError(self._story(event, wanted, named, len(found), times))

    def assert_not_tracked(self, event: str) -> None:
        """Assert that no ``track`` of this event name was captured."""
        number = sum(message["event"] == event for message in self.of_type("track"))
        assert not number, f"{event!r} was tracked {number} times"

    def _story(self, event: str, wanted: Any, named: list[dict[str, Any]], found: int, times: int | None) -> str:
        counted = "was not tracked" if times is None else f"was tracked {found} times, not {times}"
        lines = [f"{event!r} {counted} with {wanted}" if wanted else f"{event!r} {counted}"]
        for message in named[:SHOWN]:
            difference = _difference(wanted, message)
            lines.append(f"  tracked, but {difference}" if difference else "  tracked as expected")
        if not named:
            names = [message["event"] for message in self.of_type("track")]
            lines.append(f"  the tracked events are {names[:SHOWN]}" if names else "  nothing was tracked")
        return "\n".join(lines)

    # The methods of a transport, which a client calls.

    def put(self, data: Encoded, callback: Callback | None = None, on_error: Callback | None = None) -> None:  # noqa: ARG002  # no event fails here
        """Store the message, and call its callback on the callback thread, as for a persisted event."""
        message = msgspec.json.decode(data)
        self._messages.append(message)
        if callback is not None:
            callbacks.call(callback, None, message)

    def fast_path(self) -> FastPath | None:
        """Return None, so that every call takes the slow path."""
        return None

    def refuse(self, reason: str, error: Exception | None, callback: Callback | None = None) -> None:
        """Count the refused event; with ``strict``, raise the error."""
        self.refused[reason] = self.refused.get(reason, 0) + 1
        if callback is not None:
            callbacks.call(callback, error, {})
        if error is not None and self.strict:
            raise error

    def counts(self) -> Mapping[str, int]:
        """Return the counts as ``Client.counts`` does."""
        return {"accepted": len(self._messages), **self.refused}

    def warm_up(self) -> None:
        """Do nothing, because nothing has to be started."""

    def flush(self, until: Until = "queued") -> Flush:  # noqa: ARG002  # no event waits
        """Return a flush that is complete at once."""
        return Done()

    def shut(self, user: object = None) -> None:
        """Do nothing, because nothing has to be released."""


def _difference(wanted: Any, got: Any, path: str = "") -> str:
    """Return the first difference as text, or an empty text; a mapping in ``got`` may hold more keys."""
    if isinstance(wanted, dict) and isinstance(got, dict):
        for name, value in wanted.items():
            where = f"{path}.{name}".lstrip(".")
            if name not in got:
                return f"without {where}"
            if difference := _difference(value, got[name], where):
                return difference
        return ""
    return "" if wanted == got else f"with {path}={got!r} instead of {wanted!r}"


@contextmanager
def capture(*, strict: bool = True) -> Iterator[CapturedEvents]:
    """Capture the events of all clients of this process, also of clients created before.

    Only one capture may be active at a time.
    """
    captured = CapturedEvents(strict=strict)
    intake.divert(captured)
    try:
        yield captured
    finally:
        intake.divert(None)

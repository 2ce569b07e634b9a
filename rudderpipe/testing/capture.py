"""The events of all clients of this process, kept in a list instead of sent."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, overload

import msgspec

from rudderpipe.encoder import encode
from rudderpipe.messages import encode as values
from rudderpipe.messages import validate
from rudderpipe.transports import intake
from rudderpipe.transports.base import FastPath
from rudderpipe.transports.callbacks import Callback, callbacks
from rudderpipe.transports.flush import Done, Flush, Until

SHOWN = 20


class CapturedEvents(Sequence[dict[str, Any]]):
    """The messages in wire names, in the order of the calls; no process, no shared memory, no Redis.

    ``strict``: a call that production would log and refuse raises, so that a test fails where it is wrong.
    """

    def __init__(self, *, strict: bool = True) -> None:
        self.strict = strict
        self.refused: dict[str, int] = {}
        """How many were refused, by reason; ``dropped`` are those that sampling or ``before_send`` left out."""
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
        """Forget what was captured so far."""
        self._messages.clear()
        self.refused.clear()

    def of_type(self, kind: str) -> list[dict[str, Any]]:
        """Those of one call: ``track``, ``identify``, ``page``, ``screen``, ``group``, ``alias``."""
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
        """Assert that there was such a ``track``, and answer the first; properties and context may hold more.

        Values are compared as they are on the wire. ``times``: neither more nor fewer of them.
        """
        wanted = msgspec.json.decode(
            encode(
                {
                    **({} if user_id is None else {"userId": validate.one_id("user_id", user_id)}),
                    **({} if anonymous_id is None else {"anonymousId": validate.one_id("anonymous_id", anonymous_id)}),
                    **({} if properties is None else {"properties": values.plain(properties, "properties")}),
                    **({} if context is None else {"context": values.plain(context, "context")}),
                }
            )
        )
        named = [message for message in self.of_type("track") if message["event"] == event]
        found = [message for message in named if not _difference(wanted, message)]
        if (times is None and found) or (times is not None and len(found) == times):
            return found[0] if found else {}
        raise AssertionError(self._story(event, wanted, named, len(found), times))

    def assert_not_tracked(self, event: str) -> None:
        """Assert that there was no ``track`` of that name."""
        number = sum(message["event"] == event for message in self.of_type("track"))
        assert not number, f"{event!r} was tracked {number} times"

    def _story(self, event: str, wanted: Any, named: list[dict[str, Any]], found: int, times: int | None) -> str:
        much = "" if times is None else f" {times} times, but {found}"
        lines = [f"{event!r} was not tracked{much} with {wanted}" if wanted else f"{event!r} was not tracked{much}"]
        lines += [f"  tracked, but {_difference(wanted, message) or 'as asked'}" for message in named[:SHOWN]]
        if not named:
            names = [message["event"] for message in self.of_type("track")]
            lines.append(f"  tracked were {names[:SHOWN]}" if names else "  nothing was tracked")
        return "\n".join(lines)

    # What a client asks of where its events go.

    def put(self, data: bytes, callback: Callback | None = None) -> bool:
        """Keep it; its callback is called, on the thread for callbacks, as if it had been persisted."""
        message = msgspec.json.decode(data)
        self._messages.append(message)
        if callback is not None:
            callbacks.call(callback, None, message)
        return True

    def fast_path(self) -> FastPath | None:
        """None: every call is looked at."""
        return None

    def refuse(self, reason: str, error: Exception | None, callback: Callback | None = None) -> bool:
        """Count it; raise why, when ``strict``."""
        self.refused[reason] = self.refused.get(reason, 0) + 1
        if callback is not None:
            callbacks.call(callback, error, {})
        if error is not None and self.strict:
            raise error
        return False

    def counts(self) -> Mapping[str, int]:
        """As a client's."""
        return {"accepted": len(self._messages), **self.refused}

    def warm_up(self) -> None:
        """Nothing."""

    def flush(self, until: Until = "queued") -> Flush:  # noqa: ARG002  # nothing is under way
        """Complete at once."""
        return Done()

    def shut(self) -> None:
        """Nothing to give back."""


def _difference(wanted: Any, got: Any, path: str = "") -> str:
    """Where what was got lacks what was wanted; empty when it does not. Mappings may hold more."""
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
    """Capture the events of every client of this process, made before or within; one at a time."""
    captured = CapturedEvents(strict=strict)
    intake.divert(captured)
    try:
        yield captured
    finally:
        intake.divert(None)

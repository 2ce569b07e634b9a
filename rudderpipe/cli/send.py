"""The command ``rudderpipe send``, which sends the events of a file and waits for room in the ring."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

import msgspec

from rudderpipe.cli.backpressure import put
from rudderpipe.cli.progress import Progress
from rudderpipe.client import Client
from rudderpipe.errors import EventError, RingUnavailable
from rudderpipe.log_text import counted
from rudderpipe.messages import encode, foreign, wire
from rudderpipe.observe import account
from rudderpipe.process import runtime_dir
from rudderpipe.process.clock import Clock
from rudderpipe.ring import flusher_lock
from rudderpipe.ring import layout as at
from rudderpipe.ring.ring import Ring, find, open_ring
from rudderpipe.service.signals import EXIT_FAILED, EXIT_OK
from rudderpipe.settings import Settings
from rudderpipe.transports import flush
from rudderpipe.transports.ring import Pipe

KINDS = frozenset(("identify", "track", "page", "screen", "group", "alias"))
PIPES = 16
POLL_S = 0.05
SHOWN_REJECTIONS = 20
_decode = msgspec.json.Decoder(float_hook=encode.number).decode


class Summary(msgspec.Struct):
    """The JSON object that ``--json`` prints; ``rejected`` counts lines that are not events."""

    accepted: int = 0
    delivered: int = 0
    failed: int = 0
    rejected: int = 0
    seconds: float = 0.0


def send(settings: Settings, path: str, *, as_json: bool) -> int:
    """Send the events of a file; return exit code 1 when a line was rejected or an event failed, otherwise 0."""
    settings.require("write_key", "data_plane_url")
    clock = Clock()
    if settings.redis is not None:
        Client(settings=settings, strict=True).create_persistence_queue()  # raises when Redis cannot be used
    settings, _kept = _own_pipe(settings, clock)
    pipe, progress, summary = Pipe(settings, clock), Progress(), Summary()
    before = account.read(settings)
    started_s = clock.monotonic_s()

    def waits(reason: str) -> None:
        progress.show(f"{summary.accepted:,} accepted, waiting for room ({reason})")

    with _opened(path) as lines:
        for number, message in _messages(lines, summary):
            try:
                data = wire.from_fields(str(message["type"]), wire.fields_of_whole(message))
                put(pipe, data, waits)
            except EventError as error:
                _reject(summary, number, str(error))
                continue
            summary.accepted += 1
            if not number % 256:
                progress.show(f"{summary.accepted:,} accepted")
    _wait(pipe, settings, progress)
    after = account.read(settings)
    pipe.shut()
    if not summary.accepted and (ring := find(settings)):
        flusher_lock.close_unused(ring)
    progress.end()
    left_over = before.in_ring + before.queued
    summary.failed = after.failed - before.failed
    summary.delivered = after.delivered - before.delivered - left_over
    summary.seconds = round(clock.monotonic_s() - started_s, 3)
    _report(summary, left_over, as_json=as_json)
    if summary.failed and settings.redis is None:
        print(
            f"failed events are kept; to list them: rudderpipe failed list --pipe {settings.pipe_name}", file=sys.stderr
        )
    return EXIT_FAILED if summary.rejected or summary.failed else EXIT_OK


def _own_pipe(settings: Settings, clock: Clock) -> tuple[Settings, Ring | None]:
    """Return settings with a pipe that only this command uses, so that its account counts only this command's events.

    The pipe of an earlier run is used again. The pipe belongs to this command as long as the caller keeps the ring.
    """
    if settings.pipe is not None:
        return settings, None
    base = settings.pipe_name
    for number in range(PIPES):
        own = msgspec.structs.replace(settings, pipe=f"send-{base}-{number}")
        ring = open_ring(own, clock)
        if ring.locks.try_lock(at.LOCK_OWNER):
            return own, ring
    raise RingUnavailable(f"send-{base}", f"{PIPES} other commands are sending with the same settings")


def _opened(path: str) -> BinaryIO:
    return sys.stdin.buffer if path == "-" else open(path, "rb")  # noqa: PTH123  # closed by the caller's with


def _messages(lines: Iterable[bytes], summary: Summary) -> Iterator[tuple[int, dict[str, object]]]:
    """Yield the messages with the numbers of their lines, and reject the lines that hold none."""
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            message = _parsed(line)
        except RecursionError:
            _reject(summary, number, "is nested too deeply")
        except ArithmeticError:
            _reject(summary, number, "has a number whose exponent is too large")
        except ValueError:
            _reject(summary, number, "is not JSON")
        else:
            if type(message) is not dict:
                _reject(summary, number, "is not a JSON object")
            elif not isinstance(kind := message.get("type"), str) or kind not in KINDS:
                _reject(summary, number, f"type: must be one of {', '.join(sorted(KINDS))}")
            else:
                yield number, message


def _parsed(line: bytes) -> Any:
    try:
        return _decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return foreign.parsed(line)  # it also reads lone surrogates and integers of any size


def _wait(pipe: Pipe, settings: Settings, progress: Progress) -> None:
    log = runtime_dir.log_file(settings)
    while (
        not flush.wait_for(pipe.flush(), 1.0, Clock(), time.sleep)
        or (found := account.read(settings)).queued
        or found.in_ring
    ):
        now = account.read(settings)
        progress.show(
            f"{now.delivered:,} delivered, {now.in_ring:,} in ring, {now.queued:,} queued, {now.failed:,} failed; "
            f"see {log} for errors"
        )
        time.sleep(POLL_S)


def _reject(summary: Summary, number: int, reason: str) -> None:
    summary.rejected += 1
    if summary.rejected <= SHOWN_REJECTIONS:
        print(f"line {number}: {reason}", file=sys.stderr)
    if summary.rejected == SHOWN_REJECTIONS:
        print("further rejected lines are counted, but not printed", file=sys.stderr)


def _report(summary: Summary, left_over: int, *, as_json: bool) -> None:
    if left_over:
        print(f"also delivered: {counted(left_over, 'event')} of an earlier run", file=sys.stderr)
    if as_json:
        print(msgspec.json.encode(summary).decode())
        return
    rate = summary.delivered / summary.seconds if summary.seconds else 0.0
    print(
        f"{summary.accepted:,} accepted, {summary.delivered:,} delivered, {summary.failed:,} failed, "
        f"{counted(summary.rejected, 'line')} rejected; {summary.seconds:.1f} s, {rate:,.0f} events/s"
    )

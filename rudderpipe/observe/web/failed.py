"""The failed jobs of a pipe for the page: pages of them, one with its events, and what a person does with them."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Generator
from itertools import islice
from typing import Any

import msgspec

from rudderpipe.log_text import one_line
from rudderpipe.observe.failed_store import FailedStore, failed_jobs
from rudderpipe.observe.secrets_in_text import without_secrets
from rudderpipe.observe.web.download import Download
from rudderpipe.observe.web.request import Refused, Request
from rudderpipe.process.clock import Clock
from rudderpipe.queue.failed_jobs import AT_ONCE, SEARCHED_AT_MOST, FailedJob, Selection
from rudderpipe.settings import Settings

LIMIT, LIMIT_AT_MOST = 50, 200
REASON_SHOWN = 200
CHANGED_AT_MOST = 1000
"""Jobs that one call changes."""
CHANGING_S = 5.0
"""A call that has changed jobs for so long returns, and says that there are more."""
PATIENCE_S = 3.0
"""How long a call waits for Redis, or for room in the ring."""
_TYPES = frozenset(("track", "identify", "page", "screen", "group", "alias"))


class Wanted(msgspec.Struct, frozen=True):
    """The failed jobs that a request names: those of ``ids``, or all that have ``q`` and ``since_ms``.

    ``count`` is the number of these jobs, as it was typed. A call after the first one has the ``after`` of the
    call before, instead.
    """

    ids: list[str] | None = None
    everything: bool = msgspec.field(name="all", default=False)
    q: str | None = None
    since_ms: int | None = None
    count: int | None = None
    first: bool = False
    after: str | None = None


class Changed(msgspec.Struct, frozen=True):
    """What was done. While ``more`` is true, the call is repeated with ``after``."""

    changed: int
    left_alone: int
    """Jobs that another program retried, deleted or locked, or that are not as an SDK writes them."""
    more: bool
    after: str | None


class _Type(msgspec.Struct):
    type: Any = ""


class FailedPages:
    """The failed jobs of one pipe."""

    def __init__(self, settings: Settings, *, shows_events: bool) -> None:
        self._settings = settings
        self._shows_events = shows_events

    def page(self, request: Request) -> dict[str, Any]:
        """Return some failed jobs, newest first."""
        limit = min(max(request.number("limit") or LIMIT, 1), LIMIT_AT_MOST)
        selection = _selection(request.text("q"), request.number("since_ms"))
        with failed_jobs(self._settings, PATIENCE_S) as found:
            try:
                page = found.page(selection, request.text("after"), limit)
            except ValueError:
                raise Refused(400, "after is not the end of a page.") from None
        now_ms = Clock().time_ms()
        return {
            "jobs": [
                {
                    "id": one_line(job.id),
                    "failed_at_ms": job.failed_at_ms,
                    "age_s": max(0, now_ms - job.failed_at_ms) / 1000,
                    "events": job.events,
                    "reason": self._reason(job),
                    "readable": job.job is not None,
                }
                for job in page.jobs
            ],
            "next": page.next if page.next is None or page.next.isprintable() else None,
            "total": page.total,
            "total_events": None,
            "away": dict(found.away),
            "searched_at_most": SEARCHED_AT_MOST if selection.reason is not None else None,
        }

    def show(self, job_id: str) -> dict[str, Any]:
        """Return one failed job. Raise ``Refused`` if there is none with this id."""
        with failed_jobs(self._settings, PATIENCE_S) as found:
            job = next(found.find(Selection(ids=frozenset([job_id]))), None)
        if job is None:
            raise Refused(404, "No failed job has this id.")
        events = [bytes(event) for event in job.job.events] if job.job else []
        return {
            "id": one_line(job.id),
            "failed_at_ms": job.failed_at_ms,
            "reason": self._reason(job),
            "events": len(events),
            "readable": job.job is not None,
            "types": Counter(map(_type_of, events)),
            "messages": [self._message(event, job) for event in events] if self._shows_events else None,
        }

    def download(self, request: Request, ended: Callable[[], object]) -> Download:
        """Return the events of the selected jobs, oldest first, each on a line."""
        if not self._shows_events:
            raise Refused(403, "The events are not shown; the page must be started with --show-events.")
        ids = [each for text in request.query.get("ids", ()) for each in text.split(",") if each]
        selection = _selection(request.text("q"), request.number("since_ms"))
        if ids:
            selection = msgspec.structs.replace(selection, ids=frozenset(ids))
        return Download(self._lines(selection), ended)

    def _lines(self, selection: Selection) -> Generator[bytes, None, None]:
        with failed_jobs(self._settings, PATIENCE_S) as found:
            for job in found.find(selection):
                for event in job.job.events if job.job else ():
                    yield bytes(self._message(bytes(event), job)) + b"\n"

    def retry(self, wanted: Wanted) -> Changed:
        """Make jobs wait for delivery again. Raise ``Refused`` if they are not those that the person saw."""
        if wanted.first and self._settings.redis is None:
            raise Refused(400, "Without a queue, events that are retried cannot go before others.")

        def retry_piece(found: FailedStore, piece: list[FailedJob]) -> int:
            return found.retry(piece[::-1] if wanted.first else piece, first=wanted.first)

        with failed_jobs(self._settings, PATIENCE_S) as found:
            return _change(found, wanted, lambda piece: retry_piece(found, piece), newest_first=wanted.first)

    def delete(self, wanted: Wanted) -> Changed:
        """Delete jobs permanently. Raise ``Refused`` as ``retry`` does."""
        with failed_jobs(self._settings, PATIENCE_S) as found:
            return _change(found, wanted, lambda piece: found.remove([job.id for job in piece])[0])

    def _reason(self, job: FailedJob) -> str:
        key = job.job.write_key if job.job else ""
        return one_line(without_secrets(job.reason, self._settings, key), REASON_SHOWN - 1)

    def _message(self, event: bytes, job: FailedJob) -> msgspec.Raw:
        """Return an event on one line, without the write key, and null if it is not JSON."""
        try:
            msgspec.json.decode(event)
            line = msgspec.json.format(event, indent=-1) if b"\n" in event or b"\r" in event else event
        except (msgspec.MsgspecError, ValueError, RecursionError):
            return msgspec.Raw(b"null")
        key = job.job.write_key if job.job else ""
        return msgspec.Raw(without_secrets(line.decode(errors="replace"), self._settings, key).encode())


def _selection(reason: str | None, since_ms: int | None) -> Selection:
    if reason is not None and len(reason) > REASON_SHOWN:
        raise Refused(400, f"The text must not be longer than {REASON_SHOWN} characters.")
    return Selection(reason=reason or None, since_ms=since_ms)


def _change(
    found: FailedStore, wanted: Wanted, change: Callable[[list[FailedJob]], int], *, newest_first: bool = False
) -> Changed:
    """Change at most ``CHANGED_AT_MOST`` jobs, in pieces."""
    selection = _wanted_jobs(found, wanted)
    jobs = found.find(selection, newest_first=True) if newest_first else found.find(selection)
    ends_s, seen, done, last = time.monotonic() + CHANGING_S, 0, 0, None
    while piece := list(islice(jobs, AT_ONCE)):
        done += change(piece)
        seen, last = seen + len(piece), piece[-1]
        if seen >= CHANGED_AT_MOST or time.monotonic() > ends_s:
            break
    following = next(jobs, None) if last is not None else None
    if selection.ids is not None:
        return Changed(done, len(selection.ids) - done, more=False, after=None)
    if following is None or last is None:
        return Changed(done, seen - done, more=False, after=None)
    # Jobs of the same moment as the last one are looked at again, because only the moment orders them. When nothing
    # was changed, they are passed, so that jobs which cannot be changed do not come forever.
    step = 0 if done else 1
    since_ms, until_ms = selection.since_ms, selection.until_ms
    if newest_first:
        until_ms = last.failed_at_ms - step
    else:
        since_ms = last.failed_at_ms + step
    after = ":".join("" if each is None else str(each) for each in (since_ms, until_ms))
    return Changed(done, seen - done, more=True, after=after)


def _wanted_jobs(found: FailedStore, wanted: Wanted) -> Selection:
    if wanted.ids is not None:
        if wanted.everything or not 1 <= len(wanted.ids) <= CHANGED_AT_MOST:
            raise Refused(400, f"Choose 1 to {CHANGED_AT_MOST:,} jobs by ids, or all of them.")
        return Selection(ids=frozenset(wanted.ids))
    if not wanted.everything:
        raise Refused(400, "Choose jobs by ids, or all of them.")
    selection = _selection(wanted.q, wanted.since_ms)
    if wanted.after is not None:
        since_ms, until_ms = _bounds(wanted.after)
        return msgspec.structs.replace(selection, since_ms=since_ms, until_ms=until_ms)
    page = found.page(selection, None, 1)
    if selection.reason is not None and found.page(Selection(), None, 1).total > SEARCHED_AT_MOST:
        said = f"There are more than {SEARCHED_AT_MOST:,} failed jobs; use `rudderpipe failed` with --reason."
        raise Refused(400, said)
    if wanted.count != page.total:
        raise Refused(409, f"There are {page.total:,} such jobs now; look at them again.")
    newest = page.jobs[0].failed_at_ms if page.jobs else None  # jobs that fail from now on were not seen
    return msgspec.structs.replace(selection, until_ms=newest)


def _bounds(after: str) -> list[int | None]:
    since, colon, until = after.partition(":")
    try:
        if colon:
            return [int(each) if each else None for each in (since, until)]
    except ValueError:
        pass
    raise Refused(400, "after is not that of a call.")


def _type_of(event: bytes) -> str:
    try:
        name = msgspec.json.decode(event, type=_Type).type
    except (msgspec.MsgspecError, ValueError, RecursionError):
        name = ""
    return name if isinstance(name, str) and name in _TYPES else "other"

"""The command ``rudderpipe failed``, which lists, shows, retries, exports and deletes failed jobs."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import BinaryIO, TextIO

import msgspec

from rudderpipe.cli import local_time
from rudderpipe.cli.progress import Progress
from rudderpipe.flusher import dead_letters
from rudderpipe.log_text import counted, one_line
from rudderpipe.observe.failed_store import FailedStore
from rudderpipe.process.clock import iso_ms
from rudderpipe.queue.failed_jobs import AT_ONCE, FailedJob, Selection
from rudderpipe.service.signals import EXIT_FAILED, EXIT_OK, EXIT_UNAVAILABLE, EXIT_USAGE
from rudderpipe.settings import Settings


class Listed(msgspec.Struct, frozen=True):
    """The JSON object that ``list --json`` prints for each job."""

    id: str
    failed_at: str | None
    events: int
    bytes: int
    reason: str


class Shown(msgspec.Struct, frozen=True):
    """The JSON object that ``show --json`` prints; ``data`` is the beginning of data that cannot be read."""

    id: str
    failed_at: str | None
    reason: str
    events: list[msgspec.Raw] | None
    data: str | None


class Changed(msgspec.Struct, frozen=True):
    """The JSON object that ``retry``, ``delete`` and ``export`` print with ``--json``."""

    jobs: int
    events: int
    done: int
    """The jobs that are in line again, deleted or written; 0 with ``--dry-run``."""


def name_other_pipes(settings: Settings) -> None:
    """Print, in direct mode, which other pipes have dead letters, such as the pipe of a former write key."""
    if settings.redis is None:
        for pipe, count in dead_letters.of_other_pipes(settings).items():
            print(f"{count:,} more in pipe {pipe}; to list them: rudderpipe failed list --pipe {pipe}", file=sys.stderr)


def code_with_away(found: FailedStore, code: int) -> int:
    """Print which queues were left out, because they cannot be read. Return the exit code of the command."""
    for prefix, reason in found.away.items():
        print(f"rudderpipe: without the failed jobs of {prefix}, which cannot be read: {reason}", file=sys.stderr)
    return EXIT_UNAVAILABLE if found.away else code


def list_(found: FailedStore, selection: Selection, *, limit: int | None, as_json: bool) -> int:
    """Print a line for each selected job, oldest first, and the number of jobs and events. Return an exit code."""
    jobs = events = 0
    for job in found.find(selection):
        jobs += 1
        events += job.events
        if limit is not None and jobs > limit:
            continue
        if as_json:
            line = Listed(one_line(job.id), _iso(job), job.events, len(job.data), job.reason)
            print(msgspec.json.encode(line).decode())
        else:
            print(f"{one_line(job.id):>8}  {_time(job):23}  {counted(job.events, 'event'):12}  {one_line(job.reason)}")
    if not as_json:
        more = f", the first {limit:,} shown" if limit is not None and jobs > limit else ""
        print(f"{counted(jobs, 'failed job')}, {counted(events, 'event')}{more}")
    return EXIT_OK


def show(found: FailedStore, job_id: str, *, as_json: bool = False) -> int:
    """Print one job with its events, but without the write key. Return an exit code."""
    job = next(found.find(Selection(ids=frozenset([job_id]))), None)
    if job is None:
        return _none_of_that_id()
    if as_json:
        events = [msgspec.Raw(_line(bytes(event))) for event in job.job.events] if job.job else None
        data = None if job.job else job.data[:1000].decode(errors="replace")
        print(msgspec.json.encode(Shown(one_line(job.id), _iso(job), job.reason, events, data)).decode())
        return EXIT_OK
    print(f"id       {one_line(job.id)}\nfailed   {_time(job)}\nreason   {one_line(job.reason)}")
    if job.job is None:
        print(f"data     {len(job.data):,} bytes, which are not a job of a RudderStack SDK:")
        print(one_line(job.data[:1000].decode(errors="replace"), 1000))
        return EXIT_OK
    print(f"events   {job.events:,}")
    for event in job.job.events:
        print(_line(bytes(event)).decode(errors="replace"))
    return EXIT_OK


def retry(
    found: FailedStore,
    selection: Selection,
    *,
    first: bool,
    dry_run: bool,
    write_key: str | None = None,
    as_json: bool = False,
) -> int:
    """Make the selected jobs wait again, oldest first; with ``first``, before the waiting jobs. Return an exit code.

    With ``write_key``, they are sent with this key instead of their own.
    """
    jobs = found.find(selection, newest_first=first and not dry_run)

    def retry_piece(piece: list[FailedJob]) -> int:
        return found.retry(piece[::-1] if first else piece, first=first, write_key=write_key)

    changed = _change(jobs, None if dry_run else retry_piece, "in line again")
    return _report_change(changed, selection, "retry", "in line again", dry_run=dry_run, as_json=as_json)


def delete(found: FailedStore, selection: Selection, *, dry_run: bool, as_json: bool = False) -> int:
    """Delete the selected jobs permanently. Return an exit code."""

    def delete_piece(piece: list[FailedJob]) -> int:
        return found.remove([job.id for job in piece])[0]

    changed = _change(found.find(selection), None if dry_run else delete_piece, "deleted")
    return _report_change(changed, selection, "delete", "deleted", dry_run=dry_run, as_json=as_json)


def _change(jobs: Iterator[FailedJob], change: Callable[[list[FailedJob]], int] | None, done: str) -> Changed:
    """Change the jobs piece by piece, or with None only count them, and show the progress."""
    progress, changed = Progress(), Changed(0, 0, 0)
    for piece in _pieces(jobs):
        now = 0 if change is None else change(piece)
        events = sum(job.events for job in piece)
        changed = Changed(changed.jobs + len(piece), changed.events + events, changed.done + now)
        if change is not None:
            progress.show(f"{counted(changed.done, 'job')} {done}")
    progress.end()
    return changed


def _report_change(
    changed: Changed, selection: Selection, verb: str, done: str, *, dry_run: bool, as_json: bool
) -> int:
    """Print what was changed, or would be. Return an exit code."""
    if not changed.jobs and selection.ids is not None:
        return _none_of_that_id()
    events = counted(changed.events, "event")
    would = f"would {verb} {counted(changed.jobs, 'failed job')}, {events}"
    did = f"{counted(changed.done, 'failed job')} {done}, {events}"
    _print_changed(changed, would if dry_run else did, as_json=as_json)
    left_alone = 0 if dry_run else changed.jobs - changed.done
    return _left_alone(left_alone) if left_alone else EXIT_OK


def export(found: FailedStore, selection: Selection, path: str, *, dry_run: bool, as_json: bool = False) -> int:
    """Write the events of the selected jobs as NDJSON, which ``rudderpipe send`` reads. Return an exit code.

    The jobs stay in the store.
    """
    if path != "-" and Path(path).exists():
        print(f"rudderpipe: {path} already exists; give another name", file=sys.stderr)
        return EXIT_USAGE
    if path != "-" and not os.access(Path(path).parent, os.W_OK):
        print(f"rudderpipe: {path} cannot be written: no directory, or no right to write there", file=sys.stderr)
        return EXIT_USAGE
    progress, jobs, events, unreadable = Progress(), 0, 0, 0
    with _written(path, dry_run=dry_run) as file:
        for job in found.find(selection):
            jobs += 1
            events += job.events
            unreadable += job.job is None
            for event in job.job.events if job.job else []:
                if file is not None:
                    file.write(_line(bytes(event)) + b"\n")
            progress.show(f"{counted(events, 'event')} written")
    progress.end()
    if not jobs and selection.ids is not None:
        return _none_of_that_id()
    did = "would write" if dry_run else "wrote"
    said = f"{did} {counted(events, 'event')} of {counted(jobs - unreadable, 'failed job')}"
    changed = Changed(jobs, events, 0 if dry_run else jobs - unreadable)
    _print_changed(changed, said, as_json=as_json, file=sys.stdout if as_json and path != "-" else sys.stderr)
    if unreadable:
        print(f"{counted(unreadable, 'job')} not written: not in the form of a RudderStack SDK's job", file=sys.stderr)
    return EXIT_FAILED if unreadable else EXIT_OK


def _print_changed(changed: Changed, said: str, *, as_json: bool, file: TextIO | None = None) -> None:
    print(msgspec.json.encode(changed).decode() if as_json else said, file=file)


@contextmanager
def _written(path: str, *, dry_run: bool) -> Iterator[BinaryIO | None]:
    """Yield a file that only its owner may read, and that gets its name only when it is complete."""
    if dry_run:
        yield None
        return
    if path == "-":
        yield sys.stdout.buffer
        return
    target = Path(path)
    part = target.with_name(f"{target.name}.part")
    part.unlink(missing_ok=True)
    with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:  # noqa: PTH123  # with a mode
        yield file
        file.flush()
        os.fsync(file.fileno())
    part.replace(target)


def _pieces(jobs: Iterator[FailedJob]) -> Iterator[list[FailedJob]]:
    while piece := list(islice(jobs, AT_ONCE)):
        yield piece


def _time(job: FailedJob) -> str:
    """Return the time in the zone of the reader; a hyphen if the job has none, or none that a calendar has."""
    try:
        return local_time.shown(job.failed_at_ms) if job.failed_at_ms else "-"
    except (ValueError, OverflowError, OSError):  # another program may have stored any number
        return "-"


def _iso(job: FailedJob) -> str | None:
    try:
        return iso_ms(job.failed_at_ms) if job.failed_at_ms else None
    except (ValueError, OverflowError, OSError):  # as above
        return None


def _line(event: bytes) -> bytes:
    return msgspec.json.format(event, indent=-1) if b"\n" in event or b"\r" in event else event


def _none_of_that_id() -> int:
    print("rudderpipe: no failed job has this id", file=sys.stderr)
    return EXIT_FAILED


def _left_alone(jobs: int) -> int:
    print(
        f"rudderpipe: {counted(jobs, 'job')} unchanged: retried, deleted or locked by another program, "
        "or not a job of a RudderStack SDK",
        file=sys.stderr,
    )
    return EXIT_FAILED

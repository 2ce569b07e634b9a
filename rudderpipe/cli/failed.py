"""``rudderpipe failed``: look at the jobs that failed, send them again, take their events out, delete them."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import datetime, timezone
from itertools import islice
from pathlib import Path
from typing import BinaryIO, Protocol

import msgspec

from rudderpipe.cli.progress import Progress
from rudderpipe.cli.spooled import SpooledJobs
from rudderpipe.flusher import dead_letters
from rudderpipe.log_text import one_line
from rudderpipe.process.clock import Clock
from rudderpipe.queue.failed_jobs import AT_ONCE, FailedJob, FailedJobs, Selection
from rudderpipe.queue.queue import Queue
from rudderpipe.service.signals import EXIT_FAILED, EXIT_OK, EXIT_USAGE
from rudderpipe.settings import Settings


class Listed(msgspec.Struct, frozen=True):
    """What ``list --json`` prints for each job."""

    id: str
    failed_at: str | None
    events: int
    bytes: int
    reason: str


class FailedStore(Protocol):
    """Where failed jobs rest: the queue's failed set, or direct mode's spool."""

    def find(self, selection: Selection, *, newest_first: bool = False) -> Iterator[FailedJob]:
        """Those of the selection, oldest first; jobs that fail meanwhile are not among them."""

    def retry(self, chosen: Sequence[FailedJob], *, first: bool = False) -> int:
        """At most ``AT_ONCE`` wait again, in this order; how many really did."""

    def remove(self, ids: Sequence[str]) -> tuple[int, int]:
        """Delete at most 1,000 for good; how many jobs and how many events that were."""


@contextmanager
def failed_jobs(settings: Settings) -> Iterator[FailedStore]:
    """The failed jobs of the pipe that these settings name."""
    if settings.redis is None:
        with closing(SpooledJobs(settings, Clock())) as spooled:
            yield spooled
        return
    with closing(Queue(settings, Clock())) as queue:
        yield FailedJobs(queue)


def name_other_pipes(settings: Settings) -> None:
    """Print, in direct mode, which other pipes have failed batches: those of a former write key, for example."""
    if settings.redis is None:
        for pipe, count in dead_letters.of_other_pipes(settings).items():
            print(f"{count:,} more of the pipe {pipe}: rudderpipe failed list --pipe {pipe}", file=sys.stderr)


def list_(found: FailedStore, selection: Selection, *, limit: int | None, as_json: bool) -> int:
    """Print a line for each, oldest first, and how many there are."""
    jobs = events = 0
    for job in found.find(selection):
        jobs += 1
        events += job.events
        if limit is not None and jobs > limit:
            continue
        line = Listed(one_line(job.id), _time(job), job.events, len(job.data), job.reason)
        if as_json:
            print(msgspec.json.encode(line).decode())
        else:
            print(f"{line.id:>8}  {line.failed_at or '-':24}  {line.events:>6} events  {one_line(line.reason)}")
    if not as_json:
        more = f", the first {limit:,} shown" if limit is not None and jobs > limit else ""
        print(f"{jobs:,} failed jobs, {events:,} events{more}")
    return EXIT_OK


def show(found: FailedStore, job_id: str) -> int:
    """Print one with its events; the write key is left out."""
    job = next(found.find(Selection(ids=frozenset([job_id]))), None)
    if job is None:
        return _none_of_that_id()
    print(f"id       {one_line(job.id)}\nfailed   {_time(job) or '-'}\nreason   {one_line(job.reason)}")
    if job.job is None:
        print(f"data     {len(job.data):,} bytes that are no job of a RudderStack SDK:")
        print(one_line(job.data[:1000].decode(errors="replace"), 1000))
        return EXIT_OK
    print(f"events   {job.events:,}")
    for event in job.job.events:
        print(_line(bytes(event)).decode(errors="replace"))
    return EXIT_OK


def retry(found: FailedStore, selection: Selection, *, first: bool, dry_run: bool) -> int:
    """Put them back in line, oldest first; ahead of what waits when ``first``."""
    progress, back, jobs, events = Progress(), 0, 0, 0
    for piece in _pieces(found.find(selection, newest_first=first and not dry_run)):
        jobs += len(piece)
        events += sum(job.events for job in piece)
        if not dry_run:
            back += found.retry(piece[::-1] if first else piece, first=first)
            progress.show(f"{back:,} jobs are in line again")
    progress.end()
    if not jobs and selection.ids is not None:
        return _none_of_that_id()
    if dry_run:
        print(f"would retry {jobs:,} failed jobs, {events:,} events")
        return EXIT_OK
    print(f"{back:,} failed jobs are in line again, {events:,} events")
    return EXIT_OK if back == jobs else _left_alone(jobs - back)


def delete(found: FailedStore, selection: Selection, *, dry_run: bool) -> int:
    """Delete them for good."""
    progress, removed, jobs, events = Progress(), 0, 0, 0
    for piece in _pieces(found.find(selection)):
        jobs += len(piece)
        events += sum(job.events for job in piece)
        if not dry_run:
            removed += found.remove([job.id for job in piece])[0]
            progress.show(f"{removed:,} jobs deleted")
    progress.end()
    if not jobs and selection.ids is not None:
        return _none_of_that_id()
    if dry_run:
        print(f"would delete {jobs:,} failed jobs, {events:,} events")
        return EXIT_OK
    print(f"{removed:,} failed jobs deleted, {events:,} events")
    return EXIT_OK if removed == jobs else _left_alone(jobs - removed)


def export(found: FailedStore, selection: Selection, path: str, *, dry_run: bool) -> int:
    """Write their events as NDJSON that ``rudderpipe send`` reads; the jobs stay where they are."""
    if path != "-" and Path(path).exists():
        print(f"rudderpipe: {path} is there already, give another name", file=sys.stderr)
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
            progress.show(f"{events:,} events written")
    progress.end()
    if not jobs and selection.ids is not None:
        return _none_of_that_id()
    did = "would write" if dry_run else "wrote"
    print(f"{did} {events:,} events of {jobs - unreadable:,} failed jobs", file=sys.stderr)
    if unreadable:
        print(f"{unreadable:,} jobs hold data that is no job of a RudderStack SDK: not written", file=sys.stderr)
    return EXIT_FAILED if unreadable else EXIT_OK


@contextmanager
def _written(path: str, *, dry_run: bool) -> Iterator[BinaryIO | None]:
    """A file that is there only once it is whole, for its owner alone."""
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


def _time(job: FailedJob) -> str | None:
    if not job.failed_at_ms:
        return None
    return datetime.fromtimestamp(job.failed_at_ms / 1000, timezone.utc).isoformat(timespec="milliseconds")[:23] + "Z"


def _line(event: bytes) -> bytes:
    return msgspec.json.format(event, indent=-1) if b"\n" in event or b"\r" in event else event


def _none_of_that_id() -> int:
    print("rudderpipe: no failed job has that id", file=sys.stderr)
    return EXIT_FAILED


def _left_alone(jobs: int) -> int:
    print(
        f"rudderpipe: {jobs:,} were left alone: retried, deleted or locked by somebody else meanwhile", file=sys.stderr
    )
    return EXIT_FAILED

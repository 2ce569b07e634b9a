"""Calls of a sender that a proxy holds up and releases later. No event is lost, doubled or stranded."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import pytest

from native_tests.gate import Gate
from native_tests.redis_queue_server import P, RedisQueueServer
from rudderpipe import settings as settings_module
from rudderpipe.delivery.data_plane import DataPlane
from rudderpipe.delivery.dispatcher import Dispatcher
from rudderpipe.queue import job, scripts
from rudderpipe.queue.lease import Lease
from rudderpipe.queue.queue import Queue
from rudderpipe.sender.sender import Sender
from rudderpipe.sender.state import SenderState
from rudderpipe.testing.redis_server import RedisServer
from tests.test_sender_answers import DownAtFirst

ANSWER_S = 0.3
"""How long the sender waits for an answer. Each case waits as long for the call that is held."""
STEPS = 10_000
SCRIPTS = ["take_jobs", "complete_jobs", "fail_job", "split_job", "retry_later"]
ALONE = ["recover_active", "take_lease", "promote_delayed"]
"""The scripts that only the single sender of a queue calls, or that several senders need not repeat."""


@pytest.fixture(name="server", scope="module")
def _server() -> Iterator[RedisServer]:
    with tempfile.TemporaryDirectory(prefix="rp-") as directory, RedisServer(Path(directory)) as server:
        yield server


@pytest.fixture(name="queue_server")
def _queue_server(server: RedisServer) -> Iterator[RedisQueueServer]:
    queue_server = RedisQueueServer(server)
    yield queue_server
    queue_server.close()


@pytest.mark.parametrize("before", [True, False], ids=["late", "executed"])
@pytest.mark.parametrize(
    ("script", "several"),
    [*((name, False) for name in SCRIPTS + ALONE), *((name, True) for name in [*SCRIPTS, "sweep_stalled"])],
)
def test_a_late_call_of_a_sender_changes_nothing(
    queue_server: RedisQueueServer, script: str, before: bool, several: bool
) -> None:
    """The sender gives up waiting for the answer and goes on over another connection before the call arrives."""
    producer, gate, clock = queue_server.queue(), Gate(queue_server.server), queue_server.clock
    explicit = {"redis": gate.address, "is_multi_processor": several, "max_jobs_per_request": 2}
    settings = settings_module.load(explicit, environment={})
    queue, plane = Queue(settings, clock, answer_s=ANSWER_S), DownAtFirst("guilty")
    lease = None if several else Lease(queue, settings.lease_ms, "me 1 0", lambda _: False)
    state = SenderState(clock.monotonic_s(), settings.stall_timeout_s)
    dispatcher = Dispatcher(cast(DataPlane, plane), settings, clock)
    sender = Sender(queue, [dispatcher], lease, settings, clock, state=state)

    def add(*users: str) -> None:
        events = b",".join(b'{"userId":"%b"}' % user.encode() for user in users)
        producer.add(7, [(job.build(events, "KEY", "t", 7), len(users))], {}, [])

    def work_until(condition: Callable[[], bool]) -> None:
        for _ in range(STEPS):
            sender.work()
            clock.now_s += 0.1
            if condition():
                return
        raise AssertionError(f"not within {STEPS} steps of the sender: {condition.__name__}")

    def is_reached() -> bool:
        return gate.reached.is_set()

    def is_settled() -> bool:
        if several:  # the sweep waits for these two in real time
            queue_server.interval_passes()
            names = [name for name in queue_server.view().active if name not in {held.id for held in state.held}]
            queue_server.lapse(*names)
        return not queue_server.client.exists(f"{P}wait", f"{P}active")

    for name in scripts.NAMES:
        queue_server.client.script_load(scripts.source(name))
    for name in "abc":
        add(name)
    add("x", "guilty", "y")
    gate.stop(script, before=before)
    work_until(is_reached)
    work_until(is_settled)
    for name in "def":
        add(name)
    gate.release(queue_server.client)
    work_until(is_settled)

    accepted = plane.accepted()
    assert sorted(accepted) == sorted("abcdefxy")
    assert several or [name for name in accepted if name in "abcdef"] == list("abcdef")
    assert len(queue_server.view().failed) == 1
    assert queue_server.view().locks == {}
    counts = producer.counts(7)
    assert (counts.events_queued, counts.events_delivered, counts.events_failed) == (0, 8, 1)
    sender.close()
    gate.close()

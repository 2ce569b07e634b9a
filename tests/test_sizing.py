"""The sizes in the page about scaling are what the simulation makes of the measured costs."""

from __future__ import annotations

import pytest

from bench import sizing
from bench.sizing import Cost, Costs, Installation, Simulation

COSTS = Costs(
    producer_us=3.0,
    flusher=Cost(100e-6, 2e-6),
    redis=Cost(30e-6, 2e-6),
    sender=Cost(500e-6, 1e-6),
    memory_bytes=600.0,
)
BUSY = Installation(hosts=20, queues=4, lanes=2)


def test_the_page_is_what_the_newest_results_make() -> None:
    """Sizes in the page may not differ from the simulated ones. `python -m bench.sizing --write` makes them."""
    assert sizing.PAGE.read_text() == sizing.current()


def test_a_cost_explains_what_was_measured() -> None:
    """The measured costs are of calls with few events and of calls with many."""
    cost = Cost.of(few_us=10.0, many_us=3.0)

    assert cost.of_call(sizing.FEW) / sizing.FEW == pytest.approx(10e-6)
    assert cost.of_call(1_000_000) / 1_000_000 == pytest.approx(3e-6, rel=0.01)


def test_a_simulated_queue_does_the_work_of_its_events() -> None:
    """The events take as much CPU as they cost, and none is lost or invented."""
    found = Simulation(COSTS, BUSY).run()
    rate, calls = BUSY.rate / BUSY.queues, BUSY.hosts / BUSY.interval_s

    assert found.requests_per_s * found.request_events == pytest.approx(rate, rel=0.05)
    cpu = rate * COSTS.sender.event_s + found.requests_per_s * COSTS.sender.call_s
    assert found.sender_used == pytest.approx(cpu, rel=0.05)
    cpu = rate * COSTS.redis.event_s + (calls + found.requests_per_s) * COSTS.redis.call_s
    assert found.redis_used == pytest.approx(cpu, rel=0.05)


def test_a_simulated_event_waits_for_its_batch_and_for_the_response() -> None:
    """With one host the batch is the longest wait, and about half of it is the median."""
    slow = Installation(hosts=1, queues=100, lanes=1)
    found = Simulation(COSTS, slow).run()

    assert found.late_ms(0.5) == pytest.approx((slow.interval_s / 2 + sizing.RESPONSE_S) * 1000, rel=0.25)
    assert found.late_ms(0.99) < (1.1 * slow.interval_s + 3 * sizing.RESPONSE_S) * 1000


def test_a_longer_outage_leaves_a_backlog_for_longer() -> None:
    """The sender needs the time in which it can send more than comes in."""
    short, long = (Simulation(COSTS, BUSY, outage_s=seconds).run().drained_s for seconds in (20.0, 60.0))

    room = sizing.best_rate(COSTS, BUSY.lanes, 3_900_000, sizing.RESPONSE_S) - BUSY.rate / BUSY.queues
    assert long - short == pytest.approx(40.0 * BUSY.rate / BUSY.queues / room, rel=0.25)

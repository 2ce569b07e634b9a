"""Whether a flusher is alive and ready, decided from its state alone."""

from __future__ import annotations

from rudderpipe.flusher.state import FlusherState, healthz, readyz, stalled


def test_a_flusher_is_stalled_when_its_loop_or_its_due_events_stand_still() -> None:
    """Only then can a restart help."""
    state = FlusherState(100.0, stall_timeout_s=10)
    state.ended(105.0, moved=True, waiting=0, rings=1)
    assert stalled(state.vitals(114.9)) == ""
    assert stalled(state.vitals(115.0)) == "no cycle has ended for 10 s"
    state.begun(114.0)
    assert stalled(state.vitals(114.5)) == ""

    state.ended(115.0, moved=False, waiting=7, rings=1)

    assert stalled(state.vitals(115.0)) == "events are due, and none has left a ring for 10 s"
    response = healthz(state.vitals(115.0))
    assert response.status == 503
    assert response.body == {
        "status": "stalled",
        "reason": "events are due, and none has left a ring for 10 s",
        "waiting_events": 7,
        "rings": 1,
        "stopping": False,
        "worked_ago_s": 0.0,
        "moved_ago_s": 10.0,
    }
    state.ended(115.0, moved=True, waiting=0, rings=1)
    assert healthz(state.vitals(115.0)).status == 200


def test_a_flusher_is_ready_from_when_it_serves_until_it_stops() -> None:
    """A container that starts waits for it, and one that ends is taken out."""
    state = FlusherState(100.0, stall_timeout_s=10)
    assert readyz(state.vitals(100.0)).status == 503
    state.serves = True
    assert readyz(state.vitals(200.0)).status == 200  # liveness is another matter
    state.stopping = True
    assert readyz(state.vitals(200.0)).status == 503

"""The logs of real flushers and senders, in both forms, and where they are said to be."""

from __future__ import annotations

import msgspec

from native_tests.processes import Processes, wait_until
from rudderpipe.testing.data_plane import Misbehaviour
from rudderpipe.testing.redis_server import RedisServer

KEY = "s3cr3t-key"
PASSWORD = "pa55word"


def test_json_logs_of_autostarted_processes(processes: Processes, redis_server: RedisServer) -> None:
    """Each line is an object that says whose it is; no secret is in them; ``status`` names the file."""
    redis_server.text_client().config_set("requirepass", PASSWORD)
    url = redis_server.url.replace("unix://", f"unix://:{PASSWORD}@")
    processes.explicit |= {"write_key": KEY, "redis": url, "log_format": "json", "flush_interval_ms": 0}
    processes.plane.misbehaviour = Misbehaviour(400)
    client = processes.client()
    assert client.track("u", "refused")
    wait_until(lambda: processes.status().events.failed == 1)
    log = processes.status_json()["log"]
    client.shutdown()
    wait_until(lambda: "sender ended" in processes.log() and "flusher ended" in processes.log())

    entries = [msgspec.json.decode(line) for line in processes.log().splitlines()]

    assert log == f"{processes.explicit['runtime_dir']}/{processes.settings.pipe_name}.log"
    said = {(entry["component"], entry["msg"]) for entry in entries}
    assert said >= {(name, f"{name} {what}") for name in ("flusher", "sender") for what in ("started", "ended")}
    (failed,) = [entry for entry in entries if entry["msg"].startswith("a job failed")]
    assert (failed["level"], failed["events"], failed["queue"]) == ("ERROR", 1, "rudder:rudderEventsQueue")
    assert all(entry["pipe"] == processes.settings.pipe_name for entry in entries if entry["component"] == "flusher")
    assert KEY not in processes.log()
    assert PASSWORD not in processes.log()


def test_an_operators_process_logs_its_start_and_its_end(processes: Processes) -> None:
    """To standard error, in the form of its option."""
    flusher = processes.start("-m", "rudderpipe.flusher", "--log-format", "json", stderr=-1)
    assert flusher.stderr is not None
    first = msgspec.json.decode(flusher.stderr.readline())
    second = msgspec.json.decode(flusher.stderr.readline())
    flusher.terminate()
    last = msgspec.json.decode(flusher.stderr.read().splitlines()[-1])

    assert [entry["msg"] for entry in (first, second, last)] == ["serving", "flusher started", "flusher ended"]
    assert (second["component"], second["pipe"], second["lingers"]) == ("flusher", processes.settings.pipe_name, False)
    assert flusher.wait() == 0

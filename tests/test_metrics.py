"""The metrics: the table, the text, and what they say about a pipe.

``python -m tests.test_metrics`` writes docs/metrics.md anew.
"""

from __future__ import annotations

import asyncio
import re
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from rudderpipe import Client
from rudderpipe.cli import main
from rudderpipe.contrib.metrics import asgi_application, django_view, flask_view, wsgi_application
from rudderpipe.encoder import encode
from rudderpipe.observe import metrics
from rudderpipe.observe.cached import Cached
from rudderpipe.observe.metrics import exposition, of_pipe, table
from rudderpipe.observe.metrics.table import METRICS, Metric
from rudderpipe.observe.metrics.values import Values
from rudderpipe.observe.reader import Reader
from rudderpipe.process.clock import Clock, iso_ms
from rudderpipe.ring import flusher_lock, location, memory
from rudderpipe.ring import layout as at
from rudderpipe.ring.consumer import Consumer
from rudderpipe.ring.ring import Ring, open_ring
from rudderpipe.settings import Settings
from tests.fakes import FakeClock, producer_of, settings_of

prometheus: Any = pytest.importorskip("prometheus_client", reason="needs the extra metrics")
parser: Any = pytest.importorskip("prometheus_client.parser", reason="needs the extra metrics")
openmetrics: Any = pytest.importorskip("prometheus_client.openmetrics.parser", reason="needs the extra metrics")

PAGE = Path(__file__).parent.parent / "docs" / "metrics.md"
ROW = "| `{name}` | {kind} | {labels} | {help} |"
SECTIONS: Mapping[table.Source, str] = {
    "all": "About each program",
    "ring": "About the rings of a pipe",
    "flusher": "What a flusher counts",
    "queue": "About the queue in Redis",
    "redis": "About the calls to Redis",
    "plane": "About the data plane",
    "sender": "About a sender",
    "process": "About a process",
}


def _labels(metric: Metric) -> str:
    each = [
        f"`{name}`: {', '.join(metric.labels[name])}" if metric.labels.get(name) else f"`{name}`"
        for name in metric.label_names
    ]
    if metric.bounds:
        each.append(f"`le`: {', '.join(f'{bound:g}' for bound in metric.bounds)}")
    return "; ".join(each)


def page() -> str:
    """Return the tables of docs/metrics.md as the code has them."""
    lines = []
    for source, title in SECTIONS.items():
        lines += [f"## {title}", "", f"Exported by: {table.SHOWN_BY[source]}.", ""]
        lines += ["| metric | type | labels | meaning |", "| --- | --- | --- | --- |"]
        lines += [
            ROW.format(name=metric.name, kind=metric.kind, labels=_labels(metric), help=metric.help)
            for metric in METRICS
            if metric.source == source
        ]
        lines.append("")
    return "\n".join(lines)


def test_the_page_is_made_of_the_table() -> None:
    """``python -m tests.test_metrics`` writes it."""
    assert PAGE.read_text().endswith(page())


def test_every_metric_has_a_name_that_tools_accept() -> None:
    """A base unit, _total for counters alone, and no family whose name is that of another one's samples."""
    families = [metric.name.removesuffix("_total") for metric in METRICS]

    assert len(set(families)) == len(families)
    for metric in METRICS:
        assert re.fullmatch(r"(rudderpipe|process)_[a-z]+(_[a-z]+)*", metric.name)
        assert metric.name.endswith("_total") is (metric.kind == "counter")
        assert not metric.name.endswith(("_bucket", "_sum", "_count", "_created", "_ms", "_kb"))
        assert bool(metric.bounds) is (metric.kind == "histogram")
        assert list(metric.bounds) == sorted(set(metric.bounds))
        assert metric.help.endswith(".")


def test_no_label_holds_what_may_have_any_number_of_values_or_is_secret() -> None:
    """Each pid or event name would be a time series for ever."""
    named = {name for metric in METRICS for name in metric.label_names}

    assert named.isdisjoint({"pid", "job", "user", "event", "url", "key", "write_key", "host", "slot"})


@pytest.fixture(name="settings")
def _settings(tmp_path: Path) -> Settings:
    return settings_of(tmp_path, ring_bytes=1 << 20, max_internal_queue_size=1000, spool_dir=str(tmp_path))


@pytest.fixture(name="clock")
def _clock() -> FakeClock:
    return FakeClock()


def numbers(values: Values) -> dict[str, float]:
    """Return each value by its name and its labels, without the first one."""
    found: dict[str, float] = {}
    for each in values.as_json():
        metric = table.BY_NAME[each["name"]]
        labels = [each["labels"][name] for name in metric.labels]
        found[" ".join((metric.name.removeprefix("rudderpipe_"), *labels))] = each["value"]
    return found


def seen(reader: Reader) -> dict[str, float]:
    """Return what the rings show now."""
    return numbers(of_pipe.of_rings(reader.read()))


def event(clock: FakeClock) -> bytes:
    """Return an event that is made now."""
    return encode({"originalTimestamp": iso_ms(clock.time_ms())})


def test_what_a_pipe_without_a_ring_shows(settings: Settings, clock: FakeClock) -> None:
    """Zeros from the start, so that the first refusal is an increase, and no time that is not known."""
    found = seen(Reader(settings, clock))

    refused = {f"events_refused_total {reason}": 0 for reason in at.REFUSALS}
    assert {name: number for name, number in found.items() if "refused" in name} == refused
    assert (found["events_accepted_total"], found["ring_events"], found["account_balanced"]) == (0, 0, 1)
    assert {f"events_left_total {outcome}" for outcome in table.LEFT} <= found.keys()
    assert "flusher_heartbeat_timestamp_seconds" not in found


def test_what_a_ring_shows(settings: Settings, ring: Ring, clock: FakeClock) -> None:
    """Its events, the age of the oldest one, its flusher and its refusals."""
    producer = producer_of(ring, clock)
    for _ in range(3):
        producer.append(event(clock))
    at.bump(ring.words, ring.layout.slot(0) + at.S_REFUSED + at.REFUSALS.index("full"), 2)
    flusher_lock.take(ring, clock)
    clock.now_s += 4

    found = seen(Reader(settings, clock, is_flusher=True))

    expected = {
        "events_accepted_total": 3,
        "events_refused_total full": 2,
        "events_refused_total invalid": 0,
        "ring_events": 3,
        "ring_capacity_events": 1000,
        "ring_blocks used": 1,
        "producers": 1,
        "flusher_starts_total": 1,
    }
    assert {name: found[name] for name in expected} == expected
    assert found["ring_oldest_event_age_seconds"] == pytest.approx(4)
    assert found["flusher_heartbeat_timestamp_seconds"] == pytest.approx(clock.time_ms() / 1000 - 4)


def test_a_ring_that_no_flusher_has_served_has_the_heartbeat_of_its_beginning(
    settings: Settings, ring: Ring, clock: FakeClock
) -> None:
    """Otherwise no alert could see that events wait and that a flusher never came."""
    producer_of(ring, clock).append(event(clock))
    clock.now_s += 60

    found = seen(Reader(settings, clock))

    assert found["flusher_heartbeat_timestamp_seconds"] == found["ring_created_timestamp_seconds"]


def test_counters_never_fall_when_a_ring_ends(settings: Settings, clock: FakeClock) -> None:
    """A new ring begins at 0, and its pipe goes on. What happened after the last scrape is not lost either."""
    reader = Reader(settings, clock)
    first = open_ring(settings, clock)
    producer = producer_of(first, clock)
    producer.append(event(clock))
    assert seen(reader)["events_accepted_total"] == 1
    producer.append(event(clock))
    flusher_lock.take(first, clock)
    reader.ended(first)
    memory.remove(first.segment.name)
    assert seen(reader)["events_accepted_total"] == 2

    second = open_ring(settings, clock)
    try:
        producer_of(second, clock).append(event(clock))
        found = seen(reader)
    finally:
        memory.remove(second.segment.name)

    assert (found["events_accepted_total"], found["ring_events"], found["flusher_starts_total"]) == (3, 1, 1)


def test_events_that_left_are_told_apart(settings: Settings, ring: Ring, clock: FakeClock) -> None:
    """Delivered, or failed; an event that failed and arrived later does not make a counter fall."""
    producer, consumer = producer_of(ring, clock), Consumer(ring)
    for _ in range(5):
        producer.append(event(clock))
    for counter, count in ((at.H_DELIVERED, 2), (at.H_FAILED, 3)):
        consumer.refresh()
        batch = consumer.next_batch(count, 1_000_000)
        assert batch is not None
        consumer.release([batch], counter)
    ring.words[at.H_RECOVERED] = 1

    found = seen(Reader(settings, clock))

    left = {name: found[f"events_left_total {name}"] for name in table.LEFT}
    assert left == {"queued": 0, "delivered": 2, "failed": 3, "corrupt": 0}
    assert found["events_recovered_total"] == 1


def test_the_text_can_be_parsed_in_both_forms(settings: Settings, ring: Ring) -> None:
    """0.0.4 without a header, OpenMetrics if the client asks for it."""
    plain = metrics.text(settings)
    modern = metrics.text(settings, "application/openmetrics-text;version=1.0.0,text/plain;q=0.5")

    assert plain.content_type == "text/plain; version=0.0.4; charset=utf-8"
    assert modern.content_type.startswith("application/openmetrics-text; version=1.0.0")
    names = {metric.name for metric in METRICS}
    for found in (
        list(parser.text_string_to_metric_families(plain.content.decode())),
        list(openmetrics.text_string_to_metric_families(modern.content.decode())),
    ):
        assert {sample.name for family in found for sample in family.samples} <= names
        assert [s.value for f in found for s in f.samples if s.name == "rudderpipe_ring_capacity_events"] == [1000]


def test_a_registry_that_exists_takes_the_collector(settings: Settings, ring: Ring) -> None:
    """It finds no name twice, and reads at each scrape."""
    registry = prometheus.CollectorRegistry()
    registry.register(metrics.collector(settings))
    with pytest.raises(ValueError, match="Duplicated"):
        registry.register(metrics.collector(settings))

    assert registry.get_sample_value("rudderpipe_ring_events", {"pipe": settings.pipe_name}) == 0
    producer_of(ring, Clock()).append(b"{}")
    assert registry.get_sample_value("rudderpipe_ring_events", {"pipe": settings.pipe_name}) == 1


@pytest.fixture(name="client")
def _client(settings: Settings) -> Iterator[Client]:
    own = msgspec.structs.replace(settings, write_key="k", data_plane_url="http://127.0.0.1:9", autostart=False)
    client = Client(settings=own)
    yield client
    client.shutdown(0)
    memory.remove(location.own(own).segment)


def test_every_view_returns_the_metrics_of_the_processes_clients(client: Client) -> None:
    """WSGI, ASGI, Flask and Django."""
    from django.conf import settings as django_settings
    from django.http import HttpRequest
    from flask import Flask

    assert client.track("u", "e")
    sent: list[Any] = []

    async def send(message: dict[str, Any]) -> None:
        await asyncio.sleep(0)
        sent.append(message)

    async def receive() -> None:
        await asyncio.sleep(0)

    asyncio.run(asgi_application({"type": "http", "headers": []}, receive, send))
    statuses: list[str] = []
    (wsgi,) = wsgi_application({}, lambda status, _headers: statuses.append(status))
    app = Flask("app")
    app.add_url_rule("/metrics", view_func=flask_view)
    flask = app.test_client().get("/metrics", headers={"Accept": "application/openmetrics-text"})
    if not django_settings.configured:
        django_settings.configure()
    django = django_view(HttpRequest())

    line = f'rudderpipe_events_accepted_total{{pipe="{client.settings.pipe_name}"}} 1.0'
    assert (sent[0]["status"], statuses, flask.status_code, django.status_code) == (200, ["200 OK"], 200, 200)
    for body in (sent[1]["body"], wsgi, flask.data, django.content):
        assert line in body.decode().splitlines()
    assert flask.data.endswith(b"# EOF\n")


def test_without_the_extra_the_response_says_what_to_install(
    client: Client, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In one sentence; the JSON needs no extra."""
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    said = "prometheus-client is not installed; install it with: pip install 'rudderpipe[metrics]'"

    found = exposition.of_application()

    assert (found.status, found.content().decode()) == (501, f"{said}\n")
    options = ["--pipe", client.settings.pipe_name, "--runtime-dir", str(client.settings.runtime_dir)]
    assert main.main(["metrics", *options]) == 4
    assert capsys.readouterr().err == f"rudderpipe: {said}\n"
    assert main.main(["metrics", "--json", *options]) == 0
    assert {"rudderpipe_ring_events", "rudderpipe_build_info"} <= {
        each["name"] for each in msgspec.json.decode(capsys.readouterr().out)
    }


def test_a_textfile_is_written_as_a_whole_and_may_be_read_by_all(
    settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """node_exporter runs as another user."""
    path = tmp_path / "rudderpipe.prom"
    path.write_text("before")
    options = ["--pipe", str(settings.pipe), "--runtime-dir", str(settings.runtime_dir), "--textfile", str(path)]

    assert main.main(["metrics", *options]) == 0

    assert path.stat().st_mode & 0o777 == 0o644
    assert list(parser.text_string_to_metric_families(path.read_text()))
    assert [each.name for each in tmp_path.iterdir() if each.name.endswith(".part")] == []
    assert main.main(["metrics", *options[:-1], str(tmp_path / "nowhere" / "x.prom")]) == 2
    said = "rudderpipe: option --textfile: cannot be written: No such file or directory\n"
    assert capsys.readouterr().err == said


def test_a_value_is_read_once_while_it_is_fresh_and_a_caller_does_not_wait_for_long(clock: FakeClock) -> None:
    """A Redis that does not respond must not hold a scrape up, and many scrapes must not become many questions."""
    held = threading.Event()
    reads: list[int] = []

    def read() -> int:
        assert held.wait(30)
        reads.append(1)
        return len(reads)

    impatient = Cached(read, 5.0, clock, patience_s=0.001)
    assert [impatient.get(), impatient.get()] == [None, None]
    held.set()
    for thread in threading.enumerate():
        if thread.name == "rudderpipe-observe":
            thread.join(30)
    assert [impatient.get(), impatient.get(), reads] == [1, 1, [1]]
    patient = Cached(read, 5.0, clock, patience_s=30)
    assert [patient.get(), patient.get()] == [2, 2]
    clock.now_s += 5
    assert [patient.get(), patient.get()] == [3, 3]


if __name__ == "__main__":
    text = PAGE.read_text()
    PAGE.write_text(text[: text.index(f"## {SECTIONS['all']}")] + page())

"""``rudderpipe.ingest``: any records of a program, with the promises of ``rudderpipe send``."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

import rudderpipe
from rudderpipe import Client, IngestionError, IngestionProgress, SettingsError
from rudderpipe.cli.ingestion_bar import seconds_left
from rudderpipe.ingestion import plan
from rudderpipe.ingestion.block import Position
from rudderpipe.ingestion.checkpoint import Counts
from rudderpipe.ingestion.checkpoint_file import Place
from rudderpipe.ingestion.destination import TransportDestination
from rudderpipe.ingestion.reader import Reader
from rudderpipe.ingestion.source import Source
from rudderpipe.testing import capture
from rudderpipe.transports.base import NullTransport


def message(number: int, **more: Any) -> dict[str, Any]:
    """Return the message of a track."""
    return {"type": "track", "userId": f"u{number}", "event": "Imported", "properties": {"n": number}, **more}


def numbers(found: Any) -> list[int]:
    """Return the numbers of the messages in their order."""
    return [each["properties"]["n"] for each in found]


@pytest.fixture(name="client")
def _client() -> Client:
    return Client("KEY", "http://127.0.0.1:9")


def test_the_records_of_an_iterable_are_sent_in_order(client: Client) -> None:
    """The caller's mappings stay as they are."""
    given = [message(number) for number in range(300)]
    with capture() as events:
        result = rudderpipe.ingest(iter(given), client=client)

    assert numbers(events) == list(range(300))
    assert (result.read, result.accepted, result.refused, result.complete) == (300, 300, 0, True)
    assert result
    assert given == [message(number) for number in range(300)]


def test_a_file_is_sent_with_a_mapping(client: Client, tmp_path: Path) -> None:
    """As by the command, whose options are arguments here."""
    path = tmp_path / "orders.csv.gz"
    path.write_bytes(gzip.compress(b"id,total\n7,1.50\n,2\n9,x\n"))
    rejects = tmp_path / "rejects"
    options: dict[str, Any] = {"map": ["userId=id", "properties.total=total:float"], "event": "Order"}
    with capture() as events:
        result = rudderpipe.ingest(path, client=client, rejects=rejects, **options)

    assert [(each["userId"], each["properties"]) for each in events] == [("7", {"total": 1.5})]
    assert (result.read, result.accepted, result.refused) == (3, 1, 2)
    assert not result
    assert [json.loads(line)["line"] for line in rejects.read_bytes().splitlines()] == [3, 4]
    assert sum(result.rejects.values()) == 2


def test_wrong_records_are_refused_by_their_numbers(client: Client, tmp_path: Path) -> None:
    """Their neighbours are sent. A reject of an iterable has no text, because it may be anything."""
    rejects = tmp_path / "rejects"
    with capture(strict=False) as events:
        result = rudderpipe.ingest([message(0), 5, {"type": "tarck"}, message(3)], client=client, rejects=rejects)

    assert numbers(events) == [0, 3]
    assert result.refused == 2
    assert [json.loads(line)["line"] for line in rejects.read_bytes().splitlines()] == [2, 3]


def test_before_send_and_sampling_are_those_of_the_client() -> None:
    """What they leave out is counted, and is no reject."""
    client = Client("KEY", "http://127.0.0.1:9", before_send=lambda found: found if found["userId"] != "u1" else None)
    with capture() as events:
        result = rudderpipe.ingest(map(message, range(3)), client=client)

    assert numbers(events) == [0, 2]
    assert result.rejects == {"dropped by sampling or before_send": 1}


def test_an_iterable_goes_on_at_its_checkpoint(client: Client, tmp_path: Path) -> None:
    """What came before an exception of the iterable stays sent, and ids are the same in each run."""
    path = tmp_path / "checkpoint"

    def records(end: int, error: Exception | None = None) -> Iterator[dict[str, Any]]:
        for number in range(end):
            yield message(number)
        if error is not None:
            raise error

    with capture() as events:
        with pytest.raises(OSError, match="gone"):
            rudderpipe.ingest(records(200, OSError("gone")), client=client, checkpoint=path)
        first = len(events)
        result = rudderpipe.ingest(records(300), client=client, checkpoint=path)
        again = rudderpipe.ingest(records(300), client=client, checkpoint=path)
        grown = rudderpipe.ingest(records(310), client=client, checkpoint=path)

    assert first >= 128
    assert result.resumed_from is not None
    assert result.resumed_from.number > 1
    assert (again.read, grown.read) == (0, 10)
    ids = {each["properties"]["n"]: each["messageId"] for each in events}
    assert sorted(ids) == list(range(310))
    assert len({each["messageId"] for each in events}) == 310


def test_a_checkpoint_of_other_records_is_an_error(client: Client, tmp_path: Path) -> None:
    """Nothing is sent by a place that means something else."""
    path, file = tmp_path / "checkpoint", tmp_path / "events"
    file.write_bytes(b"".join(json.dumps(message(number)).encode() + b"\n" for number in range(3)))
    with capture() as events:
        assert rudderpipe.ingest(file, client=client, checkpoint=path).accepted == 3
        assert rudderpipe.ingest(file, client=client, checkpoint=path).accepted == 0
        with pytest.raises(IngestionError, match="with other options"):
            rudderpipe.ingest(file, client=client, checkpoint=path, until_line=2)
        with pytest.raises(IngestionError, match="of other files"):
            rudderpipe.ingest([message(1)], client=client, checkpoint=path)
        with pytest.raises(IngestionError, match="is no checkpoint"):
            rudderpipe.ingest(file, client=client, checkpoint=file)
        assert rudderpipe.ingest(file, client=client, checkpoint=path, until_line=2, again=True).accepted == 2
    assert len(events) == 5


def test_lines_are_chosen_by_their_numbers(client: Client, tmp_path: Path) -> None:
    """Both bounds are included, and hold for each file."""
    paths = [tmp_path / name for name in "ab"]
    for path in paths:
        path.write_bytes(b"".join(json.dumps(message(number)).encode() + b"\n" for number in range(500)))
    with capture() as events:
        result = rudderpipe.ingest(paths, client=client, from_line=100, until_line=102)

    assert numbers(events) == [99, 100, 101, 99, 100, 101]
    assert result.read == 6


def test_asyncio_runs_other_tasks_meanwhile(client: Client) -> None:
    """The source may be an asynchronous iterable, or any other."""
    seen: list[int] = []

    async def records() -> AsyncIterator[dict[str, Any]]:
        for number in range(300):
            yield message(number)

    async def other() -> None:
        while True:
            seen.append(1)
            await asyncio.sleep(0)

    async def main() -> rudderpipe.Ingested:
        task = asyncio.create_task(other())
        result = await rudderpipe.aingest(records(), client=client)
        await rudderpipe.aingest(map(message, range(300, 400)), client=client)
        task.cancel()
        return result

    with capture() as events:
        result = asyncio.run(main())

    assert numbers(events) == list(range(400))
    assert result.accepted == 300
    assert len(seen) > 4


def test_what_comes_before_damage_is_sent_and_then_the_error_is_raised(client: Client, tmp_path: Path) -> None:
    """The error names the file and the byte."""
    path = tmp_path / "events.gz"
    whole = gzip.compress(b"".join(json.dumps(message(number)).encode() + b"\n" for number in range(20_000)))
    path.write_bytes(whole[: len(whole) // 2])
    with capture() as events, pytest.raises(IngestionError) as caught:
        rudderpipe.ingest(path, client=client)

    assert caught.value.offset is not None
    assert numbers(events) == list(range(len(events)))
    assert len(events) > 1_000


def test_progress_and_rate(client: Client) -> None:
    """The rate bounds the events a second, and the progress says how far it is."""
    seen: list[IngestionProgress] = []
    with capture():
        result = rudderpipe.ingest(map(message, range(60)), client=client, rate="100/s", progress=seen.append)

    assert result.seconds >= 0.5
    assert [each.read for each in seen] == sorted(each.read for each in seen)
    assert seen[-1].read > 0


@pytest.mark.parametrize("rate", ["", "x", "0", "-5", "1/year", "1e999", float("nan"), 0])
def test_a_wrong_rate_is_named(client: Client, rate: Any) -> None:
    """Before anything is sent."""
    with pytest.raises(SettingsError, match="--rate"):
        rudderpipe.ingest([message(1)], client=client, rate=rate)


def test_wrong_arguments_are_named(client: Client) -> None:
    """By their names."""
    with pytest.raises(SettingsError, match="mapp: is no argument"):
        rudderpipe.ingest([message(1)], client=client, mapp="x")
    with pytest.raises(SettingsError, match="must be a path or an iterable"):
        rudderpipe.ingest(5, client=client)  # type: ignore[arg-type]  # wrong on purpose
    with pytest.raises(SettingsError, match="must be a path or an iterable"):
        rudderpipe.ingest(message(1), client=client)
    with pytest.raises(SettingsError, match="client"):
        rudderpipe.ingest([], client="KEY")  # type: ignore[arg-type]  # wrong on purpose


def test_a_line_that_was_being_written_is_read_once_more(client: Client, tmp_path: Path) -> None:
    """Its first half is a reject. When the file has grown, the whole line is sent; a line with its end comes once."""
    path, checkpoint = tmp_path / "events", tmp_path / "checkpoint"
    first, second, third = (json.dumps(message(number)).encode() for number in range(3))
    with capture() as events:
        for text in (
            first + b"\n" + second[:30],
            first + b"\n" + second + b"\n",
            first + b"\n" + second + b"\n" + third,
        ):
            path.write_bytes(text)
            rudderpipe.ingest(path, client=client, checkpoint=checkpoint)
        nothing = rudderpipe.ingest(path, client=client, checkpoint=checkpoint)

    assert numbers(events) == [0, 1, 2]
    assert nothing.read == 0


def test_a_pipe_is_read_once(client: Client, tmp_path: Path) -> None:
    """A pipe has no identity, and opening it a second time would wait for another writer forever."""
    pipe = tmp_path / "events"
    os.mkfifo(pipe)
    writer = threading.Thread(
        target=pipe.write_bytes, args=(b'{"type":"track","userId":"a","event":"e"}\n',), daemon=True
    )
    writer.start()

    with capture():
        result = rudderpipe.ingest(str(pipe), client=client)

    writer.join()
    assert (result.accepted, result.complete) == (1, True)


def test_a_file_is_the_same_by_another_path(client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run by hand names it by a relative path, and a run of cron by an absolute one."""
    monkeypatch.chdir(tmp_path)
    Path("events.ndjson").write_text('{"type":"track","userId":"a","event":"e"}\n')
    with capture():
        rudderpipe.ingest("events.ndjson", client=client, checkpoint="checkpoint")

        for path in ("./events.ndjson", str(tmp_path / "events.ndjson")):
            assert rudderpipe.ingest(path, client=client, checkpoint="checkpoint").accepted == 0


def test_a_file_that_replaced_another_one_while_it_was_read_is_told_from_it(tmp_path: Path) -> None:
    """Its first lines were never read, so going on in its middle would lose them."""
    path = tmp_path / "events.ndjson"
    path.write_text("{}\n" * 100)
    source = Source(str(path), path.name)
    found = plan.plan([source], plan.Options(), "pipe", tmp_path / "checkpoint")
    state = found.steps[0].state
    with Reader(source, format="ndjson") as reader:
        found.saved.begin(state, reader.file_id)
        (tmp_path / "new").write_text("{}\n" * 100)
        (tmp_path / "new").replace(path)
        milestone = TransportDestination(NullTransport()).milestone()
        found.saved.add(Place(milestone, 0, state, Position(50, 147), 147, Counts(), None))
        found.saved.look(now_s=0)

    with pytest.raises(IngestionError, match="another file was put in its place while it was read"):
        plan.plan([source], plan.Options(), "pipe", tmp_path / "checkpoint")


def test_wrong_places_are_named_before_anything_is_sent(client: Client, tmp_path: Path) -> None:
    """A mistake in a path must not be found after hours of sending."""
    events = tmp_path / "events.ndjson"
    events.write_text("{}\n")

    with pytest.raises(IngestionError, match="there is no such folder"):
        rudderpipe.ingest(str(events), client=client, rejects=str(tmp_path / "nowhere" / "rejects"))
    with pytest.raises(IngestionError, match="there is no such folder"):
        rudderpipe.ingest(str(events), client=client, checkpoint=str(tmp_path / "nowhere" / "checkpoint"))
    with pytest.raises(SettingsError, match="must be a file for map"):
        rudderpipe.ingest(iter([{"id": 1}]), client=client, map=["userId=id"], event="e")
    with pytest.raises(SettingsError, match="must not be before"):
        rudderpipe.ingest(str(events), client=client, from_line=10, until_line=5)


def test_the_time_that_is_left_is_that_of_this_run() -> None:
    """What an earlier run has read took none of this run's seconds."""
    now = IngestionProgress(
        source="a",
        number=1,
        done_bytes=500,
        resumed_bytes=400,
        size_bytes=1_000,
        read=1,
        accepted=1,
        delivered=1,
        failed=0,
        refused=0,
        seconds=10.0,
        obstacle="",
    )

    assert seconds_left(now) == 50

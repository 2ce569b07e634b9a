"""Mappings: what options mean, what each type reads, and the records of warehouses, shops and Parquet."""

from __future__ import annotations

import json
import math
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from rudderpipe.errors import IngestionError, SettingsError
from rudderpipe.ingestion import block
from rudderpipe.ingestion.conversion import CONVERTERS, Unfit, time_converter
from rudderpipe.ingestion.history import History
from rudderpipe.ingestion.mapping import parse
from rudderpipe.ingestion.reader import Reader
from rudderpipe.ingestion.rejects import KINDS_AT_MOST, Rejects
from rudderpipe.ingestion.source import Source
from rudderpipe.messages import wire

SOURCE = Source("data/events.csv", "events.csv")


def messages(path: Path, *maps: str, **options: str) -> list[dict[str, Any]]:
    """Return the messages of a file, each as the JSON that would be sent."""
    found = []
    with Reader(Source(str(path), path.name), mapping=parse(maps, **options)) as reader:
        for each in reader.blocks():
            assert each.rejects == []
            for message in each.messages or ():
                data = wire.from_fields(str(message["type"]), wire.fields_of_whole(message))
                found.append(json.loads(data))
    return found


@pytest.mark.parametrize(
    ("maps", "options", "sentence"),
    [
        (["userId"], {"event": "e"}, "option --map: must be TARGET=COLUMN"),
        (["user_id=a"], {"event": "e"}, "option --map: user_id is no field of a message; did you mean userId?"),
        (["total=a"], {"event": "e"}, "option --map: total is no field of a message; the fields of a message are"),
        (["userId.x=a"], {"event": "e"}, "option --map: userId.x is no field"),
        (["properties.=a"], {"event": "e"}, "option --map: properties. is no field"),
        (["userId=*"], {"event": "e"}, "option --map: userId=* is only for properties"),
        (["userId=a", "userId=b"], {"event": "e"}, "option --map: userId has a value already"),
        (["userId=a", "properties=b:json", "properties.x=c"], {"event": "e"}, "from properties"),
        (["userId=a", "event=b"], {"event": "e"}, "option --map: event has a value already"),
        (["userId=a", "timestamp=b"], {"event": "e", "timestamp": "c"}, "timestamp has a value already"),
        (["userId=a", "properties.n=const:x:int"], {"event": "e"}, "the value of properties.n is not a whole number"),
        (["userId=a"], {}, "option --event: must be given, or --type"),
        (["userId=a"], {"type": "track"}, "option --event: must be given for track"),
        (["userId=a"], {"type": "order"}, "option --type: must be one of identify, track"),
        (["userId=a"], {"type": "group"}, "option --map: groupId must be mapped for group"),
        (["properties=*"], {"event": "e"}, "option --map: userId or anonymousId must be mapped"),
        ([], {"timestamp_format": "s"}, "option --timestamp-format: is of no use"),
    ],
)
def test_a_wrong_option_is_named(maps: list[str], options: dict[str, str], sentence: str) -> None:
    """The sentence says what to write instead."""
    with pytest.raises(SettingsError) as raised:
        parse(maps, **options)

    assert sentence in str(raised.value)


def test_without_options_there_is_no_mapping() -> None:
    """Records are messages then."""
    assert parse() is None


@pytest.mark.parametrize(
    ("kind", "value", "wanted"),
    [
        ("str", 5, "5"),
        ("str", True, "true"),
        ("int", " 42 ", 42),
        ("int", "42.0", 42),
        ("int", 42.0, 42),
        ("int", "9" * 30, int("9" * 30)),
        ("float", " 19.99", 19.99),
        ("float", "1e3", 1000.0),
        ("float", "0.12345678901234567890", Decimal("0.12345678901234567890")),
        ("bool", "Yes", True),
        ("bool", "0", False),
        ("bool", 1, True),
        ("json", '{"a":[1.5]}', {"a": [1.5]}),
        ("json", [1], [1]),
        ("datetime", "2024-01-02", "2024-01-02T00:00:00Z"),
        ("datetime", "2024-01-02T03:04", "2024-01-02T03:04:00Z"),
        ("datetime", "2024-01-02 03:04:05.678901 UTC", "2024-01-02T03:04:05.678901Z"),
        ("datetime", "2024-01-02 03:04:05.6 -0500", "2024-01-02T03:04:05.6-05:00"),
        ("datetime", "2024-01-02 03:04:05+05", "2024-01-02T03:04:05+05:00"),
        ("datetime", "2024-01-02T03:04:05.678+05:30", "2024-01-02T03:04:05.678+05:30"),
        ("datetime", "1704164645", "2024-01-02T03:04:05.000Z"),
        ("datetime", "1704164645.678", "2024-01-02T03:04:05.678Z"),
        ("datetime", 1704164645678, "2024-01-02T03:04:05.678Z"),
        ("datetime", "1704164645678901", "2024-01-02T03:04:05.678901Z"),
        ("datetime", 1704164645678901234, "2024-01-02T03:04:05.678901Z"),
        ("datetime", datetime(2024, 1, 2, 3, 4, 5, 678000), "2024-01-02T03:04:05.678Z"),  # noqa: DTZ001  # as in a file
    ],
)
def test_a_type_reads_what_people_write(kind: str, value: object, wanted: object) -> None:
    """Digits, fractions and offsets are kept."""
    found = CONVERTERS[kind](value)

    assert (type(found), found) == (type(wanted), wanted)


UNFIT: dict[str, list[object]] = {
    "int": ["1_000", "1.5", "", "x", math.nan, math.inf, []],
    "float": ["1_000", "1,5", "$5", "nan", "inf", "1e999", []],
    "bool": ["maybe", "2", 7, []],
    "json": ["{", "nan", "[" * 100_000],
    "datetime": ["2024-13-01", "2024-01-01T25:00", "01/02/2024", "20240102", 5, True, []],
}


@pytest.mark.parametrize(("kind", "value"), [(kind, value) for kind, values in UNFIT.items() for value in values])
def test_what_does_not_fit_is_refused_without_the_value(kind: str, value: object) -> None:
    """The sentence could be in a log."""
    with pytest.raises(Unfit) as raised:
        CONVERTERS[kind](value)

    assert value == [] or len(str(value)) < 3 or str(value) not in str(raised.value)


@pytest.mark.parametrize(
    ("time_format", "value", "wanted"),
    [
        ("%d/%m/%Y %H:%M", "02/01/2024 03:04", "2024-01-02T03:04:00.000Z"),
        ("%d/%m/%Y %H:%M %z", "02/01/2024 03:04 +0100", "2024-01-02T03:04:00.000+01:00"),
        ("ms", "5", "1970-01-01T00:00:00.005Z"),
        ("s", 5.25, "1970-01-01T00:00:05.250Z"),
    ],
)
def test_a_format_of_times_may_be_given(time_format: str, value: object, wanted: str) -> None:
    """It is needed where times are ambiguous."""
    convert = time_converter(time_format)

    assert convert(value) == wanted
    with pytest.raises(Unfit):
        convert("soon")


def test_a_shop_s_orders_become_events(tmp_path: Path) -> None:
    """A CSV of a shop has names with blanks, cells over several lines, and times with an offset."""
    path = tmp_path / "orders.csv"
    path.write_text(
        "Name,Email,Financial Status,Paid at,Total,Note,Accepts Marketing,Billing City\n"
        '#1001,a@example.com,paid,2024-01-15 10:23:45 -0500,199.90,"gift\nwrap ""red""",yes,Köln\n'
        "#1002,b@example.com,paid,2024-01-15 10:24:01 -0500,5,,no,\n",
        encoding="utf-8-sig",
    )

    first, second = messages(
        path,
        *("userId=Email", "messageId=Name", "properties.total=Total:float", "properties.ads=Accepts Marketing:bool"),
        *("properties.source=const:shop", "context.traits.city=Billing City", "properties=*"),
        event="Order Imported",
        timestamp="Paid at",
    )

    assert first["properties"] == {
        "source": "shop",
        "total": 199.9,
        "ads": True,
        "Financial Status": "paid",
        "Note": 'gift\nwrap "red"',
    }
    assert first["context"]["traits"] == {"city": "Köln"}
    assert (first["event"], first["userId"], first["messageId"]) == ("Order Imported", "a@example.com", "#1001")
    assert first["timestamp"] == first["originalTimestamp"] == "2024-01-15T10:23:45-05:00"
    assert "Note" not in second["properties"]
    assert "traits" not in second["context"]


def test_a_warehouse_s_identifies_become_identifies(tmp_path: Path) -> None:
    """Nested values keep their types, and a path of keys reaches into them."""
    row = {
        "user_id": 7,
        "email": "a@example.com",
        "plan": None,
        "address": {"city": "Köln", "zip": "50667"},
        "received_at": "2024-01-02 03:04:05.678000 UTC",
    }
    path = tmp_path / "identifies.json"
    path.write_text(json.dumps([row, row]))

    found, _ = messages(
        path, "userId=user_id", "traits.town=address.city", "traits=*", type="identify", timestamp="received_at"
    )

    assert found["traits"] == {"email": "a@example.com", "town": "Köln"}
    assert (found["type"], found["userId"], found["timestamp"]) == ("identify", "7", "2024-01-02T03:04:05.678000Z")


def parquet_of(folder: Path, rows: int, row_group_size: int) -> Path:
    """Write a Parquet file; skip the test without pyarrow."""
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    start = datetime(2024, 1, 2, tzinfo=timezone.utc)
    table = arrow.table(
        {
            "id": list(range(rows)),
            "total": [None if row % 2 else row / 4 for row in range(rows)],
            "at": arrow.array(
                [start + timedelta(milliseconds=row) for row in range(rows)], arrow.timestamp("ns", "UTC")
            ),
            "items": [[{"sku": str(row)}] for row in range(rows)],
            "rate": [math.nan] * rows,
            "bad": ["x" if row == 3 else "1" for row in range(rows)],
        }
    )
    path = folder / "orders.parquet"
    parquet.write_table(table, path, row_group_size=row_group_size)
    return path


def test_parquet_is_read_by_rows_and_goes_on_at_any(tmp_path: Path) -> None:
    """Values keep their types; nanoseconds become microseconds."""
    path = parquet_of(tmp_path, 2500, 700)
    mapping = parse(
        ["userId=id", "properties.bad=bad:int", "properties.quota=rate:float", "properties=*"],
        event="e",
        timestamp="at",
    )

    def read(start: block.Position | None = None) -> tuple[list[tuple[Any, ...]], list[int], list[block.Position]]:
        with Reader(Source(str(path), path.name), mapping=mapping) as reader:
            assert reader.format == "parquet"
            blocks = list(reader.blocks(start))
            assert reader.read_bytes == reader.size_bytes
        rows = [each for one in blocks for each in zip(one.numbers, one.texts, one.messages or (), strict=True)]
        rejects = [each.number for one in blocks for each in one.rejects]
        return rows, rejects, [one.position(index) for one in blocks for index in range(len(one) + 1)]

    rows, rejects, places = read()

    assert rejects == [4]
    assert [number for number, _, _ in rows] == [1, 2, 3, *range(5, 2501)]
    assert rows[0][2]["timestamp"] == "2024-01-02T00:00:00.000Z"
    assert rows[4][2]["properties"] == {"bad": 1, "items": [{"sku": "5"}]}
    assert json.loads(rows[2][1])["total"] == 0.5
    for place in (places[0], places[1], places[699], places[700], places[1999], places[-1]):
        assert read(place)[0] == [row for row in rows if row[0] >= place.number]


def test_parquet_that_cannot_be_read_is_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the column, the file, or the extra."""
    path = parquet_of(tmp_path, 10, 10)
    source = Source(str(path), path.name)
    mapping = parse(["userId=id"], event="e")
    with pytest.raises(SettingsError, match="no column nobody; the columns are id, total"):
        Reader(source, mapping=parse(["userId=nobody"], event="e"))
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    with pytest.raises(IngestionError, match=r"rudderpipe\[parquet\]"):
        Reader(source, mapping=mapping)
    monkeypatch.undo()
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(IngestionError, match="cannot be read as Parquet"):
        Reader(source, mapping=mapping)


def test_times_in_the_future_and_backwards_are_counted() -> None:
    """A time in any form counts, and the first place is kept."""
    now = datetime(2024, 1, 2, 3, 4, 5, tzinfo=timezone.utc)
    history = History(SOURCE, now)
    moments = [
        "2024-01-02T03:04:05.100Z",
        "2024-01-02T03:04:05.099Z",  # backwards
        "2024-01-02T05:04:05.100+02:00",
        "2024-01-02T03:04:05.1Z",
        now + timedelta(hours=1),
        now + timedelta(minutes=61),  # future
        None,
        "soon",
        "2024-01-02T03:04:06Z",  # backwards
        1704173000000,  # future
    ]

    for number, moment in enumerate(moments, 1):
        history.see({"originalTimestamp": moment}, number)

    assert (history.backwards.count, history.backwards.first) == (2, 2)
    assert (history.future.count, history.future.first) == (2, 6)
    assert history.warnings() == [
        "data/events.csv: more than 1 hour in the future: 2 events, the first one in line 6",
        "data/events.csv: older than the event before: 2 events, the first one in line 2",
    ]
    assert History(SOURCE, now).warnings() == []


def test_rejects_are_written_and_counted_by_kind(tmp_path: Path) -> None:
    """The file is created by the first reject, and holds what is needed to mend the records."""
    path = tmp_path / "rejects.ndjson"
    rejects = Rejects(str(path))
    assert not path.exists()

    rejects.add(SOURCE, block.reject(3, 9, "is not JSON", b"{bad"))
    rejects.add(SOURCE, block.reject(4, 13, "is not JSON", b"\xff"))
    rejects.add(SOURCE, block.too_long(5, 15, b"x" * 2000, 5_000_000))
    rejects.close()

    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"source": "data/events.csv", "line": 3, "reason": "is not JSON", "text": "{bad"},
        {"source": "data/events.csv", "line": 4, "reason": "is not JSON", "base64": "/w=="},
        {
            "source": "data/events.csv",
            "line": 5,
            "reason": "has 5,000,000 bytes, the limit is 4,000,000",
            "text": "x" * 1000,
            "size_bytes": 5_000_000,
        },
    ]
    assert rejects.count == 3
    assert (rejects.kinds["is not JSON"].count, rejects.kinds["is not JSON"].number) == (2, 3)


def test_rejects_of_another_run_are_not_overwritten(tmp_path: Path) -> None:
    """A run that goes on keeps what was there at its checkpoint, and writes the rest again."""
    path = tmp_path / "rejects.ndjson"
    first = Rejects(str(path))
    first.add(SOURCE, block.reject(1, 0, "a", b"1"))
    kept = first.flush()
    first.add(SOURCE, block.reject(2, 1, "a longer reason", b"2" * 50))
    first.close()

    with pytest.raises(IngestionError, match="is there already"):
        Rejects(str(path))
    with pytest.raises(IngestionError, match="is shorter than"):
        Rejects(str(path), kept_bytes=10_000)
    again = Rejects(str(path), kept_bytes=kept)
    assert again.flush() == kept
    again.add(SOURCE, block.reject(2, 1, "b", b"2"))
    again.close()

    assert [json.loads(line)["reason"] for line in path.read_text().splitlines()] == ["a", "b"]


def test_many_kinds_of_rejects_take_bounded_memory() -> None:
    """Without a file nothing but counts is kept."""
    rejects = Rejects(None)

    for number in range(1000):
        rejects.add(SOURCE, block.reject(number, 0, f"reason {number}", b""))

    assert len(rejects.kinds) == KINDS_AT_MOST + 1
    assert rejects.count == 1000

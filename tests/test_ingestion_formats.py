"""Formats: what a file is taken for, what is said of others, and the records of arrays, batches and tables."""

from __future__ import annotations

import csv
import io
import json
import tracemalloc
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rudderpipe.errors import IngestionError, SettingsError
from rudderpipe.ingestion.block import Block, Position
from rudderpipe.ingestion.mapping import Mapping, parse
from rudderpipe.ingestion.reader import Reader
from rudderpipe.ingestion.source import Source

EVENT = b'{"type":"track","userId":"a","event":"e"}'
HYPOTHESIS = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def file_of(folder: Path, data: bytes | str) -> Path:
    """Write a file."""
    path = folder / "events"
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def read(path: Path, start: Position | None = None, *, mapping: Mapping | None = None, given: str | None = None) -> Any:
    """Return all blocks of a file."""
    with Reader(Source(str(path), path.name), mapping=mapping, format=given) as reader:
        return list(reader.blocks(start))


def records(blocks: list[Block]) -> list[tuple[Any, ...]]:
    """Return number, offset, text and message of each record."""
    return [
        (block.numbers[index], block.offsets[index], text, block.messages[index] if block.messages else None)
        for block in blocks
        for index, text in enumerate(block.texts)
    ]


def rejects(blocks: list[Block]) -> list[tuple[int, str]]:
    """Return number and kind of each reject."""
    return [(each.number, each.kind) for block in blocks for each in block.rejects]


def check_resuming(path: Path, blocks: list[Block], mapping: Mapping | None = None, given: str | None = None) -> None:
    """Check that reading goes on at each record with the records that followed it."""
    whole = records(blocks)
    places = [block.position(index) for block in blocks for index in range(len(block))]
    for index in range(0, len(places), max(1, len(places) // 9)):
        assert records(read(path, places[index], mapping=mapping, given=given)) == whole[index:]
    if blocks:
        assert records(read(path, blocks[-1].end, mapping=mapping, given=given)) == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (EVENT, "ndjson"),
        (EVENT + b"\n" + EVENT[:9], "ndjson"),
        (b'{"broken\n' + EVENT, "ndjson"),
        (b"\xef\xbb\xbf \n " + EVENT, "ndjson"),
        (b'{"type":"track","batch":[1]}', "ndjson"),
        (b"[]", "json"),
        (b" \n[\n  {", "json"),
        (b'{"batch":[]}', "batch"),
        (b'{"sentAt":"now","n":1, "batch": [' + EVENT * 3000, "batch"),
        (b'{"type":"track","properties":{"text":"' + b"x" * 100_000, "ndjson"),
        ('{"type":"track","event":"é"}\n'.encode() + b'{"event":"\xe9"}\n', "ndjson"),
    ],
)
def test_a_format_is_found_by_content(tmp_path: Path, text: bytes, found: str) -> None:
    """The name of the file says nothing."""
    path = file_of(tmp_path, text)

    with Reader(Source(str(path), path.name)) as reader:
        assert reader.format == found


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (b"id,total\n1,2\n", "looks like CSV: give --map"),
        (b"id\ttotal\n1\t2\n", "looks like TSV: give --map"),
        (b"id;total\n1;2\n", "looks like CSV with semicolons: give --map"),
        (b"PAR1xxxx", "looks like Parquet: give --map"),
        (b'{"event":"a","id":7}\n', "have no type: give --map; their keys are event, id"),
        (b'{\n  "type": "track"\n}\n', "looks like JSON objects over several lines"),
        (b'[{"event":"a","id":7}, {"b":1}]', "have no type: give --map; their keys are event, id, b"),
        (b'[\n{"event":"a","id":7},\n{"ev', "have no type: give --map; their keys are event, id"),
        (b'{\n  "batch": [\n    {\n', "looks like a batch over several lines"),
        (b"{'type': 'track'}\n", "looks like Python's repr"),
        (b"<html>", "looks like HTML or XML"),
        (b"just words\n", "neither JSON nor CSV nor Parquet"),
        ('{"type":"track"}\n'.encode("utf-16"), "looks like UTF-16"),
        ('{"type":"track"}\n'.encode("utf-16-le"), "looks like UTF-16"),
        ('id,name\n1,"Jörg"\n'.encode("latin-1"), "looks like Latin-1"),
        (b"PK\x03\x04rest", "ZIP archive or an Excel workbook"),
        (bytes(300), "looks like"),
        (bytes(257).replace(b"\0", b"a") + b"ustar", "tar archive"),
    ],
)
def test_a_wrong_format_is_one_sentence(tmp_path: Path, text: bytes, sentence: str) -> None:
    """It names what the file looks like, once, and says what to do."""
    path = file_of(tmp_path, text)

    with pytest.raises(IngestionError) as raised:
        read(path)

    assert sentence in str(raised.value)
    assert str(raised.value).startswith(f"{path}: ")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 99) | st.text(alphabet='a"\\{}[],: é\n', max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(alphabet='a"\\}', max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)


@HYPOTHESIS
@given(
    values=st.lists(JSON, max_size=12),
    indent=st.sampled_from([None, 0, 2]),
    piece_bytes=st.integers(1, 64),
    mark=st.sampled_from([b"", b"\xef\xbb\xbf"]),
)
def test_an_array_has_its_elements_wherever_pieces_are_cut(
    tmp_path: Path, values: list[Any], indent: int | None, piece_bytes: int, mark: bytes
) -> None:
    """Each element is its own text, at its own offset, and reading can go on at each of them."""
    text = mark + json.dumps(values, indent=indent, ensure_ascii=False).encode() + b"\n"
    path = file_of(tmp_path, text)
    with patch("rudderpipe.ingestion.input.PIECE_BYTES", piece_bytes):
        blocks = read(path, given="json")
        found = records(blocks)

        assert [json.loads(each) for _, _, each, _ in found] == values
        assert [number for number, _, _, _ in found] == [*range(1, len(values) + 1)]
        assert all(text[offset : offset + len(each)] == each for _, offset, each, _ in found)
        check_resuming(path, blocks, given="json")


def test_most_of_an_array_is_read_many_elements_at_a_time(tmp_path: Path) -> None:
    """Nested objects with the same separators do not make the reading slow."""
    each = {"type": "track", "properties": {"products": [{"a": 1}, {"b": "},\n{"}]}}
    for indent in (None, 2):
        path = file_of(tmp_path, json.dumps([each] * 5000, indent=indent))

        blocks = read(path)

        assert sum(map(len, blocks)) == 5000
        assert len(blocks) < 20


def test_a_broken_element_of_an_array_is_one_record(tmp_path: Path) -> None:
    """The elements around it are read; that it is no JSON is found when it is parsed."""
    path = file_of(tmp_path, b'[{"type":1},{bad},{"b":2}, {"c":"x]"} ]')

    assert [text for _, _, text, _ in records(read(path))] == [b'{"type":1}', b"{bad}", b'{"b":2}', b'{"c":"x]"}']


@pytest.mark.parametrize(
    ("text", "sentence", "before"),
    [
        (b'[{"type":1},{"b', "ends within its JSON array", 1),
        (b'[{"type":1},', "ends within its JSON array", 1),
        (b'[{"type":1}] {"b":2}', "goes on behind the end of its JSON array", 1),
    ],
)
def test_an_array_that_does_not_end_right_is_one_error(tmp_path: Path, text: bytes, sentence: str, before: int) -> None:
    """The elements before are records."""
    path = file_of(tmp_path, text)
    found: list[Block] = []

    with Reader(Source(str(path), path.name)) as reader, pytest.raises(IngestionError, match=sentence):
        found.extend(reader.blocks())

    assert sum(map(len, found)) == before


@pytest.mark.parametrize("before", [b"[", b"", b'id,text\n1,"'])
def test_a_record_that_is_too_long_costs_no_memory(tmp_path: Path, before: bytes) -> None:
    """A record of 40 MB is a reject, in an array, on a line and in a table."""
    after = {b"[": b"," + EVENT + b"]", b"": b"\n" + EVENT}.get(before, b'"\n2,b\n')
    path = file_of(tmp_path, before + b'{"x":"' * (before != b'id,text\n1,"') + b"x" * 40_000_000 + b'"}' + after)
    mapping = parse(["userId=id"], event="e") if b"id" in before else None
    tracemalloc.start()
    try:
        blocks = read(path, mapping=mapping, given={b"": "ndjson"}.get(before))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert [kind for _, kind in rejects(blocks)] == ["is too large"]
    assert sum(map(len, blocks)) == 1
    assert peak < 20_000_000


def test_each_event_of_a_batch_is_a_record(tmp_path: Path) -> None:
    """Reading goes on in the middle of a line; a line without a batch is a record, and a broken one a reject."""
    path = file_of(
        tmp_path,
        b'{"batch":[{"a":1},{"a":1}, {"b":2}],"sentAt":""}\n\n{"batch":[]}\nbroken\n'
        + EVENT
        + b'\n{"batch":[{"c":3}]}',
    )

    blocks = read(path)

    assert [each[:3] for each in records(blocks)] == [
        (1, 10, b'{"a":1}'),
        (1, 18, b'{"a":1}'),
        (1, 27, b'{"b":2}'),
        (5, 70, EVENT),
        (6, 122, b'{"c":3}'),
    ]
    assert rejects(blocks) == [(4, "is not a JSON object with a batch")]
    check_resuming(path, blocks)


CELL = st.text(alphabet='a",;\n\r\t é', max_size=5)


@HYPOTHESIS
@given(
    rows=st.lists(st.tuples(st.just("u"), CELL, CELL), max_size=12),
    piece_bytes=st.integers(3, 64),
    end=st.sampled_from(["\n", "\r\n"]),
    delimiter=st.sampled_from([",", ";", "\t"]),
    mark=st.sampled_from(["", "\ufeff"]),
)
def test_a_table_has_its_rows_wherever_pieces_are_cut(
    tmp_path: Path, rows: list[tuple[str, ...]], piece_bytes: int, end: str, delimiter: str, mark: str
) -> None:
    """Quoted cells may have line breaks, quotes and delimiters, and reading can go on at each row."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=delimiter, lineterminator=end, quoting=csv.QUOTE_NONNUMERIC)
    writer.writerows([("id", "one", "two"), *rows])
    path = file_of(tmp_path, mark + text.getvalue())
    mapping = parse(["userId=id", "properties=*"], event="e")
    assert mapping is not None
    with patch("rudderpipe.ingestion.input.PIECE_BYTES", piece_bytes):
        blocks = read(path, mapping=mapping)
        wanted = [{name: cell for name, cell in zip(("one", "two"), row[1:], strict=True) if cell} for row in rows]

        assert [each[3].get("properties", {}) for each in records(blocks)] == wanted
        data = path.read_bytes()
        assert all(data[offset : offset + len(each)] == each for _, offset, each, _ in records(blocks))
        check_resuming(path, blocks, mapping)


def test_rows_that_do_not_fit_are_rejects(tmp_path: Path) -> None:
    """The rows around them are records, and the numbers are those of lines."""
    path = file_of(
        tmp_path,
        b'id,total\n1,2\n2\n3,x\n\n4,"a\nb",c\n5,5\n\xff,6\n7,"open\n8,8\n',
    )
    mapping = parse(["userId=id", "properties.total=total:float"], event="e")

    blocks = read(path, mapping=mapping, given="csv")

    assert [(number, message["userId"]) for number, _, _, message in records(blocks)] == [(2, "1"), (8, "5"), (11, "8")]
    assert rejects(blocks) == [
        (3, "has more or fewer cells than the header"),
        (4, "column total is not a number"),
        (6, "has more or fewer cells than the header"),
        (9, "is not UTF-8"),
        (10, "has a quote that is not closed"),
    ]


def test_a_quote_that_is_never_closed_holds_no_more_than_a_record(tmp_path: Path) -> None:
    """Its line is a reject, and the lines behind it are rows again. Python's own limit of a cell stays what it was."""
    csv.field_size_limit(131_072)  # Python's default
    lines = [b"%d,%b\n" % (number, b"x" * 990) for number in range(8000)]
    path = file_of(tmp_path, b'id,text\nA,"open\n' + b"".join(lines) + b'B,"' + b"y" * 200_000 + b'"\n')

    blocks = read(path, mapping=parse(["userId=id"], event="e"))

    assert rejects(blocks) == [(2, "has a quote that is not closed")]
    assert sum(map(len, blocks)) == 8001
    assert csv.field_size_limit() == 131_072


def test_a_table_of_excel_names_its_delimiter(tmp_path: Path) -> None:
    """The line before the header is no row."""
    path = file_of(tmp_path, "sep=;\r\nid;total\r\n1;2,5\r\n")

    (found,) = records(read(path, mapping=parse(["userId=id", "properties.total=total"], event="e"), given="csv"))

    assert found[0] == 3
    assert found[3] == {"type": "track", "event": "e", "userId": "1", "properties": {"total": "2,5"}}


@pytest.mark.parametrize("given", ["csv", None])
def test_a_table_that_cannot_be_mapped_is_one_error(tmp_path: Path, given: str | None) -> None:
    """A column that does not exist is named beside those that do; a table needs a mapping."""
    path = file_of(tmp_path, "id,total\n1,2\n")

    with pytest.raises(SettingsError, match="option --map: there is no column user_id; the columns are id, total"):
        read(path, mapping=parse(["userId=user_id"], event="e"), given=given)
    with pytest.raises(IngestionError, match="give --map"):
        read(path, given=given)


def test_an_empty_table_has_no_rows(tmp_path: Path) -> None:
    """Neither an empty file nor a header alone is an error."""
    mapping = parse(["userId=id"], event="e")

    for text in ("", "id,total", "id,total\n"):
        assert records(read(file_of(tmp_path, text), mapping=mapping)) == []


def test_json_records_are_mapped(tmp_path: Path) -> None:
    """A warehouse's rows become messages; a record that is no object, or does not fit, is a reject."""
    rows = [
        {"id": "m1", "user_id": 7, "event_text": "Order", "original_timestamp": "2024-01-02T03:04:05.678Z", "total": 5},
        {"id": "m2", "user_id": 8, "event_text": "Order", "original_timestamp": "soon"},
    ]
    path = file_of(tmp_path, "\n".join(map(json.dumps, rows)) + "\n7\n{bad\n")
    mapping = parse(
        ["userId=user_id", "messageId=id", "event=event_text", "properties=*"], timestamp="original_timestamp"
    )

    blocks = read(path, mapping=mapping)

    time = "2024-01-02T03:04:05.678Z"
    assert [each[3] for each in records(blocks)] == [
        {
            "type": "track",
            "timestamp": time,
            "originalTimestamp": time,
            "userId": 7,
            "messageId": "m1",
            "event": "Order",
            "properties": {"total": 5},
        }
    ]
    assert rejects(blocks) == [
        (2, "column original_timestamp is not a time in ISO 8601 and not an epoch; give --timestamp-format"),
        (3, "is not a JSON object"),
        (4, "is not JSON"),
    ]
    with pytest.raises(SettingsError, match="no record has a key nobody; the keys are id, user_id"):
        read(path, mapping=parse(["userId=nobody"], event="e"))

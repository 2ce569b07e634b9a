"""The format of a text, found by its first bytes, or one sentence about what it looks like instead."""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec

from rudderpipe.errors import IngestionError
from rudderpipe.log_text import one_line

NDJSON, ARRAY, BATCH, CSV, TSV, PARQUET = FORMATS = ("ndjson", "json", "batch", "csv", "tsv", "parquet")
"""One JSON object a line; one JSON array; ``{"batch": […]}`` lines; tables with a header; Parquet."""
HEAD_BYTES = 1 << 16
SAMPLE = 20
"""The most records that are looked at to see whether they are messages."""
_SHOWN_NAMES = 12
_OTHER_FILES = (
    (b"PK\x03\x04", "a ZIP archive or an Excel workbook: unpack it, or save it as CSV"),
    (b"\x28\xb5\x2f\xfd", "zstd data in compressed data: unpack it first"),
    (b"\x1f\x8b", "gzip data in compressed data: unpack it first"),
    (b"\x04\x22\x4d\x18", "LZ4 data: unpack it with lz4 -dc and send standard input"),
    (b"\xff\x06\x00\x00sNaPpY", "Snappy data: unpack it first"),
    (b"\x1f\x9d", "data of compress: unpack it with uncompress"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive: unpack it first"),
    (b"Obj\x01", "Avro: convert it to NDJSON, for example with avro-tools tojson"),
    (b"ORC", "ORC: convert it to Parquet"),
    (b"SQLite format 3\x00", "an SQLite database: export the table as CSV"),
    (b"\xd0\xcf\x11\xe0", "an Excel workbook: save it as CSV"),
    (b"%PDF", "a PDF"),
)
_TAR = (257, b"ustar")
_UTF_16 = (b"\xff\xfe", b"\xfe\xff", b"{\0", b"\0{", b"[\0", b"\0[")
_batch = re.compile(rb'\{(?:\s*"(?!type")[^"\\]*"\s*:\s*(?:"[^"\\]*"|[^][{}",\s]+)\s*,)*\s*"batch"\s*:\s*\[')
"""The beginning of a line with a batch, before which only scalar values stand; the line may be longer than the head."""
_decoder = json.JSONDecoder()
"""It reads one value of a text that goes on, which msgspec does not."""
_not_ascii = re.compile(rb"[\x80-\xff]")
_DELIMITERS = {",": "CSV", "\t": "TSV", ";": "CSV with semicolons", "|": "CSV with vertical bars"}


def format_of(name: str, head: bytes, *, is_whole: bool, is_mapped: bool) -> str:
    """Return the format of a text by its first bytes, at least ``HEAD_BYTES`` of them unless it is shorter.

    ``is_mapped`` is True if a mapping makes messages of the records. Raises ``IngestionError`` with one sentence for a
    text in no known format, and for records that are not messages and have no mapping.
    """
    if head.startswith(b"PAR1"):
        return _needs_mapping(name, "Parquet", PARQUET, is_mapped=is_mapped)
    check_encoding(name, head)
    text = head.removeprefix(b"\xef\xbb\xbf")
    start = text.lstrip()
    if not start:
        return NDJSON
    if start.startswith(b"["):
        if not is_mapped:
            _need_type(name, elements_in(start))
        return ARRAY
    if start.startswith(b"{"):
        return _of_objects(name, start, is_whole=is_whole, is_mapped=is_mapped)
    if start.startswith(b"<"):
        raise _looks_like(name, "HTML or XML, not like a file of events")
    first = start.splitlines()[0].decode("utf-8", "replace")
    if (delimiter := delimiter_of(first)) is not None:
        return _needs_mapping(name, _DELIMITERS[delimiter], TSV if delimiter == "\t" else CSV, is_mapped=is_mapped)
    if is_mapped:
        return CSV
    raise _looks_like(name, "neither JSON nor CSV nor Parquet: its first line begins with no { and has no delimiter")


def delimiter_of(first_line: str) -> str | None:
    """Return the delimiter that is most frequent in the first line of a table, None if it has none."""
    bare = re.sub(r'"[^"]*"', "", first_line)
    found = max(_DELIMITERS, key=bare.count)
    return found if found in bare else None


def check_encoding(name: str, head: bytes) -> None:
    """Raise ``IngestionError`` for a text that is not UTF-8, and for files that are no text."""
    for magic, what in _OTHER_FILES:
        if head.startswith(magic):
            raise _looks_like(name, what)
    if head[_TAR[0] :].startswith(_TAR[1]):
        raise _looks_like(name, "a tar archive: unpack it first")
    if head.startswith(_UTF_16) or (len(head) > 3 and head[1:4:2] == b"\0\0"):
        raise _looks_like(name, "UTF-16: convert it to UTF-8, for example with iconv -f UTF-16 -t UTF-8")
    if b"\0" in head:
        raise _looks_like(name, "binary data, not like text")
    if _is_latin_1(head):
        what = "Latin-1 or Windows-1252: convert it to UTF-8, for example with iconv -f WINDOWS-1252 -t UTF-8"
        raise _looks_like(name, what)


def shown(names: list[str]) -> str:
    """Return the names of columns or keys for an error, the first ones if there are many."""
    text = ", ".join(one_line(name, 60) for name in names[:_SHOWN_NAMES])
    return text if len(names) <= _SHOWN_NAMES else f"{text} and {len(names) - _SHOWN_NAMES} more"


def objects_in(lines: list[bytes]) -> list[dict[str, Any]]:
    """Return the JSON objects among the first lines."""
    found = []
    for line in lines[:SAMPLE]:
        try:
            value = msgspec.json.decode(line)
        except (ValueError, RecursionError):
            continue
        if type(value) is dict:
            found.append(value)
    return found


def _of_objects(name: str, start: bytes, *, is_whole: bool, is_mapped: bool) -> str:
    lines = [line for line in start.split(b"\n") if line.strip()]
    if not is_whole and len(lines) > 1:
        lines.pop()  # because it may be cut
    objects = objects_in(lines)
    if _batch.match(start):
        if not objects and len(lines) > 1:
            raise _looks_like(name, "a batch over several lines: put it on one line, for example with jq -c .")
        return BATCH
    if not objects:
        if lines[0].startswith(b"{'") or b"': " in lines[0]:
            raise _looks_like(name, "Python's repr of dicts: write it with json.dumps")
        if len(lines) > 1:
            raise _looks_like(name, "JSON objects over several lines: put each on one line, for example with jq -c .")
        return NDJSON
    if not is_mapped:
        _need_type(name, objects)
    return NDJSON


def elements_in(start: bytes) -> list[dict[str, Any]]:
    """Return the JSON objects among the first elements of an array; ``start`` begins with its bracket."""
    text = start[1:].decode("utf-8", "ignore")
    found: list[dict[str, Any]] = []
    at = 0
    for _ in range(SAMPLE):
        while text[at : at + 1] in (" ", "\t", "\r", "\n", ","):
            at += 1
        try:
            value, at = _decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            break
        if type(value) is dict:
            found.append(value)
    return found


def _need_type(name: str, objects: list[dict[str, Any]]) -> None:
    """Raise ``IngestionError`` if there are objects, and none of them has a type."""
    if objects and not any("type" in each for each in objects):
        keys = shown(list(dict.fromkeys(key for each in objects for key in each)))
        what = f"JSON records that are not messages, because they have no type: give --map; their keys are {keys}"
        raise _looks_like(name, what)


def _is_latin_1(head: bytes) -> bool:
    """Return True if a text has characters beyond ASCII and none of them is UTF-8."""
    if head.isascii():
        return False
    try:
        head.decode()
    except UnicodeDecodeError as error:
        if error.start > len(head) - 4:
            return False  # the last character is cut, or it is the only one
    else:
        return False
    valid = len(_not_ascii.findall(head.decode("utf-8", "ignore").encode()))
    return valid == 0


def _needs_mapping(name: str, what: str, found: str, *, is_mapped: bool) -> str:
    if is_mapped:
        return found
    raise _looks_like(name, f"{what}: give --map, such as --map userId=COLUMN")


def _looks_like(name: str, what: str) -> IngestionError:
    return IngestionError(name, f"looks like {what}")

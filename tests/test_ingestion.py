"""Sources, compressions and lines: what is read of a file, from any place on, and what is said of a damaged one."""

from __future__ import annotations

import bz2
import functools
import gzip
import io
import lzma
import os
import random
import sys
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rudderpipe.errors import IngestionError
from rudderpipe.ingestion import compression, input, record_ids  # noqa: A004  # the module's name
from rudderpipe.ingestion.block import PREVIEW_BYTES, RECORD_LIMIT_BYTES, Block, Position
from rudderpipe.ingestion.reader import Reader
from rudderpipe.ingestion.source import Source, find_sources, identity


def zstd(data: bytes) -> bytes:
    """Return data compressed with zstd; skip the test where that cannot be had."""
    return bytes(pytest.importorskip("zstandard").ZstdCompressor(write_checksum=True).compress(data))


PACKED: dict[str, Callable[[bytes], bytes]] = {
    "none": bytes,
    "gzip": gzip.compress,
    "zstd": zstd,
    "bz2": bz2.compress,
    "xz": functools.partial(lzma.compress, preset=0),
}


@pytest.fixture(name="packed", params=[*PACKED, "gzip without isal"])
def _packed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the name of a compression; gzip is decoded by zlib too."""
    if request.param == "gzip without isal":
        monkeypatch.setitem(sys.modules, "isal", None)
    name: str = request.param.split()[0]
    return name


def read(path: Path, start: Position | None = None) -> list[Block]:
    """Return all blocks of a file of NDJSON."""
    with Reader(Source(str(path), path.name), format="ndjson") as reader:
        return list(reader.blocks(start))


def records(blocks: list[Block]) -> list[tuple[int, int, bytes]]:
    """Return number, offset and text of each record."""
    return [each for block in blocks for each in zip(block.numbers, block.offsets, block.texts, strict=True)]


def events(count: int) -> bytes:
    """Return so many lines that no compression makes very small."""
    bits = random.Random(7)
    return b"".join(b'{"type":"track","n":%d,"x":"%x"}\n' % (n, bits.getrandbits(400)) for n in range(count))


def file_of(folder: Path, data: bytes, name: str = "events.ndjson") -> Path:
    """Write a file."""
    path = folder / name
    path.write_bytes(data)
    return path


def test_every_line_is_read_from_any_compression(tmp_path: Path, packed: str) -> None:
    """The compression is found by content, and the offsets are those of the text."""
    text = events(5000)
    path = file_of(tmp_path, PACKED[packed](text), "no-suffix")

    with Reader(Source(str(path), path.name)) as reader:
        found = records(list(reader.blocks()))
        assert (reader.compression, reader.format) == (packed, "ndjson")
        assert reader.read_bytes == reader.size_bytes == path.stat().st_size

    assert [line for _, _, line in found] == text.splitlines()
    assert [number for number, _, _ in found] == [*range(1, 5001)]
    assert all(text[offset:].startswith(line + b"\n") for _, offset, line in found[::97])


def test_reading_goes_on_at_any_record(tmp_path: Path, packed: str) -> None:
    """A resumed run reads exactly the records that the first one would have read next."""
    path = file_of(tmp_path, PACKED[packed](events(3000)))
    blocks = read(path)
    whole = records(blocks)
    places = [block.position(index) for block in blocks for index in range(len(block))]

    for index in (0, 1, 2, 777, 2998, 2999):
        assert records(read(path, places[index])) == whole[index:]
    assert read(path, blocks[-1].end) == []


@pytest.mark.parametrize("padding", [b"", b"\0" * 512])
def test_a_compressed_file_may_have_several_members(tmp_path: Path, packed: str, padding: bytes) -> None:
    """Log rotation and parallel compressors append one member to another."""
    if packed == "none":
        pytest.skip("a plain file has no members")
    text = events(2000)
    pack = PACKED[packed]
    path = file_of(tmp_path, pack(text[:1001]) + padding + pack(b"") + padding + pack(text[1001:]) + padding)

    assert b"\n".join(line for _, _, line in records(read(path))) + b"\n" == text


def test_text_that_packs_a_thousandfold_is_read_whole(tmp_path: Path, packed: str) -> None:
    """A decoder may hold text when it has all bytes of the file."""
    line = b'{"a":"' + b"a" * 1000 + b'"}'
    path = file_of(tmp_path, PACKED[packed]((line + b"\n") * 5000))

    assert [text for _, _, text in records(read(path))] == [line] * 5000


def test_what_comes_before_the_cut_of_a_file_is_read(tmp_path: Path, packed: str) -> None:
    """One error then names the file and the byte."""
    if packed == "none":
        pytest.skip("the cut of a plain file cannot be seen")
    text = events(40_000)
    data = PACKED[packed](text)
    path = file_of(tmp_path, data[: len(data) * 2 // 3])
    found: list[Block] = []

    with Reader(Source(str(path), path.name)) as reader, pytest.raises(IngestionError) as raised:
        found.extend(reader.blocks())

    lines = [line for _, _, line in records(found)]
    assert lines == text.splitlines()[: len(lines)]
    assert len(lines) > 20_000 or packed == "bz2"  # whose blocks have 900,000 bytes
    assert "cut off" in str(raised.value)
    assert str(path) in str(raised.value)
    assert raised.value.offset == path.stat().st_size


def test_damage_in_the_middle_is_one_error(tmp_path: Path, packed: str) -> None:
    """Nothing that comes after the damage is read as if it were right."""
    if packed == "none":
        pytest.skip("the damage of a plain file cannot be seen")
    text = events(40_000)
    data = bytearray(PACKED[packed](text))
    middle = len(data) // 2
    data[middle : middle + 2000] = bytes(2000)
    path = file_of(tmp_path, bytes(data))
    found: list[Block] = []

    with Reader(Source(str(path), path.name)) as reader, pytest.raises(IngestionError, match="damaged near byte"):
        found.extend(reader.blocks())

    first = [line for _, _, line in records(found)][:4000]
    assert first == text.splitlines()[:4000]


def test_other_bytes_behind_compressed_data_are_an_error(tmp_path: Path) -> None:
    """They may be half of a member."""
    path = file_of(tmp_path, gzip.compress(events(3)) + b"rubbish")
    found: list[Block] = []

    with Reader(Source(str(path), path.name)) as reader, pytest.raises(IngestionError, match="something else follows"):
        found.extend(reader.blocks())

    assert len(records(found)) == 3


def test_zstd_without_its_extra_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sentence names the extra."""
    path = file_of(tmp_path, zstd(b"{}\n"))
    if sys.version_info >= (3, 14):
        pytest.skip("Python has zstd from 3.14 on")
    monkeypatch.setitem(sys.modules, "zstandard", None)

    with pytest.raises(IngestionError, match=r"rudderpipe\[zstd\]"):
        read(path)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lines=st.lists(st.sampled_from([b"", b" ", b"\r", b"{}", b'{"a":1}', b"x" * 40, b"y" * 41, b"z" * 200])),
    piece_bytes=st.integers(1, 90),
    has_mark=st.booleans(),
    has_end=st.booleans(),
)
def test_lines_are_the_same_wherever_pieces_are_cut(
    tmp_path: Path, lines: list[bytes], piece_bytes: int, *, has_mark: bool, has_end: bool
) -> None:
    """Blank lines are counted but are no records, long ones are rejects, and every record can be gone on from."""
    text = (input.MARK if has_mark else b"") + b"\n".join(lines) + (b"\n" if has_end else b"")
    path = file_of(tmp_path, text)
    with (
        patch("rudderpipe.ingestion.input.PIECE_BYTES", piece_bytes),
        patch("rudderpipe.ingestion.lines.RECORD_LIMIT_BYTES", max(40, piece_bytes)),
    ):
        blocks = read(path)
        found = records(blocks)
        rejected = [(reject.number, reject.size_bytes) for block in blocks for reject in block.rejects]
        numbered = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
        limit = max(40, piece_bytes)

        assert [(number, line) for number, _, line in found] == [each for each in numbered if len(each[1]) <= limit]
        assert rejected == [(number, len(line)) for number, line in numbered if len(line) > limit]
        assert all(text[offset : offset + len(line)] == line for _, offset, line in found)
        places = [block.position(index) for block in blocks for index in range(len(block) + 1)]
        for place in places[:: max(1, len(places) // 7)]:
            assert records(read(path, place)) == [each for each in found if each[0] >= place.number]


def test_a_line_without_an_end_costs_no_memory(tmp_path: Path, packed: str) -> None:
    """A line of 12 MB is a reject with its beginning, and the lines around it are records."""
    path = file_of(tmp_path, PACKED[packed](b"{}\n" + b"x" * 12_000_000 + b"\n{}\n" + b"y" * 4_000_001))

    blocks = read(path)
    rejects = [reject for block in blocks for reject in block.rejects]

    assert [(number, text) for number, _, text in records(blocks)] == [(1, b"{}"), (3, b"{}")]
    assert [(reject.number, reject.size_bytes) for reject in rejects] == [(2, 12_000_000), (4, 4_000_001)]
    assert rejects[0].text == b"x" * PREVIEW_BYTES
    assert blocks[-1].end == Position(5, 3 + 12_000_001 + 3 + 4_000_001)


def test_a_line_of_the_limit_is_read(tmp_path: Path) -> None:
    """The limit itself is allowed."""
    path = file_of(tmp_path, b"x" * RECORD_LIMIT_BYTES + b"\n")

    assert [len(text) for _, _, text in records(read(path))] == [RECORD_LIMIT_BYTES]


@pytest.mark.parametrize("text", [b"", b"\n", b" \r\n\n", input.MARK])
def test_an_empty_file_has_no_records(tmp_path: Path, text: bytes) -> None:
    """It is no error."""
    path = file_of(tmp_path, text)

    with Reader(Source(str(path), path.name)) as reader:
        assert records(list(reader.blocks())) == []


def test_a_file_that_grows_is_read_to_its_end(tmp_path: Path) -> None:
    """What is there when the end is reached counts."""
    path = file_of(tmp_path, events(5000))
    with Reader(Source(str(path), path.name)) as reader:
        blocks = reader.blocks()
        found = [next(blocks)]
        with path.open("ab") as file:
            file.write(b'{"late":1}')
        found.extend(blocks)

    assert records(found)[-1][::2] == (5001, b'{"late":1}')


def test_standard_input_is_read_as_it_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first lines of a pipe are records before the pipe has more, and reading can go on at a place."""
    reading, writing = os.pipe()
    os.write(writing, b'{"type":"track"}\n{"a":2}\n')
    with os.fdopen(reading, "rb") as file:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(file))
        reader = Reader(find_sources(["-"])[0], format="ndjson")
        assert reader.size_bytes is None
        blocks = reader.blocks()
        os.write(writing, b'{"a":3}\n')
        os.close(writing)
        assert [line for _, _, line in records(list(blocks))] == [b'{"type":"track"}', b'{"a":2}', b'{"a":3}']
        assert reader.identity() is None


def test_sources_are_files_directories_and_standard_input(tmp_path: Path) -> None:
    """The files of a directory are sorted, hidden ones are left out, and a pattern looks into folders."""
    for name in ("b.ndjson.gz", "a.ndjson", ".hidden", "below/c.ndjson.gz"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    folder = str(tmp_path)

    assert [each.path for each in find_sources(["-", folder])] == ["-", f"{folder}/a.ndjson", f"{folder}/b.ndjson.gz"]
    assert [each.id_name for each in find_sources([folder], "**/*.gz")] == ["b.ndjson", "below/c.ndjson"]
    with pytest.raises(IngestionError, match="no such file"):
        find_sources([f"{folder}/d"])
    with pytest.raises(IngestionError, match="directory without files like"):
        find_sources([folder], "*.csv")


def test_the_name_in_ids_does_not_depend_on_folder_or_compression(tmp_path: Path) -> None:
    """The same file by another path, or packed, gets the same ids. Two files of one name in one command do not."""
    for name in ("one/e.ndjson", "two/e.ndjson.gz"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    first, second = str(tmp_path / "one" / "e.ndjson"), str(tmp_path / "two" / "e.ndjson.gz")

    assert {find_sources([path])[0].id_name for path in (first, second)} == {"e.ndjson"}
    assert [each.id_name for each in find_sources([first, second])] == [first, second.removesuffix(".gz")]


def test_an_id_depends_on_name_offset_and_text_alone() -> None:
    """These ids never change: a file that is sent again by a later version gets the same ones."""
    id_of = record_ids.ids_of(Source("/data/e.ndjson", "e.ndjson"))

    assert id_of(0, b'{"type":"track"}') == "ad6673b8-74a8-85cd-8a23-a58734b42f3e"
    assert len({id_of(0, b"a"), id_of(1, b"a"), id_of(0, b"b"), record_ids.ids_of(Source("f", "f"))(0, b"a")}) == 4


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda data: data + b"more", None),
        (lambda data: data[:-1], "it had"),
        (lambda data: b"X" + data[1:], "its first"),
        (lambda data: data[:100_000] + b"X" + data[100_000:], "its bytes before byte 150,000"),
    ],
)
def test_a_changed_file_is_told_from_one_that_grew(
    tmp_path: Path, change: Callable[[bytes], bytes], reason: str | None
) -> None:
    """A checkpoint is used only for the file that it was made of."""
    data = events(2000)
    path = file_of(tmp_path, data)
    source = Source(str(path), path.name)
    before = identity(source, 150_000)
    path.write_bytes(change(data))
    os.utime(path, (1, 1))

    found = before.change(source)

    assert (found or "").startswith(reason or "")
    assert (found is None) is (reason is None)


def test_both_decoders_of_gzip_are_bounded() -> None:
    """Text that packs a thousandfold comes in parts."""
    decoder = compression._gzip()

    text = decoder.decompress(gzip.compress(bytes(10_000_000)), 1000)

    assert text == bytes(1000)
    assert not decoder.needs_input

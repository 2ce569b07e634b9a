"""Compressions, which are found by content, and one decoder for each.

A decoder has the methods of ``bz2.BZ2Decompressor``: it takes bytes of the file, and returns a bounded part of the
text.
"""

from __future__ import annotations

import importlib
import sys
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

STEP_BYTES = 1 << 15
"""The most text that a decoder returns at once. So much text before a damaged place may be missing."""
_ZSTD_INPUT_BYTES = 1 << 10
"""The bytes that zstandard gets at once, because it returns all of their text: at most 32 MiB."""


class Decoder(Protocol):
    """One member of a compressed file, such as one gzip stream."""

    @property
    def eof(self) -> bool:
        """True behind the end of the member."""

    @property
    def needs_input(self) -> bool:
        """True when no more text can be had without more bytes of the file."""

    @property
    def unused_data(self) -> bytes:
        """The bytes behind the end of the member."""

    def decompress(self, data: bytes, max_length: int) -> bytes:
        """Return about ``max_length`` bytes of text; raise an error of the library when the file is damaged."""


class Compression(NamedTuple):
    """A compression: its name, the first bytes of each member, its decoder, and what to do when that is missing."""

    name: str
    magic: bytes
    decoder: Callable[[], Decoder]
    """Return a decoder of one member; raise ``ImportError`` when the library is missing."""
    when_missing: str


def compression_of(head: bytes) -> Compression | None:
    """Return the compression of a file by its first bytes; None for a file that is not compressed."""
    return next((each for each in _COMPRESSIONS if head.startswith(each.magic)), None)


class _Zlib:
    """A decoder of one gzip member with zlib."""

    def __init__(self) -> None:
        self._zlib = zlib.decompressobj(wbits=31)
        self.needs_input = True

    @property
    def eof(self) -> bool:
        return self._zlib.eof

    @property
    def unused_data(self) -> bytes:
        return self._zlib.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        text = self._zlib.decompress(self._zlib.unconsumed_tail + data, max_length)
        self.needs_input = not self._zlib.unconsumed_tail and len(text) < max_length
        return text


class _Zstandard:
    """A decoder of one zstd frame with the package zstandard, in small portions, because that bounds no text."""

    def __init__(self, zstandard: Any) -> None:
        self._frame = zstandard.ZstdDecompressor().decompressobj()
        self._waiting = b""
        self._at = 0
        self.needs_input = True

    @property
    def eof(self) -> bool:
        return bool(self._frame.eof)

    @property
    def unused_data(self) -> bytes:
        return bytes(self._frame.unused_data) + self._waiting[self._at :]

    def decompress(self, data: bytes, max_length: int) -> bytes:
        if data:
            self._waiting, self._at = self._waiting[self._at :] + data, 0
        texts: list[bytes] = []
        size_bytes = 0
        while size_bytes < max_length and self._at < len(self._waiting) and not self._frame.eof:
            portion = self._waiting[self._at : self._at + _ZSTD_INPUT_BYTES]
            self._at += len(portion)
            texts.append(self._frame.decompress(portion))
            size_bytes += len(texts[-1])
        self.needs_input = self._at >= len(self._waiting)
        return b"".join(texts)


def _gzip() -> Decoder:
    try:
        from isal import igzip_lib  # an extra, so it may be missing
    except ImportError:
        return _Zlib()
    decoder: Decoder = igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP)
    return decoder


def _zstd() -> Decoder:
    if sys.version_info >= (3, 14):
        return importlib.import_module("compression.zstd").ZstdDecompressor()  # type: ignore[no-any-return]  # unknown to older Pythons
    return _Zstandard(importlib.import_module("zstandard"))


def _bz2() -> Decoder:
    import bz2  # here, because a Python may be built without it

    return bz2.BZ2Decompressor()


def _xz() -> Decoder:
    import lzma  # here, because a Python may be built without it

    return lzma.LZMADecompressor(lzma.FORMAT_XZ)


_BUILT_WITHOUT = "this Python was built without it, so unpack the file first"
_COMPRESSIONS = (
    Compression("gzip", b"\x1f\x8b", _gzip, _BUILT_WITHOUT),
    Compression("zstd", b"\x28\xb5\x2f\xfd", _zstd, "install the extra for it: pip install 'rudderpipe[zstd]'"),
    Compression("bz2", b"BZh", _bz2, _BUILT_WITHOUT),
    Compression("xz", b"\xfd7zXZ\x00", _xz, _BUILT_WITHOUT),
)
MAGIC_BYTES = max(len(each.magic) for each in _COMPRESSIONS)

"""Message ids of records that have none: the same record gets the same id in each run.

An id is the UUID of version 8 (RFC 9562) whose bits are the first 128 of a SHA-256, except those of version and
variant. The SHA-256 is over these bytes, in this order:

* ``rudderpipe record 1`` in ASCII and one zero byte,
* the name of the source (``Source.id_name``) in UTF-8 and one zero byte,
* the offset of the record's text in the decompressed file, as 8 bytes, the most significant one first,
* the record's text, without the line feed that ends its line.

This never changes, because a file that is sent again by a later version must get the same ids.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from rudderpipe.ingestion.source import Source

_VARIANTS = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}


def ids_of(source: Source) -> Callable[[int, bytes], str]:
    """Return a function from the offset and the text of a record of this source to the record's message id."""
    name = source.id_name.encode("utf-8", "surrogateescape")
    begun = hashlib.sha256(b"rudderpipe record 1\0" + name + b"\0").copy

    def record_id(offset: int, text: bytes) -> str:
        whole = begun()
        whole.update(offset.to_bytes(8, "big"))
        whole.update(text)
        digits = whole.hexdigest()
        return f"{digits[:8]}-{digits[8:12]}-8{digits[13:16]}-{_VARIANTS[digits[16]]}{digits[17:20]}-{digits[20:32]}"

    return record_id

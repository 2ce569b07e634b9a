"""The command ``rudderpipe metrics``, which prints or stores the metrics of a pipe and its queue once."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import msgspec

from rudderpipe.errors import SettingsError
from rudderpipe.observe.metrics import exposition, of_pipe
from rudderpipe.observe.reader import Reader
from rudderpipe.service.signals import EXIT_OK
from rudderpipe.settings import Settings

PATIENCE_S = 15.0
"""How long the command waits for Redis: longer than for a connection and a response."""


def metrics(settings: Settings, textfile: str | None, *, as_json: bool) -> int:
    """Print the metrics, or write them to a file. Return an exit code. Raise ``ExtraMissing``, except for JSON."""
    values = of_pipe.build_info("command")
    values.add(exposition.of_pipe_and_queue(settings, Reader(settings, patience_s=PATIENCE_S)))
    content = msgspec.json.encode(values.as_json()) + b"\n" if as_json else exposition.exposed(lambda: values).content
    if textfile is None:
        sys.stdout.flush()
        sys.stdout.buffer.write(content)
    else:
        try:
            _replace(Path(textfile), content)
        except OSError as error:
            raise SettingsError("--textfile", f"cannot be written: {error.strerror}") from error
    return EXIT_OK


def _replace(path: Path, content: bytes) -> None:
    """Write a file so that its reader, which may be another user, finds the old or the new one and no part of it."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")  # node_exporter reads only names that end in .prom
    try:
        part.write_bytes(content)
        part.chmod(0o644)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)

"""What a frozen application calls first: it has no Python that could run flusher and sender but its own executable."""

from __future__ import annotations

import os
import sys
from itertools import pairwise


def freeze_support() -> None:
    """Run as flusher or sender where this process was started for that, and end; otherwise allow such starts.

    Call it first in the main module of an application that PyInstaller, cx_Freeze, py2app or Nuitka has frozen, as
    ``multiprocessing.freeze_support``. In every other application it does nothing.
    """
    from rudderpipe.process import spawn  # here, as it loads what an import of rudderpipe alone must not cost

    spawn.allow_frozen()
    if sys.argv[1:2] != [spawn.FROZEN_ARGUMENT]:
        return
    try:
        _run_process()
    except Exception:  # noqa: BLE001  # an error that ends a process of ours is for its log, and never for the application
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(0)


def _run_process() -> None:
    # Here, as an application needs none of it; named, so that a freezer finds what is to be packed.
    from rudderpipe.flusher.__main__ import main as flusher
    from rudderpipe.sender.__main__ import main as sender
    from rudderpipe.service import bootstrap

    module = sys.argv[2]
    del sys.argv[1:3]
    sys.stdin.buffer.readline()  # the folders, which a Python needs
    if "--detach" in sys.argv:
        _hand_on(module, [argument for argument in sys.argv[1:] if argument not in ("--detach", "--stdin")])
        return
    mains = {"rudderpipe.flusher": flusher, "rudderpipe.sender": sender}
    bootstrap.guarded(module.rpartition(".")[2], mains[module])


def _hand_on(module: str, arguments: list[str]) -> None:
    """Start the process once more, which is no child of the application then.

    A fork would not do: the loader of a one-file application removes the unpacked files when the process that it
    started ends, though the fork still needs them.
    """
    from pathlib import Path  # as above

    from rudderpipe.process import spawn

    options = dict(pairwise(arguments))
    spawn.start(
        module,
        sys.stdin.buffer.readline().strip(),
        *arguments,
        log=Path(options["--log"]),
        keep=(int(options["--claim"]),),
    )

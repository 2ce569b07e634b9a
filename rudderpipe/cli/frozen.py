"""The start of flusher and sender in a frozen application, which has no other Python than its own executable."""

from __future__ import annotations

import os
import sys
from itertools import pairwise


def freeze_support() -> None:
    """Run as flusher or sender if this process was started as one, then exit; otherwise allow such starts.

    Call this function first in the main module of an application that PyInstaller, cx_Freeze, py2app or Nuitka has
    frozen, as you call ``multiprocessing.freeze_support``. In every other application it does nothing.
    """
    from rudderpipe.process import spawn  # here, because ``import rudderpipe`` alone must stay cheap

    spawn.allow_frozen()
    if sys.argv[1:2] != [spawn.FROZEN_ARGUMENT]:
        return
    try:
        _run_process()
    except Exception:  # noqa: BLE001  # the error belongs in the log of this process; the application must never run here
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(0)


def _run_process() -> None:
    # Imported here, because the application needs none of it; by name, so that the freezer finds the modules to pack.
    from rudderpipe.flusher.__main__ import main as flusher
    from rudderpipe.sender.__main__ import main as sender
    from rudderpipe.service import bootstrap

    module = sys.argv[2]
    del sys.argv[1:3]
    sys.stdin.buffer.readline()  # the folders of modules, which only a Python needs
    if "--detach" in sys.argv:
        _hand_on(module, [argument for argument in sys.argv[1:] if argument not in ("--detach", "--stdin")])
        return
    mains = {"rudderpipe.flusher": flusher, "rudderpipe.sender": sender}
    bootstrap.guarded(module.rpartition(".")[2], mains[module])


def _hand_on(module: str, arguments: list[str]) -> None:
    """Start the process once more, so that it is not a child of the application.

    A fork is not enough, because the loader of a one-file application removes the unpacked files when the process
    that it started ends, while the fork still needs them.
    """
    from pathlib import Path  # here, as above

    from rudderpipe.process import spawn

    options = dict(pairwise(arguments))
    spawn.start(
        module,
        sys.stdin.buffer.readline().strip(),
        *arguments,
        log=Path(options["--log"]),
        keep=(int(options["--claim"]),),
    )

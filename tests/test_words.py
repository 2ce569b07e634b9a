"""One word for each thing: identifiers that were given up do not come back."""

from __future__ import annotations

import ast
import functools
import io
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
GIVEN_UP = {
    "Batch": ("Cut", "Parcel"),
    "ActiveJob": ("Taken",),
    "OffsetRange": ("Mark",),
    "tenure": ("tenancy",),
    "credits": ("grant", "appetite", "_appetite"),
    "commit": ("settle", "settling", "H_SETTLING"),
    "acknowledged": ("seen_off", "H_SEEN_OFF", "H_SEEN_FAILED", "H_SEEN_TIMES"),
    "reclaim": ("bury",),
    "Transport": ("Outlet", "outlet", "Nowhere", "InTheCall"),
    "fast path": ("short_way", "long_way"),
    "Dispatcher": ("Courier", "courier"),
    "Decision": ("Verdict", "verdict"),
    "Response": ("Answer", "NoAnswer"),
    "PendingAcks": ("Ledger", "ledger"),
    "SenderState": ("Facts", "facts"),
    "LockRenewer": ("Keeper",),
    "Counters": ("Account", "ProducerAccount"),
    "dead letters": ("Spool", "SpooledJobs"),
    "Defaults": ("Maker", "maker"),
    "what a test's helper is": ("Stage", "Stand", "World", "Crowd", "Line"),
}
MODULES = frozenset(
    ("whole", "place", "parts", "maker", "reach", "moments", "put", "duty", "keeper", "facts", "ledger")
)
ALLOWED = {
    "verdict": ("native_tests/storm", "native_tests/test_storm.py", "bench/storm.py"),  # the storm's, on the product
    "Verdict": ("native_tests/storm", "bench/storm.py"),
}
"""The files in which a word means another thing."""
FILES = sorted(
    path
    for folder in ("rudderpipe", "tests", "native_tests", "bench")
    for path in (ROOT / folder).rglob("*.py")
    if "node_modules" not in path.parts and path != Path(__file__)
)


@functools.cache
def identifiers(path: Path) -> set[str]:
    """Return every name in a file, which is read once for all words."""
    tokens = tokenize.generate_tokens(io.StringIO(path.read_text()).readline)
    return {token.string for token in tokens if token.type == tokenize.NAME}


@pytest.mark.parametrize("word", GIVEN_UP)
def test_a_thing_has_one_word(word: str) -> None:
    """No file uses a name that was given up."""
    found = [
        f"{where}: {name}"
        for path, where in ((path, path.relative_to(ROOT).as_posix()) for path in FILES)
        for name in identifiers(path).intersection(GIVEN_UP[word])
        if not where.startswith(ALLOWED.get(name, ("\0",)))
    ]
    assert found == []


def test_a_module_is_named_by_what_it_holds() -> None:
    """The names in the list say nothing."""
    assert [path.name for path in FILES if path.stem in MODULES] == []


ALIASES = {"layout": "at", "settings": "settings_module", "job": "jobs"}
"""Modules whose words stand in nearly every line, or whose name every caller needs for a value of that kind."""
OTHER_ALIASES = {
    ("rudderpipe/compat/client.py", "client"),
    ("rudderpipe/compat/segment.py", "client"),
}


def renamed_modules(path: Path) -> set[tuple[str, str]]:
    """Return the modules of rudderpipe that a file imports under another name, with that name."""
    return {
        (alias.name, alias.asname)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "rudderpipe"
        for alias in node.names
        if alias.asname and _is_module((node.module or "").split("."), alias.name)
    }


def _is_module(package: list[str], name: str) -> bool:
    found = ROOT.joinpath(*package, name)
    return found.is_dir() or found.with_suffix(".py").exists()


def test_a_module_keeps_its_name() -> None:
    """A reader finds a module by the name that its callers use."""
    found = [
        (where, name, alias)
        for path, where in ((path, path.relative_to(ROOT).as_posix()) for path in FILES)
        for name, alias in renamed_modules(path)
        if ALIASES.get(name) != alias and (where, name) not in OTHER_ALIASES
    ]
    assert found == []

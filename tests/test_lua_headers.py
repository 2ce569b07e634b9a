"""A script's header is its contract: what it lists is what the body takes, by number and by name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from rudderpipe.queue import scripts

SCRIPTS = sorted((Path(scripts.__file__).parent / "lua").glob("*.lua"))
LINE = re.compile(r"^  (KEYS|ARGV)\[(\d+)\] +(\w+) +(\w+) +\S", re.MULTILINE)
LOCALS = re.compile(r"^local ([\w, ]+) =\s+((?:(?:KEYS|ARGV)\[\d+\](?:, )?)+)$", re.MULTILINE)


def test_the_loader_knows_every_script() -> None:
    """A script that is in the folder and not in the list, or the other way round, is found here."""
    assert sorted(scripts.NAMES) == [path.stem for path in SCRIPTS]


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_header_is_the_contract(path: Path) -> None:
    """What the header lists is what the body takes, and every part of the form is there."""
    text = path.read_text()
    header, body = text.split("]]\n", 1)
    listed = {f"{kind}[{number}]": name for kind, number, name, _ in LINE.findall(header)}
    taken: dict[str, str] = {}
    for names, slots in LOCALS.findall(body):
        taken |= dict(zip(slots.split(", "), names.split(", "), strict=True))

    assert listed == taken
    assert not re.search(r"(KEYS|ARGV)\[", LOCALS.sub("", body))  # named once, never by number again
    assert header.startswith(f"--[[\n  {path.stem}: ")
    assert "\n  One script, because " in header
    for word in ("Returns", "Promises", "Costs", "Same as"):
        assert re.search(rf"^  {word} ", header, re.MULTILINE), word

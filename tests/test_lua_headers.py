"""A script's header is its contract, so it lists the keys and arguments that the body takes, by number and name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from rudderpipe.queue import scripts

SCRIPTS = sorted((Path(scripts.__file__).parent / "lua").glob("*.lua"))
INCLUDES = sorted((Path(scripts.__file__).parent / "lua" / "include").glob("*.lua"))
INCLUDE = re.compile(r"^-- include: (\w+)$", re.MULTILINE)
FUNCTION = re.compile(r"^local function (\w+)\(", re.MULTILINE)
LOOP = re.compile(r"^ *(?:for|while|repeat)\b.*", re.MULTILINE)
BOUNDED = re.compile(
    r"^ *for (?:[\w, ]+ in ipairs\(.+\)|[\w, ]+ in pairs\(\{.*|\w+ = [^,]+, [^,]+(?:, -?\d+)?) ?(?:do)?$"
)
LINE = re.compile(r"^  (KEYS|ARGV)\[(\d+)\] +(\w+) +(\w+)\*? +\S", re.MULTILINE)
LOCALS = re.compile(r"^local ([\w, ]+) =\s+((?:(?:KEYS|ARGV)\[\d+\](?:, )?)+)$", re.MULTILINE)


def test_the_loader_knows_every_script() -> None:
    """A script must not be in the folder but not in the list, or the other way round."""
    assert sorted(scripts.NAMES) == [path.stem for path in SCRIPTS]


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_a_header_lists_the_keys_and_arguments_of_its_script(path: Path) -> None:
    """Every part of the header's form must be there, because the headers are the documentation of the queue."""
    text = path.read_text()
    header, body = text.split("]]\n", 1)
    listed = {f"{kind}[{number}]": name for kind, number, name, _ in LINE.findall(header)}
    taken: dict[str, str] = {}
    for names, slots in LOCALS.findall(body):
        taken |= dict(zip(slots.split(", "), names.split(", "), strict=True))

    assert listed == taken
    assert not re.search(r"(KEYS|ARGV)\[", LOCALS.sub("", body))  # the body uses a number only to name its value
    assert header.startswith(f"--[[\n  {path.stem}: ")
    assert "\n  One script, because " in header
    for word in ("Returns", "Promises", "Costs", "Same as"):
        assert re.search(rf"^  {word} ", header, re.MULTILINE), word


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_includes_exactly_the_functions_that_it_uses(path: Path) -> None:
    """An include stands once, before the code that needs it, and the script or a later include calls it."""
    known = {include.stem: include.read_text() for include in INCLUDES}
    body = path.read_text().split("]]\n", 1)[1]
    included = INCLUDE.findall(body)
    assert "-- include" not in INCLUDE.sub("", body)  # the loader reads this form only
    assert len(set(included)) == len(included)
    own = INCLUDE.sub("", body)

    for number, name in enumerate(included):
        (function,) = FUNCTION.findall(known[name])
        later = [known[other] for other in included[number + 1 :]]
        assert any(re.search(rf"\b{function}\(", text) for text in (own, *later)), f"{name} is not used"
    for name, text in known.items():
        (function,) = FUNCTION.findall(text)
        for user, uses in (("", own), *((other, known[other]) for other in included if other != name)):
            if re.search(rf"\b{function}\(", uses):
                assert name in included, f"{function} is called and {name} is not included"
                assert not user or included.index(name) < included.index(user)


@pytest.mark.parametrize("path", INCLUDES, ids=lambda path: path.stem)
def test_an_include_is_one_function_without_keys_by_number(path: Path) -> None:
    """It has a comment that says its purpose, and some script includes it."""
    text = path.read_text()

    assert text.startswith("-- ")
    assert len(FUNCTION.findall(text)) == 1
    assert not re.search(r"\b(KEYS|ARGV)\b", text)
    assert any(path.stem in INCLUDE.findall(script.read_text()) for script in SCRIPTS)


@pytest.mark.parametrize("path", [*SCRIPTS, *INCLUDES], ids=lambda path: path.stem)
def test_every_loop_has_a_bound(path: Path) -> None:
    """A loop runs over a given list or up to a number, because a script that runs forever stops Redis."""
    body = path.read_text().split("]]\n", 1)[-1]
    code = re.sub(r"--.*", "", body)

    for loop in LOOP.findall(code):
        assert BOUNDED.match(loop.rstrip()), loop
    assert not re.search(r"\bgoto\b|\bunpack\(\s*redis", code)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_no_script_writes_out_a_key(path: Path) -> None:
    """A literal key would belong to another queue. Each key is an argument or begins with the prefix."""
    code = re.sub(r"--.*", "", path.read_text().split("]]\n", 1)[1])

    assert "{rudder}" not in code
    assert not re.search(r"redis\.call\(\"\w+\", \"(?!USAGE)", code)  # the first argument of a command
    # The time is an argument too, except where moments of several hosts are compared.
    assert 'redis.call("TIME"' not in code or path.stem == "renew_member"

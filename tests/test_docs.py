"""What the documentation names exists: settings, variables, commands, options and modules."""

from __future__ import annotations

import argparse
import importlib.util
import re
from pathlib import Path

import pytest

import rudderpipe
from rudderpipe.cli import main
from rudderpipe.flusher.__main__ import parser as flusher
from rudderpipe.sender.__main__ import parser as sender
from rudderpipe.settings import Settings

ROOT = Path(__file__).parent.parent
PACKAGE = Path(rudderpipe.__file__).parent
PAGES = sorted((*(ROOT / "docs").glob("*.md"), ROOT / "README.md"))
OTHER_NAMES = frozenset(("max_requests",))
"""Settings of gunicorn."""
OTHER_PROGRAMS = frozenset(
    (
        *("--preload", "--workers", "--bind", "--pid", "--daemon", "--env", "--max-tasks-per-child", "--master"),
        *("--retry", "--retry-connrefused", "--port", "--save", "--collect-data", "--home", "--without-gossip"),
        *("--durations", "--quick", "--shm-size", "--memory", "--shell", "--ini", "--http-socket"),
        *("--init", "--stop-timeout", "--no-deps", "--system", "--now", "--pipe", "--wait"),
    )
)
"""Options of gunicorn, uWSGI, Celery, curl, redis-server, docker, PyInstaller, pytest, argcomplete, benchmarks."""


def pages() -> list[pytest.ParameterSet]:
    """Return the text of each page, for a test of each."""
    return [pytest.param(path.read_text(), id=path.relative_to(ROOT).as_posix()) for path in PAGES]


def code_of(text: str) -> list[str]:
    """Return every piece of code of a page: its words in backticks, and the lines of its blocks."""
    blocks = re.findall(r"^```.*?^```$|^(?: {4}[^\n]*\n)+", text, re.MULTILINE | re.DOTALL)
    rest = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    return [*re.findall(r"`([^`\n]+)`", rest), *(line for block in blocks for line in block.splitlines())]


def parsers() -> dict[str, argparse.ArgumentParser]:
    """Return the parser of each command, and of each command of a command."""
    found: dict[str, argparse.ArgumentParser] = {}

    def add(prefix: str, parser: argparse.ArgumentParser) -> None:
        found[prefix] = parser
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                for name, each in action.choices.items():
                    add(f"{prefix} {name}", each)

    add("rudderpipe", main.parser())
    return found


def options(parser: argparse.ArgumentParser) -> set[str]:
    """Return the options that a parser knows."""
    return set(parser._option_string_actions)


@pytest.mark.parametrize("text", pages())
def test_every_variable_belongs_to_a_setting(text: str) -> None:
    """A reader who sets a variable that does not exist changes nothing."""
    known = {f"RUDDERPIPE_{name.upper()}" for name in Settings.__struct_fields__} | {"RUDDERPIPE_CONFIG"}

    assert set(re.findall(r"\bRUDDERPIPE_[A-Z_]*[A-Z]\b", text)) <= known


@pytest.mark.parametrize("text", pages())
def test_every_command_exists_with_its_options(text: str) -> None:
    """A reader copies commands."""
    known = parsers()
    for code in code_of(text):
        for words in re.findall(r"(?:^|[ (])rudderpipe((?: [a-z-]+)+)", code):
            names = [f"rudderpipe {' '.join(words.split()[:count])}" for count in (2, 1)]
            name = next((name for name in names if name in known), None)
            assert name is not None, code
            given = code.partition(name)[2].partition("#")[0]
            assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", given)) <= options(known[name]), code


@pytest.mark.parametrize("text", pages())
def test_every_option_exists(text: str) -> None:
    """An option that stands alone in a sentence belongs to one of our programs, or to a known one."""
    ours = set().union(*map(options, parsers().values()), options(flusher()), options(sender()))
    named = {option for code in code_of(text) for option in re.findall(r"(?<![\w-])--[a-z][a-z-]*", code)}

    assert named - ours - OTHER_PROGRAMS == set()


def test_every_page_is_listed() -> None:
    """The list is the navigation of the site. A reader of the repository finds it from README.md."""
    docs = ROOT / "docs"
    listed = re.findall(r"^\| \[[^]]+\]\(([a-z/-]+\.md)\)", (docs / "README.md").read_text(), re.MULTILINE)

    assert sorted(page for page in listed if "/" not in page) == sorted(
        page.name for page in docs.glob("*.md") if page.name not in ("README.md", "index.md")
    )
    assert "/docs/README.md)" in (ROOT / "README.md").read_text()


def test_no_example_uses_the_port_of_another_program() -> None:
    """9121 is that of redis_exporter, which runs beside Redis on many hosts."""
    assert [page.name for page in PAGES if ":9121" in page.read_text()] == []


@pytest.mark.parametrize("text", pages())
def test_every_module_exists(text: str) -> None:
    """A reader starts modules by ``python -m``, and imports them."""
    named = set(re.findall(r"(?:-m|from|import) (rudderpipe(?:\.\w+)*)", text))

    assert [name for name in named if importlib.util.find_spec(name) is None] == []


@pytest.mark.parametrize("text", pages())
def test_every_name_in_code_is_in_the_sources(text: str) -> None:
    """A setting, argument, method or script that was renamed does not stay in the documentation."""
    sources = "\n".join(
        path.read_text()
        for folder in (PACKAGE, ROOT / "tests")
        for path in folder.rglob("*")
        if path.suffix in (".py", ".lua")
    )
    known = set(re.findall(r"\w+", sources)) | {path.stem for path in PACKAGE.rglob("*.lua")}
    named = {name for code in code_of(text) for name in re.findall(r"^([a-z]+(?:_[a-z0-9]+)+)(?:\(.*\)|=.*)?$", code)}

    assert {name for name in named - known - OTHER_NAMES if not name.startswith("test_")} == set()

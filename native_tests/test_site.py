"""The documentation site, as ``make docs`` builds it."""

from __future__ import annotations

import re
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

from native_tests.pages import DOCS, REPOSITORY
from rudderpipe.cli.options import GROUPS, option_of

pytest.importorskip("sphinx", reason="needs the extra docs")
PICTURE = REPOSITORY / "tests" / "golden" / "public_api.txt"
MODULES = {"rudderpipe.compat.rudderstack", "rudderpipe.compat.segment"}
"""Modules whose settings the site names in one sentence."""
SHARED = {"--config", *(option_of(name) for group in GROUPS.values() for name in group)}
"""Options of many commands, which the site describes once."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the built site; the build must have no warning."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-E", "-d", str(folder / "read")]
    done = subprocess.run([*command, str(DOCS), str(folder / "html")], capture_output=True, check=False)
    assert (done.returncode, done.stderr.decode()) == (0, "")
    return folder / "html"


def names(site: Path) -> set[str]:
    """Return every name that the site describes: of Python as it is, of an option with its command before it."""
    packed = (site / "objects.inv").read_bytes().split(b"\n", 4)[4]
    return {line.split()[0] for line in zlib.decompress(packed).decode().splitlines()}


def public() -> tuple[set[str], set[str]]:
    """Return the public names of Python, and the options, in the form of ``names``."""
    python, options, owner = set(), set(), ""
    for line in PICTURE.read_text().splitlines():
        name = re.findall(r"[\w.]+", line)[0]
        if line.startswith("rudderpipe "):
            command, _, option = line.rpartition(" ")
            options.add(f"{command.replace(' ', '-')}.{option}")
        elif line.startswith(" "):
            python.add(f"{owner}{name}")
        else:
            owner = name
            python.add(name)
    return python, options


def test_every_public_name_is_in_the_reference(site: Path) -> None:
    """A name without a description is one that a user cannot use."""
    there = names(site)
    for where, other in (("rudderpipe.errors.", "rudderpipe."), (".Client.DefaultConfig", ".DefaultConfig")):
        there |= {name.replace(where, other) for name in there}
    said = re.findall(r'<span class="pre">(\w+)</span>', (site / "reference" / "drop-ins.html").read_text())
    there |= {f"{module}.{name}" for module in MODULES for name in said}
    python, _ = public()

    assert python - there == set()


def test_every_option_is_in_the_reference(site: Path) -> None:
    """The options that all commands share are described once, without a command."""
    there = names(site)
    _, options = public()
    own = {name for name in options if name.rpartition(".")[2] not in {"-h|--help", *SHARED}}
    metavars = {name for name in there if re.fullmatch(r"rudderpipe[a-z-]*\.[A-Z]+", name)}

    assert {f"rudderpipe.{option}" for option in SHARED} <= there
    assert {name for name in own if "--" in name} - there == set()
    assert len({name for name in own if "--" not in name}) == len(metavars)


def test_every_heading_has_the_anchor_of_github(site: Path) -> None:
    """A link to a heading leads to it in both."""
    for page in DOCS.glob("*.md"):
        text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
        headings = [
            re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", each) for each in re.findall(r"^#+ (.*)$", text, re.MULTILINE)
        ]
        anchors = {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings}
        ids = set(re.findall(r'\bid="([^"]*)"', (site / f"{page.stem}.html").read_text()))

        assert anchors - ids == set(), page.name


def test_the_site_loads_nothing_from_another_host(site: Path) -> None:
    """It can be read without a network, and tells no one who reads it."""
    pages = [page.read_text() for page in site.rglob("*.html")]
    loaded = {
        url for page in pages for url in re.findall(r'<(?:script|img|iframe|link)[^>]*?(?:src|href)="([^"]*)"', page)
    }

    assert len(pages) > 30
    assert {url for url in loaded if "//" in url} == set()

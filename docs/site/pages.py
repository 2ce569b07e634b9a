"""The pages of the site out of the Markdown that GitHub shows: its links, its start page and its navigation."""

from __future__ import annotations

import re
from collections.abc import Container
from functools import cache
from pathlib import Path, PurePosixPath
from posixpath import normpath, relpath
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

ROOT = Path(__file__).parent.parent.parent
DOCS = "docs"
STANDS_FOR = {"index": "README.md", "reference/changelog": "CHANGELOG.md"}
"""Pages whose text is a file outside of ``docs``."""
CONTENTS = {"index": "README", "reference/api": "reference/api"}
"""Pages that lead to others in the navigation, and the page whose tables list these."""
_LINK = re.compile(r"(?<=\]\()(?P<url>[^)#\s]+)(?P<anchor>#[^)\s]*)?(?=\))")
_TABLE = re.compile(r"^\| (?P<title>[^|]*?) *\|.*\n\|[ |-]+\n(?P<rows>(?:\|.*\n?)+)", re.MULTILINE)
_LISTED = re.compile(r"^\| \[[^]]*\]\(([^)#]+)\.md\)", re.MULTILINE)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the extension with Sphinx."""
    app.connect("source-read", _read)
    app.connect("doctree-read", _add_anchors)
    return {"parallel_read_safe": True}


def _read(app: Sphinx, page: str, source: list[str]) -> None:
    """Make the text of a page from the text of its file."""
    file = STANDS_FOR.get(page, f"{DOCS}/{page}.md")
    if page in STANDS_FOR:
        app.env.note_dependency(str(ROOT / file))
        source[0] = (ROOT / file).read_text()
    source[0] = _with_links_of_site(source[0], page, file, app.env.found_docs)
    if page == "README":
        source[0] = f"---\norphan: true\n---\n{source[0]}"
    if page in CONTENTS:
        app.env.note_dependency(str(ROOT / DOCS / f"{CONTENTS[page]}.md"))
        source[0] += _navigation((ROOT / DOCS / f"{CONTENTS[page]}.md").read_text())


def _add_anchors(_app: Sphinx, document: nodes.document) -> None:
    """Give each heading the anchor that it has on GitHub, as newer versions of MyST do by themselves."""
    for section in document.findall(nodes.section):
        anchor = section.get("slug")
        if anchor and anchor not in section["ids"]:
            section["ids"].append(anchor)


def _with_links_of_site(text: str, page: str, file: str, known: Container[str]) -> str:
    """Return the text with links to pages of the site, and to the repository for every other file."""
    pages = {of: name for name, of in STANDS_FOR.items()}

    def link(found: re.Match[str]) -> str:
        url, anchor = found["url"], found["anchor"] or ""
        if url.startswith(f"{repository()}/"):  # as in README.md, which PyPI shows too
            target = url.partition("/main/")[2]
        elif ":" in url:
            return found[0]
        else:
            target = normpath(PurePosixPath(file).parent / url)
        if target.endswith(".png"):  # a picture, which the site has itself
            return relpath(target, str(PurePosixPath(DOCS, page).parent))
        name = pages.get(target, target.removeprefix(f"{DOCS}/").removesuffix(".md"))
        if name in known:
            return f"{relpath(name, str(PurePosixPath(page).parent))}.md{anchor}"
        if not (ROOT / target).exists():
            return f"{target}{anchor}"  # of which the build says that it leads nowhere
        return f"{repository()}/{'tree' if (ROOT / target).is_dir() else 'blob'}/main/{target}{anchor}"

    return _LINK.sub(link, text)


def _navigation(text: str) -> str:
    """Return a part of the navigation for each table: its title, and the pages that its first column leads to."""
    parts = [
        "\n".join(
            ("", "```{toctree}", ":hidden:", f":caption: {table['title']}", *_LISTED.findall(table["rows"]), "```", "")
        )
        for table in _TABLE.finditer(text)
    ]
    return "".join(parts)


@cache
def repository() -> str:
    """Return the address of the repository, which the publisher sets in ``pyproject.toml``."""
    found = re.search(r'^Homepage = "(.*)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert found is not None
    return found[1]

"""Imports point one way: a package imports only packages that stand above its own."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "rudderpipe"
LAYERS = [
    ("_version", "log_text", "types"),
    ("errors", "encoder"),
    ("events", "settings"),
    ("process",),
    ("service",),
    ("messages", "ring", "queue", "delivery"),
    ("transports",),
    ("client",),
    ("flusher", "sender"),
    ("testing", "observe"),
    ("flusher.__main__", "sender.__main__"),
    ("ingestion",),
    ("cli", "contrib", "compat"),
    ("__main__", "__init__"),
]
ONLY = {
    "redis": {
        *("queue.scripts", "queue.connection", "queue.active_job", "queue.queue", "queue.meter"),
        "testing.redis_server",
    },
    "urllib3": {"delivery.connection"},
    "psutil": {"process.identity", "observe.metrics.of_process", "cli.demo"},
    "waitress": {"observe.web.server"},
    "rudderpipe.delivery": {"delivery", "transports.sync", "flusher", "sender", "observe"},
}
"""The only modules or packages that may import these, so that the application's process loads them late or never."""
ROOT_MODULES_AT_MOST = 8
LINES_OF_A_MODULE_AT_MOST = 450


def imports(path: Path) -> Iterator[str]:
    """Yield every module that a file imports, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def name_of(path: Path) -> str:
    """Return the module's name below rudderpipe."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def own_imports(module: str) -> set[str]:
    """Return the modules of rudderpipe that a module imports."""
    found = (target.removeprefix("rudderpipe.") for target in imports(MODULES[module]) if target != "rudderpipe")
    return {target for target in found if target in MODULES and target != module}


def layer_of(module: str) -> int:
    """Return the number of the layer that a module stands in by itself, or else its package."""
    names = {module, module.split(".")[0]}
    return max(number for number, layer in enumerate(LAYERS) if names & set(layer))


def problems() -> Iterator[str]:
    """Yield a text for each import that breaks the rules."""
    for module, path in MODULES.items():
        package = module.split(".")[0]
        for target in own_imports(module):
            other = target.split(".")[0]
            if other != package and layer_of(target) >= layer_of(module):
                yield f"{module} imports {target}, which does not stand above it"
        for target in imports(path):
            for guarded, allowed in ONLY.items():
                if (target == guarded or target.startswith(f"{guarded}.")) and not {module, package} & allowed:
                    yield f"{module} imports {target}"


def test_every_import_points_to_a_layer_above() -> None:
    """Processes that move events therefore meet only where events rest."""
    assert list(problems()) == []


def test_no_modules_import_each_other() -> None:
    """A circle of any length is found."""
    try:
        TopologicalSorter({module: own_imports(module) for module in MODULES}).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_modules_at_the_root_are_few_and_modules_are_short() -> None:
    """A reader finds the way from the root, and reads a module at once."""
    assert len([module for module in MODULES if "." not in module and MODULES[module].parent == PACKAGE]) <= (
        ROOT_MODULES_AT_MOST
    )
    assert [
        module for module, path in MODULES.items() if len(path.read_text().splitlines()) > LINES_OF_A_MODULE_AT_MOST
    ] == []

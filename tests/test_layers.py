"""The house has one direction: a package imports only packages of the lines above its own."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

HOUSE = Path(__file__).parent.parent / "rudderpipe"
LINES = [
    ("_version", "log_text"),
    ("errors", "encoder", "types"),
    ("settings",),
    ("process",),
    ("service",),
    ("messages", "ring", "queue", "delivery"),
    ("transports",),
    ("client",),
    ("flusher", "sender"),
    ("testing", "observe"),
    ("cli", "contrib", "compat"),
    ("__main__", "__init__"),
]
ONLY = {
    "redis": {
        *("queue.scripts", "queue.connection", "queue.active_job", "queue.queue"),
        "testing.redis_server",
    },
    "urllib3": {"delivery.connection"},
    "psutil": {"process.identity", "cli.demo"},
    "rudderpipe.delivery": {"delivery", "transports.sync", "flusher", "sender"},
}
"""Which modules, or packages, import what nobody else may: the client's process loads none of it before it must."""
ROOT_MODULES_AT_MOST = 8
LINES_AT_MOST = 450


def imports(path: Path) -> Iterator[str]:
    """Every module imported anywhere in a file, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def name_of(path: Path) -> str:
    """The module's name below rudderpipe."""
    parts = path.relative_to(HOUSE).with_suffix("").parts
    return ".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in sorted(HOUSE.rglob("*.py"))}


def own_imports(module: str) -> set[str]:
    """The modules of ours that a module imports."""
    found = (target.removeprefix("rudderpipe.") for target in imports(MODULES[module]) if target != "rudderpipe")
    return {target for target in found if target in MODULES and target != module}


def line_of(module: str) -> int:
    """The number of the line that a module's package stands in."""
    package = module.split(".")[0]
    (number,) = (number for number, line in enumerate(LINES) if package in line)
    return number


def problems() -> Iterator[str]:
    """What breaks the house's rules."""
    for module, path in MODULES.items():
        package = module.split(".")[0]
        for target in own_imports(module):
            other = target.split(".")[0]
            if other != package and line_of(target) >= line_of(module):
                yield f"{module} imports {target}, which does not stand above it"
        for target in imports(path):
            for guarded, allowed in ONLY.items():
                if (target == guarded or target.startswith(f"{guarded}.")) and not {module, package} & allowed:
                    yield f"{module} imports {target}"


def test_every_import_points_up_the_lines() -> None:
    """Imports point one way, and stations meet only at resting places."""
    assert list(problems()) == []


def test_no_modules_import_each_other() -> None:
    """Not in a circle of any length."""
    try:
        TopologicalSorter({module: own_imports(module) for module in MODULES}).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_the_house_is_seen_at_the_door() -> None:
    """Few modules at the root, and none too long to be read at once."""
    assert len([module for module in MODULES if "." not in module and MODULES[module].parent == HOUSE]) <= (
        ROOT_MODULES_AT_MOST
    )
    assert [module for module, path in MODULES.items() if len(path.read_text().splitlines()) > LINES_AT_MOST] == []

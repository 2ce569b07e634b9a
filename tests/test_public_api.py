"""A picture of what users depend on: names, signatures and the command line. A change of it is a decision.

``python -m tests.test_public_api`` writes the picture anew.
"""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import rudderpipe
from rudderpipe.cli import main
from rudderpipe.compat import rudderstack, segment

IMPORTED = ("Any", "annotations")
"""The names that the drop-in module imports for itself."""
PICTURE = Path(__file__).with_name("golden") / "public_api.txt"


def _shown(found: Callable[..., object]) -> str:
    """Return names, kinds and defaults, without annotations, which may say the same in other words."""
    signature = inspect.signature(found)
    bare = [each.replace(annotation=inspect.Parameter.empty) for each in signature.parameters.values()]
    return str(signature.replace(parameters=bare, return_annotation=inspect.Signature.empty))


def _of_class(name: str, found: type) -> Iterator[str]:
    if issubclass(found, BaseException):
        yield f"{name}: {', '.join(base.__name__ for base in found.__mro__[1:-2])}"
        return
    yield f"{name}{_shown(found)}"
    for member in sorted({member for base in found.__mro__[:-1] for member in vars(base)}):
        value = inspect.getattr_static(found, member)
        target = value.__func__ if isinstance(value, (classmethod, staticmethod)) else value
        if not member.startswith("_"):
            yield f"  .{member}{_shown(target) if inspect.isfunction(target) else ''}"


def _of_module(module: ModuleType, names: list[str]) -> Iterator[str]:
    for name in sorted(names):
        found = getattr(module, name)
        if inspect.isclass(found):
            yield from _of_class(f"{module.__name__}.{name}", found)
        elif inspect.isfunction(found):
            yield f"{module.__name__}.{name}{_shown(found)}"
        else:
            yield f"{module.__name__}.{name}"


def _of_command(name: str, parser: argparse.ArgumentParser) -> Iterator[str]:
    for action in parser._actions:  # argparse has no public list of its actions
        if isinstance(action, argparse._SubParsersAction):  # argparse has no public name for this class
            for command, below in action.choices.items():
                yield from _of_command(f"{name} {command}", below)
        else:
            yield f"{name} {'|'.join(action.option_strings) or action.dest}"


def picture() -> str:
    """Return a line for each public name with its signature, and for each option of each command."""
    drop_ins = [name for name in dir(rudderstack) if name.isidentifier() and name[0] != "_" and name not in IMPORTED]
    lines = [
        *_of_module(rudderpipe, rudderpipe.__all__),
        *_of_module(rudderstack, drop_ins),
        *_of_module(segment, segment.__all__),
        *_of_command("rudderpipe", main.parser()),
    ]
    return "\n".join(lines) + "\n"


def test_the_public_api_is_as_its_picture() -> None:
    """A name that is gone, or an argument that moved, breaks a user's program."""
    assert picture().splitlines() == PICTURE.read_text().splitlines()


if __name__ == "__main__":
    PICTURE.write_text(picture())

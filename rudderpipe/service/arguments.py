"""The parser of the arguments of every program of ours. An error is one line, and never shows a given value."""

from __future__ import annotations

import argparse
import re
from argparse import ArgumentError, ArgumentTypeError
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, Protocol

from rudderpipe.log_text import lines
from rudderpipe.service.signals import EXIT_USAGE
from rudderpipe.settings.mistakes import meant

_NAME = re.compile(r"--?[A-Za-z][A-Za-z-]*")


class Group(Protocol):
    """A parser, or a group of its options."""

    def add_argument(self, *names: str, **more: Any) -> argparse.Action:
        """Add an option."""


class Parser(argparse.ArgumentParser):
    """A parser that names the nearest option or command, and refuses what is only the beginning of an option.

    argparse's own errors take two lines or more, and repeat what was given, which may be a secret.
    """

    def __init__(self, **more: Any) -> None:
        super().__init__(**more, allow_abbrev=False)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """Return the arguments. There are never others, because each program and each command takes all of them."""
        found, others = super().parse_known_args(args, namespace)
        if others:
            self.error(self._of_other(others[0]))
        return found, []

    def _of_other(self, argument: str) -> str:
        if not argument.startswith("-"):
            return "one argument too many"
        found = _NAME.match(argument)
        name = found[0] if found and argument.startswith("--") else argument[:2]
        known = [option for action in self._actions for option in action.option_strings]
        return f"there is no option {name}{meant(name, known)}"

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """Refuse a command that is none, as argparse's own method of this name does."""
        if action.choices is not None and value not in action.choices:
            known = list(action.choices)
            raise ArgumentError(None, f"there is no such command{meant(str(value), known) or one_of(known)}")

    def error(self, message: str) -> NoReturn:
        """Print one line and exit."""
        said = message.removeprefix("argument ").partition("\n")[0]
        self.exit(EXIT_USAGE, lines(f"{self.prog}: {said}; see {self.prog} --help") + "\n")


def one_of(words: Sequence[str]) -> str:
    """Return the end of a sentence that lists the words."""
    return f"; choose {', '.join(words[:-1])} or {words[-1]}"


def add_option(to: Group, *names: str, does: str, default: str | float = "off", **more: Any) -> argparse.Action:
    """Add an option, with its default in its help. A default in words is stored as None, or False for a switch."""
    if not isinstance(default, str):
        more["default"] = default
    shown = default if isinstance(default, str) else f"{default:g}"
    return to.add_argument(*names, help=f"{does} (default: {shown})".replace("%", "%%"), **more)


def number(kind: type[int] | type[float], least: float, most: float) -> Callable[[str], float]:
    """Return a function that returns the number in a text. It raises ``ArgumentTypeError`` outside of the bounds."""
    name = "a whole number" if kind is int else "a number"

    def parse(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:  # also for an integer of more digits than Python converts
            value = kind(least) - 1
        if not least <= value <= most:  # true for NaN too
            raise ArgumentTypeError(f"must be {name} from {least} to {most}")
        return value

    return parse

"""The reference of the command line, made from the parsers of the command and of the two programs."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Iterator
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from rudderpipe.cli import main, options
from rudderpipe.flusher.__main__ import parser as flusher
from rudderpipe.sender.__main__ import parser as sender

SETTINGS = "settings"
"""How the titles of those groups of options begin that are the same in all commands."""
TITLE = "The settings as options"
_NOT_LISTED = (argparse._HelpAction, argparse._SubParsersAction)


class CommandLine(SphinxDirective):
    """A section for each command and program, with its options and their defaults."""

    def run(self) -> list[nodes.Node]:
        """Return the sections."""
        settings = argparse.ArgumentParser("rudderpipe", add_help=False)
        options.add_settings(settings)
        return [
            *self._sections(main.parser()),
            self._section(TITLE, _settings(settings)),
            *self._sections(flusher()),
            *self._sections(sender()),
        ]

    def _sections(self, parser: argparse.ArgumentParser) -> Iterator[nodes.Node]:
        """Yield the sections of a command and of the commands below it."""
        yield self._section(parser.prog, _command(parser))
        for below in _commands(parser).values():
            yield from self._sections(below)

    def _section(self, title: str, lines: Iterable[str]) -> nodes.section:
        made = nodes.section("", nodes.title(title, title), names=[nodes.make_id(title)])
        self.state.document.note_explicit_target(made)
        made += self.parse_text_to_nodes("\n".join(lines))
        return made


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the extension with Sphinx."""
    app.add_directive("command-line", CommandLine)
    return {"parallel_read_safe": True}


def _command(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Yield the Markdown of one command."""
    if parser.description:
        yield _sentence(parser.description)
    yield from ("", "```text", parser.format_usage().removeprefix("usage: ").strip(), "```")
    below = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    for choice in (choice for action in below for choice in action._choices_actions):
        yield f"- [{parser.prog} {choice.dest}](#{nodes.make_id(f'{parser.prog} {choice.dest}')}): {_text(choice.help)}"
    own = [group for group in _groups(parser) if not (group.title or "").startswith(SETTINGS)]
    yield from _options(parser.prog, [action for group in own for action in group._group_actions])
    if len(own) < len(_groups(parser)):
        yield from ("", f"It also takes [every setting as an option](#{nodes.make_id(TITLE)}).")


def _settings(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Yield the Markdown of the options that are settings."""
    for group in _groups(parser):
        title = (group.title or "").removeprefix(f"{SETTINGS}: ").capitalize()
        description = re.sub(r"docs/(\w+)\.md", r"[\1](../\1.md)", _text(group.description))
        yield from ("", f"**{title}**", "", description)
        yield from _options(parser.prog, group._group_actions)


def _options(program: str, actions: Iterable[argparse.Action]) -> Iterator[str]:
    """Yield the Markdown of these options."""
    yield from ("", f"```{{program}} {program}", "```")
    for action in actions:
        if isinstance(action, _NOT_LISTED):
            continue
        value = "" if action.nargs == 0 else action.metavar
        names = ", ".join(f"{name} {value}".strip() for name in action.option_strings) or value
        does = argparse.HelpFormatter(program)._expand_help(action)
        yield from ("", f"````{{option}} {names}", _text(does), "````")


def _groups(parser: argparse.ArgumentParser) -> list[argparse._ArgumentGroup]:
    """Return the groups of options that are not empty."""
    return [group for group in parser._action_groups if group._group_actions]


def _commands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    found = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return {name: below for action in found for name, below in action.choices.items()}


def _sentence(text: str) -> str:
    """Return the Markdown of a text as a sentence."""
    return _text(f"{text[0].upper()}{text[1:].removesuffix('.')}.")


def _text(text: str | None) -> str:
    """Return the Markdown of a text whose only marks are backticks."""
    parts = re.split(r"(`[^`]*`)", text or "")
    return "".join(part if part.startswith("`") else re.sub(r"([*_<\[\\])", r"\\\1", part) for part in parts)

"""A page of the documentation, whose files are written and whose commands are run as a reader does it."""

from __future__ import annotations

import contextlib
import getpass
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from native_tests.processes import wait_until

REPOSITORY = Path(__file__).parent.parent
DOCS = REPOSITORY / "docs"
_FENCE = re.compile(r"```(\w*)[ ]?(\w*)\n(.*?)```", re.DOTALL)
_NAME = re.compile(r"[#;] ([\w./]+\.(?:py|ini|toml))\n")
_LOOKS = (
    "curl -s http://127.0.0.1:",
    "rudderpipe status",
    "rudderpipe rings",
    "rudderpipe failed list",
    "grep ",
    "tail ",
)
"""Commands that only look, so that a reader repeats them until the result is there."""
_SAME = (
    (r"\d{4}-\d\d-\d\d[T ][\d:.,]+(?: ?(?:UTC|Z)\b|[+-][\d:]+)?", "TIME"),
    (r"pid[ =]\d+", "pid N"),
    (r"\b[0-9a-f]{12}\b", "HASH"),
    (r"\d[\d.,]* (s|MiB|events/s)\b", r"N \1"),
    (r"(?<=in )[\d.]+s", "Ns"),
    (r"\bcount=\d+", "count=N"),
    (r"\brudderpipe-\d+\b", "rudderpipe-UID"),
    (r"\b[0-9a-f]{16}-\d+-\d+\b", "ID"),
    (r" +", " "),
)
"""What differs from run to run: times, pids, hashes, durations, the user."""


class Step(NamedTuple):
    """A command of a page and the lines that the page shows below it."""

    command: str
    output: list[str]


class Session(NamedTuple):
    """One block of commands; one in the background keeps its terminal."""

    in_background: bool
    steps: list[Step]


def text_of(page: str) -> str:
    """Return the text of a page of docs/, or of README.md."""
    return ((REPOSITORY if page == "README.md" else DOCS) / page).read_text()


def section(page: str, heading: str) -> str:
    """Return the text below a heading, up to the next heading of the same or a higher level."""
    text = text_of(page)
    found = re.search(rf"^(#+) {re.escape(heading)}$", text, re.MULTILINE)
    assert found, heading
    rest = text[found.end() :]
    end = re.search(rf"^#{{1,{len(found[1])}}} ", rest, re.MULTILINE)
    return rest[: end.start()] if end else rest


def files(text: str) -> dict[str, str]:
    """Return the files of a text: the blocks that begin with a comment that is a file's name."""
    found = {}
    for _, _, block in _FENCE.findall(text):
        if name := _NAME.match(block):
            found[name[1]] = block
    return found


def sessions(text: str) -> list[Session]:
    """Return the blocks of commands of a text."""
    found = []
    for language, mark, block in _FENCE.findall(text):
        if language == "console":
            steps: list[Step] = []
            for line in block.splitlines():
                if line.startswith("$ "):
                    steps.append(Step(line[2:], []))
                elif line.strip():
                    steps[-1].output.append(line)
            found.append(Session(mark == "background", steps))
    return found


class Reader:
    """Somebody who follows a page in one folder, with a shell.

    ``own`` has the reader's own values: what stands on the pages, and what to write in its place.
    """

    def __init__(
        self, directory: Path, environment: Mapping[str, str], own: Mapping[str, str], shell: str = "exec bash 2>&1"
    ) -> None:
        self.directory = directory
        self._own = dict(own)
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        kept = {key: value for key, value in os.environ.items() if not key.startswith("RUDDERPIPE_")}
        self._environment = {**kept, **environment, "PATH": path, "COLUMNS": "200"}
        self._background: list[subprocess.Popen[str]] = []
        self.shell = self._start(shell)

    def _start(self, command: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["bash", "-c", command],
            cwd=self.directory,
            env=self._environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
            text=True,
        )

    def own(self, text: str) -> str:
        """Return a text of a page with the reader's own values."""
        for shown, own in self._own.items():
            text = text.replace(shown, own)
        return text

    def replace(self, own: Mapping[str, str]) -> None:
        """Add values of the reader's own."""
        self._own |= own

    def write(self, text: str) -> None:
        """Write the files of a text into the folder."""
        for name, content in files(text).items():
            (self.directory / name).write_text(self.own(content))

    def follow(self, text: str) -> None:
        """Write the files of a text and run its commands; each must print what the page shows."""
        self.write(text)
        for session in sessions(text):
            for step in session.steps:
                if session.in_background:
                    self.keep(step)
                else:
                    self.do(step)

    def keep(self, step: Step) -> None:
        """Run a command in a terminal of its own, and wait for the lines that the page shows."""
        process = self._start(f"exec {self.own(step.command)} 2>&1")
        self._background.append(process)
        assert process.stdout is not None
        shown = iter(step.output)
        for line in shown:
            assert any(matches(self.own(line), printed) for printed in process.stdout), line

    def do(self, step: Step) -> None:
        """Run a command; what it prints must have the lines that the page shows, in their order."""
        if step.command.startswith("pip install"):
            return  # everything is installed already
        wanted = [self.own(line) for line in step.output]
        printed = self.run(step.command)
        if not _shows(printed, wanted) and step.command.startswith(_LOOKS):
            with contextlib.suppress(AssertionError):  # the assertion below shows both texts
                wait_until(lambda: _shows(self.run(step.command), wanted), 20)
            printed = self.run(step.command)
        assert _shows(printed, wanted), f"$ {step.command}\n" + "\n".join([*printed, "--- not", *wanted])

    def run(self, command: str) -> list[str]:
        """Run a command in the shell and return the lines that it printed."""
        assert self.shell.stdin is not None
        assert self.shell.stdout is not None
        self.shell.stdin.write(f"{{ {self.own(command)}\n}} < /dev/null\necho; echo '[done]'\n")
        self.shell.stdin.flush()
        lines = []
        for line in self.shell.stdout:
            if line == "[done]\n":
                break
            lines.append(line.rstrip("\n"))
        return [line for line in lines if line.strip()]

    def close(self) -> None:
        """End the shell and everything that the page left running in the background."""
        for process in (self.shell, *self._background):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            for stream in (process.stdin, process.stdout):
                if stream:
                    stream.close()


def _shows(printed: list[str], wanted: list[str]) -> bool:
    """Return whether the wanted lines are among the printed ones, in their order."""
    rest: Iterator[str] = iter(printed)
    return all(any(matches(line, other) for other in rest) for line in wanted)


def matches(wanted: str, printed: str) -> bool:
    """Return whether a page's line stands for a printed one; … stands for any text."""
    pattern = ".*".join(re.escape(part) for part in _normal(wanted).split("…"))
    return re.fullmatch(pattern, _normal(printed)) is not None


def _normal(line: str) -> str:
    line = line.strip()
    for pattern, same in _SAME:
        line = re.sub(pattern, same, line)
    return re.sub(rf"\b{re.escape(getpass.getuser())}\b", "app", line)

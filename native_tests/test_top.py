"""``rudderpipe top`` in a real terminal, with real pipes."""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from native_tests.processes import Processes, wait_until
from native_tests.terminal import Terminal
from rudderpipe import Client
from rudderpipe.testing.data_plane import Misbehaviour
from rudderpipe.testing.redis_server import RedisServer

TOP = (sys.executable, "-m", "rudderpipe", "top")
LIVE = """
import sys
from rich.console import Console
from rich.text import Text
from rudderpipe.cli.top import Live

class Source:
    panels = ("failed",)
    def read(self, panel):
        {read}
    def lines(self, size, panel, *, is_ascii):
        return [Text("panel " + str(panel))]

Live(Source(), Console()).run()
"""
"""A page of another source."""


@contextmanager
def load(client: Client) -> Iterator[None]:
    """Send events until the block ends."""
    ended = threading.Event()

    def run() -> None:
        while not ended.wait(0.002):
            client.track("u", "e")

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def column(terminal: Terminal, name: str) -> str:
    """Return the number below a name; empty while there is none."""
    lines = terminal.text.split("\n")
    found = next((number for number, line in enumerate(lines) if "Fill%" in line), None)
    if found is None:
        return ""
    end = lines[found].index(name) + len(name)
    return lines[found + 1][max(0, end - 10) : end].strip()


def test_a_pipe_under_load(processes: Processes, redis_server: RedisServer) -> None:
    """Events flow, with their rates and times; a trouble of the data plane, and its end, are said in words."""
    processes.explicit |= {"redis": redis_server.url, "flush_at": 1, "flush_interval_ms": 20}
    client = processes.client()
    with load(client), Terminal(TOP, processes.environment) as terminal:
        terminal.shows("OK  All is well", processes.settings.pipe_name, "1 process,", "balanced", processes.plane.url)
        wait_until(lambda: column(terminal, "In/s") not in ("", "-", "0.0"), describe=lambda: terminal.text)
        wait_until(lambda: column(terminal, "Out/s") not in ("", "-", "0.0"), describe=lambda: terminal.text)
        wait_until(lambda: re.fullmatch(r"\d+ ms", column(terminal, "p95")), describe=lambda: terminal.text)
        assert column(terminal, "Retry%") == column(terminal, "Refused/s") == "0.0"
        terminal.shows("last attempt status 2xx")
        processes.plane.misbehaviour = Misbehaviour(503)
        terminal.shows("WARNING  The last attempt at the data plane failed", "last attempt status 5xx, again in")
        wait_until(lambda: column(terminal, "Retry%") != "0.0", describe=lambda: terminal.text)
        processes.plane.misbehaviour = Misbehaviour()
        terminal.shows("OK  All is well")
        terminal.press("q")
        assert terminal.ended() == 0
        assert terminal.is_as_before()


def test_without_redis_the_ring_is_shown(processes: Processes, redis_server: RedisServer) -> None:
    """It says so, and goes on by itself when Redis is back."""
    processes.explicit["redis"] = redis_server.url
    client = processes.client()
    assert client.track("u", "e")
    assert client.flush()
    with Terminal(TOP, processes.environment, columns=120) as terminal:
        terminal.shows("jobs;")
        redis_server.kill()
        assert client.track("u", "e")
        terminal.shows("TROUBLE  The queue in Redis cannot be read", "queue       not known", "1 of 20,000 events")
        assert column(terminal, "Out/s") == "-"
        redis_server.start()
        terminal.shows("OK  All is well", "jobs;")


def test_a_full_ring_and_the_panels(processes: Processes) -> None:
    """Loss is red, and what the application brought about itself yellow; each key shows its panel and hides it."""
    processes.explicit |= {"autostart": False, "max_internal_queue_size": 5}
    client = processes.client()
    for _ in range(5):
        assert client.track("u", "e")
    with Terminal(TOP, processes.environment, lines=40) as terminal:
        terminal.shows("TROUBLE  The ring is full", "TROUBLE  5 events wait in the ring, and no process serves it")
        assert column(terminal, "Fill%") == "100.0"
        assert not client.track("u", "e")
        assert not client.track("u", "e", {"of no type": object()})
        terminal.shows("TROUBLE  1 event was refused in the last 5 minutes, because the ring was full.")
        terminal.shows("refused     1 full, 1 invalid")
        assert (terminal.colour_of("1 full"), terminal.colour_of("1 invalid")) == ("red", "brown")
        terminal.press("p")
        terminal.shows("processes that send events", str(os.getpid()))
        terminal.press("r")
        terminal.shows("because the ring was full", "by before_send or sampling, on purpose")
        terminal.press("f")
        terminal.shows("failed jobs, the newest first", "none")
        terminal.press("\x1bOPf")  # F1, which is no P
        terminal.shows_not("failed jobs, the newest first")
        terminal.press("Q")
        assert terminal.ended() == 0


@pytest.mark.parametrize("through_redis", [False, True], ids=["direct", "queue"])
def test_failed_jobs(processes: Processes, redis_server: RedisServer, *, through_redis: bool) -> None:
    """The panel has the newest first, with the reason."""
    if through_redis:
        processes.explicit["redis"] = redis_server.url
    processes.explicit["flush_at"] = 1
    client = processes.client()
    for status in (400, 401):
        processes.plane.misbehaviour = Misbehaviour(status)
        assert client.track("u", "e")
        assert not client.flush(until="delivered")
    with Terminal(TOP, processes.environment, columns=150) as terminal:
        terminal.shows("q quit")
        terminal.press("f")
        terminal.shows("status 400", "status 401", "2 events failed" if not through_redis else "2 jobs with 2 events")
        assert terminal.text.rindex("status 401") < terminal.text.rindex("status 400")


def test_every_ring_of_this_user(processes: Processes) -> None:
    """A line for each, and what is wrong with one, by its name."""
    pipes = [f"{processes.explicit['pipe']}-{name}" for name in ("a", "b")]
    client, stuck = (processes.client(pipe=pipe, autostart=pipe == pipes[0]) for pipe in pipes)
    assert stuck.track("u", "e")
    environment = processes.environment | {"RUDDERPIPE_PIPE": "another"}
    with load(client), Terminal((*TOP, "--pipe", "all"), environment, columns=130, lines=200) as terminal:
        terminal.shows(*pipes, f"{pipes[1]}-v4: 1 event waits in the ring, and no process serves it")

        def row(pipe: str) -> list[str]:
            return next(line for line in terminal.text.split("\n") if line.startswith(f"{pipe}-v4 ")).split()

        wait_until(lambda: row(pipes[0])[2] not in ("-", "0.0"), describe=lambda: terminal.text)
        assert (row(pipes[1])[2], row(pipes[1])[-1]) == ("0.0", "none")
        terminal.press("q")
        assert terminal.ended() == 0
    done = processes.run("-m", "rudderpipe", "top", "--pipe", "all", "--once")
    assert (done.returncode, f"{pipes[1]}-v4".encode() in done.stdout) == (1, True)


@pytest.mark.parametrize("size", [(40, 12), (20, 5), (200, 50), (1, 1)])
def test_a_resize(processes: Processes, size: tuple[int, int]) -> None:
    """The page fits into any size: the keys are in the last line, and no line flows into the next."""
    columns, lines = size
    client = processes.client(autostart=False)
    assert client.track("u", "e")
    with Terminal(TOP, processes.environment) as terminal:
        terminal.shows("q quit")
        assert terminal.page.display[23].startswith("q quit")
        terminal.page.erase_in_display(2)
        terminal.resize(columns, lines)
        wait_until(lambda: terminal.page.display[-1].startswith("q quit"[:columns]), describe=lambda: terminal.text)
        if lines > 10:
            terminal.shows("Fill%", "TROUBLE"[:columns])
            assert terminal.page.display[0][2] == ":"  # the time
        terminal.press("q")
        assert terminal.ended() == 0


def test_without_colour_and_without_utf_8(processes: Processes) -> None:
    """All is said in words, and in ASCII."""
    client = processes.client(autostart=False)
    assert client.track("u", "e")
    with Terminal(TOP, processes.environment | {"PYTHONIOENCODING": "ascii"}) as terminal:
        terminal.shows("TROUBLE", "q quit")
        assert terminal.written.isascii()
        assert terminal.colour_of("TROUBLE") == "red"
    command = ("env", "NO_COLOR=1", *TOP)
    with Terminal(command, processes.environment | {"PYTHONIOENCODING": "utf-8"}) as terminal:
        terminal.shows("TROUBLE", "q quit", "░")
        assert terminal.colour_of("TROUBLE") == "default"


@pytest.mark.parametrize("how", ["Ctrl-C", "SIGTERM", "SIGHUP", "q while it reads", "an error"])
def test_the_terminal_is_given_back(processes: Processes, how: str) -> None:
    """However it ends, also while a reading hangs."""
    read = "raise ValueError('of a reading')" if how == "an error" else "import time; time.sleep(1000)"
    with Terminal((sys.executable, "-c", LIVE.format(read=read)), processes.environment) as terminal:
        if how == "an error":
            assert terminal.ended() == 1
            terminal.shows("ValueError: of a reading")
        else:
            terminal.shows("panel None", "reading")
            terminal.press("f")
            terminal.shows("panel failed")
            if how.startswith("SIG"):
                number = signal.Signals[how]
                terminal.process.send_signal(number)
                assert terminal.ended() == -number
            else:
                terminal.press("\x03" if how == "Ctrl-C" else "q")
                assert terminal.ended() == 0
        wait_until(terminal.is_as_before)


def test_it_is_stopped_and_continued_by_a_shell(processes: Processes) -> None:
    """Ctrl-Z gives the terminal to the shell, as it was, and fg shows the page again."""
    client = processes.client(autostart=False)
    assert client.track("u", "e")
    environment = processes.environment | {"PS1": "shell: "}
    with Terminal(("bash", "--norc", "--noprofile", "--noediting", "-i"), environment) as terminal:
        terminal.shows("shell:")
        mode = terminal.mode
        terminal.press(f"{' '.join(TOP)}\n")
        terminal.shows("TROUBLE", "q quit")
        terminal.press("\x1a")
        wait_until(lambda: b"Stopped" in terminal.written, describe=lambda: terminal.written)
        assert terminal.mode == mode
        assert terminal.written.count(b"\x1b[?1049l") == 1
        terminal.page.erase_in_display(2)
        terminal.press("fg\n")
        wait_until(lambda: terminal.written.count(b"\x1b[?1049h") == 2, describe=lambda: terminal.text)
        terminal.shows("TROUBLE", "q quit")
        terminal.press("q")
        wait_until(terminal.is_as_before)
        terminal.press("echo $?-ended; exit\n")
        terminal.shows("0-ended")
        assert terminal.ended() == 0


def test_it_prints_once_without_a_terminal(processes: Processes, redis_server: RedisServer) -> None:
    """The exit codes are those of ``rudderpipe status``."""
    client = processes.client(autostart=False)
    stuck_before = processes.run("-m", "rudderpipe", "top")
    assert client.track("u", "e")
    stuck = processes.run("-m", "rudderpipe", "top", "--once")
    processes.explicit["redis"] = redis_server.url
    redis_server.kill()
    away = processes.run("-m", "rudderpipe", "top", "--once")

    assert (stuck_before.returncode, stuck.returncode, away.returncode) == (0, 1, 4)
    assert b"no process serves it" in stuck.stdout
    assert b"The queue in Redis cannot be read" in away.stdout
    assert b"\x1b" not in stuck.stdout
    assert b"q quit" not in stuck.stdout


def test_without_rich(processes: Processes) -> None:
    """One line says how to install it."""
    program = "import sys; sys.modules['rich'] = None; from rudderpipe.cli.main import main; sys.exit(main(['top']))"
    done = processes.run("-c", program)

    assert (done.returncode, done.stdout) == (4, b"")
    assert done.stderr == b"rudderpipe: rich is not installed; install it with: pip install 'rudderpipe[cli]'\n"

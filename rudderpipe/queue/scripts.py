"""The Lua scripts of ``lua/``, one per transition, ready to be called."""

from __future__ import annotations

import hashlib
import re
from importlib.resources import files
from typing import Any

import redis

from rudderpipe.errors import LeaseLost

NAMES = (
    "add_jobs",
    "take_jobs",
    "renew_locks",
    "retry_later",
    "complete_jobs",
    "fail_job",
    "split_job",
    "put_back",
    "recover_active",
    "sweep_stalled",
    "promote_delayed",
    "retry_failed",
    "remove_jobs",
    "count_jobs",
    "measure_jobs",
    "end_ring",
    "take_lease",
    "release_lease",
)
LOST = "LEASELOST"
_INCLUDE = re.compile(r"^-- include: (\w+)\n", re.MULTILINE)


Call = tuple[str, list[str], tuple[str | bytes | int, ...]]


def source(name: str) -> str:
    """The text of one script, with what it includes; raises ``FileNotFoundError`` when the package is not whole."""
    folder = files("rudderpipe.queue") / "lua"
    text = (folder / f"{name}.lua").read_text()
    return _INCLUDE.sub(lambda line: (folder / "include" / f"{line[1]}.lua").read_text(), text)


class Scripts:
    """Calls a script by its name; one that Redis does not know, or has forgotten, is sent whole."""

    def __init__(self) -> None:
        self._sources = {name: source(name) for name in NAMES}
        self._digests = {
            name: hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest() for name, text in self._sources.items()
        }

    def call(self, client: redis.Redis, name: str, keys: list[str], *arguments: str | bytes | int) -> Any:
        """Run one script."""
        execute: Any = client.execute_command  # has no types
        try:
            try:
                return execute("EVALSHA", self._digests[name], len(keys), *keys, *arguments)
            except redis.exceptions.NoScriptError:
                return execute("EVAL", self._sources[name], len(keys), *keys, *arguments)
        except redis.ResponseError as error:
            raise _translated(error) from None

    def call_together(self, client: redis.Redis, *calls: Call) -> list[Any]:
        """Run scripts over one round trip; each is a step of its own. Raises what the first raised.

        In this order, but for one that Redis does not know: it is sent whole, and runs after the others.
        """
        pipe: Any  # its execute_command has no types
        with client.pipeline(transaction=False) as pipe:
            for name, keys, arguments in calls:
                pipe.execute_command("EVALSHA", self._digests[name], len(keys), *keys, *arguments)
            answers: list[Any] = pipe.execute(raise_on_error=False)
        for number, (name, keys, arguments) in enumerate(calls):
            if isinstance(answers[number], redis.exceptions.NoScriptError):
                answers[number] = self.call(client, name, keys, *arguments)
            if isinstance(answers[number], Exception):
                raise _translated(answers[number])
        return answers


def _translated(error: Exception) -> Exception:
    return LeaseLost() if str(error).startswith(LOST) else error

"""The Lua scripts of ``lua/``, one per transition, ready to be called on one Redis client."""

from __future__ import annotations

import re
from importlib.resources import files
from typing import Any

import redis

NAMES = (
    "add_jobs",
    "take_jobs",
    "renew_locks",
    "retry_later",
    "complete_jobs",
    "fail_job",
    "put_back",
    "recover_active",
    "sweep_stalled",
    "promote_delayed",
    "retry_failed",
    "remove_jobs",
    "count_jobs",
    "measure_jobs",
    "end_ring",
)
_INCLUDE = re.compile(r"^-- include: (\w+)\n", re.MULTILINE)


Call = tuple[str, list[str], tuple[str | bytes | int, ...]]


def source(name: str) -> str:
    """The text of one script, with what it includes; raises ``FileNotFoundError`` when the package is not whole."""
    folder = files("rudderpipe.queue") / "lua"
    text = (folder / f"{name}.lua").read_text()
    return _INCLUDE.sub(lambda line: (folder / "include" / f"{line[1]}.lua").read_text(), text)


class Scripts:
    """Calls a script by its name; a script that Redis has forgotten is loaded again by the client."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._scripts = {name: client.register_script(source(name)) for name in NAMES}

    def call(self, name: str, keys: list[str], *arguments: str | bytes | int) -> Any:
        """Run one script."""
        return self._scripts[name](keys=keys, args=arguments)

    def call_together(self, *calls: Call) -> list[Any]:
        """Run scripts in this order over one round trip; each is a step of its own. Raises what the first raised."""
        pipe: Any  # its execute_command has no types
        with self._client.pipeline(transaction=False) as pipe:
            for name, keys, arguments in calls:
                pipe.execute_command("EVALSHA", self._scripts[name].sha, len(keys), *keys, *arguments)
            answers: list[Any] = pipe.execute(raise_on_error=False)
        for number, (name, keys, arguments) in enumerate(calls):
            if isinstance(answers[number], redis.exceptions.NoScriptError):
                answers[number] = self.call(name, keys, *arguments)
            if isinstance(answers[number], Exception):
                raise answers[number]
        return answers

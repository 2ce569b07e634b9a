"""The Lua scripts in ``lua/``, one for each transition."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Any

import redis

from rudderpipe.errors import LeaseLost

NAMES = (
    "add_jobs",
    "fence_ring",
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
    "count_stranded",
    "measure_jobs",
    "end_ring",
    "restore_account",
    "set_paused",
    "take_lease",
    "release_lease",
    "report_sender",
    "renew_member",
    "set_route",
    "seal_queue",
    "find_remains",
    "open_queue",
)
LOST = "LEASELOST"
OTHER_PLANE = "OTHERPLANE "
WRONG_TYPE = "WRONGTYPE"
_KEY = re.compile(r"^  KEYS\[(\d+)\] +\w+ +([A-Z]+)(\*?) ", re.MULTILINE)
_CHECK = """
for number, kind in pairs({%s}) do
  local found = redis.call("TYPE", KEYS[number]).ok
  if found ~= "none" and found ~= kind then
    return redis.error_reply("WRONGTYPE " .. KEYS[number] .. " is a " .. found .. " and must be a " .. kind)
  end
end
"""
_INCLUDE = re.compile(r"^-- include: (\w+)\n", re.MULTILINE)


Call = tuple[str, list[str], tuple[str | bytes | int, ...]]
Command = tuple[str | bytes | int, ...]


@cache
def source(name: str) -> str:
    """Return the text of one script and its includes. Raise ``FileNotFoundError`` if the package is incomplete.

    The script begins with a check that each key is missing or of the type that the header names, because a key of
    another type would cut the script between two of its writes. Not checked is a key whose type in the header has an
    asterisk: the script reads it before its first write, and is stopped there.
    """
    folder = files("rudderpipe.queue") / "lua"
    header, end, body = (folder / f"{name}.lua").read_text().partition("]]\n")
    kinds = ", ".join(f'[{number}] = "{kind.lower()}"' for number, kind, read in _KEY.findall(header) if not read)
    body = _INCLUDE.sub(lambda line: (folder / "include" / f"{line[1]}.lua").read_text(), body)
    return header + end + (_CHECK % kinds if kinds else "") + body


class Scripts:
    """Calls scripts by name. If Redis does not know a script, its whole text is sent."""

    def __init__(self) -> None:
        self._sources = {name: source(name) for name in NAMES}
        self.digests = {
            name: hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest() for name, text in self._sources.items()
        }

    def call(self, client: redis.Redis, name: str, keys: list[str], *arguments: str | bytes | int) -> Any:
        """Run one script and return its result. Raise ``LeaseLost`` or the error of the script."""
        return self.call_together(client, (name, keys, arguments))[0]

    def call_together(self, client: redis.Redis, *calls: Call) -> list[Any]:
        """Run scripts in one round trip, each as a step of its own, and return their results.

        They run in this order, except that a script that Redis does not know is sent again as a whole, and runs after
        the others. Raise ``LeaseLost`` or the first error of a script.
        """
        answers = _ask(client, [_command("EVALSHA", self.digests[call[0]], call) for call in calls])
        for number, call in enumerate(calls):
            if isinstance(answers[number], redis.exceptions.NoScriptError):
                (answers[number],) = _ask(client, [_command("EVAL", self._sources[call[0]], call)])
        for (name, keys, _), answer in zip(calls, answers, strict=True):
            self._check(client, answer, name, keys)
        return answers

    def call_and_wait(self, client: redis.Redis, call: Call, replicas: int, wait_ms: int) -> tuple[Any, int]:
        """Run one script, and wait until so many replicas have its writes; return its result and how many have them.

        The number means nothing if the script has written nothing. Raise as ``call`` does, and the error of WAIT.
        """
        name, keys, _ = call
        wait = ("WAIT", replicas, wait_ms)
        answer, found = _ask(client, [_command("EVALSHA", self.digests[name], call), wait])
        if isinstance(answer, redis.exceptions.NoScriptError):  # the first WAIT had nothing to wait for
            answer, found = _ask(client, [_command("EVAL", self._sources[name], call), wait])
        self._check(client, answer, name, keys)
        if isinstance(found, Exception):
            raise found
        return answer, int(found)

    def _check(self, client: redis.Redis, answer: Any, name: str, keys: list[str]) -> None:
        if isinstance(answer, Exception):
            raise LeaseLost if str(answer).startswith(LOST) else self._named(client, answer, name, keys)

    def _named(self, client: redis.Redis, error: Exception, name: str, keys: list[str]) -> Exception:
        """Return an error about a key of another type with the name of that key, which Redis does not say."""
        if WRONG_TYPE not in str(error) or any(key in str(error) for key in keys):
            return error
        kinds = [kind.lower() for _, kind, _ in _KEY.findall(self._sources[name])]
        for key, kind in zip(keys, kinds, strict=True):
            found = client.type(key)
            found = found.decode() if isinstance(found, bytes) else found
            if found not in ("none", kind):
                return redis.ResponseError(f"{WRONG_TYPE} {key} is a {found} and must be a {kind}")
        return error


def _command(command: str, script: str, call: Call) -> Command:
    _, keys, arguments = call
    return (command, script, len(keys), *keys, *arguments)


def _ask(client: redis.Redis, commands: Sequence[Command]) -> list[Any]:
    """Send commands and return the answers. An error from Redis is one of the answers.

    The commands are packed here, because redis-py's own packing takes ten times as long. ``client`` must have exactly
    one connection (``single_connection_client``).
    """
    parts: list[bytes] = []
    for words in commands:
        parts.append(b"*%d\r\n" % len(words))
        for word in words:
            packed = word if isinstance(word, bytes) else str(word).encode()
            parts += (b"$%d\r\n" % len(packed), packed, b"\r\n")
    link: Any = client.connection
    link.send_packed_command([b"".join(parts)])
    answers: list[Any] = []
    for _ in commands:
        try:
            answers.append(link.read_response())
        except redis.ResponseError as error:
            answers.append(error)
    return answers

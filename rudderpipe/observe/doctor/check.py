"""One check, its finding, and the table of all checks."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, NamedTuple

import msgspec

if TYPE_CHECKING:  # the command line reads the groups, also where there is no ring
    from rudderpipe.observe.doctor.examination import Examination, Scope

Group = Literal["host", "ring", "processes", "redis", "plane"]
State = Literal["ok", "warn", "fail", "skip"]
GROUPS: tuple[Group, ...] = ("host", "ring", "processes", "redis", "plane")


class Result(NamedTuple):
    """What a check found: one line of text, and for a warning or a failure one line that says how to mend it."""

    state: State
    text: str
    fix: str = ""


class Check(NamedTuple):
    """One check: its number, its name, its group, and the function that makes it."""

    number: int
    name: str
    group: Group
    look: Callable[[Examination], Result]
    scope: Scope

    @property
    def purpose(self) -> str:
        """What it looks at, in one sentence."""
        return (self.look.__doc__ or "").partition("\n")[0].removeprefix("Check ").rstrip(".")


class Finding(msgspec.Struct, frozen=True):
    """The result of one check, as ``rudderpipe doctor --json`` prints it."""

    number: int
    check: str
    group: str
    state: State
    text: str
    fix: str
    queue: str = ""
    """The prefix of the queue that was looked at, where there are several."""
    redis: str = ""
    """The Redis server that was looked at, where there are several queues."""


CHECKS: dict[int, Check] = {}
"""Every check by its number. ``run.py`` imports the modules that fill it."""


def check(
    number: int, name: str, group: Group, scope: Scope = "pipe"
) -> Callable[[Callable[[Examination], Result]], Check]:
    """Add the decorated function to the table. Its docstring begins with ``Check that …``."""

    def add(look: Callable[[Examination], Result]) -> Check:
        assert number not in CHECKS, f"two checks have the number {number}"
        CHECKS[number] = Check(number, name, group, look, scope)
        return CHECKS[number]

    return add


def ok(text: str) -> Result:
    """Return the result of a check that found nothing to mend."""
    return Result("ok", text)


def warn(text: str, fix: str) -> Result:
    """Return the result of a check that found a danger."""
    return Result("warn", text, fix)


def fail(text: str, fix: str) -> Result:
    """Return the result of a check that found what stops or loses events."""
    return Result("fail", text, fix)


def worst(results: list[Result], fine: str) -> Result:
    """Return the worst of the results, with the texts of all that are as bad; ``fine`` when there is none."""
    for state in ("fail", "warn"):
        found = [result for result in results if result.state == state]
        if found:
            fixes = dict.fromkeys(fix for result in found for fix in result.fix.split("; "))
            return Result(found[0].state, "; ".join(result.text for result in found), "; ".join(fixes))
    return ok(fine)

"""The run of the checks, each within a time limit, and what is printed of their findings."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator
from contextlib import closing

import msgspec

from rudderpipe.errors import QueueUnavailable, RingUnavailable
from rudderpipe.log_text import one_line
from rudderpipe.observe.doctor import data_plane, host, processes, queue_jobs, redis_server, rings, users
from rudderpipe.observe.doctor.check import CHECKS, Check, Finding, Group, Result, fail
from rudderpipe.observe.doctor.examination import Examination, Skipped
from rudderpipe.observe.secrets_in_text import without_secrets

MODULES = (host, rings, processes, redis_server, queue_jobs, users, data_plane)
"""The modules that fill the table of checks when they are imported."""
CHECK_S = 3.0
"""How long a check may take."""


def run(examination: Examination, groups: Collection[Group] = ()) -> Iterator[Finding]:
    """Yield the finding of each check, in the order of their numbers; only of ``groups`` if some are given.

    With several queues, a check of a server or of a queue has a finding for each.
    """
    with closing(examination):
        for number in sorted(CHECKS):
            check = CHECKS[number]
            if not groups or check.group in groups:
                yield from (finding(check, each) for each in examination.of(check.scope))


def finding(check: Check, examination: Examination) -> Finding:
    """Return the finding of one check, within ``CHECK_S``."""
    results: list[Result] = []
    thread = threading.Thread(
        target=lambda: results.append(_result(check, examination)), name="rudderpipe-doctor", daemon=True
    )
    thread.start()
    thread.join(CHECK_S)
    slow = fail(f"not finished within {CHECK_S:g} s", "look whether this host, Redis or the data plane is overloaded")
    result = (results or [slow])[0]
    settings = examination.settings
    text, fix = (without_secrets(each, settings) for each in result[1:])
    queue = redis = ""
    if examination.is_one_of_several:
        redis = settings.redis_place
        queue = settings.prefix if check.scope == "queue" or settings.redis_address.cluster_nodes else ""
        text = f"{queue or redis}: {text.removeprefix(f'redis at {redis}: ').removeprefix(f'{redis} ')}"
    return Finding(
        check.number, check.name, check.group, result.state, one_line(text, 500), one_line(fix, 500), queue, redis
    )


def _result(check: Check, examination: Examination) -> Result:
    try:
        return check.look(examination)
    except Skipped as error:
        return Result("skip", str(error))
    except QueueUnavailable as error:
        said = f"Redis refuses it: {error.reason}" if error.answered else "Redis cannot be used, see check 16"
        return Result("skip", said)
    except RingUnavailable as error:
        return Result("skip", f"the ring cannot be read, see check 6: {error.reason}")
    except Exception as error:  # noqa: BLE001  # one check must not end the others; its text may hold what was sent
        return Result("skip", f"the check could not be made here: {type(error).__name__}")


def as_json(findings: list[Finding]) -> dict[str, object]:
    """Return what ``rudderpipe doctor --json`` prints."""
    counts = {state: sum(each.state == state for each in findings) for state in ("ok", "warn", "fail", "skip")}
    return {"checks": [msgspec.to_builtins(each) for each in findings], **counts}

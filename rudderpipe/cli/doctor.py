"""The command ``rudderpipe doctor``, which examines pipe, host and servers, and says how to mend what is wrong."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from rudderpipe.log_text import counted, one_line
from rudderpipe.observe.doctor import run, send_test
from rudderpipe.observe.doctor.check import Finding, Group
from rudderpipe.observe.doctor.examination import Examination
from rudderpipe.service.signals import EXIT_FAILED, EXIT_OK, EXIT_USAGE
from rudderpipe.settings import Settings

STATES = {"ok": "ok", "warn": "warn", "fail": "FAIL", "skip": "skip"}


def doctor(
    settings: Settings,
    groups: Sequence[Group] = (),
    *,
    sends: bool = False,
    shows_user: bool = False,
    as_json: bool = False,
) -> int:
    """Make the checks, print each finding at once, and return an exit code."""
    found = []
    for finding in _findings(Examination(settings, shows_user=shows_user), groups, sends=sends):
        found.append(finding)
        if not as_json:
            print("\n".join(lines_of(finding)), flush=True)
    if as_json:
        print(msgspec.json.encode(run.as_json(found)).decode())
    else:
        print(summary(found))
    if any(finding.number == 1 and finding.state == "fail" for finding in found):
        return EXIT_USAGE
    return EXIT_FAILED if any(finding.state == "fail" for finding in found) else EXIT_OK


def _findings(examination: Examination, groups: Sequence[Group], *, sends: bool) -> Iterator[Finding]:
    yield from run.run(examination, groups)
    if sends:
        yield send_test.send(examination.settings)


def lines_of(finding: Finding) -> list[str]:
    """Return the line of a finding, and the line that says how to mend it."""
    number = str(finding.number) if finding.number else ""
    line = f"{STATES[finding.state]:4}  {number:>2}  {finding.check:22}  {one_line(finding.text)}"
    return [line, *([f"          fix: {one_line(finding.fix)}"] if finding.fix else [])]


def summary(found: Sequence[Finding]) -> str:
    """Return the last line, with the number of findings of each kind."""
    counts = {state: sum(each.state == state for each in found) for state in STATES}
    return (
        f"{counts['ok']} ok, {counted(counts['warn'], 'warning')}, {counted(counts['fail'], 'failure')}, "
        f"{counts['skip']} skipped"
    )

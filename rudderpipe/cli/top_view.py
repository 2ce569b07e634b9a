"""The page of ``rudderpipe top`` as lines of text, which say in words what their colours say."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from typing import Literal, NamedTuple

from rudderpipe.cli import local_time
from rudderpipe.cli.ingestion_bar import size_of
from rudderpipe.cli.status import of_generation, of_held, of_row
from rudderpipe.errors import ExtraMissing
from rudderpipe.log_text import counted, one_line
from rudderpipe.observe import findings
from rudderpipe.observe.finding import Finding, duration
from rudderpipe.observe.flow import Flow, QueueFlow, RingFlow, SenderFlow
from rudderpipe.observe.host_flow import RingRow
from rudderpipe.observe.rates import Rates
from rudderpipe.observe.reader import View
from rudderpipe.observe.spill_state import SpillState
from rudderpipe.queue.failed_jobs import FailedJob

try:
    from rich.text import Text
except ImportError:
    raise ExtraMissing("cli", "rich") from None

Panel = Literal["producers", "failed", "refused"]
KEYS: dict[str, Panel] = {"p": "producers", "f": "failed", "r": "refused"}
EMPTY = Text()
_LABEL = re.compile(r" {2,}(?=\S)|\S+(?: \S+)* {2,}")
ENDLESS = 1_000_000
"""The width and the height of a file."""
CELL = 10
BAR = 20
BARS = {False: ("█", "░"), True: ("#", ".")}
STYLES = {"ok": "green", "warning": "yellow", "trouble": "bold red"}
LOSS, INTENDED = "red", "yellow"
COLUMNS = ("Fill%", "In/s", "Out/s", "Age", "Refused/s")


class Shown(NamedTuple):
    """What was read of a pipe."""

    view: View
    flow: Flow
    rates: Rates
    failed: Sequence[FailedJob]
    """The newest failed jobs, the newest first, if their panel is shown."""
    trouble: str
    """Why the failed jobs cannot be read; empty if they were."""


def of_pipe(shown: Shown, size: os.terminal_size, panel: Panel | None, *, is_ascii: bool) -> list[Text]:
    """Return the flow of a pipe, its troubles first.

    Where the height needs it, the least troubles are only counted, and then the end of the panel is missing.
    """
    flow = shown.flow
    width = size.columns
    title = wrapped([_title(f"pipe {flow.pipe} on {flow.host}", flow.taken_at_ms), _level(flow)], width)
    body = [EMPTY, *_numbers(shown, width), EMPTY, *wrapped(_places(flow, is_ascii=is_ascii), width)]
    room = size.lines - 1 - len(title) - len(body)
    troubles: list[Text] = []
    for number, finding in enumerate(flow.findings):
        more = wrapped(_finding(finding), width)
        is_last = number == len(flow.findings) - 1
        if number and len(troubles) + len(more) > room - (not is_last):
            left = counted(len(flow.findings) - number, "more finding")
            troubles.append(Text(f"{left}, for which the terminal is too low"[:width]))
            break
        troubles += more
    lines = [*title, *troubles, *body]
    if panel is not None:
        name, rows = PANELS[panel]
        lines += [EMPTY, Text(name, style="bold"), *rows(shown)]
    return lines


def wrapped(lines: Iterable[Text], width: int) -> list[Text]:
    """Return the lines, each in as many of this width as it needs; what follows a label stays beside it."""
    return [piece for line in lines for piece in _pieces(line, max(1, width))]


def _pieces(line: Text, width: int) -> Iterator[Text]:
    label = _LABEL.match(line.plain)
    indent = len(label[0]) if label and len(label[0]) <= width // 2 else 0
    begun = indent
    while len(line) > width:
        space = line.plain.rfind(" ", begun + 1, width + 1)
        first, rest = line.divide([space if space > 0 else width])
        yield first
        if space > 0:
            rest = rest[1:]
        line = Text(" " * indent).append_text(rest)
    yield line


def _title(text: str, taken_at_ms: int) -> Text:
    at = datetime.fromtimestamp(taken_at_ms / 1000).astimezone().strftime("%H:%M:%S")
    return Text(f"{at}  {one_line(text)}", style="bold")


def _level(flow: Flow) -> Text:
    level = flow.conclusion.level
    if not flow.findings:
        return Text.assemble(("OK", STYLES[level]), f"  {flow.conclusion.text}")
    return Text(f"{counted(len(flow.findings), 'finding')}:", style=STYLES[level])


def _finding(finding: Finding, of: str = "") -> list[Text]:
    label = finding.level.upper()
    fix = Text(f"{'':{len(label)}}  {one_line(finding.fix)}", style="dim")
    return [Text.assemble((label, STYLES[finding.level]), f"  {of}{one_line(finding.text)}"), fix]


def _numbers(shown: Shown, width: int) -> Iterator[Text]:
    """Yield the numbers below their names, in as many rows as the width needs."""
    flow, rates = shown.flow, shown.rates
    ring, queue = flow.ring, flow.queue_state
    ages = [ring.oldest_age_s if ring else None, queue.oldest_job_age_s if queue else None]
    cells = [
        *zip(
            COLUMNS,
            (
                f"{100 * ring.fill:.1f}" if ring else "-",
                _rate(rates.in_per_s),
                _rate(rates.out_per_s),
                _age(max((age for age in ages if age is not None), default=None)),
                _rate(rates.refused_per_s),
            ),
            strict=True,
        ),
        ("Retry%", f"{100 * rates.retry_share:.1f}" if rates.retry_share is not None else "-"),
        ("p95", _latency(rates.p95_s)),
    ]
    in_row = max(1, width // CELL)
    for start in range(0, len(cells), in_row):
        row = cells[start : start + in_row]
        yield Text("".join(f"{name:>{CELL}}" for name, _ in row), style="bold")
        yield Text("".join(f"{value:>{CELL}}" for _, value in row))


def _rate(per_s: float | None) -> str:
    if per_s is None:
        return "-"
    return f"{per_s:,.0f}" if per_s >= 10 else f"{per_s:.1f}"


def _age(age_s: float | None) -> str:
    return duration(age_s) if age_s is not None else "-"


def _latency(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return f"{1000 * seconds:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def _places(flow: Flow, *, is_ascii: bool) -> Iterator[Text]:
    producers, account = flow.producers, flow.account
    yield _row("producers", f"{_processes(producers.processes)}, {producers.accepted:,} accepted")
    yield _row("ring", _ring(flow.ring, is_ascii=is_ascii) if flow.ring else "this pipe has no ring")
    if flow.ring is not None and flow.ring.in_queues_too:
        yield _row("", of_held(flow.ring.in_queues_too))
    if flow.spill is not None and flow.spill.used_bytes:
        yield _row("spill", _spill(flow.spill))
    if flow.mode == "redis":
        yield _row("queue", _queue(flow.queue_state) if flow.queue_state else f"not known: {flow.queue_trouble}")
        if flow.generations:
            yield _row("queues", "; ".join(map(of_generation, flow.generations)))
        for row in flow.queues:
            yield Text(f"{'':<12}{one_line(of_row(row))}", style=STYLES["trouble"] if row.trouble else "")
        if flow.queue_state is not None:
            yield _row("sender", _sender(flow.sender))
    elif flow.dead_letters is not None:
        letters = flow.dead_letters
        yield _row("kept", f"{counted(letters.batches, 'failed batch')}, {counted(letters.events, 'event')}")
    yield _row("data plane", flow.data_plane or "not given")
    names = ("in_ring", "queued", "delivered", "failed", "spilled", "removed", "elsewhere", "corrupt", "lost")
    parts = [
        f"{getattr(account, name):,} {name.replace('_', ' ')}"
        for number, name in enumerate(names)
        if number < 4 or getattr(account, name)
    ]
    sign, said = ("=", "balanced") if account.balanced else ("!=", "does NOT balance")
    style = "" if account.balanced else STYLES["trouble"]
    if account.of_queues:
        yield _row("", "of the queue, for all pipes and hosts that use it, because this pipe has no ring here:")
    yield _row("account", f"{account.accepted:,} {sign} {' + '.join(parts)}: ").append(said, style=style)
    if producers.refused:
        line = _row("refused", "")
        for reason, count in producers.refused_by_reason.items():
            if count:
                separator = ", " if line.plain.strip() != "refused" else ""
                line.append(separator).append(f"{count:,} {reason}", style=_style(reason))
        yield line


def _spill(spill: SpillState) -> str:
    return f"{counted(spill.events, 'event')}, {spill.used_bytes:,} of {spill.max_bytes:,} bytes on disk"


def _row(name: str, text: str) -> Text:
    return Text.assemble((f"{name:<12}", "bold"), one_line(text))


def _style(reason: str) -> str:
    return INTENDED if reason in findings.INTENDED else LOSS


def _processes(number: int) -> str:
    return counted(number, "process") if number == 1 else f"{number:,} processes"


def _ring(ring: RingFlow, *, is_ascii: bool) -> str:
    full, free = BARS[is_ascii]
    used = min(BAR, round(BAR * ring.fill))
    bar = full * used + free * (BAR - used)
    seen = f", seen {duration(ring.heartbeat_age_s)} ago" if ring.heartbeat_age_s is not None else ""
    pid = f"pid {ring.flusher_pid}" if ring.flusher_pid else "in another pid namespace"
    flusher = f"flusher {pid}{seen}" if ring.flusher_pid is not None else "no flusher"
    rings = f" in {ring.rings} rings" if ring.rings > 1 else ""
    return f"{bar} {ring.events:,} of {ring.capacity:,} events{rings}; {flusher}"


def _queue(queue: QueueFlow) -> str:
    limit = f" of {size_of(queue.max_bytes)}" if queue.max_bytes is not None else ""
    paused = "PAUSED, " if queue.paused else ""
    return (
        f"{paused}{queue.waiting:,} waiting, {queue.active:,} active, {queue.delayed:,} delayed, {queue.failed:,} "
        f"failed jobs; {size_of(queue.used_bytes)}{limit}"
    )


def _sender(sender: SenderFlow | None) -> str:
    if sender is None:
        return "none"
    report = sender.report
    others = f" and {sender.senders - 1} more" if sender.senders > 1 else ""
    where = f"{sender.host} pid {sender.pid}{others}"
    if report is None or not report.last_class:
        return where
    last = report.last_class.replace("http_", "status ")
    again = f", again in {duration(report.retry_in_s)}" if report.retry_in_s else ""
    reason = f": {report.last_reason}" if report.last_class != "http_2xx" else ""
    return f"{where}; last attempt {last}{again}{reason}"


def _producers(shown: Shown) -> Iterator[Text]:
    ring = shown.view.snapshot.ring
    yield Text(f"{'slot':>4} {'pid':>9} {'accepted':>14} {'in ring':>9}  refused")
    for each in ring.producers if ring else []:
        line = Text(f"{each.slot:4} {each.pid or 'gone':>9} {each.accepted:14,} {each.in_ring:9,}  ")
        for reason, count in each.refused.items():
            line.append(f"{count:,} {reason} ", style=_style(reason))
        yield line


def _failed(shown: Shown) -> Iterator[Text]:
    if shown.trouble:
        yield Text(f"not all can be read: {one_line(shown.trouble)}", style=STYLES["warning"])
    elif not shown.failed:
        yield Text("none")
    for job in shown.failed:
        at = local_time.shown(job.failed_at_ms)
        yield Text(f"{one_line(job.id):>8}  {at}  {counted(job.events, 'event'):>10}  {one_line(job.reason)}")


def _refused(shown: Shown) -> Iterator[Text]:
    for reason, count in shown.flow.producers.refused_by_reason.items():
        why, _ = findings.REFUSED.get(reason, ("by before_send or sampling, on purpose", ""))
        yield Text(f"{count:>12,}  {reason:<10} {why}", style=_style(reason) if count else "")


PANELS: dict[Panel, tuple[str, Callable[[Shown], Iterator[Text]]]] = {
    "producers": ("processes that send events", _producers),
    "failed": ("failed jobs, the newest first", _failed),
    "refused": ("refused events since the ring was made", _refused),
}


def of_rings(rows: Sequence[RingRow], width: int) -> list[Text]:
    """Return a line for each ring of this user; a name is cut if the width needs it."""
    room = max(8, min(max((len(row.ring) for row in rows), default=0), width - 7 * CELL))
    lines = [Text(f"{'ring':<{room}}{''.join(f'{name:>{CELL}}' for name in (*COLUMNS, 'Producers', 'Flusher'))}")]
    lines[0].stylize("bold")
    for row in rows:
        name = one_line(row.ring)
        name = name if len(name) <= room else f"{name[: room - 1]}~"
        if row.trouble:
            lines.append(Text(f"{name:<{room}}  {one_line(row.trouble)}", style=STYLES["trouble"]))
            continue
        flusher = "none" if row.flusher_pid is None else f"{row.flusher_pid or 'elsewhere'}"
        cells = [
            f"{100 * row.fill:.1f}",
            *(_rate(row.in_per_s), _rate(row.out_per_s), _age(row.age_s), _rate(row.refused_per_s)),
            *(f"{row.producers:,}", flusher),
        ]
        style = STYLES[row.findings[0].level] if row.findings else ""
        lines.append(Text(f"{name:<{room}}{''.join(f'{cell:>{CELL}}' for cell in cells)}", style=style))
    if not rows:
        lines = [Text("this user has no ring on this host")]
    for row in rows:
        for finding in row.findings:
            lines += [EMPTY, *wrapped(_finding(finding, f"{row.ring}: "), width)]
    return lines


def footer(panels: Sequence[Panel], shown: Panel | None, trouble: str) -> Text:
    """Return the last line, with the keys, and with what hinders the reading."""
    line = Text("q quit")
    for key, panel in KEYS.items():
        if panel in panels:
            line.append("  ").append(f"{key} {panel}", style="reverse" if panel == shown else "")
    return line.append(f"  {one_line(trouble)}", style=STYLES["warning"]) if trouble else line

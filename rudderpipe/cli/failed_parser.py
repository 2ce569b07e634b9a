"""The arguments of the command ``rudderpipe failed``, and the call of the action that they name."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from rudderpipe.cli.local_time import moment_ms
from rudderpipe.cli.options import MANY, add_settings, help_of, settings_of
from rudderpipe.service.arguments import add_option, number

if TYPE_CHECKING:
    from rudderpipe.observe.failed_store import FailedStore
    from rudderpipe.queue.failed_jobs import Selection
    from rudderpipe.settings import Settings


def _failed(arguments: argparse.Namespace) -> int:
    from rudderpipe.cli import failed
    from rudderpipe.observe.failed_store import failed_jobs

    selection = None if arguments.action == "show" else _selection(arguments)
    settings = settings_of(arguments)
    with failed_jobs(settings) as found:
        code = _done(arguments, settings, found, selection)
        return failed.code_with_away(found, code)


def _selection(arguments: argparse.Namespace) -> Selection:
    """Return the selection of the arguments. End the command if they contradict each other."""
    from rudderpipe.queue.failed_jobs import Selection

    picked = arguments.id or arguments.since or arguments.reason
    if arguments.action in ("retry", "delete") and not (picked or arguments.all):
        arguments.parser.error("choose the failed jobs with --all, or with --id, --since or --reason")
    if picked and arguments.all:
        arguments.parser.error("--all cannot be combined with --id, --since or --reason")
    return Selection(
        ids=frozenset(arguments.id) if arguments.id else None,
        since_ms=arguments.since,
        reason=arguments.reason,
    )


def _done(arguments: argparse.Namespace, settings: Settings, found: FailedStore, selection: Selection | None) -> int:
    """Do what the command line names, and return an exit code. Only ``show`` has no selection."""
    from rudderpipe.cli import failed

    if selection is None:
        return failed.show(found, arguments.id, as_json=arguments.json)
    if arguments.action == "list":
        failed.name_other_pipes(settings)
        return failed.list_(found, selection, limit=arguments.limit, as_json=arguments.json)
    if arguments.action == "retry":
        if arguments.replace_write_key:
            settings.require("write_key")
        key = settings.current_write_key if arguments.replace_write_key else None
        how = {"first": arguments.first, "dry_run": arguments.dry_run, "write_key": key}
        return failed.retry(found, selection, **how, as_json=arguments.json)
    if arguments.action == "delete":
        return failed.delete(found, selection, dry_run=arguments.dry_run, as_json=arguments.json)
    return failed.export(found, selection, arguments.file, dry_run=arguments.dry_run, as_json=arguments.json)


def add(commands: Any) -> None:
    """Add the command with its actions."""
    failed = commands.add_parser("failed", help="list, show, retry, export or delete failed jobs")
    failed.set_defaults(run=help_of(failed))
    actions = failed.add_subparsers(title="actions", metavar="ACTION")
    for name, what in (
        ("list", "print one line for each failed job, oldest first"),
        ("show", "print one failed job with its events, without the write key"),
        ("retry", "make failed jobs wait for delivery again, oldest first, with their attempts counted from 0"),
        ("export", "write the events of failed jobs as NDJSON, which `rudderpipe send` reads; the jobs stay failed"),
        ("delete", "delete failed jobs permanently"),
    ):
        last = {"show": " ID", "export": " FILE"}.get(name, "")
        action = actions.add_parser(
            name, help=what, description=what, usage=f"rudderpipe failed {name} [options]{last}"
        )
        action.set_defaults(run=_failed, action=name, parser=action)
        if name == "show":
            action.add_argument("id", metavar="ID", help="id of the job, as `rudderpipe failed list` prints it")
            add_option(action, "--json", does="print one JSON object", action="store_true")
        else:
            _add_selection(action)
        if name == "list":
            limit = number(int, 0, MANY)
            add_option(action, "--limit", does="print at most N jobs", default="all", type=limit, metavar="N")
            add_option(action, "--json", does="print one JSON object for each job", action="store_true")
        if name == "retry":
            first = "put them before the waiting jobs (needs a queue)"
            add_option(action, "--first", does=first, action="store_true")
            key = (
                "send them with the write key of the settings instead of the one in the job; without a queue always so"
            )
            add_option(action, "--replace-write-key", does=key, action="store_true")
        if name == "export":
            action.add_argument("file", metavar="FILE", help="the file to write; - is standard output")
        if name in ("retry", "export", "delete"):
            add_option(action, "--dry-run", does="print what would be done, and do nothing", action="store_true")
            add_option(action, "--json", does="print one JSON object with the counts", action="store_true")
        add_settings(action)


def _add_selection(action: Any) -> None:
    add_option(action, "--all", does="all failed jobs", action="store_true")
    add_option(
        action, "--id", does="the job with this id; may be repeated", default="any", action="append", metavar="ID"
    )
    since = (
        "jobs that failed since this time: 90s, 15m, 2h or 7d ago, or an ISO date, in this time zone if it names none"
    )
    add_option(action, "--since", does=since, default="any time", type=moment_ms, metavar="TIME")
    reason = "jobs whose failure reason contains this text (case-insensitive)"
    add_option(action, "--reason", does=reason, default="any", metavar="TEXT")

"""The house has one direction: each module imports only modules named above it in ORDER."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

HOUSE = Path(__file__).parent.parent / "rudderpipe"
ORDER = [
    *(
        "version",
        "log_text",
        "errors",
        "clock",
        "redis_address",
        "names",
        "proxies",
        "settings",
        "interpreter",
        "liveness",
        "signals",
        "notify",
        "duty",
        "forks",
        "throttle",
        "descriptors",
        "locks",
    ),
    *("start_claim", "program", "service"),
    "types",
    *(
        "encoder",
        "foreign",
        "values",
        "checks",
        "message_ids",
        "parts",
        "whole",
        "event",
        "node_names",
        "callbacks",
        "receipts",
    ),
    *("shape", "shape.ambient", "shape.sampling", "shape.scrubber", "shape.shaper"),
    *(
        "ring",
        "ring.layout",
        "ring.block_header",
        "ring.fence",
        "ring.shared",
        "ring.segment",
        "ring.place",
        "ring.ring",
        "ring.failures",
        "ring.claims",
        "ring.consumer",
        "ring.reclaim",
        "ring.account",
        "ring.served_settings",
        "ring.removed",
        "ring.seat",
        "ring.producer",
    ),
    "ring.keeper",
    *("queue", "queue.keys", "queue.job", "queue.scripts", "queue.connect", "queue.taken", "queue.base", "queue.queue"),
    *("queue.lease", "queue.failed", "queue.budget"),
    *(
        "delivery",
        "delivery.outcome",
        "delivery.backoff",
        "delivery.request",
        "delivery.answer",
        "delivery.dial",
        "delivery.wire",
        "delivery.redirect",
        "delivery.retry_after",
        "delivery.post",
        "delivery.courier",
    ),
    *(
        "outlets",
        "watch",
        "flush",
        "autostart",
        "pipe",
        "pipes",
        "sync",
        "reach",
        "maker",
        "client_base",
        "client",
        "default",
    ),
    *(
        "flusher",
        "flusher.spool",
        "flusher.sink",
        "flusher.direct",
        "flusher.sinks",
        "flusher.heartbeat",
        "flusher.flusher",
        "flusher.rings",
        "flusher.leftovers",
    ),
    "flusher.__main__",
    *("admin", "admin.address", "admin.answer", "admin.server", "admin.health"),
    *("sender", "sender.facts", "sender.ledger", "sender.keeper", "sender.upkeep", "sender.sender", "sender.__main__"),
    "frozen",
    *(
        "cli",
        "cli.moments",
        "cli.progress",
        "cli.data_plane",
        "cli.redis_server",
        "cli.rings",
        "cli.status",
        "cli.put",
        "cli.send",
        "cli.spooled",
        "cli.failed",
        "cli.queue",
        "cli.drain",
        "cli.demo_app",
    ),
    *("cli.demo", "cli.main", "__main__"),
    *("contrib", "contrib.context", "contrib.options", "contrib.processes", "contrib.gunicorn", "contrib.wsgi"),
    *("contrib.flask", "contrib.asgi", "contrib.celery"),
    *("contrib.django", "contrib.django.apps", "contrib.django.middleware"),
    *("compat", "compat.messages", "compat.client", "compat.rudderstack", "compat.segment"),
    *("testing.capture", "testing.plane", "testing", "testing.plugin"),
]
NEVER = {  # stations that meet only through what lies between them
    "ring": {"queue", "delivery", "event"},
    "queue": {"ring", "delivery", "event"},
    "delivery": {"ring", "queue", "event"},
    "pipe": {"queue", "delivery", "flusher", "sender"},
    "client": {"queue", "delivery", "flusher", "sender"},
    "flusher": {"client", "pipe", "event", "sender"},
    "admin": {"ring", "queue", "delivery", "client", "pipe", "event", "flusher", "sender"},
    "sender": {"ring", "client", "pipe", "event", "flusher"},
}
ONLY = {
    "redis": {"queue.scripts", "queue.connect", "queue.taken", "queue.base", "queue.queue", "cli.redis_server"},
    "urllib3": {"delivery.dial"},
    "psutil": {"liveness", "cli.demo"},
}


def imports(path: Path) -> Iterator[str]:
    """Every module imported anywhere in a file, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def name_of(path: Path) -> str:
    """The module's name below rudderpipe."""
    parts = path.relative_to(HOUSE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def problems() -> Iterator[str]:
    """What breaks the house's rules."""
    for path in sorted(HOUSE.rglob("*.py")):
        me = name_of(path)
        if not me:
            continue
        if me not in ORDER:
            yield f"{me}: not in ORDER"
            continue
        station = me.split(".")[0]
        for target in imports(path):
            foreign = target.split(".")[0]
            if foreign in ONLY and me not in ONLY[foreign]:
                yield f"{me} imports {target}"
            own = target.removeprefix("rudderpipe.")
            if own in (target, station) or own not in ORDER:
                continue
            if ORDER.index(own) >= ORDER.index(me):
                yield f"{me} imports {own}, which stands below it"
            if own.split(".")[0] in NEVER.get(station, ()):
                yield f"{me} imports {own}: they meet only through what lies between them"


def test_every_import_points_up_the_list() -> None:
    """Imports point one way, and stations meet only at resting places."""
    assert list(problems()) == []


def test_every_module_is_in_the_list_once() -> None:
    """The list holds what is there, and nothing else."""
    there = {name_of(path) for path in HOUSE.rglob("*.py")} - {""}

    assert sorted(there) == sorted(ORDER)

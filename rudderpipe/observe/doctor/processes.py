"""The checks of the processes of the pipe: application, flusher, and their settings and versions."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import rudderpipe
from rudderpipe.observe import host_rings
from rudderpipe.observe.doctor import proc
from rudderpipe.observe.doctor.check import Result, check, fail, ok, warn, worst
from rudderpipe.observe.doctor.examination import Examination, Skipped
from rudderpipe.observe.findings import DOWN_S, SILENT_S
from rudderpipe.observe.host_rings import HostRing
from rudderpipe.process import identity, runtime_dir
from rudderpipe.ring import served_settings
from rudderpipe.settings import Settings

USED = 0.8
AUTOSTARTED = "--detach"
IN_THE_NAME = (
    "write_key",
    "write_key_file",
    "data_plane_url",
    "path",
    "redis",
    "queue_name",
    "prefix",
    "pipe",
    "runtime_dir",
)
"""The settings that decide which ring a process uses."""


@check(8, "flusher", "processes")
def flusher(pipe: Examination) -> Result:
    """Check that a flusher serves each ring, that it is alive, and that it can hand over events."""
    found, shown = [], []
    for state in pipe.states:
        if state.flusher_pid is None:
            if state.counters.in_ring:
                said = f"{state.counters.in_ring:,} events wait in {state.name}, and no process serves it"
                found.append(fail(said, _start(pipe.settings)))
            elif pipe.settings.autostart is False:
                found.append(warn(f"no process serves {state.name}, and autostart is off", _start(pipe.settings)))
            continue
        who = f"pid {state.flusher_pid}" if state.flusher_pid else "a process of another pid namespace"
        shown.append(who)
        if state.heartbeat_age_s is not None and state.heartbeat_age_s > SILENT_S:
            report = fail if state.counters.in_ring else warn
            said = f"the flusher ({who}) has been silent for {state.heartbeat_age_s:,.0f} s"
            found.append(report(said, "look whether it is stopped (ps: state T) or the host has no CPU; restart it"))
        if state.sink_down_s > 0:
            report = fail if state.sink_down_s > DOWN_S else warn
            said = f"the flusher has not been able to hand over events for {state.sink_down_s:,.0f} s"
            where = "check 16" if pipe.settings.redis is not None else "check 24"
            found.append(report(said, f"look at {where}; the flusher's log has the reason"))
    return worst(found, ", ".join(shown) or "none, and no event waits")


def _start(settings: Settings) -> str:
    if settings.autostart is False:
        return "start it: systemctl start rudderpipe-flusher@PIPE, or python -m rudderpipe.flusher"
    return "the application starts it with its next event, and logs if that fails; or: rudderpipe drain"


@check(9, "two flushers", "processes")
def two_flushers(pipe: Examination) -> Result:
    """Check that the application does not start a flusher where an operator runs one."""
    own = _flushers(pipe)
    if own and pipe.settings.autostart is not False:
        said = f"an operator runs the flusher (pid {own[0]}), and autostart is on: either may serve the ring"
        return warn(said, "RUDDERPIPE_AUTOSTART=false in the application")
    return ok("one kind only")


@check(10, "same settings", "processes")
def same_settings(pipe: Examination) -> Result:
    """Check that the application, its flusher and this shell have the same settings, and so the same pipe."""
    inputs = ", ".join(_inputs(pipe.settings))
    found = []
    for each in pipe.rings:
        names = served_settings.differing(each.view, pipe.settings)
        if names:
            said = f"the flusher of {each.view.segment.name} has other values of {', '.join(names)}"
            found.append(fail(said, "give all processes the same settings, and restart those that have others"))
    if not pipe.rings:
        found += _others(pipe)
    return worst(found, f"pipe {pipe.settings.pipe_name} from {inputs}")


def _inputs(settings: Settings) -> Iterator[str]:
    yield settings.write_key_file or f"a write key of {len(settings.write_key)} characters"
    yield settings.endpoint
    if settings.redis is not None:
        yield f"{settings.redis_place}, {settings.queue_name}, prefix {settings.prefix}"


def names_of(rings: list[HostRing]) -> str:
    """Return the names of at most three pipes, first those that a flusher serves, because these are in use."""
    first = [row.pipe for row in sorted(rings, key=lambda row: row.flusher is None)[:3]]
    return ", ".join([*first, *(["others"] if rings[3:] else [])])


def _others(pipe: Examination) -> list[Result]:
    """Return what is wrong when this pipe has no ring, and another one of this user has producers."""
    rings = [row for row in host_rings.of_this_user(pipe.settings.runtime_dir) if row.producers]
    if not rings:
        return []
    pids = [row.flusher for row in rings if row.flusher]
    differing = sorted({name for pid in pids for name in _differing(pipe, pid)})
    said = f"this pipe has no ring, and processes of this user send to {names_of(rings)}"
    fix = f"compare {', '.join(differing or IN_THE_NAME)} of this shell and the application"
    return [warn(said, fix)]


def _differing(pipe: Examination, pid: int) -> Iterator[str]:
    """Yield the settings that decide on the ring, and that another process has from its environment otherwise."""
    theirs = proc.environment(pid)
    for name in IN_THE_NAME:
        variable = f"RUDDERPIPE_{name.upper()}"
        if theirs.get(variable) != pipe.environment.get(variable):
            yield name


@check(11, "producers", "processes")
def producers(pipe: Examination) -> Result:
    """Check that slots are left for more processes, and that the programs of the living ones still exist."""
    found = []
    for state in pipe.states:
        if state.producers > state.slots * USED:
            said = f"{state.producers} of {state.slots} slots of {state.name} are in use"
            found.append(warn(said, "use fewer processes for each pipe, or one client for each process"))
    for pid in pipe.producers:
        if proc.program(pid).endswith(" (deleted)"):
            said = f"the Python of process {pid} was removed or replaced since it started"
            found.append(warn(said, "restart the application"))
    return worst(found, f"{sum(state.producers for state in pipe.states)} live")


@check(26, "application server", "processes")
def application_server(pipe: Examination) -> Result:
    """Check that uWSGI runs the threads that callbacks need; say that gunicorn's preload is fine."""
    found, shown = [], set()
    for pid in pipe.producers:
        words = proc.command(pid)
        line = " ".join(words)
        if "uwsgi" in line.lower():
            shown.add("uWSGI")
            if not _has_threads(words):
                fix = "enable-threads = true; docs/frameworks.md"
                found.append(warn("uWSGI runs without enable-threads, so that callbacks are never called", fix))
        elif "gunicorn" in line:
            shown.add("gunicorn with preload, which is fine" if "--preload" in words else "gunicorn")
    if not pipe.producers:
        raise Skipped("no process sends events now")
    return worst(found, ", ".join(sorted(shown)) or "none that needs anything")


def _has_threads(words: list[str]) -> bool:
    """Return whether uWSGI's command line, or a file that it names, enables threads."""
    texts = [*words, *(proc.text(Path(word)) for word in words if word.endswith((".ini", ".yml", ".yaml", ".xml")))]
    return any(re.search(r"enable-threads|^--threads|^\s*threads", each, re.MULTILINE) for each in texts)


@check(28, "version skew", "processes")
def version_skew(pipe: Examination) -> Result:
    """Check that no process of the pipe runs since before this version of rudderpipe was installed."""
    package = Path(rudderpipe.__file__).parent
    installed_s = (package / "_version.py").stat().st_ctime  # a wheel keeps older times of change
    old = [f"{what} {pid}" for pid, what in pipe.processes.items() if _started_s(pipe, pid) < installed_s]
    layouts = {state.layout for state in pipe.states}
    found = []
    if old:
        said = f"started before this version was installed: {', '.join(old[:10])}"
        found.append(warn(said, "restart in this order: flusher, sender, application"))
    if len(layouts) > 1:
        said = f"the pipe has rings of the layouts {', '.join(map(str, sorted(layouts)))}"
        found.append(warn(said, "restart in this order: flusher, sender, application"))
    return worst(found, "all processes are newer than the installed files")


def _started_s(pipe: Examination, pid: int) -> float:
    age_s = identity.age_s(pid)
    return float("inf") if age_s is None else pipe.clock.time_ms() / 1000 - age_s


@check(33, "logs", "processes")
def logs(pipe: Examination) -> Result:
    """Check where the logs of flusher and sender are, and that the newest lines have no errors."""
    path = runtime_dir.existing_log(pipe.settings)
    own = [f"that of the flusher {pid} is {target}" for pid in _flushers(pipe) if (target := proc.standard_error(pid))]
    if path is None:
        return ok(", ".join(own) or "none: no flusher or sender was started automatically")
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 20_000))
        lines = file.read().decode(errors="replace").splitlines()
    wrong = [line for line in lines if re.search(r'^\S+ \S+ \S+ (ERROR|CRITICAL) |"level":"(ERROR|CRITICAL)"', line)]
    if wrong:
        return warn(
            f"{len(wrong)} errors among the newest lines of {path}, the last: {wrong[-1][:200]}", f"tail {path}"
        )
    return ok(", ".join([str(path), *own]))


def _flushers(pipe: Examination) -> list[int]:
    """Return the flushers that this process can see and that an operator started."""
    pids = sorted({state.flusher_pid for state in pipe.states if state.flusher_pid})
    return [pid for pid in pids if (words := proc.command(pid)) and not {AUTOSTARTED, "--lingers"} & set(words)]

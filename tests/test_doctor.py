"""``rudderpipe doctor``: each check of host, ring and processes fails once, and names the right way to mend it.

``native_tests/test_doctor.py`` has the checks of Redis, the data plane and the service manager.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import stat
import threading
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import msgspec
import pytest
from msgspec import Raw
from msgspec.structs import replace

from rudderpipe.flusher import dead_letters
from rudderpipe.flusher.spill import Position, Spill
from rudderpipe.flusher.spill_record import Record
from rudderpipe.observe.doctor import host, proc, processes, redis_server, rings, run
from rudderpipe.observe.doctor.check import CHECKS, GROUPS, Finding, Result, check, worst
from rudderpipe.observe.doctor.examination import Examination, Skipped
from rudderpipe.observe.host_rings import HostRing
from rudderpipe.process import identity
from rudderpipe.ring import flusher_lock, layout, memory, served_settings
from rudderpipe.ring import layout as at
from rudderpipe.ring.consumer import Batch, OffsetRange
from rudderpipe.ring.ring import Ring, open_ring
from rudderpipe.settings import Settings
from tests.fakes import FakeClock, producer_of, settings_of

ROOT = Path(__file__).parent.parent
SECRET = "s3cr3t-key"


@pytest.fixture(name="settings")
def _settings(tmp_path: Path) -> Settings:
    directory = tmp_path / "run"
    directory.mkdir(mode=0o700)
    own = {"write_key": SECRET, "data_plane_url": "http://127.0.0.1:9", "spool_dir": str(tmp_path / "state")}
    return settings_of(directory, **own, ring_bytes=1 << 20, max_internal_queue_size=1000)


@pytest.fixture(name="process")
def _process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Return a directory that stands for this process's in /proc."""
    monkeypatch.setattr(proc, "PROC", tmp_path / "proc")
    monkeypatch.setattr(proc, "SYS", tmp_path / "sys")
    mine = tmp_path / "proc" / str(os.getpid())
    (mine / "fd").mkdir(parents=True)
    return mine


def look(number: int, settings: Settings, clock: FakeClock, **more: str) -> Finding:
    """Return the finding of one check."""
    return run.finding(CHECKS[number], Examination(settings, clock=clock, environment=more))


def state_of(number: int, settings: Settings, clock: FakeClock) -> str:
    """Return only the state."""
    return look(number, settings, clock).state


def append(ring: Ring, clock: FakeClock, count: int = 1) -> None:
    """Append so many events as this process."""
    producer = producer_of(ring, clock)
    for _ in range(count):
        assert producer.append(b'{"originalTimestamp":"2020-01-01T00:00:00.000Z"}') is None


def serve(ring: Ring, settings: Settings, clock: FakeClock) -> None:
    """Make this process the ring's flusher."""
    assert flusher_lock.take(ring, clock)
    flusher_lock.beat(ring, clock)
    served_settings.record(ring, settings)


def test_wrong_settings(settings: Settings, clock: FakeClock) -> None:
    """A misspelt variable is a warning, because it may be another program's."""
    assert state_of(1, settings, clock) == "ok"
    misspelt = look(1, settings, clock, RUDDERPIPE_WRITEKEY="x")
    assert (misspelt.state, misspelt.fix) == ("warn", "correct it; did you mean RUDDERPIPE_WRITE_KEY?")
    missing = look(1, settings_of(Path("/")), clock)
    assert (missing.state, missing.fix) == ("fail", "set RUDDERPIPE_WRITE_KEY, as for the application")


def test_an_old_dependency(settings: Settings, clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """The versions are those that the package asks for."""
    assert state_of(2, settings, clock) == "ok"
    monkeypatch.setattr(metadata, "version", lambda name: "4.9.0" if name == "redis" else "99.0")

    found = look(2, settings, clock)

    assert (found.state, found.text, found.fix) == ("warn", "redis 4.9.0 is too old", "pip install -U redis")
    asked = set(re.findall(r'^  "(\w+>=[\d.]+)",$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE))
    assert {f"{name}>={'.'.join(map(str, oldest))}" for name, oldest in host.NEEDED.items()} <= asked


def test_a_busy_pipe_without_speed_ups(
    settings: Settings, ring: Ring, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only a pipe with a high rate needs them."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    assert state_of(3, settings, clock) == "ok"
    ring.words[at.H_CREATED_MS] = clock.time_ms()
    monkeypatch.setattr(host, "BUSY_PER_S", 0.5)
    append(ring, clock)

    found = look(3, settings, clock)

    assert (found.state, found.fix) == ("warn", "pip install 'rudderpipe[isal]'")


def test_a_runtime_directory_that_others_can_reach(settings: Settings, clock: FakeClock) -> None:
    """The check only looks: the mode stays, and no ring is read meanwhile."""
    path = Path(settings.runtime_dir or "")
    path.chmod(0o755)

    found = look(4, settings, clock)

    assert (found.state, found.fix.partition(",")[0]) == ("fail", f"chmod 700 {path}")
    assert look(6, settings, clock).text == "runtime_dir is wrong, see check 4"
    assert stat.S_IMODE(path.stat().st_mode) == 0o755
    path.chmod(0o700)
    path.rmdir()
    assert state_of(4, settings, clock) == "ok"
    assert not path.exists()


def test_a_runtime_directory_on_a_network(settings: Settings, clock: FakeClock, process: Path) -> None:
    """The locks of NFS do not hold."""
    (process.parent / "self").mkdir()
    mounts = f"1 2 0:1 / / rw - ext4 x rw\n2 1 0:2 / {Path(settings.runtime_dir or '').parent} rw - nfs4 server:/x rw\n"
    (process.parent / "self" / "mountinfo").write_text(mounts)

    found = look(4, settings, clock)

    assert (found.state, found.fix) == ("fail", "set runtime_dir to a directory on this host")


def test_a_producer_with_another_runtime_directory(
    settings: Settings, ring: Ring, clock: FakeClock, process: Path
) -> None:
    """Two lock files for one ring would be two claim locks."""
    append(ring, clock)
    (process / "fd" / "7").symlink_to(f"/elsewhere/{ring.locks.path.name}")

    found = look(4, settings, clock)

    assert found.state == "fail"
    assert "set the same runtime_dir" in found.fix


def test_too_little_shared_memory(settings: Settings, clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ring must fit, or appends are refused when it grows."""
    assert state_of(5, settings, clock) == "ok"
    room = os.statvfs_result((4096, 4096, 16, 16, 10, 0, 0, 0, 0, 255))
    monkeypatch.setattr(os, "statvfs", lambda _path: room)

    found = look(5, settings, clock)

    assert found.state == "fail"
    assert "--shm-size" in found.fix


def test_a_ring_of_another_version(settings: Settings, ring: Ring, clock: FakeClock) -> None:
    """A layout that this version does not know cannot be read."""
    assert state_of(6, settings, clock) == "ok"
    ring.words[at.H_VERSION] = layout.VERSION + 1

    found = look(6, settings, clock)

    assert found.state == "fail"
    assert found.fix.startswith("restart all processes of the pipe")
    ring.words[at.H_VERSION] = layout.VERSION


def test_a_lock_file_that_was_replaced(settings: Settings, ring: Ring, clock: FakeClock) -> None:
    """The processes that have the old one open exclude nobody who opens the new one."""
    assert state_of(7, settings, clock) == "ok"
    ring.locks.path.unlink()
    ring.locks.path.touch()

    found = look(7, settings, clock)

    assert found.state == "warn"
    assert found.fix.startswith("restart the processes that use the ring")


def test_no_flusher(settings: Settings, ring: Ring, clock: FakeClock) -> None:
    """Nothing is wrong while no event waits."""
    assert state_of(8, settings, clock) == "ok"
    append(ring, clock)

    found = look(8, settings, clock)

    assert (found.state, found.fix.startswith("the application starts it")) == ("fail", True)


def test_a_flusher_that_is_silent(settings: Settings, ring: Ring, clock: FakeClock) -> None:
    """It holds the lock, and does nothing."""
    serve(ring, settings, clock)
    assert state_of(8, settings, clock) == "ok"
    append(ring, clock)
    clock.now_s += 5
    assert state_of(8, settings, clock) == "ok"
    clock.now_s += 0.1

    found = look(8, settings, clock)

    assert (found.state, "ps: state T" in found.fix) == ("fail", True)
    flusher_lock.beat(ring, clock)
    ring.words[at.H_DOWN_MS] = clock.time_ms() - 20_000
    assert look(8, settings, clock).fix == "look at check 24; the flusher's log has the reason"


def test_an_operators_flusher_beside_autostart(settings: Settings, ring: Ring, clock: FakeClock, process: Path) -> None:
    """The application would start another one as soon as the operator's restarts."""
    serve(ring, settings, clock)
    (process / "cmdline").write_bytes(b"python\0-m\0rudderpipe.flusher\0--detach\0")
    assert state_of(9, settings, clock) == "ok"
    (process / "cmdline").write_bytes(b"python\0-m\0rudderpipe.flusher\0")

    found = look(9, settings, clock)

    assert (found.state, found.fix) == ("warn", "RUDDERPIPE_AUTOSTART=false in the application")


def test_a_flusher_with_other_settings(settings: Settings, ring: Ring, clock: FakeClock) -> None:
    """The setting is named, and no value is shown."""
    serve(ring, settings, clock)
    assert state_of(10, settings, clock) == "ok"
    serve_with = replace(settings, write_key="another", flush_at=7)
    served_settings.record(ring, serve_with)

    found = look(10, settings, clock)

    assert (found.state, found.fix.startswith("give all processes the same settings")) == ("fail", True)
    assert "other values of write_key, flush_at" in found.text
    assert "another" not in found.text


def test_a_shell_with_other_settings(settings: Settings, ring: Ring, clock: FakeClock, process: Path) -> None:
    """The application's ring is found, and the settings that differ are named from its flusher's environment."""
    append(ring, clock)
    serve(ring, settings, clock)
    (process / "environ").write_bytes(b"RUDDERPIPE_QUEUE_NAME=theirs\0")
    other = replace(settings, pipe="misspelt")

    found = run.finding(CHECKS[10], Examination(other, clock=clock, environment={}))

    assert (found.state, found.fix) == ("warn", "compare queue_name of this shell and the application")


def test_rings_that_are_served_are_named_first() -> None:
    """The ring of an application that runs is among the few that are named."""
    rows = [HostRing(f"{name}-v4", name, 4, 0, "app", producers=1) for name in ("a", "b", "c")]
    served = HostRing("shop-v4", "shop", 4, 0, "app", producers=1, flusher=4711)

    assert processes.names_of([*rows, served]) == "shop, a, b, others"
    assert processes.names_of([*rows[:1], served]) == "shop, a"


def test_too_many_producers(
    settings: Settings, ring: Ring, clock: FakeClock, process: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """512 living processes have a slot at most; a replaced interpreter is a process of before an upgrade."""
    append(ring, clock)
    (process / "exe").symlink_to("/usr/bin/python3")
    assert state_of(11, settings, clock) == "ok"
    (process / "exe").unlink()
    (process / "exe").symlink_to("/usr/bin/python3 (deleted)")
    assert look(11, settings, clock).fix == "restart the application"
    monkeypatch.setattr(processes, "USED", 0.001)

    found = look(11, settings, clock)

    assert (found.state, "fewer processes" in found.fix) == ("warn", True)


@pytest.mark.parametrize("reason", rings.FIXES)
def test_refused_events(settings: Settings, ring: Ring, clock: FakeClock, reason: str) -> None:
    """Each reason that was not intended has its own advice."""
    ring.words[at.H_REFUSED + at.REFUSALS.index("dropped")] = 5
    assert state_of(12, settings, clock) == "ok"
    ring.words[at.H_REFUSED + at.REFUSALS.index(reason)] = 3

    found = look(12, settings, clock)

    assert (found.state, found.text) == ("warn", f"3 events refused as {reason}")
    assert found.fix == f"{reason}: {rings.FIXES[reason]}"


def test_a_ring_that_is_soon_full(settings: Settings, ring: Ring, clock: FakeClock) -> None:
    """By its fill, by its oldest event, or by how long it lasts at the present rate."""
    append(ring, clock)
    ring.words[at.H_CREATED_MS] = clock.time_ms() - 1_000_000
    assert state_of(13, settings, clock) == "ok"
    ring.words[at.H_CREATED_MS] = clock.time_ms()
    append(ring, clock, 500)
    assert "raise max_internal_queue_size, and ring_bytes with it" in look(13, settings, clock).fix
    append(ring, clock, 400)

    found = look(13, settings, clock)

    assert found.state == "warn"
    assert found.fix == "look at checks 8, 16 and 24; raise max_internal_queue_size and ring_bytes"
    clock.now_s += 1000
    old = look(13, settings, clock)
    assert "the oldest event has been in" in old.text
    assert old.fix == found.fix


@pytest.mark.parametrize(
    ("command", "state"),
    [
        (b"uwsgi\0--enable-threads\0", "ok"),
        (b"uwsgi\0--ini\0%s/app.ini\0", "ok"),
        (b"gunicorn\0--preload\0", "ok"),
        (b"uwsgi\0--http\0:80\0", "warn"),
    ],
)
def test_uwsgi_without_threads(
    settings: Settings, ring: Ring, clock: FakeClock, process: Path, command: bytes, state: str
) -> None:
    """Callbacks need a thread. A client that gunicorn made before its fork is fine."""
    append(ring, clock)
    (process / "app.ini").write_text("[uwsgi]\nenable-threads = true\n")
    (process / "cmdline").write_bytes(command.replace(b"%s", bytes(process)))

    found = look(26, settings, clock)

    assert found.state == state
    assert ("docs/frameworks.md" in found.fix) == (state == "warn")


def test_a_small_container(settings: Settings, clock: FakeClock, process: Path) -> None:
    """The ring counts to the container's memory."""
    limit = process.parent.parent / "sys" / "fs" / "cgroup" / "memory.max"
    limit.parent.mkdir(parents=True)
    limit.write_text("max\n")
    assert state_of(27, settings, clock) == "ok"
    limit.write_text("3000000\n")

    found = look(27, settings, clock)

    assert (found.state, found.fix) == ("warn", "raise the memory limit of the container, or lower ring_bytes")


def test_a_process_of_before_an_upgrade(
    settings: Settings, ring: Ring, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its modules are those of the version that was installed when it started."""
    append(ring, clock)
    installed_s = (ROOT / "rudderpipe" / "_version.py").stat().st_ctime
    monkeypatch.setattr(identity, "age_s", lambda _pid: clock.time_ms() / 1000 - installed_s - 5)
    assert state_of(28, settings, clock) == "ok"
    monkeypatch.setattr(identity, "age_s", lambda _pid: clock.time_ms() / 1000 - installed_s + 5)

    found = look(28, settings, clock)

    assert (found.state, found.fix) == ("warn", "restart in this order: flusher, sender, application")


def test_spill(settings: Settings, clock: FakeClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The directory, what is in it, and the room on its disk."""
    assert state_of(35, settings, clock) == "skip"
    settings = msgspec.structs.replace(settings, redis="redis://a", spill_dir=str(tmp_path / "disk"))
    assert state_of(35, settings, clock) == "warn"
    log = Spill(settings, 7)
    assert log.open()
    log.append([Record([(1, 0, 1)], [(1, 1)], [5], [b"{}"])], 1)
    found = look(35, settings, clock)
    assert (found.state, f"in {log.directory}, " in found.text) == ("warn", True)
    log.remove_before(Position(9))
    log.close()
    assert look(35, settings, clock).text == f"none in {log.directory}"
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage._replace(free=5))
    assert "has 5 bytes left" in look(35, settings, clock).text
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert state_of(35, settings, clock) == "fail"


@pytest.fixture(name="spilling")
def _spilling(settings: Settings, clock: FakeClock) -> Iterator[Settings]:
    """Yield settings with a queue and a ``spill_dir`` that cannot be made, with a ring that this process serves."""
    spilling = msgspec.structs.replace(settings, redis="redis://a", spill_dir="/proc/x")
    ring = open_ring(spilling, clock)
    serve(ring, spilling, clock)
    append(ring, clock, 500)
    yield spilling
    memory.remove(ring.segment.name)


def test_a_spill_dir_that_the_flusher_could_not_make(spilling: Settings, clock: FakeClock) -> None:
    """Nothing is put there, and events stay in the ring."""
    found = look(35, spilling, clock)

    assert (found.state, found.text) == ("fail", "/proc/x does not exist, although a flusher runs")


def test_a_ring_with_a_spill_may_be_small(spilling: Settings, clock: FakeClock) -> None:
    """When it is nearly full, its oldest events go to the spill."""
    without = msgspec.structs.replace(spilling, spill_dir=None)

    assert [state_of(13, each, clock) for each in (spilling, without)] == ["ok", "warn"]
    assert "of outage at 500 events/s, then the spill" in look(13, spilling, clock).text


def test_dead_letters(settings: Settings, clock: FakeClock) -> None:
    """Failed batches of direct mode, and damaged events."""
    assert state_of(30, settings, clock) == "ok"
    letters, batch = dead_letters.of(settings), Batch(b"{}", 1, (OffsetRange(1, 0, 1),))
    letters.keep(dead_letters.record_of(batch, [Raw(b"{}")], 1, 5, "status 400", 1))
    assert look(30, settings, clock).fix.startswith("rudderpipe failed list")
    letters.keep(dead_letters.damaged_record_of(Batch(b"}", 1, (OffsetRange(1, 1, 2),)), 1, 5))

    found = look(30, settings, clock)

    assert (found.state, "test the memory of this host" in found.fix) == ("warn", True)


def test_a_fifo_that_was_removed(settings: Settings, ring: Ring, clock: FakeClock) -> None:
    """A sleeping flusher then looks by itself, later."""
    assert state_of(31, settings, clock) == "skip"
    serve(ring, settings, clock)
    os.mkfifo(ring.fifo)
    assert state_of(31, settings, clock) == "ok"
    Path(ring.fifo).unlink()

    found = look(31, settings, clock)

    assert (found.state, found.fix.startswith("restart the flusher")) == ("warn", True)


def test_errors_in_the_log(settings: Settings, clock: FakeClock) -> None:
    """The last one is shown."""
    path = Path(settings.runtime_dir or "") / f"{settings.pipe_name}.log"
    path.write_text("2026-11-27 10:23:21,806 rudderpipe.flusher INFO serving\n")
    assert look(33, settings, clock).text == str(path)
    path.write_text("2026-11-27 10:23:21,806 rudderpipe.flusher ERROR ended by an unexpected error\n")

    found = look(33, settings, clock)

    assert (found.state, found.fix) == ("warn", f"tail {path}")
    assert "ended by an unexpected error" in found.text


def test_a_secret_file_that_is_wrong(settings: Settings, clock: FakeClock, tmp_path: Path) -> None:
    """One that is missing, one that holds something else, and one that others can read."""
    path = tmp_path / "key"
    file = replace(settings, write_key="", write_key_file=str(path))
    assert state_of(32, settings, clock) == "ok"
    assert (look(32, file, clock).state, look(32, file, clock).fix) == ("fail", f"mount or make {path}")
    path.write_text("two\nlines\n")
    assert look(32, file, clock).fix == "write the secret, and nothing else, into it"
    path.write_text(SECRET)
    path.chmod(0o644)

    found = look(32, file, clock)

    assert (found.state, found.fix.startswith(f"chmod 400 {path}")) == ("warn", True)
    assert SECRET not in found.text
    path.chmod(0o400)
    assert state_of(32, file, clock) == "ok"


def test_where_an_operators_flusher_logs(settings: Settings, ring: Ring, clock: FakeClock, process: Path) -> None:
    """To a file, or to the journal of its unit."""
    serve(ring, settings, clock)
    (process / "cmdline").write_bytes(b"python\0-m\0rudderpipe.flusher\0")
    (process / "fd" / "2").symlink_to("socket:[7]")
    (process / "cgroup").write_text("0::/system.slice/rudderpipe-flusher@shop.service\n")

    found = look(33, settings, clock)

    assert found.text.endswith("is socket:[7] (journalctl -u rudderpipe-flusher@shop.service)")


def test_no_secret_is_printed(settings: Settings, clock: FakeClock) -> None:
    """Also not one that something else repeats."""
    found = replace(settings, redis="redis://u:pa55word@h", proxy_url="http://u:pr0xyword@h")

    @check(999, "chatty", "host")
    def chatty(_pipe: Examination) -> Result:
        """Check that nothing is repeated."""
        return Result("fail", f"key {SECRET}, pa55word", "pr0xyword")

    del CHECKS[999]
    finding = run.finding(chatty, Examination(found, clock=clock))

    assert (finding.text, finding.fix) == ("key …, …", "…")


def test_a_check_that_breaks_or_hangs_does_not_end_the_others(
    settings: Settings, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The text of an unexpected error may hold anything, so only its type is shown."""
    monkeypatch.setattr(host, "NEEDED", {"msgspec": SECRET})
    assert look(2, settings, clock).text == "the check could not be made here: TypeError"
    monkeypatch.setattr(run, "CHECK_S", 0.0)
    monkeypatch.setattr(threading.Thread, "start", lambda _self: None)
    monkeypatch.setattr(threading.Thread, "join", lambda _self, _timeout: None)

    assert look(2, settings, clock).text == "not finished within 0 s"


def test_what_a_check_sees_is_read_once(settings: Settings, clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error too, so that a Redis that is away is waited for once."""
    pipe = Examination(settings, clock=clock)
    with pytest.raises(Skipped):
        _ = pipe.queue
    monkeypatch.setattr(pipe, "settings", Settings())

    with pytest.raises(Skipped, match="direct mode"):
        _ = pipe.queue


def test_the_worst_result_counts() -> None:
    """A warning beside a failure is not shown, because it may follow from it."""
    found = [Result("warn", "a", "mend a"), Result("fail", "b", "mend b"), Result("fail", "c", "mend b")]

    assert worst(found, "fine") == Result("fail", "b; c", "mend b")
    assert worst(found[:1], "fine") == found[0]
    same = [Result("warn", "a", "look; mend"), Result("warn", "b", "look")]
    assert worst(same, "fine") == Result("warn", "a; b", "look; mend")
    assert worst([], "fine") == Result("ok", "fine")


def test_every_check_is_made_to_fail_in_a_test() -> None:
    """Each has a docstring that says what it looks at, and a name of its own."""
    native = ("test_doctor.py", "test_hot_user.py", "test_node_on_a_sealed_queue.py", "test_ring_commands.py")
    paths = [Path(__file__), *(ROOT / "native_tests" / name for name in native)]
    tests = "".join(path.read_text() for path in paths)
    tried = {int(number) for number in re.findall(r"\blook\((\d+), ", tests)}

    assert tried == set(CHECKS)
    assert len({each.name for each in CHECKS.values()}) == len(CHECKS)
    assert {each.group for each in CHECKS.values()} == set(GROUPS)
    assert all((each.look.__doc__ or "").startswith("Check ") for each in CHECKS.values())


def test_every_command_of_a_script_is_among_the_rights_that_are_checked() -> None:
    """A script that needs one more would fail in production."""
    checked = {line.split(" ")[0] for line in redis_server.dry_runs()}

    assert redis_server.commands_of_scripts() - checked == set()


def test_the_page_lists_every_check() -> None:
    """``python -m tests.test_doctor`` writes the table anew."""
    assert table() in PAGE.read_text()


PAGE = ROOT / "docs" / "doctor.md"
FIRST, LAST = "| number | check | group | what it looks at |", "\n\n"


def table() -> str:
    """Return the table of all checks in Markdown."""
    lines = [FIRST, "| --- | --- | --- | --- |"]
    for number in sorted(CHECKS):
        each = CHECKS[number]
        lines.append(f"| {number} | {each.name} | {each.group} | {each.purpose} |")
    return "\n".join(lines) + LAST


def write() -> None:
    """Write the table into the page."""
    before, _, rest = PAGE.read_text().partition(FIRST)
    PAGE.write_text(before + table() + rest.partition(LAST)[2])


if __name__ == "__main__":
    write()

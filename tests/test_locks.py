"""Locks, which exclude other processes by the kernel, and other threads and nested calls by a mutex."""

from __future__ import annotations

import logging
import os
import stat
import threading
from pathlib import Path

import pytest

from rudderpipe.errors import RingUnavailable
from rudderpipe.process import locks, runtime_dir
from rudderpipe.process.locks import LockFile
from rudderpipe.service import bootstrap

LOG_NAMES = ("x.lock", "x.log", "y.log", "y.log.1")


def test_a_process_opens_each_lock_file_once(tmp_path: Path) -> None:
    """The form of the path does not matter. Closing one of two descriptors would drop the locks of both."""
    (tmp_path / "a").mkdir()

    assert locks.shared(tmp_path / "x.lock") is locks.shared(tmp_path / "a" / ".." / "x.lock")


def test_a_removed_lock_file_is_opened_anew(tmp_path: Path) -> None:
    """The old lock file says that it is not current."""
    old = locks.shared(tmp_path / "x.lock")
    old.remove()
    new = locks.shared(tmp_path / "x.lock")

    assert not old.is_current()
    assert new.is_current()
    assert new.is_fresh()


def owner(lock_file: LockFile) -> int | None:
    """Return the thread that holds the lock file's mutex."""
    return lock_file._owner


def test_a_lock_is_not_taken_twice_by_one_thread(tmp_path: Path) -> None:
    """A signal handler in the middle of a claim cannot take the lock. The handler's release does not free the lock."""
    lock_file = locks.shared(tmp_path / "x.lock")

    assert lock_file.lock(0, 1)
    assert not lock_file.lock(0, 1)
    lock_file.release(0)  # as the finally of the nested call does
    assert owner(lock_file) is not None
    lock_file.release(0)
    assert owner(lock_file) is None
    assert lock_file.lock(0, 1)
    lock_file.release(0)
    lock_file.release(0)
    assert lock_file.lock(0, 1)


def test_a_lock_is_not_taken_by_two_threads(tmp_path: Path) -> None:
    """The kernel's lock would let a second thread in, but the mutex does not."""
    lock_file = locks.shared(tmp_path / "x.lock")
    results: list[bool] = []
    assert lock_file.lock(0, 1)

    thread = threading.Thread(target=lambda: results.append(lock_file.lock(0, 0.01)))
    thread.start()
    thread.join()

    assert results == [False]


def test_both_waits_for_a_lock_share_one_timeout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One for the other threads of this process, one for other processes."""
    lock_file, now_s = locks.shared(tmp_path / "x.lock"), [100.0]

    class BusyMutex:
        def acquire(self, *, blocking: bool = True, timeout: float = -1) -> bool:
            now_s[0] += max(0.0, timeout - 0.25)
            return blocking

        def release(self) -> None:
            pass

    def nap(seconds: float) -> None:
        now_s[0] += seconds

    monkeypatch.setattr(lock_file, "_mutex", BusyMutex())
    monkeypatch.setattr(lock_file, "try_lock", lambda _byte: False)
    monkeypatch.setattr(locks, "_nap", nap)
    monkeypatch.setattr("rudderpipe.process.locks.time.monotonic", lambda: now_s[0])

    assert not lock_file.lock(0, 2.0)

    assert now_s[0] == pytest.approx(102.0, abs=0.001)


def test_an_exception_within_lock_leaves_no_lock_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal handler may raise anywhere inside ``lock`` and ``release``."""
    lock_file = locks.shared(tmp_path / "x.lock")

    def interrupted(_byte: int) -> bool:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(lock_file, "try_lock", interrupted)
        with pytest.raises(KeyboardInterrupt):
            lock_file.lock(0, 1)
    results: list[bool] = []
    thread = threading.Thread(target=lambda: results.append(lock_file.lock(0, 0.5)))
    thread.start()
    thread.join()

    assert results == [True]


@pytest.mark.parametrize("mode", [0o777, 0o755, 0o750])
def test_a_directory_of_our_own_is_closed_to_others(
    tmp_path: Path, mode: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Only this user may read locks, logs and dead letters. The change of the mode is logged once."""
    (tmp_path / "a.lock").touch()
    tmp_path.chmod(mode)

    assert runtime_dir.ensure(str(tmp_path)) == runtime_dir.ensure(str(tmp_path)) == tmp_path

    assert mode_of(tmp_path) == 0o700
    assert caplog.messages == [f"runtime_dir {tmp_path} had the mode {mode:04o}; it is 0700 now"]


@pytest.mark.parametrize("sticky", [False, True])
def test_a_directory_with_other_programs_files_keeps_its_mode(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, *, sticky: bool
) -> None:
    """A web server in front may reach its socket there as another user. Many users share /tmp."""
    if not sticky:
        (tmp_path / "gunicorn.sock").touch()
    mode = 0o1755 if sticky else 0o755
    tmp_path.chmod(mode)

    for _ in range(2):
        assert runtime_dir.ensure(str(tmp_path)) == tmp_path

    assert mode_of(tmp_path) == mode
    assert len(caplog.messages) == 1
    assert "give rudderpipe one of its own" in caplog.text
    tmp_path.chmod(mode | 0o022)
    with pytest.raises(RingUnavailable, match="only its owner"):
        runtime_dir.ensure(str(tmp_path))


@pytest.mark.parametrize("umask", [0o000, 0o177, 0o777])
def test_no_umask_changes_the_mode_of_a_file(tmp_path: Path, umask: int) -> None:
    """Directories with their parents, lock files and logs belong to their owner alone, before and after a rotation."""
    made = tmp_path / "a" / "b" / "c"
    before = os.umask(umask)
    try:
        assert runtime_dir.ensure(str(made)) == made
        lock_file = locks.shared(made / "x.lock")
        os.close(runtime_dir.open_log(made / "x.log"))
        log = bootstrap.OwnLog(made / "y.log", maxBytes=100, backupCount=1)
        for _ in range(3):
            log.emit(logging.LogRecord("x", logging.INFO, "", 0, "m" * 60, None, None))
        log.close()
    finally:
        os.umask(before)

    assert [mode_of(path) for path in (made, made.parent, made.parent.parent)] == [0o700] * 3
    assert {path.name: mode_of(path) for path in made.iterdir()} == dict.fromkeys(
        ("x.lock", "x.log", "y.log", "y.log.1"), 384
    )
    assert lock_file.is_fresh()


def test_only_a_regular_file_serves_as_lock_file(tmp_path: Path) -> None:
    """A FIFO, a directory or a link is refused at once, and left as it is."""
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "directory").mkdir()
    (tmp_path / "target").touch()
    (tmp_path / "link").symlink_to(tmp_path / "target")

    for name in ("fifo", "directory", "link"):
        with pytest.raises(RingUnavailable):
            locks.shared(tmp_path / name)


def test_only_the_last_user_of_a_lock_file_closes_it(tmp_path: Path) -> None:
    """Closing any descriptor of the file gives back all locks that the process has on it."""
    before = descriptors_of()
    first = locks.shared(tmp_path / "x.lock")
    second = locks.shared(tmp_path / "x.lock")
    assert len(descriptors_of() - before) == 1
    assert first.try_lock(7)

    del first
    assert len(descriptors_of() - before) == 1
    assert Path("/proc/locks").read_text().count(f":{second.inode} ") == 1
    del second

    assert descriptors_of() == before


def test_a_lock_file_reopened_during_its_last_close_stays_open(tmp_path: Path) -> None:
    """The destructor of one user may run while the next user opens the file. The lock of the next user is kept."""
    first = locks.shared(tmp_path / "x.lock")
    ending = first._descriptor
    ending.users += 1  # as if another thread were in the middle of its end
    del first
    second = locks.shared(tmp_path / "x.lock")
    assert second.try_lock(7)

    locks._files.let_go(ending)

    assert second.is_current()
    assert Path("/proc/locks").read_text().count(f":{second.inode} ") == 1


def descriptors_of() -> set[str]:
    """Return the numbers of this process's open files."""
    return {path.name for path in Path("/dev/fd").iterdir() if path.exists()}


def mode_of(path: Path) -> int:
    """Return the permission bits of the file."""
    return stat.S_IMODE(path.stat().st_mode)

"""Locks: between processes the kernel's, between threads and from within itself a mutex."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from rudderpipe import locks
from rudderpipe.errors import RingUnavailable
from rudderpipe.locks import LockFile


def test_a_process_opens_each_file_once(tmp_path: Path) -> None:
    """However the path is written: closing one of two descriptors would drop the locks of both."""
    (tmp_path / "a").mkdir()

    assert locks.shared(tmp_path / "x.lock") is locks.shared(tmp_path / "a" / ".." / "x.lock")


def test_a_removed_file_is_opened_anew(tmp_path: Path) -> None:
    """And the old one says that it is not current."""
    old = locks.shared(tmp_path / "x.lock")
    old.remove()
    new = locks.shared(tmp_path / "x.lock")

    assert not old.is_current()
    assert new.is_current()
    assert new.is_fresh()


def owner(lock_file: LockFile) -> int | None:
    """The thread that has it now."""
    return lock_file._owner


def test_a_lock_is_not_taken_twice_by_one_thread(tmp_path: Path) -> None:
    """A signal handler that comes in the middle of a claim is told that it is busy, and releases nothing."""
    lock_file = LockFile(tmp_path / "x.lock")

    assert lock_file.lock(0, 1)
    assert not lock_file.lock(0, 1)
    lock_file.release(0)  # the inner one's, as its finally does
    assert owner(lock_file) is not None
    lock_file.release(0)
    assert owner(lock_file) is None
    assert lock_file.lock(0, 1)
    lock_file.release(0)
    lock_file.release(0)
    assert lock_file.lock(0, 1)


def test_a_lock_is_not_taken_by_two_threads(tmp_path: Path) -> None:
    """The kernel's lock would let a second thread in; the mutex does not."""
    lock_file = LockFile(tmp_path / "x.lock")
    answers: list[bool] = []
    assert lock_file.lock(0, 1)

    thread = threading.Thread(target=lambda: answers.append(lock_file.lock(0, 0.01)))
    thread.start()
    thread.join()

    assert answers == [False]


def test_an_exception_on_the_way_leaves_no_lock_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A handler may raise anywhere inside ``lock`` and ``release``."""
    lock_file = LockFile(tmp_path / "x.lock")

    def interrupted(_byte: int) -> bool:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(lock_file, "try_lock", interrupted)
        with pytest.raises(KeyboardInterrupt):
            lock_file.lock(0, 1)
    answers: list[bool] = []
    thread = threading.Thread(target=lambda: answers.append(lock_file.lock(0, 0.5)))
    thread.start()
    thread.join()

    assert answers == [True]


def test_a_directory_that_others_can_write_is_refused(tmp_path: Path) -> None:
    """Locks, logs and the spool are this user's alone."""
    tmp_path.chmod(0o777)

    with pytest.raises(RingUnavailable, match="only its owner"):
        locks.runtime_dir(str(tmp_path))

"""Which process an identity or an address means, and when that process is certainly gone."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from rudderpipe.process import identity
from rudderpipe.process.identity import Identity

NO_PID = 1 << 40


def fields() -> list[str]:
    """Return the fields in the last part of this process's address."""
    return identity.address().split(" ")[2].split("/")


def address_of(pid: int, start: int) -> str:
    """Return the address that a process of this user on this host would have."""
    unit, _, namespace, uid, boot = fields()
    return f"{identity.address().split(' ')[0]} {pid} {unit}/{start}/{namespace}/{uid}/{boot}"


def test_a_process_with_this_pid_and_an_earlier_start_is_gone() -> None:
    """The same pid with another start is another process, however small the difference is."""
    mine = identity.me()

    assert mine.start > 0
    assert not mine.is_gone()
    assert mine._replace(start=mine.start - 1).is_gone()


@pytest.mark.parametrize("pid", [NO_PID, 1 << 70, 0, -1])
def test_a_number_that_is_no_pid_is_gone(pid: int) -> None:
    """A damaged word of the ring is not a living process, and no signal goes to a process group."""
    assert identity.me()._replace(pid=pid).is_gone()


def test_an_unknown_start_proves_nothing() -> None:
    """A ring of an earlier version stores a time of day, which its reader replaces by 0."""
    assert not identity.me()._replace(start=0).is_gone()
    assert Identity(NO_PID, 0, identity.me().namespace).is_gone()


def test_a_process_of_another_namespace_is_never_gone() -> None:
    """The pid may belong to another process in this namespace."""
    mine = identity.me()

    assert not Identity(NO_PID, 1, mine.namespace + 1).is_gone()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux writes a program's name into a line of fields")
def test_a_programs_name_does_not_hide_its_start() -> None:
    """In /proc the name stands before the start. It may hold blanks, parentheses and bytes that are no text."""
    mine, name = identity.me(), Path("/proc/self/comm")
    before = name.read_bytes()
    try:
        name.write_bytes(b") Z 1 (\xff 2")
        assert identity.me() == mine
        assert not mine.is_gone()
    finally:
        name.write_bytes(before)


def test_a_process_is_not_gone_where_proc_is_unreadable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a readable /proc, nothing is certain about a pid that exists."""
    mine = identity.me()
    monkeypatch.setattr(identity, "_look", lambda _pid: None)

    assert not mine._replace(start=1).is_gone()
    assert mine._replace(pid=NO_PID).is_gone()
    assert identity.me().start == 0


def test_the_address_of_a_dead_process_is_recognised() -> None:
    """The process was this user's, on this host, since its last boot."""
    assert identity.is_surely_dead(address_of(NO_PID, 1))
    assert identity.is_surely_dead(address_of(os.getpid(), 1))
    assert not identity.is_surely_dead(identity.address())


@pytest.mark.parametrize(
    "change",
    [
        lambda host, rest: ("another-host", rest),
        lambda host, rest: (host, [*rest[:3], "12345", rest[4]]),
        lambda host, rest: (host, [*rest[:4], "another-boot"]),
        lambda host, rest: (host, ["ms", *rest[1:]]),
        lambda host, rest: (host, [rest[0], "0", *rest[2:]]),
        lambda host, rest: (host, [*rest, "more"]),
    ],
    ids=["host", "user", "boot", "unit", "hidden start", "a later version"],
)
def test_an_address_that_cannot_be_compared_counts_as_living(change: object) -> None:
    """The address is of another host, user or boot, or has an unknown form."""
    assert callable(change)
    host, rest = change(identity.address().split(" ")[0], address_of(NO_PID, 1).split(" ")[2].split("/"))

    assert not identity.is_surely_dead(f"{host} {NO_PID} {'/'.join(rest)}")


def test_versions_do_not_read_each_others_addresses() -> None:
    """Addresses of earlier versions have four fields, the first a time of day. Neither version may call a process of
    the other one dead."""
    _, _, namespace, uid, boot = fields()
    host = identity.address().split(" ")[0]

    assert not identity.is_surely_dead(f"{host} {NO_PID} 1700000000000/{namespace}/{uid}/{boot}")
    assert len(fields()) == 5

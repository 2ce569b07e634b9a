"""Processes that live for a moment, and rings that are removed while in use: no accepted event is lost."""

from __future__ import annotations

import signal

from native_tests.hosts import Hosts
from rudderpipe.ring import layout as at

# Forks the children as fast as the machine can, with at most 32 alive. Each child tracks once. A call is repeated when
# the claim lock is busy (32 processes want it at once on few cores) or no block is free (the flusher gets no core).
FORKS = """
import os, sys, time
import rudderpipe, tally

client = rudderpipe.Client()
tally.track(client, 1, "parent")
print("ready", flush=True)
sys.stdin.readline()
alive = 0
for number in range(int(sys.argv[1])):
    if alive == 32:
        os.wait()
        alive -= 1
    if not os.fork():
        for _ in range(500):
            if client.track("u", "e", {"pid": os.getpid(), "n": number, "where": "child"}):
                os.write(tally.notes, b"%d %d 1\\n" % (os.getpid(), number))
                os._exit(0)
            if set(client.counts()) - {"accepted", "busy", "no_block"}:
                break
            time.sleep(0.001 if client.counts().get("no_block") else 0)
        os.write(tally.notes, b"%d %d 0\\n" % (os.getpid(), number))
        os._exit(1)
    alive += 1
for _ in range(alive):
    os.wait()
"""


def fork_many(hosts: Hosts, count: int, *, stopped: bool) -> None:
    """Fork so many children, with the flusher stopped or not, and check that all of their events arrive."""
    program = hosts.processes.start(hosts.write("program", FORKS), str(count), cwd=hosts.directory, stdin=-1, stdout=-1)
    assert program.stdin is not None
    assert program.stdout is not None
    assert program.stdout.readline() == b"ready\n"
    flusher = hosts.processes.flusher()
    if stopped:
        flusher.send_signal(signal.SIGSTOP)
    program.stdin.write(b"\n")
    program.stdin.flush()
    assert program.wait(60) == 0
    if stopped:
        flusher.send_signal(signal.SIGCONT)

    assert hosts.noted()[1] == 0, hosts.processes.status().events.refused
    hosts.processes.delivered(count + 1)
    account = hosts.processes.status().events
    assert set(account.refused) <= {"busy", "no_block"}
    assert account.balanced


def test_a_thousand_forked_children_find_a_slot_each(hosts: Hosts) -> None:
    """A child must not have to wait until the flusher frees slots, because there are fewer slots than children."""
    fork_many(hosts, 1000, stopped=False)


def test_children_reuse_slots_while_the_flusher_is_stopped(hosts: Hosts) -> None:
    """Each child takes over the slot of a dead one, whose event is still in the ring."""
    hosts.processes.explicit["ring_bytes"] = 64 << 20
    fork_many(hosts, at.SLOTS + 100, stopped=True)


# Removes its own ring twice, as logind does at a user's last logout, while there is no flusher. A child, another thread
# and a signal handler track at the same time.
REMOVED = """
import os, pathlib, signal, threading, time
import rudderpipe, tally
from rudderpipe.ring import location

client = rudderpipe.Client()

def remove():
    found = location.own(client.settings).segment
    os.unlink("/dev/shm/" + found)

signal.signal(signal.SIGUSR1, lambda *_: tally.track(client, 1, "handler"))
tally.track(client, 20, "before")
child = os.fork()
tally.track(client, 5, "child" if not child else "parent")
os.kill(os.getpid(), signal.SIGUSR1)
if child:
    thread = threading.Thread(target=tally.track, args=(client, 30, "thread", lambda: time.sleep(0.01)))
    thread.start()
    remove()
    tally.track(client, 300, "after", lambda: time.sleep(0.005))
    thread.join()
    os.waitpid(child, 0)
    remove()
else:
    time.sleep(0.5)
    tally.track(client, 3, "late child")
"""


def test_a_ring_removed_while_no_flusher_runs_loses_nothing(hosts: Hosts) -> None:
    """A flusher that starts later delivers, once, what was accepted before, between and after the removals."""
    hosts.processes.explicit["autostart"] = False
    hosts.run(REMOVED)
    hosts.processes.start("-m", "rudderpipe.flusher")

    events = hosts.assert_all_arrived()
    assert len(events) == 20 + 2 * 5 + 2 + 30 + 300 + 3

"""Calls in the middle of calls.

Signal handlers, destructors, threads and greenlets lose no event, and every call returns.
"""

from __future__ import annotations

import pytest

from native_tests.hosts import Hosts

HOSTS = ("plain", "gevent", "eventlet")
MOMENTS = ("before the import", "after the import", "after the client was made")

# Patches the standard library at the moment in the second argument, and makes ``client``.
PATCHED = """
import sys

host, moment, first_from = (*sys.argv[1:], "")[:3]

def patch_if(now):
    if now != moment:
        return
    if host == "gevent":
        from gevent import monkey
        monkey.patch_all()
    elif host == "eventlet":
        import eventlet
        eventlet.monkey_patch()

patch_if("before the import")
import rudderpipe
patch_if("after the import")
client = rudderpipe.Client()
patch_if("after the client was made")
import tally
"""

TIMER = """
import signal
fired = depth = accepted = 0

def handler(*_):
    global fired, depth, accepted
    fired += 1
    depth += 1
    if depth < 20:
        accepted += tally.track(client, 1, "handler")
    depth -= 1

tally.track(client, 1, "first")
signal.signal(signal.SIGALRM, handler)
signal.setitimer(signal.ITIMER_REAL, 0.0003, 0.0003)
# On a busy machine the flusher falls behind, and the ring is full for a moment.
while fired < 1500 or accepted <= 1000:
    tally.track(client, 100, "main")
signal.setitimer(signal.ITIMER_REAL, 0)
"""

SIGNALS = """
import os, signal, subprocess
fired = depth = 0

def handler(*_):
    global fired, depth
    fired += 1
    depth += 1
    tally.track(client, 1, "handler")
    if depth < 20:
        os.write(ready, b".")  # the next signal may come now, in the middle of this handler
        tally.track(client, 1, "handler")
    else:
        owed.append(b".")
    depth -= 1
    if not depth and owed:
        os.write(ready, owed.pop())

owed = []
tally.track(client, 1, "first")
signal.signal(signal.SIGUSR1, handler)
sender = (
    "import os, signal, sys\\n"
    "while sys.stdin.buffer.raw.read(1): os.kill(os.getppid(), signal.SIGUSR1)\\n"
)
receiving, ready = os.pipe()
process = subprocess.Popen([sys.executable, "-c", sender], stdin=receiving)
os.write(ready, b".")
while fired < 3000:
    tally.track(client, 100, "main")
process.kill()
process.wait()
"""

MANY_AT_ONCE = """
import signal
fired = 0

def handler(*_):
    global fired
    fired += 1
    tally.track(client, 1100, "handler")

tally.track(client, 1, "first")
signal.signal(signal.SIGALRM, handler)
while fired < 20:
    signal.setitimer(signal.ITIMER_REAL, 0.0001 + 0.00001 * (fired % 20))
    tally.track(client, 20, "main")
"""

DESTRUCTORS = """
import gc
collected = 0

class Farewell:
    def __init__(self):
        self.me = self

    def __del__(self):
        global collected
        collected += 1
        tally.track(client, 1, "destructor")

tally.track(client, 1, "first")
gc.set_threshold(7, 2, 2)
for _ in range(3000):
    Farewell()
    tally.track(client, 2, "main")
gc.collect()
assert collected == 3000
"""

THREADS = """
import threading
sys.setswitchinterval(1e-5)
threads = [
    threading.Thread(target=tally.track, args=(client, 500, "thread %d" % number)) for number in range(16)
]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""

GREENLETS = """
import time

def switch():
    time.sleep(0)

if host == "gevent":
    import gevent
    running = [gevent.spawn(tally.track, client, 50, "greenlet %d" % number, switch) for number in range(200)]
    gevent.joinall(running, raise_error=True)
else:
    import eventlet
    running = [eventlet.spawn(tally.track, client, 50, "greenlet %d" % number, switch) for number in range(200)]
    for greenlet in running:
        greenlet.wait()
"""

NATIVE_THREADS = """
sys.setswitchinterval(1e-5)
if first_from == "main":
    tally.track(client, 1, "first")
if host == "gevent":
    import gevent, gevent.threadpool
    pool = gevent.threadpool.ThreadPool(4)
    running = [pool.spawn(tally.track, client, 1000, "thread %d" % number) for number in range(4)]
    running += [gevent.spawn(tally.track, client, 1000, "greenlet %d" % number) for number in range(4)]
    gevent.joinall(running, raise_error=True)
    pool.join()
else:
    import eventlet, eventlet.tpool
    running = [
        eventlet.spawn(eventlet.tpool.execute, tally.track, client, 1000, "thread %d" % number) for number in range(4)
    ]
    running += [eventlet.spawn(tally.track, client, 1000, "greenlet %d" % number) for number in range(4)]
    for greenlet in running:
        greenlet.wait()
    eventlet.tpool.killall()
"""


AND_THEN_FROM_MAIN = """
assert client.flush(10)
tally.track(client, 1, "last")
"""


@pytest.mark.parametrize("host", HOSTS)
def test_a_timers_handler_can_track_within_track(hosts: Hosts, host: str) -> None:
    """The handler of an interval timer interrupts ``track`` at any line."""
    hosts.run(PATCHED + TIMER, host, MOMENTS[0])

    events = hosts.assert_all_arrived(refused=True, ordered=False)
    assert sum(event.where == "handler" for event in events) > 1000


# Without eventlet, because its os.write and Popen must not be called in a signal handler of its hub.
@pytest.mark.parametrize("host", HOSTS[:2])
def test_a_signal_handler_can_track_within_another_handler(hosts: Hosts, host: str) -> None:
    """The next signal comes as soon as it can interrupt the handler of the previous one."""
    hosts.run(PATCHED + SIGNALS, host, MOMENTS[0])

    events = hosts.assert_all_arrived(refused=True, ordered=False)
    assert sum(event.where == "handler" for event in events) > 3000


def test_a_signal_handler_can_track_many_events_within_track(hosts: Hosts) -> None:
    """A handler tracks 1,100 events within one call. All are in the ring when it returns, or were refused."""
    hosts.run(PATCHED + MANY_AT_ONCE, "plain", MOMENTS[0])

    events = hosts.assert_all_arrived(refused=True, ordered=False)
    assert sum(event.where == "handler" for event in events) >= 10 * 1100


@pytest.mark.parametrize("host", HOSTS)
def test_a_destructor_can_track_within_track(hosts: Hosts, host: str) -> None:
    """The garbage collector runs the destructors in the middle of ``track``.

    So many destructors run that some interrupt a claim or each other. Their events are refused and counted.
    """
    hosts.run(PATCHED + DESTRUCTORS, host, MOMENTS[0])

    events = hosts.assert_all_arrived(refused=True, ordered=False)
    arrived = sum(event.where == "destructor" for event in events)
    assert arrived > 2000
    assert arrived + hosts.noted()[1] == 3000
    assert set(hosts.processes.status().events.refused) == {"busy"}


def test_events_of_sixteen_threads_arrive_in_their_order(hosts: Hosts) -> None:
    """Each thread's events arrive in the order of its calls."""
    hosts.run(PATCHED + THREADS, "plain", MOMENTS[0])

    assert len(hosts.assert_all_arrived()) == 16 * 500


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("host", HOSTS[1:])
def test_events_of_two_hundred_greenlets_arrive(hosts: Hosts, host: str, moment: str) -> None:
    """The greenlets take turns, and the standard library may be patched at any moment."""
    hosts.run(PATCHED + GREENLETS, host, moment)

    assert len(hosts.assert_all_arrived()) == 200 * 50


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("host", HOSTS[1:])
def test_greenlets_and_native_threads_can_track_at_once(hosts: Hosts, host: str, moment: str) -> None:
    """The native threads are those of the host's own pool."""
    hosts.run(PATCHED + NATIVE_THREADS, host, moment, "main")

    assert len(hosts.assert_all_arrived()) == 1 + 8 * 1000


FULL_FIFO = """
import os, posix, signal, time
from rudderpipe.ring import layout as at

tally.track(client, 1, "main")
ring = client._intake._own.producer.ring

def stop_asleep():
    while not ring.words[at.H_ASLEEP] or ring.words[at.H_ASLEEP] & 1:
        time.sleep(0.01)
    os.kill(ring.words[at.H_PID], signal.SIGSTOP)
    return ring.words[at.H_ASLEEP]

while (number := stop_asleep()) == 0 or number & 1:
    os.kill(ring.words[at.H_PID], signal.SIGCONT)
fifo = posix.open(ring.fifo, os.O_RDWR | os.O_NONBLOCK)
while True:
    try:
        posix.write(fifo, b"." * 4096)
    except BlockingIOError:
        break
tally.track(client, 1, "main")
client.flush(0.1)
os.kill(ring.words[at.H_PID], signal.SIGCONT)
"""


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("host", HOSTS)
def test_a_full_fifo_stops_no_call(hosts: Hosts, host: str, moment: str) -> None:
    """The flusher is stopped in its sleep, and so many processes have written that the FIFO takes no more."""
    hosts.run(PATCHED + FULL_FIFO, host, moment)

    assert len(hosts.assert_all_arrived()) == 2


DESCRIPTORS = """
import os, time
from eventlet import patcher
from rudderpipe.ring import layout as at

tally.track(client, 1, "main")
ring = client._intake._own.producer.ring

def track_in_a_thread():
    while not ring.words[at.H_ASLEEP] or ring.words[at.H_ASLEEP] & 1:
        time.sleep(0.01)
    thread = patcher.original("threading").Thread(target=tally.track, args=(client, 1, "thread"))
    thread.start()
    thread.join()
    return len(os.listdir("/dev/fd"))

found = [track_in_a_thread() for _ in range(10)]
assert found == found[:1] * 10, found
"""


def test_a_native_thread_that_wakes_the_flusher_makes_no_hub(hosts: Hosts) -> None:
    """eventlet's own ``os.open`` makes one for each thread, and each hub keeps a descriptor."""
    hosts.run(PATCHED + DESCRIPTORS, "eventlet", MOMENTS[0])

    assert len(hosts.assert_all_arrived()) == 11


def test_a_native_thread_of_gevent_can_track_the_first_event(hosts: Hosts) -> None:
    """gevent lets only its main thread start a process.

    The call returns nevertheless, and the flusher starts when the main thread tracks.
    """
    hosts.run(PATCHED + NATIVE_THREADS + AND_THEN_FROM_MAIN, "gevent", MOMENTS[0], "thread")

    assert len(hosts.assert_all_arrived()) > 8 * 1000


CALLBACKS = """
import os, time
calls = []

def note(error, message):
    calls.append((error, message["properties"]["n"]))

for n in range(300):
    assert client.track("u", "e", {"n": n}, callback=note)
    os.write(tally.notes, b"%d %d %d\\n" % (os.getpid(), n, True))
flushed = []
client.flush(lambda error, result: flushed.append((error, result.failed)))
deadline = time.monotonic() + 10
while (len(calls) < 300 or not flushed) and time.monotonic() < deadline:
    time.sleep(0.01)
assert calls == [(None, n) for n in range(300)], calls[:3]
assert flushed == [(None, 0)], flushed
client.shutdown()
"""


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("host", HOSTS)
def test_callbacks_are_called_in_any_host(hosts: Hosts, host: str, moment: str) -> None:
    """A thread calls them, or a greenlet in place of a thread. The program's main greenlet goes on meanwhile."""
    hosts.run(PATCHED + CALLBACKS, host, moment)

    hosts.processes.delivered(300)

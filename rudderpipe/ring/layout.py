"""The layout of the ring: where every byte is, which process writes it, and in which order. Only arithmetic.

``docs/ring.md`` says how the ring is used, and "The order of stores" there says why each order is right.

The segment, in order (all words are u64, host order, aligned)::

    0        HEADER         16,384 bytes, 2,048 words, below
    16,384   GRANTED        one word a slot    credits: events the slot was ever allowed to append
             DRAINED        one word a slot    events of the slot that left the ring
             SLOTS          32 words a slot    below
             SEQUENCE       one word a block   the block's present tenure; 0 before the first
             RELEASED       one word a block   the last tenure that ended: equal to SEQUENCE = the block is FREE
             READ           one word a block   tenure << 24 | events of it that left the ring
             BLOCK HEADERS  16 words a block   below
    (page)   BLOCKS         65,536 bytes each

    HEADER, in words of 8 bytes
      0  magic        1  version      2  segment bytes   3  blocks          made once, before magic, which is last
      4  slots        5  epoch        6  cap (events)    7  created ms      (6 may grow)
      8  lock file's inode
     16  next sequence  17  slots ever used  18  start ms                  producers, under the claim lock
     19  complement of 16
     20..31  refused, by reason, of producers without a slot
     32  flusher pid  33  start       34  heartbeat ms  35  room            the flusher alone
     36  delivered    37  failed      38  queued        39  corrupt         (36, 37: direct mode; 38: handed to Redis)
     40  closed       41  sink down since ms    42  namespace
     43  settling: the commit intent            44  drained before          45  settled before
     46  term: higher than that of any call to Redis whose answer is not known
     48  events of the ring that the queue has acknowledged: 49 of them failed     50  how often 48 and 49 were read
     51  tickets served: the sum of all flush tickets when everything was last taken
     52  complement of 17               53  complement of 6                producers, under the claim lock
     54  flusher starts: how many flushers there were
     55  asleep: the number of the flusher's sleep, which no other has; odd if only a request must wake it; 0: awake
     56  interpreter                                                            reserved
     64  failures: how many of those below were ever written; 128..415  the last 96, of three words each:
         slot, first and end of events of the slot that failed in direct mode, or were corrupt
     65  reasons: the number of the latest of those below     1024..2047  the last 16 reasons, of 64 words each: number
         (0 while it is written), events, status, ms, number of the first failure that it explains, bytes, text
     66  recovered: events of 37 that were delivered later, as dead letters
     67  unconfirmed ms: the moment since which replicas of Redis lack events that Redis has; 0 if they have them
     68  spilled: events of 38 that are in the spill and not known to be in Redis; a new flusher sets it from the files
     69  the number of the last segment of the spill
    512  the start (54) of the flusher that uses these settings: 513 a digest of their names, 514..639 digests of
         their values
    640..1023   reserved

    SLOT, 32 words                              BLOCK HEADER, 16 words (two cache lines)
      0  pid (0 = free)   1  start                0  count    events published; written last, read first
      2  flush ticket     3  left                 1  sealed   the tenure that will get no more events
      4  image            5  namespace            2  slot     the slot of its producer
      6  entered          7  awaited              3  base     events of the slot before this block
      8..17  refused, by reason                   4  run      blocks in a row that this one stands for
     18  starved         19  within               5  head     for the later blocks of a run: index of the first + 1
     20..29  refused before, by reason            6  claimed ms
     30..31  reserved                             7  tenure   SEQUENCE again, stored after it
                                                  8  complement of SEQUENCE, stored before it     9  sum of 2 to 5
                                                 10..13  complements of 2 to 5
                                                 14..15  reserved

    BLOCK (or run of them), a slotted page
      +------------------------------------------------------------------+
      | {event},{event},{event},     -->      free      <--  end2 end1 end0|
      +------------------------------------------------------------------+
      event bytes grow from the front, each followed by one comma; from the back, words: the byte of the segment at
      which each event ends, comma included, in the lower half; the upper half is reserved

The layout before (3) has a header of 512 words, 256 slots, block headers of the first 8 words without a copy of
anything, and end offsets of 4 bytes. Its starts of processes and its heartbeat are times of day. All else is the same.
It is read, drained and reclaimed, but producers of this version never write into it.

**Damage.** A word that decides whose bytes are read stands in the ring three times, or in a form that shows which copy
of it is damaged: SEQUENCE beside *tenure* and a complement (two of the three agree), the words 2 to 5 of a block's
header beside their complements and a sum. ``ring/block_header.py`` reads them. A block whose RELEASED says that it is
free is only claimed if its tenure was sealed too, and a flusher keeps a block that it has not released itself. A
complement is stored before its word, so that a claim that is killed leaves the old tenure, whose block is free.

**Words of the header.** ROOM moves whenever events leave the ring or a dead producer's credits are given back. A
producer that was refused looks at nothing else until ROOM, or the cap, has moved. The heartbeat, word 18 and ``claimed
ms`` are moments of the monotonic clock, and a start is that of ``identity.Identity``: no step of the clock moves them.
Events that leave the ring are counted under one of the words 36 to 39, and those that go to the spill under 38.
``intent`` names that word while a commit is under way (0: none), so that DRAINED in total is always the sum of the
four, also after a kill.

**Words of a slot.** ``left`` is 1 when the producer gave its slot up. ``image`` tells a program from the one that it
replaced by exec. ``namespace`` is that of the pid. ``entered`` and ``refused before`` are what the slot's earlier
producers had accepted and refused; the rest is its present producer's. ``starved`` moves when the producer found no
room, which makes due what waits in the ring. ``within`` is 1 in the second slot of a process, which serves calls from
within calls. ``awaited`` moves while the producer needs 48 to 50 kept up to date, because a flush waits for what
becomes of events in the queue.

**One writer for every word.** A living producer writes its slot's words, its blocks' headers and GRANTED. For a dead
one, the process that holds the slot's lock does: the flusher, or the producer that takes the slot over. SEQUENCE and
words 6, 16 to 31, 52 and 53 are written under the claim lock. The flusher writes DRAINED, RELEASED, READ and the other
words from 32 on (a producer that takes a free slot puts a damaged DRAINED right). All are stored through
``memoryview.cast("Q")``, which makes one aligned store (``struct.pack_into`` writes byte by byte, so that a reader may
see a torn word).

**Order of stores**, and what a kill in between leaves. ``tests/test_store_order.py`` tests the order, and
``tests/test_kill_points.py`` a kill at every store:

append   bytes, end offset | fence | count; then ASLEEP is read. Killed before count: bytes that were never an event.
         Killed before the byte that wakes the flusher: it finds the event when its sleep ends by itself.
claim    next sequence, its complement | count, slot, base, run, head and their copies, complement of SEQUENCE | fence |
         SEQUENCE | tenure. Of a run, the later blocks come before the first. Killed before SEQUENCE: a sequence that no
         block has, and the block is still free (later blocks of a run are orphans, which the flusher releases under
         the claim lock). Killed after it: the block is the dead slot's, and empty.
grow     complement of the cap | fence | cap. Killed in between: the smaller of the two is the cap.
drain    (sink has it) drained before, settled before | settling | fence | READ | DRAINED | counter | fence |
         settling = 0 | ROOM. A flush is confirmed once nothing is pending and, loaded after that, settling is 0.
         Killed in between: DRAINED is set again, from base + READ, and the counter from what DRAINED moved by.
fail     number = 0 | fence | the reason | fence | number, reasons; a failure's three words | fence | failures; then
         the events are drained, so that a reader that sees the events gone also sees that they failed, and why.
sleep    ASLEEP | 2 ms | a whole cycle | sleep. Killed after ASLEEP: each producer writes one byte that no process
         reads, and the next flusher stores 0.
release  RELEASED = SEQUENCE, a run's first block before the others. Killed in between: the others are orphans of a
         tenure that ended. READ needs no reset, because it names its tenure.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from rudderpipe.settings import EVENT_LIMIT_BYTES

MAGIC = 0x3145504950445552  # "RUDPIPE1", little end first
VERSION = 4
BLOCK_BYTES = 65_536
WORD = 8
ALL_BITS = (1 << 64) - 1
"""A word XOR this is its complement, which stands beside it to show whether it is damaged."""
END_BITS = (1 << 32) - 1
"""The part of an end offset's word that holds the offset."""
READ_BITS = 24
SEQUENCE_END = 1 << (64 - READ_BITS)  # no claim ever gets this number
EVENT_MAX_BYTES = EVENT_LIMIT_BYTES
LARGE_BYTES = 32_768
"""An event larger than this causes a warning."""
COMMA = ord(",")

# Header words.
H_MAGIC, H_VERSION, H_BYTES, H_BLOCKS, H_SLOTS, H_EPOCH, H_CAP, H_CREATED_MS, H_LOCK_INODE = range(9)
H_NEXT, H_SLOTS_USED, H_START_MS, H_NEXT_CHECK = range(16, 20)
H_REFUSED = 20
(
    H_PID,
    H_PID_START,
    H_HEARTBEAT_MS,
    H_ROOM,
    H_DELIVERED,
    H_FAILED,
    H_QUEUED,
    H_CORRUPT,
    H_CLOSED,
    H_DOWN_MS,
    H_NAMESPACE,
    H_COMMIT_INTENT,
    H_DRAINED_BEFORE,
    H_COMMITTED_BEFORE,
    H_TERM,
) = range(32, 47)
COUNTERS = (H_DELIVERED, H_FAILED, H_QUEUED, H_CORRUPT)
H_ACKED, H_ACKED_FAILED, H_ACKED_TIMES = range(48, 51)
H_TICKETS_SERVED, H_SLOTS_USED_CHECK, H_CAP_CHECK, H_STARTS, H_ASLEEP = range(51, 56)
H_SERVED = 512
H_FAILURES = 64
FAILURES_AT, FAILURES, FAILURE_WORDS = 128, 96, 3
H_REASONS = 65
H_RECOVERED, H_UNCONFIRMED_MS, H_SPILLED, H_SPILL_SEGMENT = range(66, 70)
REASONS_AT, REASONS, REASON_WORDS = 1024, 16, 64
FIXED_WORDS = 512
"""Words of the header that are the same in every layout."""

# Slot words.
S_PID, S_START, S_TICKET, S_LEFT, S_IMAGE, S_NAMESPACE, S_ENTERED, S_AWAITED = range(8)
S_REFUSED = 8
S_STARVED, S_WITHIN = 18, 19
S_REFUSED_BEFORE = 20
SLOT_WORDS = 32

# The reasons for a refusal, in the order of their counters, of which there is room for 10.
REFUSALS = ("full", "no_block", "busy", "too_large", "ring", "closed", "no_slot", "invalid", "dropped")

# Block header words.
B_COUNT, B_SEALED, B_SLOT, B_BASE, B_RUN, B_HEAD, B_CLAIMED_MS, B_TENURE, B_CHECK, B_SUM, B_COPIES = range(11)

# Bytes of the lock file, each a lock of its own.
LOCK_CLAIM = 0
LOCK_FLUSHER = 1
LOCK_OWNER = 2  # a process that needs the pipe for itself alone
LOCK_SLOT = 16  # + slot


def bump(words: memoryview, index: int, by: int = 1) -> None:
    """Add to a counter of which the caller is the only writer; a damaged counter wraps around."""
    words[index] = (words[index] + by) % (1 << 64)


class Format(msgspec.Struct, frozen=True):
    """What differs between the versions of the layout."""

    version: int
    header_words: int
    slots: int
    block_words: int
    entry_bytes: int
    """The bytes of an end offset."""
    entry_code: Literal["I", "Q"]
    """The format of an end offset for ``memoryview.cast``."""
    has_copies: bool
    """True if the words that decide whose bytes are read are stored more than once."""
    has_starts: bool
    """True if starts of processes are those of ``identity.Identity``, and the heartbeat is monotonic."""
    wakes: bool
    """True if producers wake the flusher."""


_FORMATS = {
    3: Format(3, 512, 256, 8, 4, "I", has_copies=False, has_starts=False, wakes=False),
    VERSION: Format(VERSION, 2048, 512, 16, WORD, "Q", has_copies=True, has_starts=True, wakes=True),
}
SLOTS = _FORMATS[VERSION].slots
ENTRY = _FORMATS[VERSION].entry_bytes
ENTRY_CODE = _FORMATS[VERSION].entry_code


def for_version(version: int) -> Format | None:
    """Return the format of a version; None for a version that cannot be read."""
    return _FORMATS.get(version)


class Layout(msgspec.Struct, frozen=True):
    """The places of everything for one size; an index counts words of 8 bytes from the segment's beginning."""

    format: Format
    slots: int
    block_words: int
    blocks: int
    granted: int
    drained: int
    slot0: int
    sequence: int
    released: int
    read: int
    block0: int
    data: int
    """The byte offset of the first block."""
    size_bytes: int

    def slot(self, slot: int) -> int:
        """Return the index of a slot's first word."""
        return self.slot0 + slot * SLOT_WORDS

    def block(self, block: int) -> int:
        """Return the index of a block header's first word."""
        return self.block0 + block * self.block_words

    def start(self, block: int) -> int:
        """Return the byte offset of a block."""
        return self.data + block * BLOCK_BYTES


def for_blocks(blocks: int, version: int = VERSION) -> Layout:
    """Return the layout of a segment of so many blocks."""
    found = _FORMATS[version]
    granted = found.header_words
    drained = granted + found.slots
    slot0 = drained + found.slots
    sequence = slot0 + found.slots * SLOT_WORDS
    released = sequence + blocks
    read = released + blocks
    block0 = -(-(read + blocks) // found.block_words) * found.block_words
    data = -(-(block0 + blocks * found.block_words) * WORD // BLOCK_BYTES) * BLOCK_BYTES
    return Layout(
        found,
        found.slots,
        found.block_words,
        blocks,
        granted,
        drained,
        slot0,
        sequence,
        released,
        read,
        block0,
        data,
        data + blocks * BLOCK_BYTES,
    )


def for_bytes(size_bytes: int) -> Layout:
    """Return the largest layout that fits into so many bytes, which must be at least 1 MiB."""
    blocks = size_bytes // BLOCK_BYTES
    while for_blocks(blocks).size_bytes > size_bytes:
        blocks -= 1
    return for_blocks(blocks)

"""The shared memory of a ring: making, mapping, checking, reserving and removing it."""

from __future__ import annotations

import errno
import hashlib
import mmap
import os
import stat
import sys
from contextlib import suppress

from rudderpipe.errors import RingUnavailable
from rudderpipe.process import descriptors, runtime_dir
from rudderpipe.process.clock import Clock
from rudderpipe.process.descriptors import STANDARD_ERROR, above_standard
from rudderpipe.ring import layout as at
from rudderpipe.ring.fence import fence
from rudderpipe.ring.layout import Layout

PREFIX = "rudderpipe"


class Shared:
    """A mapping, and the descriptor through which its memory is reserved and its name watched.

    Unlike ``multiprocessing.shared_memory``, which keeps two descriptors, starts a process that unlinks what others
    still use, and unlinks another process's segment when mapping it fails.
    """

    def __init__(self, fd: int, size_bytes: int) -> None:
        """Take over the descriptor, which is closed if this raises ``OSError``."""
        try:
            found = os.fstat(fd)
            self.identity = found.st_dev, found.st_ino
            self.size = size_bytes
            self._closes = True
            self.fd = fd
            if sys.version_info >= (3, 13):
                self.mapping = mmap.mmap(fd, size_bytes, trackfd=False)
                return
            # mmap keeps a duplicate, which gets the lowest free number. The descriptor that was given is then closed.
            below = []
            while (expected := os.dup(fd)) <= STANDARD_ERROR:
                below.append(expected)
            os.close(expected)
            try:
                self.mapping = mmap.mmap(fd, size_bytes)
            finally:
                for each in below:
                    os.close(each)
            self.fd, twin = expected, fd
            self._closes = False
            if not self.owns_fd():  # another thread took that number in between: both stay
                self.fd, twin = fd, -1
                self._closes = True
        except BaseException:
            os.close(fd)
            raise
        if twin >= 0:
            os.close(twin)

    @property
    def whole(self) -> memoryview:
        """The whole mapping."""
        return memoryview(self.mapping)

    @property
    def keeps_duplicate(self) -> bool:
        """True if unmapping closes a descriptor by its number, even if that is another file's by then."""
        return sys.version_info < (3, 13)

    def owns_fd(self) -> bool:
        """Return False if the application closed our descriptor; its number may be another file's now."""
        try:
            found = os.fstat(self.fd)
        except OSError:
            return False
        return (found.st_dev, found.st_ino) == self.identity

    def close_fd(self) -> None:
        """Give the descriptor back, unless unmapping does."""
        if self._closes:
            self._closes = False
            os.close(self.fd)

    def close(self) -> None:
        """Unmap, and give the descriptor back. No view of the mapping may be in use."""
        self.mapping.close()
        self.close_fd()


def open_fd(name: str, *, makes: bool) -> int:
    """Open the segment, or with ``makes`` make one that does not exist yet. Raises ``OSError``."""
    flags = os.O_RDWR | (os.O_CREAT | os.O_EXCL if makes else 0)
    if sys.platform == "linux":  # as shm_open does
        flags |= os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        fd = os.open(f"/dev/shm/{name}", flags, 0o600)  # noqa: S108  # its directory
    else:
        import _posixshmem

        fd = _posixshmem.shm_open(f"/{name}", flags, mode=0o600)
    return above_standard(fd)


_MACOS_NAME_LIMIT = 30
_not_ours: list[Shared] = []
"""Mappings whose descriptors the application closed. They are kept forever."""


def segment_name(ring: str) -> str:
    """Return the name of the segment of this user's ring.

    It is readable where the system allows that. macOS takes only 30 characters, and a longer name is hashed there.
    """
    name = f"{PREFIX}-{os.getuid()}-{ring}"
    if sys.platform != "linux" and len(name) > _MACOS_NAME_LIMIT:
        return f"{PREFIX}-{hashlib.sha256(name.encode()).hexdigest()[:16]}"
    return name


class Segment:
    """A mapped ring: the same memory as bytes (``memory``), u64 (``words``) and end offsets (``entries``)."""

    def __init__(self, name: str, shared: Shared, layout: Layout) -> None:
        self.name = name
        self.layout = layout
        self._shared = shared
        self.memory = shared.whole[: layout.size_bytes]
        self.words = self.memory.cast("Q")
        self.entries = self.memory.cast(layout.format.entry_code)
        descriptors.own(self, shared.fd)

    def __del__(self) -> None:
        """Give the descriptor back; the mapping goes with the last view of it."""
        shared = self._shared
        if descriptors.disown(self, shared.fd) and shared.owns_fd():
            shared.close_fd()
        elif shared.keeps_duplicate:
            _not_ours.append(shared)  # kept, because unmapping would close a number that is another file's

    @property
    def epoch(self) -> int:
        """The random number that tells this ring from an earlier one of the same name."""
        return self.words[at.H_EPOCH]

    @property
    def cap(self) -> int:
        """How many events the ring may hold; the smaller value if the word and its complement do not agree."""
        cap, check = self.words[at.H_CAP], self.words[at.H_CAP_CHECK]
        return min(cap, check ^ at.ALL_BITS)

    def raise_cap(self, cap: int) -> None:
        """Let the ring hold so many events, unless it may hold more already. Only under the claim lock."""
        if cap > self.cap:
            self.words[at.H_CAP_CHECK] = cap ^ at.ALL_BITS
            fence()  # Order: complement first; a reader in between takes the smaller of the two
            self.words[at.H_CAP] = cap

    def reserve(self, start: int, size_bytes: int) -> bool:
        """Have the system set this part aside; return False if there is no room.

        A write into a part that is not set aside may be a SIGBUS.
        """
        if not hasattr(os, "posix_fallocate"):
            return True  # macOS backs shared memory with swap
        if not self._shared.owns_fd():
            return False
        try:
            os.posix_fallocate(self._shared.fd, start, size_bytes)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.ENOMEM, errno.EDQUOT):
                return False
            raise RingUnavailable(self.name, _reason(error, "enlarged")) from error
        return True

    def size_in_use(self) -> int:
        """Return how many bytes of memory the segment takes; blocks that were never used take none."""
        try:
            return os.fstat(self._shared.fd).st_blocks * 512
        except OSError:
            return 0

    def is_linked(self) -> bool:
        """Return False if the segment's name was removed, by this process or another one."""
        try:
            return os.fstat(self._shared.fd).st_nlink > 0
        except OSError:
            return False

    def close(self) -> None:
        """Unmap; nothing of the segment may be used afterwards."""
        self.entries.release()
        self.words.release()
        self.memory.release()
        self._shared.close()


def create(name: str, size_bytes: int, cap: int, lock_inode: int, clock: Clock) -> Segment:
    """Make the segment. Only under the claim lock.

    Raises ``RingUnavailable``. A segment that cannot be finished is removed.
    """
    layout = at.for_bytes(size_bytes)
    if (limit := runtime_dir.file_limit()) < layout.size_bytes:  # a write past it is a signal that ends the process
        reason = f"RLIMIT_FSIZE (ulimit -f) is {limit:,} bytes, the ring needs {layout.size_bytes:,}: raise it"
        raise RingUnavailable(name, f"{reason}, or lower ring_bytes")
    try:
        fd = open_fd(name, makes=True)
    except OSError as error:
        raise RingUnavailable(name, _reason(error, "made")) from error
    try:
        segment = _made(name, fd, layout)
    except BaseException:
        with suppress(RingUnavailable):  # the system may refuse to remove what it refused to make
            remove(name)
        raise
    words = segment.words
    for index, value in (
        (at.H_VERSION, at.VERSION),
        (at.H_BYTES, layout.size_bytes),
        (at.H_BLOCKS, layout.blocks),
        (at.H_SLOTS, layout.slots),
        (at.H_EPOCH, int.from_bytes(os.urandom(8), "big") >> 1 | 1),
        (at.H_CAP, cap),
        (at.H_CREATED_MS, clock.time_ms()),
        (at.H_LOCK_INODE, lock_inode),
        (at.H_CAP_CHECK, cap ^ at.ALL_BITS),
        (at.H_SLOTS_USED_CHECK, at.ALL_BITS),
        (at.H_NEXT, 1),
        (at.H_NEXT_CHECK, 1 ^ at.ALL_BITS),
        (at.H_MAGIC, at.MAGIC),  # Order: last, so that a segment with magic is complete
    ):
        words[index] = value
    return segment


def attach(name: str, *, removes: bool = True) -> Segment | None:
    """Map the segment of that name; return None if there is none.

    A segment whose maker died while making it counts as none, and is removed if ``removes``. With ``removes``, only
    under the claim lock. Raises ``RingUnavailable`` if the segment is another user's, or of a layout that cannot be
    read.
    """
    try:
        fd = open_fd(name, makes=False)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RingUnavailable(name, _reason(error, "mapped")) from error
    found = os.fstat(fd)
    # A segment of another user is never mapped, written or removed, whatever is in it.
    is_ours = found.st_uid == os.getuid() and stat.S_IMODE(found.st_mode) == 0o600
    if not is_ours or not found.st_size:
        os.close(fd)
        if not is_ours:
            reason = "belongs to another user or can be read by others: remove it or choose another pipe"
            raise RingUnavailable(name, reason)
        if removes:
            remove(name)
        return None
    try:
        shared = Shared(fd, found.st_size)
    except (OSError, ValueError) as error:  # ValueError: the file cannot be mapped
        raise RingUnavailable(name, _reason(error, "mapped")) from error
    try:
        return _checked(name, shared, removes=removes)
    except RingUnavailable:
        shared.close()
        raise


def _made(name: str, fd: int, layout: Layout) -> Segment:
    try:
        try:
            if stat.S_IMODE(os.fstat(fd).st_mode) != 0o600:
                os.fchmod(fd, 0o600)  # the umask cleared bits
            os.ftruncate(fd, layout.size_bytes)
        except BaseException:
            os.close(fd)
            raise
        segment = Segment(name, Shared(fd, layout.size_bytes), layout)
    except (OSError, ValueError) as error:
        raise RingUnavailable(name, _reason(error, "made")) from error
    need = layout.data + at.BLOCK_BYTES
    if not segment.reserve(0, need):
        raise RingUnavailable(name, f"no room for the first {need:,} bytes in shared memory ({_room()}): enlarge it")
    return segment


def _checked(name: str, shared: Shared, *, removes: bool) -> Segment | None:
    head = bytes(shared.whole[: at.FIXED_WORDS * at.WORD])
    words = memoryview(head.ljust(at.FIXED_WORDS * at.WORD, b"\0")).cast("Q")
    if words[at.H_MAGIC] == 0:
        shared.close()
        if removes:
            remove(name)
        return None
    if words[at.H_MAGIC] != at.MAGIC:
        raise RingUnavailable(name, "is not a ring of rudderpipe: remove it or choose another pipe")
    if len(head) < at.FIXED_WORDS * at.WORD:
        raise RingUnavailable(name, "is shorter than its header: remove it")
    version = words[at.H_VERSION]
    known = at.for_version(version)
    if known is None:
        raise RingUnavailable(
            name, f"has layout {version}, this is layout {at.VERSION}: let the version that made it drain it first"
        )
    layout = at.for_blocks(words[at.H_BLOCKS], version) if words[at.H_BLOCKS] < 1 << 24 else None
    if (
        layout is None
        or words[at.H_SLOTS] != known.slots
        or layout.size_bytes != words[at.H_BYTES]
        or layout.size_bytes > shared.size
    ):
        raise RingUnavailable(name, "has a damaged header: remove it")
    return Segment(name, shared, layout)


def remove(name: str) -> None:
    """Unlink the name; processes that have it mapped keep their mapping. Raises ``RingUnavailable``."""
    try:
        if sys.platform == "linux":
            os.unlink(f"/dev/shm/{name}")  # noqa: PTH108, S108  # where shm_open keeps it
        else:
            import _posixshmem

            _posixshmem.shm_unlink(f"/{name}")
    except FileNotFoundError:
        pass
    except OSError as error:
        raise RingUnavailable(name, _reason(error, "removed")) from error


def names() -> list[str]:
    """Return the names of this user's segments, where the system can list them (Linux)."""
    prefix = f"{PREFIX}-{os.getuid()}-"
    try:
        return sorted(entry.name for entry in os.scandir("/dev/shm") if entry.name.startswith(prefix))  # noqa: S108  # shm_open's
    except OSError:
        return []


def _room() -> str:
    try:
        found = os.statvfs("/dev/shm")  # noqa: S108  # where shm_open keeps it
    except OSError:
        return "its size is unknown"
    return f"{found.f_bavail * found.f_frsize:,} of {found.f_blocks * found.f_frsize:,} bytes free"


def _reason(error: OSError | ValueError, done: str) -> str:
    if not isinstance(error, OSError):
        return f"shared memory cannot be {done}: {error}"
    hints = {
        errno.ENOENT: "there is no /dev/shm: mount a tmpfs there",
        errno.EACCES: "permission denied",
        errno.EROFS: "/dev/shm is read-only",  # noqa: S108  # a text
        errno.ENOSPC: f"shared memory is full ({_room()})",
        errno.EMFILE: "too many open files",
    }
    return f"shared memory cannot be {done}: {hints.get(error.errno or 0, error.strerror or type(error).__name__)}"

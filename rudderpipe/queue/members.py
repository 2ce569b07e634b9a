"""The managers of senders that share the queues, as Redis lists them beside the first queue."""

from __future__ import annotations

import msgspec

from rudderpipe.queue.queue import Queue


class Profile(msgspec.Struct, frozen=True):
    """What a manager says of itself."""

    weight: int
    """Its share of the queues, in relation to the weights of the others."""
    host: str
    pid: int
    without: tuple[str, ...] = ()
    """The queues on which it cannot work now."""


class Member(msgspec.Struct, frozen=True):
    """A manager in the list."""

    name: str
    """A text that no other manager has, without blanks."""
    member_ms: int
    """How long it has been a member without a gap, in milliseconds."""
    profile: Profile


_decode = msgspec.json.Decoder(Profile).decode


def renew(home: Queue, name: str, profile: Profile, lease_ms: int) -> list[Member]:
    """Make this manager a member for the next ``lease_ms``, and return all members. Raise ``QueueUnavailable``.

    A repeated call after a lost answer changes nothing else.
    """
    return _call(home, name, profile, lease_ms)


def leave(home: Queue, name: str, profile: Profile) -> None:
    """Remove this manager from the list. Raise ``QueueUnavailable``."""
    _call(home, name, profile, 0)


def _call(home: Queue, name: str, profile: Profile, lease_ms: int) -> list[Member]:
    now_ms, found = home.call("renew_member", [home.keys.members], name, msgspec.json.encode(profile), lease_ms)
    members = (_member(text, now_ms) for text in found)
    return [member for member in members if member is not None]


def _member(text: bytes, now_ms: int) -> Member | None:
    """Return one member; None if another version has written it in another form."""
    since, _, name, profile = [*text.split(b" ", 3), b"", b"", b""][:4]
    try:
        return Member(name.decode(), now_ms - int(since), _decode(profile))
    except ValueError:  # also msgspec's errors
        return None

"""A mapping's descriptors: one, above the standard ones, and its own until it is given back."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rudderpipe.process import descriptors
from rudderpipe.ring import memory
from rudderpipe.ring.memory import Shared, open_fd

SIZE_BYTES = 1 << 20


@pytest.fixture(name="name")
def _name() -> Iterator[str]:
    name = f"rudderpipe-{os.getuid()}-shared-{os.getpid()}"
    yield name
    memory.remove(name)


def made(name: str) -> Shared:
    """A segment that was not there."""
    fd = open_fd(name, makes=True)
    os.ftruncate(fd, SIZE_BYTES)
    return Shared(fd, SIZE_BYTES)


def descriptors_of() -> set[str]:
    """The numbers of this process's open files."""
    return {path.name for path in Path("/dev/fd").iterdir() if path.exists()}


def test_a_mapping_has_one_descriptor(name: str) -> None:
    """And none once it is closed."""
    before = descriptors_of()

    shared = made(name)
    assert descriptors_of() - before == {str(shared.fd)}
    assert shared.owns_fd()
    shared.close()

    assert descriptors_of() == before


def test_another_thread_may_open_a_file_meanwhile(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its descriptor may have the number that was expected for the mapping's: it is not taken for that."""
    before, others, real = descriptors_of(), [], mmap.mmap

    def opened_between(*arguments: Any, **options: Any) -> mmap.mmap:
        others.append(os.open("/dev/null", os.O_RDONLY))
        return real(*arguments, **options)

    monkeypatch.setattr(mmap, "mmap", opened_between)
    shared = made(name)

    assert shared.owns_fd()
    assert shared.fd not in others
    shared.close()
    assert descriptors_of() - before == {str(fd) for fd in others}
    for fd in others:
        os.close(fd)


def test_a_mapping_that_fails_leaves_nothing_open(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As under a limit of the address space."""

    def fails(*_arguments: Any, **_options: Any) -> None:
        raise OSError(12, "Cannot allocate memory")

    before = descriptors_of()
    monkeypatch.setattr(mmap, "mmap", fails)
    with pytest.raises(OSError, match="Cannot allocate"):
        made(name)

    assert descriptors_of() == before


def test_a_descriptor_is_moved_above_the_standard_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where standard error was closed, what is printed would go into our file."""
    before = descriptors_of()
    fd = os.open("/dev/null", os.O_RDONLY)
    monkeypatch.setattr(descriptors, "STANDARD_ERROR", fd)

    moved = descriptors.above_standard(fd)

    assert moved > fd
    assert not os.get_inheritable(moved)
    assert descriptors_of() - before == {str(moved)}
    assert descriptors.above_standard(moved) == moved
    os.close(moved)

"""The descriptor of a mapping: there is one, above the standard ones, until the mapping is closed."""

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
    """Return a new segment."""
    fd = open_fd(name, makes=True)
    os.ftruncate(fd, SIZE_BYTES)
    return Shared(fd, SIZE_BYTES)


def descriptors_of() -> set[str]:
    """Return the numbers of this process's open files."""
    return {path.name for path in Path("/dev/fd").iterdir() if path.exists()}


def test_a_mapping_has_one_descriptor(name: str) -> None:
    """A closed mapping has none."""
    before = descriptors_of()

    shared = made(name)
    assert descriptors_of() - before == {str(shared.fd)}
    assert shared.owns_fd()
    shared.close()

    assert descriptors_of() == before


def test_another_threads_file_is_not_taken_for_the_mapping(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other thread's file may get the descriptor that was expected for the mapping."""
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
    """A limit of the address space makes a mapping fail."""

    def fails(*_arguments: Any, **_options: Any) -> None:
        raise OSError(12, "Cannot allocate memory")

    before = descriptors_of()
    monkeypatch.setattr(mmap, "mmap", fails)
    with pytest.raises(OSError, match="Cannot allocate"):
        made(name)

    assert descriptors_of() == before


def test_a_descriptor_is_moved_above_the_standard_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """If standard error is closed, printed text would otherwise go into the ring's file."""
    before = descriptors_of()
    fd = os.open("/dev/null", os.O_RDONLY)
    monkeypatch.setattr(descriptors, "STANDARD_ERROR", fd)

    moved = descriptors.above_standard(fd)

    assert moved > fd
    assert not os.get_inheritable(moved)
    assert descriptors_of() - before == {str(moved)}
    assert descriptors.above_standard(moved) == moved
    os.close(moved)

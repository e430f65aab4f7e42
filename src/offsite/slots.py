"""One piece of shared memory, cut into equal slots: all that stream bytes ever use.

The pool of slots is the backpressure of the data path. The memory is an anonymous shared mapping
that worker processes inherit, so nothing has a name that could stay behind, and /dev/shm's size
does not matter. Slots are used again and again: fresh pages cost more than the cipher.
"""

from __future__ import annotations

import copy
import mmap
import queue
import threading
from dataclasses import dataclass

from offsite.errors import StoppedError

_POLL = 0.2  # seconds between looks at the halt event


@dataclass(frozen=True)
class Span:
    """A place in the arena, in bytes; means the same in every process."""

    start: int
    length: int

    def head(self, length: int) -> Span:
        """Its first ``length`` bytes."""
        assert length <= self.length
        return Span(self.start, length)


class Arena:
    """``size`` bytes, shared with the processes forked later. Pages cost nothing until used."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.start = 0
        self._memory = memoryview(mmap.mmap(-1, size))

    def parts(self, count: int) -> list[Arena]:
        """The same memory as ``count`` arenas, for that many works at once."""
        size = self.size // count // mmap.PAGESIZE * mmap.PAGESIZE
        made = []
        for number in range(count):
            part = copy.copy(self)
            part.start, part.size = self.start + number * size, size
            made.append(part)
        return made

    def view(self, span: Span) -> memoryview:
        """The span's bytes, writable."""
        return self._memory[span.start : span.start + span.length]


def whole_pages(size: int) -> int:
    """``size`` bytes rounded up to pages."""
    return -(-size // mmap.PAGESIZE) * mmap.PAGESIZE


class Slots:
    """``count`` slots of ``size`` bytes each, from byte ``start`` of the arena on.

    Each begins at a page and takes whole pages, yet is no longer than ``size``.
    """

    def __init__(self, arena: Arena, start: int, count: int, size: int) -> None:
        step = whole_pages(size)
        if start + count * step > arena.size:
            raise ValueError(f"{count} slots of {size} bytes do not fit")
        self.count = count
        # Last in, first out: a short run touches few pages, a long one stays in the cache.
        self._free: queue.LifoQueue[Span] = queue.LifoQueue()
        for number in range(count):
            self._free.put(Span(arena.start + start + number * step, size))

    def take(self, halt: threading.Event) -> Span:
        """Wait for a free slot. Raises StoppedError once ``halt`` is set."""
        while not halt.is_set():
            try:
                return self._free.get(timeout=_POLL)
            except queue.Empty:
                continue
        raise StoppedError("stopped")

    def give(self, slot: Span) -> None:
        """Hand a slot back."""
        self._free.put(slot)

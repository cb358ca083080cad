"""Writes lines to a descriptor that may be slow or stuck, without ever making the event loop wait.

The loop collects lines and hands them over a few times a second; a thread writes them. If it cannot keep up, lines are
dropped and counted: a log is worth less than the requests that it tells of. The thread gets few large pieces and does
next to nothing with them, because whenever it wants to run, the loop has to stand still.
"""

from __future__ import annotations

import asyncio
import os
import select
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from queue import SimpleQueue

EVERY = 0.2
"""Seconds for which lines are collected."""
BATCH = 256 * 1024
"""Bytes of lines that are handed over without waiting for more."""
BACKLOG = 4 * 2**20
"""Bytes that may wait to be written."""
WHOLE = select.PIPE_BUF
"""Bytes that a pipe takes in one piece: what others write to the same one does not get between."""
LAST_WORDS = 1.0
"""Seconds that writing the rest may take at the end."""


class LineWriter:
    """Made by `line_writer`. All methods are for the loop's thread."""

    def __init__(self, descriptor: int, loop: asyncio.AbstractEventLoop) -> None:
        self._descriptor = descriptor
        self._loop = loop
        self._lines: list[bytes] = []
        self._size = 0
        self._timer: asyncio.TimerHandle | None = None
        self._queue: SimpleQueue[bytes | None] = SimpleQueue()
        self._handed = 0  # bytes; counted here
        self._written = 0  # bytes; counted by the thread
        self._unwritten = 0  # lines that the thread could not write
        self._dropped = 0
        kind = os.fstat(descriptor).st_mode
        self._limit = WHOLE if stat.S_ISFIFO(kind) or stat.S_ISSOCK(kind) else BATCH
        self._thread = threading.Thread(target=self._work, name="lines", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """Lines that were not written."""
        return self._dropped + self._unwritten

    def add(self, line: bytes) -> None:
        """Write `line`, which ends with a line feed, soon."""
        self._lines.append(line)
        self._size += len(line)
        if self._size >= BATCH:
            self._hand_over()
        elif self._timer is None:
            self._timer = self._loop.call_later(EVERY, self._hand_over)

    def close(self) -> None:
        """Write what is left, as far as that is possible in a moment."""
        self._hand_over()
        self._queue.put(None)
        self._thread.join(LAST_WORDS)

    def _hand_over(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        lines, size = self._lines, self._size
        self._lines, self._size = [], 0
        if self._handed - self._written + size > BACKLOG:
            self._dropped += len(lines)
        elif lines:
            self._handed += size
            self._queue.put(b"".join(lines))

    # In the thread

    def _work(self) -> None:
        while (lines := self._queue.get()) is not None:
            for piece in pieces(lines, self._limit):
                if not self._write(piece):
                    self._unwritten += piece.count(b"\n")
                self._written += len(piece)

    def _write(self, piece: bytes) -> bool:
        """Write all of it, however long it takes. False if nobody reads it any more."""
        while piece:
            try:
                piece = piece[os.write(self._descriptor, piece) :]
            except BlockingIOError:  # it is shared with somebody who does not want to wait
                select.select([], [self._descriptor], [], 1)
            except OSError:
                return False
        return True


def pieces(lines: bytes, limit: int) -> Iterator[bytes]:
    """The lines again, as many at a time as fit into `limit` bytes; a longer one goes alone."""
    start = 0
    while len(lines) - start > limit:
        end = lines.rfind(b"\n", start, start + limit) + 1 or lines.index(b"\n", start + limit) + 1
        yield lines[start:end]
        start = end
    if start < len(lines):
        yield lines[start:]


@contextmanager
def line_writer(descriptor: int, loop: asyncio.AbstractEventLoop) -> Iterator[LineWriter]:
    """A writer for as long as the block lasts. OSError if the descriptor is not open."""
    writer = LineWriter(descriptor, loop)
    try:
        yield writer
    finally:
        writer.close()

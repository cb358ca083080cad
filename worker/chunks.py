"""How long a chunked body says it is going to be, read along while aiohttp's parser takes it apart.

Used by `worker.connections`, which sees the bytes (`Ahead`), and `worker.bodies`, which knows the limit
(`ChunkSizes`). The parser tells of a chunk only as its bytes come in, so one that declares gigabytes would be waited
for. This is no second opinion on what is valid: what it does not understand it leaves to the parser.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

WATCHED: Final = 1000
"""Chunks. Who sends more sends small ones, and those are counted soon enough when they are there."""
LONGEST_SIZE: Final = 20
"""Characters of a chunk's size; extensions follow it."""
LONGEST_HEAD: Final = 64 * 1024
"""Bytes in which the end of a head is looked for; aiohttp refuses what is much longer."""


class ChunkSizes:
    """The sizes of one body's chunks, fed with the bytes after its head."""

    def __init__(self) -> None:
        self.declared = 0
        """Bytes in all chunks that have begun."""
        self._limit: float = float("inf")
        self._alarm: Callable[[], object] | None = None
        self._watched = 0
        self._skip = 0
        self._line = b""

    def when_over(self, limit: int, alarm: Callable[[], object] | None) -> None:
        """Call `alarm` as soon as more than `limit` bytes are declared, which may be now."""
        self._limit, self._alarm = limit, alarm
        self._check()

    def feed(self, data: bytes) -> None:
        """The next bytes of the connection."""
        at = 0
        while at < len(data) and self._watched < WATCHED:
            if self._skip:
                step = min(self._skip, len(data) - at)
                self._skip -= step
                at += step
                continue
            end = data.find(b"\n", at)
            self._line += data[at : min(end if end >= 0 else len(data), at + LONGEST_SIZE)]
            if end < 0:
                self._line = self._line[:LONGEST_SIZE]
                return
            at = end + 1
            self._begin_chunk()
        self._check()

    def _begin_chunk(self) -> None:
        try:
            size = int(self._line[:LONGEST_SIZE].partition(b";")[0], 16)
        except ValueError:
            size = 0
        self._line = b""
        self._watched = self._watched + 1 if size > 0 else WATCHED  # the last chunk, or none at all
        self.declared += max(size, 0)
        self._skip = size + len(b"\r\n")

    def _check(self) -> None:
        if self.declared > self._limit and self._alarm is not None:
            alarm, self._alarm = self._alarm, None
            alarm()


class Ahead:
    """Reads a connection ahead of the parser: where does the body of the next request begin, and is it chunked?"""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """The next byte is the first of a request, as far as we know."""
        self._opening = b""
        self._head: bytes | None = None
        self._sizes: ChunkSizes | None = None

    def feed(self, data: bytes) -> None:
        """The next bytes of the connection."""
        if self._sizes is not None:
            self._sizes.feed(data)
        elif self._head is None and len(self._opening) < LONGEST_HEAD:
            self._opening += data
            head, end, body = self._opening.partition(b"\r\n\r\n")
            if end:
                self._head, self._opening = head, b""
                if b"chunked" in head.lower():
                    self._sizes = ChunkSizes()
                    self._sizes.feed(body)

    def sizes_of(self, request_line: bytes) -> ChunkSizes | None:
        """The sizes of the request that the parser has come to, which begins with `request_line`.

        None if what we found is not that request: the head of a pipelined one may have come in together with the one
        before it. Then nothing is known of it, and nothing more is looked for until `clear`.
        """
        if self._head is None or not self._head.startswith(request_line):
            self._head, self._opening, self._sizes = b"", b"", None
        return self._sizes

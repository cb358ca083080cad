"""Turns of the event loop for those who have more to do than is done at once.

A connection that sends without a pause, or very many tiny things in one piece, gives up its turn after a bounded amount
of work and goes on when it is called. One is called in each turn of the loop, so a turn stays short however many of
them there are, and everybody else is served in between.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

LONG_READ: Final = 128 * 1024
"""Bytes. Who is read so much of at once has probably sent more, and uvloop goes on reading, up to 32 times 256 kB."""
LONG_READS: Final = 32
"""So many long reads are one turn's work: 8 MB. With 8 of them a body of 1 MB costs a third more."""
CHUNKS: Final = 250
"""Chunks of a body that are one turn's work: about half a millisecond."""


class Turns:
    """The line of those who wait for another turn."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._line: deque[Callable[[], None]] = deque()

    def add(self, go_on: Callable[[], None]) -> None:
        """Call `go_on` when it is its turn: not in this turn of the loop, and after those who came before."""
        if not self._line:
            self._loop.call_soon(self._call)
        self._line.append(go_on)

    def _call(self) -> None:
        go_on = self._line.popleft()
        if self._line:
            self._loop.call_soon(self._call)
        go_on()

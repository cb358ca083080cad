"""One proxy process, as its parent sees it: does it listen, does its event loop still turn, has it ended?"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress

from proxy.link import ASK, COVER, LEAVING, PING, PONG, READY, TELL, UNCOVER, Link

log = logging.getLogger(__name__)

BEAT = 0.5
"""Seconds between two looks whether it answers."""
SILENT = 4
"""Beats without an answer after which the others take its new connections. That costs nothing if it was only busy."""
HUNG = 20
"""Beats without an answer after which it is killed."""


class Running:
    """One process. `changed` is set when it listens, hangs, is back, no longer listens, or has ended.

    `on_ask` gets the number of the sibling that it wants to hear of, and a descriptor for the answer, which it owns.
    """

    def __init__(
        self, number: int, process: asyncio.subprocess.Process, link: socket.socket, on_ask: Callable[[int, int], None]
    ) -> None:
        self.number = number
        self.born = time.monotonic()
        self.ready = False
        self.leaving = False
        self.covers: set[int] = set()
        """Whose parts of the port it listens on besides its own."""
        self.changed = asyncio.Event()
        self.over = asyncio.Event()
        """Set when it has ended."""
        self.cut = False
        """Its link is closed: it has ended, or is about to."""
        self.silence = 0
        """Beats since it last said anything, from its first word on: until then it starts."""
        self._heard = False
        self._process = process
        self._link = Link(link)
        self._link.on |= {READY: self._is_ready, LEAVING: self._leaves, PONG: self._answers, ASK: on_ask}
        self._link.ended = self._is_cut

    @property
    def listens(self) -> bool:
        """Are new connections its business?"""
        return self.ready and not self.leaving and self.silence < SILENT

    @property
    def status(self) -> int | None:
        """Its exit status, None while it runs."""
        return self._process.returncode

    async def ended(self) -> None:
        """Return when it has ended."""
        await self._process.wait()
        self._link.close()
        self.leaving = True
        self.over.set()
        self.changed.set()

    def terminate(self) -> None:
        """Ask it to finish what it has, and to end."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it now."""
        self._signal(signal.SIGKILL)

    def cover(self, missing: set[int]) -> None:
        """Let it listen on the parts of these, too, and on no others' any more."""
        for number in missing - self.covers:
            self._link.say(COVER, number)
        for number in self.covers - missing:
            self._link.say(UNCOVER, number)
        self.covers = set(missing)

    def tell(self, descriptor: int) -> None:
        """Let it write there what it knows."""
        self._link.say(TELL, descriptor=descriptor)

    def beat(self) -> None:
        """A beat has passed. They are counted, and not seconds: a parent that was stopped itself has missed nothing."""
        self.silence += self._heard
        self._link.say(PING)
        if self.silence == SILENT:
            self.changed.set()

    def _signal(self, number: int) -> None:
        with suppress(ProcessLookupError):
            self._process.send_signal(number)

    def _answers(self, *_: int) -> None:
        self._heard = True
        if self.silence >= SILENT:
            log.info("process %d reacts again", self.number)
            self.changed.set()
        self.silence = 0

    def _is_ready(self, *_: int) -> None:
        self.ready = self._heard = True
        self.changed.set()

    def _leaves(self, *_: int) -> None:
        self.leaving = True
        self.changed.set()

    def _is_cut(self) -> None:
        self.leaving = self.cut = True
        self.changed.set()

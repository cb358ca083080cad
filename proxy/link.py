"""The link between a proxy process and its parent: a socket pair, words in lines, some with a descriptor.

Either end answers PING by itself, as soon as its event loop comes to it: so the other end knows whether it does.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from contextlib import suppress

READY, LEAVING = b"ready", b"leaving"
"""Upward: the process listens; it does not any more."""
COVER, UNCOVER = b"cover", b"uncover"
"""Downward, with a sibling's number: listen on its part of the port, too; do so no longer."""
ASK, TELL = b"ask", b"tell"
"""Both with a descriptor. Upward, with a sibling's number: let that one write to it what it knows. Downward: do so."""
PING, PONG = b"ping", b"pong"

Hear = Callable[[int, int], None]
"""Gets a word's number and descriptor, -1 for what is missing. The descriptor is then its own."""


class Link:
    """One end. `on` has what to do at each word that this end expects; others are passed over.

    `ended` is called once, when the other end is gone. What that end does not take is lost: it hangs, or is going.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.on: dict[bytes, Hear] = {}
        self.ended: Callable[[], None] = lambda: None
        self._sock = sock
        self._heard = b""
        self._descriptors: list[int] = []
        sock.setblocking(False)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(sock, self._read)

    def say(self, verb: bytes, number: int = -1, descriptor: int = -1) -> None:
        """Send a word. The descriptor stays open here."""
        word = b"%b\n" % verb if number < 0 else b"%b %d\n" % (verb, number)
        with suppress(OSError):
            socket.send_fds(self._sock, [word], [] if descriptor < 0 else [descriptor])

    def close(self) -> None:
        """Neither hear nor say any more."""
        self._loop.remove_reader(self._sock)
        self._sock.close()
        while self._descriptors:
            os.close(self._descriptors.pop())

    def _read(self) -> None:
        try:
            data, descriptors, *_ = socket.recv_fds(self._sock, 4096, 16)
        except BlockingIOError:
            return
        except ConnectionError:
            data, descriptors = b"", []
        self._descriptors += descriptors
        if not data:
            self._loop.remove_reader(self._sock)
            self.ended()
        *words, self._heard = (self._heard + data).split(b"\n")
        for word in words:
            verb, _, number = word.partition(b" ")
            descriptor = self._descriptors.pop(0) if verb in (ASK, TELL) and self._descriptors else -1
            if verb == PING:
                self.say(PONG)
            elif verb in self.on:
                self.on[verb](int(number or -1), descriptor)
            elif descriptor >= 0:
                os.close(descriptor)

"""A way to the registry that counts how often it is asked who is there, and that can be shut."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import suppress
from types import TracebackType
from typing import Self

WATCH = b"GET /v1/health/service/"


class Passage:
    """TCP on a port of its own, passed on to `address`. Shut, it accepts connections and passes nothing on."""

    def __init__(self, address: str, *, shut: bool = False) -> None:
        host, _, port = address.rpartition(":")
        self._to = host, int(port)
        self._open = threading.Event()
        self._sockets: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.asked: list[float] = []
        """When somebody asked who is there, by the monotonic clock. Each answer to a watch leads to one more."""
        if not shut:
            self.open()

    def open(self) -> None:
        """From now on all is passed on, and what came before, too."""
        self._open.set()

    def since(self, moment: float) -> int:
        """How often it was asked since then."""
        return sum(at >= moment for at in self.asked)

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.open()
        for each in (self._listener, *self._sockets):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._to)
                self._sockets += [client, server]
                for pair in ((client, server), (server, client)):
                    threading.Thread(target=self._pass_on, args=pair, daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                self.asked += [time.monotonic()] * data.count(WATCH)
                self._open.wait()
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

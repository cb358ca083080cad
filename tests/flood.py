"""A client that sends without a pause, and what a server reads of it in one turn of the event loop."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvloop

LONG_READS = 4
"""Fewer than uvloop makes in a turn by itself, to see that it is stopped."""
MOST = 2 * (LONG_READS + 1) * 256 * 1024
"""Bytes of one client, and of those who go on, that may be read in one turn; short reads in between are not counted.
uvloop by itself reads 8 MB."""


def with_uvloop(work: Callable[[], Awaitable[None]]) -> None:
    """As the programs run: asyncio's own loop reads once a turn anyway."""

    async def main() -> None:
        await work()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


@asynccontextmanager
async def read_in_turns(kind: type[asyncio.Protocol], monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[list[int]]:
    """How many bytes connections of this kind get in each turn of the loop in which they get any, while the block
    lasts."""
    loop = asyncio.get_running_loop()
    turns = [0]
    original: Any = kind.data_received
    over = False

    def data_received(self: asyncio.Protocol, data: bytes) -> None:
        turns[-1] += len(data)
        original(self, data)

    def turn() -> None:
        if turns[-1]:
            turns.append(0)
        if not over:
            loop.call_soon(turn)

    monkeypatch.setattr(kind, "data_received", data_received)
    loop.call_soon(turn)
    try:
        yield turns
    finally:
        over = True


def send_all(port: int, pieces: list[bytes]) -> bytes:
    """Send the pieces as fast as they are taken, and read the answer up to where the connection ends. For a thread."""
    with socket.create_connection(("127.0.0.1", port), 30) as sock:
        for piece in pieces:
            sock.sendall(piece)
        answer = b""
        while data := sock.recv(65536):
            answer += data
        return answer

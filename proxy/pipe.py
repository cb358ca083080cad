"""A connection that never leaves the process: two asyncio transports back to back.

The relay talks to the aiohttp application (pages, P2P, metrics) as it talks to a worker, over one of these, so a
client's connection may carry both kinds of request in any order and aiohttp needs no socket of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class PipeEnd(asyncio.Transport):
    """One end. What is written here arrives at the other end's protocol in the loop's next round, never sooner."""

    def __init__(self, loop: asyncio.AbstractEventLoop, protocol: asyncio.BaseProtocol) -> None:
        super().__init__()
        self._loop = loop
        self._protocol = protocol
        self._other: PipeEnd | None = None
        self._waiting: list[bytes] = []  # written, and not yet handed to the other end
        self._reading = True
        self._closing = False
        self._flushing = False

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:  # noqa: D102
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:  # noqa: D102
        return self._protocol

    def is_closing(self) -> bool:  # noqa: D102
        return self._closing

    def is_reading(self) -> bool:  # noqa: D102
        return self._reading

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Hand `data` to the other end."""
        if not self._closing and data:
            self._waiting.append(bytes(data))
            self._flush_soon()

    def pause_reading(self) -> None:  # noqa: D102
        self._reading = False

    def resume_reading(self) -> None:
        """Take what came in meanwhile."""
        self._reading = True
        if self._other is not None:
            self._other._flush_soon()

    def close(self) -> None:
        """Close both ends, after what was written has arrived."""
        if not self._closing:
            self._closing = True
            self._flush_soon()

    def abort(self) -> None:
        """Close both ends; what was written and has not arrived is lost."""
        self._waiting.clear()
        self.close()

    def can_write_eof(self) -> bool:  # noqa: D102
        return False

    def get_write_buffer_size(self) -> int:  # noqa: D102
        return sum(map(len, self._waiting))

    def _flush_soon(self) -> None:
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        other = self._other
        if other is None:
            return
        if other._reading and self._waiting:
            data, self._waiting = b"".join(self._waiting), []
            if isinstance(other._protocol, asyncio.Protocol):
                other._protocol.data_received(data)
        if self._closing and not self._waiting:
            self._lose()
            other._closing = True
            other._lose()

    def _lose(self) -> None:
        if self._other is not None:
            self._other = None
            self._protocol.connection_lost(None)


def connect(
    loop: asyncio.AbstractEventLoop,
    near: asyncio.Protocol,
    server: Callable[[], asyncio.BaseProtocol],
) -> None:
    """Connect the protocol `near` to a fresh protocol of `server`, as accepting a TCP connection would."""
    far = server()
    near_end, far_end = PipeEnd(loop, near), PipeEnd(loop, far)
    near_end._other, far_end._other = far_end, near_end
    far.connection_made(far_end)
    near.connection_made(near_end)

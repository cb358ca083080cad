"""Reading a request's body, within bounds of size, time and memory that aiohttp leaves to its user.

A body that is declared too large is refused before the client is invited to send it (`Expect: 100-continue`), one that
turns out too large as soon as it does, or as soon as one of its chunks says so. After a refusal the connection is
closed: nobody reads the rest.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Final

from aiohttp import web

from muster.errors import BadRequest, ExpectationFailed, Overloaded, RequestTimeout, TooLarge, UnsupportedEncoding
from worker.gate import Declared

DECLARED: Final = web.RequestKey("declared", Declared)
"""Where `worker.connections` leaves what a chunked body says of its length."""
BODIES: Final = 16
"""So many bodies of the largest size may be here at once."""
SMALL: Final = 64 * 1024
"""Bytes of a body that always find a place, so that those who fill the shelf with large ones do not shut others out."""


class Shelf:
    """The memory for bodies: `room` bytes for all requests together."""

    def __init__(self, room: int) -> None:
        self._room = room
        self._taken = 0

    def __repr__(self) -> str:
        return f"<Shelf: {self._taken} of {self._room} bytes taken>"

    def place(self) -> AbstractContextManager[Callable[[int], None]]:
        """A request's place: call it with the body's size so far. It raises Overloaded when the shelf is full."""
        return _Place(self)

    def take(self, size: int) -> None:
        """So many bytes more, or less."""
        if size > 0 and self._taken + size > self._room:
            raise Overloaded(f"this worker holds {self._taken} bytes of other requests already")
        self._taken += size


class _Place:
    """What one request takes of a shelf, for as long as the block lasts."""

    __slots__ = ("_mine", "_shelf")

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self._mine = 0

    def __enter__(self) -> Callable[[int], None]:
        return self._grow

    def __exit__(self, *_: object) -> None:
        self._shelf.take(-self._mine)

    def _grow(self, size: int) -> None:
        more = max(size - SMALL, 0) - self._mine
        if more:
            self._shelf.take(more)
            self._mine += more


async def read_body(
    request: web.BaseRequest, limit: int, patience: float, grow: Callable[[int], None], *, packed: bool = False
) -> bytes:
    """The body, `limit` bytes at most, sent within `patience` seconds; `grow` hears how much of it is here.

    Raises TooLarge, RequestTimeout, BadRequest for broken bodies, UnsupportedEncoding for compressed ones unless those
    may come `packed`.
    """
    if not packed and any(
        value.strip().lower() != "identity" for value in request.headers.getall("Content-Encoding", [])
    ):
        raise UnsupportedEncoding("the body is compressed; images are as small as they get, send them as they are")
    if (request.content_length or 0) > limit:
        raise _too_large(limit)
    _invite(request)
    if request.content.is_eof() and request.content.exception() is None:  # it came together with its head
        body = request.content.read_nowait()
        if len(body) > limit:
            raise _too_large(limit)
        grow(len(body))
        return body
    declared = request[DECLARED]
    chunks: list[bytes] = []
    size = 0
    now = asyncio.get_running_loop().time
    try:
        async with asyncio.timeout(patience) as deadline:
            declared.when_over(limit, lambda: deadline.reschedule(now()))
            async for chunk in request.content.iter_any():
                size += len(chunk)
                if size > limit:
                    raise _too_large(limit)
                grow(size)
                chunks.append(chunk)
    except TimeoutError:
        if declared.size > limit:
            raise _too_large(limit) from None
        raise RequestTimeout(f"the body did not arrive within {patience:g} seconds") from None
    except web.RequestPayloadError:
        raise BadRequest("the body ends early or is framed wrongly") from None
    finally:
        declared.when_over(limit, None)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def inflated(body: bytes, limit: int) -> bytes:
    """What is in a gzip file, `limit` bytes at most; nothing if that is broken, incomplete or larger."""
    unpacker = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)  # 16: in gzip's own wrapping
    try:
        data = unpacker.decompress(body, limit + 1)
    except zlib.error:
        return b""
    return data if unpacker.eof and len(data) <= limit else b""


def _invite(request: web.BaseRequest) -> None:
    expected = request.headers.get("Expect")
    if expected is None or request.version < (1, 1):
        return
    if expected.lower() != "100-continue":
        raise ExpectationFailed("the only expectation that is understood is 100-continue")
    if request.transport is not None and not request.content.is_eof():
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")


def _too_large(limit: int) -> TooLarge:
    return TooLarge(f"the body is larger than {limit} bytes", max_body=limit)

"""What of a connection's bytes aiohttp may read. Pure: bytes in, bytes out.

One request after the other is let through, the next when the one before it is answered, and only what every server
reads alike: heads as `guards` judges them, bodies as `muster.framing` does, chunked ones framed anew and without
trailers. So aiohttp's parser, which would drop good requests with a bad one that came in the same packet, and wait for
the rest of a body that is broken already, meets neither.

What cannot be let through ends the connection: its place is taken by a request that anybody can read, and whose answer
is the `refusal`; in the middle of a body there is only the refusal.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from muster.errors import BadRequest, ClusterError, HeadersTooLarge
from muster.framing import LAST_CHUNK, BadChunk, ChunkedBody, CountedBody, chunk
from muster.turns import CHUNKS
from worker.guards import check_head

MAX_HEAD: Final = 16 * 1024
"""Bytes."""
REFUSED: Final = b"GET /refused HTTP/1.1\r\nHost: refused\r\n\r\n"


class Declared:
    """How long a chunked body says that it is going to be, at least: its bytes and those of the chunk that began."""

    def __init__(self) -> None:
        self.size = 0
        self._limit: float = float("inf")
        self._alarm: Callable[[], object] | None = None

    def when_over(self, limit: int, alarm: Callable[[], object] | None) -> None:
        """Call `alarm`, once, as soon as more than `limit` bytes are declared, which may be now."""
        self._limit, self._alarm = limit, alarm
        self.grow(0)

    def grow(self, size: int) -> None:
        """So many bytes more."""
        self.size += size
        if self.size > self._limit and self._alarm is not None:
            alarm, self._alarm = self._alarm, None
            alarm()


class Gate:
    """The gate of one connection."""

    __slots__ = ("_body", "_busy", "_held", "_left", "declared", "refusal")

    def __init__(self) -> None:
        self._held = b""  # what cannot be let through yet: a part of a head, a later request, or a turn's rest
        self._busy = False  # a request is let through, or being so, and not answered
        self._body: CountedBody | ChunkedBody | None = None  # what is still to come of it
        self._left = 0  # bytes that its current chunk declares to come
        self.declared = Declared()
        """Of the request that was let through last."""
        self.refusal: ClusterError | None = None
        """Nothing is let through any more, because of this."""

    @property
    def held(self) -> int:
        """Bytes that wait here."""
        return len(self._held)

    @property
    def in_turns(self) -> bool:
        """Is more of a body here than was read at once? It is read by `feed`, also without more bytes."""
        return self._body is not None and bool(self._held)

    def feed(self, data: bytes) -> bytes:
        """The next bytes of the connection. What of all that came may be read now?"""
        if self.refusal is not None:
            return b""
        try:
            if self._body is not None:
                return self._of_body(data)
            self._held = self._held + data if self._held else data
            return b"" if self._busy else self._of_head()
        except BadChunk:
            self.refusal = BadRequest("the body is framed wrongly")
        except ClusterError as error:
            self.refusal = error
        self._held, self._body = b"", None  # there is nothing more to do with it
        if self._busy:
            return b""
        self._busy = True
        return REFUSED

    def refuse(self, error: ClusterError) -> bytes:
        """The head takes too long, say. What may be read instead of it?"""
        self.refusal, self._held = error, b""
        self._busy = True
        return REFUSED

    def next(self) -> bytes:
        """The request before is answered, and the connection stays. What may be read of those that wait?"""
        self._busy = False
        return self.feed(b"")

    def _of_head(self) -> bytes:
        if self._held.startswith(b"\r\n"):
            self._held = self._held[2:]  # an empty line before a request is tolerated (RFC 9112, 2.2)
        end = self._held.find(b"\r\n\r\n") + 4
        if end < 4 or end > MAX_HEAD:
            if len(self._held) > MAX_HEAD:
                raise HeadersTooLarge(f"the head of a request may have {MAX_HEAD} bytes")
            if self._held and not self._held[:1].isalpha() and self._held != b"\r":
                raise BadRequest("a request begins with a method")  # TLS, for one, would wait for our answer
            if self._held.count(b"\n") != self._held.count(b"\r\n"):
                raise BadRequest("lines end with CR and LF")
            return b""
        head = check_head(self._held[:end])
        rest, self._held = self._held[end:], b""
        self.declared = Declared()
        if head.chunked:
            self._body = ChunkedBody(CHUNKS)
        elif head.length:
            self._body = CountedBody(head.length)
        else:
            self._held = rest
        body = self._of_body(rest) if self._body is not None else b""
        self._busy = True  # not before: had the body been broken, nobody would know of the request
        return head.raw + body

    def _of_body(self, data: bytes) -> bytes:
        body = self._body
        assert body is not None  # noqa: S101
        piece, rest = body.feed(self._held + data if self._held else data)
        self._held = bytes(rest)
        if isinstance(body, ChunkedBody):
            self.declared.grow(len(piece) + body.declared - self._left)
            self._left = body.declared
            piece = (chunk(piece) if piece else b"") + (LAST_CHUNK if body.done else b"")
        if body.done:
            self._body = None
        return bytes(piece)

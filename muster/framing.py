"""Where a body ends, and its chunks. Pure: bytes in, bytes out.

A body of known length is counted and never looked at. A chunked body is taken apart strictly (hexadecimal sizes, CRLF
only, bounded extensions and trailers, trailers dropped) and framed anew, so that nothing ambiguous travels further.
RFC 9112, section 7.1.
"""

from __future__ import annotations

import re
import sys

MAX_CHUNK_LINE = 256  # bytes of size and extensions
MAX_TRAILERS = 4096  # bytes

Buffer = bytes | memoryview

LAST_CHUNK = b"0\r\n\r\n"

# 16 digits are 2**64, more than any limit. Extensions are read over: nobody uses them, and nothing acts on them.
_SIZE = re.compile(rb"([0-9A-Fa-f]{1,16})(?:[ \t]*;[\t\x20-\x7e\x80-\xff]*)?")
_PLAIN = re.compile(rb"([0-9A-Fa-f]{1,16})\r\n")  # a size as nearly everybody sends it
_TRAILER = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t\x20-\x7e\x80-\xff]*")


class BadChunk(Exception):
    """The body is not chunked as it says it is."""


def chunk(data: Buffer) -> bytes:
    """`data` as one chunk."""
    return b"".join((b"%x\r\n" % len(data), data, b"\r\n"))


class CountedBody:
    """A body of `length` bytes."""

    __slots__ = ("_left",)

    def __init__(self, length: int) -> None:
        self._left = length

    @property
    def done(self) -> bool:
        """Is the body complete?"""
        return self._left == 0

    @property
    def left(self) -> int:
        """Bytes still to come."""
        return self._left

    def feed(self, data: Buffer) -> tuple[Buffer, Buffer]:
        """Split `data` into what belongs to the body and what comes after it."""
        size = len(data)
        if size <= self._left:
            self._left -= size
            return data, b""
        cut, self._left = self._left, 0
        return data[:cut], data[cut:]


class ChunkedBody:
    """A body in chunks. At most `turn` of them are read at once: a body of very many tiny ones is a lot of work."""

    __slots__ = ("_buffer", "_in_trailers", "_left", "_trailer_size", "_turn", "done")

    def __init__(self, turn: int = sys.maxsize) -> None:
        self.done = False
        self._turn = turn
        self._buffer = b""  # an unfinished line
        self._left = 0  # bytes of the current chunk still to come, its closing CRLF included
        self._in_trailers = False
        self._trailer_size = 0

    @property
    def left(self) -> int:
        """Bytes known to be still to come; unknown counts as very many."""
        return 0 if self.done else 1 << 62

    @property
    def declared(self) -> int:
        """Bytes that the current chunk says are still to come: reason enough to refuse a giant before it arrives."""
        return max(self._left - 2, 0)

    def feed(self, received: Buffer) -> tuple[Buffer, Buffer]:
        """The body bytes inside `received`, and what comes after the body, or (not `done`) is for the next turn.

        BadChunk if it cannot be read.
        """
        data = self._buffer + received if self._buffer else bytes(received)
        self._buffer = b""
        pieces: list[bytes] = []
        position, lines = 0, 0
        while position < len(data) and not self.done and lines < self._turn:
            if self._left:
                position = self._payload(data, position, pieces)
            elif whole := self._whole(data, position):
                begin, end = whole
                pieces.append(data[begin:end])
                position = end + 2
                lines += 1
            else:
                end = data.find(b"\r\n", position)
                if end < 0:
                    self._keep(data[position:])
                    return b"".join(pieces), b""
                self._line(data[position:end])
                position = end + 2
                lines += 1
        return (pieces[0] if len(pieces) == 1 else b"".join(pieces)), data[position:]

    def _whole(self, data: bytes, position: int) -> tuple[int, int] | None:
        """Where the data of the chunk at `position` is, if all of it is here and nothing about it is odd."""
        match = None if self._in_trailers else _PLAIN.match(data, position)
        if match is None:
            return None
        begin = match.end()
        end = begin + int(match[1], 16)
        return (begin, end) if begin < end and data[end : end + 2] == b"\r\n" else None

    def _payload(self, data: bytes, position: int, pieces: list[bytes]) -> int:
        available = min(len(data) - position, self._left)
        payload = min(available, max(self._left - 2, 0))
        if payload:
            pieces.append(data[position : position + payload])
        ending = data[position + payload : position + available]
        if ending != b"\r\n"[2 - self._left + payload : 2 - self._left + available]:
            raise BadChunk("a chunk does not end where its size says")
        self._left -= available
        return position + available

    def _keep(self, line: bytes) -> None:
        limit = MAX_TRAILERS if self._in_trailers else MAX_CHUNK_LINE
        if len(line) > limit or b"\n" in line or b"\r" in line[:-1]:
            raise BadChunk("a chunk's size line is too long or not ended by CRLF")
        self._buffer = line

    def _line(self, line: bytes) -> None:
        if self._in_trailers:
            self._trailer(line)
            return
        match = _SIZE.fullmatch(line) if len(line) <= MAX_CHUNK_LINE else None
        if match is None:
            raise BadChunk("a chunk's size is not a hexadecimal number")
        size = int(match[1], 16)
        if size:
            self._left = size + 2
        else:
            self._in_trailers = True

    def _trailer(self, line: bytes) -> None:
        if not line:
            self.done = True
            return
        self._trailer_size += len(line) + 2
        if self._trailer_size > MAX_TRAILERS or not _TRAILER.fullmatch(line):
            raise BadChunk("the trailers are too long or malformed")


class UntilClosed:
    """A response body that ends when the connection does."""

    __slots__ = ()
    done = False

    def feed(self, data: Buffer) -> tuple[Buffer, Buffer]:
        """All of it."""
        return data, b""


Body = CountedBody | ChunkedBody | UntilClosed

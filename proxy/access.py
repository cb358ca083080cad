"""The access log: one line for each request, that says how it went and who ended it.

    2026-11-20T13:02:02.123Z 10.0.0.7 "POST /classify" 200 in=100123 out=532 model=- worker=w1 attempts=1
    total=12.31 upstream=12.10 queue=0.00 end=complete id=5f2c1a90-1f          (one line; times in milliseconds)

What comes from clients is escaped, so that nobody can write lines of his own. `end` is `complete`, or who ended it
before that, and how:

    client:left       it closed its connection            worker:refused    there was no connection to any worker
    client:timeout    it was too slow                     worker:reset      it took the request and broke off
    client:refused    what it sent is no clean request    worker:cut        it broke off within its answer
    proxy:refused     nobody to send it to, or no room    worker:timeout    it took the request and never answered
    proxy:stopped     the proxy's end could not wait
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import lru_cache
from typing import Protocol

import orjson

from muster.errors import ClusterError

COMPLETE, LEFT, SLOW, BAD = b"complete", b"client:left", b"client:timeout", b"client:refused"
CUT, REFUSED, STOPPED = b"worker:cut", b"proxy:refused", b"proxy:stopped"
_ENDS = {"worker_unreachable": b"worker:refused", "worker_broke": b"worker:reset", "worker_timeout": b"worker:timeout"}

LONGEST = 1024
"""Bytes of a target that are shown."""
_PLAIN = bytes(set(range(0x21, 0x7F)) - set(b'"\\'))
_MARKS = {ord('"'): b'\\"', ord("\\"): b"\\\\"}
_TEXT = (
    b'%b.%03dZ %b "%b %b" %b in=%d out=%d model=%b worker=%b attempts=%d total=%.2f upstream=%.2f queue=%.2f '
    b"end=%b id=%b\n"
)
_JSON = (
    b'{"time":"%b.%03dZ","client":"%b","method":"%b","path":%b,"status":%b,"bytes_in":%d,"bytes_out":%d,"model":%b,'
    b'"worker":%b,"attempts":%d,"total_ms":%.2f,"upstream_ms":%.2f,"queue_ms":%.2f,"end":"%b","id":%b}\n'
)


def end_of(error: ClusterError) -> bytes:
    """Who ended a request that was answered with this error of ours."""
    return _ENDS.get(error.code, REFUSED)


def shown(value: bytes) -> bytes:
    """What a client said, in printable ASCII and without quotation marks that are not escaped, cut where it is long."""
    if len(value) > LONGEST:
        return shown(value[:LONGEST]) + b"..."
    if not value.translate(None, _PLAIN):
        return value
    return b"".join(_MARKS.get(byte) or (b"%c" % byte if 0x20 <= byte < 0x7F else b"\\x%02x" % byte) for byte in value)


def quoted(value: bytes) -> bytes:
    """The same as a JSON string, in which what is no UTF-8 is escaped."""
    if len(value) <= LONGEST and not value.translate(None, _PLAIN):
        return b'"%b"' % value
    return orjson.dumps(value[:LONGEST].decode("utf-8", "backslashreplace"))


@lru_cache(maxsize=256)
def _word(value: str | None) -> bytes:
    """A model's or a worker's name as one word, `-` for none."""
    return shown(value.encode("utf-8", "surrogateescape")).replace(b" ", b"\\x20") if value else b"-"


@lru_cache(maxsize=256)
def _quoted_word(value: str | None) -> bytes:
    return quoted(value.encode("utf-8", "surrogateescape")) if value else b"null"


class Lines(Protocol):
    """Where lines go, as `line_writer.LineWriter`."""

    @property
    def dropped(self) -> int:
        """How many were lost."""

    def add(self, line: bytes) -> None:
        """One more."""


class AccessLog:
    """Makes the lines. `wall` is the clock on the wall."""

    def __init__(self, lines: Lines, *, as_json: bool, wall: Callable[[], float] = time.time) -> None:
        self._lines = lines
        self._add = lines.add
        self._wall = wall
        self._line = _JSON if as_json else _TEXT
        self._show = quoted if as_json else shown
        self._word = _quoted_word if as_json else _word
        self._none = b"null" if as_json else b"-"
        self._second = -1
        self._stamp = b""

    @property
    def dropped(self) -> int:
        """Lines that were lost because nobody took them in time."""
        return self._lines.dropped

    def note(
        self,
        client: bytes,
        method: bytes,
        target: bytes,
        status: int | bytes,
        received: int,
        sent: int,
        model: str | None,
        worker: str | None,
        attempts: int,
        total: float,
        upstream: float,
        queued: float,
        end: bytes,
        request_id: bytes,
    ) -> None:
        """One request has ended. Times are in seconds. A `status` of 0: none was sent."""
        now = self._wall()
        second = int(now)
        if second != self._second:
            self._second = second
            self._stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second)).encode()
        show, word = self._show, self._word
        said = show(status) if isinstance(status, bytes) else b"%d" % status if status else self._none
        line = self._line % (
            self._stamp, (now - second) * 1000, client, method, show(target), said, received, sent, word(model),
            word(worker), attempts, total * 1000, upstream * 1000, queued * 1000, end,
            show(request_id) if request_id else self._none,
        )  # fmt: skip
        self._add(line)

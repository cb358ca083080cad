"""A load generator of its own process: requests at a fixed rate, whether or not the answers come (an open loop).

    python -m tests.drills.load --url http://127.0.0.1:1234/classify --rate 200 --count 10000 --size 100000 --out FILE

Clients keep their connections and send nothing twice. A request is a multipart POST with a number in it, so no two
bodies are the same; an answer that tells the checksum of another body is a failure. What happened to each request is
written to FILE as one JSON array a line, see `Request`. SIGTERM ends it early, after the answers that are owed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import signal
import time
import zlib
from pathlib import Path
from typing import NamedTuple, cast
from urllib.parse import urlsplit

import httptools
import uvloop

BOUNDARY = "drill-0f1e2d3c"
MARK = b"0000000000000000"
PATIENCE = 20.0
"""Seconds after which a request counts as lost."""

_ATTEMPTS = re.compile(rb"attempts;desc=(\d+)")


class Request(NamedTuple):
    """What happened to one request; times by the machine's monotonic clock, the same in every process."""

    due: float
    started: float
    ended: float
    status: int  # 0 without an answer
    worker: str  # who answered
    attempts: int  # at how many workers the proxy tried, as it says
    error: str  # empty if nothing went wrong; an error status is no error here
    retry_after: str

    @property
    def ok(self) -> bool:
        """Did the client get what it asked for?"""
        return self.status == 200 and not self.error

    @property
    def seconds(self) -> float:
        """From when it was due: a generator or a proxy that falls behind cannot hide it."""
        return self.ended - self.due


def body_of(size: int, picture: bytes = b"") -> tuple[bytes, bytes]:
    """A multipart body of `size` bytes (more, if `picture` is larger), in two halves: a number belongs between them."""
    begin = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="note"\r\n\r\n'.encode()
    between = (
        f'\r\n--{BOUNDARY}\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n'
        "Content-Type: image/png\r\n\r\n"
    ).encode()
    end = f"\r\n--{BOUNDARY}--\r\n".encode()
    fill = size - len(begin) - len(MARK) - len(between) - len(picture) - len(end)
    if not picture:
        picture = bytes(range(256)) * (fill // 256 + 1)
        picture = picture[: max(fill, 0)]
    return begin, between + picture + end


class Connection(asyncio.Protocol):
    """A client's connection: one request at a time."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._parser = httptools.HttpResponseParser(self)
        self._timer: asyncio.TimerHandle | None = None
        self.busy = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def ask(self, due: float, number: int) -> None:
        self.busy = True
        self._due, self._started = due, time.monotonic()
        self._worker, self._attempts, self._retry_after, self._told = "", 0, "", -1
        load, mark = self._load, b"%016d" % number
        self._crc = zlib.crc32(load.tail, zlib.crc32(mark, load.front_crc))
        self._timer = load.loop.call_later(PATIENCE, self._lost, "no answer in time")
        self.transport.writelines([load.head, mark, load.tail])

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._lost(f"not HTTP: {error}")

    def on_header(self, name: bytes, value: bytes) -> None:
        match name.lower():
            case b"x-served-by":
                self._worker = value.decode()
            case b"server-timing":
                if found := _ATTEMPTS.search(value):
                    self._attempts = int(found[1])
            case b"x-body-crc32":
                self._told = int(value)
            case b"retry-after":
                self._retry_after = value.decode()

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        if status == 100:
            return
        wrong = self._told not in (-1, self._crc)
        keep = self._parser.should_keep_alive()
        self._parser = httptools.HttpResponseParser(self)
        self._done(status, "the worker read another body" if wrong else "")
        if keep and not self.transport.is_closing():
            self._load.idle.append(self)
        else:
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.busy:
            self._lost(f"connection lost: {exc!r}")
        elif self in self._load.idle:
            self._load.idle.remove(self)

    def _lost(self, why: str) -> None:
        if self.busy:
            self._done(0, why)
            self.transport.abort()

    def _done(self, status: int, error: str) -> None:
        self.busy = False
        if self._timer is not None:
            self._timer.cancel()
        self._load.done(
            Request(
                self._due, self._started, time.monotonic(), status, self._worker, self._attempts, error,
                self._retry_after,
            )
        )  # fmt: skip


class Load:
    """All of it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, url: str, size: int, picture: bytes) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        assert parts.port is not None
        front, self.tail = body_of(size, picture)
        length = len(front) + len(MARK) + len(self.tail)
        self.loop = loop
        self.front_crc = zlib.crc32(front)
        self.head = (
            f"POST {parts.path or '/'} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Length: {length}\r\n"
            f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\n\r\n"
        ).encode() + front
        self.idle: list[Connection] = []
        self.requests: list[Request] = []
        self._address = parts.hostname, parts.port
        self._owed = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._settled = asyncio.Event()

    def done(self, request: Request) -> None:
        self.requests.append(request)
        self._owed -= 1
        if not self._owed:
            self._settled.set()

    async def run(self, rate: float, count: int, stop: asyncio.Event) -> None:
        """Begin `count` requests, one every 1/`rate` seconds; return when each has its outcome."""
        begin = time.monotonic()
        for number in range(count):
            due = begin + number / rate
            if (early := due - time.monotonic()) > 0:
                await asyncio.sleep(early)
            if stop.is_set():
                break
            self._owed += 1
            self._settled.clear()
            if self.idle:
                self.idle.pop().ask(due, number)
            else:
                task = self.loop.create_task(self._on_new_connection(due, number))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
        if self._owed:
            await self._settled.wait()

    async def _on_new_connection(self, due: float, number: int) -> None:
        started = time.monotonic()
        try:
            _, connection = await self.loop.create_connection(lambda: Connection(self), *self._address)
        except OSError as error:
            self.done(Request(due, started, time.monotonic(), 0, "", 0, f"no connection: {error!r}", ""))
        else:
            connection.ask(due, number)


async def main(options: argparse.Namespace) -> None:
    """Generate the load and write down what came of it."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    load = Load(loop, options.url, options.size, options.picture.read_bytes() if options.picture else b"")
    await load.run(options.rate, options.count, stop)
    with options.out.open("w") as out:
        for request in load.requests:
            out.write(json.dumps(request) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", required=True)
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--size", type=int, required=True)
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(parser.parse_args()))

"""A worker for drills: announces itself as a real one does, answers fast, and misbehaves on demand.

    python -m tests.drills.worker --registry consul://127.0.0.1:8500 --service drill --name w1 [--set '{"delay": 0.1}']

`PUT /drill` with a JSON object changes how it behaves (see `Behaviour`), `GET /drill` tells what it has seen. It is on
time's side: requests wait by timers and use no CPU, so thousands of them show what the proxy does and not what a
model costs. Any other request is answered with the checksum of its body.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import os
import socket
import struct
import sys
import time
import zlib
from collections import deque
from typing import Any, cast

import httptools
import uvloop

from discovery.addresses import open_registry
from discovery.worker_json import to_json, worker_id
from muster.lifetime import Stop, run
from muster.memory import keep_pages
from muster.values import Worker


@dataclasses.dataclass
class Behaviour:
    """How requests are answered."""

    delay: float = 0.002  # seconds that an answer takes
    slots: int = 0  # how many are worked on at once; 0 is any number
    queue: int = 1_000_000  # how many more may wait; the others get 503
    status: int = 200
    well: int = 0  # every so-manieth has 200 all the same; 0 is none
    fault: str = ""  # "reset", "cut" (die within the answer), "garbage", "chunked cut"
    ready: bool = True
    size: int = 0  # bytes of answer to a GET, besides


class Seen:
    """What came and went, with times by the monotonic clock."""

    def __init__(self) -> None:
        self.arrivals: list[float] = []  # when a request's head was here
        self.cancelled: list[float] = []  # when a client was seen to leave before its answer
        self.answered = 0
        self.refused = 0
        self.most = 0  # requests held at once
        self.held = 0
        self.connections = 0
        self.announcing = 0.0
        self.listed = 0.0

    def to_json(self) -> bytes:
        return json.dumps({**vars(self), "memory": _memory()}).encode()


def _memory() -> int:
    with open("/proc/self/statm") as statm:  # noqa: PTH123
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Door(asyncio.Protocol):
    """One connection, one request at a time."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._waiting = False
        self._timer: asyncio.TimerHandle | None = None
        self._new_parser()

    def _new_parser(self) -> None:
        self._parser = httptools.HttpRequestParser(self)
        self._url = b""
        self._crc = self._length = 0
        self._body = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self._desk.seen.connections += 1

    def connection_lost(self, exc: Exception | None) -> None:
        self._desk.seen.connections -= 1
        if self._waiting:
            self._desk.seen.cancelled.append(time.monotonic())
            self._desk.gone(self)
            self._over()

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.transport.close()

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"expect":
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_headers_complete(self) -> None:
        if self._url not in (b"/drill", b"/readyz"):
            self._desk.seen.arrivals.append(time.monotonic())

    def on_body(self, data: bytes) -> None:
        self._crc = zlib.crc32(data, self._crc)
        self._length += len(data)
        if self._url == b"/drill":
            self._body += data

    def on_message_complete(self) -> None:
        desk = self._desk
        self._keep = self._parser.should_keep_alive()
        self._method = self._parser.get_method()
        if self._url == b"/readyz":
            ready = desk.behaviour.ready and not desk.draining
            told = {"status": "ready" if ready else "draining", "worker": to_json(desk.worker)}
            self.answer(200 if ready else 503, json.dumps(told).encode())
        elif self._url == b"/drill":
            if self._body:
                desk.behave(json.loads(self._body))
            self.answer(200, desk.seen.to_json())
        else:
            self._waiting = True
            seen = desk.seen
            seen.held += 1
            seen.most = max(seen.most, seen.held)
            desk.take(self)

    def begin(self, delay: float) -> None:
        """It is this request's turn."""
        self._timer = self._desk.loop.call_later(delay, self._finish)

    def _finish(self) -> None:
        desk, behaviour = self._desk, self._desk.behaviour
        self._over()
        desk.seen.answered += 1
        body = b"." * behaviour.size if self._method == b"GET" else b""
        match behaviour.fault:
            case "reset":
                self._reset()
            case "garbage":
                self.transport.write(b"\x16\x03\x01 this is not HTTP\r\n\r\n")
            case "cut":
                self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhalf of it")
                desk.loop.call_later(0.01, self._reset)
            case "chunked cut":
                self.transport.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
                desk.loop.call_later(0.01, self.transport.close)
            case _:
                status = 200 if behaviour.well and not desk.seen.answered % behaviour.well else behaviour.status
                self.answer(status, b'{"length": %d, "predictions": [1]}\n' % self._length + body)
        desk.finished()

    def refuse(self) -> None:
        """There is no room for this request."""
        self._over()
        self._desk.seen.refused += 1
        self.answer(503, b'{"error": "full"}\n', b"Retry-After: 1\r\n")

    def answer(self, status: int, body: bytes, headers: bytes = b"") -> None:
        keep = self._keep
        self.transport.write(
            b"HTTP/1.1 %d Drilled\r\nContent-Length: %d\r\nX-Served-By: %b\r\nX-Body-Crc32: %d\r\n%b%b\r\n%b"
            % (status, len(body), self._desk.worker.id.encode(), self._crc, headers,
               b"" if keep else b"Connection: close\r\n", body)
        )  # fmt: skip
        if keep:
            self._new_parser()
        else:
            self.transport.close()

    def _over(self) -> None:
        self._waiting = False
        self._desk.seen.held -= 1
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _reset(self) -> None:
        sock = self.transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()


class Desk:
    """Who is worked on and who waits."""

    def __init__(self, loop: asyncio.AbstractEventLoop, worker: Worker, changes: dict[str, Any]) -> None:
        self.loop = loop
        self.worker = worker
        self.seen = Seen()
        self.behaviour = Behaviour()
        self.behave(changes)
        self.draining = False
        self._busy: set[Door] = set()
        self._queue: deque[Door] = deque()

    def behave(self, changes: dict[str, Any]) -> None:
        """Otherwise than until now; `forget` makes it forget what it has seen."""
        if changes.pop("forget", False):
            for times in (self.seen.arrivals, self.seen.cancelled):
                times.clear()
            self.seen.most = self.seen.answered = self.seen.refused = 0
        self.behaviour = dataclasses.replace(self.behaviour, **changes)

    def take(self, door: Door) -> None:
        """A request is complete."""
        behaviour = self.behaviour
        if not behaviour.slots or len(self._busy) < behaviour.slots:
            self._start(door)
        elif len(self._queue) < behaviour.queue:
            self._queue.append(door)
        else:
            door.refuse()

    def gone(self, door: Door) -> None:
        """Nobody waits for the answer any more."""
        if door in self._queue:
            self._queue.remove(door)
        self._ended(door)

    def finished(self) -> None:
        """Somebody was answered."""
        for door in [door for door in self._busy if door._timer is None]:
            self._ended(door)

    def _start(self, door: Door) -> None:
        self._busy.add(door)
        door.begin(self.behaviour.delay)

    def _ended(self, door: Door) -> None:
        if door in self._busy:
            self._busy.discard(door)
            if self._queue:
                self._start(self._queue.popleft())


async def serve(options: argparse.Namespace, stop: Stop) -> None:
    """Listen, announce, and go as a real worker does."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Door(desk), "127.0.0.1", options.port, backlog=1024)
    port = server.sockets[0].getsockname()[1]
    worker = Worker(
        id=worker_id("127.0.0.1", port, options.name), host="127.0.0.1", port=port, models=("drill",),
        replay_safe=not options.not_replay_safe, capacity=options.capacity, weight=options.weight,
        grpc_port=options.grpc_port or None,
    )  # fmt: skip
    desk = Desk(loop, worker, json.loads(options.set))
    calls: Any = None
    if options.grpc_port:
        from tests.drills.grpc_door import open_door  # it takes a while to import

        calls = await open_door(desk, options.grpc_port)
    print(json.dumps({"id": worker.id, "port": port}), flush=True)
    if options.registry == "none":
        await stop.wait()
        return
    async with open_registry(options.registry, os.environ, stop, options.service) as registry:
        desk.seen.announcing = time.monotonic()
        async with registry.announce(worker) as listing:
            desk.seen.listed = time.monotonic()
            await stop.wait()
            desk.draining = True
            await listing.withdraw("draining")
            await asyncio.sleep(1.5)
            while desk.seen.held:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        server.close()
    if calls is not None:
        await calls.stop(1.0)


def main() -> int:
    """Run it until it is asked to stop."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--registry", required=True)
    parser.add_argument("--service", required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--grpc-port", type=int, default=0)
    parser.add_argument("--capacity", type=int, default=0)
    parser.add_argument("--weight", type=int, default=1)
    parser.add_argument("--not-replay-safe", action="store_true")
    parser.add_argument("--set", default="{}")
    options = parser.parse_args()
    keep_pages()

    async def program(stop: Stop) -> None:
        await serve(options, stop)

    return run(program, loop_factory=uvloop.new_event_loop)


if __name__ == "__main__":
    sys.exit(main())

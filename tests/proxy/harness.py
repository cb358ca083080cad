"""A real proxy between real sockets: scripted workers behind it, a strict HTTP client (h11) in front of it."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from types import MappingProxyType

import h11

from discovery.worker_json import to_json
from muster.lifetime import Stop
from muster.values import Worker
from proxy.serve import serve
from proxy.settings import ProxySettings
from tests.consul_agent import free_ports

DEADLINE = 10.0
"""Seconds until a test gives up."""


@dataclass
class Seen:
    """One request as a worker saw it."""

    head: bytes
    body: bytes = b""

    @property
    def line(self) -> bytes:
        return self.head.split(b"\r\n", 1)[0]

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        lines = self.head.split(b"\r\n")[1:-2]
        return [(name, value) for name, _, value in (line.partition(b": ") for line in lines)]

    def values(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.headers if key.lower() == name.lower()]


Answer = Callable[[Seen, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def response(body: bytes, status: bytes = b"200 OK", headers: bytes = b"") -> bytes:
    return b"HTTP/1.1 %b\r\nContent-Length: %d\r\n%b\r\n%b" % (status, len(body), headers, body)


def always(raw: bytes) -> Answer:
    """Read the whole request, answer `raw`."""

    async def answer(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_body(seen, reader)
        writer.write(raw)

    return answer


async def read_body(seen: Seen, reader: asyncio.StreamReader) -> None:
    if lengths := seen.values(b"content-length"):
        seen.body += await reader.readexactly(int(lengths[0]))
    elif seen.values(b"transfer-encoding"):
        while size := int((await reader.readuntil(b"\r\n")).strip(), 16):
            seen.body += (await reader.readexactly(size + 2))[:-2]
        await reader.readuntil(b"\r\n")


class ScriptedWorker:
    """A worker whose every answer is up to the test. It is found healthy when the proxy probes it."""

    def __init__(
        self,
        answer: Answer | None = None,
        *,
        replay_safe: bool = True,
        name: str = "",
        models: Mapping[str, Sequence[int]] | None = MappingProxyType({"digits": (1,)}),
    ) -> None:
        (self.port,) = free_ports(1)
        self.id = name or f"worker-{self.port}"
        self.answer = answer or always(response(self.id.encode()))
        self.worker = Worker(self.id, "127.0.0.1", self.port, replay_safe=replay_safe)
        if models is not None:
            self.worker = self.worker.serving(models)
        self.seen: list[Seen] = []
        self.open = 0  # connections
        self.accepted = 0
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    def speak_grpc(self, port: int) -> None:
        """Say that it does, from now on."""
        self.worker = dataclasses.replace(self.worker, grpc_port=port)

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, limit=2**20, backlog=1024)

    async def stop(self) -> None:
        """Gone at once, as after kill -9: the port refuses, connections are reset."""
        if self._server is not None:
            self._server.close()
            for writer in list(self._writers):
                writer.transport.abort()
            await self._server.wait_closed()
            self._server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        self.open += 1
        self.accepted += 1
        try:
            with suppress(asyncio.IncompleteReadError, ConnectionError):
                while not writer.transport.is_closing():
                    head = await reader.readuntil(b"\r\n\r\n")
                    if head.startswith(b"GET /readyz "):
                        body = json.dumps({"status": "ready", "worker": to_json(self.worker)}).encode()
                        writer.write(response(body, headers=b"Content-Type: application/json\r\n"))
                        continue
                    seen = Seen(head)
                    self.seen.append(seen)
                    await self.answer(seen, reader, writer)
        finally:
            self.open -= 1
            self._writers.discard(writer)
            writer.transport.abort()


@dataclass
class Got:
    """An answer as a client received it."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes
    reason: bytes = b""
    informational: list[int] = field(default_factory=list)

    def values(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.headers if key == name.lower()]

    @property
    def json(self) -> dict[str, object]:
        value = json.loads(self.body)
        assert isinstance(value, dict)
        return value


class Client:
    """One keep-alive connection to the proxy."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self._parser = h11.Connection(h11.CLIENT)

    async def ask(self, raw: bytes) -> Got:
        """Send `raw`, one whole request, and read the answer. h11.RemoteProtocolError if it is cut short."""
        self.writer.write(raw)
        return await self.answer_to(raw.split(b" ", 1)[0])

    async def answer_to(self, method: bytes) -> Got:
        """The next answer on the connection."""
        parser = self._parser
        if parser.our_state is h11.MUST_CLOSE or parser.states[h11.SERVER] is not h11.IDLE:
            parser.start_next_cycle()
        parser.send(h11.Request(method=method, target="/", headers=[("Host", "x")]))
        parser.send(h11.EndOfMessage())
        got: Got | None = None
        informational: list[int] = []
        pieces: list[bytes] = []
        async with asyncio.timeout(DEADLINE):
            while True:
                event = parser.next_event()
                if event is h11.NEED_DATA:
                    parser.receive_data(await self.reader.read(65536))
                elif isinstance(event, h11.InformationalResponse):
                    informational.append(event.status_code)
                elif isinstance(event, h11.Response):
                    got = Got(event.status_code, list(event.headers), b"", event.reason, informational)
                elif isinstance(event, h11.Data):
                    pieces.append(bytes(event.data))
                elif isinstance(event, h11.EndOfMessage):
                    assert got is not None
                    return dataclasses.replace(got, body=b"".join(pieces))
                else:
                    raise ConnectionError(f"the connection ended with {event!r}")

    async def closed(self) -> None:
        """Wait until the proxy closes the connection; nothing more may come before."""
        async with asyncio.timeout(DEADLINE):
            assert await self.reader.read() == b""

    def close(self) -> None:
        self.writer.transport.abort()


@dataclass
class RunningProxy:
    """A proxy that listens on `port`."""

    port: int

    async def connect(self) -> Client:
        return Client(*await asyncio.open_connection("127.0.0.1", self.port, limit=2**20))

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Client]:
        client = await self.connect()
        try:
            yield client
        finally:
            client.close()

    async def ask(self, raw: bytes) -> Got:
        """One request on a connection of its own."""
        async with self.client() as client:
            return await client.ask(raw)


@asynccontextmanager
async def cluster(*workers: ScriptedWorker, **changes: object) -> AsyncIterator[RunningProxy]:
    """The workers and a proxy in front of them, in this loop; `changes` are settings of the proxy."""
    for worker in workers:
        await worker.start()
    addresses = ",".join(f"127.0.0.1:{worker.port}" for worker in workers)
    (port,) = free_ports(1)
    defaults = {"host": "127.0.0.1", "port": port, "registry": f"static://{addresses}", "drain_timeout": 2.0}
    defaults["access_log"] = "off"
    defaults["grpc"] = "grpc_port" in changes
    settings = dataclasses.replace(ProxySettings(), **{**defaults, **changes})  # type: ignore[arg-type]
    stop = Stop()
    program = asyncio.create_task(serve(settings, stop))
    try:
        await until_listening(port, program)
        yield RunningProxy(port)
    finally:
        stop.request("the test is over")
        await asyncio.wait_for(program, DEADLINE)
        for worker in workers:
            await worker.stop()


async def until_listening(port: int, program: asyncio.Task[None]) -> None:
    async with asyncio.timeout(DEADLINE):
        while not program.done():
            with suppress(ConnectionError):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                return
            await asyncio.sleep(0.01)
    program.result()


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that is about to happen."""
    async with asyncio.timeout(DEADLINE):
        while not condition():  # noqa: ASYNC110  # what it waits for has no event
            await asyncio.sleep(0.005)


def get(target: bytes = b"/v1/models/digits", headers: bytes = b"") -> bytes:
    return b"GET %b HTTP/1.1\r\nHost: test\r\n%b\r\n" % (target, headers)


def post(body: bytes, target: bytes = b"/classify", headers: bytes = b"") -> bytes:
    return b"POST %b HTTP/1.1\r\nHost: test\r\nContent-Length: %d\r\n%b\r\n%b" % (target, len(body), headers, body)

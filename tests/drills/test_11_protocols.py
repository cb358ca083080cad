"""11. WebSocket, server-sent events, HTTP/1.0 and `Expect: 100-continue` go through."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
from aiohttp import web

from tests.consul_agent import free_ports
from tests.drills.cluster import Cluster, form
from tests.drills.conftest import Figure


async def _echo(request: web.Request) -> web.WebSocketResponse:
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    async for message in socket:
        if message.type is aiohttp.WSMsgType.TEXT:
            await socket.send_str(message.data)
        elif message.type is aiohttp.WSMsgType.BINARY:
            await socket.send_bytes(message.data)
    return socket


async def _events(request: web.Request) -> web.StreamResponse:
    answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await answer.prepare(request)
    for _ in range(20):
        await answer.write(f"data: {time.monotonic()}\n\n".encode())
        await asyncio.sleep(0.02)
    return answer


async def _picky(request: web.Request) -> web.Response:
    return web.Response(text=str(len(await request.read())))


async def _refuse(request: web.Request) -> None:
    if request.content_length and request.content_length > 1_000_000:
        raise web.HTTPRequestEntityTooLarge(1_000_000, request.content_length)
    assert request.transport is not None
    request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")  # type: ignore[attr-defined]


@asynccontextmanager
async def application() -> AsyncIterator[int]:
    """A worker of another make, and its port."""
    app = web.Application(client_max_size=2**24)
    app.router.add_get("/ws", _echo)
    app.router.add_get("/events", _events)
    app.router.add_post("/picky", _picky, expect_handler=_refuse)
    app.router.add_get("/readyz", _ok)
    app.router.add_get("/old", _ok)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    (port,) = free_ports(1)
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield port
    finally:
        await runner.cleanup()


async def _ok(_: web.Request) -> web.Response:
    return web.Response(text="fine")


async def test_websockets_and_events_pass_through(cluster: Cluster, figure: Figure) -> None:
    async with application() as port, aiohttp.ClientSession() as session:
        cluster.registry = f"static://127.0.0.1:{port}"
        await asyncio.to_thread(cluster.proxy)
        count = form(2000, 300)
        async with session.ws_connect(f"{cluster.url}/ws") as ws:
            begin = time.monotonic()
            for number in range(count):
                await ws.send_bytes(b"x" * (number % 5000))
                message = await ws.receive(5)
                assert message.data == b"x" * (number % 5000)
            took = (time.monotonic() - begin) / count
        late = []
        async with session.get(f"{cluster.url}/events") as answer:
            assert answer.headers["Content-Type"] == "text/event-stream"
            async for line in answer.content:
                late += [time.monotonic() - float(line[6:])] if line.startswith(b"data: ") else []
        figure(
            f"{count} WebSocket messages there and back, {took * 1000:.2f} ms each; "
            f"{len(late)} events, {max(late) * 1000:.1f} ms late at most"
        )
        assert len(late) == 20
        assert max(late) < 0.5


async def test_clients_of_http_1_0_are_served(cluster: Cluster, figure: Figure) -> None:
    async with application() as port:
        cluster.registry = f"static://127.0.0.1:{port}"
        await asyncio.to_thread(cluster.proxy)
        for head in (b"GET /old HTTP/1.0\r\n\r\n", b"GET /events HTTP/1.0\r\nHost: a\r\n\r\n"):
            answer = await asyncio.to_thread(_until_closed, cluster.port, head)
            assert answer.startswith((b"HTTP/1.1 200", b"HTTP/1.0 200"))
            assert b"chunked" not in answer.lower().split(b"\r\n\r\n")[0]
        assert answer.count(b"data: ") == 20
    figure("two requests of HTTP/1.0: answered without chunks, closed at the end")


async def test_a_body_is_sent_only_when_the_worker_asks_for_it(cluster: Cluster, figure: Figure) -> None:
    async with application() as port:
        cluster.registry = f"static://127.0.0.1:{port}"
        await asyncio.to_thread(cluster.proxy)
        head = b"POST /picky HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n"
        reader, writer = await asyncio.open_connection("127.0.0.1", cluster.port)
        async with asyncio.timeout(10):
            writer.write(head % 500_000)
            assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            writer.write(b"x" * 500_000)
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
            assert await reader.readexactly(6) == b"500000"
            writer.close()
            await writer.wait_closed()
            reader, writer = await asyncio.open_connection("127.0.0.1", cluster.port)
            writer.write(head % 8_000_000)
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 413")
            writer.close()
            await writer.wait_closed()
    figure("a body of 500 kB was asked for; one of 8 MB was refused before a byte of it was sent")


def _until_closed(port: int, head: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), 10) as client:
        client.sendall(head)
        answer = b""
        while piece := client.recv(65536):
            answer += piece
    return answer

"""Workers that answer oddly: the client gets one clean answer or one that is visibly broken."""

from __future__ import annotations

import asyncio

import pytest

from tests.proxy.harness import Answer, ScriptedWorker, Seen, always, cluster, get, post, read_body, response, until

WEBSOCKET = b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: k\r\n"


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        b"HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        b"HTTP/1.1 200 \x1b[31m\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
        b"an answer of HTTP/0.9",
        b"HTTP/1.1 100 Continue\r\nContent-Length: 5\r\n\r\nhello",
    ],
    ids=[
        "an upgrade nobody asked for",
        "another version",
        "chunks that are none",
        "a reason that paints",
        "bare line feeds",
        "no head",
        "a body under an interim answer",
    ],
)
async def test_an_answer_that_makes_no_sense_is_a_502_and_not_passed_on(raw: bytes) -> None:
    async with cluster(ScriptedWorker(always(raw))) as proxy:
        got = await proxy.ask(post(b"x"))
    assert (got.status, got.json["code"]) == (502, "worker_broke")


async def test_an_upgrade_to_anything_but_a_websocket_is_not_passed_on() -> None:
    raw = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
    async with cluster(ScriptedWorker(always(raw))) as proxy:
        assert (await proxy.ask(get(headers=WEBSOCKET))).status == 502


async def test_a_204_with_a_length_reaches_the_client_without_it() -> None:
    async with cluster(ScriptedWorker(always(b"HTTP/1.1 204 No\r\nContent-Length: 5\r\n\r\n"))) as proxy:
        got = await proxy.ask(get())
    assert (got.status, got.values(b"content-length")) == (204, [])


@pytest.mark.parametrize("method", [b"HEAD", b"GET"])
async def test_a_body_where_none_may_be_reaches_nobody(method: bytes) -> None:
    status = b"200 OK" if method == b"HEAD" else b"304 Not Modified"
    worker = ScriptedWorker(always(response(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil", status)))
    request = method + b" /x HTTP/1.1\r\nHost: test\r\n\r\n"
    async with cluster(worker) as proxy, proxy.client() as client:
        assert (await client.ask(request)).body == b""
        worker.answer = always(response(b"good", status))
        assert (await client.ask(request)).body == b""
        worker.answer = always(response(b"good"))
        assert (await client.ask(post(b""))).body == b"good"


async def test_what_a_worker_says_after_its_answer_is_not_the_next_answer() -> None:
    worker = ScriptedWorker(always(response(b"good") + response(b"evil")))
    async with cluster(worker) as proxy, proxy.client() as client:
        assert [(await client.ask(post(b"x"))).body for _ in range(20)] == [b"good"] * 20


async def test_frames_that_come_before_the_upgrade_is_answered_are_not_lost() -> None:
    go_on = asyncio.Event()

    async def answer(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await go_on.wait()
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
        while data := await reader.read(100):
            writer.write(data)

    worker = ScriptedWorker(answer)
    async with cluster(worker) as proxy, proxy.client() as client:
        client.writer.write(get(headers=WEBSOCKET) + b"early")
        await until(lambda: bool(worker.seen))
        go_on.set()
        await client.reader.readuntil(b"\r\n\r\n")
        client.writer.write(b" late")
        assert await asyncio.wait_for(client.reader.readexactly(10), 5) == b"early late"


async def test_a_worker_that_hangs_up_after_inviting_the_body_is_not_taken_for_a_stale_connection() -> None:
    first = True

    async def answer(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal first
        if seen.values(b"expect") and first:
            first = False
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            await read_body(seen, reader)
            writer.transport.abort()
            return
        await read_body(seen, reader)
        writer.write(response(b"answer"))

    async with cluster(ScriptedWorker(answer)) as proxy, proxy.client() as client:
        await client.ask(get())
        client.writer.write(post(b"hello", headers=b"Expect: 100-continue\r\n")[:-5])
        assert await client.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.writer.write(b"hello")
        got = await client.answer_to(b"POST")
        metrics = (await client.ask(get(b"/metrics"))).body
    assert got.status == 502  # there is no other worker
    assert b'reason="broke"' in metrics
    assert b'reason="stale"' not in metrics


def early(raw: bytes) -> Answer:
    async def answer(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(raw)
        await reader.read()

    return answer


async def test_who_leaves_after_the_answer_is_not_counted_as_gone_before_it() -> None:
    async with cluster(ScriptedWorker(early(response(b"early")))) as proxy:
        async with proxy.client() as client:
            client.writer.write(b"POST /x HTTP/1.1\r\nHost: test\r\nContent-Length: 10\r\n\r\nhello")
            assert (await client.answer_to(b"POST")).body == b"early"
        async with proxy.client() as client:
            client.writer.write(b"POST /x HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\nbad\r\r")
            await client.reader.read()
        async with asyncio.timeout(5):
            while b"muster_proxy_connections 1.0" not in (metrics := (await proxy.ask(get(b"/metrics"))).body):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    assert b"muster_proxy_cancelled_total 0.0" in metrics
    assert b'muster_proxy_responses_total{status="200"}' in metrics

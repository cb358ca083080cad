"""Who does not keep up: nothing piles up in the proxy, nothing hangs, and nobody is blamed for another's slowness."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress

import pytest

from tests.proxy.harness import (
    DEADLINE,
    Client,
    RunningProxy,
    ScriptedWorker,
    Seen,
    always,
    cluster,
    get,
    post,
    read_body,
    response,
    until,
)

MIB = 2**20


async def narrow(proxy: RunningProxy) -> Client:
    """A client whose kernel takes little, so that what it does not read stays in the proxy."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", proxy.port))
    return Client(*await asyncio.open_connection(sock=sock, limit=2**12))


async def metric(proxy: RunningProxy, name: str) -> float:
    for line in (await proxy.ask(get(b"/metrics"))).body.decode().splitlines():
        if line.startswith(name + " "):
            return float(line.split()[1])
    raise AssertionError(f"no metric {name}")


async def all_let_go(proxy: RunningProxy) -> None:
    """Wait until the proxy has no connection but the one that asks."""
    async with asyncio.timeout(DEADLINE):
        while await metric(proxy, "muster_proxy_connections") > 1:  # noqa: ASYNC110  # only asking tells
            await asyncio.sleep(0.1)


async def test_a_long_line_of_requests_is_answered_when_there_are_no_workers() -> None:
    async with cluster() as proxy, proxy.client() as client:
        client.writer.write(get() * 1500)
        assert {(await client.answer_to(b"GET")).status for _ in range(1500)} == {503}


async def test_a_workers_connection_serves_on_after_a_client_that_did_not_take_its_answer() -> None:
    worker = ScriptedWorker(always(response(bytes(100_000))))
    async with cluster(worker) as proxy:
        slow = await narrow(proxy)
        stuck = False
        while not stuck:  # until its answers pile up in the proxy
            seen = len(worker.seen)
            slow.writer.write(get())
            with suppress(TimeoutError):
                async with asyncio.timeout(0.5):
                    await until(lambda seen=seen: len(worker.seen) > seen)  # type: ignore[misc]
            stuck = len(worker.seen) == seen
            for _ in range(2):
                assert (await proxy.ask(get())).status == 200
        slow.close()


async def test_requests_of_a_client_that_reads_no_answers_wait_their_turn() -> None:
    worker = ScriptedWorker(always(response(bytes(100_000), headers=b"Connection: close\r\n")))
    async with cluster(worker, write_timeout=1.0) as proxy:
        client = await narrow(proxy)
        client.writer.write(get() * 500)
        await until(lambda: len(worker.seen) > 1)
        await all_let_go(proxy)
        assert len(worker.seen) < 100
        client.close()


async def test_a_client_that_never_reads_is_let_go_however_little_it_left_unread() -> None:
    worker = ScriptedWorker(always(response(bytes(150_000))))
    async with cluster(worker, write_timeout=0.5, idle_timeout=0.5) as proxy:
        clients = [await narrow(proxy) for _ in range(30)]
        for number, client in enumerate(clients):
            client.writer.write(get() * (number + 3))
        await all_let_go(proxy)
        for client in clients:
            client.close()


async def test_an_upload_that_has_to_be_sent_again_is_slowed_down_by_a_worker_that_does_not_read() -> None:
    size, half = 64 * MIB, 2 * MIB
    both = asyncio.Event()

    async def answer(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if ann.seen and bob.seen:
            both.set()
            await asyncio.Event().wait()  # the second sleeps
        await reader.readexactly(half - 100_000)
        writer.transport.abort()  # the first dies

    ann, bob = ScriptedWorker(answer, name="ann"), ScriptedWorker(answer, name="bob")
    async with cluster(ann, bob, replay_body=128 * MIB) as proxy, proxy.client() as client:
        client.writer.write(b"POST /x HTTP/1.1\r\nHost: test\r\nContent-Length: %d\r\n\r\n" % size + bytes(half))
        await asyncio.wait_for(both.wait(), DEADLINE)
        sent = half
        while sent < size:
            client.writer.write(bytes(MIB))
            sent += MIB
            try:
                await asyncio.wait_for(client.writer.drain(), 0.5)
            except TimeoutError:
                break
        assert sent < 32 * MIB


async def test_the_time_of_a_slow_upload_is_not_the_workers() -> None:
    async def answer(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_body(seen, reader)
        await asyncio.sleep(1.2)  # time itself is the subject: long enough for a sweep to look
        writer.write(response(b"done"))

    async with cluster(ScriptedWorker(answer), response_timeout=1.5) as proxy, proxy.client() as client:
        raw = post(b"slow picture")
        client.writer.write(raw[:-1])
        await asyncio.sleep(1.5)
        client.writer.write(raw[-1:])
        assert (await client.answer_to(b"POST")).body == b"done"


async def test_a_client_is_seen_to_leave_also_when_its_body_came_before_the_connection_to_a_worker() -> None:
    left = asyncio.Event()

    async def answer(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_body(seen, reader)
        assert await reader.read() == b""
        left.set()

    worker = ScriptedWorker(answer)
    async with cluster(worker) as proxy:
        for _ in range(5):
            client = await proxy.connect()
            seen = len(worker.seen)
            client.writer.write(post(bytes(300_000)))
            await until(lambda seen=seen: len(worker.seen) > seen and len(worker.seen[-1].body) == 300_000)  # type: ignore[misc]
            client.close()
            await asyncio.wait_for(left.wait(), 2)
            left.clear()


async def test_no_copy_of_a_body_is_kept_once_the_answer_has_begun() -> None:
    go_on = asyncio.Event()

    async def answer(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_body(seen, reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nh")
        await go_on.wait()
        writer.write(b"i")

    async with cluster(ScriptedWorker(answer)) as proxy, proxy.client() as client:
        client.writer.write(post(bytes(50_000)))
        await client.reader.readuntil(b"\r\n\r\n")
        assert await metric(proxy, "muster_proxy_replay_bytes") == 0
        go_on.set()
        assert await client.reader.readexactly(2) == b"hi"


@pytest.mark.parametrize(
    ("framing", "replay_safe"),
    [(b"Content-Length: 5000", True), (b"Content-Length: 900", False), (b"Transfer-Encoding: chunked", True)],
    ids=["known to be too large", "may not run twice", "becomes too large"],
)
async def test_no_copy_is_kept_of_a_body_that_will_not_be_sent_again(framing: bytes, replay_safe: bool) -> None:
    """While it is under way, it takes no memory from those that may be."""
    chunked = framing.startswith(b"Transfer")
    worker = ScriptedWorker(replay_safe=replay_safe)
    async with cluster(worker, replay_body=1000) as proxy, proxy.client() as client:
        head = b"POST /classify HTTP/1.1\r\nHost: test\r\n" + framing + b"\r\n\r\n"
        client.writer.write(head + (b"1f4\r\n" + bytes(500) + b"\r\n" if chunked else bytes(500)))
        await until(lambda: bool(worker.seen))
        assert await metric(proxy, "muster_proxy_replay_bytes") == (500 if chunked else 0)
        if chunked:
            client.writer.write(b"1f5\r\n" + bytes(501) + b"\r\n")
            async with asyncio.timeout(DEADLINE):
                while await metric(proxy, "muster_proxy_replay_bytes"):  # noqa: ASYNC110  # only asking tells
                    await asyncio.sleep(0.01)


async def test_a_flood_of_tiny_chunks_does_not_keep_others_waiting() -> None:
    flood = b"1\r\na\r\n" * 200_000
    ann = ScriptedWorker()
    async with cluster(ann) as proxy, proxy.client() as flooding, proxy.client() as other:
        await other.ask(get())
        flooding.writer.write(b"POST /flood HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n" + flood)
        await until(lambda: any(b"/flood" in seen.head for seen in ann.seen))
        assert (await other.ask(get())).status == 200
        (flooded,) = (seen for seen in ann.seen if b"/flood" in seen.head)
        assert len(flooded.body) < 100_000  # most of it was still to come when the other was answered
        flooding.writer.write(b"0\r\n\r\n")
        assert (await flooding.answer_to(b"POST")).status == 200
        assert len(flooded.body) == 200_000


async def test_a_worker_that_takes_no_more_of_a_body_is_found_to_be_silent_and_not_its_client() -> None:
    async def takes_nothing(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(DEADLINE)

    worker = ScriptedWorker(takes_nothing)
    async with cluster(worker, response_timeout=0.5) as proxy, proxy.client() as client:
        client.writer.write(post(bytes(32 * MIB)))
        assert (await client.answer_to(b"POST")).status == 504


async def test_a_client_that_sends_on_and_on_behind_a_request_is_not_read() -> None:
    async def takes_long(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(DEADLINE)

    worker = ScriptedWorker(takes_long)
    async with cluster(worker) as proxy, proxy.client() as client:
        client.writer.write(get() * (24 * MIB // len(get())))
        await until(lambda: bool(worker.seen))
        left: list[int] = []
        while len({*left[-5:]}) > 1 or len(left) < 5:  # until the proxy takes no more
            await asyncio.sleep(0.1)
            left.append(client.writer.transport.get_write_buffer_size())
        assert left[-1] > MIB

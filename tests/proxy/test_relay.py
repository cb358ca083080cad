"""What a client and a worker see of each other through the proxy when nothing goes wrong."""

from __future__ import annotations

import asyncio
import gzip
from contextlib import suppress

from tests.proxy.harness import Client, ScriptedWorker, Seen, always, cluster, get, post, read_body, response, until

BUFFERED = 48 * 2**20
"""Bytes that two connections may hold at most: the kernel lets the buffers of a busy machine grow (`tcp_rmem` to 32 MiB
here and there, of which half are bytes of a stream, `tcp_wmem` to 4 MiB), and the proxy has its own, small ones."""


async def test_a_request_and_its_answer_arrive_unchanged() -> None:
    worker = ScriptedWorker(always(response(b"\x00\xffbody", headers=b"X-One: 1\r\nx-two: 2\r\n")), name="ann")
    async with cluster(worker) as proxy:
        got = await proxy.ask(post(b"\x00picture\xff", headers=b"X-Strange-CASE: a  b\r\nContent-Type: image/png\r\n"))
    (seen,) = worker.seen
    assert seen.line == b"POST /classify HTTP/1.1"
    assert seen.body == b"\x00picture\xff"
    assert (b"X-Strange-CASE", b"a  b") in seen.headers
    assert (b"Content-Type", b"image/png") in seen.headers
    assert (got.status, got.body) == (200, b"\x00\xffbody")
    assert got.values(b"x-one") == [b"1"]
    assert got.values(b"x-two") == [b"2"]


async def test_a_path_arrives_byte_for_byte() -> None:
    worker = ScriptedWorker()
    async with cluster(worker) as proxy:
        await proxy.ask(get(b"/a%2Fb%27c%41/../d//?x=%21&y=a+b"))
    assert worker.seen[0].line == b"GET /a%2Fb%27c%41/../d//?x=%21&y=a+b HTTP/1.1"


async def test_repeated_headers_stay_repeated_both_ways() -> None:
    worker = ScriptedWorker(always(response(b"", headers=b"Set-Cookie: a=1\r\nSet-Cookie: b=2\r\n")))
    async with cluster(worker) as proxy:
        got = await proxy.ask(get(headers=b"Accept: a\r\nAccept: b\r\n"))
    assert worker.seen[0].values(b"accept") == [b"a", b"b"]
    assert got.values(b"set-cookie") == [b"a=1", b"b=2"]


async def test_nothing_is_invented_on_the_way_to_the_worker() -> None:
    worker = ScriptedWorker()
    async with cluster(worker) as proxy:
        await proxy.ask(get())
    names = {name.lower() for name, _ in worker.seen[0].headers}
    assert names == {b"host", b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"x-request-id"}


async def test_the_worker_learns_who_asked() -> None:
    worker = ScriptedWorker()
    async with cluster(worker) as proxy:
        await proxy.ask(get(headers=b"X-Forwarded-For: 10.1.2.3\r\nX-Forwarded-Proto: gopher\r\n"))
    (seen,) = worker.seen
    assert seen.values(b"x-forwarded-for") == [b"10.1.2.3, 127.0.0.1"]
    assert seen.values(b"x-forwarded-proto") == [b"http"]
    assert seen.values(b"x-forwarded-host") == [b"test"]


async def test_a_sane_request_id_is_taken_over_and_a_wild_one_replaced() -> None:
    worker = ScriptedWorker(always(response(b"", headers=b"X-Request-Id: the worker's own\r\n")))
    async with cluster(worker) as proxy:
        tame = await proxy.ask(get(headers=b"X-Request-Id: order-66\r\n"))
        wild = await proxy.ask(get(headers=b"X-Request-Id: " + b"a" * 129 + b"\r\n"))
    assert [seen.values(b"x-request-id") for seen in worker.seen] == [[b"order-66"], wild.values(b"x-request-id")]
    assert tame.values(b"x-request-id") == [b"order-66"]
    assert len(wild.values(b"x-request-id")[0]) < 32


async def test_the_answer_says_who_served_it_and_how_long_it_took() -> None:
    worker = ScriptedWorker(always(response(b"", headers=b"Server-Timing: infer;dur=3\r\n")), name="ann")
    async with cluster(worker) as proxy:
        got = await proxy.ask(get())
    assert got.values(b"x-served-by") == [b"ann"]
    infer, ours = got.values(b"server-timing")
    assert infer == b"infer;dur=3"
    assert ours.startswith(b"proxy;dur=")
    assert ours.endswith(b", attempts;desc=1")


async def test_hop_by_hop_headers_stay_on_their_hop() -> None:
    worker = ScriptedWorker(
        always(response(b"", headers=b"Connection: keep-alive, X-Secret\r\nX-Secret: s\r\nKeep-Alive: timeout=5\r\n"))
    )
    async with cluster(worker) as proxy:
        got = await proxy.ask(
            get(headers=b"Connection: X-Mine, Host, X-Forwarded-For\r\nX-Mine: m\r\nTE: trailers\r\nUpgrade: h2c\r\n")
        )
    names = {name.lower() for name, _ in worker.seen[0].headers}
    assert not names & {b"connection", b"x-mine", b"te", b"upgrade"}
    assert {b"host", b"x-forwarded-for"} <= names
    assert {name for name, _ in got.headers} == {b"content-length", b"server-timing", b"x-request-id", b"x-served-by"}


async def test_names_with_an_underscore_do_not_reach_the_worker() -> None:
    worker = ScriptedWorker()
    async with cluster(worker) as proxy:
        await proxy.ask(get(headers=b"Content_Length: 5\r\nX_Forwarded_For: 6.6.6.6\r\n"))
    assert not any(b"_" in name for name, _ in worker.seen[0].headers)


async def test_a_compressed_answer_is_not_touched() -> None:
    packed = gzip.compress(b"a" * 1000)
    worker = ScriptedWorker(always(response(packed, headers=b"Content-Encoding: gzip\r\n")))
    async with cluster(worker) as proxy:
        got = await proxy.ask(get(headers=b"Accept-Encoding: gzip\r\n"))
    assert got.body == packed
    assert got.values(b"content-encoding") == [b"gzip"]


async def test_answers_without_a_body_keep_their_headers_and_the_connection() -> None:
    answers = {
        b"HEAD": b"HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n",
        b"GET": b"HTTP/1.1 304 Not Modified\r\nETag: x\r\nContent-Length: 77\r\n\r\n",
        b"DELETE": b"HTTP/1.1 204 No Content\r\nX-Gone: yes\r\n\r\n",
    }

    async def answer(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answers[seen.line.split()[0]])

    worker = ScriptedWorker(answer)
    async with cluster(worker) as proxy, proxy.client() as client:
        head = await client.ask(b"HEAD /x HTTP/1.1\r\nHost: test\r\n\r\n")
        unmodified = await client.ask(get())
        gone = await client.ask(b"DELETE /x HTTP/1.1\r\nHost: test\r\n\r\n")
    assert (head.status, head.values(b"content-length"), head.body) == (200, [b"1234"], b"")
    assert (unmodified.status, unmodified.values(b"content-length")) == (304, [b"77"])
    assert (gone.status, gone.reason, gone.values(b"x-gone")) == (204, b"No Content", [b"yes"])
    assert not gone.values(b"transfer-encoding")


async def test_chunked_bodies_pass_both_ways_and_trailers_are_dropped() -> None:
    raw = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n2\r\nde\r\n0\r\nX-Trailer: t\r\n\r\n"
    worker = ScriptedWorker(always(raw))
    request = b"POST /x HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nwxyz\r\n0\r\nX-T: t\r\n\r\n"
    async with cluster(worker) as proxy, proxy.client() as client:
        first = await client.ask(request)
        second = await client.ask(request)
    assert first.body == second.body == b"abcde"
    assert [seen.body for seen in worker.seen] == [b"wxyz", b"wxyz"]
    assert worker.accepted <= 2  # probe and requests: the connection to the worker was kept


async def test_an_answer_that_ends_with_the_connection_is_passed_on_whole() -> None:
    async def answer(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.0 200 OK\r\nX-Old: yes\r\n\r\n" + b"old " * 1000)
        await writer.drain()
        writer.close()

    worker = ScriptedWorker(answer)
    async with cluster(worker) as proxy, proxy.client() as client:
        got = await client.ask(get())
        again = await client.ask(get())
    assert got.body == again.body == b"old " * 1000
    assert got.values(b"transfer-encoding") == [b"chunked"]


async def test_an_http_1_0_client_gets_a_plain_body_and_a_closed_connection() -> None:
    raw = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    async with cluster(ScriptedWorker(always(raw))) as proxy, proxy.client() as client:
        client.writer.write(b"GET /x HTTP/1.0\r\n\r\n")
        answer = await asyncio.wait_for(client.reader.read(), 10)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert body == b"abc"
    assert b"Transfer-Encoding" not in head
    assert b"Connection: close" in head


async def test_an_http_1_0_client_may_keep_its_connection_when_the_length_is_known() -> None:
    async with cluster(ScriptedWorker()) as proxy, proxy.client() as client:
        for _ in range(2):
            got = await client.ask(b"GET /x HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
            assert got.values(b"connection") == [b"keep-alive"]


async def test_requests_that_come_early_are_answered_in_order() -> None:
    async def answer(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_body(seen, reader)
        writer.write(response(seen.line.split()[1]))

    worker = ScriptedWorker(answer)
    async with cluster(worker) as proxy, proxy.client() as client:
        targets = [b"/%d" % number for number in range(50)]
        client.writer.write(
            b"".join(get(target) if n % 2 else post(b"b" * n, target) for n, target in enumerate(targets))
        )
        bodies = [(await client.answer_to(b"GET")).body for _ in targets]
    assert bodies == targets


async def test_one_connection_carries_requests_for_workers_and_for_the_proxy_itself() -> None:
    worker = ScriptedWorker(name="ann")
    async with cluster(worker) as proxy, proxy.client() as client:
        for _ in range(3):
            assert (await client.ask(get(b"/"))).body.decode() == f"127.0.0.1:{worker.port}\n"
            assert (await client.ask(post(b"x"))).body == b"ann"
            assert (await client.ask(get(b"/healthz"))).json == {"status": "alive"}


async def test_a_worker_that_reads_slowly_slows_the_client_down() -> None:
    gate = asyncio.Event()

    async def answer(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await gate.wait()
        size = int(seen.values(b"content-length")[0])
        while size:
            size -= len(await reader.read(min(size, 2**20)))
        writer.write(response(b"done"))

    size = 64 * 2**20
    async with cluster(ScriptedWorker(answer)) as proxy, proxy.client() as client:
        client.writer.write(b"POST /x HTTP/1.1\r\nHost: test\r\nContent-Length: %d\r\n\r\n" % size)
        sent = await pushed(client, size)
        assert sent < BUFFERED
        gate.set()
        client.writer.write(bytes(size - sent))
        assert (await client.answer_to(b"POST")).body == b"done"


async def pushed(client: Client, size: int) -> int:
    """Send until nothing more is taken for a while; how many bytes that were."""
    sent = 0
    while sent < size:
        client.writer.write(bytes(65536))
        sent += 65536
        try:
            await asyncio.wait_for(client.writer.drain(), 0.5)
        except TimeoutError:
            break
    return sent


async def test_a_client_that_reads_slowly_slows_the_worker_down() -> None:
    size, written = 64 * 2**20, 0

    async def answer(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        while written < size:
            writer.write(bytes(65536))
            written += 65536
            await writer.drain()

    async with cluster(ScriptedWorker(answer)) as proxy, proxy.client() as client:
        client.writer.write(get())
        await until(lambda: written > 0)
        before = -1
        while before != written:
            before = written
            await asyncio.sleep(0.3)
        assert written < BUFFERED
        assert len((await client.answer_to(b"GET")).body) == size


async def test_the_body_is_invited_by_the_worker_and_by_nobody_else() -> None:
    async def answer(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert seen.values(b"expect") == [b"100-continue"]
        if seen.line.startswith(b"POST /no "):
            writer.write(response(b"no", b"413 Too Large", b"Connection: close\r\n"))
            return
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        await read_body(seen, reader)
        writer.write(response(b"yes"))

    worker = ScriptedWorker(answer)
    head = b"POST %b HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"
    async with cluster(worker) as proxy:
        async with proxy.client() as client:
            client.writer.write(head % b"/yes")
            assert await client.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            client.writer.write(b"hello")
            assert (await client.answer_to(b"POST")).body == b"yes"
        async with proxy.client() as client:
            refused = await client.ask(head % b"/no")
            assert (refused.status, refused.informational) == (413, [])
            await client.closed()
    assert [seen.body for seen in worker.seen] == [b"hello", b""]


async def test_a_worker_that_refuses_a_body_half_way_is_heard_and_the_rest_is_not_sent() -> None:
    async def answer(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(response(b"too large", b"413 Too Large", b"Connection: close\r\n"))
        await reader.read()

    async with cluster(ScriptedWorker(answer)) as proxy, proxy.client() as client:
        client.writer.write(b"POST /x HTTP/1.1\r\nHost: test\r\nContent-Length: 99999999\r\n\r\n" + bytes(300_000))
        got = await client.answer_to(b"POST")
        assert (got.status, got.body) == (413, b"too large")
        assert got.values(b"connection") == [b"close"]


async def test_a_worker_that_is_still_saying_no_is_sent_no_more_of_the_body() -> None:
    more_was_sent = asyncio.Event()
    received: list[bytes] = []

    async def answer(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 8\r\nConnection: close\r\n\r\ntoo ")
        await more_was_sent.wait()
        await asyncio.sleep(0)  # what has arrived is read now
        with suppress(TimeoutError):
            async with asyncio.timeout(0.2):
                received.append(await reader.read(1000))
        writer.write(b"much")

    async with cluster(ScriptedWorker(answer)) as proxy, proxy.client() as client:
        client.writer.write(b"POST /x HTTP/1.1\r\nHost: test\r\nContent-Length: 1000000\r\n\r\n")
        assert (await client.reader.readuntil(b" 413 ")).startswith(b"HTTP/1.1")
        client.writer.write(b"more")
        await client.writer.drain()
        await proxy.ask(get(b"/healthz"))  # by now the proxy has seen it
        more_was_sent.set()
        assert (await client.reader.read()).endswith(b"too much")
    assert received == []


async def test_a_worker_that_answers_early_and_reads_on_costs_no_connection() -> None:
    async def answer(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(response(b"early"))
        await read_body(seen, reader)

    worker = ScriptedWorker(answer)
    body = bytes(range(256)) * 2000
    async with cluster(worker) as proxy, proxy.client() as client:
        for _ in range(3):
            client.writer.write(post(body)[:1000])
            assert (await client.answer_to(b"POST")).body == b"early"
            client.writer.write(post(body)[1000:])
            await client.writer.drain()
            await until(lambda: worker.seen[-1].body == body)
    assert len(worker.seen) == 3
    assert worker.accepted <= 2  # the probe's and one for all requests


async def test_a_websocket_becomes_a_pipe() -> None:
    hung_up = asyncio.Event()

    async def answer(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert seen.values(b"upgrade") == [b"websocket"]
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nhello")
        while data := await reader.read(100):
            writer.write(data.upper())
        hung_up.set()

    worker = ScriptedWorker(answer)
    async with cluster(worker) as proxy, proxy.client() as client:
        client.writer.write(get(headers=b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: k\r\n"))
        head = await client.reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 ")
        assert b"\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" in head
        assert await client.reader.readexactly(5) == b"hello"
        for word in (b"first", b"second"):
            client.writer.write(word)
            assert await client.reader.readexactly(len(word)) == word.upper()
        client.close()
        await asyncio.wait_for(hung_up.wait(), 10)


async def test_workers_take_turns() -> None:
    workers = [ScriptedWorker(name=name) for name in ("ann", "bob", "cat")]
    async with cluster(*workers) as proxy, proxy.client() as client:
        served = [(await client.ask(get())).body for _ in range(300)]
    assert [served.count(name) for name in (b"ann", b"bob", b"cat")] == [100, 100, 100]
    assert len(set(served[:3])) == 3

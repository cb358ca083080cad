"""Clients that are slow, greedy or cunning: a clean answer, a closed connection, and nothing ambiguous for a worker."""

from __future__ import annotations

import asyncio

import pytest

from tests.proxy.harness import ScriptedWorker, cluster, get, post

H = b"Host: test\r\n"
POST = b"POST / HTTP/1.1\r\n" + H
CHUNKED = b"Transfer-Encoding: chunked\r\n"
BAD = {
    "both lengths": (400, POST + b"Content-Length: 3\r\n" + CHUNKED + b"\r\n0\r\n\r\n"),
    "both lengths, other order": (400, POST + CHUNKED + b"Content-Length: 3\r\n\r\n"),
    "two lengths": (400, POST + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc"),
    "a list of lengths": (400, POST + b"Content-Length: 3, 3\r\n\r\nabc"),
    "a signed length": (400, POST + b"Content-Length: +3\r\n\r\nabc"),
    "a hexadecimal length": (400, POST + b"Content-Length: 0x3\r\n\r\nabc"),
    "an empty length": (400, POST + b"Content-Length: \r\n\r\n"),
    "another encoding": (400, POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n"),
    "an unknown encoding": (400, POST + b"Transfer-Encoding: xchunked\r\n\r\n"),
    "identity": (400, POST + b"Transfer-Encoding: identity\r\n\r\n"),
    "chunked twice": (400, POST + CHUNKED + CHUNKED + b"\r\n"),
    "chunked in HTTP/1.0": (400, b"POST / HTTP/1.0\r\n" + H + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    "a folded header": (400, b"GET / HTTP/1.1\r\n" + H + b"A: b\r\n c\r\n\r\n"),
    "bare line feeds": (400, b"GET / HTTP/1.1\nHost: test\n\n"),
    "one bare line feed": (400, b"GET / HTTP/1.1\r\nHost: test\nA: b\r\n\r\n"),
    "a space before the colon": (400, b"GET / HTTP/1.1\r\nHost : test\r\n\r\n"),
    "a zero byte": (400, b"GET / HTTP/1.1\r\n" + H + b"A: b\x00c\r\n\r\n"),
    "no host": (400, b"GET / HTTP/1.1\r\n\r\n"),
    "two hosts": (400, b"GET / HTTP/1.1\r\n" + H + H + b"\r\n"),
    "an odd host": (400, b"GET / HTTP/1.1\r\nHost: a/b@c\r\n\r\n"),
    "a port beyond the last": (400, b"GET / HTTP/1.1\r\nHost: test:65536\r\n\r\n"),
    "an address that is none": (400, b"GET / HTTP/1.1\r\nHost: [::::]\r\n\r\n"),
    "an empty host": (400, b"GET / HTTP/1.1\r\nHost: \r\n\r\n"),
    "an absolute target": (400, b"GET http://169.254.169.254/ HTTP/1.1\r\n" + H + b"\r\n"),
    "a fragment": (400, b"GET /a#b HTTP/1.1\r\n" + H + b"\r\n"),
    "two spaces": (400, b"GET  / HTTP/1.1\r\n" + H + b"\r\n"),
    "HTTP/0.9": (400, b"GET /\r\n\r\n"),
    "HTTP/2": (505, b"GET / HTTP/2.0\r\n" + H + b"\r\n"),
    "the preface of HTTP/2": (505, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "TLS": (400, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"),
    "TRACE": (405, b"TRACE / HTTP/1.1\r\n" + H + b"\r\n"),
    "CONNECT": (405, b"CONNECT test:443 HTTP/1.1\r\n" + H + b"\r\n"),
    "an expectation": (417, POST + b"Content-Length: 1\r\nExpect: a miracle\r\n\r\n"),
    "a long target": (431, b"GET /" + b"a" * 20000 + b" HTTP/1.1\r\n" + H + b"\r\n"),
    "many headers": (431, b"GET / HTTP/1.1\r\n" + H + b"A: b\r\n" * 200 + b"\r\n"),
    "a large body": (413, POST + b"Content-Length: 1000001\r\n\r\n"),
    "a large chunk": (413, POST + CHUNKED + b"\r\nfffff\r\n"),
    "a bad chunk size": (400, POST + CHUNKED + b"\r\n0x5\r\nhello\r\n0\r\n\r\n"),
    "a chunk that does not end": (400, POST + CHUNKED + b"\r\n5\r\nhelloGG"),
}  # fmt: skip


@pytest.mark.parametrize(("status", "raw"), BAD.values(), ids=BAD.keys())
async def test_what_is_not_a_clean_request_gets_its_error_and_a_closed_connection(status: int, raw: bytes) -> None:
    worker = ScriptedWorker()
    async with cluster(worker, max_body=1_000_000) as proxy, proxy.client() as client:
        client.writer.write(raw + b"GET /smuggled HTTP/1.1\r\nHost: test\r\n\r\n")
        got = await client.answer_to(b"GET")
        assert got.status == status
        assert isinstance(got.json["error"], str)
        assert got.values(b"connection") == [b"close"]
        await client.closed()
        assert (await proxy.ask(get())).status == 200
    assert not any(b"smuggled" in seen.head for seen in worker.seen)


async def test_a_head_that_never_ends_is_cut_off(caplog: pytest.LogCaptureFixture) -> None:
    async with cluster(ScriptedWorker(), header_timeout=0.2) as proxy, proxy.client() as client:
        client.writer.write(b"GET / HTTP/1.1\r\nHost: test\r\n")
        got = await client.answer_to(b"GET")
        assert (got.status, got.json["code"]) == (408, "request_timeout")
        await client.closed()
    assert "Traceback" not in caplog.text


async def test_a_body_that_never_ends_is_cut_off_and_the_worker_let_go() -> None:
    worker = ScriptedWorker()
    async with cluster(worker, body_timeout=0.2) as proxy, proxy.client() as client:
        client.writer.write(b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 100\r\n\r\nslow")
        assert (await client.answer_to(b"POST")).status == 408
        workers = (await proxy.ask(get(b"/workers"))).json["workers"]
        assert isinstance(workers, list)
        assert workers[0]["in_flight"] == 0


async def test_an_idle_connection_is_closed() -> None:
    async with cluster(ScriptedWorker(), idle_timeout=0.2) as proxy, proxy.client() as client:
        assert (await client.ask(get())).status == 200
        await client.closed()


async def test_an_empty_line_before_a_request_is_forgiven() -> None:
    async with cluster(ScriptedWorker()) as proxy, proxy.client() as client:
        client.writer.write(b"\r\n" + get())
        assert (await client.answer_to(b"GET")).status == 200


async def test_a_request_that_comes_byte_by_byte_is_served() -> None:
    worker = ScriptedWorker()
    async with cluster(worker) as proxy, proxy.client() as client:
        for byte in post(b"tiny"):
            client.writer.write(bytes([byte]))
            await client.writer.drain()
            await asyncio.sleep(0)
        assert (await client.answer_to(b"POST")).status == 200
    assert worker.seen[0].body == b"tiny"


async def test_a_small_unwanted_body_does_not_cost_the_connection() -> None:
    async with cluster() as proxy, proxy.client() as client:
        for _ in range(3):
            assert (await client.ask(post(b"x" * 50_000))).status == 503

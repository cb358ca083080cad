"""How much a client may send, for how long, and how soon it hears that it is too much."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web

from muster.errors import Overloaded
from tests.worker.colours import png
from tests.worker.doors import Doors, open_doors
from worker.bodies import SMALL, Shelf
from worker.classify_api import BODIES
from worker.connections import Deadlines, Server
from worker.models.catalogue import Catalogue

CHUNKED = b"POST /classify?model=float HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"


@pytest.fixture
async def doors(catalogue: Catalogue) -> AsyncIterator[Doors]:
    async with open_doors(catalogue, max_body=100_000, body_timeout=60.0) as doors:
        yield doors


@pytest.mark.parametrize("begun", [b"", b"x", b"x" * 300_000])
@pytest.mark.parametrize("apart", [True, False])
async def test_a_chunk_that_declares_too_much_is_refused_when_it_begins(
    doors: Doors, begun: bytes, apart: bool
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", doors.port)
    for piece in (CHUNKED + b"\r\n", b"5\r\nhello\r\n", b"ffffffff\r\n" + begun):
        writer.write(piece)
        if apart:
            await asyncio.sleep(0)
            await writer.drain()
    async with asyncio.timeout(10):
        assert (await reader.readline()).startswith(b"HTTP/1.1 413 ")
    writer.close()


async def test_a_chunk_that_declares_too_much_is_refused_on_a_used_connection_too(doors: Doors) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", doors.port)
    async with asyncio.timeout(10):
        for _ in range(2):
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            await reader.readuntil(b"}\n")
        writer.write(CHUNKED + b"\r\nffffffff\r\n")
        assert (await reader.readline()).startswith(b"HTTP/1.1 413 ")
    writer.close()


async def test_chunked_requests_on_one_connection_are_all_answered(doors: Doors) -> None:
    image = png("blue")
    one = CHUNKED + b"\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(image), image)
    last = one.replace(b"Host: x", b"Host: x\r\nConnection: close")
    answers = await doors.raw(one * 3 + b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" + one + last)
    assert answers.count(b"HTTP/1.1 200 ") == 6


async def test_a_body_that_breaks_off_its_chunks_after_the_refusal_leaves_no_traceback(
    doors: Doors, caplog: pytest.LogCaptureFixture
) -> None:
    for path in (b"/nope", b"/classify?model=float&top=0"):
        reader, writer = await asyncio.open_connection("127.0.0.1", doors.port)
        writer.write(b"POST " + path + b" HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhe")
        async with asyncio.timeout(10):
            assert (await reader.readline()).startswith(b"HTTP/1.1 40")
            writer.write(b"lloXX\r\nzz\r\n")
            await reader.read()
        writer.close()
    assert caplog.records == []


def test_the_memory_for_large_bodies_is_bounded_and_given_back_and_small_ones_always_fit() -> None:
    shelf = Shelf(1000)
    with shelf.place() as first:
        first(SMALL + 600)
        with shelf.place() as second:
            second(SMALL + 400)
            with pytest.raises(Overloaded):
                second(SMALL + 401)
        with shelf.place() as third:
            third(SMALL)
            third(SMALL + 400)
    assert repr(shelf) == "<Shelf: 0 of 1000 bytes taken>"


async def test_bodies_held_back_by_many_clients_fill_the_memory_no_further_and_shut_small_ones_not_out(
    catalogue: Catalogue,
) -> None:
    small, large = png("red"), png("red") + bytes(2 * SMALL)
    head = b"POST /classify?model=float HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(large)
    async with open_doors(catalogue, max_body=len(large)) as doors, asyncio.timeout(30):
        writers = []
        for _ in range(BODIES * len(large) // (len(large) - SMALL) + 1):
            _, writer = await asyncio.open_connection("127.0.0.1", doors.port)
            writer.write(head + large[:-1])
            await writer.drain()
            writers.append(writer)
        while (await doors.ask("/classify?model=float", large)).status != 503:  # noqa: ASYNC110
            await asyncio.sleep(0)
        assert (await doors.ask("/classify?model=float", small)).status == 200
        for writer in writers:
            writer.close()
        while (await doors.ask("/classify?model=float", large)).status != 200:  # noqa: ASYNC110
            await asyncio.sleep(0)


async def test_a_client_that_never_says_a_word_is_let_go(catalogue: Catalogue) -> None:
    async with open_doors(catalogue, Deadlines(silent=0.1, every=0.02)) as doors:
        reader, writer = await asyncio.open_connection("127.0.0.1", doors.port)
        async with asyncio.timeout(10):
            with contextlib.suppress(ConnectionResetError):
                assert await reader.read() == b""
        writer.close()


@pytest.mark.parametrize(
    "head",
    [b"Transfer-Encoding: gzip, chunked\r\n", b"Transfer-Encoding: chunked, chunked\r\n"],
)
async def test_a_coding_under_the_chunks_is_refused_and_the_connection_closed(doors: Doors, head: bytes) -> None:
    answer = await doors.raw(b"POST /classify?model=float HTTP/1.1\r\nHost: x\r\n" + head + b"\r\n1\r\nx\r\n0\r\n\r\n")
    assert b" 400 " in answer.splitlines()[0]
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["code"] == "bad_request"


async def test_a_second_content_encoding_hides_nothing(doors: Doors) -> None:
    head = b"POST /classify?model=float HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 1\r\n"
    twice = b"Content-Encoding: identity\r\nContent-Encoding: gzip\r\n\r\nx"
    assert (await doors.raw(head + twice)).startswith(b"HTTP/1.1 415 ")


class Ear(asyncio.Transport):
    """A transport that keeps what is written to it."""

    def __init__(self) -> None:
        super().__init__()
        self.heard = b""

    def write(self, data: Any) -> None:
        self.heard += bytes(data)

    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def close(self) -> None:
        pass


async def test_a_long_body_that_comes_in_at_once_is_read_to_its_end() -> None:
    async def tell(request: web.BaseRequest) -> web.Response:
        return web.Response(body=b"%d bytes" % len(await request.read()))

    connection, ear = Server(tell)(), Ear()
    connection.connection_made(ear)
    connection.data_received(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n" + bytes(1_000_000))
    async with asyncio.timeout(10):
        while b"1000000 bytes" not in ear.heard:  # noqa: ASYNC110  # plain state, which sets no event
            await asyncio.sleep(0)
    connection.connection_lost(None)

"""How connections end: with the proxy, with a body that nobody wants, with an answer that is taken slowly."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from types import SimpleNamespace
from typing import Any

import pytest

from proxy import relay
from proxy.downstream import LINGER, SWALLOW, ClientConnection
from tests.proxy.harness import (
    DEADLINE,
    RunningProxy,
    ScriptedWorker,
    Seen,
    cluster,
    get,
    response,
    until,
)


@asynccontextmanager
async def mortal(*workers: ScriptedWorker, **changes: object) -> AsyncIterator[tuple[RunningProxy, Callable[[], None]]]:
    """A proxy, and what asks it to end."""
    life, ends = AsyncExitStack(), list[asyncio.Task[None]]()
    proxy = await life.enter_async_context(cluster(*workers, **changes))
    try:
        yield proxy, lambda: ends.append(asyncio.create_task(life.aclose()))
    finally:
        await (ends[0] if ends else life.aclose())


async def takes_nobody_more(proxy: RunningProxy) -> None:
    async with asyncio.timeout(DEADLINE):
        with suppress(ConnectionError):
            while True:
                (await proxy.connect()).close()
                await asyncio.sleep(0.01)


async def test_of_a_proxy_that_ends_a_request_whose_head_is_half_there_is_still_served(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(relay, "LAST_WORD", 0.0)
    async with mortal(ScriptedWorker(name="ann")) as (proxy, end), proxy.client() as idle, proxy.client() as client:
        raw = get()
        client.writer.write(raw[:-10])
        assert (await idle.ask(get())).status == 200
        end()
        await idle.closed()
        client.writer.write(raw[-10:])
        got = await client.answer_to(b"GET")
        assert (got.body, got.values(b"connection")) == (b"ann", [b"close"])
        await client.closed()


async def test_of_a_proxy_that_ends_a_request_that_was_on_its_way_is_still_served(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(relay, "LAST_WORD", DEADLINE)
    async with mortal(ScriptedWorker(name="ann"), drain_timeout=DEADLINE) as (proxy, end), proxy.client() as client:
        assert (await client.ask(get())).values(b"connection") == []
        end()
        await takes_nobody_more(proxy)
        got = await client.ask(get())
        assert (got.body, got.values(b"connection")) == (b"ann", [b"close"])
        await client.closed()


async def test_of_a_proxy_that_ends_all_requests_that_came_before_the_last_answer_are_served() -> None:
    go_on = asyncio.Event()

    async def waits(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await go_on.wait()
        writer.write(response(seen.line))

    worker = ScriptedWorker(waits)
    async with mortal(worker) as (proxy, end), proxy.client() as client:
        client.writer.write(get(b"/first") + get(b"/second"))
        await until(lambda: bool(worker.seen))
        end()
        await takes_nobody_more(proxy)
        go_on.set()
        first, second = await client.answer_to(b"GET"), await client.answer_to(b"GET")
        assert (first.body, first.values(b"connection")) == (b"GET /first HTTP/1.1", [])
        assert (second.body, second.values(b"connection")) == (b"GET /second HTTP/1.1", [b"close"])
        await client.closed()


# Bodies that nobody wants


@pytest.mark.parametrize("target", [b"/classify", b"/healthz"])
@pytest.mark.parametrize(
    ("size", "headers"), [(SWALLOW + 1, b""), (4, b"Expect: 100-continue\r\n")], ids=["large", "not invited"]
)
async def test_an_unwanted_body_that_is_large_or_may_never_come_ends_the_connection(
    target: bytes, size: int, headers: bytes
) -> None:
    async with cluster() as proxy, proxy.client() as client:
        head = b"Host: test\r\nContent-Length: %d\r\n%b\r\n" % (size, headers)
        got = await client.ask(b"POST %b HTTP/1.1\r\n" % target + head)
        assert got.values(b"connection") == [b"close"]
        await client.closed()


# Answers that are taken slowly


class Taken:
    """A transport whose other side takes what is written when the test says so."""

    def __init__(self, unsent: int) -> None:
        self.unsent = unsent
        self.aborted = False

    def set_write_buffer_limits(self, high: int) -> None: ...

    def get_extra_info(self, name: str) -> None: ...

    def close(self) -> None: ...

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def abort(self) -> None:
        self.aborted = True


@pytest.mark.parametrize(("unsent", "patience"), [(0, LINGER), (1, 30.0)])
def test_who_takes_the_last_answer_slowly_has_the_time_of_any_other_answer(unsent: int, patience: float) -> None:
    settings = SimpleNamespace(write_timeout=30.0)
    commons: Any = SimpleNamespace(connections=0, settings=settings, loop=SimpleNamespace(time=lambda: 100.0))
    transport: Any = Taken(unsent)
    connection = ClientConnection(commons, lambda _: None, lambda _: None)
    connection.connection_made(transport)
    connection.close_if_idle()
    connection.check(100.0 + patience - 0.1)
    assert not transport.aborted
    connection.check(100.0 + patience + 0.1)
    assert transport.aborted

"""Which idle connection is taken, over pipes instead of sockets."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from discovery.names import Names
from muster.framing import Buffer
from proxy.pool import Pool
from proxy.upstream import UpstreamConnection


class Server(asyncio.Protocol):
    """Answers whatever it gets."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")


class Caller:
    """Gives its connection back when it is answered."""

    def __init__(self, connection: UpstreamConnection) -> None:
        self.connection = connection

    def on_response(self, head: Any, data: Buffer) -> None:
        assert head.status == 200

    def on_end(self) -> None:
        self.connection.give_back(reusable=True)


@pytest.fixture
async def pool() -> Pool:
    return Pool(asyncio.get_running_loop(), Names(), connect_timeout=1.0, idle_timeout=60.0, max_head=1000)


async def idle(pool: Pool, count: int) -> list[UpstreamConnection]:
    """So many connections to the same worker that have served, the one that is to be taken first at the end."""
    connections = [pool.connect_inside("ann", Server) for _ in range(count)]
    for connection in connections:
        caller: Any = Caller(connection)
        connection.begin(caller, b"GET", websocket=False)
        connection.transport.write(b"GET / HTTP/1.1\r\n\r\n")
    while not all(connection.reused for connection in connections):  # noqa: ASYNC110  # some rounds of the loop
        await asyncio.sleep(0)
    return connections


async def test_the_one_that_was_used_last_is_taken_first(pool: Pool) -> None:
    first, second = await idle(pool, 2)
    assert [pool.take("ann") for _ in range(3)] == [second, first, None]
    assert pool.take("bob") is None


async def test_one_that_is_too_old_for_a_request_stays_for_others(pool: Pool) -> None:
    (connection,) = await idle(pool, 1)
    await asyncio.sleep(0.002)
    assert pool.take("ann", 0.001) is None
    assert pool.take("ann", 60.0) is connection


async def test_one_that_is_about_to_close_is_not_taken(pool: Pool) -> None:
    first, second = await idle(pool, 2)
    second.transport.close()
    assert pool.take("ann") is first


async def test_one_that_has_closed_is_kept_no_longer(pool: Pool) -> None:
    first, second = await idle(pool, 2)
    first.transport.close()
    for _ in range(3):
        await asyncio.sleep(0)
    assert pool._idle == {"ann": [second]}

"""A fixed list of workers, probed over real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import orjson
import pytest
from aiohttp import web

from discovery.static import Probing, StaticRegistry, static_registry
from discovery.worker_json import to_json
from muster.values import Worker
from tests.consul_agent import free_ports
from tests.discovery.harness import eventually, serving_http, watching

BRISK = Probing(every=0.05, timeout=1)


class Server:
    """Answers every request as it is told at the moment."""

    def __init__(self) -> None:
        self.status = 200
        self.body = b""
        self.hangs = False
        self.paths: list[str] = []
        self.port = 0

    async def answer(self, request: web.BaseRequest) -> web.Response:
        self.paths.append(request.path)
        if self.hangs:
            await asyncio.Event().wait()
        return web.Response(status=self.status, body=self.body, headers={"Location": "http://127.0.0.1:1/"})

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    one = Server()
    async with serving_http(one.answer) as one.port:
        yield one


@asynccontextmanager
async def listing(*ports: int) -> AsyncIterator[StaticRegistry]:
    places: Sequence[tuple[str, int]] = [("127.0.0.1", port) for port in ports]
    async with static_registry(places, BRISK) as registry:
        yield registry


@pytest.mark.parametrize("status", [200, 204, 301, 404, 429])
async def test_any_answer_but_a_server_error_is_fit_to_serve(server: Server, status: int) -> None:
    server.status = status
    async with listing(server.port) as registry, watching(registry) as eyes:
        await eyes.see(server.address)
    assert set(server.paths) == {"/readyz"}


async def test_a_worker_that_drains_is_gone_and_one_that_is_back_is_back(server: Server) -> None:
    async with listing(server.port) as registry, watching(registry) as eyes:
        await eyes.see(server.address)
        server.status = 503
        await eyes.see()
        server.status = 200
        await eyes.see(server.address)
        assert len(eyes.snapshots) == 3


async def test_an_address_where_nobody_answers_is_not_in_the_snapshot(server: Server) -> None:
    async with listing(server.port, *free_ports(1)) as registry, watching(registry) as eyes:
        await eyes.see(server.address)


async def test_a_worker_that_hangs_is_gone_and_does_not_hold_the_others_up(server: Server) -> None:
    other = Server()
    async with (
        serving_http(other.answer) as other.port,
        listing(server.port, other.port) as registry,
        watching(registry) as eyes,
    ):
        await eyes.see(server.address, other.address)
        server.hangs = True
        await eyes.see(other.address)


async def test_a_worker_of_ours_tells_everything_but_where_it_is(server: Server) -> None:
    told = Worker(
        id="worker-ann", host="10.9.9.9", port=9, models=("digits",), replay_safe=True, capacity=8, version="1"
    )
    server.body = orjson.dumps({"status": "ready", "worker": to_json(told)})
    async with listing(server.port) as registry, watching(registry) as eyes:
        (worker,) = await eyes.see("worker-ann")
    assert (worker.host, worker.port) == ("127.0.0.1", server.port)
    assert (worker.models, worker.replay_safe, worker.capacity) == (("digits",), True, 8)


@pytest.mark.parametrize(
    "body",
    [b"ok", b"[]", b"{}", b'{"worker": 5}', b'{"worker": {"id": "a b"}}', b'{"worker": {"models": 3}}', b" " * 600_000],
    ids=lambda body: repr(body)[:30],
)
async def test_what_does_not_say_properly_who_it_is_is_known_by_its_address(server: Server, body: bytes) -> None:
    server.body = body
    async with listing(server.port) as registry, watching(registry) as eyes:
        await eyes.see(server.address)


async def test_two_addresses_of_one_worker_stay_two_places(server: Server) -> None:
    server.body = orjson.dumps({"worker": to_json(Worker(id="ann", host="h", port=1))})
    other = Server()
    other.body = server.body
    async with (
        serving_http(other.answer) as other.port,
        listing(server.port, other.port) as registry,
        watching(registry) as eyes,
    ):
        workers = await eyes.until(lambda workers: len(workers) == 2)
    assert {worker.port for worker in workers} == {server.port, other.port}
    assert len({worker.id for worker in workers}) == 2


async def test_contact_is_as_old_as_the_last_round_of_questions(server: Server) -> None:
    async with listing(server.port) as registry:
        assert registry.contact_age is None
        async with watching(registry) as eyes:
            await eyes.see(server.address)
            asked = len(server.paths)

            async def asked_again() -> bool:
                return len(server.paths) > asked + 1

            await eventually(asked_again)
            assert registry.contact_age is not None
            assert registry.contact_age < 1
        assert len(eyes.snapshots) == 1


@pytest.mark.parametrize(("ports", "lines"), [((1,), 1), ((), 0)])
async def test_a_worker_that_nobody_asked_to_announce_is_not_told_that_it_does_not(
    caplog: pytest.LogCaptureFixture, ports: tuple[int, ...], lines: int
) -> None:
    caplog.set_level("INFO")
    async with listing(*ports) as registry, registry.announce(Worker(id="w", host="127.0.0.1", port=1)):
        assert caplog.text.count("announces itself nowhere") == lines

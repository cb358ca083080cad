"""The registries under test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest
from aiohttp import web

from discovery.worker_json import worker_id
from muster.values import Worker
from tests.discovery.harness import ConsulPlace, EmbeddedPlace, Place, new_service, serving_http


@pytest.fixture(params=["consul", "embedded"])
async def place(request: pytest.FixtureRequest) -> AsyncIterator[Place]:
    """A running registry. The Consul agent is shared, so a test uses its own service name and does not stop it."""
    if request.param == "consul":
        yield ConsulPlace(request.getfixturevalue("shared_consul"))
        return
    embedded = EmbeddedPlace()
    await embedded.start()
    yield embedded
    await embedded.stop()


@pytest.fixture(params=["consul", "embedded"])
async def own_place(request: pytest.FixtureRequest) -> AsyncIterator[Place]:
    """A running registry of the test's own, which may stop and start it."""
    if request.param == "consul":
        yield ConsulPlace(request.getfixturevalue("consul_agent"))
        return
    embedded = EmbeddedPlace()
    await embedded.start()
    yield embedded
    await embedded.stop()


@pytest.fixture
def service() -> str:
    """A service name that no other test uses."""
    return new_service()


@pytest.fixture
async def healthy_port() -> AsyncIterator[int]:
    """The port of a server that answers 200 to everything, so that Consul's HTTP check passes."""

    async def fine(_: web.BaseRequest) -> web.Response:
        return web.Response()

    async with serving_http(fine) as port:
        yield port


@pytest.fixture
def worker(healthy_port: int) -> Callable[[str], Worker]:
    """Makes workers that can be told apart by name and are reachable."""

    def make(name: str) -> Worker:
        return Worker(id=worker_id("127.0.0.1", healthy_port, name), host="127.0.0.1", port=healthy_port)

    return make

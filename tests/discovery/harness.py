"""Registries to test against, and eyes to watch them with."""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Protocol

import aiohttp
from aiohttp import web

from discovery.consul_announce import Rhythm
from discovery.consul_registry import ConsulRegistry, consul_registry
from discovery.consul_settings import ConsulSettings
from discovery.embedded import serving
from discovery.registry import Registry
from muster.lifetime import Stop
from muster.values import Snapshot, Worker
from tests.consul_agent import ConsulAgent, free_ports

SOON = 5.0
"""Seconds until a test gives up on what should happen at once: the machine may be busy."""


class Place(Protocol):
    """Somewhere a registry runs; stopped and started again it has forgotten everything."""

    port: int

    async def start(self) -> None: ...
    async def stop(self) -> None: ...


class ConsulPlace:
    def __init__(self, agent: ConsulAgent) -> None:
        self.agent = agent
        self.port = agent.port

    async def start(self) -> None:
        await asyncio.to_thread(self.agent.start)

    async def stop(self) -> None:
        await asyncio.to_thread(self.agent.stop)


class EmbeddedPlace:
    def __init__(self) -> None:
        (self.port,) = free_ports(1)
        self._life = AsyncExitStack()

    async def start(self) -> None:
        await self._life.enter_async_context(serving("127.0.0.1", self.port, Stop()))

    async def stop(self) -> None:
        await self._life.aclose()


async def ask(place: Place, method: str, path: str, body: object = None) -> Any:
    """Talk to the registry behind everybody's back. The parsed JSON of its answer, None for an empty one."""
    async with (
        aiohttp.ClientSession(raise_for_status=True) as session,
        session.request(method, f"http://127.0.0.1:{place.port}{path}", json=body) as answer,
    ):
        return await answer.json(content_type=None) if await answer.read() else None


async def records_of(place: Place, service: str) -> list[Any]:
    """The records of the service, healthy or not."""
    return list(await ask(place, "GET", f"/v1/health/service/{service}"))


def new_service() -> str:
    return f"test-{uuid.uuid4().hex[:12]}"


@asynccontextmanager
async def registry_at(place: Place, service: str, rhythm: Rhythm | None = None) -> AsyncIterator[ConsulRegistry]:
    stop = Stop()
    settings = ConsulSettings(port=place.port)
    async with consul_registry(settings, service, stop, rhythm or Rhythm()) as registry:
        yield registry
    assert not stop.requested, "what keeps a worker listed died"


class Eyes:
    """A watcher that remembers every snapshot it saw."""

    def __init__(self) -> None:
        self.snapshots: list[Snapshot] = []
        self._news = asyncio.Condition()

    async def look(self, registry: Registry) -> None:
        async for snapshot in registry.watch():
            async with self._news:
                self.snapshots.append(snapshot)
                self._news.notify_all()

    async def until(self, wanted: Callable[[tuple[Worker, ...]], bool], within: float = SOON) -> tuple[Worker, ...]:
        """The workers of the latest snapshot as soon as `wanted` is true of them."""
        async with self._news:
            try:
                async with asyncio.timeout(within):
                    await self._news.wait_for(lambda: bool(self.snapshots) and wanted(self.snapshots[-1].workers))
            except TimeoutError:
                raise AssertionError(f"not seen within {within} s; seen: {self.snapshots}") from None
            return self.snapshots[-1].workers

    async def see(self, *ids: str, within: float = SOON) -> tuple[Worker, ...]:
        """Wait for a snapshot of exactly these workers."""
        return await self.until(lambda workers: [worker.id for worker in workers] == sorted(ids), within)


@asynccontextmanager
async def watching(registry: Registry) -> AsyncIterator[Eyes]:
    eyes = Eyes()
    task = asyncio.create_task(eyes.look(registry))
    try:
        yield eyes
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def eventually(check: Callable[[], Awaitable[bool]], within: float = SOON) -> None:
    """Return when `check` is true; fail after `within` seconds."""
    deadline = time.monotonic() + within
    while not await check():
        assert time.monotonic() < deadline, f"still not so after {within} s"
        await asyncio.sleep(0.02)


@asynccontextmanager
async def serving_http(handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]) -> AsyncIterator[int]:
    """A real HTTP server whose every request `handler` answers; the value is its port on 127.0.0.1."""
    runner = web.ServerRunner(web.Server(handler), shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()

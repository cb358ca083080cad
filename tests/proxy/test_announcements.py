"""The proxy follows what a registry says while requests run."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from discovery.addresses import open_registry
from discovery.embedded import serving
from discovery.registry import Registry
from muster.lifetime import Stop
from tests.consul_agent import free_ports
from tests.proxy.harness import Client, RunningProxy, ScriptedWorker, cluster, get, until


@pytest.fixture
async def registry() -> AsyncIterator[tuple[str, Registry]]:
    (port,) = free_ports(1)
    address, stop = f"embedded://127.0.0.1:{port}", Stop()
    async with serving("127.0.0.1", port, stop), open_registry(address, os.environ, stop) as opened:
        yield address, opened


@asynccontextmanager
async def announced(registry: Registry, *workers: ScriptedWorker) -> AsyncIterator[None]:
    async with AsyncExitStack() as life:
        for worker in workers:
            await worker.start()
            life.push_async_callback(worker.stop)
            await life.enter_async_context(registry.announce(worker.worker))
        yield


async def listed(proxy: RunningProxy) -> set[str]:
    workers = (await proxy.ask(get(b"/workers"))).json["workers"]
    assert isinstance(workers, list)
    return {worker["id"] for worker in workers}


async def until_listed(proxy: RunningProxy, *names: str) -> None:
    async with asyncio.timeout(10):
        while await listed(proxy) != set(names):  # noqa: ASYNC110  # what it waits for has no event
            await asyncio.sleep(0.005)


async def test_three_workers_get_the_same_while_a_fourth_comes_and_goes(registry: tuple[str, Registry]) -> None:
    address, opened = registry
    ann, bob, cat, dan = (ScriptedWorker(name=name) for name in ("ann", "bob", "cat", "dan"))
    served: Counter[bytes] = Counter()

    async def ask(client: Client) -> None:
        for _ in range(300):
            served[(await client.ask(get())).body] += 1

    async def come_and_go() -> None:
        while True:
            async with announced(opened, dan):
                await asyncio.sleep(0.1)
            await asyncio.sleep(0.1)

    async with announced(opened, ann, bob, cat), cluster(registry=address) as proxy:
        await until_listed(proxy, "ann", "bob", "cat")
        flapping = asyncio.create_task(come_and_go())
        clients = [await proxy.connect() for _ in range(10)]
        await asyncio.gather(*map(ask, clients))
        flapping.cancel()
        for client in clients:
            client.close()
    assert served.total() == 3000
    assert served[b"dan"] > 0
    equals = [served[name] for name in (b"ann", b"bob", b"cat")]
    assert max(equals) - min(equals) <= max(equals) * 0.005


async def test_a_worker_that_withdraws_gets_nothing_new_and_its_address_is_not_handed_out(
    registry: tuple[str, Registry],
) -> None:
    address, opened = registry
    ann, bob = ScriptedWorker(name="ann"), ScriptedWorker(name="bob")
    async with announced(opened, ann), cluster(registry=address) as proxy, AsyncExitStack() as life:
        await bob.start()
        life.push_async_callback(bob.stop)
        listing = await life.enter_async_context(opened.announce(bob.worker))
        await until_listed(proxy, "ann", "bob")
        await listing.withdraw("enough")
        await until_listed(proxy, "ann")
        seen = len(bob.seen)
        for _ in range(10):
            assert (await proxy.ask(get())).body == b"ann"
            assert (await proxy.ask(get(b"/"))).body.decode() == f"127.0.0.1:{ann.port}\n"
        assert len(bob.seen) == seen


async def test_the_first_worker_of_an_empty_cluster_is_used(registry: tuple[str, Registry]) -> None:
    address, opened = registry
    ann = ScriptedWorker(name="ann")
    async with cluster(registry=address) as proxy:
        assert (await proxy.ask(get())).status == 503
        async with announced(opened, ann):
            await until_listed(proxy, "ann")
            assert (await proxy.ask(get())).body == b"ann"
            await until(lambda: bool(ann.seen))

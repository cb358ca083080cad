"""Many connections: how many there may be, who has to go, and that the others do not notice."""

from __future__ import annotations

import asyncio
import resource
import time
from contextlib import AsyncExitStack

import pytest

from proxy import relay
from proxy.open_files import OTHERS, within_open_files
from proxy.settings import ProxySettings
from tests.proxy.harness import RunningProxy, ScriptedWorker, cluster, get, post, until


async def test_one_connection_too_many_of_a_peer_is_told_so_and_closed() -> None:
    async with cluster(ScriptedWorker(), max_connections_per_peer=3) as proxy, AsyncExitStack() as life:
        clients = [await life.enter_async_context(proxy.client()) for _ in range(3)]
        for client in clients:
            assert (await client.ask(get())).status == 200
        async with proxy.client() as one_more:
            got = await one_more.answer_to(b"GET")
            assert (got.status, got.values(b"retry-after")) == (503, [b"1"])
            await one_more.closed()
        metrics = (await clients[0].ask(get(b"/metrics"))).body.decode()
        assert 'muster_proxy_connections_refused_total{limit="peer"} 1.0' in metrics
        clients[2].close()
        await until_served(proxy)


async def until_served(proxy: RunningProxy) -> None:
    """Wait until a new connection is served."""
    async with asyncio.timeout(10):
        while True:
            try:
                if (await proxy.ask(get())).status == 200:
                    return
            except ConnectionError:
                pass
            await asyncio.sleep(0.02)


async def test_idle_connections_make_room_for_new_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "LAST_WORD", 0.0)
    monkeypatch.setattr(relay, "MAKE_ROOM", 0.0)
    async with cluster(ScriptedWorker(), max_connections=5) as proxy, AsyncExitStack() as life:
        idle = [await life.enter_async_context(proxy.client()) for _ in range(5)]
        for client in idle:
            assert (await client.ask(get())).status == 200
        async with proxy.client() as newcomer:
            assert (await newcomer.ask(get())).status == 200
            await idle[0].closed()  # idle longest
            assert (await idle[1].ask(get())).status == 200
            assert b"muster_proxy_connections_evicted_total 1.0" in (await newcomer.ask(get(b"/metrics"))).body


async def test_connections_in_use_are_not_closed_for_others() -> None:
    begun = asyncio.Event()
    worker = ScriptedWorker(lambda *_: begun.wait())  # type: ignore[arg-type,return-value]
    async with cluster(worker, max_connections=3) as proxy, AsyncExitStack() as life:
        clients = [await life.enter_async_context(proxy.client()) for _ in range(3)]
        for client in clients:
            client.writer.write(post(b"picture"))
        await until(lambda: len(worker.seen) == 3)
        async with proxy.client() as one_more:
            assert (await one_more.answer_to(b"GET")).status == 503


async def test_a_flood_of_connections_is_cut_off_and_leaves_the_others_alone() -> None:
    async with cluster(ScriptedWorker(), max_connections_per_peer=20) as proxy, AsyncExitStack() as life:
        client = await life.enter_async_context(proxy.client())
        assert (await client.ask(get())).status == 200
        flood = [await life.enter_async_context(proxy.client()) for _ in range(300)]
        began = time.monotonic()
        assert (await client.ask(get())).status == 200
        assert time.monotonic() - began < 1
        for one in flood:
            one.close()
        await until_served(proxy)


async def test_five_hundred_idle_connections_leave_a_normal_request_quick() -> None:
    async with cluster(ScriptedWorker()) as proxy, AsyncExitStack() as life:
        for number in range(500):
            client = await life.enter_async_context(proxy.client())
            if number % 2:
                client.writer.write(b"GET /slow HTTP/1.1\r\nHost: ")
        began = time.monotonic()
        assert (await proxy.ask(get())).status == 200
        assert time.monotonic() - began < 1


@pytest.mark.parametrize(
    ("soft", "hard", "raised", "connections"),
    [
        (1024, 100_000, 3 * 1000 + OTHERS, 1000),
        (1024, 1024, None, (1024 - OTHERS) // 3),
        (1024, resource.RLIM_INFINITY, 3 * 1000 + OTHERS, 1000),
        (50_000, 100_000, None, 1000),
    ],
)
def test_as_many_clients_are_taken_as_there_may_be_open_files(
    monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, raised: int | None, connections: int
) -> None:
    set_to: list[int] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: set_to.append(limits[0]))
    settings = within_open_files(ProxySettings(max_connections=1000))
    assert (settings.max_connections, set_to) == (connections, [] if raised is None else [raised])


@pytest.mark.parametrize(
    ("allowed", "wanted", "processes", "level"),
    [(20_000, 8192, 1, "INFO"), (8000, 2730, 3, "INFO"), (20_000, 8000, 1, "WARNING"), (2000, 8192, 1, "WARNING")],
    ids=["nobody asked for so many", "nor for a third of them", "somebody did", "they are really few"],
)
def test_who_can_have_fewer_connections_than_asked_for_is_warned(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    allowed: int,
    wanted: int,
    processes: int,
    level: str,
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr(resource, "getrlimit", lambda _: (allowed, allowed))
    within_open_files(ProxySettings(max_connections=wanted, processes=processes))
    (record,) = caplog.records
    assert (record.levelname, f"{allowed} open files" in record.getMessage()) == (level, True)

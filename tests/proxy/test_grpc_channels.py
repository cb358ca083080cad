"""The connections to workers: which address they go to, and when they are given up."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator

import pytest

from muster.errors import WorkerUnreachable
from proxy.grpc_channels import Channels
from tests.proxy.grpc_harness import PREDICT, GrpcWorker


@pytest.fixture
async def channels() -> AsyncIterator[Channels]:
    channels = Channels(connect_timeout=5.0)
    yield channels
    await channels.close()


async def ask(channels: Channels, worker: GrpcWorker) -> bytes:
    link = await channels.to(worker.worker)
    with link.used():
        answer: bytes = await link.unary(PREDICT)(b"")
    return answer


async def test_one_connection_serves_all_calls_to_a_worker(channels: Channels) -> None:
    worker = GrpcWorker()
    await worker.start_grpc()
    links = {await channels.to(worker.worker) for _ in range(3)}
    assert len(links) == 1
    assert await ask(channels, worker) == worker.id.encode()
    await worker.stop_grpc()


async def test_a_worker_that_says_another_port_is_asked_there(channels: Channels) -> None:
    worker, moved = GrpcWorker(), GrpcWorker()
    await worker.start_grpc()
    await moved.start_grpc()
    assert await ask(channels, worker) == worker.id.encode()
    worker.worker = dataclasses.replace(worker.worker, grpc_port=moved.grpc_port)
    assert await ask(channels, worker) == moved.id.encode()
    await worker.stop_grpc()
    await moved.stop_grpc()


@pytest.mark.parametrize("host", ["unix", "no-such-host.invalid"])
async def test_a_name_that_is_no_host_is_no_worker(channels: Channels, host: str) -> None:
    worker = dataclasses.replace(GrpcWorker().worker, host=host)
    with pytest.raises(WorkerUnreachable, match=host):
        await channels.to(worker)


async def test_a_worker_without_grpc_has_no_connection(channels: Channels) -> None:
    with pytest.raises(WorkerUnreachable, match="does not speak gRPC"):
        await channels.to(GrpcWorker(grpc=False).worker)


async def test_who_waits_for_a_worker_that_leaves_hears_of_it_at_once(channels: Channels) -> None:
    worker = GrpcWorker()
    mute = await asyncio.start_server(_never, "127.0.0.1", worker.grpc_port)
    async with mute:
        waiting = asyncio.create_task(channels.to(worker.worker))
        await asyncio.sleep(0)
        channels.forget(worker.worker.id)
        with pytest.raises(WorkerUnreachable, match="has left"):
            await waiting


async def test_a_connection_whose_worker_leaves_as_it_comes_about_is_not_used(channels: Channels) -> None:
    worker = GrpcWorker()
    await worker.start_grpc()
    waiting = asyncio.create_task(channels.to(worker.worker))
    await asyncio.sleep(0)
    (link,) = channels._links.values()
    assert link._connecting is not None
    link._connecting.add_done_callback(lambda _: channels.forget(worker.worker.id))
    with pytest.raises(WorkerUnreachable, match="has left"):
        await waiting
    await worker.stop_grpc()


async def _never(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


async def test_a_connection_that_is_used_outlives_its_worker_and_no_longer(channels: Channels) -> None:
    worker = GrpcWorker()
    await worker.start_grpc()
    link = await channels.to(worker.worker)
    with link.used():
        channels.forget(worker.worker.id)
        assert await link.unary(PREDICT)(b"") == worker.id.encode()
    async with asyncio.timeout(5):
        while link.open:  # noqa: ASYNC110  # plain state
            await asyncio.sleep(0)
    assert await channels.to(worker.worker) is not link
    await worker.stop_grpc()

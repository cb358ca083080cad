"""What a worker had in its hands when it died or said no is done by others: all of it, once, and within bounds."""

from __future__ import annotations

import asyncio
import dataclasses
import socket
from collections import Counter
from typing import Any

import pytest

from proxy.budget import RESERVE
from tests.proxy.grpc_harness import Code, GrpcWorker, Heard, grpc_cluster, predict
from tests.proxy.harness import Answer, ScriptedWorker, Seen, cluster, get, post, read_body, response, until

HELD = 3 * RESERVE
"""More than the retry budget keeps in reserve."""


class Slow:
    """A worker's answers: they take until the gate opens, and it is known how many stand before it."""

    def __init__(self, name: bytes) -> None:
        self.gate = asyncio.Event()
        self.inside = 0
        self._name = name

    async def __call__(self, seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_body(seen, reader)
        self.inside += 1
        try:
            await self.gate.wait()
        finally:
            self.inside -= 1
        writer.write(response(self._name))


def favoured(worker: ScriptedWorker) -> ScriptedWorker:
    """It gets nearly all that comes."""
    worker.worker = dataclasses.replace(worker.worker, weight=HELD)
    return worker


@pytest.mark.parametrize("kept", [False, True], ids=["fresh connections", "kept connections"])
async def test_all_that_a_worker_held_when_it_was_killed_is_done_by_the_others(kept: bool) -> None:
    slow = Slow(b"ann")
    ann, bob, cat = favoured(ScriptedWorker(slow)), ScriptedWorker(name="bob"), ScriptedWorker(name="cat")
    async with cluster(ann, bob, cat) as proxy:
        clients = [await proxy.connect() for _ in range(HELD + 2)]
        for again in range(1 + kept):
            asking = [asyncio.create_task(client.ask(post(b"picture"))) for client in clients]
            await until(lambda: slow.inside == HELD)
            if again < kept:
                slow.gate.set()
                await asyncio.gather(*asking)
                slow.gate.clear()
        await ann.stop()
        answers = await asyncio.gather(*asking)
        for client in clients:
            client.close()
        metrics = (await proxy.ask(get(b"/metrics"))).body.decode()
    assert Counter(got.status for got in answers) == {200: HELD + 2}
    assert "muster_proxy_retries_refused_total 0.0" in metrics


async def test_all_that_a_worker_held_when_it_was_found_to_hang_is_done_by_the_others() -> None:
    ann, bob, cat = favoured(ScriptedWorker()), ScriptedWorker(name="bob"), ScriptedWorker(name="cat")
    async with cluster(ann, bob, cat) as proxy:
        await ann.stop()
        with socket.create_server(("127.0.0.1", ann.port), backlog=1024):  # it takes all, and answers nothing
            answers = await asyncio.gather(*(proxy.ask(post(b"picture")) for _ in range(HELD + 2)))
        metrics = (await proxy.ask(get(b"/metrics"))).body.decode()
    assert Counter(got.status for got in answers) == {200: HELD + 2}
    assert f'muster_proxy_failed_attempts_total{{reason="hung"}} {HELD}.0' in metrics


async def test_all_calls_that_a_worker_held_when_it_was_killed_are_done_by_the_others() -> None:
    held: list[Any] = []

    async def hold(heard: Heard) -> bytes:
        held.append(heard)
        await asyncio.Event().wait()
        raise AssertionError

    ann, bob = GrpcWorker(hold), GrpcWorker()
    ann.worker = dataclasses.replace(ann.worker, weight=2 * RESERVE)
    async with grpc_cluster(ann, bob) as client:
        asking = [asyncio.create_task(client.ask(predict())) for _ in range(2 * RESERVE + 1)]
        await until(lambda: len(held) == 2 * RESERVE)
        await ann.stop_grpc()
        codes = Counter([(await one).code for one in asking])
    assert codes == {Code.OK: 2 * RESERVE + 1}


async def test_a_request_that_kills_workers_kills_two_also_over_kept_connections() -> None:
    def mortal(worker: ScriptedWorker) -> Answer:
        async def answer(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_body(seen, reader)
            if seen.body == b"poison":
                stopping.append(asyncio.create_task(worker.stop()))
            else:
                writer.write(response(b"well"))

        return answer

    stopping: list[asyncio.Task[None]] = []
    workers = [ScriptedWorker() for _ in range(4)]
    for worker in workers:
        worker.answer = mortal(worker)
    async with cluster(*workers) as proxy, proxy.client() as client:
        for _ in workers:
            assert (await client.ask(post(b"picture"))).status == 200
        assert (await client.ask(post(b"poison"))).status == 502
        await asyncio.gather(*stopping)
        assert (await client.ask(post(b"picture"))).status == 200
    assert len(stopping) == 2


def declines(name: bytes) -> Answer:
    """It has no room."""

    async def answer(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_body(seen, reader)
        writer.write(response(name, b"503 Service Unavailable", b"Retry-After: 1\r\n"))

    return answer


async def test_one_of_many_that_does_not_decline_is_found() -> None:
    busy = [ScriptedWorker(declines(b"no"), name=f"busy-{number}") for number in range(5)]
    async with cluster(*busy, ScriptedWorker(name="free")) as proxy:
        answers = [(await proxy.ask(post(b"picture"))).body for _ in range(20)]
    assert set(answers) == {b"free"}
    assert all(worker.seen for worker in busy)


async def test_one_of_many_that_does_not_decline_is_found_for_a_call() -> None:
    async def busy(heard: Heard) -> bytes:
        await heard.context.abort(Code.UNAVAILABLE, "the queue is full")
        raise AssertionError

    workers = [*(GrpcWorker(busy) for _ in range(4)), GrpcWorker()]
    async with grpc_cluster(*workers) as client:
        assert {(await client.ask(predict())).code for _ in range(10)} == {Code.OK}
    assert all(worker.calls for worker in workers)


async def test_that_somebody_declined_it_gives_a_request_no_third_worker_to_fail_at() -> None:
    fails = response(b"oh", b"500 Internal Server Error")

    async def failing(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_body(seen, reader)
        writer.write(fails)

    broken = [ScriptedWorker(failing) for _ in range(4)]
    async with cluster(ScriptedWorker(declines(b"no")), *broken) as proxy:
        got = await proxy.ask(post(b"poison"))
    assert (got.status, got.body) == (500, b"oh")
    assert sum(len(worker.seen) for worker in broken) == 2

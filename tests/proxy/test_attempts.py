"""Where a request goes when workers are full, hang, fail in ways that need a budget, or answer in dribs and drabs."""

from __future__ import annotations

import asyncio
import dataclasses
import socket

import pytest

from proxy.trials import MANY
from tests.proxy.harness import (
    DEADLINE,
    Answer,
    Got,
    RunningProxy,
    ScriptedWorker,
    Seen,
    always,
    cluster,
    get,
    post,
    read_body,
    response,
    until,
)


class Gate:
    """Answers of a worker that come when it is opened."""

    def __init__(self, name: bytes = b"done") -> None:
        self.name = name
        self.opened = asyncio.Event()
        self.waiting = 0
        self.most = 0

    async def __call__(self, seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_body(seen, reader)
        self.waiting += 1
        self.most = max(self.most, self.waiting)
        try:
            await self.opened.wait()
        finally:
            self.waiting -= 1
        writer.write(response(self.name))


def narrow(worker: ScriptedWorker, capacity: int) -> ScriptedWorker:
    """The worker says that it takes so many requests at a time."""
    worker.worker = dataclasses.replace(worker.worker, capacity=capacity)
    return worker


async def seats(proxy: RunningProxy) -> dict[str, dict[str, object]]:
    workers = (await proxy.ask(get(b"/workers"))).json["workers"]
    assert isinstance(workers, list)
    return {worker["id"]: worker for worker in workers}


async def idle(proxy: RunningProxy) -> bool:
    return not any(seat["in_flight"] for seat in (await seats(proxy)).values())


# Waiting for a worker that has room


async def test_requests_wait_while_all_workers_are_full_and_no_worker_gets_more_than_it_takes() -> None:
    gate = Gate()
    worker = narrow(ScriptedWorker(gate), 2)
    async with cluster(worker) as proxy:
        asking = [asyncio.create_task(proxy.ask(post(b"%d" % number))) for number in range(8)]
        await until(lambda: gate.waiting == 2)
        gate.opened.set()
        assert [(await one).body for one in asking] == [b"done"] * 8
        assert gate.most == 2
        assert await idle(proxy)


async def test_who_waits_too_long_is_told_to_come_back_later() -> None:
    gate = Gate()
    worker = narrow(ScriptedWorker(gate), 1)
    async with cluster(worker, queue_timeout=0.1) as proxy:
        first = asyncio.create_task(proxy.ask(post(b"first")))
        await until(lambda: gate.waiting == 1)
        got = await proxy.ask(post(b"second"))
        assert (got.status, got.json["code"], got.values(b"retry-after")) == (503, "overloaded", [b"1"])
        gate.opened.set()
        assert (await first).status == 200
    assert len(worker.seen) == 1


async def test_a_client_that_leaves_while_it_waits_gives_up_its_place() -> None:
    gate = Gate()
    worker = narrow(ScriptedWorker(gate), 1)
    async with cluster(worker, queue=1) as proxy:
        first = asyncio.create_task(proxy.ask(post(b"first")))
        await until(lambda: gate.waiting == 1)
        for _ in range(5):
            leaving = await proxy.connect()
            leaving.writer.write(post(b"leaves"))
            await asyncio.sleep(0.02)
            leaving.close()
            await asyncio.sleep(0.02)
        second = asyncio.create_task(proxy.ask(post(b"second")))
        await asyncio.sleep(0.05)
        gate.opened.set()
        assert [(await first).status, (await second).status] == [200, 200]
        assert await idle(proxy)
    assert [seen.body for seen in worker.seen] == [b"first", b"second"]


async def test_a_body_is_not_invited_before_there_is_a_worker_to_take_it() -> None:
    gate = Gate()
    worker = narrow(ScriptedWorker(gate), 1)
    async with cluster(worker) as proxy, proxy.client() as client:
        first = asyncio.create_task(proxy.ask(post(b"first")))
        await until(lambda: gate.waiting == 1)
        client.writer.write(b"POST /x HTTP/1.1\r\nHost: test\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(client.reader.read(1), 0.2)

        async def invites(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            await read_body(seen, reader)
            writer.write(response(b"got it"))

        worker.answer = invites
        gate.opened.set()
        await first
        assert await client.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.writer.write(b"body")
        assert (await client.answer_to(b"POST")).body == b"got it"


async def test_what_comes_of_a_body_while_it_waits_is_bounded() -> None:
    gate = Gate()
    worker = narrow(ScriptedWorker(gate), 1)
    size = 32 * 2**20
    async with cluster(worker, replay_body=64 * 2**20) as proxy, proxy.client() as client:
        first = asyncio.create_task(proxy.ask(post(b"first")))
        await until(lambda: gate.waiting == 1)
        client.writer.write(b"POST /x HTTP/1.1\r\nHost: test\r\nContent-Length: %d\r\n\r\n" % size + bytes(size))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(client.writer.drain(), 0.3)
        kept = (await proxy.ask(get(b"/metrics"))).body.decode()
        bytes_kept = next(line for line in kept.splitlines() if line.startswith("muster_proxy_replay_bytes "))
        assert float(bytes_kept.split()[1]) < 2 * 2**20
        gate.opened.set()
        assert (await first).status == (await client.answer_to(b"POST")).status == 200
    assert len(worker.seen[-1].body) == size


# The retry budget


def failing(status: bytes) -> Answer:
    return always(response(b"failed", status))


@pytest.mark.parametrize("status", [b"500 Internal Server Error", b"502 Bad Gateway", b"504 Gateway Timeout"])
async def test_what_one_worker_fails_at_another_may_do(status: bytes) -> None:
    ann, bob = ScriptedWorker(failing(status), name="ann"), ScriptedWorker(name="bob")
    body = bytes(range(256)) * 400
    async with cluster(ann, bob) as proxy, proxy.client() as client:
        for _ in range(4):
            assert (await client.ask(post(body))).body == b"bob"
    assert ann.seen
    assert all(seen.body == body for seen in bob.seen)


async def test_what_fails_everywhere_is_seen_by_two_workers_and_heard_in_the_words_of_the_second() -> None:
    workers = [ScriptedWorker(failing(b"500 Internal Server Error")) for _ in range(4)]
    async with cluster(*workers) as proxy:
        got = await proxy.ask(post(b"poison"))
    assert (got.status, got.body) == (500, b"failed")
    assert sum(len(worker.seen) for worker in workers) == 2


@pytest.mark.parametrize("raw", [post(b"charge my card"), get()], ids=["POST", "GET"])
async def test_an_error_of_a_worker_that_promised_nothing_is_an_answer(raw: bytes) -> None:
    workers = [ScriptedWorker(failing(b"500 Internal Server Error"), replay_safe=False) for _ in range(2)]
    async with cluster(*workers) as proxy:
        assert (await proxy.ask(raw)).status == 500
    assert sum(len(worker.seen) for worker in workers) == 1


async def reset(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await read_body(seen, reader)
    writer.transport.abort()


@pytest.mark.parametrize(
    ("answer", "status"), [(failing(b"503 Service Unavailable"), 503), (reset, 502)], ids=["declined", "reset"]
)
async def test_many_failures_do_not_become_twice_as_many_requests(answer: Answer, status: int) -> None:
    """Not even where workers are asked again as soon as they have failed."""
    workers = [ScriptedWorker(answer) for _ in range(3)]
    requests = 1500
    async with cluster(*workers, rest=0.01, rest_longest=0.01) as proxy:
        clients = [await proxy.connect() for _ in range(10)]

        async def ask(number: int) -> list[Got]:
            return [await clients[number].ask(post(b"picture")) for _ in range(requests // 10)]

        answers = [got for some in await asyncio.gather(*map(ask, range(10))) for got in some]
        for client in clients:
            client.close()
    assert {got.status for got in answers} == {status}
    held = 0 if status == 503 else 3 * 10  # at most, by those that seemed to die
    assert requests < sum(len(worker.seen) for worker in workers) <= 1.2 * requests + held


async def test_without_a_budget_only_what_was_never_sent_is_tried_elsewhere() -> None:
    ann, bob, cat = (ScriptedWorker(reset) for _ in range(3))
    async with cluster(ann, bob, cat, retry_budget=0.0) as proxy:
        await ann.stop()
        statuses = [(await proxy.ask(post(b"picture"))).status for _ in range(2)]
    assert statuses == [502, 502]
    assert len(bob.seen) == len(cat.seen) == 1


# Workers that hang


async def test_requests_at_a_worker_that_hangs_move_to_another() -> None:
    """It accepts connections and takes requests, and never answers, not even how it is."""
    ann, bob = ScriptedWorker(name="ann"), ScriptedWorker(name="bob")
    body = bytes(range(256)) * 400
    async with cluster(ann, bob) as proxy:
        await ann.stop()
        with socket.create_server(("127.0.0.1", ann.port), backlog=100):
            asking = [asyncio.create_task(proxy.ask(post(body))) for _ in range(20)]
            async with asyncio.timeout(DEADLINE):
                assert {(await one).body for one in asking} == {b"bob"}
            assert await idle(proxy)
    assert all(seen.body == body for seen in bob.seen)


async def test_what_may_not_run_twice_waits_for_a_worker_that_hangs() -> None:
    ann, bob = (ScriptedWorker(name=name, replay_safe=False) for name in ("ann", "bob"))
    async with cluster(ann, bob, response_timeout=2.0) as proxy:
        await ann.stop()
        with socket.create_server(("127.0.0.1", ann.port), backlog=100):
            got = await asyncio.gather(*(proxy.ask(post(b"charge my card")) for _ in range(4)))
    assert {one.status for one in got} == {200, 504}
    assert len(bob.seen) == sum(one.status == 200 for one in got)


# Answers in dribs and drabs


async def test_a_worker_that_only_sends_interim_answers_is_given_up_in_time() -> None:
    async def drips(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_body(seen, reader)
        while not reader.at_eof():
            writer.write(b"HTTP/1.1 102 Processing\r\n\r\n")
            await asyncio.sleep(0.05)

    async with cluster(ScriptedWorker(drips), response_timeout=0.5) as proxy:
        got = await asyncio.wait_for(proxy.ask(post(b"x")), DEADLINE)
    assert (got.status, got.json["code"]) == (504, "worker_timeout")


async def test_a_worker_that_drips_its_head_is_given_up_in_time() -> None:
    async def drips(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_body(seen, reader)
        writer.write(b"HTTP/1.1 200 OK\r\nX: ")
        while not reader.at_eof():
            writer.write(b"x")
            await asyncio.sleep(0.05)

    async with cluster(ScriptedWorker(drips), response_timeout=0.5) as proxy:
        got = await asyncio.wait_for(proxy.ask(post(b"x")), DEADLINE)
    assert (got.status, got.json["code"]) == (504, "worker_timeout")


async def test_a_websocket_that_nobody_uses_is_closed() -> None:
    ended = asyncio.Event()

    async def listens(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
        try:
            while data := await reader.read(100):
                if data == b"last":
                    writer.write(data)
        finally:
            ended.set()

    async with cluster(ScriptedWorker(listens), tunnel_idle=1.0) as proxy, proxy.client() as client:
        client.writer.write(get(headers=b"Connection: Upgrade\r\nUpgrade: websocket\r\n"))
        await client.reader.readuntil(b"\r\n\r\n")
        for _ in range(4):  # in use for longer than it may stay silent
            client.writer.write(b"ping")
            await asyncio.sleep(0.4)  # time itself is the subject
        client.writer.write(b"last")
        assert await client.reader.readexactly(4) == b"last"
        async with asyncio.timeout(DEADLINE):
            assert await client.reader.read() == b""
            await ended.wait()


# Nothing stays behind


@pytest.mark.parametrize("when", ["at once", "in the middle of the body", "while the worker works"])
async def test_clients_that_leave_leave_nothing_behind(when: str) -> None:
    gone = 0

    async def answer(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal gone
        try:
            await read_body(seen, reader)
            assert await reader.read() == b""
        finally:
            gone += 1

    workers = [ScriptedWorker(answer) for _ in range(2)]
    raw = post(bytes(100_000))
    async with cluster(*workers) as proxy:
        before = len(asyncio.all_tasks())
        for _ in range(100):
            client = await proxy.connect()
            seen = sum(len(worker.seen) for worker in workers)
            client.writer.write(raw[: len(raw) // 2] if when == "in the middle of the body" else raw)
            if when != "at once":
                await until(lambda seen=seen: sum(len(worker.seen) for worker in workers) > seen)  # type: ignore[misc]
            client.close()
        # Whoever probes them, keeps a few connections.
        await until(lambda: gone == sum(len(worker.seen) for worker in workers))
        await until(lambda: sum(worker.open for worker in workers) < 10 and len(asyncio.all_tasks()) < before + 10)
        assert await idle(proxy)
        kept = (await proxy.ask(get(b"/metrics"))).body.decode()
        assert "muster_proxy_replay_bytes 0.0" in kept


async def test_where_nobody_can_be_reached_for_long_there_is_an_end() -> None:
    workers = [ScriptedWorker() for _ in range(MANY + 3)]
    async with cluster(*workers, response_timeout=1e-6) as proxy:  # the fifth attempt is too late
        for worker in workers:
            await worker.stop()
        assert (await proxy.ask(get())).json["code"] == "worker_unreachable"
        metrics = (await proxy.ask(get(b"/metrics"))).body.decode()
    assert f'muster_proxy_failed_attempts_total{{reason="unreachable"}} {MANY}.0' in metrics

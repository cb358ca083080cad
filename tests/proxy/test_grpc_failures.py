"""gRPC through the proxy when workers fail: who is asked next, what the client hears, who is left alone."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
from grpc.aio import AioRpcError, Metadata

from muster.values import Worker
from proxy.grpc_calls import Call
from proxy.grpc_trials import Failed, GrpcTrials, Trial
from proxy.health import Outcome
from proxy.seats import Seat
from proxy.waiting import Busy
from tests.proxy.grpc_harness import PREDICT, STATUS, Code, GrpcClient, GrpcWorker, Heard, grpc_cluster, predict, status
from tests.proxy.harness import ScriptedWorker, get, until


async def busy(heard: Heard) -> bytes:
    await heard.context.abort(Code.UNAVAILABLE, "the queue is full", (("queue", "10"),))
    raise AssertionError


async def resting(client: GrpcClient) -> set[str]:
    return {id_ for id_, seat in (await client.seats()).items() if seat["state"] == "resting"}


def failures(metrics: str) -> dict[str, float]:
    lines = [line for line in metrics.splitlines() if line.startswith("muster_proxy_failed_attempts_total{")]
    return {line.split('"')[1]: float(line.split()[-1]) for line in lines}


@pytest.mark.parametrize("replay_safe", [True, False])
async def test_a_worker_that_refuses_connections_costs_no_call(replay_safe: bool) -> None:
    workers = [GrpcWorker(replay_safe=replay_safe) for _ in range(2)]
    async with grpc_cluster(*workers) as client:
        await workers[0].stop_grpc()
        for _ in range(6):
            got = await client.ask(predict())
            assert (got.code, got.answer) == (Code.OK, workers[1].id.encode())
        assert failures(await client.metrics()) == {"unreachable": 1}
        assert await resting(client) == {workers[0].id}
        await asyncio.sleep(0.2)
        assert await resting(client) == {workers[0].id}, "that it is ready over HTTP says nothing of this"


async def test_nobody_accepts_and_the_call_says_so() -> None:
    workers = [GrpcWorker() for _ in range(2)]
    async with grpc_cluster(*workers) as client:
        for worker in workers:
            await worker.stop_grpc()
        got = await client.ask(predict())
        assert (got.code, got.details) == (Code.UNAVAILABLE, "no worker could be reached")
        assert failures(await client.metrics()) == {"unreachable": 2}


async def test_a_worker_that_is_back_is_asked_again() -> None:
    worker = GrpcWorker()
    async with grpc_cluster(worker, rest=0.05) as client:
        await client.ask(predict())
        await worker.stop_grpc()
        assert (await client.ask(predict())).code is Code.UNAVAILABLE
        await worker.start_grpc()
        got = await client.ask(predict())
        assert (got.code, got.answer) == (Code.OK, worker.id.encode())
        assert not await resting(client)


async def test_a_worker_that_is_killed_under_a_call_leaves_it_to_another() -> None:
    taken: list[Heard] = []

    async def answer(heard: Heard) -> bytes:
        taken.append(heard)
        if len(taken) == 1:
            await asyncio.Event().wait()
        return b"second"

    workers = [GrpcWorker(answer) for _ in range(2)]
    async with grpc_cluster(*workers) as client:
        asking = asyncio.create_task(client.ask(predict()))
        await until(lambda: bool(taken))
        first = next(worker for worker in workers if worker.calls)
        await first.stop_grpc()
        got = await asking
        assert (got.code, got.answer) == (Code.OK, b"second")
        assert "attempts;desc=2" in got.trailing["server-timing"]
        assert failures(await client.metrics()) in ({"broke": 1}, {"declined": 1})
        assert await resting(client) == {first.id}


async def test_a_worker_that_is_killed_as_by_a_signal_leaves_the_call_to_another() -> None:
    doomed, other = GrpcWorker(), GrpcWorker()
    async with grpc_cluster(doomed, other) as client:
        await doomed.stop_grpc()
        async with dying_worker(doomed.grpc_port) as wire:
            for _ in range(2):
                assert (await client.ask(predict())).answer == other.id.encode()
            assert wire.ended == 1
        assert failures(await client.metrics()) == {"broke": 1}
        assert await resting(client) == {doomed.id}


async def test_the_connection_to_a_worker_that_has_left_is_closed() -> None:
    worker = GrpcWorker()
    async with grpc_cluster(worker) as client:
        await worker.stop_grpc()
        async with dying_worker(worker.grpc_port, dies=False) as wire:
            call = client.call(predict())
            await until(lambda: wire.calls == 1)
            call.cancel()
            assert not wire.ended
            await worker.stop()  # the fixed list is probed
            await until(lambda: wire.ended == 1)


@dataclass
class Wire:
    """What a `dying_worker` saw: calls that began, connections that ended."""

    calls: int = 0
    ended: int = 0


@asynccontextmanager
async def dying_worker(port: int, *, dies: bool = True) -> AsyncIterator[Wire]:
    """Accepts gRPC's connections and resets them when the first call comes, as the kernel does for the dead; or never
    answers.
    """
    settings, headers = 4, 1
    wire = Wire()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"\x00\x00\x00\x04\x00\x00\x00\x00\x00")  # SETTINGS, none
        try:
            await reader.readexactly(24)  # the preface
            while True:
                head = await reader.readexactly(9)
                await reader.readexactly(int.from_bytes(head[:3], "big"))
                if head[3] == settings and not head[4]:
                    writer.write(b"\x00\x00\x00\x04\x01\x00\x00\x00\x00")
                wire.calls += head[3] == headers
                if wire.calls and dies:
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            wire.ended += 1
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()

    async with await asyncio.start_server(serve, "127.0.0.1", port):
        yield wire


async def test_a_client_that_leaves_while_a_connection_comes_about_leaves_it_to_others() -> None:
    worker = GrpcWorker()
    async with grpc_cluster(worker, connect_timeout=30.0) as client:
        await worker.stop_grpc()
        with socket.create_server(("127.0.0.1", worker.grpc_port)) as mute:
            calls = [client.call(predict()) for _ in range(2)]
            async with asyncio.timeout(10):
                while (await client.seats())[worker.id]["in_flight"] < 2:  # noqa: ASYNC110  # plain state elsewhere
                    await asyncio.sleep(0.01)
            calls[0].cancel()
            async with asyncio.timeout(10):
                while (await client.seats())[worker.id]["in_flight"] > 1:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            assert not calls[1].done()
            mute.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        assert (await _code(calls[1])) is Code.UNAVAILABLE
        assert not (await client.seats())[worker.id]["in_flight"]


async def _code(call: Any) -> Any:
    return await call.code()


async def test_a_call_that_kills_workers_kills_two_and_not_all() -> None:
    workers: list[GrpcWorker] = []

    async def answer(heard: Heard) -> bytes:
        worker = next(worker for worker in workers if heard in worker.calls)
        stopping.append(asyncio.create_task(worker.stop_grpc()))
        await asyncio.Event().wait()
        raise AssertionError

    stopping: list[Any] = []
    workers += [GrpcWorker(answer) for _ in range(4)]
    async with grpc_cluster(*workers) as client:
        got = await client.ask(predict())
        assert got.code is Code.UNAVAILABLE
        assert sum(len(worker.calls) for worker in workers) == 2


async def test_what_one_declines_another_takes() -> None:
    full, free = GrpcWorker(busy), GrpcWorker()
    async with grpc_cluster(full, free) as client:
        for _ in range(4):
            got = await client.ask(predict())
            assert (got.code, got.answer) == (Code.OK, free.id.encode())
        assert failures(await client.metrics()) == {"declined": len(full.calls)}
    assert full.calls


async def test_a_worker_that_has_the_model_no_more_is_passed_over_and_does_not_rest() -> None:
    async def gone(heard: Heard) -> bytes:
        await heard.context.abort(Code.NOT_FOUND, "Servable not found for request: Latest(digits)")
        raise AssertionError

    without, having = GrpcWorker(gone), GrpcWorker()
    async with grpc_cluster(without, having) as client:
        for _ in range(4):
            assert (await client.ask(predict())).answer == having.id.encode()
        assert not await resting(client)
        assert failures(await client.metrics()) == {"lacking": len(without.calls)}
    assert without.calls
    async with grpc_cluster(without) as client:
        got = await client.ask(predict())
        assert (got.code, got.details) == (Code.NOT_FOUND, "Servable not found for request: Latest(digits)")


async def test_if_all_decline_their_own_words_are_passed_on() -> None:
    workers = [GrpcWorker(busy) for _ in range(3)]
    async with grpc_cluster(*workers) as client:
        got = await client.ask(predict())
    assert (got.code, got.details, got.trailing["queue"]) == (Code.UNAVAILABLE, "the queue is full", "10")
    assert got.trailing["x-served-by"] in {worker.id for worker in workers}
    assert [len(worker.calls) for worker in workers] == [1, 1, 1]


async def test_the_only_worker_declines_and_goes_on_being_asked() -> None:
    worker = GrpcWorker(busy)
    async with grpc_cluster(worker) as client:
        for _ in range(3):
            assert (await client.ask(predict())).details == "the queue is full"
        assert not await resting(client)
    assert len(worker.calls) == 3


async def test_a_call_that_may_have_effects_is_sent_once() -> None:
    workers = [GrpcWorker(busy, replay_safe=False) for _ in range(2)]
    async with grpc_cluster(*workers) as client:
        got = await client.ask(predict())
        assert (got.code, got.details) == (Code.UNAVAILABLE, "the queue is full")
        assert sum(len(worker.calls) for worker in workers) == 1
        # To ask for a state has none, whatever the worker promises.
        assert (await client.ask(status("digits"), STATUS)).code is Code.UNAVAILABLE
        assert sum(len(worker.calls) for worker in workers) == 3


@pytest.mark.parametrize("code", [Code.INTERNAL, Code.UNKNOWN, Code.DATA_LOSS])
@pytest.mark.parametrize("replay_safe", [True, False])
async def test_what_a_worker_fails_at_another_may_do(code: Any, replay_safe: bool) -> None:
    async def answer(heard: Heard) -> bytes:
        await heard.context.abort(code, "so it is")
        raise AssertionError

    workers = [GrpcWorker(answer, replay_safe=replay_safe) for _ in range(3)]
    async with grpc_cluster(*workers) as client:
        got = await client.ask(predict())
        assert (got.code, got.details) == (code, "so it is")
        assert sum(len(worker.calls) for worker in workers) == (2 if replay_safe else 1)
        # That it only asks for a state says too little here.
        assert (await client.ask(status("digits"), STATUS)).code is code
        assert sum(len(worker.calls) for worker in workers) == (4 if replay_safe else 2)


@pytest.mark.parametrize("code", [Code.RESOURCE_EXHAUSTED, Code.INVALID_ARGUMENT, Code.ABORTED, Code.DEADLINE_EXCEEDED])
async def test_any_other_error_is_an_answer(code: Any) -> None:
    async def answer(heard: Heard) -> bytes:
        await heard.context.abort(code, "so it is")
        raise AssertionError

    workers = [GrpcWorker(answer) for _ in range(2)]
    async with grpc_cluster(*workers) as client:
        got = await client.ask(predict())
        assert (got.code, got.details) == (code, "so it is")
        assert not await resting(client)
    assert sum(len(worker.calls) for worker in workers) == 1


async def test_a_worker_that_stays_silent_is_given_up_and_rests() -> None:
    async def answer(heard: Heard) -> bytes:
        await asyncio.Event().wait()
        raise AssertionError

    workers = [GrpcWorker(answer) for _ in range(2)]
    async with grpc_cluster(*workers, response_timeout=0.2) as client:
        got = await client.ask(predict())
        assert got.code is Code.DEADLINE_EXCEEDED
        assert failures(await client.metrics()) == {"silent": 1}
        assert len(await resting(client)) == 1
    assert sum(len(worker.calls) for worker in workers) == 1


async def test_a_port_that_accepts_and_says_nothing_is_not_waited_for() -> None:
    worker, other = GrpcWorker(), GrpcWorker()
    async with grpc_cluster(worker, other, connect_timeout=0.2) as client:
        await worker.stop_grpc()
        with socket.create_server(("127.0.0.1", worker.grpc_port)):
            for _ in range(2):
                assert (await client.ask(predict())).answer == other.id.encode()


async def test_a_stream_whose_worker_dies_says_so_and_the_worker_rests() -> None:
    worker = GrpcWorker()
    async with grpc_cluster(worker) as client:
        call = client.channel.stream_stream("/other.Service/Stream")()
        await call.write(b"a")
        assert await call.read() == b"<a>"
        await worker.stop_grpc()
        assert await call.code() is Code.UNAVAILABLE
        assert await resting(client) == {worker.id}
        assert (await client.seats())[worker.id]["in_flight"] == 0


async def test_a_call_under_way_ends_well_although_its_worker_is_listed_no_more() -> None:
    go_on = asyncio.Event()

    async def answer(heard: Heard) -> bytes:
        await go_on.wait()
        return b"done"

    worker = GrpcWorker(answer)
    async with grpc_cluster(worker) as client:
        asking = asyncio.create_task(client.ask(predict()))
        await until(lambda: bool(worker.calls))
        grpc_server, worker._grpc = worker._grpc, None  # its HTTP port goes, and with it its place in the list
        await worker.stop()
        async with asyncio.timeout(10):
            while await client.seats():  # noqa: ASYNC110  # plain state in another program
                await asyncio.sleep(0.01)
        go_on.set()
        assert (await asking).answer == b"done"
        await grpc_server.stop(0)


async def test_many_calls_at_once_find_their_own_answers() -> None:
    async def answer(heard: Heard) -> bytes:
        await asyncio.sleep(0)
        return heard.request

    workers = [GrpcWorker(answer) for _ in range(3)]
    async with grpc_cluster(*workers) as client:
        asked = [json.dumps(number).encode() for number in range(300)]
        answers = await asyncio.gather(*(client.ask(request, PREDICT) for request in asked))
        assert [got.answer for got in answers] == asked
        assert {seat["in_flight"] for seat in (await client.seats()).values()} == {0}


class Gate:
    """Calls that are answered when it is opened."""

    def __init__(self) -> None:
        self.opened = asyncio.Event()
        self.waiting = 0
        self.most = 0
        self.left = 0

    async def __call__(self, heard: Heard) -> bytes:
        self.waiting += 1
        self.most = max(self.most, self.waiting)
        try:
            await self.opened.wait()
        except asyncio.CancelledError:
            self.left += 1
            raise
        finally:
            self.waiting -= 1
        return b"done"


def narrow(worker: GrpcWorker, capacity: int) -> GrpcWorker:
    worker.worker = dataclasses.replace(worker.worker, capacity=capacity)
    return worker


async def idle(client: GrpcClient) -> bool:
    return not any(seat["in_flight"] for seat in (await client.seats()).values())


async def test_calls_wait_while_all_workers_are_full() -> None:
    gate = Gate()
    async with grpc_cluster(narrow(GrpcWorker(gate), 2)) as client:
        asking = [asyncio.create_task(client.ask(predict())) for _ in range(8)]
        await until(lambda: gate.waiting == 2)
        gate.opened.set()
        assert [(await one).answer for one in asking] == [b"done"] * 8
        assert gate.most == 2
        assert await idle(client)


async def test_a_call_that_waits_too_long_is_refused() -> None:
    gate = Gate()
    worker = narrow(GrpcWorker(gate), 1)
    async with grpc_cluster(worker, queue_timeout=0.1) as client:
        first = asyncio.create_task(client.ask(predict()))
        await until(lambda: gate.waiting == 1)
        assert (await client.ask(predict())).code is Code.UNAVAILABLE
        gate.opened.set()
        assert (await first).answer == b"done"
    assert len(worker.calls) == 1


async def test_a_call_that_is_cancelled_while_it_waits_gives_up_its_place() -> None:
    gate = Gate()
    worker = narrow(GrpcWorker(gate), 1)
    async with grpc_cluster(worker, queue=1, queue_timeout=30.0) as client:
        first = asyncio.create_task(client.ask(predict()))
        await until(lambda: gate.waiting == 1)
        for _ in range(5):
            waiting = client.call(predict())
            await asyncio.sleep(0.03)
            waiting.cancel()
            await asyncio.sleep(0.03)
        second = asyncio.create_task(client.ask(predict()))
        await asyncio.sleep(0.05)
        gate.opened.set()
        assert [(await first).answer, (await second).answer] == [b"done"] * 2
        assert await idle(client)
    assert len(worker.calls) == 2


async def test_a_slow_worker_is_overtaken_by_another_and_hears_that_nobody_waits() -> None:
    gate = Gate()
    slow, fast = GrpcWorker(gate), GrpcWorker()
    async with grpc_cluster(slow, fast, hedge_after=0.05) as client:
        for _ in range(4):
            got = await client.ask(predict())
            assert (got.code, got.answer) == (Code.OK, fast.id.encode())
        await until(lambda: gate.left == len(slow.calls))
        assert slow.calls
        assert await idle(client)


async def test_the_first_worker_wins_when_the_second_fails() -> None:
    gate = Gate()
    taken: list[Heard] = []

    async def answer(heard: Heard) -> bytes:
        taken.append(heard)
        if len(taken) == 1:
            return await gate(heard)
        await heard.context.abort(Code.INTERNAL, "broken")
        raise AssertionError

    async with grpc_cluster(GrpcWorker(answer), GrpcWorker(answer), hedge_after=0.05) as client:
        asking = asyncio.create_task(client.ask(predict()))
        await until(lambda: len(taken) == 2)
        gate.opened.set()
        assert (await asking).answer == b"done"
        assert await idle(client)


async def test_calls_at_a_worker_that_hangs_move_to_another() -> None:
    hangs, well = GrpcWorker(Gate()), GrpcWorker()
    async with grpc_cluster(hangs, well) as client:
        asking = [asyncio.create_task(client.ask(predict())) for _ in range(4)]
        await until(lambda: len(hangs.calls) == 2)
        await ScriptedWorker.stop(hangs)  # how it is, it does not say any more
        assert {(await one).answer for one in asking} == {well.id.encode()}
        assert await idle(client)


async def test_what_is_sent_again_is_bounded() -> None:
    workers = [GrpcWorker(busy) for _ in range(3)]
    async with grpc_cluster(*workers, retry_budget=0.0) as client:
        for _ in range(3):
            assert (await client.ask(predict())).code is Code.UNAVAILABLE
    assert sum(len(worker.calls) for worker in workers) == 3


async def test_a_seat_that_comes_as_its_call_is_cancelled_goes_back() -> None:
    told: list[Any] = []
    released: list[Outcome] = []

    def lease(*_: object) -> Seat:
        raise Busy("full")

    def wait(_: object, __: object, callback: Any) -> Any:
        told.append(callback)
        return SimpleNamespace(cancel=lambda: None)  # it was called already, so nobody gives the seat back for it

    roster = SimpleNamespace(lease=lease, wait=wait, release=lambda _, outcome: released.append(outcome))
    commons: Any = SimpleNamespace(roster=roster, loop=asyncio.get_running_loop())
    channels: Any = None
    call = Call("/some.Service/Method", None, "id", "127.0.0.1")
    waiting = asyncio.create_task(GrpcTrials(commons, channels).connect(call))
    await asyncio.sleep(0)
    told[0](Seat(Worker("ann", "127.0.0.1", 9000), 1))
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert released == [Outcome.CANCELLED]


async def test_when_a_worker_dies_and_all_others_rest_they_are_asked_all_the_same() -> None:
    doomed, other = GrpcWorker(), GrpcWorker()
    async with grpc_cluster(doomed, other) as client:
        await ScriptedWorker.stop(other)  # over HTTP it refuses, so it rests, but not over gRPC
        for _ in range(2):
            assert (await client.http.ask(get())).status == 200
        assert await resting(client) == {other.id}
        await doomed.stop_grpc()
        async with dying_worker(doomed.grpc_port) as wire:
            assert (await client.ask(predict())).answer == other.id.encode()
            assert wire.ended == 1


class Part:
    """Stands for all that one attempt talks to, and notes what is said of its worker."""

    def __init__(self) -> None:
        self.released: list[Outcome] = []
        self.theirs: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        roster = SimpleNamespace(release=lambda _, outcome, seconds: self.released.append(outcome))
        commons: Any = SimpleNamespace(roster=roster, settings=SimpleNamespace(response_timeout=60.0))
        link: Any = SimpleNamespace(used=nullcontext, unary=lambda _: lambda *_, **__: self.theirs)
        channels: Any = None
        context = SimpleNamespace(time_remaining=lambda: 9.0, invocation_metadata=tuple)
        call = Call("/some.Service/Method", context, "id", "127.0.0.1")
        self.trial = Trial(call, Seat(Worker("ann", "127.0.0.1", 9000), 1), link)
        self.under_way = asyncio.create_task(GrpcTrials(commons, channels)._try(self.trial, b""))


async def test_a_call_that_is_cancelled_as_it_leaves_a_worker_that_hangs_goes_to_nobody() -> None:
    part = Part()
    await asyncio.sleep(0)
    part.trial.forsaken = True
    part.trial.theirs.cancel()
    part.under_way.cancel()
    with pytest.raises(asyncio.CancelledError):
        await part.under_way
    assert part.released == [Outcome.CANCELLED]


@pytest.mark.parametrize("code", [Code.DEADLINE_EXCEEDED, Code.CANCELLED])
async def test_that_the_time_of_a_client_was_up_says_nothing_about_its_worker(code: Any) -> None:
    part = Part()
    part.theirs.set_exception(AioRpcError(code, Metadata(), Metadata(), "its time was up"))
    with pytest.raises(Failed, match="its time was up"):
        await part.under_way
    assert part.released == [Outcome.CANCELLED]

"""When a second attempt is due, and what becomes of two attempts at once."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from muster.values import Worker
from proxy.attempt import Attempt
from proxy.dispatch import Failure
from proxy.health import Outcome
from proxy.hedging import HedgeClock
from proxy.replay import Budget
from proxy.seats import Seat
from proxy.trials import Trials
from tests.proxy.harness import (
    DEADLINE,
    Answer,
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


class FakeLoop:
    """Time as it is told, and one who has to be called at a certain one."""

    def __init__(self) -> None:
        self.now = 0.0
        self.calls: list[tuple[float, Callable[[], None]]] = []
        self.wakes = 0

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: Callable[[], None]) -> object:
        self.calls.append((when, callback))
        return self.calls[-1]

    def go_to(self, now: float) -> None:
        while due := [call for call in self.calls if call[0] <= now]:
            call = min(due)
            self.calls.remove(call)
            self.now = max(self.now, call[0])
            self.wakes += 1
            call[1]()
        self.now = now


class Due:
    """Notes when it was told."""

    def __init__(self, loop: FakeLoop) -> None:
        self.loop = loop
        self.at: float | None = None

    def hedge(self) -> None:
        self.at = self.loop.now


def test_each_is_told_once_and_in_time_by_one_timer() -> None:
    loop: Any = FakeLoop()
    clock = HedgeClock(loop, 1.0)
    waiting = []
    for number in range(200):
        loop.go_to(number * 0.01)  # the last come when the first are due
        one = Due(loop)
        waiting.append((loop.now, one))
        clock.watch(one)
        assert len(loop.calls) == 1
    loop.go_to(10.0)
    assert all(one.at is not None and 1.0 <= one.at - since <= 1.11 for since, one in waiting)
    assert loop.wakes < 40
    assert not loop.calls


def test_who_has_an_answer_is_not_told_and_leaves_nothing_behind() -> None:
    loop: Any = FakeLoop()
    clock = HedgeClock(loop, 1.0)
    ann, bob = Due(loop), Due(loop)
    clock.watch(ann)
    clock.watch(bob)
    clock.leave(ann)
    clock.leave(ann)
    assert len(clock) == 1
    loop.go_to(5.0)
    assert ann.at is None
    assert bob.at is not None
    assert len(clock) == 0


def waits_for(event: asyncio.Event, answer: bytes, left: list[bytes]) -> Answer:
    """Answers when the event comes; notes who left before."""

    async def serve(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_body(seen, reader)
        going = asyncio.create_task(event.wait())
        leaving = asyncio.create_task(reader.read(1))
        await asyncio.wait({going, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if leaving.done() and not going.done():
            left.append(answer)
        else:
            writer.write(response(answer))
        for task in (going, leaving):
            task.cancel()
        await asyncio.gather(going, leaving, return_exceptions=True)

    return serve


async def in_flight(proxy: RunningProxy) -> int:
    workers = (await proxy.ask(get(b"/workers"))).json["workers"]
    assert isinstance(workers, list)
    return sum(worker["in_flight"] for worker in workers)


async def test_a_slow_worker_is_overtaken_by_another_and_told_to_stop() -> None:
    left: list[bytes] = []
    ann = ScriptedWorker(waits_for(asyncio.Event(), b"ann", left), name="ann")
    bob = ScriptedWorker(name="bob")
    body = bytes(range(256)) * 400
    async with cluster(ann, bob, hedge_after=0.05) as proxy, proxy.client() as client:
        for _ in range(8):
            got = await client.ask(post(body))
            assert got.body == b"bob"
            assert (got.status, got.values(b"x-served-by")) == (200, [b"bob"])
        await until(lambda: len(left) == len(ann.seen))
        assert await in_flight(proxy) == 0
    assert ann.seen
    assert all(seen.body == body for seen in (*ann.seen, *bob.seen))
    assert bob.accepted < 6  # its connection is kept for the next; and whoever asks how it is has some


async def test_answered_requests_are_not_remembered_until_they_would_have_been_due() -> None:
    async with cluster(ScriptedWorker(), ScriptedWorker(), hedge_after=60.0) as proxy, proxy.client() as client:
        for _ in range(10):
            assert (await client.ask(post(b"picture"))).status == 200
        (clock,) = (one for one in gc.get_objects() if isinstance(one, HedgeClock) and one.delay == 60.0)
        assert len(clock) == 0


async def test_the_first_attempt_wins_if_its_answer_comes_first() -> None:
    go_on, left = asyncio.Event(), list[bytes]()
    workers = [ScriptedWorker(name=name) for name in ("ann", "bob")]
    first: list[ScriptedWorker] = []
    for worker in workers:

        async def serve(
            seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, me: ScriptedWorker = worker
        ) -> None:
            first.append(me)
            event = go_on if first[0] is me else asyncio.Event()
            await waits_for(event, me.id.encode(), left)(seen, reader, writer)

        worker.answer = serve
    async with cluster(*workers, hedge_after=0.05) as proxy, proxy.client() as client:
        client.writer.write(post(b"picture"))
        await until(lambda: len(first) == 2)
        go_on.set()
        assert (await client.answer_to(b"POST")).body == first[0].id.encode()
        await until(lambda: left == [first[1].id.encode()])
        assert await in_flight(proxy) == 0


@pytest.mark.parametrize("case", ["fails", "declines", "refuses"])
async def test_a_second_attempt_that_comes_to_nothing_does_no_harm(case: str) -> None:
    go_on = asyncio.Event()
    slow = waits_for(go_on, b"slow", [])
    workers = [ScriptedWorker(name=name) for name in ("ann", "bob")]
    taken: list[bytes] = []

    async def first_is_slow(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        taken.append(seen.head)
        if len(taken) == 1:
            await slow(seen, reader, writer)
        elif case == "fails":
            writer.transport.abort()
        else:
            await always(response(b"no", b"503 Service Unavailable"))(seen, reader, writer)

    for worker in workers:
        worker.answer = first_is_slow
    async with cluster(*workers, hedge_after=0.05) as proxy, proxy.client() as client:
        client.writer.write(post(b"picture"))
        await until(lambda: bool(taken))
        if case == "refuses":
            await next(worker for worker in workers if not worker.seen).stop()
            await until_metric(proxy, 'muster_proxy_failed_attempts_total{reason="unreachable"}')
        else:
            await until(lambda: len(taken) == 2)
        go_on.set()
        assert (await client.answer_to(b"POST")).body == b"slow"
        assert await in_flight(proxy) == 0


async def until_metric(proxy: RunningProxy, start: str) -> None:
    async with asyncio.timeout(10):
        while start not in (await proxy.ask(get(b"/metrics"))).body.decode():  # noqa: ASYNC110  # only asking tells
            await asyncio.sleep(0.02)


async def test_only_what_may_run_twice_is_asked_twice() -> None:
    async def answer(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_body(seen, reader)
        await asyncio.sleep(0.3)  # time itself is the subject
        writer.write(response(b"done"))

    workers = [ScriptedWorker(answer, replay_safe=False) for _ in range(2)]
    async with cluster(*workers, hedge_after=0.02) as proxy:
        assert (await proxy.ask(post(b"charge my card"))).body == b"done"
    assert sum(len(worker.seen) for worker in workers) == 1


async def test_a_body_that_is_still_coming_is_not_hedged() -> None:
    workers = [ScriptedWorker() for _ in range(2)]
    async with cluster(*workers, hedge_after=0.02) as proxy, proxy.client() as client:
        raw = post(b"slow picture")
        client.writer.write(raw[:-1])
        await until(lambda: any(worker.seen for worker in workers))
        await asyncio.sleep(0.2)  # time itself is the subject
        client.writer.write(raw[-1:])
        assert (await client.answer_to(b"POST")).status == 200
    assert sum(len(worker.seen) for worker in workers) == 1


async def test_a_client_that_leaves_ends_both_attempts() -> None:
    left: list[bytes] = []
    workers = [ScriptedWorker(waits_for(asyncio.Event(), name.encode(), left), name=name) for name in ("ann", "bob")]
    async with cluster(*workers, hedge_after=0.02) as proxy:
        client = await proxy.connect()
        client.writer.write(post(b"picture"))
        await until(lambda: all(worker.seen for worker in workers))
        client.close()
        await until(lambda: sorted(left) == [b"ann", b"bob"])
        assert await in_flight(proxy) == 0


async def test_when_the_first_dies_the_second_goes_on() -> None:
    go_on, taken = asyncio.Event(), list[asyncio.StreamWriter]()

    async def answer(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_body(seen, reader)
        taken.append(writer)
        if len(taken) == 1:
            await asyncio.Event().wait()
        await go_on.wait()
        writer.write(response(b"second"))

    workers = [ScriptedWorker(answer) for _ in range(2)]
    async with cluster(*workers, hedge_after=0.05) as proxy, proxy.client() as client:
        client.writer.write(post(b"picture"))
        await until(lambda: len(taken) == 2)
        taken[0].transport.abort()
        go_on.set()
        assert (await client.answer_to(b"POST")).body == b"second"
        assert len(taken) == 2


async def test_never_more_than_two_are_asked_at_once() -> None:
    gate = asyncio.Event()

    async def slow(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await gate.wait()
        writer.write(response(b"at last"))

    workers = [ScriptedWorker(slow) for _ in range(4)]
    async with cluster(*workers, hedge_after=0.05) as proxy:
        asking = asyncio.create_task(proxy.ask(get()))
        await until(lambda: sum(len(worker.seen) for worker in workers) == 2)
        await asyncio.sleep(0.2)
        assert sum(len(worker.seen) for worker in workers) == 2
        gate.set()
        assert (await asking).body == b"at last"


async def test_when_its_kept_connection_turns_out_dead_the_second_goes_on_and_no_third_is_made() -> None:
    go_on, taken = asyncio.Event(), list[asyncio.StreamWriter]()

    async def answer(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if b"/warm" in seen.line:
            writer.write(response(b"warm"))
            return
        await read_body(seen, reader)
        taken.append(writer)
        if len(taken) == 2:
            await go_on.wait()
            writer.write(response(b"second"))
        elif len(taken) == 1:
            await asyncio.Event().wait()
        else:
            writer.write(response(b"third"))

    workers = [ScriptedWorker(answer) for _ in range(2)]
    async with cluster(*workers, hedge_after=0.05) as proxy, proxy.client() as client:
        for _ in workers:
            assert (await client.ask(get(b"/warm"))).status == 200
        client.writer.write(post(b"picture"))
        await until(lambda: len(taken) == 2)
        taken[0].transport.abort()
        await until_metric(proxy, 'muster_proxy_failed_attempts_total{reason="stale"}')
        await asyncio.sleep(0.1)  # for one that should not come
        go_on.set()
        assert (await client.answer_to(b"POST")).body == b"second"
        assert len(taken) == 2


async def test_the_second_is_another_worker_however_much_more_the_first_deserves() -> None:
    ann = ScriptedWorker(waits_for(asyncio.Event(), b"ann", []), name="ann")
    bob = ScriptedWorker(name="bob")
    ann.worker = dataclasses.replace(ann.worker, weight=20)
    async with cluster(ann, bob, hedge_after=0.05) as proxy:
        for _ in range(4):
            assert (await asyncio.wait_for(proxy.ask(post(b"picture")), DEADLINE)).body == b"bob"


class Request(Trials):
    """Notes that its client may go on."""

    resumed = 0

    def _resume_client(self) -> None:
        self.resumed += 1


@pytest.mark.parametrize("gone", ["first", "second"])
async def test_a_client_that_was_too_fast_for_the_first_goes_on_when_the_second_takes_its_place(gone: str) -> None:
    """Else it would not be seen to leave before the answer is complete."""
    roster = SimpleNamespace(release=lambda *_: None)
    commons: Any = SimpleNamespace(stats=SimpleNamespace(failures=Counter()), roster=roster, replay=Budget(10, 10))
    head: Any = None
    request = Request(commons, head)
    first, second = (Attempt(commons, request, Seat(Worker(id_, "127.0.0.1", 1), 1), 0.0) for id_ in ("ann", "bob"))
    request.attempt, request._second = first, second
    request._leave(first if gone == "first" else second, Failure.BROKE, Outcome.BROKE)
    assert request.attempt is (second if gone == "first" else first)
    assert request.resumed == (gone == "first")


async def test_a_request_whose_answer_has_begun_stays_at_a_worker_that_is_found_to_hang() -> None:
    commons: Any = SimpleNamespace(replay=Budget(10, 10))
    head: Any = SimpleNamespace(idempotent=True)
    request = Request(commons, head)
    request.attempt = attempt = Attempt(commons, request, Seat(Worker("ann", "127.0.0.1", 1), 1), 0.0)
    attempt.sent = request.answered = True
    request._copy.forget()  # as when an answer begins
    request.forsake(attempt.seat)
    assert request.attempt is attempt

"""What clients of the gRPC port may take: calls, time, memory. Who goes beyond it hears so, others are served."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from proxy import grpc_room
from proxy.grpc_calls import Refused
from tests.proxy.grpc_harness import HEALTH, PREDICT, Code, GrpcClient, GrpcWorker, grpc_cluster, predict
from tests.proxy.harness import until
from tests.proxy.test_grpc_failures import Gate, idle

STREAM = "/other.Service/Stream"


async def figure(client: GrpcClient, name: str) -> float:
    lines = (await client.metrics()).splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(f"muster_proxy_{name}"))


async def becomes(client: GrpcClient, name: str, value: float) -> None:
    async with asyncio.timeout(10):
        while await figure(client, name) != value:  # noqa: ASYNC110  # plain state in another program
            await asyncio.sleep(0.01)


def half_sent(client: GrpcClient, method: str = PREDICT) -> Any:
    """A call that never says what it wants."""
    call = client.channel.stream_unary(method)()
    asyncio.ensure_future(call.wait_for_connection()).add_done_callback(lambda done: done.exception())
    return call


async def code_of(call: Any) -> Any:
    async with asyncio.timeout(10):
        return await call.code()


@pytest.mark.parametrize("method", [PREDICT, STREAM, HEALTH + "Check", HEALTH + "Watch"])
async def test_a_call_whose_request_does_not_come_ends_in_time_and_bothers_no_worker(method: str) -> None:
    worker = GrpcWorker()
    async with grpc_cluster(worker, body_timeout=0.2) as client:
        call = half_sent(client, method)
        assert await code_of(call) is Code.DEADLINE_EXCEEDED
        assert await call.details() == "the request did not arrive within 0.2 seconds"
        await becomes(client, "grpc_calls", 0)
        assert not (await client.seats())[worker.id]["picks"]
        assert await figure(client, 'grpc_responses_total{code="DEADLINE_EXCEEDED"}') == 1
    assert not worker.calls


async def test_a_call_without_a_request_is_told_so() -> None:
    worker = GrpcWorker()
    async with grpc_cluster(worker) as client:
        call = client.channel.stream_unary(PREDICT)()
        await call.done_writing()
        assert (await code_of(call), await call.details()) == (Code.INTERNAL, "the request is missing")
    assert not worker.calls


async def test_one_address_may_have_so_many_calls_and_no_more() -> None:
    worker = GrpcWorker()
    async with grpc_cluster(worker, max_connections_per_peer=2) as client:
        other = GrpcClient(client.port)  # one connection is not let have more than that
        held = [half_sent(client) for _ in range(2)]
        await becomes(client, "grpc_calls", 2)
        got = await other.ask(predict())
        assert (got.code, got.details) == (
            Code.RESOURCE_EXHAUSTED, "too many calls from your address; try again later",
        )  # fmt: skip
        assert await figure(client, 'grpc_refused_total{limit="peer"}') == 1
        for call in held:
            call.cancel()
        await becomes(client, "grpc_calls", 0)
        assert (await other.ask(predict())).code is Code.OK
        await other.channel.close()


async def test_all_together_may_have_so_many_calls_and_no_more() -> None:
    gate = Gate()
    async with grpc_cluster(GrpcWorker(gate), max_connections=2) as client:
        asking = [asyncio.create_task(client.ask(predict())) for _ in range(2)]
        await until(lambda: gate.waiting == 2)
        got = await client.ask(predict())
        assert (got.code, got.details) == (Code.UNAVAILABLE, "too many calls; try again later")
        assert await figure(client, 'grpc_refused_total{limit="all"}') == 1
        gate.opened.set()
        assert {(await one).code for one in asking} == {Code.OK}
        assert await idle(client)


async def test_one_connection_has_no_more_calls_under_way_than_one_address_may() -> None:
    gate = Gate()
    async with grpc_cluster(GrpcWorker(gate), max_connections_per_peer=3) as client:
        asking = [asyncio.create_task(client.ask(predict())) for _ in range(12)]
        await until(lambda: gate.waiting == 3)
        gate.opened.set()
        # The others wait at the client, unless it sends them sooner than gRPC is through with those before.
        assert {(await one).code for one in asking} <= {Code.OK, Code.UNAVAILABLE}
        assert gate.most == 3
        await becomes(client, "grpc_calls", 0)


async def test_messages_of_all_calls_share_a_memory_of_which_one_address_never_has_all() -> None:
    gate = Gate()
    worker = GrpcWorker(gate)
    async with grpc_cluster(worker, replay_total=1000) as client:
        asking = [asyncio.create_task(client.ask(b"\x7a\xc8\x01" + bytes(200))) for _ in range(2)]
        await until(lambda: gate.waiting == 2)
        assert await figure(client, "grpc_bytes") == 406
        got = await client.ask(b"\x7a\xc8\x01" + bytes(200))
        assert (got.code, got.details) == (
            Code.RESOURCE_EXHAUSTED, "too many large messages at once; try again later",
        )  # fmt: skip
        assert await figure(client, 'grpc_refused_total{limit="memory"}') == 1
        gate.opened.set()
        assert {(await one).code for one in asking} == {Code.OK}
        await becomes(client, "grpc_bytes", 0)


async def test_a_message_that_could_not_be_kept_is_refused_before_it_is_here() -> None:
    worker = GrpcWorker()
    async with grpc_cluster(worker, replay_total=2000) as client:
        got = await client.ask(bytes(501))
        assert got.code is Code.RESOURCE_EXHAUSTED
        assert "larger than max (501 vs. 500)" in got.details
        await becomes(client, 'grpc_responses_total{code="RESOURCE_EXHAUSTED"}', 1)
        assert (await client.ask(bytes(400))).code is Code.OK
    assert len(worker.calls) == 1


async def test_requests_that_take_long_to_come_and_much_memory_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[int] = []
    used: list[int] = []

    def look() -> int:
        looks.append(used.pop() if used else 0)
        return looks[-1]

    monkeypatch.setattr(grpc_room, "in_use", look)
    worker = GrpcWorker()
    async with grpc_cluster(worker, replay_total=1000) as client:
        held = []
        for number in range(1, 9):
            held.append(half_sent(client))
            await becomes(client, "grpc_calls", number)
        looks.clear()
        await until(lambda: len(looks) == 2)  # what there was before is told apart
        used.append(2001)
        await until(lambda: sum(call.done() for call in held) == 5)
        assert {await code_of(call) for call in held if call.done()} == {Code.RESOURCE_EXHAUSTED}
        assert not held[0].done(), "the newest go first"
        assert (await client.ask(predict())).code is Code.OK
        assert await figure(client, 'grpc_refused_total{limit="memory"}') == 5


async def test_an_answer_that_is_not_taken_counts_until_its_client_is_gone() -> None:
    async def large(_: Any) -> bytes:
        return bytes(300_000)

    worker = GrpcWorker(large)
    async with grpc_cluster(worker, replay_total=2_000_000) as client, slow_reader(client.port, PREDICT):
        await becomes(client, "grpc_bytes", 300_000 + 5)
        assert await idle(client)
        for _ in range(3):
            assert (await client.ask(predict())).code is Code.OK
    # The block's end closes the reader first: what it held is given back, or the next line would not be reached.


async def test_what_is_not_taken_is_given_back_when_its_client_goes() -> None:
    async def large(_: Any) -> bytes:
        return bytes(300_000)

    async with grpc_cluster(GrpcWorker(large)) as client:
        async with slow_reader(client.port, PREDICT):
            await becomes(client, "grpc_bytes", 300_000 + 5)
        await becomes(client, "grpc_bytes", 0)
        await becomes(client, "grpc_calls", 0)


async def test_a_stream_whose_client_takes_nothing_leaves_its_worker_in_time() -> None:
    worker = GrpcWorker()
    async with grpc_cluster(worker, write_timeout=0.2) as client:
        async with slow_reader(client.port, STREAM, b"large"):
            await becomes(client, 'grpc_responses_total{code="DEADLINE_EXCEEDED"}', 1)
            assert await idle(client)
            assert await figure(client, "grpc_bytes") == 300_000, "it is still here"
        await becomes(client, "grpc_bytes", 0)


async def test_a_stream_may_carry_more_than_there_is_room_for_as_long_as_it_is_taken() -> None:
    async with grpc_cluster(GrpcWorker(), replay_total=2_000_000) as client:
        call = client.channel.stream_stream(STREAM)()
        for _ in range(12):
            await call.write(b"large")
            assert await call.read() == bytes(300_000)
        await call.done_writing()
        assert await code_of(call) is Code.OK


async def test_a_stream_that_falls_silent_ends_and_one_that_speaks_does_not() -> None:
    worker = GrpcWorker()
    async with grpc_cluster(worker, tunnel_idle=0.3) as client:
        call = client.channel.stream_stream(STREAM)()
        for _ in range(5):
            await call.write(b"a")
            assert await call.read() == b"<a>"
            await asyncio.sleep(0.1)
        assert await code_of(call) is Code.DEADLINE_EXCEEDED
        assert await call.details() == "nothing was said for 0.3 seconds"
        assert await idle(client)


class Commons:
    """As much of it as a room asks for."""

    def __init__(self, total: int) -> None:
        self.settings = SimpleNamespace(
            body_timeout=1.0, max_connections=9, max_connections_per_peer=9, replay_total=total
        )
        self.loop = asyncio.get_running_loop()
        self.stats = SimpleNamespace(grpc_refused=Counter())
        self.replay = SimpleNamespace(used=0)
        self.grpc_calls = self.grpc_bytes = 0


async def test_one_may_hold_as_much_as_is_left_for_the_others_then() -> None:
    commons: Any = Commons(100)
    room = grpc_room.Room(commons)
    with pytest.raises(Refused):
        room.hold("a", 51)
    room.hold("a", 50)
    with pytest.raises(Refused):
        room.hold("a", 1)
    room.hold("b", 25)
    with pytest.raises(Refused):
        room.hold("b", 1)
    room.hold("a", -50)
    room.hold("b", 1)
    assert commons.grpc_bytes == 26
    assert commons.stats.grpc_refused == {"memory": 3}


async def test_of_a_call_that_is_over_nothing_is_left() -> None:
    commons: Any = Commons(100)
    room = grpc_room.Room(commons)
    context: Any = SimpleNamespace(add_done_callback=lambda _: None)
    visit = room.enter("a", context)
    visit.hold(10)
    assert (commons.grpc_calls, commons.grpc_bytes) == (1, 10)
    visit.leave(None)
    visit.hold(10)  # its answer may come yet
    assert (commons.grpc_calls, commons.grpc_bytes) == (0, 0)
    assert (room._calls, room._held) == ({}, {})


async def test_requests_that_came_since_the_last_look_have_nothing_to_do_with_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    used = 0
    monkeypatch.setattr(grpc_room, "in_use", lambda: used)
    commons: Any = Commons(100)
    room = grpc_room.Room(commons)
    timeouts: dict[str, asyncio.Timeout] = {}
    async with AsyncExitStack() as life:
        for name in ("b1", "a1", "b2"):
            timeouts[name] = await life.enter_async_context(asyncio.timeout(60))
            room.coming(name[0], timeouts[name])
        room._look()
        for _ in range(5):
            fresh = await life.enter_async_context(asyncio.timeout(60))
            room.coming("b", fresh)
        used = 101
        room._look()
        left = list(room._coming)
        for timeout in (*timeouts.values(), fresh):
            timeout.reschedule(None)
        assert timeouts["b1"] not in left
        assert timeouts["b2"] not in left
        assert timeouts["a1"] in left
        assert fresh in left
        for timeout in left:
            room.came(timeout)
        assert not room._coming


async def test_a_stream_in_which_only_the_worker_speaks_is_not_silent() -> None:
    worker = GrpcWorker()
    async with grpc_cluster(worker, tunnel_idle=0.3) as client:
        call = client.channel.stream_stream(STREAM)()
        await call.write(b"tick")
        assert [await call.read() for _ in range(6)] == [b"tick"] * 6
        call.cancel()


async def test_a_further_message_of_a_stream_has_no_more_room_than_the_first() -> None:
    worker = GrpcWorker()
    async with grpc_cluster(worker, replay_total=1000) as client:
        call = client.channel.stream_stream(STREAM)()
        await call.write(b"a")
        assert await call.read() == b"<a>"
        await call.write(bytes(501))
        assert await code_of(call) is Code.RESOURCE_EXHAUSTED
        await becomes(client, "grpc_bytes", 0)
        assert await idle(client)


@asynccontextmanager
async def slow_reader(port: int, method: str, message: bytes = b"hello") -> AsyncIterator[None]:
    """A client that asks, and never lets more come than HTTP/2's first 64 KiB."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    literal = b"".join(
        b"\x00" + bytes([len(name)]) + name + bytes([len(value)]) + value
        for name, value in (
            (b":method", b"POST"), (b":scheme", b"http"), (b":path", method.encode()), (b":authority", b"x"),
            (b"te", b"trailers"), (b"content-type", b"application/grpc"),
        )
    )  # fmt: skip
    writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _frame(4, 0, 0, b"") + _frame(1, 4, 1, literal))
    writer.write(_frame(0, 1, 1, b"\x00" + len(message).to_bytes(4, "big") + message))
    reading = asyncio.create_task(reader.read(2**24))
    try:
        yield
    finally:
        reading.cancel()
        writer.transport.abort()


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


async def test_a_connection_that_says_nothing_is_closed() -> None:
    async with grpc_cluster(GrpcWorker(), header_timeout=0.3) as client:
        reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
        async with asyncio.timeout(10):
            while await reader.read(1000):
                pass
        writer.close()


async def test_a_connection_that_is_idle_for_long_is_closed_and_its_client_calls_on() -> None:
    async with grpc_cluster(GrpcWorker(), idle_timeout=0.3) as client:
        assert (await client.ask(predict())).code is Code.OK
        ready = grpc.ChannelConnectivity.READY
        async with asyncio.timeout(10):
            await client.channel.wait_for_state_change(ready)
        assert (await client.ask(predict())).code is Code.OK

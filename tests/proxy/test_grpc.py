"""gRPC through the proxy, when all is well: what a client and a worker see of each other."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import grpc
import pytest

from discovery.worker_json import to_json
from tests.proxy.grpc_harness import (
    HEALTH,
    STATUS,
    Code,
    GrpcClient,
    GrpcWorker,
    Heard,
    grpc_cluster,
    multi_inference,
    predict,
    status,
)
from tests.proxy.harness import until

SERVING, NOT_SERVING = b"\x08\x01", b"\x08\x02"


async def test_a_call_and_its_answer_go_through_byte_for_byte() -> None:
    async def answer(heard: Heard) -> bytes:
        return heard.request[::-1]

    async with grpc_cluster(GrpcWorker(answer)) as client:
        for request in (predict(), b"", b"\xff not a message", predict() + bytes(300)):
            got = await client.ask(request)
            assert (got.answer, got.code) == (request[::-1], Code.OK)


async def test_messages_beyond_what_grpc_allows_by_itself_go_through_both_ways() -> None:
    async def answer(heard: Heard) -> bytes:
        return heard.request

    request = predict() + bytes(5 * 2**20)
    async with grpc_cluster(GrpcWorker(answer)) as client:
        assert (await client.ask(request)).answer == request


async def test_a_request_beyond_the_limit_of_bodies_is_refused() -> None:
    worker = GrpcWorker()
    async with grpc_cluster(worker, max_body=1000) as client:
        assert (await client.ask(bytes(1001))).code is Code.RESOURCE_EXHAUSTED
    assert not worker.calls


async def test_no_host_is_every_address() -> None:
    async with grpc_cluster(GrpcWorker(), host="") as client:
        assert (await client.ask(predict())).code is Code.OK


async def test_workers_take_turns() -> None:
    workers = [GrpcWorker() for _ in range(3)]
    async with grpc_cluster(*workers) as client:
        for _ in range(9):
            assert (await client.ask(predict())).code is Code.OK
    assert [len(worker.calls) for worker in workers] == [3, 3, 3]


async def test_metadata_travels_and_what_is_of_one_connection_does_not() -> None:
    async def answer(heard: Heard) -> bytes:
        await heard.context.send_initial_metadata((("early", "1"), ("early-bin", b"\x00\xff")))
        late = (("late", "2"), ("x-served-by", "the worker itself"), ("x-request-id", "its own"))
        heard.context.set_trailing_metadata(late)
        return b"done"

    worker = GrpcWorker(answer)
    async with grpc_cluster(worker) as client:
        got = await client.ask(
            predict(),
            metadata=(
                ("tenant", "me"), ("key-bin", b"\x00\x01"), ("x-request-id", "mine-1"), ("x-forwarded-for", "10.1.1.1"),
                ("host", "elsewhere"),
            ),
        )  # fmt: skip
    sent = worker.calls[0].metadata
    assert (sent["tenant"], sent["key-bin"], sent["x-request-id"]) == ("me", b"\x00\x01", "mine-1")
    assert sent["x-forwarded-for"] == "10.1.1.1, 127.0.0.1"
    assert "host" not in sent
    assert (got.initial["early"], got.initial["early-bin"]) == ("1", b"\x00\xff")
    assert (got.trailing["late"], got.trailing["x-served-by"]) == ("2", "the worker itself")
    assert [value for key, value in got.pairs if key in ("x-request-id", "x-served-by")] == [
        "the worker itself",
        "mine-1",
    ]
    assert re.fullmatch(r"proxy;dur=[0-9.]+, attempts;desc=1", got.trailing["server-timing"])


@pytest.mark.parametrize("own", ["", "with a space", "x" * 129])
async def test_a_call_without_a_sane_id_gets_one_that_both_sides_see(own: str) -> None:
    worker = GrpcWorker()
    async with grpc_cluster(worker) as client:
        got = await client.ask(predict(), metadata=(("x-request-id", own),) if own else None)
    assert got.trailing["x-request-id"] == worker.calls[0].metadata["x-request-id"]
    assert re.fullmatch(r"[0-9a-f]+-[0-9a-f]+", got.trailing["x-request-id"])
    assert got.trailing["x-served-by"] == worker.id


async def test_an_error_comes_back_with_its_code_sentence_and_metadata() -> None:
    async def answer(heard: Heard) -> bytes:
        details = (("grpc-status-details-bin", b"\x08\x03"), ("late", "2"))
        await heard.context.abort(Code.INVALID_ARGUMENT, "input size does not match: ü", details)
        raise AssertionError

    first, second = GrpcWorker(answer), GrpcWorker(answer)
    async with grpc_cluster(first, second) as client:
        got = await client.ask(predict())
    assert (got.code, got.details) == (Code.INVALID_ARGUMENT, "input size does not match: ü")
    assert (got.trailing["grpc-status-details-bin"], got.trailing["late"]) == (b"\x08\x03", "2")
    assert len(first.calls) + len(second.calls) == 1


async def test_a_deadline_travels_to_the_worker() -> None:
    left: list[float | None] = []

    async def answer(heard: Heard) -> bytes:
        left.append(heard.context.time_remaining())
        return b""

    async with grpc_cluster(GrpcWorker(answer), response_timeout=500.0) as client:
        await client.ask(predict(), timeout=100)
        await client.ask(predict())
    assert left[0] is not None
    assert left[1] is not None
    assert 50 < left[0] <= 110  # gRPC rounds up
    assert 110 < left[1] <= 510


async def test_a_client_that_cancels_is_heard_of_by_the_worker() -> None:
    cancelled = asyncio.Event()

    async def answer(heard: Heard) -> bytes:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise
        raise AssertionError

    worker = GrpcWorker(answer)
    async with grpc_cluster(worker) as client:
        call = client.call(predict())
        await until(lambda: bool(worker.calls))
        call.cancel()
        async with asyncio.timeout(10):
            await cancelled.wait()
        assert "muster_proxy_cancelled_total 1.0" in await client.metrics()
        seat = (await client.seats())[worker.id]
        assert (seat["in_flight"], seat["state"]) == (0, "ready")


async def test_a_deadline_that_passes_frees_the_worker_and_is_no_fault_of_its() -> None:
    cancelled = asyncio.Event()

    async def answer(heard: Heard) -> bytes:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        raise AssertionError

    worker = GrpcWorker(answer)
    async with grpc_cluster(worker) as client:
        got = await client.ask(predict(), timeout=0.2)
        assert got.code is Code.DEADLINE_EXCEEDED
        async with asyncio.timeout(10):
            await cancelled.wait()
        assert (await client.seats())[worker.id]["state"] == "ready"


# Which worker


async def test_a_call_goes_to_a_worker_that_has_its_model_and_version() -> None:
    cats = GrpcWorker(models=("cats",), versions=(("cats", 1),))
    dogs = GrpcWorker(models=("dogs",), versions=(("dogs", 1),))
    new_dogs = GrpcWorker(models=("dogs",), versions=(("dogs", 2),))
    async with grpc_cluster(cats, dogs, new_dogs) as client:
        for _ in range(3):
            assert (await client.ask(predict("cats"))).answer == cats.id.encode()
            assert (await client.ask(predict("dogs", version=2))).answer == new_dogs.id.encode()
            assert (await client.ask(status("cats"), STATUS)).answer == cats.id.encode()
            method = "/tensorflow.serving.PredictionService/MultiInference"
            assert (await client.ask(multi_inference("cats", "cats"), method)).answer == cats.id.encode()
        assert (await client.ask(predict("dogs", label="stable"))).answer in (dogs.id.encode(), new_dogs.id.encode())


async def test_a_model_that_nobody_has_is_not_found_and_the_known_ones_are_named() -> None:
    worker = GrpcWorker(models=("cats", "dogs"))
    async with grpc_cluster(worker) as client:
        got = await client.ask(predict("mice"))
    assert got.code is Code.NOT_FOUND
    assert "Servable not found for request: Latest(mice)" in got.details
    assert got.details.endswith("the models here are: cats, dogs")
    assert "x-request-id" in got.trailing
    assert not worker.calls


async def test_a_worker_that_speaks_no_grpc_is_not_asked() -> None:
    deaf, hears = GrpcWorker(grpc=False), GrpcWorker()
    async with grpc_cluster(deaf, hears) as client:
        for _ in range(4):
            assert (await client.ask(predict())).answer == hears.id.encode()
    assert not deaf.calls


async def test_nobody_there_is_unavailable() -> None:
    async with grpc_cluster() as client:
        got = await client.ask(predict())
        assert (got.code, got.details) == (Code.UNAVAILABLE, "no worker is available; they may be starting")
    async with grpc_cluster(GrpcWorker(grpc=False)) as client:
        got = await client.ask(predict())
        assert got.code is Code.UNAVAILABLE
        assert "speaks gRPC" in got.details


# Other services


async def test_a_stream_goes_through_both_ways_as_it_comes() -> None:
    worker = GrpcWorker()
    async with grpc_cluster(worker) as client:
        call = client.channel.stream_stream("/other.Service/Stream")(metadata=(("tenant", "me"),))
        for message in (b"a", b"", b"c" * 100_000):
            await call.write(message)
            assert await call.read() == b"<" + message + b">"
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF
        assert await call.code() is Code.OK
        assert dict(await call.trailing_metadata())["x-served-by"] == worker.id
        assert (await client.seats())[worker.id]["in_flight"] == 0
    assert worker.calls[0].metadata["tenant"] == "me"


async def test_a_stream_that_fails_half_way_says_so() -> None:
    async with grpc_cluster(GrpcWorker()) as client:
        call = client.channel.stream_stream("/other.Service/Stream")()
        await call.write(b"a")
        assert await call.read() == b"<a>"
        await call.write(b"fail")
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await call.read()
        assert (raised.value.code(), raised.value.details()) == (Code.DATA_LOSS, "half of it is lost")


async def test_a_client_that_leaves_its_stream_leaves_nothing_behind() -> None:
    worker = GrpcWorker()
    async with grpc_cluster(worker) as client:
        call = client.channel.stream_stream("/other.Service/Stream")()
        await call.write(b"a")
        assert await call.read() == b"<a>"
        assert (await client.seats())[worker.id]["in_flight"] == 1
        call.cancel()
        async with asyncio.timeout(10):
            while (await client.seats())[worker.id]["in_flight"]:  # noqa: ASYNC110  # plain state in another program
                await asyncio.sleep(0.01)


async def test_a_method_of_one_answer_that_the_proxy_does_not_know_goes_through_as_well() -> None:
    worker = GrpcWorker()
    async with grpc_cluster(worker) as client:
        assert (await client.ask(b"x", "/tensorflow.ProfilerService/Profile")).answer == worker.id.encode()


async def test_a_reload_is_refused_because_it_would_meet_one_worker_only() -> None:
    worker = GrpcWorker()
    async with grpc_cluster(worker) as client:
        got = await client.ask(b"", "/tensorflow.serving.ModelService/HandleReloadConfigRequest")
    assert got.code is Code.FAILED_PRECONDITION
    assert "each of them" in got.details
    assert not worker.calls


# Health, figures, the end


async def test_health_says_whether_there_is_a_worker() -> None:
    async with grpc_cluster(GrpcWorker()) as client:
        for name in (b"", b"\x0a\x11PredictionService", b"\x0a\x24tensorflow.serving.PredictionService"):
            assert (await client.ask(name, HEALTH + "Check")).answer == SERVING
        assert (await client.ask(b"\x0a\x04nope", HEALTH + "Check")).code is Code.NOT_FOUND
    async with grpc_cluster(GrpcWorker(grpc=False)) as client:
        assert (await client.ask(b"", HEALTH + "Check")).answer == NOT_SERVING


async def test_a_burst_of_calls_waits_for_its_turn() -> None:
    async with grpc_cluster(GrpcWorker()) as client:
        told = await asyncio.gather(*(client.ask(b"", HEALTH + "Check") for _ in range(4000)))
    assert {one.code for one in told} == {Code.OK}


async def test_who_watches_the_health_hears_of_each_change_and_of_the_end() -> None:
    worker = GrpcWorker()
    async with grpc_cluster(worker) as client:
        patient = GrpcClient(client.port)  # the other one is closed with the block
        watch = patient.channel.unary_stream(HEALTH + "Watch")(b"")
        async with asyncio.timeout(10):
            assert await watch.read() == SERVING
            await worker.stop()  # the fixed list is probed
            assert await watch.read() == NOT_SERVING
            await worker.start()
            assert await watch.read() == SERVING
        last = asyncio.create_task(_last(watch))
    assert await last == [NOT_SERVING, grpc.aio.EOF]
    await patient.channel.close()


async def _last(watch: Any) -> list[Any]:
    return [await watch.read(), await watch.read()]


async def test_calls_are_counted_by_their_codes() -> None:
    worker = GrpcWorker()
    async with grpc_cluster(worker) as client:
        await client.ask(predict())
        await client.ask(predict())
        await client.ask(predict("mice"))
        metrics = await client.metrics()
        assert (await client.seats())[worker.id]["picks"] == 2
    assert 'muster_proxy_grpc_responses_total{code="OK"} 2.0' in metrics
    assert 'muster_proxy_grpc_responses_total{code="NOT_FOUND"} 1.0' in metrics
    assert "muster_proxy_grpc_seconds_count 3.0" in metrics


async def test_asked_to_end_it_finishes_the_calls_under_way() -> None:
    go_on = asyncio.Event()

    async def answer(heard: Heard) -> bytes:
        await go_on.wait()
        return b"finished"

    worker = GrpcWorker(answer)
    async with grpc_cluster(worker, drain_timeout=10.0) as client:
        patient = GrpcClient(client.port)  # the other one is closed with the block
        finishing = asyncio.create_task(patient.ask(predict()))
        await until(lambda: bool(worker.calls))
        asyncio.get_running_loop().call_later(0.2, go_on.set)
    assert (await finishing).answer == b"finished"
    await patient.channel.close()


def test_the_addresses_of_workers_are_told_with_their_grpc_port() -> None:
    assert to_json(GrpcWorker().worker)["grpc_port"]

"""What happens to a request when its worker fails, and to a worker when its client leaves."""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections import Counter

import h11
import pytest

from proxy import trials
from tests.proxy.harness import (
    Answer,
    Client,
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


def dies_after_reading() -> Answer:
    async def answer(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_body(seen, reader)
        writer.transport.abort()

    return answer


async def states(proxy: RunningProxy) -> dict[str, str]:
    workers = (await proxy.ask(get(b"/workers"))).json["workers"]
    assert isinstance(workers, list)
    return {worker["id"]: worker["state"] for worker in workers}


async def test_a_worker_that_refuses_is_passed_over_at_once_and_rests() -> None:
    ann, bob = ScriptedWorker(name="ann"), ScriptedWorker(name="bob")
    async with cluster(ann, bob, rest=60.0, rest_longest=60.0) as proxy:
        await ann.stop()
        async with proxy.client() as client:
            started = time.monotonic()
            served = Counter([(await client.ask(post(b"picture"))).body for _ in range(20)])
            assert time.monotonic() - started < 1.0
            assert served == {b"bob": 20}
            metrics = (await client.ask(get(b"/metrics"))).body.decode()
        assert 'muster_proxy_failed_attempts_total{reason="unreachable"} 1.0' in metrics


async def test_a_worker_that_dies_with_a_request_in_its_hands_costs_nobody_an_answer() -> None:
    ann, bob = ScriptedWorker(dies_after_reading(), name="ann"), ScriptedWorker(name="bob")
    body = bytes(range(256)) * 400
    async with cluster(ann, bob) as proxy, proxy.client() as client:
        answers = [await client.ask(post(body)) for _ in range(4)]
    assert [got.body for got in answers] == [b"bob"] * 4
    assert all(seen.body == body for seen in bob.seen)
    assert len(ann.seen) == 1  # and then it rests
    assert any(got.values(b"server-timing")[-1].endswith(b"attempts;desc=2") for got in answers)


async def test_a_chunked_body_is_sent_again_whole() -> None:
    ann, bob = ScriptedWorker(dies_after_reading(), name="ann"), ScriptedWorker(dies_after_reading(), name="bob")
    async with cluster(ann, bob) as proxy, proxy.client() as client:
        bob.answer = always(response(b"bob"))
        for _ in range(2):
            client.writer.write(b"POST /x HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
            await asyncio.sleep(0.01)
            client.writer.write(b"6\r\n world\r\n0\r\n\r\n")
            assert (await client.answer_to(b"POST")).body == b"bob"
    assert [seen.body for seen in bob.seen] == [b"hello world"] * 2


async def test_a_request_is_not_run_twice_on_workers_that_did_not_promise_it_is_safe() -> None:
    workers = [ScriptedWorker(dies_after_reading(), replay_safe=False) for _ in range(2)]
    async with cluster(*workers) as proxy:
        got = await proxy.ask(post(b"charge my card"))
    assert (got.status, got.json["code"]) == (502, "worker_broke")
    assert sum(len(worker.seen) for worker in workers) == 1


async def test_reading_is_safe_to_repeat_on_any_worker() -> None:
    ann = ScriptedWorker(dies_after_reading(), replay_safe=False, name="ann")
    bob = ScriptedWorker(replay_safe=False, name="bob")
    async with cluster(ann, bob) as proxy:
        assert {(await proxy.ask(get())).body for _ in range(4)} == {b"bob"}


async def test_a_request_that_kills_workers_kills_two_and_no_more() -> None:
    workers = [ScriptedWorker(dies_after_reading()) for _ in range(4)]
    async with cluster(*workers) as proxy:
        got = await proxy.ask(post(b"poison"))
    assert (got.status, got.json["code"]) == (502, "worker_broke")
    assert sum(len(worker.seen) for worker in workers) == 2


async def test_a_kept_connection_that_died_is_made_up_for_on_a_fresh_one() -> None:
    """The worker closes after each answer without saying so; the proxy finds out when it writes."""
    writers: list[asyncio.StreamWriter] = []

    async def answer(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if writer in writers:
            writer.transport.abort()  # a second request on one connection: this is the keep-alive race
            return
        writers.append(writer)
        await read_body(seen, reader)
        writer.write(response(b"fresh"))

    worker = ScriptedWorker(answer)
    async with cluster(worker) as proxy, proxy.client() as client:
        for _ in range(10):
            assert (await client.ask(post(b"picture"))).body == b"fresh"
        assert await states(proxy) == {worker.id: "ready"}


async def test_a_body_beyond_the_replay_limit_is_streamed_once() -> None:
    ann, bob = ScriptedWorker(dies_after_reading()), ScriptedWorker(dies_after_reading())
    async with cluster(ann, bob, replay_body=1000) as proxy:
        got = await proxy.ask(post(bytes(1001)))
        assert got.status == 502
        assert len(ann.seen) + len(bob.seen) == 1
        metrics = (await proxy.ask(get(b"/metrics"))).body
    assert b"muster_proxy_replay_bytes 0.0" in metrics


@pytest.mark.parametrize(
    "start",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
        b"HTTP/1.1 200 OK\r\n\r\nhalf",
    ],
    ids=["counted", "chunked", "until closed"],
)
@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
async def test_an_answer_that_breaks_off_never_looks_complete(start: bytes, version: bytes) -> None:
    """Also where only the end of the connection would tell the end of the body: then it has to be a reset."""

    async def answer(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(start)
        await writer.drain()
        await asyncio.sleep(0.05)
        sock = writer.get_extra_info("socket")
        sock.setsockopt(1, 13, (1).to_bytes(4, "little") + bytes(4))  # SOL_SOCKET, SO_LINGER: reset on close
        writer.transport.abort()

    async with cluster(ScriptedWorker(answer)) as proxy, proxy.client() as client:
        client.writer.write(b"GET /x HTTP/%b\r\nHost: test\r\n\r\n" % version)
        if version == b"1.1":
            with pytest.raises((ConnectionError, h11.RemoteProtocolError)):
                await client.answer_to(b"GET")
        else:
            with pytest.raises(ConnectionResetError):
                await client.reader.read()


@pytest.mark.parametrize(
    "garbage",
    [b"SSH-2.0-OpenSSH_9.2\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n", b"\x00" * 20000],
    ids=["another protocol", "bad length", "endless head"],
)
async def test_an_answer_that_is_not_http_is_not_passed_on(garbage: bytes) -> None:
    async with cluster(ScriptedWorker(always(garbage))) as proxy:
        got = await proxy.ask(post(b"x"))
    assert (got.status, got.json["code"]) == (502, "worker_broke")


async def test_a_silent_worker_is_given_up_in_time_and_its_client_told() -> None:
    async def answer(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with cluster(ScriptedWorker(answer), response_timeout=0.5) as proxy:
        got = await proxy.ask(post(b"x"))
    assert (got.status, got.json["code"]) == (504, "worker_timeout")


async def test_without_workers_the_answer_is_an_error_at_once() -> None:
    async with cluster() as proxy, proxy.client() as client:
        await client.ask(get())
        started = time.perf_counter()
        got = await client.ask(post(b"x" * 1000))
        assert time.perf_counter() - started < 0.1
    assert got.status == 503
    assert got.json["code"] == "no_workers"
    assert got.values(b"retry-after") == [b"1"]
    assert got.values(b"content-type") == [b"application/json"]


async def test_when_all_rest_they_are_asked_all_the_same() -> None:
    worker = ScriptedWorker(dies_after_reading())
    async with cluster(worker, rest=60.0, rest_longest=60.0) as proxy:
        assert (await proxy.ask(post(b"x"))).status == 502
        assert await states(proxy) == {worker.id: "resting"}
        worker.answer = always(response(b"recovered"))
        assert (await proxy.ask(post(b"x"))).body == b"recovered"
        assert await states(proxy) == {worker.id: "ready"}


async def test_when_the_client_leaves_the_worker_is_told() -> None:
    left = asyncio.Event()

    async def answer(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_body(seen, reader)
        assert await reader.read() == b""
        left.set()

    worker = ScriptedWorker(answer)
    async with cluster(worker) as proxy:
        client = await proxy.connect()
        client.writer.write(post(b"picture"))
        await until(lambda: bool(worker.seen))
        client.close()
        await asyncio.wait_for(left.wait(), 1)
        assert await states(proxy) == {worker.id: "ready"}
        workers = (await proxy.ask(get(b"/workers"))).json["workers"]
        assert isinstance(workers, list)
        assert workers[0]["in_flight"] == 0


async def test_a_client_that_leaves_while_a_connection_is_made_leaves_nothing_behind() -> None:
    worker = ScriptedWorker()
    async with cluster(worker) as proxy:
        for _ in range(50):
            client = await proxy.connect()
            client.writer.write(post(b"picture"))
            await asyncio.sleep(0)
            client.close()
        got = await proxy.ask(get(b"/workers"))
        workers = got.json["workers"]
        assert isinstance(workers, list)
        assert workers[0]["in_flight"] == 0
        assert (await proxy.ask(post(b"x"))).status == 200


async def test_a_worker_that_hangs_up_at_once_leaves_no_request_hanging() -> None:
    async def answer(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_body(seen, reader)
        writer.write(response(b"fine", headers=b"Connection: close\r\n"))

    worker = ScriptedWorker(answer)
    async with cluster(worker, rest=0.001, rest_longest=0.001) as proxy:
        await proxy.ask(get())
        await worker.stop()
        server = await asyncio.start_server(lambda _, writer: hang_up(writer), "127.0.0.1", worker.port)
        for _ in range(50):
            assert (await proxy.ask(get())).status == 502
        server.close()


def hang_up(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset
    writer.transport.abort()


async def test_a_request_that_waited_behind_another_is_not_begun_for_a_client_that_left() -> None:
    clients: dict[bytes, Client] = {}

    async def answer(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_body(seen, reader)
        if seen.body in clients:
            hang_up(clients.pop(seen.body).writer)
        writer.write(response(b"too late"))

    async with cluster(ScriptedWorker(answer)) as proxy:
        for turn in range(20):
            for number in range(20):
                name = b"%d of %d" % (number, turn)
                client = clients[name] = await proxy.connect()
                client.writer.write(post(name) + get() + post(b"never complete")[:-1])
            await until(lambda: not clients)
        await asyncio.sleep(0.1)
        workers = (await proxy.ask(get(b"/workers"))).json["workers"]
        assert isinstance(workers, list)
        assert workers[0]["in_flight"] == 0


async def test_a_body_that_could_not_be_sent_again_does_not_start_on_a_kept_connection() -> None:
    """Here every kept connection is dead by the time that it is used again."""
    used: list[asyncio.StreamWriter] = []

    async def answer(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if writer in used:
            writer.transport.abort()
            return
        used.append(writer)
        await read_body(seen, reader)
        writer.write(response(b"fresh"))

    async with cluster(ScriptedWorker(answer), replay_body=1000) as proxy, proxy.client() as client:
        for _ in range(5):
            assert (await client.ask(post(bytes(5000)))).body == b"fresh"


@pytest.mark.parametrize(
    ("recent", "replay_safe", "budget", "connections"),
    [(0.01, False, 0.2, 4), (60.0, False, 0.2, 1), (0.01, True, 0.2, 1), (0.01, True, 0.0, 5)],
)
async def test_what_may_not_be_sent_again_starts_on_a_kept_connection_only_if_it_was_in_use_a_moment_ago(
    recent: float, replay_safe: bool, budget: float, connections: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trials, "RECENT", recent)
    used: set[asyncio.StreamWriter] = set()

    async def answer(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        used.add(writer)
        await read_body(seen, reader)
        writer.write(response(b"done"))

    worker = ScriptedWorker(answer, replay_safe=replay_safe)
    async with cluster(worker, retry_budget=budget) as proxy, proxy.client() as client:
        for _ in range(4):
            assert (await client.ask(post(b"once"))).body == b"done"
            await asyncio.sleep(0.03)  # the connection grows older than that
        # This may run twice, and takes what is there, unless nothing is sent again.
        assert (await client.ask(get())).body == b"done"
    assert len(used) == connections


def declines(name: bytes) -> Answer:
    return always(response(name, b"503 Service Unavailable", b"Retry-After: 7\r\n"))


async def test_what_one_worker_declines_another_takes() -> None:
    ann, bob = ScriptedWorker(declines(b"ann"), name="ann"), ScriptedWorker(name="bob")
    body = bytes(range(256)) * 400
    async with cluster(ann, bob) as proxy, proxy.client() as client:
        for _ in range(6):
            assert (await client.ask(post(body))).body == b"bob"
    assert ann.seen
    assert all(seen.body == body for seen in bob.seen)


async def test_when_all_decline_the_client_hears_it_in_the_workers_own_words() -> None:
    ann, bob, cat = (ScriptedWorker(declines(name.encode()), name=name) for name in ("ann", "bob", "cat"))
    async with cluster(ann, bob, cat) as proxy:
        got = await proxy.ask(post(b"picture"))
    assert (got.status, got.values(b"retry-after")) == (503, [b"7"])
    assert [len(worker.seen) for worker in (ann, bob, cat)] == [1, 1, 1]


@pytest.mark.parametrize("replay_safe", [True, False])
async def test_a_worker_that_declines_is_heard_when_nobody_else_may_be_asked(replay_safe: bool) -> None:
    workers = [ScriptedWorker(declines(b"no"), replay_safe=replay_safe) for _ in range(1 if replay_safe else 2)]
    async with cluster(*workers) as proxy, proxy.client() as client:
        for _ in range(2):
            got = await client.ask(post(b"picture"))
            assert (got.status, got.body) == (503, b"no")
    assert sum(len(worker.seen) for worker in workers) == 2


async def test_what_all_bodies_together_may_not_keep_is_not_sent_again() -> None:
    broken: list[int] = []

    async def breaks(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_body(seen, reader)
        broken.append(len(seen.body))
        writer.transport.abort()

    workers = [ScriptedWorker(breaks) for _ in range(2)]
    async with cluster(*workers, replay_total=1000) as proxy, proxy.client() as client:
        client.writer.write(post(bytes(2000))[:-1000])
        await until(lambda: any(worker.seen for worker in workers))
        client.writer.write(bytes(1000))
        assert (await client.answer_to(b"POST")).status == 502
    assert broken == [2000]


async def test_a_connection_on_which_a_body_was_not_sent_to_its_end_serves_nobody_else() -> None:
    async def does_not_wait(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(response(b"enough"))
        await read_body(seen, reader)

    worker = ScriptedWorker(does_not_wait)
    async with cluster(worker) as proxy, proxy.client() as client:
        client.writer.write(post(bytes(2000), headers=b"Connection: close\r\n")[:-1000])
        assert (await client.answer_to(b"POST")).body == b"enough"
        assert (await proxy.ask(get(b"/next"))).body == b"enough"
        assert [seen.line for seen in worker.seen] == [b"POST /classify HTTP/1.1", b"GET /next HTTP/1.1"]

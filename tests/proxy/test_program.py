"""The proxy as a process of its own."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import struct
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import psutil
import pytest

from tests.consul_agent import free_ports
from tests.proxy.harness import (
    DEADLINE,
    Client,
    RunningProxy,
    ScriptedWorker,
    Seen,
    cluster,
    get,
    post,
    read_body,
    response,
    until,
)

MIB = 2**20


@asynccontextmanager
async def program(*options: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, RunningProxy]]:
    (port,) = free_ports(1)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "proxy", "--host", "127.0.0.1", "--port", str(port), *options,
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        async with asyncio.timeout(DEADLINE):
            while True:
                with suppress(ConnectionError):
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                    writer.close()
                    break
                assert process.returncode is None
                await asyncio.sleep(0.02)
        yield process, RunningProxy(port)
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


@asynccontextmanager
async def running(worker: ScriptedWorker) -> AsyncIterator[str]:
    await worker.start()
    yield f"static://127.0.0.1:{worker.port}"
    await worker.stop()


async def test_an_upload_of_a_gibibyte_leaves_its_memory_as_it_was() -> None:
    size, received = 1024 * MIB, 0

    async def answer(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal received
        while received < size:
            received += len(await reader.read(MIB))
        writer.write(response(b"got it"))

    async with running(ScriptedWorker(answer)) as registry, program("--registry", registry) as (process, proxy):
        await proxy.ask(get(b"/healthz"))
        memory = psutil.Process(process.pid).memory_info
        before = peak = memory().rss
        async with proxy.client() as client:
            client.writer.write(b"POST /x HTTP/1.1\r\nHost: test\r\nContent-Length: %d\r\n\r\n" % size)
            for _ in range(size // (4 * MIB)):
                client.writer.write(bytes(4 * MIB))
                await client.writer.drain()
                peak = max(peak, memory().rss)
            assert (await client.answer_to(b"POST")).body == b"got it"
    assert received == size
    assert peak - before < 16 * MIB


async def test_asked_to_end_it_finishes_what_is_under_way_and_takes_nothing_new() -> None:
    go_on = asyncio.Event()

    async def answer(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_body(seen, reader)
        await go_on.wait()
        writer.write(response(b"finished"))

    worker = ScriptedWorker(answer)
    async with (
        running(worker) as registry,
        program("--registry", registry) as (process, proxy),
        proxy.client() as busy,
        proxy.client() as idle,
    ):
        await idle.ask(get(b"/healthz"))
        busy.writer.write(post(b"picture"))
        await until(lambda: bool(worker.seen))
        process.send_signal(signal.SIGTERM)
        await idle.closed()
        with pytest.raises(ConnectionError):
            await proxy.connect()
        go_on.set()
        got = await busy.answer_to(b"POST")
        assert (got.body, got.values(b"connection")) == (b"finished", [b"close"])
        assert await asyncio.wait_for(process.wait(), DEADLINE) == 0


async def test_asked_to_end_it_serves_what_a_client_has_sent_already_behind_the_request_under_way() -> None:
    go_on = asyncio.Event()

    async def answer(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await go_on.wait()
        writer.write(response(seen.line.split()[1]))

    worker = ScriptedWorker(answer)
    async with (
        running(worker) as registry,
        program("--registry", registry) as (process, proxy),
        proxy.client() as idle,
        proxy.client() as client,
    ):
        await idle.ask(get(b"/healthz"))
        client.writer.write(get(b"/1") + get(b"/2") + get(b"/3"))
        await until(lambda: bool(worker.seen))
        process.send_signal(signal.SIGTERM)
        await idle.closed()
        go_on.set()
        answers = [await client.answer_to(b"GET") for _ in range(3)]
        assert [one.body for one in answers] == [b"/1", b"/2", b"/3"]
        assert [one.values(b"connection") for one in answers] == [[], [], [b"close"]]
        assert await asyncio.wait_for(process.wait(), DEADLINE) == 0


async def test_its_port_taken_it_says_so_in_one_line_and_fails() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        status, said = await outcome("--port", str(port), "--host", "127.0.0.1", "--registry", "static://")
    assert status == 1
    assert f" cannot listen on 127.0.0.1 port {port}: address already in use\n" in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--port", "99999"], "--port: '99999' is not a port"),
        (["--max-body", "huge"], "--max-body: 'huge' is not a size"),
        (["--registry", "zookeeper://x"], "'zookeeper://x'"),
    ],
)
async def test_a_setting_that_makes_no_sense_is_named(options: list[str], complaint: str) -> None:
    status, said = await outcome(*options)
    assert status != 0
    assert complaint in said
    assert "Traceback" not in said


async def outcome(*options: str) -> tuple[int | None, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "proxy", *options, stderr=asyncio.subprocess.PIPE, env={**os.environ, "COLUMNS": "200"}
    )
    _, said = await asyncio.wait_for(process.communicate(), DEADLINE)
    return process.returncode, said.decode()


async def test_connections_to_workers_are_used_again_and_not_multiplied() -> None:
    worker = ScriptedWorker()
    async with cluster(worker) as proxy:
        clients = [await proxy.connect() for _ in range(20)]

        async def many(number: int) -> None:
            for _ in range(250):
                assert (await clients[number].ask(post(b"picture"))).status == 200

        await asyncio.gather(*(many(number) for number in range(20)))
        for client in clients:
            client.close()
        assert worker.open <= 22  # what was in flight at once, and the probe
        got = await proxy.ask(get(b"/workers"))
        workers = got.json["workers"]
        assert isinstance(workers, list)
        assert (workers[0]["in_flight"], workers[0]["picks"]) == (0, 5000)


async def test_clients_that_reset_their_connection_as_the_answer_comes_leave_no_traceback() -> None:
    clients: dict[bytes, Client] = {}

    async def answer(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_body(seen, reader)
        if seen.body in clients:
            clients.pop(seen.body).close()
        writer.write(response(b"too late"))

    async def come_and_go(proxy: RunningProxy, name: bytes) -> None:
        client = clients[name] = await proxy.connect()
        sock = client.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.writer.write(post(name) + get() * 20)
        await until(lambda: name not in clients)

    async with running(ScriptedWorker(answer)) as registry, program("--registry", registry) as (process, proxy):
        assert (await proxy.ask(get())).status == 200
        for turn in range(20):
            await asyncio.gather(*(come_and_go(proxy, b"%d of %d" % (number, turn)) for number in range(40)))
        assert (await proxy.ask(get())).status == 200
        process.send_signal(signal.SIGTERM)
        assert process.stderr is not None
        said = await asyncio.wait_for(process.stderr.read(), DEADLINE)
    assert b"Traceback" not in said


@pytest.mark.parametrize("processes", ["1", "2"])
async def test_one_that_is_started_without_standard_streams_serves_and_ends_as_any_other(processes: str) -> None:
    (port,) = free_ports(1)
    async with running(ScriptedWorker()) as registry:
        command = [sys.executable, "-m", "proxy", "--host", "127.0.0.1", "--port", str(port), "--registry", registry]
        process = await asyncio.create_subprocess_exec(
            "sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *command, "--no-grpc", "--processes", processes
        )
        try:
            async with asyncio.timeout(DEADLINE):
                while True:
                    with suppress(ConnectionError):
                        _, writer = await asyncio.open_connection("127.0.0.1", port)
                        break
                    assert process.returncode is None
                    await asyncio.sleep(0.02)
                assert (await RunningProxy(port).ask(post(b"x" * 1000))).status == 200
                writer.close()
                process.terminate()
                assert await process.wait() == 0
        finally:
            with suppress(ProcessLookupError):
                process.kill()

"""gRPC through the proxy as a process of its own, with its own event loop."""

from __future__ import annotations

import asyncio
import re
import signal
import socket

from tests.consul_agent import free_ports
from tests.proxy.grpc_harness import Code, GrpcClient, GrpcWorker, Heard, predict
from tests.proxy.harness import DEADLINE, get, until
from tests.proxy.test_program import outcome, program


async def test_it_serves_and_at_the_end_finishes_the_calls_under_way_without_a_word_of_trouble() -> None:
    go_on = asyncio.Event()

    async def answer(heard: Heard) -> bytes:
        if heard.metadata.get("wait"):
            await go_on.wait()
        return heard.request

    worker, dead = GrpcWorker(answer), GrpcWorker()
    (port,) = free_ports(1)
    await worker.start()
    await dead.start()
    registry = f"static://127.0.0.1:{worker.port},127.0.0.1:{dead.port}"
    client = GrpcClient(port)
    try:
        async with program("--registry", registry, "--grpc-port", str(port)) as (process, _):
            await dead.stop_grpc()
            for _ in range(4):
                assert (await client.ask(predict())).answer == predict()
            finishing = asyncio.create_task(client.ask(predict(), metadata=(("wait", "1"),)))
            await until(lambda: len(worker.calls) == 5)
            process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(DEADLINE):
                while (await client.ask(predict())).code is not Code.UNAVAILABLE:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            go_on.set()
            assert (await finishing).answer == predict()
            assert await asyncio.wait_for(process.wait(), DEADLINE) == 0
            assert process.stderr is not None
            said = (await process.stderr.read()).decode().splitlines()
    finally:
        await client.channel.close()
        await worker.stop()
        await dead.stop()
    assert all(re.match(r"\d{4}-\d\d-\d\d .* (INFO|WARNING) (proxy|discovery|muster)\.", line) for line in said), said
    assert any(line.endswith(f"listening for gRPC on port {port}, messages up to 64 MiB") for line in said)


async def test_a_port_for_grpc_that_is_taken_is_told_in_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        options = ("--host", "127.0.0.1", "--port", "0", "--registry", "static://", "--grpc-port", str(port))
        status, said = await outcome(*options)
    assert status == 1
    (line,) = [line for line in said.splitlines() if "cannot listen" in line]
    assert f"cannot listen on 127.0.0.1 port {port}: address already in use (--grpc-port, --no-grpc)" in line
    assert "Traceback" not in said


async def test_whoever_wants_no_grpc_gets_none() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        options = ("--registry", "static://", "--no-grpc", "--grpc-port", str(taken.getsockname()[1]))
        async with program(*options) as (_, proxy):
            assert (await proxy.ask(get(b"/healthz"))).status == 200

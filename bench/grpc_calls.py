"""What a gRPC call costs the proxy, beside the least that a proxy of the same library could cost.

    make bench-grpc             or      python -m bench.grpc_calls --seconds 3 --rounds 3

The least is a server of gRPC's asyncio API that passes every call on as bytes and does nothing else: no policy, no
metadata, no log. Both stand in front of the same worker, which answers at once, and get the same load from the same
client, in turns; each is one process. The figure is CPU time per call of the proxy alone. Loopback only.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import psutil

from bench.proxy import cpu_seconds, running
from discovery.worker_json import to_json
from muster.values import Worker
from tests.consul_agent import free_ports

METHOD = "/tensorflow.serving.PredictionService/Predict"
AT_ONCE = 16
# A PredictRequest for the model `m`: its `model_spec`, and an unknown field in place of a tensor.
REQUEST = b"\x0a\x03\x0a\x01m" + b"\x7a\x80\x08" + bytes(1024)
ANSWER = bytes(256)


class Passing(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Serves every method, as bytes, with one function."""

    def __init__(self, answer: Callable[[bytes, Any], Coroutine[Any, Any, bytes]]) -> None:
        self._handler = grpc.unary_unary_rpc_method_handler(answer)

    def service(self, handler_call_details: Any) -> Any:
        """Whatever it is called."""
        return self._handler


async def serve(port: int, answer: Callable[[bytes, Any], Coroutine[Any, Any, bytes]]) -> None:
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((Passing(answer),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


async def worker(port: int, http: int) -> None:
    """Answers calls on one port, and on the other says that it does."""
    told = json.dumps({"worker": to_json(Worker("worker", "127.0.0.1", http, ("m",), grpc_port=port))}).encode()
    page = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"

    async def answer(request: bytes, context: Any) -> bytes:
        return ANSWER

    async def describe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(page % (len(told), told))
        writer.close()

    async with await asyncio.start_server(describe, "127.0.0.1", http):
        await serve(port, answer)


async def bare(port: int, behind: int) -> None:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{behind}") as channel:
        ask = channel.unary_unary(METHOD)

        async def answer(request: bytes, context: Any) -> bytes:
            told: bytes = await ask(request)
            return told

        await serve(port, answer)


def started(life: ExitStack, role: Callable[..., Coroutine[Any, Any, None]], *ports: int) -> psutil.Process:
    process = multiprocessing.get_context("spawn").Process(target=play, args=(role, ports), daemon=True)
    process.start()
    life.callback(process.join)
    life.callback(process.terminate)
    assert process.pid is not None
    return psutil.Process(process.pid)


def play(role: Callable[..., Coroutine[Any, Any, None]], ports: tuple[int, ...]) -> None:
    asyncio.run(role(*ports))


async def load(port: int, seconds: float) -> int:
    """Call for so long, some calls at once, and say how many were answered."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        ask = channel.unary_unary(METHOD)
        assert await ask(REQUEST, wait_for_ready=True, timeout=15) == ANSWER
        end = time.monotonic() + seconds

        async def call() -> int:
            answered = 0
            while time.monotonic() < end:
                await ask(REQUEST)
                answered += 1
            return answered

        return sum(await asyncio.gather(*(call() for _ in range(AT_ONCE))))


def measure(process: psutil.Process, port: int, seconds: float) -> tuple[float, float]:
    """CPU time of a call in microseconds, and calls a second."""
    before = cpu_seconds(process)
    calls = asyncio.run(load(port, seconds))
    return (cpu_seconds(process) - before) / calls * 1e6, calls / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0, help="length of one measurement (default: 3)")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each (default: 3)")
    options = parser.parse_args()
    found: dict[str, list[tuple[float, float]]] = {"bare": [], "muster": []}
    with ExitStack() as life:
        folder = Path(life.enter_context(tempfile.TemporaryDirectory(prefix="muster-bench-")))
        behind, described, between, http, ours = free_ports(5)
        started(life, worker, behind, described)
        proxy = [sys.executable, "-m", "proxy", "--host", "127.0.0.1", "--port", str(http), "--grpc-port", str(ours),
                 "--registry", f"static://127.0.0.1:{described}", "--log-level", "warning"]  # fmt: skip
        asked = {
            "bare": (started(life, bare, between, behind), between),
            "muster": (life.enter_context(running(proxy, [http], folder)), ours),
        }
        for process, port in asked.values():  # so that what happens once is not counted
            measure(process, port, 0.5)
        for _ in range(options.rounds):
            for name, (process, port) in asked.items():
                found[name].append(measure(process, port, options.seconds))
    for name, rounds in found.items():
        cpu, rate = map(statistics.median, zip(*rounds, strict=True))
        print(f"{name:>7}: {cpu:.0f} µs CPU a call, {rate:,.0f} calls/s")


if __name__ == "__main__":
    main()

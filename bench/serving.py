"""What a prediction costs over REST and over gRPC, beside the same model called in this process.

    make bench-serving          or      python -m bench.serving --seconds 2 --rounds 3 [--json]

Two models: one that does next to nothing, so that the doors are all that is measured, and an image network of some
milliseconds, so that they hardly count. Each is called in process (as many threads as the worker has runners) and
through `python -m worker` with tensorflow_model_server's flags, by clients in a process of their own that keep 16
requests under way; beside the small one stand servers of the same kinds that read a request and send what is always
the same answer. What is measured takes turns, and the medians of the rounds are shown. On a machine with few cores the
clients take their share of them, and whoever else works there his; the server's CPU time per request (user + system)
depends on that least. Loopback only.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import grpc
import numpy as np
import psutil
import uvloop
from aiohttp import web
from rich.console import Console
from rich.table import Table

from tests.consul_agent import free_ports
from worker.messages import serving
from worker.models.tensorflow_quietly import tf

UNDER_WAY = 16
SERVICE = "tensorflow.serving.PredictionService"
RUNNERS = os.cpu_count() or 1


@dataclass(frozen=True)
class Sample:
    """One model behind one door."""

    model: str
    door: str
    rate: float  # predictions a second
    cpu: float  # microseconds of the serving process for each
    p50: float  # milliseconds
    p99: float


def save_models(root: Path) -> dict[str, np.ndarray[Any, Any]]:
    """The models in `root`, and one request's input for each."""
    half = tf.Module()
    half.serve = tf.function(lambda x: {"y": x / 2 + 2}, input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    tf.saved_model.save(half, str(root / "half_plus_two" / "1"), signatures=half.serve)
    network = tf.keras.applications.MobileNetV2(weights=None, input_shape=(96, 96, 3))
    archive = tf.keras.export.ExportArchive()
    archive.track(network)
    spec = tf.TensorSpec([None, 96, 96, 3], tf.float32, name="x")
    archive.add_endpoint("serve", lambda x: {"y": network(x, training=False)}, input_signature=[spec])
    archive.write_out(str(root / "mobilenet_96" / "1"), verbose=False)
    pixels = np.random.default_rng(1).random((1, 96, 96, 3), dtype=np.float32)
    return {"half_plus_two": np.array([1, 2, 5], np.float32), "mobilenet_96": pixels}


def in_process(name: str, path: Path, value: np.ndarray[Any, Any], seconds: float) -> Sample:
    """The model, loaded as the worker loads it, called from as many threads as the worker has runners."""
    from worker.models.savedmodel import load_savedmodel

    graph = load_savedmodel(path)
    signature = graph.signatures["serving_default"]
    run = graph.function(list(signature.inputs.values()), list(signature.outputs.values()))
    run(value)
    end = time.monotonic() + seconds

    def call_on(_: int) -> list[float]:
        times = []
        while (begun := time.monotonic()) < end:
            run(value)
            times.append(time.monotonic() - begun)
        return times

    before = time.process_time()
    with ThreadPoolExecutor(RUNNERS) as pool:
        times = [took for part in pool.map(call_on, range(RUNNERS)) for took in part]
    sample = summary(name, "in process", times, seconds, time.process_time() - before)
    graph.close()
    return sample


def summary(model: str, door: str, times: list[float], seconds: float, cpu: float) -> Sample:
    p50, p99 = np.percentile(times, [50, 99]) * 1000
    return Sample(model, door, len(times) / seconds, cpu / len(times) * 1e6, float(p50), float(p99))


@contextmanager
def worker(name: str, base: Path) -> Iterator[tuple[psutil.Process, int, int]]:
    """A worker that serves the model, and its ports for gRPC and REST."""
    grpc_port, rest_port = free_ports(2)
    command = [
        sys.executable, "-m", "worker", f"--port={grpc_port}", f"--rest_api_port={rest_port}",
        f"--model_name={name}", f"--model_base_path={base}", "--log-level=warning",
    ]  # fmt: skip
    process = subprocess.Popen(command)
    try:
        deadline = time.monotonic() + 60
        url = f"http://127.0.0.1:{rest_port}/v1/models/{name}"
        while subprocess.run(["curl", "-sfo", os.devnull, url], check=False).returncode:
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit("the worker does not start")
            time.sleep(0.1)
        yield psutil.Process(process.pid), grpc_port, rest_port
    finally:
        process.terminate()
        process.wait(20)


@contextmanager
def bare() -> Iterator[tuple[psutil.Process, int, int]]:
    """A server that does nothing, and its ports for gRPC and REST."""
    grpc_port, rest_port = free_ports(2)
    spawn = multiprocessing.get_context("spawn")
    ready = spawn.Event()
    process = spawn.Process(target=serve_bare, args=(grpc_port, rest_port, ready), daemon=True)
    process.start()
    try:
        if not ready.wait(60):
            raise SystemExit("the bare server does not start")
        yield psutil.Process(process.pid), grpc_port, rest_port
    finally:
        process.terminate()
        process.join(20)


def serve_bare(grpc_port: int, rest_port: int, ready: Any) -> None:
    body = b'{\n    "predictions": [2.5, 3.0, 4.5\n    ]\n}'
    message = serving.PredictResponse()
    message.outputs["y"].float_val.extend([2.5, 3.0, 4.5])
    packed = message.SerializeToString()

    async def answer(request: web.BaseRequest) -> web.Response:
        await request.read()
        return web.Response(body=body, headers={"Content-Type": "application/json"})

    async def predict(_: bytes, context: Any) -> bytes:
        return packed

    async def serve() -> None:
        server = grpc.aio.server()
        methods = {"Predict": grpc.unary_unary_rpc_method_handler(predict)}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, methods),))
        server.add_insecure_port(f"127.0.0.1:{grpc_port}")
        await server.start()
        runner = web.ServerRunner(web.Server(answer, access_log=None))
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", rest_port).start()
        ready.set()
        await asyncio.Event().wait()

    uvloop.run(serve())


def behind(
    door: str, name: str, value: np.ndarray[Any, Any], port: int, server: psutil.Process, seconds: float
) -> Sample:
    """The model behind a door of the worker."""
    load = rest_load if door.endswith("REST") else grpc_load
    with multiprocessing.get_context("spawn").Pool(1) as clients:
        clients.apply(load, (port, name, value, 1.0))  # so that nothing is measured that happens once
        before = sum(server.cpu_times()[:2])
        times = clients.apply(load, (port, name, value, seconds))
        cpu = sum(server.cpu_times()[:2]) - before
    return summary(name, door, times, seconds, cpu)


def rest_load(port: int, name: str, value: np.ndarray[Any, Any], seconds: float) -> list[float]:
    body = json.dumps({"instances": value.tolist()}).encode()
    head = f"POST /v1/models/{name}:predict HTTP/1.1\r\nHost: bench\r\nContent-Length: {len(body)}\r\n\r\n"
    request = head.encode() + body

    async def client() -> Callable[[], Awaitable[None]]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**22)

        async def ask() -> None:
            writer.write(request)
            answer = await reader.readuntil(b"\r\n\r\n")
            if not answer.startswith(b"HTTP/1.1 200"):
                raise SystemExit(f"the worker answered {answer!r}")
            length = answer.lower().partition(b"content-length:")[2].split(b"\r\n")[0]
            await reader.readexactly(int(length))

        return ask

    return uvloop.run(keep_asking(client, seconds))


def grpc_load(port: int, name: str, value: np.ndarray[Any, Any], seconds: float) -> list[float]:
    message = serving.PredictRequest()
    message.model_spec.name = name
    tensor = message.inputs["x"]
    tensor.dtype = 1
    tensor.tensor_content = value.tobytes()
    for side in value.shape:
        tensor.tensor_shape.dim.add(size=side)
    request = message.SerializeToString()

    async def client() -> Callable[[], Awaitable[None]]:
        options = [("grpc.use_local_subchannel_pool", 1)]  # a connection for each client
        call = grpc.aio.insecure_channel(f"127.0.0.1:{port}", options).unary_unary(f"/{SERVICE}/Predict")

        async def ask() -> None:
            await call(request)

        return ask

    return uvloop.run(keep_asking(client, seconds))


async def keep_asking(
    make_client: Callable[[], Awaitable[Callable[[], Awaitable[None]]]], seconds: float
) -> list[float]:
    """The time of each request, in seconds; `UNDER_WAY` of them at any moment."""
    clients = [await make_client() for _ in range(UNDER_WAY)]
    end = time.monotonic() + seconds
    times: list[float] = []

    async def keep(ask: Callable[[], Awaitable[None]]) -> None:
        while (begun := time.monotonic()) < end:
            await ask()
            times.append(time.monotonic() - begun)

    await asyncio.gather(*map(keep, clients))
    return times


def run(seconds: float, rounds: int, console: Console) -> list[Sample]:
    samples: dict[tuple[str, str], list[Sample]] = {}
    with tempfile.TemporaryDirectory(prefix="muster-bench-") as folder, console.status("making models") as status:
        root = Path(folder)
        for name, value in save_models(root).items():
            with worker(name, root / name) as served, bare() as idle:
                servers = {"": served} | ({"bare ": idle} if name == "half_plus_two" else {})
                for number in range(rounds):
                    status.update(f"{name}, round {number + 1} of {rounds}")
                    found = [in_process(name, root / name / "1", value, seconds)]
                    for prefix, (process, grpc_port, rest_port) in servers.items():
                        for door, port in (("gRPC", grpc_port), ("REST", rest_port)):
                            found.append(behind(prefix + door, name, value, port, process, seconds))
                    for sample in found:
                        samples.setdefault((name, sample.door), []).append(sample)
    return [middle(several) for several in samples.values()]


def middle(several: list[Sample]) -> Sample:
    """The medians of samples of the same."""
    figures = {name: median(getattr(one, name) for one in several) for name in ("rate", "cpu", "p50", "p99")}
    return Sample(several[0].model, several[0].door, **figures)


def show(samples: list[Sample], console: Console) -> None:
    table = Table(title=f"Predictions, {UNDER_WAY} under way, {RUNNERS} runners")
    for heading in ("model", "door", "a second", "CPU µs each", "p50 ms", "p99 ms"):
        table.add_column(heading, justify="left" if heading in ("model", "door") else "right")
    for one in samples:
        table.add_row(one.model, one.door, f"{one.rate:,.0f}", f"{one.cpu:,.0f}", f"{one.p50:.2f}", f"{one.p99:.2f}")
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=2.0, help="for each measurement (default: 2)")
    parser.add_argument("--rounds", type=int, default=3, help="of all measurements (default: 3)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args()
    console = Console(stderr=options.json)
    samples = run(options.seconds, options.rounds, console)
    if options.json:
        print(json.dumps([asdict(sample) for sample in samples], indent=1))
    else:
        show(samples, console)


if __name__ == "__main__":
    main()

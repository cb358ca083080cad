"""Does a worker's memory stay flat, and how many images a second does it classify?

    python -m bench.worker_memory --model models --image models/digits/samples/7.png

starts a real worker, sends it `--requests` images over a few keep-alive connections on loopback, and prints its
resident memory before, during and after. Nothing is rebuilt per request: after the first thousand it should be level.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import psutil


async def main() -> None:
    """Run the measurement and print it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", required=True, help="what to serve")
    parser.add_argument("--image", required=True, type=Path, help="what to send")
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--connections", type=int, default=8)
    arguments = parser.parse_args()

    worker = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "worker", "--model", arguments.model, "--host", "127.0.0.1", "--registry", "static://",
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        url = await _ready(worker)
        await _drive(url, psutil.Process(worker.pid), arguments.image.read_bytes(), arguments)
    finally:
        worker.terminate()
        await worker.wait()


async def _ready(worker: asyncio.subprocess.Process) -> str:
    assert worker.stderr is not None
    async for line in worker.stderr:
        if match := re.search(rb"is ready at (\S+)", line):
            return match[1].decode()
    raise SystemExit("the worker did not start")


async def _drive(url: str, process: psutil.Process, image: bytes, arguments: argparse.Namespace) -> None:
    part = max(arguments.requests // 10, 1)
    print(f"{'requests':>9} {'RSS MiB':>8} {'req/s':>7}")
    print(f"{0:>9} {_rss(process):>8.1f}")
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=arguments.connections)) as session:
        for done in range(part, arguments.requests + 1, part):
            began = time.monotonic()
            todo = iter(range(part))
            await asyncio.gather(*(_client(session, url, image, todo) for _ in range(arguments.connections)))
            print(f"{done:>9} {_rss(process):>8.1f} {part / (time.monotonic() - began):>7.0f}", flush=True)


async def _client(session: aiohttp.ClientSession, url: str, image: bytes, todo: Iterator[int]) -> None:
    for _ in todo:  # one iterator, shared by all clients
        async with session.post(f"{url}/classify", data=image) as answer:
            assert answer.status == 200, await answer.text()
            await answer.read()


def _rss(process: psutil.Process) -> float:
    return process.memory_info().rss / 2**20


if __name__ == "__main__":
    asyncio.run(main())

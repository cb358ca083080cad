"""What is left of a worker's capacity when three times as much is asked of it?

    python -m bench.overload [--patience 1.0] [--queue 64]

saves a model that costs some milliseconds a call, starts a real worker with one runner on it, measures what it can do,
and then sends requests at that rate and at three times that rate, whether or not earlier ones are answered (an open
loop). Clients leave after `--patience` seconds. Goodput is what was answered in time; it should stay level, by the
second and by the worker's seconds of CPU (which say more on a machine that has other things to do), and who is refused
should hear of it at once. Takes about 30 seconds.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import numpy as np
import psutil

SIDE, STEPS = 384, 12
"""The model multiplies a matrix of this size by itself so often: some ten milliseconds on one core."""
BODY = b'{"instances": [1.0]}'
SETTLING, SECONDS = 3.0, 5.0


@dataclass
class Tally:
    """What became of the requests of one round: when each ended, and how long it had taken."""

    served: list[tuple[float, float]] = field(default_factory=list)
    refused: list[tuple[float, float]] = field(default_factory=list)
    left: list[tuple[float, float]] = field(default_factory=list)

    def since(self, when: float) -> tuple[list[float], list[float], list[float]]:
        """How long those took that were served, were refused, or left, since then."""
        served, refused, left = ([took for end, took in ends if end >= when] for ends in vars(self).values())
        return served, refused, left


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--patience", type=float, default=10.0, help="seconds that a client waits")
    parser.add_argument("--queue", type=int, default=256, help="the worker's --queue")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(_measure(Path(directory), arguments.patience, arguments.queue))


async def _measure(directory: Path, patience: float, queue: int) -> None:
    await asyncio.to_thread(_save, directory / "costly" / "1")
    async with _worker(directory, queue) as (url, process), _session(patience) as session:
        await _closed(session, url, 0.5)
        before = _cpu(process)
        capacity = await _closed(session, url, 3.0)
        per_cpu = 3.0 * capacity / (_cpu(process) - before)
        print(f"capacity {capacity:.0f}/s; clients wait {patience:g} s; queue {queue}\n")
        print(f"{'load':>5} {'asked/s':>8} {'good/s':>7} {'of capacity':>11} {'by CPU':>7} {'p50 ms':>7} {'p99 ms':>7} "
              f"{'refused/s':>9} {'p50 ms':>7} {'p99 ms':>7} {'left/s':>7}")  # fmt: skip
        for load in (1, 3):
            served, refused, left, cpu = await _open(session, url, load * capacity, process)
            print(
                f"{load:>4}× {load * capacity:>8.0f} {len(served) / SECONDS:>7.0f} "
                f"{len(served) / SECONDS / capacity:>11.0%} {len(served) / cpu / per_cpu:>7.0%} {_percentiles(served)} "
                f"{len(refused) / SECONDS:>9.0f} {_percentiles(refused)} {len(left) / SECONDS:>7.0f}",
                flush=True,
            )


def _save(directory: Path) -> None:
    from worker.models.tensorflow_quietly import tf

    matrix = tf.constant(np.random.default_rng(0).random((SIDE, SIDE), np.float32) / SIDE)

    def costly(x: object) -> dict[str, object]:
        product = matrix + tf.reduce_sum(x)  # depends on the input, so it is not worked out beforehand
        for _ in range(STEPS):
            product = product @ matrix
        return {"y": x + 0 * tf.reduce_sum(product)}

    module = tf.Module()
    module.serve = tf.function(costly, input_signature=[tf.TensorSpec([None], tf.float32, name="x")])
    tf.saved_model.save(module, str(directory), signatures=module.serve)


@asynccontextmanager
async def _worker(directory: Path, queue: int) -> AsyncIterator[tuple[str, psutil.Process]]:
    worker = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "worker", "--model", str(directory), "--host", "127.0.0.1", "--registry", "static://",
        "--runners", "1", "--queue", str(queue), "--max-images", "1", stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert worker.stderr is not None
    try:
        async for line in worker.stderr:
            if b"is ready at " in line:
                yield line.decode().split()[-1] + "/v1/models/costly:predict", psutil.Process(worker.pid)
                break
        else:
            raise SystemExit("the worker did not start")
    finally:
        worker.kill()
        await worker.wait()


def _session(patience: float) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=patience)
    )  # fmt: skip


async def _ask(session: aiohttp.ClientSession, url: str, tally: Tally) -> None:
    began = time.monotonic()
    try:
        async with session.post(url, data=BODY) as answer:
            await answer.read()
            kind = {200: tally.served, 503: tally.refused}[answer.status]
            assert answer.status == 200 or answer.headers["Retry-After"] == "1"
    except TimeoutError:
        kind = tally.left
    now = time.monotonic()
    kind.append((now, now - began))


async def _closed(session: aiohttp.ClientSession, url: str, seconds: float) -> float:
    """Requests a second of a few clients who send the next when they have the answer to the last."""
    tally, end = Tally(), time.monotonic() + seconds

    async def client() -> None:
        while time.monotonic() < end:
            await _ask(session, url, tally)

    await asyncio.gather(*(client() for _ in range(4)))
    return len(tally.served) / seconds


async def _open(
    session: aiohttp.ClientSession, url: str, rate: float, process: psutil.Process
) -> tuple[list[float], list[float], list[float], float]:
    """What became of requests at this rate, from when the queue is in the state that the load brings about, and the
    worker's seconds of CPU.
    """
    tally, tasks, sent = Tally(), set(), 0
    cpu = _cpu(process)
    settled = False
    began = time.monotonic()
    while (passed := time.monotonic() - began) < SETTLING + SECONDS:
        while sent < passed * rate:
            sent += 1
            tasks.add(task := asyncio.create_task(_ask(session, url, tally)))
            task.add_done_callback(tasks.discard)
        if passed > SETTLING and not settled:
            settled, cpu = True, _cpu(process)
        await asyncio.sleep(0.001)
    cpu = _cpu(process) - cpu
    served, refused, left = tally.since(began + SETTLING)
    for task in list(tasks):
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return served, refused, left, cpu


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _percentiles(seconds: list[float]) -> str:
    if not seconds:
        return f"{'–':>7} {'–':>7}"
    p50, p99 = np.percentile(seconds, [50, 99]) * 1000
    return f"{p50:>7.1f} {p99:>7.1f}"


if __name__ == "__main__":
    main()

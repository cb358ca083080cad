"""What do requests notice while a version of their model is replaced under them?

    python -m bench.replace [--replacements 3] [--rate 20]

makes a MobileNetV2 (with random weights), starts a real worker with it, sends it images at a steady rate, and puts one
new version after the other into place. Prints the latencies of quiet times and of those in which a version was loaded
and the old one unloaded, what failed, and the worker's memory after each. Takes about a minute.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import psutil
from PIL import Image

QUIET = 5.0
MOST = 60.0
"""Seconds that a replacement may take."""
MAKE = "import sys, keras; keras.applications.MobileNetV2(weights=None).export(sys.argv[1], verbose=False)"


async def main() -> None:
    """Run the measurement and print it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--replacements", type=int, default=3)
    parser.add_argument("--rate", type=float, default=20.0, help="images a second")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="muster-replace-") as directory:
        root = Path(directory)
        made = await asyncio.create_subprocess_exec(
            sys.executable, "-c", MAKE, root / "made",
            stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        assert await made.wait() == 0
        publish(root, 1)
        async with working(root) as (url, process):
            traffic = Traffic(url, arguments.rate)
            sending = asyncio.create_task(traffic.run())
            heads = ("", "seconds", "requests", "failed", "p50 ms", "p99 ms", "max ms", "RSS MiB")
            print("{:12} {:>7} {:>8} {:>6} {:>7} {:>7} {:>7} {:>7}".format(*heads))
            for version in range(2, arguments.replacements + 2):
                await during("quiet", traffic, process, asyncio.sleep(QUIET))
                publish(root, version)
                await during(f"version {version}", traffic, process, traffic.answered_by(version))
            sending.cancel()


def publish(root: Path, version: int) -> None:
    """Put a version in place."""
    shutil.copytree(root / "made", root / str(version))
    (root / "models" / "mobile").mkdir(parents=True, exist_ok=True)
    (root / str(version)).rename(root / "models" / "mobile" / str(version))


@asynccontextmanager
async def working(root: Path) -> AsyncIterator[tuple[str, psutil.Process]]:
    """A worker with the models in `root`; where it answers."""
    with (root / "log").open("wb") as log:
        worker = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "worker", "--model", root / "models", "--host", "127.0.0.1",
            "--registry", "static://", stderr=log,
        )  # fmt: skip
    try:
        while "is ready at" not in (said := (root / "log").read_text()):
            assert worker.returncode is None, said
            await asyncio.sleep(0.05)
        yield said.partition("is ready at ")[2].split()[0], psutil.Process(worker.pid)
    finally:
        worker.terminate()
        await worker.wait()


class Traffic:
    """Requests at a steady rate, however long their answers take."""

    def __init__(self, url: str, rate: float) -> None:
        self._url = url
        self._pause = 1 / rate
        self._changed = asyncio.Event()
        self._version = 1
        self.latencies: list[float] = []
        self.failed = 0
        file = io.BytesIO()
        Image.effect_noise((300, 300), 64).convert("RGB").save(file, "JPEG")
        self._image = file.getvalue()

    async def run(self) -> None:
        """Send for ever."""
        due = time.monotonic()
        async with aiohttp.ClientSession() as session, asyncio.TaskGroup() as group:
            while True:
                group.create_task(self._ask(session))
                due += self._pause
                await asyncio.sleep(max(0.0, due - time.monotonic()))

    async def answered_by(self, version: int) -> None:
        """Return a moment after this version has answered: the old one is closed by then."""
        async with asyncio.timeout(MOST):
            while self._version < version:
                self._changed.clear()
                await self._changed.wait()
        await asyncio.sleep(1)

    async def _ask(self, session: aiohttp.ClientSession) -> None:
        sent = time.monotonic()
        try:
            async with session.post(f"{self._url}/classify", data=self._image) as answer:
                told = await answer.json()
                answer.raise_for_status()
        except aiohttp.ClientError:
            self.failed += 1
            return
        self.latencies.append(time.monotonic() - sent)
        self._version = int(told["model"]["version"])
        self._changed.set()


async def during(what: str, traffic: Traffic, process: psutil.Process, until: Coroutine[Any, Any, None]) -> None:
    """Print what the traffic notices for so long."""
    traffic.latencies.clear()
    traffic.failed = 0
    began = time.monotonic()
    await until
    took = time.monotonic() - began
    known = sorted(traffic.latencies)
    p50, p99 = (known[int(len(known) * part)] * 1e3 for part in (0.5, 0.99))
    print(
        f"{what:12} {took:7.1f} {len(known):8} {traffic.failed:6} {p50:7.1f} {p99:7.1f} {known[-1] * 1e3:7.1f} "
        f"{process.memory_info().rss / 2**20:7.0f}",
        flush=True,
    )


if __name__ == "__main__":
    asyncio.run(main())

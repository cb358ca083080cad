"""A generator of gRPC calls, of its own process: `tests.drills.load` for the other protocol.

    python -m tests.drills.grpc_load --port 1234 --rate 200 --count 10000 --request FILE --out FILE

Every call is a Predict of the bytes in FILE, with a number behind them in a field that nobody knows. It is made once: a
call that fails has failed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import signal
import time
import zlib
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import uvloop

from tests.drills.load import PATIENCE, Request

PREDICT = "/tensorflow.serving.PredictionService/Predict"
CHANNELS = 8
_FIELD_15 = b"\x7a\x10"
_ATTEMPTS = re.compile(r"attempts;desc=(\d+)")


class Load:
    """All of it."""

    def __init__(self, port: int, request: bytes) -> None:
        own = (("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1))
        self._channels = [grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=own) for _ in range(CHANNELS)]
        self._ask = [channel.unary_unary(PREDICT) for channel in self._channels]
        self._request = request
        self.requests: list[Request] = []

    async def call(self, due: float, number: int) -> None:
        """One, and what came of it."""
        request = self._request + _FIELD_15 + b"%016d" % number
        started, status, error = time.monotonic(), 0, ""
        call = self._ask[number % CHANNELS](request, timeout=PATIENCE)
        try:
            await call
            status = 200
        except grpc.aio.AioRpcError as failed:
            status, error = failed.code().value[0], f"{failed.code().name}: {failed.details()}"
        ended = time.monotonic()
        told: dict[str, Any] = dict(await call.trailing_metadata() or ())
        if told.get("x-body-crc32") not in (None, str(zlib.crc32(request))):
            error = error or "the worker read another request"
        attempts = _ATTEMPTS.search(told.get("server-timing", ""))
        self.requests.append(
            Request(due, started, ended, status, told.get("x-served-by", ""), int(attempts[1]) if attempts else 0,
                    error, "")
        )  # fmt: skip

    async def run(self, rate: float, count: int, stop: asyncio.Event) -> None:
        """Begin `count` calls, one every 1/`rate` seconds; return when each has its outcome."""
        begin = time.monotonic()
        async with asyncio.TaskGroup() as calls:
            for number in range(count):
                due = begin + number / rate
                if (early := due - time.monotonic()) > 0:
                    await asyncio.sleep(early)
                if stop.is_set():
                    break
                calls.create_task(self.call(due, number))
        for channel in self._channels:
            await channel.close()


async def main(options: argparse.Namespace) -> None:
    """Generate the load and write down what came of it."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    load = Load(options.port, options.request.read_bytes())
    await load.run(options.rate, options.count, stop)
    with options.out.open("w") as out:
        for request in load.requests:
            out.write(json.dumps(request) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--request", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(parser.parse_args()))

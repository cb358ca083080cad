"""`python -m worker` with tensorflow_model_server's flags, as a real process."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx

from tests.consul_agent import free_ports

PATIENCE = 60.0


class ModelServer:
    """A drop-in of its own process, on ports that were free; `out` and `log` are what it wrote so far."""

    def __init__(self, directory: Path, *flags: str, ports: Sequence[int] = (), **environ: str) -> None:
        self.grpc, self.rest = ports or free_ports(2)
        self.out_file, self.log_file = directory / "out", directory / "log"
        command = [sys.executable, "-m", "worker", f"--port={self.grpc}", f"--rest_api_port={self.rest}", *flags]
        with self.out_file.open("w") as out, self.log_file.open("w") as log:
            self.popen = subprocess.Popen(command, stdout=out, stderr=log, env={**os.environ, **environ})

    def __enter__(self) -> ModelServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.popen.kill()
        self.popen.wait()

    @property
    def out(self) -> str:
        return self.out_file.read_text()

    @property
    def log(self) -> str:
        return self.log_file.read_text()

    @property
    def url(self) -> str:
        return f"http://localhost:{self.rest}"

    def ready(self) -> ModelServer:
        """This server, when the port of REST answers: it opens last."""
        self.until("it listens", lambda: listens(self.rest))
        return self

    def predict(self, model: str, x: float) -> object:
        """What half_plus_two and its kin make of a number, or the error."""
        answer = httpx.post(f"{self.url}/v1/models/{model}:predict", json={"instances": [x]}).json()
        return answer["predictions"][0] if "predictions" in answer else answer["error"]

    def until(self, what: str, condition: Callable[[], Any]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < deadline, f"not so: {what}\n{self.log}{self.out}"
            assert self.popen.poll() is None, f"it ended before: {what}\n{self.log}{self.out}"
            threading.Event().wait(0.02)

    def end(self) -> int:
        """Its exit status after a SIGTERM."""
        self.popen.send_signal(signal.SIGTERM)
        return self.popen.wait(PATIENCE)


def listens(port: int) -> bool:
    """Does anybody listen on that port of this machine?"""
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True

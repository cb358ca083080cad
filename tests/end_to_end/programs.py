"""The real programs, as an operator runs them: workers and a proxy that find each other through a Consul agent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx

from tests.consul_agent import ConsulAgent, free_ports

PATIENCE = 60.0


def until(condition: Callable[[], Any], what: str, patience: float = PATIENCE) -> Any:
    """Wait for what `condition` returns to be true."""
    deadline = time.monotonic() + patience
    while not (value := condition()):
        assert time.monotonic() < deadline, f"{what} did not happen within {patience:g} s"
        threading.Event().wait(0.01)
    return value


class Program:
    """One process, its log in a file."""

    def __init__(self, name: str, folder: Path, consul: ConsulAgent, *options: str) -> None:
        self.log = folder / f"{name}-{time.monotonic_ns()}.log"
        environ = {**os.environ, "CONSUL_HTTP_ADDR": consul.address}
        command = [sys.executable, "-m", name, "--host", "127.0.0.1", *options]
        with self.log.open("wb") as log:
            self.popen = subprocess.Popen(command, stderr=log, env=environ)

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.popen.send_signal(number)
        return self.popen.wait(PATIENCE)


class Cluster:
    """A proxy and any number of workers; everything ends with the block."""

    def __init__(self, consul: ConsulAgent, models: Path, folder: Path) -> None:
        (port,) = free_ports(1)
        self.url = f"http://127.0.0.1:{port}"
        self.workers: list[Program] = []
        self._consul = consul
        self._models = models
        self._folder = folder
        self._life = ExitStack()
        self._port = port

    def __enter__(self) -> Cluster:
        proxy = Program("proxy", self._folder, self._consul, "--port", str(self._port))
        self._life.callback(proxy.end, signal.SIGKILL)
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self.workers:
            if worker.popen.poll() is None:
                worker.end(signal.SIGKILL)
        self._life.close()

    def add(self, count: int) -> None:
        """Start workers and wait until the proxy sends them requests."""
        before = len(self.listed())
        for _ in range(count):
            worker = Program("worker", self._folder, self._consul, "--model", str(self._models), "--runners", "1")
            self.workers.append(worker)
        until(lambda: len(self.listed()) == before + count, f"{count} more workers")

    def listed(self) -> list[dict[str, Any]]:
        """The workers as the proxy sees them."""
        try:
            workers: list[dict[str, Any]] = httpx.get(f"{self.url}/workers").json()["workers"]
        except httpx.ConnectError:
            return []
        return workers

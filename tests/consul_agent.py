"""A real Consul agent for tests: found or fetched, started on free ports, gone with the process that started it."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import pytest

PROJECT = Path(__file__).resolve().parent.parent
CACHE = PROJECT / ".cache" / "consul"


def find_consul() -> str:
    """The consul program: on PATH, else fetched once into the cache. Skips the test without one; in CI it fails."""
    found = shutil.which("consul") or shutil.which("consul", path=CACHE)
    if found:
        return found
    fetched = subprocess.run(
        [PROJECT / "tests" / "fetch-consul", CACHE], capture_output=True, text=True, check=False, timeout=300
    )
    if fetched.returncode == 0:
        return str(CACHE / "consul")
    reason = f"no consul on PATH, and it could not be fetched: {fetched.stderr.strip()}"
    if os.environ.get("CI"):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


class ConsulAgent:
    """One server in dev mode, in memory: stopped and started again it has forgotten everything.

    `address` is `host:port` of its HTTP API and stays the same over restarts.
    """

    def __init__(self, config: Mapping[str, Any] | None = None, token: str | None = None) -> None:
        self.program = find_consul()
        self.port, self._server, self._serf = free_ports(3)
        self.address = f"127.0.0.1:{self.port}"
        self._config = dict(config or {})
        self._token = token  # for our own questions
        self._process: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None

    def start(self, patience: float = 30.0) -> None:
        """Return when it has a leader and has listed itself: before that it takes no registrations."""
        log = tempfile.TemporaryFile()  # noqa: SIM115  # it lives as long as the agent
        self._log = log
        self._process = subprocess.Popen(
            [self.program, "agent", "-dev", "-bind=127.0.0.1", "-client=127.0.0.1", f"-http-port={self.port}",
             f"-server-port={self._server}", f"-serf-lan-port={self._serf}", "-serf-wan-port=-1", "-dns-port=-1",
             "-grpc-port=-1", "-log-level=warn", "-hcl", json.dumps(self._config)],
            stdout=log, stderr=subprocess.STDOUT, preexec_fn=_die_with_parent,
        )  # fmt: skip
        deadline = time.monotonic() + patience
        while not self._ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                log.seek(0)
                said = log.read().decode(errors="replace")
                self.stop()
                raise RuntimeError(f"consul did not start: {said[-2000:]}")
            time.sleep(0.02)

    def stop(self) -> None:
        """Kill it, as a crash would: it says goodbye to nobody."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        if self._log is not None:
            self._log.close()
            self._log = None

    def signal(self, number: signal.Signals) -> None:
        """SIGSTOP makes it a peer that accepts connections and answers nothing; SIGCONT brings it back."""
        assert self._process is not None
        self._process.send_signal(number)

    def call(self, method: str, path: str, body: object = None, token: str | None = None) -> Any:
        """The parsed answer of its API, None for an empty one. Raises urllib.error.HTTPError."""
        request = urllib.request.Request(
            f"http://{self.address}{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"X-Consul-Token": token} if (token := token or self._token) else {},
        )
        with urllib.request.urlopen(request, timeout=5) as answer:
            text = answer.read()
        return json.loads(text) if text.strip() else None

    def _ready(self) -> bool:
        try:
            return bool(self.call("GET", "/v1/health/service/consul?passing=1"))
        except (OSError, urllib.error.HTTPError):
            return False


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on at this moment, all different."""
    sockets: list[socket.socket] = []
    try:
        while len(sockets) < count:
            candidate = socket.socket()
            candidate.bind(("127.0.0.1", 0))
            sockets.append(candidate)
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def _die_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG

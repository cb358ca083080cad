"""A cluster of real processes, the load on it, and its faults: what every drill begins with."""

from __future__ import annotations

import http.client
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil

from tests.consul_agent import ConsulAgent, _die_with_parent, free_ports
from tests.drills.load import Request

FULL = os.environ.get("DRILLS") == "full"
"""`make drills`: as long and as often as the promises say. Otherwise the short form, with the same figures."""

PATIENCE = 60.0

_services = itertools.count(1)


def form(full: Any, short: Any) -> Any:
    """Which of the two, for the present run."""
    return full if FULL else short


def until(condition: Callable[[], Any], what: str, patience: float = PATIENCE) -> Any:
    """Wait for what `condition` returns to be true."""
    deadline = time.monotonic() + patience
    while not (value := condition()):
        assert time.monotonic() < deadline, f"{what} did not happen within {patience:g} s"
        time.sleep(0.005)
    return value


def percentile(values: Iterable[float], which: float) -> float:
    """The value that `which` % do not exceed; 0 of none."""
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * which / 100), len(ordered) - 1)] if ordered else 0.0


def ask(port: int, method: str, path: str, body: object = None) -> tuple[int, str]:
    """Status and text of an answer to the drill's own questions."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, path, None if body is None else json.dumps(body))
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


class Program:
    """One process; what it writes goes to files, and it does not outlive the drill."""

    def __init__(self, folder: Path, name: str, *command: str, **environ: str) -> None:
        self.name = name
        self.log_file = folder / f"{name}-{time.monotonic_ns()}.log"
        self.out_file = self.log_file.with_suffix(".out")
        with self.log_file.open("wb") as log, self.out_file.open("wb") as out:
            self.popen = subprocess.Popen(
                [sys.executable, "-m", *command], stdout=out, stderr=log,
                env={**os.environ, **environ}, preexec_fn=_die_with_parent,
            )  # fmt: skip

    @property
    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    @property
    def alive(self) -> bool:
        return self.popen.poll() is None

    @property
    def process(self) -> psutil.Process:
        return psutil.Process(self.popen.pid)

    @property
    def cpu(self) -> float:
        """Seconds of CPU time so far, of it and its children."""
        family = [self.process, *self.process.children(recursive=True)]
        return sum(sum(member.cpu_times()[:2]) for member in family)

    @property
    def memory(self) -> int:
        """Bytes of resident memory, with its children's."""
        family = [self.process, *self.process.children(recursive=True)]
        return sum(member.memory_info().rss for member in family)

    def signal(self, number: signal.Signals) -> float:
        """Send it; the result is when, by the monotonic clock."""
        self.popen.send_signal(number)
        return time.monotonic()

    def kill(self) -> float:
        """As a crash, or the kernel without memory, would."""
        at = self.signal(signal.SIGKILL)
        self.popen.wait()
        return at

    def close(self) -> None:
        if self.alive:
            self.popen.kill()
        self.popen.wait()


class DrillWorker(Program):
    """A `tests.drills.worker`, once it listens."""

    def __init__(self, folder: Path, name: str, *options: str, **behaviour: Any) -> None:
        super().__init__(
            folder, name, "tests.drills.worker", "--name", name, "--set", json.dumps(behaviour), *options
        )  # fmt: skip
        until(lambda: not self.alive or self.out_file.read_text().endswith("\n"), f"{name} listens")
        assert self.alive, f"a worker did not start: {self.log}"
        told = json.loads(self.out_file.read_text())
        self.id: str = told["id"]
        self.port: int = told["port"]

    @property
    def seen(self) -> dict[str, Any]:
        """What it tells of itself, see `tests.drills.worker.Seen`."""
        told: dict[str, Any] = json.loads(ask(self.port, "GET", "/drill")[1])
        return told

    def behave(self, **changes: Any) -> float:
        """Change its `Behaviour`; the result is when that was done."""
        assert ask(self.port, "PUT", "/drill", changes)[0] == 200
        return time.monotonic()


class Outcome:
    """What came of a load."""

    def __init__(self, requests: list[Request]) -> None:
        self.requests = sorted(requests)

    def __len__(self) -> int:
        return len(self.requests)

    @property
    def failures(self) -> list[Request]:
        return [request for request in self.requests if not request.ok]

    def describe_failures(self) -> str:
        """The kinds, each with its number."""
        kinds = Counter((request.status, request.error, request.worker[-12:]) for request in self.failures)
        return "; ".join(f"{count} × {kind}" for kind, count in kinds.most_common(8)) or "none"

    def between(self, since: float, until: float) -> Outcome:
        """Of the requests that were due then."""
        return Outcome([request for request in self.requests if since <= request.due < until])

    def milliseconds(self, which: float) -> float:
        """A percentile of the answers' times, from when a request was due."""
        return percentile((request.seconds for request in self.requests if request.status), which) * 1000

    @property
    def workers(self) -> Counter[str]:
        """How many answers came of each."""
        return Counter(request.worker for request in self.requests if request.status)

    @property
    def statuses(self) -> Counter[int]:
        return Counter(request.status for request in self.requests)

    def without_failures(self) -> None:
        """Assert it."""
        failures = self.failures
        assert not failures, f"{len(failures)} of {len(self)} requests failed: {self.describe_failures()}"


class Load:
    """A running load generator."""

    def __init__(self, folder: Path, kind: str, rate: float, count: int, *options: str) -> None:
        self._out = folder / f"load-{time.monotonic_ns()}.jsonl"
        self._program = Program(
            folder, "load", kind, "--rate", str(rate), "--count", str(count), "--out", str(self._out), *options
        )  # fmt: skip

    def wait(self, patience: float = 600) -> Outcome:
        """Until the last answer."""
        self._program.popen.wait(patience)
        assert self._program.popen.returncode == 0, self._program.log
        with self._out.open() as out:
            return Outcome([Request(*json.loads(line)) for line in out])

    def stop(self) -> Outcome:
        """No more requests; wait for the answers that are owed."""
        self._program.signal(signal.SIGTERM)
        return self.wait(PATIENCE)

    def close(self) -> None:
        self._program.close()


class Cluster:
    """A registry, proxies, workers and loads. Everything ends with the block."""

    def __init__(self, consul: ConsulAgent, folder: Path) -> None:
        self.consul = consul
        self.folder = folder
        self.service = f"drill-{os.getpid()}-{next(_services)}"
        self.registry = f"consul://{consul.address}"
        self.workers: list[DrillWorker] = []
        self.proxies: list[Program] = []
        self.url = ""
        self.port = 0
        self.life = ExitStack()
        self._names = itertools.count(1)

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        self.life.close()

    def program(self, name: str, *command: str, **environ: str) -> Program:
        """Any program, for as long as the drill."""
        program = Program(self.folder, name, *command, **environ)
        self.life.callback(program.close)
        return program

    def proxy(self, *options: str, port: int = 0, answers: bool = True) -> Program:
        """Start a proxy; `answers`: return when it does. `url` is the last one's."""
        self.port = port or free_ports(1)[0]
        self.url = f"http://127.0.0.1:{self.port}"
        proxy = self.program(
            "proxy", "proxy", "--host", "127.0.0.1", "--port", str(self.port), "--registry", self.registry,
            "--service", self.service, *options,
        )  # fmt: skip
        self.proxies.append(proxy)
        if answers:
            until(lambda: not proxy.alive or self._answers(), "the proxy answers")
            assert proxy.alive, proxy.log
        return proxy

    def _answers(self) -> bool:
        try:
            return ask(self.port, "GET", "/healthz")[0] == 200
        except OSError:
            return False

    def worker(self, *options: str, listed: bool = True, registry: str = "", **behaviour: Any) -> DrillWorker:
        """Start a drill worker; `listed`: return when every proxy sends it requests."""
        worker = DrillWorker(
            self.folder, f"w{next(self._names)}", "--registry", registry or self.registry, "--service", self.service,
            *options, **behaviour,
        )  # fmt: skip
        self.life.callback(worker.close)
        self.workers.append(worker)
        if listed and self.proxies:
            until(lambda: worker.id in self.listed(), f"{worker.id} is listed")
        return worker

    def real_worker(self, model: Path, *options: str, listed: bool = True) -> Program:
        """Start `python -m worker`; `listed`: return when the proxy has one more."""
        before = len(self.listed())
        worker = self.program(
            "worker", "worker", "--host", "127.0.0.1", "--registry", self.registry, "--service", self.service,
            "--model", str(model), "--runners", "1", "--no-grpc", *options, TF_NUM_INTRAOP_THREADS="1",
        )  # fmt: skip
        if listed:
            until(lambda: not worker.alive or len(self.listed()) > before, "the worker is listed")
            assert worker.alive, worker.log
        return worker

    def workers_told(self) -> list[dict[str, Any]]:
        """`/workers` of the proxy."""
        told: list[dict[str, Any]] = json.loads(ask(self.port, "GET", "/workers")[1])["workers"]
        return told

    def listed(self) -> dict[str, dict[str, Any]]:
        """The same by the worker's id."""
        return {worker["id"]: worker for worker in self.workers_told()}

    def samples(self, name: str, **labels: str) -> list[float]:
        """A metric's samples that have these labels."""
        found = []
        for line in ask(self.port, "GET", "/metrics")[1].splitlines():
            match = re.fullmatch(rf"{name}(?:\{{(.*)\}})? (\S+)", line)
            if match and all(f'{key}="{value}"' in (match[1] or "") for key, value in labels.items()):
                found.append(float(match[2]))
        return found

    def metric(self, name: str, **labels: str) -> float:
        """The sum of them."""
        return sum(self.samples(name, **labels))

    def load(
        self, seconds: float, rate: float = 200, size: int = 100_000, path: str = "/classify",
        picture: Path | None = None,
    ) -> Load:  # fmt: skip
        """Begin a load of so many seconds."""
        options = ["--picture", str(picture)] if picture else []
        load = Load(
            self.folder, "tests.drills.load", rate, round(seconds * rate), "--url", self.url + path,
            "--size", str(size), *options,
        )  # fmt: skip
        self.life.callback(load.close)
        return load

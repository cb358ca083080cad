"""16. gRPC calls of 100 kB while workers are killed, hang, leave, and decline: 0 fail, as over HTTP."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.consul_agent import free_ports
from tests.drills.cluster import Cluster, DrillWorker, Load, Outcome, form, until
from tests.drills.conftest import Figure
from tests.drills.machine import Machine, Took
from worker.messages.serving import PredictRequest

DRILLED = b"\x0a\x07\x0a\x05drill" + b"\x7a\xa0\x8d\x06" + bytes(100_000)
"""A PredictRequest for the model of drill workers, with a field that nobody knows in place of a tensor."""


class Calls:
    """A cluster whose proxy passes gRPC on."""

    def __init__(self, cluster: Cluster) -> None:
        (self.port,) = free_ports(1)
        self.cluster = cluster
        cluster.proxy("--grpc-port", str(self.port))

    def worker(self) -> DrillWorker:
        return self.cluster.worker("--grpc-port", str(free_ports(1)[0]))

    def load(self, seconds: float, rate: float = 200, request: bytes = DRILLED) -> Load:
        """Begin a load of so many seconds."""
        file = self.cluster.folder / "request"
        file.write_bytes(request)
        load = Load(
            self.cluster.folder, "tests.drills.grpc_load", rate, round(seconds * rate), "--port", str(self.port),
            "--request", str(file),
        )  # fmt: skip
        self.cluster.life.callback(load.close)
        return load


@pytest.fixture
def calls(cluster: Cluster) -> Iterator[Calls]:
    """No workers yet."""
    calls = Calls(cluster)
    yield calls
    assert "Traceback" not in cluster.proxies[0].log
    assert not cluster.metric("muster_proxy_in_flight")
    assert not cluster.metric("muster_proxy_grpc_calls")
    assert not cluster.metric("muster_proxy_grpc_bytes")


@pytest.fixture
def three(calls: Calls) -> Calls:
    """Three workers."""
    for _ in range(3):
        calls.worker()
    return calls


def without_failures(outcome: Outcome) -> int:
    """Assert it; how many were sent again."""
    outcome.without_failures()
    return sum(request.attempts > 1 for request in outcome.requests)


def test_kill_9_under_calls_loses_none(three: Calls, figure: Figure) -> None:
    workers = three.cluster.workers
    for worker in workers:
        worker.behave(delay=0.05)  # so that some are under way at each
    seconds = form(50, 3)
    load = three.load(seconds)
    time.sleep(seconds / 2)
    workers[0].kill()
    outcome = load.wait()
    again = without_failures(outcome)
    figure(
        f"{len(outcome)} calls, 0 failed; {again} sent again; p50 {outcome.milliseconds(50):.1f} ms, "
        f"p99 {outcome.milliseconds(99):.1f} ms"
    )
    assert again


def test_a_worker_that_is_stopped_under_calls_costs_none(three: Calls, machine: Machine, figure: Figure) -> None:
    hung = three.cluster.workers[0]

    def state() -> str:
        """After some seconds without a beat the registry does not list it any more."""
        return str(three.cluster.listed().get(hung.id, {"state": "gone"})["state"])

    def once(_: int) -> tuple[Took]:
        load = three.load(600)
        until(lambda: hung.seen["held"], "it is at work")
        stopped = hung.signal(signal.SIGSTOP)
        until(lambda: state() == "resting", "it is ejected", 5)
        ejected = time.monotonic()
        time.sleep(form(10, 1))
        hung.signal(signal.SIGCONT)
        until(lambda: state() == "ready", "it is back", 30)
        outcome = load.stop()
        again = without_failures(outcome)
        longest = max(request.seconds for request in outcome.requests if request.due > stopped - 0.1)
        figure(
            f"{len(outcome)} calls, 0 failed; ejected after {(ejected - stopped) * 1000:.0f} ms, {again} sent again, "
            f"the longest took {longest:.2f} s{machine.note}"
        )
        return (Took(stopped, ejected, 1.0),)

    assert all(took.seconds <= took.limit for (took,) in machine.tries(1, once))


def test_a_worker_that_answers_unavailable_costs_no_call(three: Calls, figure: Figure) -> None:
    full = three.cluster.workers[0]
    load = three.load(form(30, 3))
    time.sleep(form(5, 1))
    full.behave(status=503)
    outcome = load.wait()
    again = without_failures(outcome)
    figure(f"{len(outcome)} calls, 0 failed; {full.seen['refused']} answered UNAVAILABLE, {again} sent again")
    assert full.seen["refused"]


def test_a_restart_of_real_workers_under_calls_loses_none(calls: Calls, digits_model: Path, figure: Figure) -> None:
    noise = np.random.default_rng(7).integers(0, 256, (184, 180, 3), dtype=np.uint8)
    picture = BytesIO()
    Image.fromarray(noise).save(picture, "png")
    request = PredictRequest()
    request.model_spec.name = "digits"
    request.inputs["image_bytes"].dtype = 7  # DT_STRING
    request.inputs["image_bytes"].tensor_shape.dim.add().size = 1
    request.inputs["image_bytes"].string_val.append(picture.getvalue())
    cluster = calls.cluster
    count = form(3, 2)
    workers = [cluster.real_worker(digits_model, "--grpc", listed=False) for _ in range(count)]
    until(lambda: len(cluster.listed()) == count, "all workers are listed")
    load = calls.load(600, form(100, 40), request.SerializeToString())
    exits = []
    for worker in workers[: form(3, 1)]:
        time.sleep(form(5, 1))
        asked = worker.signal(signal.SIGTERM)
        worker.popen.wait(60)
        exits.append(time.monotonic() - asked)
        assert worker.popen.returncode == 0
        if form(1, 0):
            cluster.real_worker(digits_model, "--grpc")
    outcome = load.stop()
    again = without_failures(outcome)
    figure(
        f"{len(outcome)} calls over {len(exits)} restarts, 0 failed; {again} sent again; exits after "
        f"{max(exits):.1f} s; p99 {outcome.milliseconds(99):.0f} ms"
    )

"""1. A worker is killed under load, and no client notices."""

from __future__ import annotations

import re
import signal
import time
from datetime import datetime
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.consul_agent import free_ports
from tests.drills.cluster import Cluster, Outcome, Program, form, until
from tests.drills.conftest import Figure
from tests.drills.machine import Machine, Took


def test_kill_9_under_load_loses_no_request(three: Cluster, machine: Machine, figure: Figure) -> None:
    kills = form(5, 2)
    outcomes: list[Outcome] = []

    def kill(_: int) -> tuple[Took, Took]:
        outcome, took = _kill_one(three, form(10, 4))
        outcomes.append(outcome)
        return took

    tries = machine.tries(kills, kill)
    requests = sum(map(len, outcomes))
    met = sum(request.attempts > 1 for outcome in outcomes for request in outcome.requests)
    last, first = (max(took.seconds for took in times) * 1000 for times in zip(*tries, strict=True))
    p50, p99 = (max(outcome.milliseconds(which) for outcome in outcomes) for which in (50, 99))
    figure(
        f"{requests} requests, {len(outcomes)} workers killed, 0 failed; {met} met a dead worker, the last began "
        f"{last:.1f} ms after the first refusal; a new worker served {first:.1f} ms after it was listed; "
        f"p50 {p50:.1f} ms, p99 {p99:.1f} ms{machine.note}"
    )
    assert requests >= form(10_000, 1600)
    assert last <= 10
    assert first <= 50


def _kill_one(cluster: Cluster, seconds: float) -> tuple[Outcome, tuple[Took, Took]]:
    """Kill a worker and start another; when did the last request go to the dead one, and the first to the new one?"""
    load = cluster.load(600)
    time.sleep(seconds / 2)
    killed = cluster.workers.pop(0).kill()
    time.sleep(0.2)
    replacement = cluster.worker()
    time.sleep(seconds / 2)
    outcome = load.stop()
    outcome.without_failures()
    # Who was under way at the worker is sent again, or the next one is refused; then nobody may go there any more.
    met = [request for request in outcome.requests if request.attempts > 1 and request.ended > killed]
    refused = min((request.ended for request in met), default=0.0)
    last = max((request.started for request in met), default=0.0)
    seen = replacement.seen
    assert replacement.id in outcome.workers
    return outcome, (Took(refused, last, 0.010), Took(seen["listed"], seen["arrivals"][0], 0.050))


def test_kill_9_loses_no_request_of_5_mb(three: Cluster, figure: Figure) -> None:
    seconds, kills, rate = form(255, 6), form(5, 2), form(40, 10)
    load = three.load(seconds, rate=rate, size=5_000_000)
    for _ in range(kills):
        time.sleep(seconds / (kills + 2))
        three.workers.pop(0).kill()
        three.worker()
    outcome = load.wait()
    outcome.without_failures()
    again = sum(request.attempts > 1 for request in outcome.requests)
    figure(f"{len(outcome)} requests of 5 MB, {rate}/s, {kills} workers killed, 0 failed, {again} sent again")
    assert len(outcome) >= form(10_000, 60)


@pytest.mark.parametrize("delay", [0.2])
def test_kill_9_in_the_midst_of_many_slow_requests_loses_none(three: Cluster, figure: Figure, delay: float) -> None:
    for worker in three.workers:
        worker.behave(delay=delay)  # so that a dozen are under way at each
    load = three.load(form(20, 5))
    time.sleep(2)
    three.workers[0].kill()
    outcome = load.wait()
    outcome.without_failures()
    again = sum(request.attempts > 1 for request in outcome.requests)
    figure(f"{len(outcome)} requests of {delay * 1000:.0f} ms, 0 failed, {again} sent again")
    assert again >= 5


@pytest.fixture
def digit(tmp_path: Path) -> Path:
    """A small picture: what it costs a model is next to nothing."""
    out = BytesIO()
    Image.fromarray(np.zeros((28, 28), np.uint8)).save(out, "png")
    file = tmp_path / "digit.png"
    file.write_bytes(out.getvalue())
    return file


def test_the_supervisor_s_replacement_of_a_real_worker_serves_at_once(
    cluster: Cluster, digits_model: Path, digit: Path, machine: Machine, figure: Figure
) -> None:
    """`muster up`, as users run it, with a registry of its own."""
    cluster.port, grpc_port = free_ports(2)
    cluster.url = f"http://127.0.0.1:{cluster.port}"
    supervisor = cluster.program(
        "up", "muster", "up", "--workers", "3", "--model", str(digits_model), "--port", str(cluster.port),
        "--grpc-port", str(grpc_port), "--verbose", TF_NUM_INTRAOP_THREADS="1",
    )  # fmt: skip
    until(lambda: not supervisor.alive or _listed(cluster) == len(_ready(supervisor)) == 3, "three workers are ready")
    assert supervisor.alive, supervisor.log
    outcomes: list[Outcome] = []

    def kill(_: int) -> tuple[Took]:
        before = _ready(supervisor)
        load = cluster.load(600, rate=100, size=1000, picture=digit)
        time.sleep(0.5)
        workers = [one for one in supervisor.process.children() if "worker" in one.cmdline()]
        workers[0].send_signal(signal.SIGKILL)
        until(lambda: len(_ready(supervisor)) > len(before), "the replacement is ready")
        time.sleep(0.5)
        outcomes.append(load.stop())
        outcomes[-1].without_failures()
        (new,) = _ready(supervisor).keys() - before
        healthy = _ready(supervisor)[new]
        served = min((one.started for one in outcomes[-1].requests if one.worker == new), default=float("inf"))
        return (Took(healthy, served, 0.050),)

    served = max(took.seconds for (took,) in machine.tries(form(3, 1), kill))
    figure(
        f"{sum(map(len, outcomes))} requests to real workers, {len(outcomes)} killed, 0 failed; the supervisor's "
        f"replacement served {served * 1000:.1f} ms after it had become healthy{machine.note}"
    )
    assert served <= 0.050


def _listed(cluster: Cluster) -> int:
    try:
        return len(cluster.listed())
    except OSError:
        return 0


_READY = re.compile(r"\| (\S+ \S+) INFO worker\S*: (\S+) is ready at")


def _ready(supervisor: Program) -> dict[str, float]:
    """The workers that have said that they are ready, and when, by the monotonic clock."""
    since_boot = time.time() - time.monotonic()
    return {
        worker: datetime.strptime(at, "%Y-%m-%d %H:%M:%S,%f").timestamp() - since_boot  # local time
        for at, worker in _READY.findall(supervisor.out_file.read_text())
    }

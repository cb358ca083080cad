"""3. Workers are asked to end, as a deployment does: real ones, one, then all of them in turn."""

from __future__ import annotations

import signal
import time
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.drills.cluster import Cluster, form, until
from tests.drills.conftest import Figure


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """A picture of 100 kB."""
    noise = np.random.default_rng(7).integers(0, 256, (184, 180, 3), dtype=np.uint8)
    out = BytesIO()
    Image.fromarray(noise).save(out, "png")
    file = tmp_path / "noise.png"
    file.write_bytes(out.getvalue())
    return file


def test_sigterm_and_a_rolling_restart_of_real_workers_lose_no_request(
    cluster: Cluster, digits_model: Path, picture: Path, figure: Figure
) -> None:
    cluster.proxy()
    workers = [cluster.real_worker(digits_model, listed=False) for _ in range(3)]
    until(lambda: len(cluster.listed()) == 3, "three workers are listed")
    load = cluster.load(600, rate=form(200, 40), picture=picture)
    time.sleep(form(5, 1))
    exits = []
    for worker in workers[: form(3, 2)]:
        id_ = worker.log.split(" is ready")[0].rpartition(" ")[2]
        asked = worker.signal(signal.SIGTERM)
        until(lambda id_=id_: id_ not in cluster.listed(), "the proxy has heard of it", 10)
        heard = time.monotonic() - asked
        worker.popen.wait(60)
        exits.append((heard, time.monotonic() - asked))
        known = cluster.consul.call("GET", f"/v1/health/service/{cluster.service}")
        assert id_ not in [entry["Service"]["ID"] for entry in known], "it is deregistered before it exits"
        assert worker.popen.returncode == 0
        cluster.real_worker(digits_model)
    time.sleep(1)
    outcome = load.stop()
    slowest = max(exits)[0]
    figure(
        f"{len(outcome)} requests over {len(exits)} restarts, {len(outcome.failures)} failed; off the list "
        f"{slowest * 1000:.0f} ms after SIGTERM at most; exits after {max(end for _, end in exits):.1f} s; "
        f"p99 {outcome.milliseconds(99):.0f} ms"
    )
    outcome.without_failures()


def test_the_last_request_comes_at_most_50_ms_after_sigterm(three: Cluster, figure: Figure) -> None:
    load = three.load(form(60, 8))
    lasts = []
    for worker in three.workers[:2] if form(0, 1) else three.workers:
        time.sleep(form(5, 1))
        until(lambda worker=worker: worker.seen["answered"] > 10, "it is busy")
        asked = worker.signal(signal.SIGTERM)
        time.sleep(1)
        lasts.append(worker.seen["arrivals"][-1] - asked)
        replaced = three.worker()
        assert worker.popen.wait(20) == 0
        assert replaced.alive
    outcome = load.stop()
    figure(f"last new request {max(lasts) * 1000:.1f} ms after SIGTERM at most; {len(outcome)} requests, 0 failed")
    outcome.without_failures()
    assert max(lasts) <= 0.050

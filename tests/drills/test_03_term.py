"""3. Workers are asked to end, as a deployment does: real ones, one, then all of them in turn."""

from __future__ import annotations

import signal
import time
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.drills.cluster import Cluster, Outcome, form, until
from tests.drills.conftest import Figure
from tests.drills.machine import Machine, Took


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
    cluster: Cluster, digits_model: Path, picture: Path, machine: Machine, figure: Figure
) -> None:
    """Real models cost a core, which is why the short form asks them for less."""
    cluster.proxy()
    workers = [cluster.real_worker(digits_model, listed=False) for _ in range(3)]
    until(lambda: len(cluster.listed()) == 3, "three workers are listed")
    outcomes: list[Outcome] = []
    heard: list[float] = []

    def restart(_: int) -> tuple[Took]:
        worker = workers.pop(0)
        load = cluster.load(600, rate=form(200, 40), picture=picture)
        time.sleep(form(5, 1))
        id_ = worker.log.split(" is ready")[0].rpartition(" ")[2]
        asked = worker.signal(signal.SIGTERM)
        until(lambda: id_ not in cluster.listed(), "the proxy has heard of it", 10)
        heard.append(time.monotonic() - asked)
        worker.popen.wait(60)
        ended = time.monotonic()
        assert id_ not in _known(cluster), "it is deregistered before it exits"
        assert worker.popen.returncode == 0
        workers.append(cluster.real_worker(digits_model))
        outcomes.append(load.stop())
        outcomes[-1].without_failures()
        answered = max(one.ended for one in outcomes[-1].requests if one.worker == id_)
        return (Took(max(answered, asked), ended, 2.0),)

    tries = machine.tries(3, restart)
    figure(
        f"{sum(map(len, outcomes))} requests over {len(outcomes)} restarts, 0 failed; off the list "
        f"{max(heard) * 1000:.0f} ms after SIGTERM at most; exits {max(took.seconds for (took,) in tries):.2f} s after "
        f"the last answer; p99 {max(outcome.milliseconds(99) for outcome in outcomes):.0f} ms{machine.note}"
    )
    assert all(took.seconds <= took.limit for (took,) in tries)


def _known(cluster: Cluster) -> list[str]:
    known = cluster.consul.call("GET", f"/v1/health/service/{cluster.service}")
    return [entry["Service"]["ID"] for entry in known]


def test_a_rolling_restart_loses_no_request_and_the_last_one_comes_at_most_50_ms_after_sigterm(
    three: Cluster, machine: Machine, figure: Figure
) -> None:
    """At the full load, with workers that leave as real ones do."""
    outcomes: list[Outcome] = []

    def restart(_: int) -> tuple[Took]:
        worker = three.workers.pop(0)
        load = three.load(600)
        time.sleep(form(5, 1))
        until(lambda: worker.seen["answered"] > 10, "it is busy")
        asked = worker.signal(signal.SIGTERM)
        time.sleep(1)
        last = worker.seen["arrivals"][-1]
        three.worker()
        assert worker.popen.wait(20) == 0
        assert worker.id not in _known(three)
        outcomes.append(load.stop())
        outcomes[-1].without_failures()
        return (Took(asked, max(last, asked), 0.050),)

    tries = machine.tries(form(6, 3), restart)
    figure(
        f"{sum(map(len, outcomes))} requests over {len(outcomes)} restarts, 0 failed; last new request "
        f"{max(took.seconds for (took,) in tries) * 1000:.1f} ms after SIGTERM at most{machine.note}"
    )
    assert all(took.seconds <= took.limit for (took,) in tries)

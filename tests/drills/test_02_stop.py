"""2. A worker hangs for ten seconds: it takes connections and answers nothing."""

from __future__ import annotations

import signal
import time

from tests.drills.cluster import Cluster, form, percentile, until
from tests.drills.conftest import Figure
from tests.drills.machine import Machine, Took

HEDGE = 0.1
"""Seconds after which a request that nobody has answered is sent to a second worker."""


def test_a_worker_that_is_stopped_costs_no_request_and_little_time(
    cluster: Cluster, machine: Machine, figure: Figure
) -> None:
    cluster.proxy("--hedge-after", str(HEDGE))
    for _ in range(3):
        cluster.worker(delay=0.01)

    ((ejected,),) = machine.tries(1, lambda _: (_stop_one(cluster, machine, figure),))
    assert ejected.seconds <= 1.0


def _stop_one(cluster: Cluster, machine: Machine, figure: Figure) -> Took:
    """The result is how long it took to eject it."""
    hung = cluster.workers[0]
    calm, event = form(10, 4), form(10, 5)
    load = cluster.load(600)
    time.sleep(calm)
    stopped = hung.signal(signal.SIGSTOP)
    until(lambda: cluster.listed().get(hung.id, {"state": "gone"})["state"] != "ready", "it is ejected", 5)
    ejected = time.monotonic() - stopped
    time.sleep(max(0.0, stopped + event - time.monotonic()))
    hung.signal(signal.SIGCONT)
    before = len(hung.seen["arrivals"])
    until(lambda: len(hung.seen["arrivals"]) > before + 5, "it is sent requests again", 30)
    outcome = load.stop()
    normal = outcome.between(0, stopped - 0.5).milliseconds(99)
    limit = 2 * normal + HEDGE * 1000
    event_only = outcome.between(stopped - 0.05, stopped + event).requests
    during = percentile(machine.fair([Took(one.due, one.ended, limit / 1000) for one in event_only]), 99) * 1000
    figure(
        f"{len(outcome)} requests, {len(outcome.failures)} failed; ejected after {ejected * 1000:.0f} ms; "
        f"p99 {normal:.1f} ms before, {during:.1f} ms during; hedging after {HEDGE * 1000:.0f} ms{machine.note}"
    )
    outcome.without_failures()
    assert during <= limit
    return Took(stopped, stopped + ejected, 1.0)


def test_a_worker_that_is_stopped_costs_no_request_without_hedging(three: Cluster, figure: Figure) -> None:
    hung = three.workers[0]
    load = three.load(form(25, 8))
    time.sleep(2)
    stopped = hung.signal(signal.SIGSTOP)
    time.sleep(form(10, 3))
    hung.signal(signal.SIGCONT)
    outcome = load.wait()
    longest = max(request.seconds for request in outcome.requests if request.due > stopped - 0.1)
    figure(f"{len(outcome)} requests, {len(outcome.failures)} failed without hedging; the longest took {longest:.2f} s")
    outcome.without_failures()

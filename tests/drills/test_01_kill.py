"""1. A worker is killed under load, and no client notices."""

from __future__ import annotations

import time

import pytest

from tests.drills.cluster import Cluster, form
from tests.drills.conftest import Figure


def test_kill_9_under_load_loses_no_request(three: Cluster, figure: Figure) -> None:
    seconds = form(50, 8)
    load = three.load(seconds)
    time.sleep(seconds / 4)
    killed = three.workers[0].kill()
    time.sleep(0.2)
    replacement = three.worker()
    outcome = load.wait()
    outcome.without_failures()
    # Who was under way at the worker is sent again, or the next one is refused; then nobody may go there any more.
    refused = [request for request in outcome.requests if request.attempts > 1 and request.ended > killed]
    last = 0.0
    if refused:
        last = max(request.started for request in refused) - min(request.ended for request in refused)
    seen = replacement.seen
    first = seen["arrivals"][0] - seen["listed"]
    figure(
        f"{len(outcome)} requests, 0 failed; {len(refused)} met the dead worker, the last of them began "
        f"{last * 1000:.1f} ms after the first refusal; replacement served {first * 1000:.1f} ms after it was listed; "
        f"p50 {outcome.milliseconds(50):.1f} ms, p99 {outcome.milliseconds(99):.1f} ms"
    )
    assert last <= 0.010
    assert first <= 0.050
    assert replacement.id in outcome.workers


def test_kill_9_loses_no_request_of_5_mb(three: Cluster, figure: Figure) -> None:
    seconds = form(20, 6)
    load = three.load(seconds, rate=10, size=5_000_000)
    for worker in three.workers[:2]:
        time.sleep(seconds / 4)
        worker.kill()
    outcome = load.wait()
    outcome.without_failures()
    again = sum(request.attempts > 1 for request in outcome.requests)
    figure(f"{len(outcome)} requests of 5 MB, 0 failed, 2 of 3 workers killed, {again} sent again")


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

"""7. Three times as many requests as the workers can do."""

from __future__ import annotations

import time

from tests.drills.cluster import Cluster, form, percentile
from tests.drills.conftest import Figure


def test_overload_costs_no_goodput_and_those_turned_away_hear_it_at_once(cluster: Cluster, figure: Figure) -> None:
    limit, delay, slots = 16, 0.08, 8
    capacity = 3 * slots / delay  # 300 requests a second
    cluster.proxy("--queue", "64", "--queue-timeout", "0.5")
    for _ in range(3):
        cluster.worker("--capacity", str(limit), delay=delay, slots=slots)
    proxy = cluster.proxies[0]
    cluster.load(2, rate=100, size=10_000).wait()  # warm
    for worker in cluster.workers:
        worker.behave(forget=True)
    seconds = form(30, 8)
    memory = proxy.memory, sum(worker.memory for worker in cluster.workers)
    load = cluster.load(seconds, rate=3 * capacity, size=10_000)
    time.sleep(seconds / 2)
    held = proxy.memory
    outcome = load.wait()
    begin = outcome.requests[0].due + 1
    steady = outcome.between(begin, begin + seconds - 1)
    good = [request for request in outcome.requests if request.ok and begin <= request.ended < begin + seconds - 1]
    goodput = len(good) / (seconds - 1)
    turned = [request for request in steady.requests if request.status in (429, 503)]
    # Who never waited for a seat hears it at once; who waited in vain hears it when the time is over.
    at_once = [request.ended - request.started for request in turned if request.ended - request.started < 0.4]
    most = max(worker.seen["most"] for worker in cluster.workers)
    grown = proxy.memory - memory[0], sum(worker.memory for worker in cluster.workers) - memory[1]
    figure(
        f"{3 * capacity:.0f} requests/s at a capacity of {capacity:.0f}: {goodput:.0f}/s served "
        f"({goodput / capacity * 100:.1f} %), {len(turned)} turned away, p50 {percentile(at_once, 50) * 1000:.1f} ms, "
        f"p99 {percentile(at_once, 99) * 1000:.1f} ms; {most} at most in flight at one worker (limit {limit}); memory "
        f"of the proxy +{grown[0] / 2**20:.1f} MiB, of the workers +{grown[1] / 2**20:.1f} MiB"
    )
    assert goodput >= 0.95 * capacity
    assert most <= limit
    assert set(outcome.statuses) <= {200, 429, 503}, outcome.describe_failures()
    assert all(request.retry_after for request in turned)
    assert percentile(at_once, 50) <= 0.010
    assert max(grown[0], held - memory[0]) < 64 * 2**20
    assert grown[1] < 64 * 2**20

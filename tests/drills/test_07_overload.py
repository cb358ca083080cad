"""7. Three times as many requests as the workers can do."""

from __future__ import annotations

import time

from tests.drills.cluster import Cluster, Program, form, percentile
from tests.drills.conftest import Figure
from tests.drills.machine import Machine, Took

LIMIT, DELAY, SLOTS = 8, 0.18, 4
CAPACITY = 3 * SLOTS / DELAY
"""A third of the 200 requests a second that all drills send."""
QUEUE, PATIENCE = 24, 0.5


def test_overload_costs_no_goodput_and_those_turned_away_hear_it_at_once(
    cluster: Cluster, machine: Machine, figure: Figure
) -> None:
    proxy = cluster.proxy("--queue", str(QUEUE), "--queue-timeout", str(PATIENCE))
    for _ in range(3):
        cluster.worker("--capacity", str(LIMIT), delay=DELAY, slots=SLOTS)
    cluster.load(2, rate=100).wait()  # warm

    def once(_: int) -> tuple[()]:
        _overload(cluster, proxy, machine, figure)
        return ()

    machine.tries(1, once)


def _overload(cluster: Cluster, proxy: Program, machine: Machine, figure: Figure) -> None:
    for worker in cluster.workers:
        worker.behave(forget=True)
    seconds, before = form(30, 8), cluster.metric("muster_proxy_queue_timeouts_total")
    load = cluster.load(seconds, rate=3 * CAPACITY)
    samples = []  # of what the proxy says of itself, and of everybody's memory
    begin = time.monotonic()
    while time.monotonic() - begin < seconds - 0.5:
        workers = [worker.memory for worker in cluster.workers]
        queue, in_flight = cluster.metric("muster_proxy_queue"), max(cluster.samples("muster_proxy_in_flight"))
        samples.append((time.monotonic() - begin, queue, in_flight, proxy.memory, sum(workers)))
        time.sleep(0.1)
    outcome = load.wait()
    begin = outcome.requests[0].due + 1
    steady = outcome.between(begin, begin + seconds - 1)
    good = [request for request in outcome.requests if request.ok and begin <= request.ended < begin + seconds - 1]
    goodput = len(good) / (seconds - 1)
    turned = [request for request in steady.requests if request.status in (429, 503)]
    # Who never waited for a seat hears it at once; who waited in vain hears it when the time is over.
    early = [Took(one.started, one.ended, 0.010) for one in turned if one.ended - one.started < PATIENCE - 0.1]
    at_once = machine.fair(early)
    in_vain = cluster.metric("muster_proxy_queue_timeouts_total") - before
    longest = max(request.ended - request.started for request in outcome.requests)
    held = max(worker.seen["most"] for worker in cluster.workers)
    _, queued, in_flight, *_ = map(max, zip(*samples, strict=True))
    grown = [_growth([(sample[0], sample[which]) for sample in samples]) for which in (3, 4)]
    figure(
        f"{3 * CAPACITY:.0f} requests/s at a capacity of {CAPACITY:.0f}: {goodput:.0f}/s served "
        f"({goodput / CAPACITY * 100:.1f} %), {len(turned)} turned away, {len(early)} of them at once: "
        f"p50 {percentile(at_once, 50) * 1000:.1f} ms, p99 {percentile(at_once, 99) * 1000:.1f} ms; at most "
        f"{queued:.0f} waited (limit {QUEUE}), the longest {longest:.2f} s; at most {held} under way at one worker "
        f"(limit {LIMIT}); memory of the proxy {grown[0]:+.1f} MiB, of the workers {grown[1]:+.1f} MiB{machine.note}"
    )
    assert goodput >= 0.95 * CAPACITY
    assert max(held, in_flight) <= LIMIT
    assert queued <= QUEUE
    assert longest <= PATIENCE + LIMIT / SLOTS * DELAY + 0.25, "nobody waits for longer, and then is served or is not"
    assert set(outcome.statuses) <= {200, 429, 503}, outcome.describe_failures()
    assert all(request.retry_after for request in turned)
    assert len(turned) - len(early) <= in_vain, "who is not turned away at once has waited for his time"
    assert len(early) >= 0.9 * len(turned)
    assert percentile(at_once, 99) <= 0.010
    assert max(grown) <= 16


def test_who_waits_in_vain_hears_so_when_the_time_is_over(cluster: Cluster, figure: Figure) -> None:
    cluster.proxy("--queue", "8", "--queue-timeout", str(PATIENCE))
    cluster.worker("--capacity", "1", delay=3)
    outcome = cluster.load(1, rate=20).wait()
    turned = sorted(request.ended - request.started for request in outcome.requests if request.status == 503)
    at_once, in_vain = (cluster.metric(f"muster_proxy_queue_{what}_total") for what in ("refused", "timeouts"))
    figure(
        f"{len(outcome)} requests for a worker that takes one in 3 s: {len(outcome) - len(turned)} served, "
        f"{at_once:.0f} turned away at once, {in_vain:.0f} after {turned[-1]:.2f} s at most ({PATIENCE} s allowed)"
    )
    assert len(turned) == at_once + in_vain == len(outcome) - 1
    assert in_vain >= 8
    assert PATIENCE <= turned[-1] <= PATIENCE + 0.25


def _growth(samples: list[tuple[float, float]]) -> float:
    """MiB from the second quarter of the time to the last: by then what is held for a request is held."""
    end = samples[-1][0]
    early = max(memory for at, memory in samples if end / 4 <= at < end / 2)
    late = max(memory for at, memory in samples if at >= end * 3 / 4)
    return (late - early) / 2**20

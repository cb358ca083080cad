"""6. How fast news of the registry become requests, or the end of them."""

from __future__ import annotations

import time

from discovery.records import registration
from muster.values import Worker
from tests.drills.cluster import Cluster, DrillWorker, form, percentile, until
from tests.drills.conftest import Figure
from tests.drills.machine import Machine, Took


def test_a_new_worker_is_used_within_50_ms_and_one_that_leaves_is_not_after_20(
    three: Cluster, machine: Machine, figure: Figure
) -> None:
    """One process stands by and is listed under a new name at each try."""
    standby = three.worker(listed=False, registry="none")
    count = form(50, 12)
    load = three.load(count * 5 + 10)
    time.sleep(1)
    tries = machine.tries(count, lambda number: _come_and_go(three, standby, number))
    outcome = load.stop()
    firsts, lasts = ([took.seconds for took in times] for times in zip(*tries, strict=True))
    first, last = percentile(firsts, 99), percentile(lasts, 99)
    figure(
        f"{count} tries: first request {percentile(firsts, 50) * 1000:.1f} ms (p99 {first * 1000:.1f}) after the check "
        f"passes; last request {percentile(lasts, 50) * 1000:.1f} ms (p99 {last * 1000:.1f}) after maintenance or "
        f"deregistration; {len(outcome)} requests, {len(outcome.failures)} failed{machine.note}"
    )
    outcome.without_failures()
    assert first <= 0.050
    assert last <= 0.020


def _come_and_go(cluster: Cluster, standby: DrillWorker, number: int) -> tuple[Took, Took]:
    """How long its first and its last request took to come, after the registry knew."""
    consul = cluster.consul
    standby.behave(forget=True)
    name = f"standby-{number}"
    record = registration(Worker(name, "127.0.0.1", standby.port, ("drill",), replay_safe=True), cluster.service, 60)
    body = {
        "Name": record["name"], "ID": name, "Address": record["address"], "Port": record["port"],
        "Tags": record["tags"], "Meta": record["meta"], "Check": {"CheckID": f"{name}:ttl", "TTL": "60s"},
    }  # fmt: skip
    consul.call("PUT", "/v1/agent/service/register", body)  # its check begins as critical
    consul.call("PUT", f"/v1/agent/check/pass/{name}:ttl")
    passed = time.monotonic()
    until(lambda: standby.seen["arrivals"], "a first request", 5)
    time.sleep(0.1)
    if number % 2:
        consul.call("PUT", f"/v1/agent/service/maintenance/{name}?enable=true&reason=drill")
    else:
        consul.call("PUT", f"/v1/agent/service/deregister/{name}")
    told = time.monotonic()
    time.sleep(0.25)
    arrivals = standby.seen["arrivals"]
    if number % 2:
        consul.call("PUT", f"/v1/agent/service/deregister/{name}")
    return Took(passed, arrivals[0], 0.050), Took(told, arrivals[-1], 0.020)

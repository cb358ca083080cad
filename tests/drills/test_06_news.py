"""6. How fast news of the registry become requests, or the end of them."""

from __future__ import annotations

import time

from discovery.records import registration
from muster.values import Worker
from tests.drills.cluster import Cluster, form, percentile, until
from tests.drills.conftest import Figure


def test_a_new_worker_is_used_within_50_ms_and_one_that_leaves_is_not_after_20(three: Cluster, figure: Figure) -> None:
    """One process stands by and is listed under a new name at each try."""
    standby = three.worker(listed=False, registry="none")
    tries = form(50, 12)
    load = three.load(tries * 3 + 10)
    time.sleep(1)
    firsts, lasts = [], []
    for number in range(tries):
        standby.behave(forget=True)
        name = f"standby-{number}"
        record = registration(Worker(name, "127.0.0.1", standby.port, ("drill",), replay_safe=True), three.service, 60)
        body = {
            "Name": record["name"], "ID": name, "Address": record["address"], "Port": record["port"],
            "Tags": record["tags"], "Meta": record["meta"], "Check": {"CheckID": f"{name}:ttl", "TTL": "60s"},
        }  # fmt: skip
        three.consul.call("PUT", "/v1/agent/service/register", body)  # its check begins as critical
        three.consul.call("PUT", f"/v1/agent/check/pass/{name}:ttl")
        passed = time.monotonic()
        until(lambda: standby.seen["arrivals"], "a first request", 5)
        time.sleep(0.1)
        if number % 2:
            three.consul.call("PUT", f"/v1/agent/service/maintenance/{name}?enable=true&reason=drill")
        else:
            three.consul.call("PUT", f"/v1/agent/service/deregister/{name}")
        told = time.monotonic()
        time.sleep(0.25)
        arrivals = standby.seen["arrivals"]
        firsts.append(arrivals[0] - passed)
        lasts.append(arrivals[-1] - told)
        if number % 2:
            three.consul.call("PUT", f"/v1/agent/service/deregister/{name}")
    outcome = load.stop()
    first, last = percentile(firsts, 99), percentile(lasts, 99)
    figure(
        f"{tries} tries: first request {percentile(firsts, 50) * 1000:.1f} ms (p99 {first * 1000:.1f}) after the check "
        f"passes; last request {percentile(lasts, 50) * 1000:.1f} ms (p99 {last * 1000:.1f}) after maintenance or "
        f"deregistration; {len(outcome)} requests, {len(outcome.failures)} failed"
    )
    outcome.without_failures()
    assert first <= 0.050
    assert last <= 0.020

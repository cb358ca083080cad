"""15. Whose turn it is: weights, exact and live; strategies."""

from __future__ import annotations

import http.client
from collections import Counter
from contextlib import closing

import pytest

from tests.drills.cluster import Cluster, DrillWorker, form, until
from tests.drills.conftest import Figure


def _answered(cluster: Cluster, count: int) -> list[str]:
    """Who answered, of so many requests in a row."""
    served = []
    with closing(http.client.HTTPConnection("127.0.0.1", cluster.port, timeout=10)) as connection:
        for _ in range(count):
            connection.request("GET", "/classify")
            answer = connection.getresponse()
            answer.read()
            served.append(answer.getheader("X-Served-By", ""))
    return served


def _listed(cluster: Cluster, worker: DrillWorker, passing: int, warning: int) -> None:
    """Register the worker with these weights."""
    cluster.consul.call(
        "PUT", "/v1/agent/service/register",
        {"Name": cluster.service, "ID": worker.id, "Address": "127.0.0.1", "Port": worker.port,
         "Weights": {"Passing": passing, "Warning": warning},
         "Meta": {"replay_safe": "true"},
         "Check": {"CheckID": f"{worker.id}:drill", "TTL": "600s", "Status": "passing"}},
    )  # fmt: skip


def _weights(cluster: Cluster, expected: list[int]) -> None:
    until(lambda: [cluster.listed().get(w.id, {}).get("weight") for w in cluster.workers] == expected,
          f"the proxy has heard of the weights {expected}", 10)  # fmt: skip


def test_weights_are_exact_smooth_and_followed_live(cluster: Cluster, figure: Figure) -> None:
    cluster.proxy("--slow-start", "0")
    for _ in range(3):
        cluster.worker(listed=False, registry="none")
    heavy, light, other = cluster.workers
    for worker, weight in ((heavy, 5), (light, 1), (other, 1)):
        _listed(cluster, worker, weight, 2)
    _weights(cluster, [5, 1, 1])
    served = _answered(cluster, form(7000, 700))
    per_seven = [Counter(served[at : at + 7]) for at in range(0, len(served), 7)]
    exact = sum(sorted(each.values()) == [1, 1, 5] and each[heavy.id] == 5 for each in per_seven)
    longest = max(len(run) for run in "".join("h" if s == heavy.id else " " for s in served).split())
    cluster.consul.call("PUT", f"/v1/agent/check/warn/{heavy.id}:drill")
    _weights(cluster, [2, 1, 1])
    warned = Counter(_answered(cluster, 400))
    figure(
        f"weights 5:1:1: {exact} of {len(per_seven)} groups of seven are 5, 1 and 1, at most {longest} in a row for "
        f"the heavy one; its warning weight of 2 gave it {warned[heavy.id]} of 400"
    )
    assert exact == len(per_seven)
    assert longest <= 5
    assert warned[heavy.id] == 200


@pytest.mark.parametrize("strategy", ["least-in-flight", "power-of-two"])
def test_other_strategies_look_at_what_is_under_way(cluster: Cluster, figure: Figure, strategy: str) -> None:
    cluster.proxy("--strategy", strategy)
    for delay in (0.01, 0.01, 0.2):
        cluster.worker(delay=delay)
    outcome = cluster.load(form(20, 4), size=10_000).wait()
    outcome.without_failures()
    share = outcome.workers[cluster.workers[2].id] / len(outcome)
    figure(f"{strategy}: a worker that takes 200 ms instead of 10 got {share * 100:.1f} % of {len(outcome)} requests")
    assert share < 0.12

"""8. Retries do not make a bad day worse, and nothing is sent twice that must not be."""

from __future__ import annotations

from tests.drills.cluster import Cluster, form
from tests.drills.conftest import Figure


def test_two_of_three_workers_that_decline_are_not_stormed(three: Cluster, figure: Figure) -> None:
    for worker in three.workers[:2]:
        worker.behave(status=503)
    outcome = three.load(form(60, 8), size=10_000).wait()
    sent = sum(len(worker.seen["arrivals"]) for worker in three.workers)
    figure(
        f"{len(outcome)} requests while 2 of 3 workers answer 503: {sent} sent to workers "
        f"(× {sent / len(outcome):.3f}), {len(outcome.failures)} clients saw an error"
    )
    outcome.without_failures()
    assert sent <= 1.2 * len(outcome)


def test_all_three_workers_that_decline_are_not_stormed(three: Cluster, figure: Figure) -> None:
    for worker in three.workers:
        worker.behave(status=503)
    outcome = three.load(form(30, 6), size=10_000).wait()
    sent = sum(len(worker.seen["arrivals"]) for worker in three.workers)
    # The budget is spent to the last request here. What a connection that had died held is sent again beside it.
    name = "muster_proxy_failed_attempts_total"
    died = three.metric(name) - three.metric(name, reason="declined")
    figure(
        f"{len(outcome)} requests while all answer 503: {sent} sent to workers (× {sent / len(outcome):.3f}), "
        f"{died:.0f} of them because a connection had died"
    )
    assert sent - died <= 1.2 * len(outcome)


def test_what_is_not_declared_replay_safe_is_never_sent_twice(cluster: Cluster, figure: Figure) -> None:
    cluster.proxy("--hedge-after", "0.05")
    for _ in range(3):
        cluster.worker("--not-replay-safe")
    for worker, bad in zip(cluster.workers, ({"fault": "reset"}, {"status": 503}, {"delay": 0.2}), strict=True):
        worker.behave(**bad)
    outcome = cluster.load(form(30, 6)).wait()
    sent = sum(len(worker.seen["arrivals"]) for worker in cluster.workers)
    figure(
        f"{len(outcome)} POSTs to workers that are not replay-safe, of which one resets and one declines: "
        f"{sent} arrived, so none twice"
    )
    assert sent <= len(outcome)
    assert all(request.attempts <= 1 for request in outcome.requests)

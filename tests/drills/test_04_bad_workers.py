"""4. Workers that are alive and bad at it: they answer errors, resets, halves, nonsense, or slowly."""

from __future__ import annotations

import re
import socket
import time
from itertools import pairwise
from typing import Any

import pytest

from tests.drills.cluster import Cluster, form, until
from tests.drills.conftest import Figure


def _share(before: int, after: int, seconds: float, rate: float = 200) -> float:
    return (after - before) / (seconds * rate)


@pytest.mark.parametrize(
    ("kind", "bad", "failing", "most"),
    [
        ("503", {"status": 503}, 0.0, 0.1),
        ("500", {"status": 500}, 0.02, 0.1),  # it answered: the client gets it, until the worker is ejected
        ("500 to two of three", {"status": 500, "well": 3}, 0.02, 0.3),  # few in a row: its rate tells, with time
        ("reset", {"fault": "reset"}, 0.0, 0.1),
        ("garbage", {"fault": "garbage"}, 0.0, 0.1),
        ("cut", {"fault": "cut"}, 0.02, 0.1),  # the client has seen a part of it: an error, but never a whole answer
        ("chunked cut", {"fault": "chunked cut"}, 0.02, 0.1),
    ],
)
def test_a_worker_that_fails_is_ejected_and_comes_back(
    three: Cluster, figure: Figure, kind: str, bad: dict[str, Any], failing: float, most: float
) -> None:
    culprit = three.workers[0]
    failed = form(30, 4)
    load = three.load(600)
    time.sleep(1)
    since = culprit.behave(**bad)
    began = len(culprit.seen["arrivals"])
    time.sleep(failed)
    ended = len(culprit.seen["arrivals"])
    until(lambda: f"worker {culprit.id} rests" in three.proxies[0].log, "it is left alone", 5)
    culprit.behave(status=200, fault="")
    until(lambda: len(culprit.seen["arrivals"]) > ended + 3, "it is asked again", 40)
    time.sleep(form(10, 0.5))
    outcome = load.stop()
    during = outcome.between(since - 0.1, since + failed)
    lost = len(during.failures) / len(during)
    share = _share(began, ended, failed)
    figure(
        f"{kind}: {len(outcome)} requests, {len(outcome.failures)} seen to fail ({during.describe_failures()}); "
        f"the bad worker got {share * 100:.1f} % of the requests meanwhile instead of 33"
    )
    assert lost <= failing
    assert share <= most
    assert len(outcome.between(since + failed + 0.5, 1e18).failures) == 0


def test_each_rest_is_longer_and_who_comes_back_is_given_more_and_more(cluster: Cluster, figure: Figure) -> None:
    slow_start = form(10.0, 4.0)
    proxy = cluster.proxy("--rest", "0.5", "--slow-start", str(slow_start))
    for _ in range(3):
        cluster.worker()
    culprit = cluster.workers[0]
    load = cluster.load(600)
    culprit.behave(status=500)

    def rests() -> list[float]:
        return [float(rest) for rest in re.findall(rf"{culprit.id} rests for (\S+) s: errors", proxy.log)]

    until(lambda: len(rests()) == form(5, 4), "it rests again and again", 90)
    healed = culprit.behave(status=200)
    until(lambda: culprit.seen["arrivals"][-1] > healed + 0.1, "it is asked again", 30)
    back = next(at for at in culprit.seen["arrivals"] if at > healed + 0.1)
    time.sleep(slow_start + 3)
    arrivals = culprit.seen["arrivals"]
    outcome = load.stop()

    def share(since: float, seconds: float) -> float:
        return sum(since <= at < since + seconds for at in arrivals) / (200 * seconds)

    growing = [share(back + quarter * slow_start / 4, slow_start / 4) for quarter in range(4)]
    at_last = share(back + slow_start + 1.2, 1.5)
    shares = ", ".join(f"{each * 100:.0f}" for each in growing)
    figure(
        f"rests of {', '.join(f'{rest:.1f}' for rest in rests())} s; back, it got {shares} % of the requests in the "
        f"quarters of its slow start of {slow_start:.0f} s, then {at_last * 100:.0f} %"
    )
    for shorter, longer in pairwise(rests()):
        assert longer >= 1.5 * shorter
    assert growing[0] < 0.5 * growing[2] < growing[3] < at_last
    assert at_last > 0.3
    assert not outcome.between(back, 1e18).failures


def test_a_worker_that_is_five_times_slower_gets_less(cluster: Cluster, figure: Figure) -> None:
    shares = {}
    for strategy in ("round-robin", "least-in-flight", "power-of-two"):
        cluster.workers.clear()
        cluster.service += "-" + strategy
        cluster.proxy("--strategy", strategy)
        for _ in range(3):
            cluster.worker(delay=0.02)
        slow = cluster.workers[0]
        slow.behave(delay=0.1)
        if strategy == "round-robin":  # it has to have seen that for a while
            cluster.load(5).wait().without_failures()
        outcome = cluster.load(form(20, 3)).wait()
        outcome.without_failures()
        shares[strategy] = outcome.workers[slow.id] / len(outcome)
    figure("; ".join(f"{name}: {share * 100:.0f} % instead of 33" for name, share in shares.items()))
    assert all(share <= 0.2 for share in shares.values())


def test_when_all_fail_they_are_asked_all_the_same(three: Cluster, figure: Figure) -> None:
    for worker in three.workers:
        worker.behave(status=500)
    load = three.load(form(20, 6))
    time.sleep(3)
    told = three.listed().values()
    ready = sum(worker["state"] != "resting" for worker in told)
    healed = 0.0
    for worker in three.workers:
        healed = worker.behave(status=200)
    outcome = load.wait()
    after = outcome.between(healed + 0.05, 1e18)
    figure(
        f"{len(outcome)} requests while all three answered 500: {dict(outcome.statuses)}, {ready} of 3 never ejected; "
        f"{len(after.failures)} of {len(after)} failed once they were well"
    )
    assert ready >= 1, "never more than a set share is ejected"
    assert not after.failures
    assert 0 not in outcome.statuses


def test_a_worker_that_dies_within_its_answer_is_never_taken_for_whole(cluster: Cluster, figure: Figure) -> None:
    """With one worker there is nobody else to hide it; HTTP/1.0 clients know the end only by the connection's."""
    cluster.proxy()
    cluster.worker()
    worker = cluster.workers[0]
    whole = 0
    for fault in ("cut", "chunked cut"):
        worker.behave(fault=fault)
        for version in (b"1.1", b"1.0"):
            for _ in range(form(20, 5)):
                whole += _looks_whole(cluster.port, version)
    figure(f"{form(80, 20)} answers cut short by the worker's death, {whole} of them looked complete")
    assert whole == 0


def _looks_whole(port: int, version: bytes) -> bool:
    with socket.create_connection(("127.0.0.1", port), 10) as client:
        client.sendall(b"GET /classify HTTP/%b\r\nHost: a\r\nConnection: close\r\n\r\n" % version)
        answer = b""
        try:
            while piece := client.recv(65536):
                answer += piece
        except ConnectionResetError:
            return False
    head, _, body = answer.partition(b"\r\n\r\n")
    if not head.split(b" ")[1].startswith(b"2"):
        return False
    if b"chunked" in head.lower():
        return body.endswith(b"0\r\n\r\n")
    return b"content-length: %d" % len(body) in head.lower() or b"content-length" not in head.lower()

"""5. The registry dies, forgets, loses its leader, is noisy, or has much to say at once."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.consul_agent import ConsulAgent, free_ports
from tests.drills.cluster import Cluster, ask, form, until
from tests.drills.conftest import Figure
from tests.drills.passage import Passage


@pytest.fixture
def own(consul_agent: ConsulAgent, tmp_path: Path) -> Iterator[Cluster]:
    """A cluster with an agent of its own, three workers and a proxy."""
    with Cluster(consul_agent, tmp_path) as cluster:
        cluster.proxy()
        for _ in range(3):
            cluster.worker()
        yield cluster


def test_without_its_registry_the_proxy_serves_on_and_finds_dead_workers(own: Cluster, figure: Figure) -> None:
    away = form(60, 17)
    load = own.load(away + 12)
    time.sleep(1)
    own.consul.stop()
    stopped = time.monotonic()
    time.sleep(away / 3)
    dead = own.workers[0]
    killed = dead.kill()
    until(lambda: own.listed().get(dead.id, {"state": "gone"})["state"] != "ready", "the dead worker is found", 10)
    found = time.monotonic() - killed
    time.sleep(max(0.0, stopped + away - time.monotonic()))
    status, ready = ask(own.port, "GET", "/readyz")
    age = own.metric("muster_proxy_registry_age_seconds")
    own.consul.start()
    until(lambda: len(own.listed()) == 2 and own.metric("muster_proxy_registry_age_seconds") < 2, "all is well", 15)
    outcome = load.stop()
    figure(
        f"{len(outcome)} requests, {len(outcome.failures)} failed in {away} s without a registry; a dead worker was "
        f"found after {found * 1000:.0f} ms; /readyz {status} {ready.strip()}, age {age:.1f} s"
    )
    outcome.without_failures()
    assert status == 200
    assert "stale" in ready
    assert age > away - 2


def _filled_again(own: Cluster) -> tuple[float, float]:
    """Seconds until all workers are back in an agent that has just been started empty; and until the proxy hears of a
    worker that registers after that."""
    back = time.monotonic()

    def registered() -> bool:
        told = own.consul.call("GET", f"/v1/health/service/{own.service}?passing=1")
        return len(told) == sum(worker.alive for worker in own.workers)

    until(registered, "all workers are registered again", 20)
    again = time.monotonic() - back
    newcomer = own.worker(listed=False)
    until(lambda: newcomer.seen["listed"], "it is registered", 10)
    until(lambda: newcomer.seen["arrivals"], "the proxy follows the new agent", 10)
    seen = newcomer.seen
    return again, max(0.0, seen["arrivals"][0] - seen["listed"])


def test_a_registry_that_comes_back_empty_is_filled_again(own: Cluster, figure: Figure) -> None:
    load = own.load(600)
    time.sleep(1)
    own.consul.stop()
    own.consul.start()
    again, followed = _filled_again(own)
    time.sleep(form(20, 0))
    outcome = load.stop()
    figure(
        f"{len(outcome)} requests, {len(outcome.failures)} failed; workers registered {again:.2f} s after the agent "
        f"had come back empty; the proxy followed {followed * 1000:.0f} ms later"
    )
    outcome.without_failures()
    assert again <= 3.0
    assert followed <= 1.0


def test_a_registry_that_hangs_loses_no_request(own: Cluster, figure: Figure) -> None:
    load = own.load(form(40, 12))
    time.sleep(1)
    own.consul.signal(signal.SIGSTOP)
    time.sleep(form(20, 5))
    own.workers[0].kill()
    time.sleep(1)
    own.consul.signal(signal.SIGCONT)
    outcome = load.stop()
    figure(f"{len(outcome)} requests, {len(outcome.failures)} failed while the agent hung and a worker was killed")
    outcome.without_failures()


def _leader(port: int) -> str:
    try:
        return ask(port, "GET", "/v1/status/leader")[1].strip()
    except OSError:
        return "not there yet"


def test_a_registry_without_a_leader_loses_no_request(own: Cluster, tmp_path: Path, figure: Figure) -> None:
    """A server that waits for a second one which never comes answers, and has no leader."""
    load = own.load(600)
    time.sleep(1)
    own.consul.stop()
    port, server, serf = int(own.consul.address.rpartition(":")[2]), *free_ports(2)
    leaderless = subprocess.Popen(
        [own.consul.program, "agent", "-server", "-bootstrap-expect=2", f"-data-dir={tmp_path / 'leaderless'}",
         "-bind=127.0.0.1", "-client=127.0.0.1", f"-http-port={port}", f"-server-port={server}",
         f"-serf-lan-port={serf}", "-serf-wan-port=-1", "-dns-port=-1", "-grpc-port=-1"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        until(lambda: _leader(port) == '""', "it answers without a leader", 10)
        begin, away = time.monotonic(), form(60, 17)
        time.sleep(away / 3)
        dead = own.workers[0]
        killed = dead.kill()
        until(lambda: own.listed().get(dead.id, {"state": "gone"})["state"] != "ready", "the dead one is found", 10)
        found = time.monotonic() - killed
        time.sleep(max(0.0, begin + away - time.monotonic()))
        status, ready = ask(own.port, "GET", "/readyz")
        listed = len(own.listed())
    finally:
        leaderless.kill()
        leaderless.wait()
    own.consul.start()
    again, followed = _filled_again(own)
    outcome = load.stop()
    figure(
        f"{len(outcome)} requests, {len(outcome.failures)} failed in {away} s without a leader; a dead worker found "
        f"after {found * 1000:.0f} ms, {listed} stayed known; /readyz {status} {ready.strip()}; workers registered "
        f"after {again:.2f} s, and the proxy followed {followed * 1000:.0f} ms later"
    )
    outcome.without_failures()
    assert status == 200
    assert "stale" in ready
    assert listed >= 2
    assert again <= 3.0
    assert followed <= 1.0


def test_a_noisy_registry_costs_next_to_nothing(own: Cluster, figure: Figure) -> None:
    """50 other services flap 20 times a second in all, a worker comes and goes twice a second, and nobody asks the
    proxy for anything: it is woken once for each change of its own service."""
    for number in range(50):
        own.consul.call(
            "PUT", "/v1/agent/service/register",
            {"Name": f"other-{number}", "Port": 1000 + number, "Check": {"CheckID": f"c{number}", "TTL": "600s"}},
        )  # fmt: skip
    own.consul.call(
        "PUT", "/v1/agent/service/register",
        {"Name": own.service, "ID": "moody", "Address": "127.0.0.1", "Port": own.workers[0].port + 1},
    )  # fmt: skip
    with Passage(own.consul.address) as passage:
        own.registry = f"consul://{passage.address}"
        proxy = own.proxy()
        until(lambda: "moody" in own.listed(), "it is listed")
        time.sleep(0.5)
        lines = proxy.log.count("\n")
        before, begin = proxy.cpu, time.monotonic()
        seconds = form(60, 12)
        flaps = changes = 0
        for step in range(seconds * 20):
            time.sleep(max(0.0, begin + step / 20 - time.monotonic()))
            verb = "fail" if (step // 50) % 2 else "pass"
            own.consul.call("PUT", f"/v1/agent/check/{verb}/c{step % 50}")
            flaps += 1
            if step % 10 == 0:
                enable = "false" if changes % 2 else "true"
                own.consul.call("PUT", f"/v1/agent/service/maintenance/moody?enable={enable}&reason=drill")
                changes += 1
        time.sleep(0.3)
        used = (proxy.cpu - before) / (time.monotonic() - begin)
        wakes = passage.since(begin)
    figure(
        f"{flaps} changes of other services and {changes} of its own in {seconds} s: the proxy was woken {wakes} times "
        f"and used {used * 100:.2f} % of a core"
    )
    assert changes / 2 <= wakes <= changes + seconds / 10 + 1, "a watch ends by itself after ten seconds"
    assert used < 0.03
    assert proxy.log.count("\n") - lines < changes + 10


def test_two_hundred_workers_at_once_are_seen_within_a_second(own: Cluster, figure: Figure) -> None:
    with Passage(own.consul.address) as passage, ThreadPoolExecutor(50) as hands:
        own.registry = f"consul://{passage.address}"
        own.proxy()
        until(lambda: len(own.listed()) == 3, "three are listed")
        begin = time.monotonic()

        def register(number: int) -> None:
            own.consul.call(
                "PUT", "/v1/agent/service/register",
                {"Name": own.service, "ID": f"many-{number}", "Address": "127.0.0.1", "Port": 20000 + number},
            )  # fmt: skip

        list(hands.map(register, range(200)))
        registered = time.monotonic()
        until(lambda: len(own.listed()) == 203, "all are listed", 20)
        seen = time.monotonic() - registered
        wakes = passage.since(begin)
    figure(
        f"200 workers registered in {registered - begin:.2f} s, all seen {seen * 1000:.0f} ms after the last; "
        f"the proxy was woken {wakes} times"
    )
    assert wakes <= 200
    assert seen <= 1.0

"""5. The registry dies, forgets, loses its leader, is noisy, or has much to say at once."""

from __future__ import annotations

import contextlib
import itertools
import signal
import subprocess
import threading
import time
import urllib.error
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.consul_agent import ConsulAgent, free_ports
from tests.drills.cluster import Cluster, ask, form, until
from tests.drills.conftest import Figure


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


def test_a_registry_that_comes_back_empty_is_filled_again(own: Cluster, figure: Figure) -> None:
    load = own.load(form(40, 25))
    time.sleep(1)
    own.consul.stop()
    own.consul.start()
    back = time.monotonic()

    def registered() -> bool:
        told = own.consul.call("GET", f"/v1/health/service/{own.service}?passing=1")
        return len(told) == 3

    until(registered, "all workers are registered again", 20)
    again = time.monotonic() - back
    newcomer = own.worker(listed=False)
    until(lambda: newcomer.seen["listed"], "it is registered", 10)
    until(lambda: newcomer.seen["arrivals"], "the proxy follows the new agent", 10)
    followed = newcomer.seen["arrivals"][0] - newcomer.seen["listed"]
    outcome = load.stop()
    figure(
        f"{len(outcome)} requests, {len(outcome.failures)} failed; workers registered {again:.2f} s after the agent "
        f"had come back empty; the proxy followed {max(0.0, followed) * 1000:.0f} ms later"
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
    load = own.load(form(60, 12))
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
        time.sleep(form(20, 3))
        own.workers[0].kill()
        time.sleep(1)
        listed = len(own.listed())
    finally:
        leaderless.kill()
        leaderless.wait()
    own.consul.start()
    until(lambda: own.metric("muster_proxy_registry_age_seconds") < 2, "the proxy is in touch again", 15)
    outcome = load.stop()
    figure(f"{len(outcome)} requests, {len(outcome.failures)} failed without a leader; {listed} workers stayed known")
    outcome.without_failures()
    assert listed >= 2


def test_a_noisy_registry_costs_next_to_nothing(own: Cluster, figure: Figure) -> None:
    """50 other services flap 20 times a second in all, and nobody asks the proxy for anything."""
    proxy = own.proxies[0]
    for number in range(50):
        own.consul.call(
            "PUT", "/v1/agent/service/register",
            {"Name": f"other-{number}", "Port": 1000 + number, "Check": {"CheckID": f"c{number}", "TTL": "600s"}},
        )  # fmt: skip
    seconds = form(30, 8)
    stop = threading.Event()
    flaps = 0

    def flap() -> None:
        nonlocal flaps
        begin = time.monotonic()
        for step in itertools.count():
            if stop.wait(max(0.0, begin + step / 20 - time.monotonic())):
                return
            verb = "fail" if (step // 50) % 2 else "pass"
            with contextlib.suppress(urllib.error.URLError):
                own.consul.call("PUT", f"/v1/agent/check/{verb}/c{step % 50}")
                flaps += 1

    lines = proxy.log.count("\n")
    thread = threading.Thread(target=flap)
    before, begin = proxy.cpu, time.monotonic()
    thread.start()
    time.sleep(seconds)
    used = (proxy.cpu - before) / (time.monotonic() - begin)
    stop.set()
    thread.join()
    figure(f"{flaps} changes of other services in {seconds} s: the proxy used {used * 100:.2f} % of a core")
    assert used < 0.03
    assert proxy.log.count("\n") - lines < 10


def test_two_hundred_workers_at_once_are_seen_within_a_second(own: Cluster, figure: Figure) -> None:
    begin = time.monotonic()
    for number in range(200):
        own.consul.call(
            "PUT", "/v1/agent/service/register",
            {"Name": own.service, "ID": f"many-{number}", "Address": "127.0.0.1", "Port": 20000 + number},
        )  # fmt: skip
    registered = time.monotonic()
    until(lambda: len(own.listed()) == 203, "all are listed", 20)
    seen = time.monotonic() - registered
    figure(f"200 workers registered in {registered - begin:.2f} s, all seen {seen * 1000:.0f} ms after the last")
    assert seen <= 1.0

"""12. Proxies are restarted under load."""

from __future__ import annotations

import http.client
import signal
import socket
import threading
import time
from contextlib import suppress

import psutil

from tests.drills.cluster import Cluster, ask, form, until
from tests.drills.conftest import Figure


def test_two_processes_share_a_port_and_outlive_one_of_them(cluster: Cluster, figure: Figure) -> None:
    cluster.proxy("--processes", "2")
    for _ in range(3):
        cluster.worker()
    load = cluster.load(form(40, 6))
    time.sleep(1.5)
    children = cluster.proxies[0].process.children()
    assert len(children) >= 2
    victim = children[-1]
    victim.send_signal(signal.SIGTERM)
    until(lambda: not victim.is_running() or victim.status() == "zombie", "it drains and ends", 40)
    until(lambda: len([one for one in cluster.proxies[0].process.children() if one.status() != "zombie"]) >= 2,
          "it is replaced", 30)  # fmt: skip
    outcome = load.wait()
    figure(f"{len(outcome)} requests while one of two proxy processes was restarted, {len(outcome.failures)} failed")
    outcome.without_failures()


def test_sigterm_drains_what_is_under_way(cluster: Cluster, figure: Figure) -> None:
    proxy = cluster.proxy("--processes", "2")
    for _ in range(3):
        cluster.worker(delay=1.0)
    clients = []
    for _ in range(20):
        client = socket.create_connection(("127.0.0.1", cluster.port), 10)
        client.sendall(b"POST /classify HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n" + b"x" * 1000)
        clients.append(client)
    until(lambda: sum(worker.seen["held"] for worker in cluster.workers) == 20, "all are under way", 10)
    asked = proxy.signal(signal.SIGTERM)
    answers = [client.recv(65536) for client in clients]
    assert proxy.popen.wait(30) == 0
    took = time.monotonic() - asked
    for client in clients:
        client.close()
    figure(f"20 requests under way at SIGTERM, {sum(a.startswith(b'HTTP/1.1 200') for a in answers)} answered; "
           f"exit after {took:.1f} s")  # fmt: skip
    assert all(answer.startswith(b"HTTP/1.1 200") for answer in answers)


def test_all_proxy_processes_are_replaced_one_by_one(cluster: Cluster, figure: Figure) -> None:
    """SIGHUP: each successor knows the workers before it is given a connection."""
    proxy = cluster.proxy("--processes", "2")
    for _ in range(3):
        cluster.worker()
    load = cluster.load(600)
    time.sleep(1)
    rounds = form(5, 1)
    for _ in range(rounds):
        old = {child.pid for child in proxy.process.children()}
        proxy.signal(signal.SIGHUP)

        def replaced(old: set[int] = old) -> bool:
            now = {child.pid for child in proxy.process.children() if child.status() != psutil.STATUS_ZOMBIE}
            return not old & now and len(now) == 2  # of the old ones one may be about to go when they are counted

        until(replaced, "all processes are new", 60)
    time.sleep(1)
    outcome = load.stop()
    figure(f"{len(outcome)} requests while both proxy processes were replaced {rounds} times, "
           f"{len(outcome.failures)} failed: {outcome.describe_failures()}")  # fmt: skip
    outcome.without_failures()


class Newcomers:
    """Clients that come one after the other, four at a time, each with a connection of its own."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._over = threading.Event()
        self.visits: list[tuple[float, float, int]] = []
        """When each began, how long it took, and the status, 0 without an answer."""

    def _come(self) -> None:
        while not self._over.wait(0.01):
            began, status = time.monotonic(), 0
            with suppress(OSError, http.client.HTTPException):
                status, _ = ask(self._port, "POST", "/classify", {})
            self.visits.append((began, time.monotonic() - began, status))

    def __enter__(self) -> Newcomers:
        self._threads = [threading.Thread(target=self._come) for _ in range(4)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()


def test_a_process_that_hangs_is_covered_by_the_other(cluster: Cluster, figure: Figure) -> None:
    """Requests that it has taken in wait for it; those that come meanwhile are served by the other."""
    proxy = cluster.proxy("--processes", "2")
    for _ in range(3):
        cluster.worker()
    load = cluster.load(600, rate=100)
    with Newcomers(cluster.port) as newcomers:
        time.sleep(1)
        children = proxy.process.children()
        since = time.monotonic()
        children[-1].suspend()
        until(lambda: "does not react" in proxy.log, "it is noticed", 10)
        noticed = time.monotonic() - since
        time.sleep(form(8, 2) - noticed + 1)
        children[-1].resume()
        lasted = time.monotonic() - since
        until(lambda: "reacts again" in proxy.log, "it is back", 10)
        time.sleep(0.5)
    outcome = load.stop()
    waited = [seconds for began, seconds, _ in newcomers.visits if since <= began < since + lasted]
    failed = len(outcome.failures) + sum(status != 200 for *_, status in newcomers.visits)
    figure(f"a process hung for {lasted:.1f} s, noticed after {noticed:.1f} s: {len(waited)} came meanwhile, waited "
           f"{max(waited):.1f} s at most; {failed} of {len(outcome) + len(newcomers.visits)} failed")  # fmt: skip
    assert noticed <= 2.5
    assert {child.pid for child in proxy.process.children()} == {child.pid for child in children}
    outcome.without_failures()
    assert {status for *_, status in newcomers.visits} == {200}
    early = [seconds for began, seconds, _ in newcomers.visits if since + noticed + 0.5 <= began < since + lasted]
    assert len(early) > 20
    assert max(early) < 1, "nobody waits once it is noticed"


def test_a_process_that_hangs_for_long_is_replaced(cluster: Cluster, figure: Figure) -> None:
    """What it has taken in is lost with it, and nothing else."""
    proxy = cluster.proxy("--processes", "2")
    for _ in range(3):
        cluster.worker()
    with Newcomers(cluster.port) as newcomers:
        time.sleep(1)
        victim = proxy.process.children()[-1]
        since = time.monotonic()
        victim.suspend()
        until(lambda: "it is killed" in proxy.log, "it is killed", 20)
        killed = time.monotonic() - since
        until(lambda: proxy.log.count("listening on") == 3, "it is replaced", 30)
        time.sleep(0.5)
    lost = [began - since for began, _, status in newcomers.visits if status != 200]
    figure(f"a process hung for good, killed after {killed:.1f} s: {len(newcomers.visits)} requests, {len(lost)} lost "
           "that it had taken in")  # fmt: skip
    assert cluster.metric("muster_proxy_process_starts_total", reason="hung") == 1
    assert len(lost) <= 4, "one for each of those who came at once"
    assert all(abs(began) < 0.2 for began in lost), "it had taken them in when it stopped"

"""12. Proxies are restarted under load."""

from __future__ import annotations

import signal
import socket
import time

import psutil

from tests.drills.cluster import Cluster, form, until
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
            return not old & now and len(now) == len(old)

        until(replaced, "all processes are new", 60)
    time.sleep(1)
    outcome = load.stop()
    figure(f"{len(outcome)} requests while both proxy processes were replaced {rounds} times, "
           f"{len(outcome.failures)} failed: {outcome.describe_failures()}")  # fmt: skip
    outcome.without_failures()

"""12. Proxies are restarted under load."""

from __future__ import annotations

import signal
import socket
import time

from tests.consul_agent import free_ports
from tests.drills.cluster import Cluster, Program, form, until
from tests.drills.conftest import Figure


def _second(cluster: Cluster, port: int) -> Program:
    return cluster.proxy("--processes", "2", port=port)


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


def test_a_proxy_is_ready_only_when_it_knows_the_workers(three: Cluster, figure: Figure) -> None:
    """A second proxy shares the port (SO_REUSEPORT) and takes over; no request finds it without workers."""
    (port,) = free_ports(1)
    old = _second(three, port)
    load = three.load(form(40, 10))
    time.sleep(2)
    new = _second(three, port)
    time.sleep(2)
    old.signal(signal.SIGTERM)
    assert old.popen.wait(40) == 0
    outcome = load.wait()
    figure(f"{len(outcome)} requests while one proxy took over from another on the same port, "
           f"{len(outcome.failures)} failed: {outcome.describe_failures()}")  # fmt: skip
    assert new.alive
    outcome.without_failures()

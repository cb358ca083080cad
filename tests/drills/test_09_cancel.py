"""9. Clients that leave take their request with them."""

from __future__ import annotations

import socket
import time

from tests.drills.cluster import Cluster, form, percentile, until
from tests.drills.conftest import Figure


def _ask(cluster: Cluster) -> socket.socket:
    """A client whose request is complete."""
    client = socket.create_connection(("127.0.0.1", cluster.port), 10)
    client.sendall(b"POST /classify HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n" + b"x" * 100_000)
    return client


def _files(cluster: Cluster) -> int:
    """Open files of the proxy, connections among them; a connection to each worker may stay."""
    return cluster.proxies[0].process.num_fds()


def test_a_client_that_leaves_cancels_its_request_and_leaves_nothing_behind(three: Cluster, figure: Figure) -> None:
    for worker in three.workers:
        worker.behave(delay=30, slots=1)  # one is worked on, the others wait at the worker
    tries = form(100, 100)
    late = []
    connections, tasks = three.metric("muster_proxy_connections"), three.metric("muster_proxy_tasks")
    files = _files(three)
    for number in range(tries):
        client = _ask(three)
        until(lambda: sum(worker.seen["held"] for worker in three.workers) == 1, "it is at a worker", 10)
        before = [len(worker.seen["cancelled"]) for worker in three.workers]
        left = time.monotonic()
        client.close()

        def cancelled(before: list[int] = before) -> float:
            for worker, known in zip(three.workers, before, strict=True):
                if len(times := worker.seen["cancelled"]) > known:
                    return float(times[-1])
            return 0.0

        late.append(until(cancelled, f"the worker hears of departure {number}", 10) - left)
    waiting = [_ask(three) for _ in range(12)]
    until(lambda: sum(worker.seen["held"] for worker in three.workers) == 12, "twelve wait", 10)
    for client in waiting:
        client.close()
    until(lambda: not any(worker.seen["held"] for worker in three.workers), "the queues are empty", 10)
    until(lambda: three.metric("muster_proxy_connections") <= connections, "no connection is left", 10)
    until(lambda: three.metric("muster_proxy_tasks") <= tasks, "no task is left", 10)
    until(lambda: _files(three) <= files + len(three.workers), "no open file is left", 10)
    leases = three.metric("muster_proxy_in_flight")
    kept = three.metric("muster_proxy_replay_bytes")
    figure(
        f"{tries} departures: cancelled at the worker after {percentile(late, 50) * 1000:.1f} ms, at most "
        f"{max(late) * 1000:.1f} ms; {leases:.0f} leases and {kept:.0f} bytes kept afterwards, "
        f"no task and no connection more than before"
    )
    assert leases == kept == 0
    assert percentile(late, 99) <= 0.050


def test_a_client_that_leaves_in_the_midst_of_its_body_leaves_nothing_behind(three: Cluster, figure: Figure) -> None:
    tasks, files = three.metric("muster_proxy_tasks"), _files(three)
    for _ in range(50):
        client = socket.create_connection(("127.0.0.1", three.port), 10)
        client.sendall(b"POST /classify HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n" + b"x" * 50_000)
        client.close()
    until(lambda: three.metric("muster_proxy_in_flight") == 0, "no lease is left", 5)
    until(lambda: three.metric("muster_proxy_replay_bytes") == 0, "no body is left", 5)
    until(lambda: three.metric("muster_proxy_connections") <= 1, "no connection is left", 5)
    until(lambda: three.metric("muster_proxy_tasks") <= tasks, "no task is left", 5)
    until(lambda: _files(three) <= files + len(three.workers), "no open file is left", 5)
    figure("50 clients left in the midst of their body: no lease, body, connection or task is left")

"""14. Clients that are slow, rude or up to no good, while a normal one is served."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress

import pytest

from tests.drills.cluster import Cluster, ask, form, percentile, until
from tests.drills.conftest import Figure

LIMITS = ("--header-timeout", "2", "--body-timeout", "2", "--write-timeout", "2", "--idle-timeout", "4")
"""Shorter than they come, so that the drill is."""

NORMAL = b"Host: a\r\nContent-Length: 5\r\n"


@contextmanager
def normal_requests(cluster: Cluster) -> Iterator[list[float]]:
    """A polite client beside it; the list is how long each of its requests took, in seconds."""
    took: list[float] = []
    stop = threading.Event()

    def run() -> None:
        while not stop.wait(0.02):
            begin = time.monotonic()
            status, _ = ask(cluster.port, "POST", "/classify", {"x": "y" * 1000})
            took.append(time.monotonic() - begin if status == 200 else 1e6)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield took
    finally:
        stop.set()
        thread.join()


def connect(cluster: Cluster) -> socket.socket:
    return socket.create_connection(("127.0.0.1", cluster.port), 15)


def ended(client: socket.socket) -> bytes:
    """All that comes until the proxy closes the connection."""
    answer = b""
    try:
        while piece := client.recv(65536):
            answer += piece
    except ConnectionResetError:
        pass
    return answer


def test_slow_and_greedy_clients_hold_nobody_up(cluster: Cluster, figure: Figure) -> None:
    proxy = cluster.proxy(*LIMITS)
    for _ in range(3):
        cluster.worker(size=4_000_000)
    with normal_requests(cluster) as took, ExitStack() as life:
        until(lambda: len(took) > 20, "the polite client is served")
        memory = proxy.memory
        idle = [life.enter_context(closing(connect(cluster))) for _ in range(500)]
        slow_heads = [life.enter_context(closing(connect(cluster))) for _ in range(50)]
        slow_bodies = [life.enter_context(closing(connect(cluster))) for _ in range(50)]
        deaf = [life.enter_context(closing(connect(cluster))) for _ in range(50)]
        for client in deaf:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.sendall(b"GET /classify HTTP/1.1\r\nHost: a\r\n\r\n")
        for client in slow_bodies:
            client.sendall(b"POST /classify HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n")
        begin, most = time.monotonic(), 0
        while time.monotonic() - begin < form(20, 5):
            for client in slow_heads + slow_bodies:
                with suppress(OSError):  # it was cut off, as it should be
                    client.send(b"G")
            most = max(most, proxy.memory)
            time.sleep(0.1)
        answers = [ended(client) for client in slow_heads + slow_bodies]
        assert all(not answer or answer.split(b" ")[1] in (b"408", b"400") for answer in answers)
        assert sum(b" 408 " in answer for answer in answers) >= 90
        until(lambda: all(_closed(client) for client in idle), "idle connections are closed", 20)
        until(lambda: cluster.metric("muster_proxy_in_flight") <= 1, "deaf clients are given up", 20)
    figure(
        f"500 idle, 50 slow heads, 50 slow bodies, 50 that read nothing: {len(took)} normal requests beside them took "
        f"{percentile(took, 50) * 1000:.1f} ms, at most {max(took) * 1000:.0f} ms; "
        f"memory +{(most - memory) / 2**20:.0f} MiB"
    )
    assert max(took) <= 1.0
    assert most - memory < 128 * 2**20


def _closed(client: socket.socket) -> bool:
    client.setblocking(False)
    try:
        return client.recv(4096) == b"" or client.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True


CHUNKED = b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"

TRICKS = {
    "two lengths": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
    "the same length twice": b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
    "a list of lengths": b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 5\r\n\r\nhello",
    "a signed length": b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\nhello",
    "a hexadecimal length": b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 0x5\r\n\r\nhello",
    "length and chunks": b"POST /x HTTP/1.1\r\n" + NORMAL + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks and length": b"POST /x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n" + NORMAL + b"\r\n0\r\n\r\n",
    "chunked twice": b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    "chunked and identity": b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "xchunked": b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "a space before the colon": b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    "a tab in chunked": b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
    "chunks in HTTP/1.0": b"POST /x HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a folded header": b"POST /x HTTP/1.1\r\n" + NORMAL + b"X-A: b\r\n c\r\n\r\nhello",
    "bare line feeds": b"POST /x HTTP/1.1\nHost: a\nContent-Length: 5\n\nhello",
    "one bare line feed": b"POST /x HTTP/1.1\r\nHost: a\nContent-Length: 5\r\n\r\nhello",
    "a bare carriage return": b"POST /x HTTP/1.1\r\nHost: a\rX: y\r\nContent-Length: 5\r\n\r\nhello",
    "a NUL in a header": b"GET /x HTTP/1.1\r\nHost: a\r\nX-A: b\x00c\r\n\r\n",
    "a chunk size that is none": CHUNKED + b"zz\r\nhello\r\n0\r\n\r\n",
    "a chunk size with 0x": CHUNKED + b"0x5\r\nhello\r\n0\r\n\r\n",
    "a negative chunk": CHUNKED + b"-5\r\nhello\r\n0\r\n\r\n",
    "a chunk longer than it says": CHUNKED + b"3\r\nhello\r\n0\r\n\r\n",
    "chunks ended by line feeds": CHUNKED + b"5\nhello\n0\n\n",
    "a huge chunk size": CHUNKED + b"fffffffffffffffff\r\nhello\r\n",
    "absolute form": b"GET http://evil.example/ HTTP/1.1\r\nHost: a\r\n\r\n",
    "asterisk form": b"GET * HTTP/1.1\r\nHost: a\r\n\r\n",
    "no host": b"GET /x HTTP/1.1\r\n\r\n",
    "two hosts": b"GET /x HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "a host that is none": b"GET /x HTTP/1.1\r\nHost: a/b@c\r\n\r\n",
    "TRACE": b"TRACE /x HTTP/1.1\r\nHost: a\r\n\r\n",
    "CONNECT": b"CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n",
    "HTTP/0.9": b"GET /x\r\n\r\n",
    "HTTP/2.0": b"GET /x HTTP/2.0\r\nHost: a\r\n\r\n",
    "the preface of HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "a header without a name": b"GET /x HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n",
    "a header without a colon": b"GET /x HTTP/1.1\r\nHost: a\r\nnonsense\r\n\r\n",
    "a space before the first header": b"GET /x HTTP/1.1\r\n Host: a\r\n\r\n",
    "a large header": b"GET /x HTTP/1.1\r\nHost: a\r\nX-A: " + b"b" * 100_000 + b"\r\n\r\n",
    "a thousand headers": b"GET /x HTTP/1.1\r\nHost: a\r\n" + b"X-A: b\r\n" * 1000 + b"\r\n",
    "a long target": b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200) + b"\r\n\r\n",
    "an unknown expectation": b"POST /x HTTP/1.1\r\n" + NORMAL + b"Expect: 200-maybe\r\n\r\nhello",
}
"""What must be refused with an error and the end of the connection, and never reach a worker."""

SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.fixture
def one(cluster: Cluster) -> Cluster:
    cluster.proxy()
    cluster.worker()
    return cluster


def test_ambiguous_requests_are_refused_and_never_passed_on(one: Cluster, figure: Figure) -> None:
    worker = one.workers[0]
    wrong = []
    for name, raw in TRICKS.items():
        before = len(worker.seen["arrivals"])
        with closing(connect(one)) as client:
            client.settimeout(5)
            with suppress(OSError):  # it had enough already
                client.sendall(raw + SMUGGLED)
            try:
                answer = ended(client)
            except TimeoutError:
                wrong.append(f"{name}: the connection stays open")
                continue
        status = answer[9:12]
        if not status.startswith((b"4", b"5")) or status in (b"500", b"502", b"503"):
            wrong.append(f"{name}: answered {answer[:60]!r}")
        elif answer.count(b"\nHTTP/1.1 "):
            wrong.append(f"{name}: more than one answer")
        arrived = len(worker.seen["arrivals"]) - before
        # A body that turns out bad was begun to be passed on: the worker sees the head, but never a whole request.
        if arrived > ("chunk" in name):
            wrong.append(f"{name}: {arrived} requests reached the worker")
    figure(f"{len(TRICKS)} kinds of ambiguous or malformed requests: {len(TRICKS) - len(wrong)} refused and closed")
    assert not wrong, "\n".join(wrong)
    assert worker.seen["answered"] == 0
    assert "Traceback" not in one.proxies[0].log


def _status(cluster: Cluster, raw: bytes) -> int:
    """Of the answer to a request, after which its connection ends by itself."""
    with closing(connect(cluster)) as client:
        client.settimeout(8)
        client.sendall(raw)
        return int(ended(client)[9:12] or 0)


def test_each_limit_is_a_setting(cluster: Cluster, figure: Figure) -> None:
    cluster.proxy(
        "--max-head", "2000", "--max-headers", "10", "--max-body", "5000", "--header-timeout", "1",
        "--body-timeout", "1", "--max-connections-per-peer", "20",
    )  # fmt: skip
    cluster.worker()
    start = b"POST /classify HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"
    length = b"Content-Length: %d\r\n\r\n"
    found = {
        "a head of 1.5 kB": _status(cluster, start + b"X-A: " + b"b" * 1400 + b"\r\n" + length % 0),
        "a head of 2.5 kB": _status(cluster, start + b"X-A: " + b"b" * 2400 + b"\r\n" + length % 0),
        "10 headers": _status(cluster, start + b"X-A: b\r\n" * 7 + length % 0),
        "11 headers": _status(cluster, start + b"X-A: b\r\n" * 8 + length % 0),
        "a body of 5 kB": _status(cluster, start + length % 5000 + b"x" * 5000),
        "a body a byte longer": _status(cluster, start + length % 5001 + b"x" * 5001),
        "half a head": _status(cluster, start),
        "half a body": _status(cluster, start + length % 5000 + b"x" * 2500),
    }
    with ExitStack() as life:
        clients = [life.enter_context(closing(connect(cluster))) for _ in range(30)]
        for client in clients:
            with suppress(OSError):  # it is one too many
                client.sendall(start)
        until(lambda: sum(map(_closed, clients)) >= 10, "those above the limit are turned away", 0.9)
        kept = sum(not _closed(client) for client in clients)
    figure(f"limits of 2000 bytes, 10 headers, 5000 bytes, 1 s, 1 s: {found}; {kept} of 30 connections kept at a limit "
           "of 20")  # fmt: skip
    assert list(found.values()) == [200, 431, 200, 431, 200, 413, 408, 408]
    assert kept <= 20


def test_connection_cannot_take_headers_away_and_nothing_upgrades_to_http_2(one: Cluster, figure: Figure) -> None:
    with closing(connect(one)) as client:
        client.sendall(
            b"POST /x HTTP/1.1\r\nHost: a\r\nConnection: Content-Length, Host, X-Forwarded-For, close\r\n"
            b"Content-Length: 5\r\n\r\nhello"
        )
        assert ended(client).startswith(b"HTTP/1.1 200")
    with closing(connect(one)) as client:
        client.sendall(
            b"GET /x HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings, close\r\nUpgrade: h2c\r\n"
            b"HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n"
        )
        assert ended(client).startswith((b"HTTP/1.1 200", b"HTTP/1.1 4"))
    figure("Connection could not take Content-Length, Host or X-Forwarded-For away; h2c was not upgraded to")

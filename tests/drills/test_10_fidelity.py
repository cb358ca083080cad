"""10. What goes through the proxy arrives as it was sent, but for headers that are listed here and documented."""

from __future__ import annotations

import gzip
import random
import socket

import h11

from tests.drills.cluster import Cluster
from tests.drills.conftest import Figure
from tests.drills.origin import Headers, Origin, running

TRIES = 500

TO_WORKER = {b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"x-request-id"}
"""What the proxy writes into requests."""
TO_CLIENT = {b"x-request-id", b"x-served-by", b"server-timing"}
"""What it writes into answers."""
PER_HOP = {b"connection", b"keep-alive", b"te", b"transfer-encoding", b"trailer", b"upgrade", b"proxy-connection"}
"""What is about one connection: never passed on. Nor are trailers, which RFC 9110 (6.5.1) lets anybody discard."""


def request(seed: int) -> tuple[bytes, bytes]:
    """A request and its method, the same for the same seed."""
    luck = random.Random(seed)
    method = luck.choice([b"GET", b"HEAD", b"POST", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS"])
    path = b"/" + b"/".join(
        luck.sample(
            [b"a%2Fb", b"%41", b"..", b".", b"c%27d", b"", b"%E2%82%AC", b"~x", b"a;v=1", b"%00", b"p+q", b"%"], 4
        )
    )
    path = b"/v" + path
    if luck.random() < 0.6:
        path += b"?" + b"&".join(
            luck.sample([b"x=%21", b"y", b"z=1&z=2", b"q=a+b", b"=", b"u=%C3%BC", b"?", b"t=/"], 3)
        )
    headers: list[bytes] = [b"Host: example.org:8080", b"seed: %d" % seed]
    headers += luck.sample(
        [b"Accept: */*", b"Accept: text/html;q=0.5", b"Cookie: a=b; c=d", b"Cookie: e=f", b"X-Repeated: 1",
         b"x-repeated: 2", b"X-REPEATED: 3", b"X-Empty: ", b"X-Long: " + b"n" * 8000, b"Accept-Encoding: gzip, br",
         b"User-Agent: drill/1 (odd; \xe9)", b"Authorization: Bearer abc", b"Range: bytes=0-10",
         b"If-None-Match: W/\"1\"",
         b"Content-Language: de", b"Connection: X-Hop", b"X-Hop: mine"], luck.randrange(1, 9))  # fmt: skip
    payload = b""
    if method in (b"POST", b"PUT", b"PATCH"):
        body = luck.randbytes(luck.choice([0, 1, 1000, 100_000]))
        if luck.random() < 0.3:
            body = gzip.compress(body, mtime=0)
            headers.append(b"Content-Encoding: gzip")
        if luck.random() < 0.4:
            headers.append(b"Transfer-Encoding: chunked")
            pieces = [body[at : at + 9001] for at in range(0, len(body), 9001)]
            payload = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n"
            payload += (b"X-Checksum: 1\r\n" if luck.random() < 0.3 else b"") + b"\r\n"
        else:
            headers.append(b"Content-Length: %d" % len(body))
            payload = body
    return b"%b %b HTTP/1.1\r\n%b\r\n\r\n%b" % (method, path, b"\r\n".join(headers), payload), method


def exchange(client: socket.socket, raw: bytes, method: bytes) -> tuple[int, bytes, Headers, bytes]:
    """Status, reason, headers as they were spelled, and body."""
    parser = h11.Connection(h11.CLIENT, max_incomplete_event_size=65536)
    parser.send(h11.Request(method=method, target="/", headers=[("Host", "x")]))
    parser.send(h11.EndOfMessage())
    client.sendall(raw)
    head, body = None, b""
    while True:
        event = parser.next_event()
        if event is h11.NEED_DATA:
            parser.receive_data(client.recv(65536))
        elif isinstance(event, h11.Response):
            head = event
        elif isinstance(event, h11.Data):
            body += bytes(event.data)
        elif isinstance(event, h11.EndOfMessage):
            assert head is not None
            return head.status_code, head.reason, list(head.headers.raw_items()), body


def without(headers: Headers, names: set[bytes]) -> Headers:
    dropped = names | PER_HOP | {b"x-hop"}
    return [(name, value) for name, value in headers if name.lower() not in dropped]


def test_five_hundred_requests_and_answers_are_the_same_through_the_proxy(cluster: Cluster, figure: Figure) -> None:
    with running() as origin:
        cluster.registry = f"static://127.0.0.1:{origin.port}"
        cluster.proxy()
        differences = [text for seed in range(TRIES) if (text := _difference(seed, cluster, origin))]
    figure(f"{TRIES} generated requests direct and through the proxy: {len(differences)} differ")
    assert not differences, "\n".join(differences[:5])


def _difference(seed: int, cluster: Cluster, origin: Origin) -> str:
    raw, method = request(seed)
    told = []
    for port in (origin.port, cluster.port):
        with socket.create_connection(("127.0.0.1", port), 10) as client:
            client.settimeout(10)
            got = exchange(client, raw, method)
        saw = origin.seen.pop(seed, None)
        if saw is None:
            return f"{raw[:200]!r} did not arrive: {got[0]} {got[3][:200]!r}"
        told.append(
            {
                "line": saw.line, "to the worker": without(saw.headers, TO_WORKER), "body": saw.body,
                "status": got[:2], "to the client": without(got[2], TO_CLIENT), "answer": got[3],
            }
        )  # fmt: skip
    direct, through = told
    return "; ".join(
        f"seed {seed}, {key}: {str(direct[key])[:300]} became {str(through[key])[:300]}"
        for key in direct
        if direct[key] != through[key]
    )

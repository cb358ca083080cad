"""Heads that come again are known by their bytes; that must be seen by nobody."""

from __future__ import annotations

import pytest

from muster.errors import BadRequest
from proxy import request_heads, response_heads
from proxy.heads import KNOWN, KNOWN_SIZE
from proxy.request_heads import RequestHead, parse_request
from proxy.response_heads import BadResponse, parse_response
from proxy.rewrite import request_to_worker, response_to_client


def request(*lines: str) -> bytes:
    return "\r\n".join(["POST /classify HTTP/1.1", "Host: a", *lines, "", ""]).encode()


@pytest.fixture(autouse=True)
def nothing_known() -> None:
    request_heads._known.clear()
    response_heads._known.clear()


def test_a_head_that_comes_again_is_not_parsed_again() -> None:
    assert parse_request(request("Content-Length: 3")) is parse_request(request("Content-Length: 3"))
    raw = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n"
    assert parse_response(raw) is parse_response(bytes(raw))


def test_heads_that_differ_by_one_byte_are_different() -> None:
    assert parse_request(request("Content-Length: 3")).content_length == 3
    assert parse_request(request("Content-Length: 4")).content_length == 4
    assert parse_request(request("Content-length: 3")).headers[-1][0] == b"Content-length"


@pytest.mark.parametrize(
    "line",
    [
        "X-Request-Id: 7",
        "x-request-id: 7",
        "Content-Type: multipart/form-data; boundary=x",
        "X-Large: " + "x" * KNOWN_SIZE,
    ],
)
def test_what_is_said_once_only_takes_nobodys_place(line: str) -> None:
    assert_not_kept(line)


@pytest.mark.parametrize(
    "line",
    [
        "Authorization: Bearer x",
        "Proxy-Authorization: Basic x",
        "cookie: session=x",
        "Set-Cookie: session=x",
        "X-API-Key: x",
        "X-Auth-Token: x",
        "X-Amz-Security-Token: x",
        "Session: x",
    ],
)
def test_credentials_are_not_kept(line: str) -> None:
    assert_not_kept(line)


def assert_not_kept(line: str) -> None:
    parse_request(request(line))
    parse_response(f"HTTP/1.1 200 OK\r\n{line}\r\n\r\n".encode())
    assert not request_heads._known
    assert not response_heads._known


def test_however_many_heads_come_few_are_remembered() -> None:
    for number in range(3 * KNOWN):
        assert parse_request(request(f"X-Number: {number}")).headers[-1][2] == b"%d" % number
        assert len(request_heads._known) <= KNOWN


def test_what_is_refused_is_refused_each_time() -> None:
    for _ in range(3):
        with pytest.raises(BadRequest):
            parse_request(request("Content-Length: 3", "Content-Length: 3"))
        with pytest.raises(BadResponse):
            parse_response(b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n")
    assert not request_heads._known
    assert not response_heads._known


def test_a_known_request_goes_to_a_worker_with_the_peer_id_and_invitation_of_each_time() -> None:
    head = parse_request(request("Content-Length: 3", "X-Forwarded-For: 9.9.9.9", "Expect: 100-continue"))
    first = request_to_worker(head, b"1.1.1.1", b"one", expect=True, body=True)
    assert b"X-Forwarded-For: 9.9.9.9, 1.1.1.1\r\n" in first
    assert b"X-Request-Id: one\r\n" in first
    assert first.endswith(b"Expect: 100-continue\r\n\r\n")
    again = request_to_worker(head, b"2.2.2.2", b"two", expect=False, body=True)
    assert again == first.replace(b"1.1.1.1", b"2.2.2.2").replace(b"one", b"two").replace(
        b"Expect: 100-continue\r\n", b""
    )
    without = request_to_worker(head, b"3.3.3.3", b"three", expect=False, body=False)
    assert b"Content-Length" not in without
    assert request_to_worker(head, b"2.2.2.2", b"two", expect=False, body=True) == again


def test_a_known_response_goes_to_each_client_as_that_one_needs_it() -> None:
    head = parse_response(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: x-secret\r\nX-Secret: 1\r\n\r\n")
    modern, old = parse_request(request()), parse_request(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")

    def answer(asked: RequestHead, *, close: bool) -> bytes:
        return response_to_client(head, asked, b"X-Extra: 1\r\n", b"ok", chunked=False, close=close)

    for _ in range(2):
        start = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Extra: 1\r\n"
        assert answer(modern, close=False) == start + b"\r\nok"
        assert answer(old, close=False) == start + b"Connection: keep-alive\r\n\r\nok"
        assert answer(modern, close=True) == start + b"Connection: close\r\n\r\nok"

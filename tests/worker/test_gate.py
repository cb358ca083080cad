"""What is let through to the HTTP library, however it arrives, and what ends a connection."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.gate import CHUNKS, MAX_HEAD, REFUSED, Declared, Gate

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
COUNTED = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"


def cut(data: bytes, places: list[int]) -> list[bytes]:
    ends = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[begin:end] for begin, end in itertools.pairwise(ends)]


def let_through(gate: Gate, data: bytes, places: list[int]) -> bytes:
    """All that comes out when every request is answered, one after the other."""
    passed = b""
    for piece in cut(data, places):
        passed += gate.feed(piece)
    while more := gate.next():
        passed += more
    return passed


PLACES = st.lists(st.integers(0, 500), max_size=8)


@given(st.lists(st.sampled_from([GET, COUNTED]), max_size=5), PLACES)
def test_clean_requests_come_out_as_they_went_in(requests: list[bytes], places: list[int]) -> None:
    gate = Gate()
    assert let_through(gate, b"".join(requests), places) == b"".join(requests)
    assert gate.refusal is None
    assert gate.held == 0


@given(PLACES)
def test_a_request_waits_until_the_one_before_it_is_answered(places: list[int]) -> None:
    gate = Gate()
    assert b"".join(map(gate.feed, cut(COUNTED + GET, places))) == COUNTED
    assert gate.held == len(GET)
    assert gate.next() == GET


@given(PLACES)
def test_chunks_are_framed_anew_without_extensions_and_trailers(places: list[int]) -> None:
    gate = Gate()
    passed = let_through(gate, CHUNKED + b'05;a="b"\r\nhello\r\n00\r\nContent-Length: 7\r\n\r\n' + GET, places)
    head, _, body = passed.removesuffix(GET).partition(b"\r\n\r\n")
    assert head + b"\r\n\r\n" == CHUNKED
    assert b"".join(body.split(b"\r\n")[1::2]) == b"hello"
    assert body.endswith(b"\r\n0\r\n\r\n")


def test_a_body_of_very_many_chunks_is_read_in_turns() -> None:
    gate = Gate()
    whole = CHUNKED + b"1\r\nx\r\n" * (2 * CHUNKS + 5) + b"0\r\n\r\n"
    passed = [gate.feed(whole + GET)]
    while gate.in_turns:
        passed.append(gate.feed(b""))
    assert len(passed) > 2
    assert b"".join(passed).count(b"x" * (CHUNKS // 2)) >= 3
    assert passed[-1].endswith(b"0\r\n\r\n")
    assert gate.next() == GET


@pytest.mark.parametrize(
    "broken", [b"GET /\r\n\r\n", b"\n", CHUNKED + b"x\r\n", b"x" * (MAX_HEAD + 1), GET[:-2] + b"a\x00: b\r\n\r\n"]
)
def test_what_is_broken_is_replaced_by_a_request_whose_answer_is_the_refusal(broken: bytes) -> None:
    gate = Gate()
    assert gate.feed(GET + broken + GET) == GET
    assert gate.next() == REFUSED
    assert gate.refusal is not None
    assert gate.feed(GET) == gate.next() == b""


def test_a_head_whose_lines_end_otherwise_is_not_waited_for() -> None:
    gate = Gate()
    assert gate.feed(GET.replace(b"\r\n", b"\n")) == REFUSED
    assert gate.refusal is not None


def test_a_body_that_breaks_after_its_head_went_through_is_not_replaced() -> None:
    gate = Gate()
    assert gate.feed(CHUNKED) == CHUNKED
    assert gate.feed(b"x\r\n" + GET) == b""
    assert gate.refusal is not None


def test_a_chunk_that_comes_in_pieces_declares_its_size_once() -> None:
    alarms: list[int] = []
    gate = Gate()
    gate.feed(CHUNKED)
    gate.declared.when_over(100, lambda: alarms.append(gate.declared.size))
    for piece in (b"6", b"4\r\n", *[b"x"] * 100, b"\r\n"):
        gate.feed(piece)
    assert gate.declared.size == 100
    assert alarms == []


def test_what_one_request_declares_is_not_held_against_the_next() -> None:
    gate = Gate()
    for _ in range(2):
        gate.feed(CHUNKED + b"64\r\n" + b"x" * 100 + b"\r\n0\r\n\r\n")
        assert gate.declared.size == 100
        gate.next()


@pytest.mark.parametrize("over", [0, 1])
def test_a_head_may_be_so_long_also_if_it_comes_at_once(over: int) -> None:
    head = GET[:-2] + b"a: " + b"x" * (MAX_HEAD - len(GET) - 5 + over) + b"\r\n\r\n"
    assert len(head) == MAX_HEAD + over
    assert Gate().feed(head) == (REFUSED if over else head)


def test_an_empty_line_before_a_request_is_forgiven() -> None:
    assert Gate().feed(b"\r\n" + GET) == GET


def test_a_wish_for_another_protocol_does_not_go_through() -> None:
    head = GET[:-2] + b"Connection: Upgrade, HTTP2-Settings\r\n"
    assert Gate().feed(head + b"upgrade: h2c\r\nHTTP2-Settings: AA\r\n\r\n") == head + b"\r\n"


def test_the_alarm_goes_off_once_as_soon_as_a_chunk_declares_too_much_or_has_done_so() -> None:
    alarms: list[int] = []
    gate = Gate()
    gate.feed(CHUNKED)
    gate.declared.when_over(100, lambda: alarms.append(gate.declared.size))
    gate.feed(b"64\r\n" + b"x" * 100 + b"\r\n")
    assert alarms == []
    gate.feed(b"1\r\n")
    gate.feed(b"x\r\n1\r\n")
    assert alarms == [101]
    late = Declared()
    late.grow(101)
    late.when_over(100, lambda: alarms.append(0))
    assert alarms == [101, 0]

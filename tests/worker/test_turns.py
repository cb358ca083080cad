"""Clients that send without a pause leave turns to others."""

from __future__ import annotations

import asyncio

import pytest

from muster.turns import CHUNKS
from tests.flood import LONG_READS, MOST, read_in_turns, send_all, with_uvloop
from tests.worker.doors import open_doors
from worker.connections import Connection
from worker.gate import Gate

SIZE = 32 * 2**20


@pytest.mark.parametrize(("status", "head"), [
    (b"503", b"POST /classify HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % SIZE),
    (b"400", b"this is no request\r\n\r\n"),
])  # fmt: skip
def test_a_flood_is_read_in_turns_and_gets_its_answer(
    status: bytes, head: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.connections.LONG_READS", LONG_READS)

    async def work() -> None:
        async with open_doors(None, max_body=SIZE) as doors, read_in_turns(Connection, monkeypatch) as turns:
            answer = await asyncio.to_thread(send_all, doors.port, [head, bytes(SIZE)])
        assert answer.startswith(b"HTTP/1.1 %b " % status)
        assert sum(turns) == len(head) + SIZE
        assert max(turns) <= MOST

    with_uvloop(work)


def test_a_body_that_breaks_in_a_later_turn_is_done_with() -> None:
    gate = Gate()
    gate.feed(
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        + b"1\r\nx\r\n" * (2 * CHUNKS)
        + b"broken\r\n"
    )
    assert gate.in_turns
    gate.feed(b"")
    gate.feed(b"")
    assert gate.refusal is not None
    assert not gate.in_turns
    assert gate.held == 0


@pytest.mark.parametrize("begin", [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"\x00", b"\r\n{"])
async def test_what_cannot_become_a_request_is_refused_at_once(begin: bytes) -> None:
    async with open_doors(None) as doors:
        assert (await doors.raw(begin)).startswith(b"HTTP/1.1 400 ")

"""Clients that send without a pause, or ask for the same in masses, leave turns to others."""

from __future__ import annotations

import asyncio

import pytest

from proxy import metrics
from proxy.downstream import ClientConnection
from tests.flood import LONG_READS, MOST, read_in_turns, send_all, with_uvloop
from tests.proxy.harness import ScriptedWorker, cluster, get

SIZE = 32 * 2**20


@pytest.mark.parametrize("head", [
    b"POST /classify HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % SIZE,
    b"this is no request\r\n\r\n",
])  # fmt: skip
def test_a_flood_is_read_in_turns_and_gets_its_answer(head: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.downstream.LONG_READS", LONG_READS)

    async def work() -> None:
        async with cluster(ScriptedWorker()) as proxy, read_in_turns(ClientConnection, monkeypatch) as turns:
            answer = await asyncio.to_thread(send_all, proxy.port, [head, bytes(SIZE)])
        assert answer.startswith(b"HTTP/1.1 200 " if head.startswith(b"POST") else b"HTTP/1.1 400 ")
        assert sum(turns) == len(head) + SIZE
        assert max(turns) <= MOST

    with_uvloop(work)


async def test_a_page_is_made_once_for_all_who_ask_at_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    made = 0
    text = metrics.text

    def counted(families: object) -> bytes:
        nonlocal made
        made += 1
        return text(families)  # type: ignore[arg-type]

    monkeypatch.setattr(metrics, "text", counted)
    async with cluster(ScriptedWorker()) as proxy:
        clients = [await proxy.connect() for _ in range(40)]
        for client in clients:
            client.writer.write(get(b"/metrics") * 5)
        for client in clients:
            for _ in range(5):
                assert (await client.answer_to(b"GET")).status == 200
            client.close()
    assert made <= 100


@pytest.mark.parametrize("begin", [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"\x00", b"\r\n{"])
async def test_what_cannot_become_a_request_is_refused_at_once(begin: bytes) -> None:
    async with cluster(ScriptedWorker()) as proxy, proxy.client() as client:
        client.writer.write(begin)
        assert (await client.answer_to(b"GET")).status == 400
        await client.closed()

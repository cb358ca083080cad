"""Workers are asked how they are where there is reason to, and only there."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from discovery.probe import Finding
from discovery.worker_json import to_json
from muster.values import Snapshot, Worker
from proxy import serve
from proxy.health import Outcome
from proxy.probes import EVERY, LATE, LONGEST_PAUSE, MOST, TIMEOUT, Prober
from proxy.roster import Roster
from tests.proxy.harness import DEADLINE, Got, ScriptedWorker, Seen, cluster, get, post, read_body, response, until


class Site:
    """A roster and those who are asked; what they answer is up to the test."""

    def __init__(self, count: int = 3) -> None:
        self.workers = [Worker(f"w{number}", "127.0.0.1", 9000 + number) for number in range(count)]
        self.now = 1000.0
        self.roster = Roster(lambda: self.now)
        self.roster.apply(Snapshot(1, tuple(self.workers)))
        self.age: float | None = 1.0
        self.asked: list[int] = []
        self.under_way = 0
        self.findings: dict[int, Finding] = {}
        self.names: dict[int, str] = {}
        self.gate = asyncio.Event()
        self.gate.set()
        self.prober = Prober(self.roster, self.look, lambda: self.age, 15.0)

    async def look(self, host: str, port: int, within: float | None = None) -> tuple[Finding, Worker | None]:
        self.asked.append(port)
        self.under_way += 1
        await self.gate.wait()
        self.under_way -= 1
        finding = self.findings.get(port, Finding.FIT)
        name = self.names.get(port, f"w{port - 9000}")
        return finding, Worker(name, host, port) if finding is Finding.FIT else None

    async def round(self) -> list[int]:
        """Who is asked now."""
        self.asked.clear()
        self.prober.ask_suspects(asyncio.get_running_loop().time())
        for _ in range(5):
            await asyncio.sleep(0)
        return sorted(self.asked)


async def test_nobody_is_asked_while_all_is_well() -> None:
    site = Site()
    for _ in range(3):
        site.roster.release(site.roster.lease(), Outcome.ANSWERED, 0.01)
        site.now += 10
        assert await site.round() == []


async def test_one_that_owes_answers_is_asked_and_stays_if_it_is_well() -> None:
    site = Site()
    seat = site.roster.lease()
    await site.round()
    site.now += 0.5
    assert await site.round() == [seat.worker.port]
    assert not site.roster.fitness.resting(seat)


@pytest.mark.parametrize(("finding", "rests"), [(Finding.DEAD, True), (Finding.UNFIT, False), (Finding.FIT, False)])
async def test_only_one_that_does_not_answer_is_ejected(finding: Finding, rests: bool) -> None:
    site = Site()
    seat = site.roster.lease()
    site.findings[seat.worker.port] = finding
    await site.round()
    site.now += 0.5
    assert await site.round() == [seat.worker.port]
    assert site.roster.fitness.resting(seat) is rests
    assert site.roster.fitness.ejections["probe"] == int(rests)
    assert site.prober.results[finding] == 1


@pytest.mark.parametrize(
    ("finding", "name", "back"),
    [
        (Finding.FIT, "w0", True),
        (Finding.FIT, "127.0.0.1:9000", True),
        (Finding.FIT, "somebody else", False),
        (Finding.UNFIT, "w0", False),
    ],
)
async def test_one_that_rests_because_it_seemed_dead_is_back_when_it_is_ready_itself(
    finding: Finding, name: str, back: bool
) -> None:
    site = Site(1)
    (seat,) = site.roster.seats
    site.roster.release(site.roster.lease(), Outcome.REFUSED)
    assert site.roster.fitness.resting(seat)
    site.findings[9000], site.names[9000] = finding, name
    assert await site.round() == [9000]
    assert site.roster.fitness.resting(seat) is not back


async def test_one_that_rests_for_its_answers_is_not_asked() -> None:
    site = Site()
    for _ in range(15):
        site.roster.release(site.roster.lease(), Outcome.ANSWERED_5XX, 0.01)
    assert any(site.roster.fitness.resting(seat) for seat in site.roster.seats)
    assert await site.round() == []


async def test_everybody_is_asked_when_the_registry_is_silent_and_nobody_too_often() -> None:
    site = Site()
    site.age = 14.0
    assert await site.round() == []
    site.age = 16.0
    site.findings[9001] = Finding.DEAD
    assert await site.round() == [9000, 9001, 9002]
    assert await site.round() == []
    assert [seat.worker.id for seat in site.roster.seats if site.roster.fitness.resting(seat)] == ["w1"]


async def test_only_so_many_are_asked_at_the_same_time() -> None:
    site = Site(MOST + 20)
    site.age = 99.0
    site.gate.clear()
    assert len(await site.round()) == MOST
    assert len(await site.round()) == 0
    site.gate.set()
    await until(lambda: not site.under_way)
    assert len(await site.round()) == 20


async def test_one_that_has_left_while_it_was_asked_is_forgotten() -> None:
    site = Site(1)
    (seat,) = site.roster.seats
    site.age = 99.0
    site.findings[9000] = Finding.DEAD
    await site.round()
    site.gate.clear()
    site.prober.ask_suspects(asyncio.get_running_loop().time() + LONGEST_PAUSE)
    await until(lambda: site.under_way == 1)
    site.roster.apply(Snapshot(2, ()))
    site.gate.set()
    await until(lambda: site.prober.results.total() == 2)
    assert site.roster.fitness.ejections.total() == 1, "of the first time"
    assert not seat.listed
    assert (site.prober._due, site.prober._dead) == ({}, {})


async def test_when_we_were_late_ourselves_nobody_is_blamed() -> None:
    site = Site(1)
    site.age = 99.0
    site.findings[9000] = Finding.DEAD
    site.gate.clear()
    await site.round()
    time.sleep(TIMEOUT + 0.15)  # noqa: ASYNC251  # as when this process had no turn
    site.gate.set()
    await until(lambda: not site.under_way)
    assert not site.roster.fitness.ejections
    assert await site.round() == [9000]


async def test_when_we_were_late_only_in_between_nobody_is_blamed_either() -> None:
    site = Site(1)
    site.age = 99.0
    site.findings[9000] = Finding.DEAD
    site.gate.clear()
    running = asyncio.create_task(site.prober.run())
    await until(lambda: site.under_way == 1)
    time.sleep(EVERY + LATE + 0.05)  # noqa: ASYNC251  # as when this process had no turn
    await asyncio.sleep(EVERY)  # it notices
    site.gate.set()
    site.gate.clear()  # who waits goes on, and nobody else
    await until(lambda: len(site.asked) > 1)
    assert not site.roster.fitness.ejections
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_who_was_found_well_in_between_is_asked_as_soon_again_as_one_that_has_just_died() -> None:
    site = Site(1)
    site.age = 99.0
    loop = asyncio.get_running_loop()
    for finding in (*[Finding.DEAD] * 4, Finding.FIT, Finding.DEAD):
        site.findings[9000] = finding
        site.prober.ask_suspects(loop.time() + 60.0)
        for _ in range(5):
            await asyncio.sleep(0)
        assert site.prober.results.total() == len(site.asked)
    site.prober.ask_suspects(loop.time() + LONGEST_PAUSE / 2)
    await asyncio.sleep(0)
    assert len(site.asked) == 7


SERVER = """
import asyncio, json, sys
async def serve(reader, writer):
    try:
        while True:
            head = await reader.readuntil(b"\\r\\n\\r\\n")
            length = next((int(line[15:]) for line in head.split(b"\\r\\n") if line.startswith(b"Content-Length:")), 0)
            await reader.readexactly(length)
            body = sys.argv[2].encode() if b"/readyz" in head else b"served"
            writer.write(b"HTTP/1.1 200 OK\\r\\nContent-Length: %d\\r\\n\\r\\n%b" % (len(body), body))
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()
async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", int(sys.argv[1]))
    await server.serve_forever()
asyncio.run(main())
"""


@asynccontextmanager
async def process_of(worker: Worker) -> AsyncIterator[int]:
    """A worker that is a process, and can be stopped. Its process id."""
    who, port = json.dumps({"worker": to_json(worker)}), worker.port
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", SERVER, str(port), who)
    try:
        async with asyncio.timeout(DEADLINE):
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                    break
                except OSError:
                    await asyncio.sleep(0.02)
            writer.close()
        yield process.pid
    finally:
        process.kill()
        await process.wait()


def ids(got: Got) -> list[tuple[object, object]]:
    workers = got.json["workers"]
    assert isinstance(workers, list)
    return [(each["address"], each["state"]) for each in workers]


async def test_a_worker_that_is_stopped_is_ejected_and_comes_back_when_it_goes_on() -> None:
    stopped, other = ScriptedWorker(), ScriptedWorker()  # the first only lends its port
    async with process_of(stopped.worker) as pid:
        await other.start()
        registry = f"static://127.0.0.1:{stopped.port},127.0.0.1:{other.port}"
        async with cluster(registry=registry, response_timeout=30.0) as proxy:
            for _ in range(4):
                assert (await proxy.ask(get())).status == 200
            os.kill(pid, signal.SIGSTOP)
            try:
                for _ in range(4):
                    async with asyncio.timeout(5):
                        assert (await proxy.ask(post(b"picture"))).status == 200
            finally:
                os.kill(pid, signal.SIGCONT)
            async with asyncio.timeout(DEADLINE):
                while (f"127.0.0.1:{stopped.port}", "ready") not in ids(await proxy.ask(get(b"/workers"))):  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
        await other.stop()


async def test_a_slow_answer_is_waited_for_as_long_as_the_worker_is_well() -> None:
    async def answer(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_body(seen, reader)
        await asyncio.sleep(1.2)
        writer.write(response(b"at last"))

    worker = ScriptedWorker(answer)
    async with cluster(worker, ScriptedWorker(answer)) as proxy:
        assert (await proxy.ask(post(b"picture"))).body == b"at last"
        assert len(worker.seen) <= 1
        metrics = (await proxy.ask(get(b"/metrics"))).body.decode()
        assert 'muster_proxy_failed_attempts_total{reason="hung"}' not in metrics


@pytest.mark.parametrize(
    ("request_line", "head"),
    [
        (b"GET /events HTTP/1.1\r\nHost: test\r\n", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n"),
        (
            b"GET /ws HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n",
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        ),
        (b"GET /picture HTTP/1.1\r\nHost: test\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx"),
    ],
    ids=["events", "WebSocket", "a part of an answer"],
)
async def test_that_a_long_answer_begins_shows_that_its_worker_works(
    request_line: bytes, head: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    rosters: list[Roster] = []

    def made(*arguments: Any) -> Roster:
        rosters.append(make(*arguments))
        return rosters[0]

    make = serve._roster
    monkeypatch.setattr(serve, "_roster", made)
    over = asyncio.Event()

    async def answer(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(head)
        await over.wait()
        writer.close()

    async with cluster(ScriptedWorker(answer)) as proxy, proxy.client() as client:
        (seat,) = rosters[0].seats
        client.writer.write(request_line + b"\r\n")
        await client.reader.readuntil(b"\r\n\r\n")
        assert seat.in_flight == 1
        assert seat.health.given == (b"Content-Length" not in head)
        over.set()

"""What users notice of limits, rests and strategies, over real sockets."""

from __future__ import annotations

import asyncio
from collections import Counter

from tests.proxy.harness import Answer, ScriptedWorker, Seen, always, cluster, post, read_body, response, until


class Gate:
    """Answers when it is opened, and counts who stands before it."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.inside = 0
        self.most = 0

    def answer(self, body: bytes) -> Answer:
        """The worker's, with that body."""

        async def answer(seen: Seen, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await read_body(seen, reader)
            self.inside += 1
            self.most = max(self.most, self.inside)
            await self.open.wait()
            self.inside -= 1
            writer.write(response(body))

        return answer


async def test_of_a_burst_some_are_served_some_wait_and_the_others_are_told_at_once_when_to_come_back() -> None:
    gates = [Gate(), Gate()]
    workers = [ScriptedWorker(gate.answer(b"done")) for gate in gates]
    async with cluster(*workers, max_in_flight=3, queue=4) as proxy:
        asked = [asyncio.create_task(proxy.ask(post(b"x" * 1000))) for _ in range(30)]
        await until(lambda: sum(task.done() for task in asked) == 30 - 2 * 3 - 4)
        await until(lambda: [gate.inside for gate in gates] == [3, 3])
        refused = [task.result() for task in asked if task.done()]
        for gate in gates:
            gate.open.set()
        statuses = Counter(got.status for got in await asyncio.gather(*asked))
    assert statuses == {200: 10, 503: 20}
    assert all(got.values(b"retry-after") == [b"1"] and got.json["code"] == "overloaded" for got in refused)
    assert [gate.most for gate in gates] == [3, 3]


async def test_a_worker_that_fails_at_everything_is_left_alone_and_nobody_notices() -> None:
    broken = ScriptedWorker(always(response(b"oh", b"500 Internal Server Error")), name="broken")
    fine = [ScriptedWorker(name=name) for name in ("ann", "bob")]
    async with cluster(broken, *fine, rest=60.0) as proxy, proxy.client() as client:
        for _ in range(60):
            assert (await client.ask(post(b"picture"))).status == 200
    assert len(broken.seen) == 5


async def test_by_least_in_flight_a_busy_worker_gets_nothing_while_others_are_idle() -> None:
    gate = Gate()
    busy = ScriptedWorker(gate.answer(b"busy"), name="busy")
    idle = ScriptedWorker(name="idle")
    async with cluster(busy, idle, strategy="least-in-flight") as proxy, proxy.client() as client:
        waiting = []
        while not gate.inside:
            waiting.append(asyncio.create_task(proxy.ask(post(b"x"))))
            await until(lambda: gate.inside == 1 or all(task.done() for task in waiting))
        for _ in range(10):
            assert (await client.ask(post(b"x"))).body == b"idle"
        gate.open.set()
        await asyncio.gather(*waiting)

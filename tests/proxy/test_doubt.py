"""A registry that loses its memory, told apart from workers that leave."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
from hypothesis import given
from hypothesis import strategies as st

from discovery.embedded import serving
from muster.lifetime import Stop
from muster.values import Snapshot, Worker
from proxy.doubt import Doubt
from tests.consul_agent import free_ports
from tests.proxy.harness import ScriptedWorker, always, cluster, get, response
from tests.proxy.test_announcements import until_listed

NAMES = "abcde"


def workers(names: str) -> tuple[Worker, ...]:
    return tuple(Worker(name, "127.0.0.1", 9000 + ord(name)) for name in names)


class Watcher:
    """Adopts what a `Doubt` lets through; `answering` are the workers that say who they are."""

    def __init__(self, answering: str = "") -> None:
        self.answering = answering
        self.adopted = ""
        self.models: dict[str, tuple[str, ...] | None] = {}  # what each of them has, as adopted
        self.having: dict[str, list[int]] | None = None  # what each of them answers to have
        self.asked = 0
        self.doubt = Doubt(self.adopt, self.ask)

    def adopt(self, snapshot: Snapshot) -> None:
        self.adopted = "".join(sorted(worker.id for worker in snapshot.workers))
        self.models = {worker.id: worker.models for worker in snapshot.workers}

    async def ask(self, host: str, port: int) -> Worker | None:
        self.asked += 1
        name = chr(port - 9000)
        worker = Worker(name, host, port)
        if self.having is not None:
            worker = worker.serving(self.having)
        return worker if name in self.answering else None

    def tell(self, names: str, withdrawn: str = "") -> str:
        self.doubt.apply(Snapshot(0, workers(names), frozenset(withdrawn)))
        return self.adopted

    @asynccontextmanager
    async def settling(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.doubt.settle())
        yield
        task.cancel()

    async def until(self, names: str) -> None:
        async with asyncio.timeout(10):
            while self.adopted != names:  # noqa: ASYNC110  # there is no event
                await asyncio.sleep(0.01)


async def test_one_of_three_that_vanishes_is_gone_at_once() -> None:
    watcher = Watcher("abc")
    watcher.tell("abc")
    assert watcher.tell("ab") == "ab"
    assert watcher.asked == 0


async def test_two_of_four_are_not_too_many_to_vanish() -> None:
    watcher = Watcher(answering="abcd")
    watcher.tell("abcd")
    assert watcher.tell("ab") == "ab"


async def test_when_all_vanish_those_that_answer_stay_and_the_others_go() -> None:
    watcher = Watcher("ac")
    watcher.tell("abc")
    assert watcher.tell("") == "abc"
    async with watcher.settling():
        await watcher.until("ac")
        watcher.answering = "a"
        await watcher.until("a")


async def test_the_models_of_those_that_stay_are_what_they_answer() -> None:
    watcher = Watcher("abc")
    watcher.tell("abc")
    watcher.tell("")
    watcher.having = {"digits": [1]}
    async with watcher.settling(), asyncio.timeout(10):
        while watcher.models != dict.fromkeys("abc", ("digits",)):  # noqa: ASYNC110  # there is no event
            await asyncio.sleep(0.01)
    assert watcher.adopted == "abc"


async def test_who_is_listed_again_is_no_longer_in_doubt() -> None:
    watcher = Watcher()
    watcher.tell("abc")
    assert watcher.tell("") == "abc"
    assert watcher.tell("b") == "abc"
    assert watcher.tell("abc") == "abc"
    async with watcher.settling():
        await asyncio.sleep(0.05)
    assert watcher.adopted == "abc"


async def test_who_withdrew_goes_at_once_also_the_last_one() -> None:
    watcher = Watcher("abc")
    watcher.tell("abc")
    assert watcher.tell("", withdrawn="abc") == ""


async def test_somebody_else_at_the_address_is_not_who_vanished() -> None:
    watcher = Watcher("a")
    stranger = Worker("a-restarted", "127.0.0.1", 9000 + ord("a"))
    watcher.tell("a")
    watcher.doubt.apply(Snapshot(0, (stranger,)))
    assert watcher.adopted == "a-restarted"


@given(st.lists(st.sets(st.sampled_from(NAMES)), max_size=8))
async def test_whoever_is_listed_is_adopted_whatever_came_before(history: list[set[str]]) -> None:
    watcher = Watcher()
    for listed in history:
        assert listed <= set(watcher.tell("".join(sorted(listed))))
    async with watcher.settling():
        await watcher.until("".join(sorted(history[-1])) if history else "")


async def register_once(port: int, worker: ScriptedWorker) -> None:
    """Without anybody who would notice that the registration is lost, and repeat it."""
    check = {"CheckID": f"{worker.id}:ttl", "TTL": "60s", "Status": "passing"}
    record = {"ID": worker.id, "Name": "worker", "Address": "127.0.0.1", "Port": worker.port, "Check": check}
    async with aiohttp.ClientSession() as session:
        url = f"http://127.0.0.1:{port}/v1/agent/service/register"
        async with session.put(url, json=record) as answer:
            assert answer.status == 200, await answer.text()


async def test_requests_go_on_when_the_registry_forgets_its_workers() -> None:
    ann, bob, cat = (ScriptedWorker(name=name) for name in ("ann", "bob", "cat"))
    for worker in (ann, bob, cat):
        await worker.start()
    (port,) = free_ports(1)
    async with cluster(registry=f"embedded://127.0.0.1:{port}") as proxy, proxy.client() as client:
        async with serving("127.0.0.1", port, Stop()):
            for worker in (ann, bob, cat):
                await register_once(port, worker)
            await until_listed(proxy, "ann", "bob", "cat")
        await bob.stop()
        cat.answer = always(response(b"cat"))
        async with serving("127.0.0.1", port, Stop()):  # it is back, and knows nobody
            await until_listed(proxy, "ann", "cat")
            assert {(await client.ask(get())).body for _ in range(4)} == {b"ann", b"cat"}
    for worker in (ann, cat):
        await worker.stop()

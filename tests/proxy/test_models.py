"""Requests for a model reach a worker that has it, through real sockets."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator

import pytest

from discovery.registry import Registry
from tests.proxy.harness import RunningProxy, ScriptedWorker, always, cluster, get, post, response
from tests.proxy.test_announcements import announced, until_listed
from tests.proxy.test_announcements import registry as registry  # a fixture

FULL = always(response(b"{}", b"503 Service Unavailable"))
LACKS = always(response(b'{"error": "Servable not found"}', b"404 Not Found"))


@pytest.fixture
async def ann() -> ScriptedWorker:
    return ScriptedWorker(name="ann", models={"digits": [1, 2]})


@pytest.fixture
async def bob() -> ScriptedWorker:
    return ScriptedWorker(name="bob", models={"cats": [1], "a/b": [1], "digits": [1]})


@pytest.fixture
async def proxy(ann: ScriptedWorker, bob: ScriptedWorker) -> AsyncIterator[RunningProxy]:
    async with cluster(ann, bob) as running:
        yield running


async def served(proxy: RunningProxy, raw: bytes, times: int = 4) -> Counter[bytes]:
    async with proxy.client() as client:
        return Counter([(await client.ask(raw)).body for _ in range(times)])


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (get(b"/v1/models/cats"), {b"bob": 4}),
        (post(b"{}", b"/v1/models/cats:predict"), {b"bob": 4}),
        (post(b"{}", b"/v1/models/a%2Fb:predict"), {b"bob": 4}),
        (post(b"{}", b"/v1/models/digits:predict"), {b"ann": 2, b"bob": 2}),
        (post(b"{}", b"/v1/models/digits/versions/2:predict"), {b"ann": 4}),
        (post(b"{}", b"/v1/models/digits/versions/3:predict"), {b"ann": 2, b"bob": 2}),
        (post(b"x", b"/classify?model=cats"), {b"bob": 4}),
        (post(b"x", b"/classify?model=digits&version=2"), {b"ann": 4}),
        (post(b"x", b"/?model=a%2Fb"), {b"bob": 4}),
        (get(b"/somewhere/else"), {b"ann": 2, b"bob": 2}),
    ],
    ids=lambda value: value.split(b" HTTP")[0].decode() if isinstance(value, bytes) else "",
)
async def test_a_request_goes_to_a_worker_that_has_what_it_names(
    proxy: RunningProxy, raw: bytes, expected: dict[bytes, int]
) -> None:
    assert await served(proxy, raw) == expected


@pytest.mark.parametrize(
    "raw",
    [
        get(b"/v1/models/dogs"),
        post(b"x" * 100_000, b"/v1/models/dogs:predict"),
        post(b"x", b"/classify?model=dogs"),
        get(b"/?model=dogs"),
        get(b"/p2p/v1/models/dogs"),
        post(b"x", b"/p2p/classify?model=dogs"),
    ],
    ids=lambda raw: raw[:40].split(b" HTTP")[0].decode(),
)
async def test_a_model_that_no_worker_has_is_404_with_those_that_there_are(proxy: RunningProxy, raw: bytes) -> None:
    async with proxy.client() as client:
        got = await client.ask(raw)
        assert (got.status, got.json["code"], got.json["models"]) == (404, "unknown_model", ["a/b", "cats", "digits"])
        assert "dogs" in str(got.json["error"])
        assert (await client.ask(get(b"/v1/models/digits"))).status == 200, "the connection goes on"


async def test_an_image_for_no_model_in_particular_needs_one_when_there_are_several(proxy: RunningProxy) -> None:
    got = await proxy.ask(post(b"x", b"/classify"))
    assert (got.status, got.json["code"], got.json["models"]) == (400, "bad_request", ["a/b", "cats", "digits"])


async def test_a_model_called_default_is_meant_when_none_is_named() -> None:
    ann, bob = ScriptedWorker(name="ann"), ScriptedWorker(name="bob", models={"default": [1]})
    async with cluster(ann, bob) as proxy:
        assert await served(proxy, post(b"x", b"/classify?top=1")) == {b"bob": 4}
        assert (await proxy.ask(get(b"/"))).body == f"127.0.0.1:{bob.port}\n".encode()


async def test_a_server_that_does_not_say_what_it_has_is_asked_for_everything() -> None:
    ann, tfs = ScriptedWorker(name="ann"), ScriptedWorker(name="tfs", models=None)
    async with cluster(ann, tfs) as proxy:
        assert await served(proxy, get(b"/v1/models/digits")) == {b"ann": 2, b"tfs": 2}
        assert await served(proxy, get(b"/v1/models/dogs")) == {b"tfs": 4}


async def test_when_a_worker_dies_only_another_with_the_model_is_asked() -> None:
    ann, bob = ScriptedWorker(name="ann"), ScriptedWorker(name="bob")
    cat = ScriptedWorker(name="cat", models={"cats": [1]})
    async with cluster(ann, bob, cat) as proxy:
        await ann.stop()
        assert await served(proxy, post(b"x", b"/v1/models/digits:predict"), 6) == {b"bob": 6}
        await bob.stop()
        got = await proxy.ask(post(b"x", b"/v1/models/digits:predict"))
        assert (got.status, got.json["code"]) == (502, "worker_unreachable")
        assert not cat.seen


async def test_a_full_worker_is_replaced_only_by_one_that_has_the_model() -> None:
    ann, bob = ScriptedWorker(FULL, name="ann"), ScriptedWorker(name="bob", models={"cats": [1]})
    async with cluster(ann, bob) as proxy:
        assert (await proxy.ask(post(b"x", b"/v1/models/digits:predict"))).status == 503
        assert not bob.seen
    full, other, able = ScriptedWorker(FULL), ScriptedWorker(name="a", models={"cats": [1]}), ScriptedWorker(name="b")
    async with cluster(full, other, able) as proxy:
        assert await served(proxy, post(b"x", b"/v1/models/digits:predict")) == {b"b": 4}
        assert full.seen


async def test_a_worker_that_lacks_the_model_after_all_is_replaced_and_keeps_its_turn() -> None:
    lacking, having = ScriptedWorker(LACKS, name="a", models=None), ScriptedWorker(name="b")
    async with cluster(lacking, having) as proxy:
        for raw in (get(b"/v1/models/digits"), post(b"x" * 1000, b"/v1/models/digits:predict")):
            assert await served(proxy, raw) == {b"b": 4}
        assert len(lacking.seen) >= 4, "it is as fit as ever"
        assert (await proxy.ask(get(b"/v1/models/cats"))).status == 404
        before = len(having.seen)
        answers = {(await proxy.ask(get(b"/no/model/in/this"))).status for _ in range(2)}
        assert (answers, len(having.seen)) == ({200, 404}, before + 1), "other pages are what the worker says they are"


async def test_an_answer_of_404_is_the_workers_own_where_all_say_it() -> None:
    workers = [ScriptedWorker(LACKS), ScriptedWorker(LACKS), ScriptedWorker(LACKS)]
    async with cluster(*workers) as proxy:
        got = await proxy.ask(post(b"x", b"/v1/models/digits/versions/9:predict"))
        assert (got.status, got.json) == (404, {"error": "Servable not found"})
    assert sum(len(worker.seen) for worker in workers) == 2


async def test_a_model_that_a_worker_loads_or_gives_up_is_routed_within_moments(
    registry: tuple[str, Registry],
) -> None:
    address, opened = registry
    ann, bob = ScriptedWorker(name="ann"), ScriptedWorker(name="bob")
    await bob.start()
    async with announced(opened, ann), cluster(registry=address) as proxy, opened.announce(bob.worker) as listing:
        await until_listed(proxy, "ann", "bob")
        assert (await proxy.ask(get(b"/v1/models/cats"))).status == 404

        async def until_answered(raw: bytes, status: int) -> None:
            async with asyncio.timeout(10):
                while (await proxy.ask(raw)).status != status:  # noqa: ASYNC110  # what it waits for has no event
                    await asyncio.sleep(0.005)

        listing.update(bob.worker.serving({"cats": [1]}))
        await until_answered(get(b"/v1/models/cats"), 200)
        assert await served(proxy, get(b"/v1/models/digits")) == {b"ann": 4}
        listing.update(bob.worker.serving({"cats": [1, 2]}))
        await until_answered(get(b"/v1/models/cats/versions/2"), 200)
        listing.update(bob.worker.serving({}))
        await until_answered(get(b"/v1/models/cats"), 404)
        workers = (await proxy.ask(get(b"/workers"))).json["workers"]
        assert isinstance(workers, list)
        assert [(each["models"], each["versions"], each["state"]) for each in workers] == [
            (["digits"], {"digits": [1]}, "ready"),
            ([], {}, "empty"),
        ]
    await bob.stop()


async def test_a_model_whose_worker_restarts_is_missing_and_not_unknown(registry: tuple[str, Registry]) -> None:
    address, opened = registry
    ann, bob = ScriptedWorker(name="ann"), ScriptedWorker(name="bob", models={"cats": [1]})
    async with announced(opened, ann), cluster(registry=address) as proxy:
        async with announced(opened, bob):
            await until_listed(proxy, "ann", "bob")
        await until_listed(proxy, "ann")
        got = await proxy.ask(get(b"/v1/models/cats"))
        assert (got.status, got.json["code"], got.values(b"retry-after")) == (503, "no_workers", [b"1"])


async def test_a_redirect_leads_to_a_worker_that_has_the_model(
    proxy: RunningProxy, ann: ScriptedWorker, bob: ScriptedWorker
) -> None:
    async with proxy.client() as client:
        for target, worker in (
            (b"/v1/models/cats:predict", bob),
            (b"/classify?model=cats", bob),
            (b"/v1/models/digits/versions/2", ann),
        ):
            for _ in range(3):
                got = await client.ask(post(b"x", b"/p2p" + target))
                assert got.values(b"location") == [b"http://127.0.0.1:%d%b" % (worker.port, target)]
        assert (await client.ask(post(b"x", b"/p2p/classify"))).status == 400


async def test_an_address_for_a_model_is_of_a_worker_that_has_it_and_so_are_its_alternates(
    proxy: RunningProxy, ann: ScriptedWorker, bob: ScriptedWorker
) -> None:
    as_json = b"Accept: application/json\r\n"
    async with proxy.client() as client:
        assert (await client.ask(get(b"/?model=cats"))).body == b"127.0.0.1:%d\n" % bob.port
        alone = (await client.ask(get(b"/?model=cats", as_json))).json
        assert (alone["address"], alone["alternates"]) == (f"127.0.0.1:{bob.port}", [])
        assert (alone["models"], alone["versions"]) == (
            ["cats", "a/b", "digits"],
            {"cats": [1], "a/b": [1], "digits": [1]},
        )
        both = (await client.ask(get(b"/?model=digits", as_json))).json
        assert isinstance(both["alternates"], list)
        assert {both["address"], *both["alternates"]} == {f"127.0.0.1:{one.port}" for one in (ann, bob)}
        assert (await client.ask(get(b"/"))).status == 200, "an address for no model in particular is any"


async def test_a_grpc_client_asks_for_the_address_that_speaks_it() -> None:
    ann, bob = ScriptedWorker(name="ann"), ScriptedWorker(name="bob")
    bob.speak_grpc(7000)
    async with cluster(ann, bob) as proxy, proxy.client() as client:
        for _ in range(3):
            assert (await client.ask(get(b"/?grpc"))).body == b"127.0.0.1:7000\n"
            assert (await client.ask(get(b"/?grpc=1&model=digits"))).body == b"127.0.0.1:7000\n"
        told = (await client.ask(get(b"/?grpc=0", b"Accept: application/json\r\n"))).json
        assert isinstance(told["workers"], list)
        assert {each["address"]: each["grpc"] for each in told["workers"]} == {
            f"127.0.0.1:{ann.port}": None,
            f"127.0.0.1:{bob.port}": "127.0.0.1:7000",
        }
        assert (await client.ask(get(b"/?grpc&model=dogs"))).status == 404
    async with cluster(ann) as proxy:
        got = await proxy.ask(get(b"/?grpc"))
        assert (got.status, got.json["code"]) == (503, "no_workers")


async def test_workers_without_a_model_do_not_make_a_proxy_ready(registry: tuple[str, Registry]) -> None:
    address, opened = registry
    empty = ScriptedWorker(name="ann", models={})
    async with announced(opened, empty), cluster(registry=address) as proxy:
        await until_listed(proxy, "ann")
        assert (await proxy.ask(get(b"/readyz"))).status == 503
        got = await proxy.ask(get(b"/v1/models/digits"))
        assert (got.status, got.json["code"]) == (503, "no_workers")
        assert not empty.seen

"""The embedded registry by itself: its API as curl sees it, and its memory with a clock of the test's own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from discovery.embedded import MAX_BODY
from discovery.embedded_catalogue import MAX_INSTANCES, Catalogue, Full
from discovery.embedded_payload import BadPayload, duration, service
from tests.discovery.harness import EmbeddedPlace


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def instance(id_: str, name: str = "worker", ttl: str = "3s", **more: Any) -> dict[str, Any]:
    check = {"CheckID": f"{id_}:ttl", "TTL": ttl, "Status": "passing", "DeregisterCriticalServiceAfter": "1m"}
    return {"ID": id_, "Name": name, "Address": "10.0.0.1", "Port": 80, "Checks": [check]} | more


def register(catalogue: Catalogue, *args: Any, replace_checks: bool = False, **more: Any) -> None:
    catalogue.register(service(instance(*args, **more)), replace_checks=replace_checks)


def statuses(catalogue: Catalogue, name: str = "worker") -> dict[str, str]:
    return {check["CheckID"]: check["Status"] for entry in catalogue.entries(name) for check in entry["Checks"]}


def test_a_missed_heartbeat_is_critical_and_a_late_one_brings_the_service_back() -> None:
    clock = Clock()
    catalogue = Catalogue(clock)
    register(catalogue, "ann")
    assert catalogue.expire() == 1003
    clock.now = 1002.9
    catalogue.expire()
    assert statuses(catalogue) == {"ann:ttl": "passing"}
    clock.now = 1003
    index = catalogue.index_of("worker")
    catalogue.expire()
    assert statuses(catalogue) == {"ann:ttl": "critical"}
    assert catalogue.index_of("worker") > index
    assert catalogue.beat("ann:ttl")
    assert statuses(catalogue) == {"ann:ttl": "passing"}
    assert catalogue.expire() == 1006


def test_a_service_that_stays_critical_is_forgotten_after_a_minute() -> None:
    clock = Clock()
    catalogue = Catalogue(clock)
    register(catalogue, "ann")
    clock.now = 1003
    assert catalogue.expire() == 1063
    clock.now = 1063
    catalogue.expire()
    assert catalogue.entries("worker") == []
    assert not catalogue.beat("ann:ttl")


def test_registering_again_is_no_heartbeat_and_no_news() -> None:
    clock = Clock()
    catalogue = Catalogue(clock)
    register(catalogue, "ann")
    index = catalogue.index
    clock.now = 1002
    register(catalogue, "ann", replace_checks=True)
    assert catalogue.index == index
    assert catalogue.expire() == 1003
    clock.now = 1003
    catalogue.expire()
    register(catalogue, "ann")
    assert statuses(catalogue) == {"ann:ttl": "critical"}


def test_an_http_check_is_shown_but_only_the_heartbeat_judges() -> None:
    catalogue = Catalogue(Clock())
    checks = [{"CheckID": "h", "HTTP": "http://10.0.0.1:80/readyz", "Interval": "1s", "Timeout": "2s"}]
    catalogue.register(service({"Name": "worker", "Checks": checks}), replace_checks=False)
    assert statuses(catalogue) == {"h": "passing"}
    assert not catalogue.beat("h")


def test_a_check_that_begins_critical_waits_for_its_first_heartbeat() -> None:
    catalogue = Catalogue(Clock())
    catalogue.register(service({"Name": "worker", "Check": {"TTL": "3s"}}), replace_checks=False)
    assert statuses(catalogue) == {"service:worker:1": "critical"}
    assert catalogue.expire() is None
    assert catalogue.beat("service:worker:1")


def test_maintenance_outlasts_a_registration_unless_that_replaces_the_checks() -> None:
    catalogue = Catalogue(Clock())
    register(catalogue, "ann")
    assert catalogue.maintenance("ann", enable=True, reason="disk")
    register(catalogue, "ann")
    assert "_service_maintenance:ann" in statuses(catalogue)
    register(catalogue, "ann", replace_checks=True)
    assert "_service_maintenance:ann" not in statuses(catalogue)


def test_an_instance_that_changes_its_service_is_news_for_both() -> None:
    catalogue = Catalogue(Clock())
    register(catalogue, "ann", "old")
    register(catalogue, "bob", "old")
    before = catalogue.index
    register(catalogue, "ann", "new")
    assert catalogue.index_of("old") > before
    assert catalogue.index_of("new") > before
    assert len(catalogue.entries("old")) == len(catalogue.entries("new")) == 1


def test_there_is_an_end_to_what_can_be_registered() -> None:
    catalogue = Catalogue(Clock())
    for number in range(MAX_INSTANCES):
        catalogue.register(service({"ID": str(number), "Name": "worker"}), replace_checks=False)
    with pytest.raises(Full):
        register(catalogue, "one too many")
    catalogue.register(service({"ID": "1", "Name": "worker", "Port": 5}), replace_checks=False)


class Histories(RuleBasedStateMachine):
    """Whatever happens, a service's index moves exactly when its records do, and never back."""

    ids = st.sampled_from(["ann", "bob", "cid"])
    names = st.sampled_from(["worker", "other"])

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.catalogue = Catalogue(self.clock)
        self.seen: dict[str, tuple[int, list[Any]]] = {name: (1, []) for name in ("worker", "other")}

    @rule(id_=ids, name=names, port=st.integers(1, 2), replace=st.booleans())
    def register(self, id_: str, name: str, port: int, replace: bool) -> None:
        self.catalogue.register(service(instance(id_, name, Port=port)), replace_checks=replace)

    @rule(id_=ids)
    def deregister(self, id_: str) -> None:
        self.catalogue.deregister(id_)

    @rule(id_=ids, enable=st.booleans())
    def maintain(self, id_: str, enable: bool) -> None:
        self.catalogue.maintenance(id_, enable)

    @rule(id_=ids)
    def beat(self, id_: str) -> None:
        self.catalogue.beat(f"{id_}:ttl")

    @rule(seconds=st.sampled_from([1, 3, 61]))
    def pass_time(self, seconds: int) -> None:
        self.clock.now += seconds
        due = self.catalogue.expire()
        assert due is None or due > self.clock.now or self.catalogue.expire() is None

    @invariant()
    def index_and_records_move_together(self) -> None:
        for name, (index, records) in self.seen.items():
            now_index, now_records = self.catalogue.index_of(name), self.catalogue.entries(name)
            by_id = sorted(now_records, key=lambda record: str(record["Service"]["ID"]))
            assert now_index >= index
            assert now_index <= self.catalogue.index
            if by_id != records:
                assert now_index > index, "a change that no watcher would hear of"
            self.seen[name] = (now_index, by_id)


TestHistories = Histories.TestCase


@pytest.mark.parametrize(
    "payload",
    [
        None,
        [],
        {},
        {"Name": ""},
        {"Name": 5},
        {"Name": "w", "Port": "80"},
        {"Name": "w", "Port": 65536},
        {"Name": "w", "Nmae": "typo"},
        {"Name": "w", "Tags": "model:digits"},
        {"Name": "w", "Tags": [1]},
        {"Name": "w", "Meta": {"a b": "c"}},
        {"Name": "w", "Meta": {"a": "x" * 513}},
        {"Name": "w", "Meta": {"a": 1}},
        {"Name": "w", "Meta": {f"k{n}": "" for n in range(65)}},
        {"Name": "w", "Weights": {"Passing": 0}},
        {"Name": "w", "Weights": {"Passing": 1, "Warning": 70000}},
        {"Name": "w", "Check": {"TTL": "3"}},
        {"Name": "w", "Check": {"TTL": "0s"}},
        {"Name": "w", "Check": {"TTL": "3s", "HTTP": "http://a"}},
        {"Name": "w", "Check": {"TTL": "3s", "Status": "fine"}},
        {"Name": "w", "Check": {"Args": ["rm", "-rf", "/"], "Interval": "1s"}},
        {"Name": "w", "Checks": {"TTL": "3s"}},
    ],
    ids=lambda payload: repr(payload)[:60],
)
def test_a_registration_that_makes_no_sense_is_refused_with_a_sentence(payload: object) -> None:
    with pytest.raises(BadPayload, match=r"\w+ \w+"):
        service(payload)


def test_member_names_count_in_any_case_as_in_consul() -> None:
    assert service({"name": "w", "ID": "i"}) == service({"Name": "w", "id": "i"})
    check = {"check_id": "c", "ttl": "1s", "deregister_critical_service_after": "2h"}
    (parsed,) = service({"name": "w", "check": check}).checks
    assert (parsed.id, parsed.ttl, parsed.reap_after) == ("c", 1, 7200)


@pytest.mark.parametrize(("text", "seconds"), [("10s", 10), ("1m30s", 90), ("500ms", 0.5), ("1.5h", 5400), ("0s", 0)])
def test_durations_are_read_as_go_writes_them(text: str, seconds: float) -> None:
    assert duration(text) == seconds


@given(st.text() | st.none() | st.integers())
def test_what_is_no_duration_is_refused(text: object) -> None:
    try:
        assert duration(text) >= 0
    except BadPayload as error:
        assert "Invalid duration" in str(error)  # noqa: PT017


@pytest.fixture
async def url() -> AsyncIterator[str]:
    place = EmbeddedPlace()
    await place.start()
    yield f"http://127.0.0.1:{place.port}/v1"
    await place.stop()


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


async def test_a_query_is_held_for_exactly_its_wait(url: str, http: aiohttp.ClientSession) -> None:
    began = time.monotonic()
    async with http.get(f"{url}/health/service/worker?index=1&wait=300ms") as answer:
        assert await answer.json() == []
        assert answer.headers["X-Consul-Index"] == "1"
    assert 0.3 <= time.monotonic() - began < 1


async def test_a_held_query_is_answered_as_soon_as_there_is_news(url: str, http: aiohttp.ClientSession) -> None:
    sent = asyncio.Event()
    tracing = aiohttp.TraceConfig()

    async def on_sent(*_: object) -> None:
        sent.set()

    tracing.on_request_headers_sent.append(on_sent)
    async with aiohttp.ClientSession(trace_configs=[tracing]) as patient:
        held = asyncio.create_task(patient.get(f"{url}/health/service/worker?index=1&wait=10s"))
        await sent.wait()
        async with http.get(f"{url}/health/service/other"):  # who asked later is answered, so the other one is held
            assert not held.done()
        began = time.monotonic()
        async with http.put(f"{url}/agent/service/register", json=instance("ann")) as answer:
            assert (answer.status, await answer.text()) == (200, "")
        async with await held as answer:
            assert len(await answer.json()) == 1
            assert int(answer.headers["X-Consul-Index"]) > 1
    assert time.monotonic() - began < 1


async def test_an_index_from_another_life_is_answered_at_once(url: str, http: aiohttp.ClientSession) -> None:
    began = time.monotonic()
    async with http.get(f"{url}/health/service/worker?index=221&wait=10s") as answer:
        assert answer.headers["X-Consul-Index"] == "1"
    assert time.monotonic() - began < 1


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("PUT", "/agent/check/pass/nobody", None, 404),
        ("PUT", "/agent/service/deregister/nobody", None, 404),
        ("PUT", "/agent/service/maintenance/nobody?enable=true", None, 404),
        ("PUT", "/agent/service/maintenance/nobody", None, 400),
        ("PUT", "/agent/service/maintenance/nobody?enable=perhaps", None, 400),
        ("PUT", "/agent/service/register", b"no JSON", 400),
        ("PUT", "/agent/service/register", b"\xff", 400),
        ("PUT", "/agent/service/register", b"[" * 10000, 400),
        ("PUT", "/agent/service/register", b" " * (MAX_BODY + 1), 413),
        ("PUT", "/agent/service/register?replace-existing-checks=perhaps", b'{"Name":"w"}', 400),
        ("GET", "/health/service/worker?index=one", None, 400),
        ("GET", "/health/service/worker?index=-1", None, 400),
        ("GET", "/health/service/worker?wait=long", None, 400),
        ("POST", "/agent/service/register", b"{}", 405),
        ("GET", "/kv/secret", None, 404),
    ],
    ids=lambda value: repr(value)[:50],
)
async def test_a_mistake_is_answered_with_its_status_and_a_sentence(
    url: str,
    http: aiohttp.ClientSession,
    method: str,
    path: str,
    body: bytes | None,
    status: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with http.request(method, url + path, data=body) as answer:
        text = await answer.text()
        assert (answer.status, answer.content_type) == (status, "text/plain")
        assert text
        assert "Traceback" not in text
    assert "Traceback" not in caplog.text


async def test_a_web_page_cannot_list_workers(url: str, http: aiohttp.ClientSession) -> None:
    async with http.put(
        f"{url}/agent/service/register", json=instance("evil"), headers={"Origin": "http://evil.example"}
    ) as answer:
        assert answer.status == 403
    async with http.get(f"{url}/health/service/worker") as answer:
        assert await answer.json() == []

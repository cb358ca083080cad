"""P2P and the proxy's own pages."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from muster.values import Snapshot, Worker
from proxy.p2p import MAX_ALTERNATES, PeerToPeer
from proxy.roster import Roster
from tests.proxy.harness import ScriptedWorker, cluster, get, post


async def test_an_address_for_people_is_one_line() -> None:
    ann, bob = ScriptedWorker(), ScriptedWorker()
    async with cluster(ann, bob) as proxy, proxy.client() as client:
        answers = [await client.ask(get(b"/")) for _ in range(4)]
    lines = [got.body.decode() for got in answers]
    assert set(lines) == {f"127.0.0.1:{ann.port}\n", f"127.0.0.1:{bob.port}\n"}
    assert lines[:2] == lines[2:]
    assert answers[0].values(b"content-type")[0].startswith(b"text/plain")
    assert answers[0].values(b"cache-control") == [b"no-store"]


async def test_an_address_for_programs_names_alternates_and_how_long_it_is_good() -> None:
    workers = [ScriptedWorker() for _ in range(3)]
    async with cluster(*workers, p2p_ttl=7.0) as proxy:
        got = (await proxy.ask(get(b"/", headers=b"Accept: application/json\r\n"))).json
    alternates = got["alternates"]
    assert isinstance(alternates, list)
    assert {got["address"], *alternates} == {f"127.0.0.1:{worker.port}" for worker in workers}
    assert got["url"] == f"http://{got['address']}"
    assert got["ttl"] == 7.0


def test_what_programs_read_is_what_a_json_library_would_write_and_up_to_date() -> None:
    roster = Roster(lambda: 0.0)
    one = Worker("one", "::1", 9001, ('a"b',), (('a"b', 1), ('a"b', 2)), grpc_port=9101)
    others = tuple(Worker(f"w{number}", "127.0.0.1", 9010 + number) for number in range(2 * MAX_ALTERNATES))
    roster.apply(Snapshot(1, (one, *others)))
    door = PeerToPeer(roster, enabled=True, ttl=1.0)

    def asked() -> dict[str, Any]:
        text = door.address("/", grpc=False, as_json=True).text or ""
        answer = json.loads(text)
        assert isinstance(answer, dict)
        assert text == json.dumps(answer) + "\n"
        assert list(answer) == ["address", "grpc", "models", "versions", "url", "alternates", "workers", "ttl"]
        assert len(answer["alternates"]) == MAX_ALTERNATES == len({*answer["alternates"]} - {answer["address"]})
        assert [each["address"] for each in answer["workers"]] == [answer["address"], *answer["alternates"]]
        return answer

    answers = [asked() for _ in range(len(others) + 1)]
    (mine,) = [answer for answer in answers if answer["address"] == "[::1]:9001"]
    assert (mine["url"], mine["grpc"], mine["models"]) == ("http://[::1]:9001", "[::1]:9101", ['a"b'])
    assert mine["versions"] == {'a"b': [1, 2]}
    assert mine["ttl"] == 1.0
    roster.apply(Snapshot(2, (dataclasses.replace(one, models=("c",), versions=()), *others)))
    assert ["c"] in [asked()["models"] for _ in range(len(others) + 1)]


@pytest.mark.parametrize("method", [b"GET", b"POST", b"PUT", b"DELETE"])
async def test_any_request_is_redirected_to_a_worker_with_its_path_untouched(method: bytes) -> None:
    worker = ScriptedWorker(models={"a/b": [1]})
    async with cluster(worker) as proxy:
        got = await proxy.ask(method + b" /p2p/v1/models/a%2Fb:predict?x=%21 HTTP/1.1\r\nHost: test\r\n\r\n")
    assert got.status == 307
    assert got.values(b"location") == [b"http://127.0.0.1:%d/v1/models/a%%2Fb:predict?x=%%21" % worker.port]
    assert not worker.seen


async def test_a_redirect_cannot_lead_anywhere_but_to_a_worker() -> None:
    worker = ScriptedWorker()
    async with cluster(worker) as proxy:
        for target in (b"/p2p//evil.test/x", b"/p2p/@evil.test", b"/p2p/%0d%0aSet-Cookie:%20a=b", b"/p2p"):
            (location,) = (await proxy.ask(get(target))).values(b"location")
            assert location.startswith(b"http://127.0.0.1:%d/" % worker.port)


async def test_curl_follows_the_redirect_before_it_sends_a_large_body(tmp_path: Path) -> None:
    picture = tmp_path / "big.bin"
    picture.write_bytes(bytes(3_000_000))
    worker = ScriptedWorker(name="ann")
    async with cluster(worker) as proxy, counting(proxy.port) as (port, counted):
        url = f"http://127.0.0.1:{port}/p2p/classify"
        command = ["curl", "-sSL", "--max-time", "20", "-F", f"data=@{picture}", url]
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        out, _ = await process.communicate()
    assert out == b"ann"
    assert len(worker.seen[0].body) > 3_000_000
    assert counted["bytes"] < 1000


class counting:  # noqa: N801
    """A pipe in front of the proxy that counts what clients send through it."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._counted = {"bytes": 0}

    async def __aenter__(self) -> tuple[int, dict[str, int]]:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self._server.sockets[0].getsockname()[1], self._counted

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)

        async def copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter, count: bool) -> None:
            while data := await source.read(65536):
                self._counted["bytes"] += len(data) if count else 0
                sink.write(data)
            sink.close()

        await asyncio.gather(copy(reader, far_writer, True), copy(far_reader, writer, False), return_exceptions=True)


async def test_a_small_body_with_the_redirect_does_no_harm() -> None:
    async with cluster(ScriptedWorker()) as proxy, proxy.client() as client:
        for _ in range(3):
            assert (await client.ask(post(b"x" * 1000, b"/p2p/classify"))).status == 307


async def test_switched_off_p2p_says_so() -> None:
    async with cluster(ScriptedWorker(), p2p=False) as proxy, proxy.client() as client:
        for target in (b"/", b"/p2p/classify", b"/p2p"):
            got = await client.ask(get(target))
            assert (got.status, got.json["code"]) == (403, "forbidden")
        assert (await client.ask(post(b"x", b"/classify"))).status == 200


async def test_without_workers_there_is_no_address_and_the_proxy_is_not_ready() -> None:
    async with cluster() as proxy, proxy.client() as client:
        for target in (b"/", b"/p2p/classify", b"/readyz"):
            got = await client.ask(get(target))
            assert (got.status, got.json["code"], got.values(b"retry-after")) == (503, "no_workers", [b"1"])
        assert (await client.ask(get(b"/healthz"))).status == 200


async def test_a_browser_gets_the_dashboard_and_may_run_nothing_else() -> None:
    async with cluster(ScriptedWorker()) as proxy:
        got = await proxy.ask(get(b"/", headers=b"Accept: text/html,application/xhtml+xml,*/*;q=0.8\r\n"))
    assert got.values(b"content-type") == [b"text/html; charset=utf-8"]
    (policy,) = got.values(b"content-security-policy")
    assert b"default-src 'none'" in policy
    assert b"unsafe" not in policy
    assert not re.search(rb"""\son\w+=|\sstyle=|src=["']http""", got.body)


async def test_own_pages_answer_the_wrong_method_and_head() -> None:
    async with cluster(ScriptedWorker()) as proxy, proxy.client() as client:
        got = await client.ask(post(b"x", b"/workers"))
        assert (got.status, got.json["code"]) == (405, "method_not_allowed")
        assert b"GET" in got.values(b"allow")[0]
        head = await client.ask(b"HEAD /workers HTTP/1.1\r\nHost: test\r\n\r\n")
        assert (head.status, head.body) == (200, b"")


async def test_metrics_can_be_read_by_prometheus() -> None:
    worker = ScriptedWorker(name="ann")
    async with cluster(worker) as proxy, proxy.client() as client:
        for _ in range(5):
            await client.ask(post(b"x"))
        text = (await client.ask(get(b"/metrics"))).body.decode()
    samples = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert samples["muster_proxy_responses_total", "200"] == 5
    assert samples["muster_proxy_request_seconds_count",] == 5
    assert samples["muster_proxy_picks_total", "ann"] == 5
    assert samples["muster_proxy_workers", "ready"] == 1

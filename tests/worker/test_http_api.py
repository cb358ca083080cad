"""The worker's other pages, and how it takes requests that are not what they should be."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest

from discovery.worker_json import from_json
from tests.worker.colours import png
from tests.worker.doors import Doors, open_doors
from worker.connections import Deadlines
from worker.models.catalogue import Catalogue


@pytest.fixture
async def doors(catalogue: Catalogue) -> AsyncIterator[Doors]:
    async with open_doors(catalogue) as doors:
        yield doors


async def test_the_worker_introduces_itself(doors: Doors) -> None:
    answer = await doors.ask("/")
    assert answer.status == 200
    assert (answer.json["state"], answer.json["worker"]["id"]) == ("ready", "worker-1")
    assert set(answer.json["worker"]["models"]) == {"float", "frozen", "keras", "string", "tf1", "uint8"}


async def test_readiness_comes_with_a_worker_that_a_registry_can_read(doors: Doors) -> None:
    answer = await doors.ask("/readyz")
    assert answer.json["status"] == "ready"
    assert from_json(answer.json["worker"]) == doors.state.worker


async def test_a_worker_that_still_loads_is_alive_and_not_ready() -> None:
    async with open_doors(None) as doors:
        assert (await doors.ask("/healthz")).status == 200
        for answer in (await doors.ask("/readyz"), await doors.ask("/classify", png())):
            assert (answer.status, answer.json["code"]) == (503, "loading")
            assert answer.headers["Retry-After"] == "1"
        assert (await doors.ask("/")).json["state"] == "loading"
        assert (await doors.ask("/metrics")).status == 200


async def test_a_draining_worker_says_so_serves_on_and_sends_its_clients_away(doors: Doors) -> None:
    doors.state.drain()
    ready = await doors.ask("/readyz")
    assert (ready.status, ready.json["code"]) == (503, "draining")
    answer = await doors.ask("/classify?model=float", png())
    assert (answer.status, answer.headers["Connection"]) == (200, "close")


async def test_an_unknown_page_is_not_found(doors: Doors) -> None:
    for path in ("/nope", "/classify/", "//classify", "/Classify", "/%63lassify", "/healthz/../metrics"):
        answer = await doors.raw(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        assert answer.startswith(b"HTTP/1.1 404 "), path
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["code"] == "not_found"


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", "/classify", "POST"),
        ("PUT", "/", "GET, HEAD, POST"),
        ("DELETE", "/metrics", "GET, HEAD"),
        ("TRACE", "/healthz", "GET, HEAD"),
        ("PATCH", "/readyz", "GET, HEAD"),
    ],
)
async def test_a_method_that_does_not_fit_is_told_which_do(doors: Doors, method: str, path: str, allow: str) -> None:
    answer = await doors.ask(path, method=method)
    assert (answer.status, answer.json["code"], answer.headers["Allow"]) == (405, "method_not_allowed", allow)


async def test_json_ends_with_a_newline_because_people_read_it_in_terminals(doors: Doors) -> None:
    for head in (b"GET /", b"GET /readyz", b"GET /nope", b"POST /classify", b"nonsense"):
        assert (await doors.raw(head + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")).endswith(b"}\n")
    image = png("red")
    head = b"POST /classify?model=float HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
    assert (await doors.raw(head % len(image) + image)).endswith(b"}\n")


async def test_head_is_get_without_a_body(doors: Doors) -> None:
    answer = await doors.raw(b"HEAD /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.endswith(b"\r\n\r\n")


@pytest.mark.parametrize(("sent", "kept"), [("abc-1", True), ("x" * 128, True), ("x" * 129, False), ("a b", False)])
async def test_a_sane_request_id_is_taken_over_and_another_is_made(doors: Doors, sent: str, kept: bool) -> None:
    answer = await doors.ask("/healthz", headers={"X-Request-Id": sent})
    assert (answer.headers["X-Request-Id"] == sent) is kept
    assert answer.headers["X-Request-Id"]


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n",
        b"GET http://x/ HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/2.0\r\nHost: x\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"y" * 20_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n" + b"A: y\r\n" * 500 + b"\r\n",
        b"\x16\x03\x01\x02\x00\x01\r\n\r\n",
        b"nonsense\r\n\r\n",
    ],
)
async def test_a_head_that_is_not_clear_is_refused_in_json_and_the_connection_closed(doors: Doors, head: bytes) -> None:
    answer = await doors.raw(head)
    assert answer.split(b" ")[1] == b"400", answer
    assert b"\r\nServer: muster\r\n" in answer
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["code"] == "bad_request"


async def test_a_client_that_asks_for_http2_is_served_in_http1(doors: Doors) -> None:
    image = png("blue")
    head = b"POST /classify?model=float HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings, close\r\n"
    head += b"Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\nContent-Length: %d\r\n\r\n" % len(image)
    assert (await doors.raw(head + image)).startswith(b"HTTP/1.1 200 ")


async def test_metrics_count_by_model_version_and_outcome_and_time_each_stage(doors: Doors) -> None:
    await doors.ask("/classify?model=float", png())
    await doors.ask("/classify?model=float", b"nonsense")
    await doors.ask("/classify?model=cats", png())
    page = (await doors.ask("/metrics")).json
    for line in (
        'muster_worker_requests_total{api="classify",code="OK",entrypoint="HTTP",model="float",version="3"} 1.0',
        'muster_worker_requests_total{api="classify",code="INVALID_ARGUMENT",entrypoint="HTTP",model="float",'
        'version="3"} 1.0',
        'muster_worker_requests_total{api="classify",code="NOT_FOUND",entrypoint="HTTP",model="",version=""} 1.0',
        'muster_worker_batch_size_count{model="float",version="3"} 1.0',
        'muster_worker_queue_depth{model="float",version="3"} 0.0',
        "muster_worker_images_inside 0.0",
        *(f'muster_worker_stage_seconds_count{{model="float",stage="{stage}",version="3"}} 1.0'
          for stage in ("decode", "queue", "infer", "encode")),
    ):  # fmt: skip
        assert line in page.splitlines()


async def test_a_client_that_dawdles_over_its_head_is_cut_off_and_an_idle_one_is_not(catalogue: Catalogue) -> None:
    async with open_doors(catalogue, Deadlines(head=0.1, every=0.02)) as doors:
        idle_reader, idle_writer = await asyncio.open_connection("127.0.0.1", doors.port)
        assert await doors.raw(b"GET / HTTP/1.1\r\nHost:") == b""
        idle_writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await idle_reader.readline()).startswith(b"HTTP/1.1 200 ")
        idle_writer.close()


async def test_a_client_that_does_not_read_its_answers_is_cut_off(catalogue: Catalogue) -> None:
    async with open_doors(catalogue, Deadlines(unread=0.1, every=0.02)) as doors:
        _, writer = await asyncio.open_connection("127.0.0.1", doors.port, limit=1)
        with pytest.raises(ConnectionError):
            await asyncio.wait_for(_ask_for_ever(writer), 10)
        writer.close()


async def _ask_for_ever(writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * 100)
        await writer.drain()

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
    ("status", "head"),
    [
        (400, b"GET / HTTP/1.1\r\n\r\n"),
        (400, b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"),
        (400, b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n"),
        (400, b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n"),
        (400, b"GET / HTTP/1.1\r\nHost: a:65536\r\n\r\n"),
        (400, b"GET / HTTP/1.1\r\nHost: [a]\r\n\r\n"),
        (400, b"GET http://x/ HTTP/1.1\r\nHost: x\r\n\r\n"),
        (400, b"GET  / HTTP/1.1\r\nHost: x\r\n\r\n"),
        (400, b"GET /#x HTTP/1.1\r\nHost: x\r\n\r\n"),
        (400, b"\rGET / HTTP/1.1\r\nHost: x\r\n\r\n"),
        (400, b"GET /\r\n\r\n"),
        (400, b"GET / RTSP/1.0\r\nHost: x\r\n\r\n"),
        (505, b"GET / HTTP/2.0\r\nHost: x\r\n\r\n"),
        (505, b"GET / HTTP/0.9\r\nHost: x\r\n\r\n"),
        (400, b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n"),
        (405, b"CONNECT /x HTTP/1.1\r\nHost: x\r\n\r\n"),
        (405, b"get / HTTP/1.1\r\nHost: x\r\n\r\n"),
        (400, b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        (400, b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        (400, b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx"),
        (400, b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n"),
        (400, b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n"),
        (400, b"GET / HTTP/1.1\r\nHost: x\r\nA : b\r\n\r\n"),
        (400, b"GET / HTTP/1.1\r\nHost: x\r\nA: b\r\n c\r\n\r\n"),
        (400, b"GET / HTTP/1.1\r\nHost: x\r\nA: b\x00c\r\n\r\n"),
        (400, b"GET / HTTP/1.1\nHost: x\n\n"),
        (431, b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"y" * 20_000 + b"\r\n\r\n"),
        (431, b"GET / HTTP/1.1\r\nHost: x\r\n" + b"A: y\r\n" * 500 + b"\r\n"),
        (400, b"\x16\x03\x01\x02\x00\x01\r\n\r\n"),
        (400, b"nonsense\r\n\r\n"),
    ],
)
async def test_a_head_that_is_not_clear_is_refused_in_json_and_the_connection_closed(
    doors: Doors, status: int, head: bytes
) -> None:
    answer = await doors.raw(head + b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 %d " % status), answer
    assert answer.count(b"\r\nContent-Length: ") == 1
    assert b"\r\nServer: muster\r\n" in answer
    assert b"\r\nConnection: close\r\n" in answer
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]


async def test_a_bad_request_in_a_line_takes_no_answer_from_those_before_it(doors: Doors) -> None:
    good = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    answers = await doors.raw(good * 2 + b"GET /healthz HTTP/1.0\r\nA : b\r\n\r\n" + good)
    assert [answers.count(b"HTTP/1.1 200 "), answers.count(b"HTTP/1.1 ")] == [2, 3]
    assert answers.rpartition(b"HTTP/1.1 ")[2].startswith(b"400 ")


async def test_what_follows_the_last_request_does_not_take_its_answer(doors: Doors) -> None:
    answers = await doors.raw(b"GET /healthz HTTP/1.0\r\n\r\nGET /nope HTTP/1.1\r\nHost: x\r\n\r\n")
    assert answers.startswith(b"HTTP/1.0 200 ")
    assert answers.count(b"HTTP/1.") == 1


async def test_more_requests_in_a_row_than_may_wait_are_all_answered(doors: Doors) -> None:
    one = b"GET /healthz HTTP/1.1\r\nHost: x\r\nA: " + b"y" * 8_000 + b"\r\n\r\n"
    answers = await doors.raw(one * 100 + b"GET /healthz HTTP/1.0\r\n\r\n")
    assert answers.count(b" 200 OK\r\n") == 101


async def test_a_body_of_very_many_tiny_chunks_is_read(doors: Doors) -> None:
    head = b"POST /classify?model=float HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    picture = png("blue")
    body = b"".join(b"1\r\n%c\r\n" % byte for byte in picture + b"\0" * 20_000) + b"0\r\n\r\n"
    answers = await doors.raw((head + body) * 2 + b"GET /healthz HTTP/1.0\r\n\r\n")
    assert answers.count(b" 200 OK\r\n") == 3


@pytest.mark.parametrize(
    "broken",
    [b"5\r\nhelloXX", b"0x5\r\nhello\r\n", b"5\nhello\n", b"0\r\nno trailer\r\n\r\n", b"5;a\nb\r\nhello\r\n"],
)
@pytest.mark.parametrize("path", [b"/classify?model=float", b"/v1/models/float:predict", b"/healthz"])
async def test_a_body_that_breaks_while_it_is_read_is_refused_at_once(
    doors: Doors, path: bytes, broken: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", doors.port)
    writer.write(b"POST " + path + b" HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
    for piece in (b"1\r\nx\r\n", broken + b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"):
        await asyncio.sleep(0.02)
        writer.write(piece)
    async with asyncio.timeout(5):
        answer = await reader.read()
    writer.close()
    assert answer.startswith(b"HTTP/1.1 40")
    assert answer.count(b"\r\nContent-Length: ") == 1
    assert caplog.records == []


@pytest.mark.parametrize("trailer", [b"", b"A: b\r\n", b"Content-Length: 3\r\n", b"Connection: close\r\n"])
async def test_trailers_change_nothing(doors: Doors, trailer: bytes) -> None:
    one = (
        b"POST /healthz HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n" + trailer + b"\r\n"
    )
    answers = await doors.raw(one * 2 + b"GET /healthz HTTP/1.0\r\n\r\n")
    assert [answers.count(b" 405 "), answers.count(b" 200 ")] == [2, 1]


async def test_a_client_that_asks_for_http2_is_served_in_http1(doors: Doors) -> None:
    image = png("blue")
    head = b"POST /classify?model=float HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings, close\r\n"
    head += b"Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\nContent-Length: %d\r\n\r\n" % len(image)
    assert (await doors.raw(head + image)).startswith(b"HTTP/1.1 200 ")
    get = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
    assert (await doors.raw(get + b"GET /healthz HTTP/1.0\r\n\r\n")).count(b" 200 OK\r\n") == 2


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
        assert (await doors.raw(b"GET / HTTP/1.1\r\nHost:")).startswith(b"HTTP/1.1 408 ")
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

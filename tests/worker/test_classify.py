"""`POST /classify`: every way to send images, and every mistake on that way, over a real socket."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import re
import threading
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import numpy as np
import pytest

from tests.worker.colours import encoded, picture, png
from tests.worker.doors import Answer, Doors, open_doors
from tests.worker.servables import image_servable
from tests.worker.test_images import PLAIN, VARIANTS, huge_png
from worker.models.catalogue import Catalogue
from worker.models.servable import Array

RED, GREEN, BLUE = png("red"), png("lime"), png("blue")
FLOAT = "/classify?model=float"


@pytest.fixture
async def doors(catalogue: Catalogue) -> AsyncIterator[Doors]:
    async with open_doors(catalogue, max_body=100_000, max_images=4) as doors:
        yield doors


def form(*files: tuple[str, bytes], **fields: str) -> aiohttp.FormData:
    data = aiohttp.FormData(default_to_multipart=True)
    for name, value in fields.items():
        data.add_field(name, value)
    for number, (field, content) in enumerate(files):
        data.add_field(field, content, filename=f"{number}.png", content_type="image/png")
    return data


def refused(answer: Answer, status: int, code: str, sentence: str = "") -> None:
    assert (answer.status, answer.json["code"]) == (status, code), answer
    assert re.search(sentence, answer.json["error"]), answer.json
    assert answer.headers["Content-Type"] == "application/json"
    assert "Traceback" not in answer.json["error"]


def best(answer: Answer) -> str:
    assert answer.status == 200, answer
    label: str = answer.json["predictions"][0]["label"]
    return label


def scores(answer: Answer) -> dict[str, float]:
    return {prediction["label"]: prediction["score"] for prediction in answer.json["predictions"]}


@pytest.mark.parametrize("model", ["string", "float", "uint8", "tf1", "frozen", "keras"])
@pytest.mark.parametrize(("image", "label"), [(RED, "red"), (GREEN, "green"), (BLUE, "blue")])
async def test_every_kind_of_model_gives_the_right_answer(doors: Doors, model: str, image: bytes, label: str) -> None:
    answer = await doors.ask(f"/classify?model={model}", form(("data", image)))
    assert best(answer) == label


async def test_the_answer_has_the_promised_shape(doors: Doors) -> None:
    answer = await doors.ask(FLOAT, form(("data", RED)))
    assert answer.json["model"] == {"name": "float", "version": 3}
    values = list(scores(answer).values())
    assert values == sorted(values, reverse=True)
    assert sum(values) == pytest.approx(1, abs=1e-5)
    assert all(set(prediction) == {"label", "score"} for prediction in answer.json["predictions"])
    assert answer.headers["X-Served-By"] == "worker-1"
    timing = answer.headers["Server-Timing"]
    assert re.fullmatch(r"decode;dur=[\d.]+, queue;dur=[\d.]+, infer;dur=[\d.]+, encode;dur=[\d.]+", timing)
    assert answer.headers["Server"] == "muster"


async def test_the_root_is_classify_too(doors: Doors) -> None:
    assert best(await doors.ask("/?model=float", form(("data", BLUE)))) == "blue"


async def test_any_field_will_do_for_a_single_file(doors: Doors) -> None:
    assert best(await doors.ask(FLOAT, form(("picture", GREEN), comment="for you"))) == "green"


@pytest.mark.parametrize("kind", ["image/png", "application/octet-stream", "application/x-www-form-urlencoded", "a/b"])
async def test_a_raw_body_is_an_image_whatever_it_is_called(doors: Doors, kind: str) -> None:
    assert best(await doors.ask(FLOAT, BLUE, headers={"Content-Type": kind})) == "blue"


async def test_json_carries_images_in_base64(doors: Doors) -> None:
    body = {"instances": [{"b64": base64.b64encode(image).decode()} for image in (RED, BLUE)]}
    answer = await doors.ask(FLOAT, json.dumps(body), headers={"Content-Type": "application/json; charset=utf-8"})
    assert [result["predictions"][0]["label"] for result in answer.json["results"]] == ["red", "blue"]


@pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", "text/plain", "image/png"])
async def test_json_is_json_whatever_it_is_called(doors: Doors, kind: str) -> None:
    body = ' \r\n{"instances": [{"b64": "' + base64.b64encode(BLUE).decode() + '"}]}'
    assert best(await doors.ask(FLOAT, body, headers={"Content-Type": kind})) == "blue"


@pytest.mark.parametrize("body", [b"data=hello", b"[1, 2]", b' "{"'])
async def test_what_is_neither_json_nor_an_image_is_not_guessed_at(doors: Doors, body: bytes) -> None:
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    refused(await doors.ask(FLOAT, body, headers=headers), 415, "not_an_image", "JPEG, PNG")


async def test_several_images_are_answered_in_order_and_a_bad_one_alone_fails(doors: Doors) -> None:
    answer = await doors.ask(FLOAT, form(("data", RED), ("data", b"nonsense"), ("data", BLUE[:60]), ("data", BLUE)))
    assert answer.status == 200
    red, nonsense, damaged, blue = answer.json["results"]
    assert [result["filename"] for result in answer.json["results"]] == ["0.png", "1.png", "2.png", "3.png"]
    assert (red["predictions"][0]["label"], blue["predictions"][0]["label"]) == ("red", "blue")
    assert (nonsense["code"], damaged["code"]) == ("not_an_image", "bad_image")


@pytest.mark.parametrize("name", [name for name in VARIANTS if "turned" not in name or "6" in name])
@pytest.mark.parametrize("model", ["string", "float"])
async def test_however_a_picture_is_stored_the_answer_is_that_for_the_plain_one(
    doors: Doors, name: str, model: str
) -> None:
    plain, answer = [await doors.ask(f"/classify?model={model}", data) for data in (PLAIN, VARIANTS[name])]
    assert scores(answer) == pytest.approx(scores(plain), abs=0.03)


async def test_as_many_labels_as_asked_for(doors: Doors) -> None:
    for top, count in (("1", 1), ("2", 2), ("99", 3)):
        answer = await doors.ask(f"{FLOAT}&top={top}", RED)
        assert len(answer.json["predictions"]) == count


@pytest.mark.parametrize("top", ["0", "-1", "x", "", "1.5", "9" * 30, "٣"])
async def test_a_top_that_is_no_number_is_refused(doors: Doors, top: str) -> None:
    refused(await doors.ask(f"{FLOAT}&top={top}", RED), 400, "bad_request", "top must be")


@pytest.mark.parametrize("query", ["top=1&top=1", "model=float&model=string", "version=1&version=3", "label=a&label=a"])
async def test_a_question_that_is_asked_twice_is_refused(doors: Doors, query: str) -> None:
    refused(await doors.ask(f"/classify?{query}", RED), 400, "bad_request", "more than once")


async def test_a_version_can_be_asked_for(doors: Doors) -> None:
    assert best(await doors.ask(f"{FLOAT}&version=3", RED)) == "red"
    refused(await doors.ask(f"{FLOAT}&version=2", RED), 404, "unknown_model", "no version 2")
    refused(await doors.ask(f"{FLOAT}&version=two", RED), 400, "bad_request", "version must be a number")
    refused(await doors.ask(f"{FLOAT}&label=stable", RED), 404, "unknown_model", "label 'stable'")
    refused(await doors.ask(f"{FLOAT}&label=a&version=3", RED), 400, "bad_request", "one of them")


@pytest.mark.parametrize("model", ["cats", "..%2F..%2Fetc", "float%00", "", "a" * 2000])
async def test_an_unknown_model_is_not_found(doors: Doors, model: str) -> None:
    answer = await doors.ask(f"/classify?model={model}", RED)
    refused(answer, 404, "unknown_model")
    assert "float" in answer.json["models"]


async def test_among_several_models_one_must_be_named(doors: Doors) -> None:
    refused(await doors.ask("/classify", RED), 400, "bad_request", r"\?model=NAME")


@pytest.mark.parametrize(
    ("data", "status", "code", "sentence"),
    [
        (b"", 400, "bad_request", "curl -F data=@"),
        ({"comment": "no file"}, 400, "bad_request", "holds no file"),
        ([("data", RED), ("mask", RED)], 400, "bad_request", "not 'mask'"),
        ([("data", b"")], 400, "bad_image", "image is empty"),
        ([("data", RED)] * 5, 413, "too_large", "at most 4 images"),
        (b"hello", 415, "not_an_image", "JPEG, PNG"),
        (BLUE[:60], 400, "bad_image", "damaged"),
        (encoded(picture(), "GIF", save_all=True, append_images=[picture("blue")]), 415, "not_an_image", "moves"),
        (huge_png(20000, 20000), 413, "too_large", "20000×20000"),
        (b"x" * 100_001, 413, "too_large", "100000 bytes"),
    ],
)
@pytest.mark.parametrize("model", ["string", "float"])
async def test_mistakes_get_one_clear_sentence(
    doors: Doors, model: str, data: Any, status: int, code: str, sentence: str
) -> None:
    if isinstance(data, list):
        data = form(*data)
    elif isinstance(data, dict):
        data = form(**data)
    refused(await doors.ask(f"/classify?model={model}", data, method="POST"), status, code, sentence)


JSON = "application/json"
FORM = "multipart/form-data; boundary=b"
PART = b'--b\r\nContent-Disposition: form-data; name="data"; filename="x"\r\n'


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (JSON, b"{"),
        (JSON, b"[]"),
        (JSON, b"null"),
        (JSON, b"\xff"),
        (JSON, b'{"instances": []}'),
        (JSON, b'{"instances": {"b64": ""}}'),
        (JSON, b'{"instances": ["aGk="]}'),
        (JSON, b'{"instances": [{"b64": 1}]}'),
        (JSON, b'{"instances": [{"b64": "a?b"}]}'),
        (JSON, '{"instances": [{"b64": "ä"}]}'.encode()),
        (JSON, b'{"instances": [{"b64": "aGk=", "x": 1}]}'),
        (JSON, b"[" * 50_000),
        (JSON, b'{"a":' * 10_000 + b"1" + b"}" * 10_000),
        (JSON + "; charset=bogus", b'{"instances": []}'),
        ("multipart/form-data", PART + b"\r\nx\r\n--b--"),
        ("multipart/form-data; boundary=", PART + b"\r\nx\r\n--b--"),
        ("multipart/form-data; boundary=\xe4", PART),
        (f"multipart/form-data; boundary={'b' * 200}", PART),
        ("multipart/\xff; boundary=b", PART + b"\r\nx\r\n--b--"),
        ("multipart/mixed; boundary=b", PART + b"\r\nx\r\n--b--"),
        (FORM, b"no part at all"),
        (FORM, b"--b--"),
        (FORM, PART + b"\r\nnever ends"),
        (FORM, PART + b"no end of the head"),
        (FORM, PART + b"Content-Type: multipart/mixed; boundary=c\r\n\r\n--c\r\n\r\nx\r\n--c--\r\n--b--"),
        (FORM, PART + b"Content-Length: 9999\r\n\r\nx\r\n--b--"),
        (FORM, PART + b"X: " + b"y" * 9000 + b"\r\n\r\nx\r\n--b--"),
        (FORM, PART + b"X: y\r\n" * 50 + b"\r\nx\r\n--b--"),
        (FORM, b"--b\r\n\r\nx\r\n--b--"),
        (FORM, b"--b\r\nContent-Disposition: \xff\xfe\r\n\r\nx\r\n--b--"),
        (FORM, (b'--b\r\nContent-Disposition: form-data; name="f"\r\n\r\nx\r\n' * 99) + b"--b--"),
        (FORM, b"--b\r\nContent-Disposition: attachment\r\n\r\nx\r\n--b--"),
    ],
)
async def test_a_malformed_body_is_the_senders_mistake(doors: Doors, kind: str, body: bytes) -> None:
    head = f"POST {FLOAT} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: {kind}\r\n".encode("latin-1")
    answer = await doors.raw(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    status = int(answer.split()[1])
    told = json.loads(answer.partition(b"\r\n\r\n")[2])
    assert 400 <= status < 500, answer
    assert set(told) >= {"error", "code"}
    assert b"\r\nX-Served-By: worker-1\r\n" in answer  # not the answer to what is not even HTTP


@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate", "identity, gzip", "GZIP"])
async def test_a_compressed_body_is_refused_before_it_is_read(doors: Doors, encoding: str) -> None:
    head = f"POST {FLOAT} HTTP/1.1\r\nHost: x\r\nContent-Encoding: {encoding}\r\n"
    answer = await doors.raw(head.encode() + b"Connection: close\r\nContent-Length: 1\r\n\r\nx")
    assert answer.startswith(b"HTTP/1.1 415 ")


async def test_a_body_declared_too_large_is_refused_before_it_is_invited(doors: Doors) -> None:
    head = f"POST {FLOAT} HTTP/1.1\r\nHost: x\r\nContent-Length: 100001\r\nExpect: 100-continue\r\n\r\n"
    answer = await doors.raw(head.encode())
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"connection: close" in answer.lower()


async def test_a_body_within_bounds_is_invited(doors: Doors) -> None:
    head = f"POST {FLOAT} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(RED)}\r\nExpect: 100-continue\r\n"
    answer = await doors.raw(head.encode() + b"Connection: close\r\n\r\n" + RED)
    assert re.match(rb"HTTP/1.1 (100 Continue\r\n\r\nHTTP/1.1 )?200 ", answer)


async def test_an_expectation_that_nobody_knows_is_not_met(doors: Doors) -> None:
    head = f"POST {FLOAT} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(RED)}\r\nExpect: a-miracle\r\n"
    answer = await doors.raw(head.encode() + b"Connection: close\r\n\r\n" + RED)
    assert answer.startswith(b"HTTP/1.1 417 ")


async def test_a_body_that_turns_out_too_large_is_refused_while_it_is_sent(doors: Doors) -> None:
    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * 10_000

    try:
        answer = await doors.ask(FLOAT, endless())
    except aiohttp.ClientConnectionError:
        return  # closed while we were still sending, which is as good
    refused(answer, 413, "too_large")


async def test_a_body_that_does_not_come_is_not_waited_for(catalogue: Catalogue) -> None:
    async with open_doors(catalogue, body_timeout=0.1) as doors:
        head = f"POST {FLOAT} HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nx"
        assert (await doors.raw(head.encode())).startswith(b"HTTP/1.1 408 ")


async def test_a_worker_with_too_much_to_do_says_so_at_once() -> None:
    go_on = threading.Event()

    def slow(batch: Array) -> Array:
        assert go_on.wait(10)
        return np.zeros((len(batch), 1), np.float32)

    catalogue = Catalogue([image_servable("slow", slow)])
    async with open_doors(catalogue, queue=2, max_images=2) as doors:
        first = asyncio.create_task(doors.ask("/classify", RED))
        async with asyncio.timeout(10):
            while doors.inference.inside < 1:  # noqa: ASYNC110  # plain state, which sets no event
                await asyncio.sleep(0)
        answer = await doors.ask("/classify", form(("data", RED), ("data", BLUE)))
        refused(answer, 503, "overloaded")
        assert answer.json["queue"] == 1
        assert answer.headers["Retry-After"] == "1"
        go_on.set()
        assert (await first).status == 200


async def test_a_client_that_goes_while_its_image_waits_costs_no_call() -> None:
    go_on, calls = threading.Event(), []

    def slow(batch: Array) -> Array:
        calls.append(len(batch))
        assert go_on.wait(10)
        return np.zeros((len(batch), 1), np.float32)

    servable = image_servable("slow", slow, sizes=(1, 2, 4))
    async with open_doors(Catalogue([servable])) as doors, asyncio.timeout(10):
        stays = asyncio.create_task(doors.ask("/classify", RED))
        while not calls:  # noqa: ASYNC110  # plain state, which sets no event
            await asyncio.sleep(0)
        goes = asyncio.create_task(doors.ask("/classify", RED))
        while doors.inference.waiting(servable) < 1:  # noqa: ASYNC110
            await asyncio.sleep(0)
        goes.cancel()
        while doors.inference.inside > 1:  # noqa: ASYNC110
            await asyncio.sleep(0)
        go_on.set()
        assert (await stays).status == 200
        assert doors.inference.waiting(servable) == 0
        page = (await doors.ask("/metrics")).json
        labels = 'api="classify",code="CANCELLED",entrypoint="HTTP",model="slow",version="1"'
        assert f"muster_worker_requests_total{{{labels}}} 1.0" in page.splitlines()
    assert calls == [1]


async def test_a_model_that_breaks_is_our_fault_and_the_sentence_hides_why(caplog: pytest.LogCaptureFixture) -> None:
    def broken(batch: Array) -> Array:
        raise RuntimeError("secret")

    catalogue = Catalogue([image_servable("broken", broken)])
    async with open_doors(catalogue) as doors:
        answer = await doors.ask("/classify", RED)
        several = await doors.ask("/classify", form(("data", RED), ("data", b"nonsense")))
    refused(answer, 500, "internal", "^the model 'broken' failed$")
    assert [result["code"] for result in several.json["results"]] == ["internal", "not_an_image"]
    assert "secret" in caplog.text


async def test_nobodys_mistake_is_logged_as_ours(doors: Doors, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        await doors.ask(FLOAT, b"nonsense")
        await doors.raw(b"\x16\x03\x01 nonsense\r\n\r\n")
        await doors.raw(b"POST /classify HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n")
    assert caplog.records == []

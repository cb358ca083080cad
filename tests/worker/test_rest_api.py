"""TensorFlow Serving's REST API over a socket: its routes, its answers and its errors."""

from __future__ import annotations

import asyncio
import gzip
import json
import threading
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest

from tests.worker.doors import Answer, Doors, open_doors
from worker.inference import Inference
from worker.models.catalogue import Catalogue, Stage, VersionStatus
from worker.models.servable import Servable, Signature, Tensor
from worker.rest_api import LARGE, LONG
from worker.status import Code

HALF = "/v1/models/half_plus_two"
OFFICIAL = b'{"instances": [1.0, 2.0, 5.0]}'


@pytest.fixture
async def doors(serving_catalogue: Catalogue) -> AsyncIterator[Doors]:
    async with open_doors(serving_catalogue) as doors:
        yield doors


async def text(doors: Doors, path: str, body: bytes, **options: Any) -> str:
    async with doors.session.post(f"http://127.0.0.1:{doors.port}{path}", data=body, **options) as answer:
        assert (answer.status, answer.content_type) == (200, "application/json")
        return await answer.text()


def error(answer: Answer, status: int) -> str:
    assert (answer.status, set(answer.json)) == (status, {"error"})
    return str(answer.json["error"])


async def refused(doors: Doors, path: str, document: Any, status: int = 400) -> str:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return error(await doors.ask(path, body), status)


# Routes


async def test_the_documented_request_has_the_documented_answer(doors: Doors) -> None:
    assert await text(doors, f"{HALF}:predict", OFFICIAL) == '{\n    "predictions": [2.5, 3.0, 4.5\n    ]\n}'


async def test_answers_say_who_gave_them_and_where_the_time_went(doors: Doors) -> None:
    answer = await doors.ask(f"{HALF}:predict", OFFICIAL, headers={"X-Request-Id": "abc"})
    assert (answer.headers["X-Served-By"], answer.headers["X-Request-Id"]) == ("worker-1", "abc")
    assert all(f"{stage};dur=" in answer.headers["Server-Timing"] for stage in ("decode", "queue", "infer", "encode"))


async def test_a_version_or_a_label_is_part_of_the_path(doors: Doors) -> None:
    for where, value in (("", 2.5), ("/versions/123", 2.5), ("/versions/0007", 3.5), ("/labels/stable", 3.5)):
        answer = await doors.ask(f"{HALF}{where}:predict", b'{"inputs": 1}')
        assert answer.json == {"outputs": value}, where


async def test_every_name_is_reachable_percent_encoded(doors: Doors) -> None:
    answer = await doors.ask("/v1/models/a%20b%25%C3%A4:predict", b'{"inputs": 9007199254740993}')
    assert answer.json == {"outputs": 9007199254740993}


async def test_the_path_may_be_in_capitals_but_not_the_verb(doors: Doors) -> None:
    assert (await doors.ask("/V1/Models/half_plus_two:predict", OFFICIAL)).status == 200
    assert "Malformed request" in await refused(doors, f"{HALF}:PREDICT", OFFICIAL)
    assert "model_version_status" in (await doors.ask(f"{HALF}/METADATA")).json


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("PUT", f"{HALF}:predict"),
        ("DELETE", HALF),
        ("PATCH", HALF),
        ("GET", f"{HALF}:predict"),
        ("POST", HALF),
        ("POST", f"{HALF}:nonsense"),
        ("POST", f"{HALF}/version/1:predict"),
        ("POST", f"{HALF}/versions/x:predict"),
        ("POST", f"{HALF}/versions/-1:predict"),
        ("POST", f"{HALF}/versions/7/labels/stable:predict"),
        ("POST", f"{HALF}:predict/"),
        ("POST", f"{HALF}:predict?a=b"),
        ("GET", f"{HALF}/"),
        ("GET", f"{HALF}?a=b"),
        ("GET", f"{HALF}/metadata/"),
        ("GET", "/v1/"),
        ("GET", "/v1/nonsense"),
        ("POST", "/v1/models/:predict"),
    ],
)
async def test_what_is_no_route_is_malformed(doors: Doors, method: str, path: str) -> None:
    answer = await doors.ask(path, method=method, data=b"" if method == "POST" else None)
    assert error(answer, 400) == f"Malformed request: {method} {path}"


async def test_head_is_malformed_too_but_has_no_body(doors: Doors) -> None:
    answer = await doors.raw(f"HEAD {HALF} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    head, _, body = answer.partition(b"\r\n\r\n")
    assert (head.split(b"\r\n")[0], body) == (b"HTTP/1.1 400 Bad Request", b"")


async def test_a_path_without_a_model_or_with_a_huge_version_says_so(doors: Doors) -> None:
    assert error(await doors.ask("/v1/models"), 400) == "Missing model name in request."
    huge = 2**63
    told = f"Failed to convert version: {huge} to numeric."
    assert error(await doors.ask(f"{HALF}/versions/{huge}"), 400) == told
    assert await refused(doors, f"{HALF}/versions/{huge}:predict", OFFICIAL) == told
    assert "Servable not found" in await refused(doors, f"{HALF}/versions/{huge - 1}:predict", OFFICIAL, 404)


async def test_paths_elsewhere_are_not_of_this_api(doors: Doors) -> None:
    for path in ("/v1", "/v2/models/x", "/models/half_plus_two:predict"):
        assert (await doors.ask(path)).json["code"] == "not_found"


# Predict


async def test_rows_and_columns_of_several_inputs_and_outputs(doors: Doors) -> None:
    rows = b'{"instances": [{"a": 1, "b": 2}, {"b": 4, "a": 3}]}'
    assert (await doors.ask("/v1/models/add:predict", rows)).json == {
        "predictions": [{"sum": 3, "difference": -1}, {"sum": 7, "difference": -1}]
    }
    columns = b'{"inputs": {"a": 10, "b": [[1], [2]], "c": "ignored"}}'
    assert (await doors.ask("/v1/models/add:predict", columns)).json == {
        "outputs": {"sum": [[11], [12]], "difference": [[9], [8]]}
    }


async def test_texts_and_bytes_go_in_and_out(doors: Doors) -> None:
    body = b'{"signature_name": "bytes", "instances": ["a", {"b64": "AP8="}]}'
    assert (await doors.ask("/v1/models/strings:predict", body)).json == {
        "predictions": [{"b64": "YQ=="}, {"b64": "AP8="}]
    }
    body = b'{"signature_name": "length", "inputs": {"image_bytes": {"b64": "AAAA"}}}'
    assert (await doors.ask("/v1/models/strings:predict", body)).json == {"outputs": 3}
    raw = b'{"inputs": "\xff\\u00e9"}'
    url = f"http://127.0.0.1:{doors.port}/v1/models/strings:predict"
    async with doors.session.post(url, data=raw) as answer:
        assert await answer.read() == b'{\n    "outputs": "\xff\xc3\xa9"\n}'


async def test_an_error_is_utf_8_whatever_it_quotes(doors: Doors) -> None:
    assert '"a\ufffdé"' in await refused(doors, f"{HALF}:predict", b'{"instances": ["a\xff\xc3\xa9"]}')
    assert "Latest(\ufffd)" in await refused(doors, "/v1/models/%ff:predict", OFFICIAL, 404)


async def test_what_is_not_finite_goes_through(doors: Doors) -> None:
    answer = await text(doors, "/v1/models/doubles:predict", b'{"instances": [NaN, Infinity, -Inf, 0.1]}')
    assert "[NaN, Infinity, -Infinity, 0.1\n" in answer


async def test_the_order_of_the_checks_is_tensorflow_servings(doors: Doors) -> None:
    bad = "/v1/models/nope:predict"
    assert (await refused(doors, bad, b"")).startswith("JSON Parse error: The document is empty")
    assert (await refused(doors, bad, b"[1]")) == "JSON Value: [\n    1\n] Is not object"
    assert (await refused(doors, bad, {"signature_name": 1})).endswith("'signature_name' key must be a string value.")
    assert await refused(doors, bad, {"signature_name": "nope"}, 404) == "Servable not found for request: Latest(nope)"
    told = await refused(doors, f"{HALF}/versions/9:predict", {}, 404)
    assert told == "Servable not found for request: Specific(half_plus_two, 9)"
    for path in (f"{HALF}/labels/x:predict", "/v1/models/nope/labels/x:predict"):
        assert "Unrecognized servable version label: x" in await refused(doors, path, {})
    told = await refused(doors, f"{HALF}:predict", {"signature_name": "nope"})
    assert told == 'Serving signature name: "nope" not found in signature def'
    told = await refused(doors, "/v1/models/failing:predict", {"signature_name": "nothing"})
    assert told == "Failed to get input map for signature: nothing"
    assert await refused(doors, f"{HALF}:predict", {"x": 1}) == "Missing 'inputs' or 'instances' key"
    assert "Not formatted correctly" in await refused(doors, f"{HALF}:predict", {"inputs": 1, "instances": [1]})
    assert "Expecting 'instances' to be an list/array" in await refused(doors, f"{HALF}:predict", {"instances": {}})
    assert "No values in 'instances' array" in await refused(doors, f"{HALF}:predict", {"instances": []})


async def test_an_error_of_the_model_is_told_in_tensorflows_words(doors: Doors) -> None:
    told = await refused(doors, "/v1/models/failing:predict", {"instances": [-1.0]})
    assert "x is negative" in told
    assert "Incompatible shapes" in await refused(
        doors, "/v1/models/add:predict", {"inputs": {"a": [1, 2], "b": [1, 2, 3]}}
    )


async def test_outputs_that_do_not_share_a_batch_are_no_rows(doors: Doors) -> None:
    body = {"signature_name": "first", "instances": [{"a": 1, "b": 1}, {"a": 2, "b": 2}]}
    told = await refused(doors, "/v1/models/add:predict", body)
    assert "has inconsistent batch size" in told
    answer = await doors.ask("/v1/models/add:predict", b'{"signature_name": "first", "inputs": {"a": [1, 2], "b": 0}}')
    assert answer.json == {"outputs": {"first": [1], "all": [1, 2]}}


async def test_long_bodies_and_answers_are_as_good_as_short_ones(doors: Doors) -> None:
    values = np.arange(LARGE) / 7
    body = json.dumps({"inputs": values.tolist()}).encode()
    assert len(body) > LONG
    answer = await doors.ask("/v1/models/doubles:predict", body)
    assert answer.json["outputs"] == values.tolist()
    assert "at offset" in await refused(doors, f"{HALF}:predict", body[:-1])
    examples = {"signature_name": "regress_x_to_y", "examples": [{"x": value} for value in values.tolist()]}
    answer = await doors.ask(f"{HALF}:regress", json.dumps(examples).encode())
    assert answer.json["results"] == pytest.approx(values / 2 + 2)


async def test_long_bodies_are_read_and_long_texts_written_in_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    aside = []
    in_thread = Inference.in_thread

    async def listen(inference: Inference, work: Any, size: int = 0) -> Any:
        aside.append(work)
        return await in_thread(inference, work, size)

    monkeypatch.setattr(Inference, "in_thread", listen)
    text = Tensor("text:0", "string", (None,))
    signature = Signature({"times": Tensor("times:0", "int32", (None,))}, {"text": text})
    model = Servable(
        "repeat", 1, {"serving_default": signature}, lambda *_: lambda times: [np.array([b"x" * times[0]], object)],
        lambda: None,
    )  # fmt: skip
    async with open_doors(Catalogue([model])) as doors:
        for times, threads in ((10, 0), (LARGE, 1)):
            answer = await doors.ask("/v1/models/repeat:predict", b'{"instances": [%d]}' % times)
            assert answer.json == {"predictions": ["x" * times]}
            assert len(aside) == threads
        aside.clear()
        await doors.ask("/v1/models/repeat:predict", b'{"instances": [1]}' + b" " * LONG)
        assert len(aside) == 2  # the JSON, and then the tensors


async def test_a_document_of_very_many_levels_is_an_error_like_others(doors: Doors) -> None:
    deep = b'{"instances":' + b"[" * 20_000 + b"]" * 20_000 + b"}"
    assert await refused(doors, f"{HALF}:predict", deep) == "tensor parsing error: x"


# Classify and regress


async def test_examples_are_classified(doors: Doors) -> None:
    body = b'{"context": {"name": "ctx"}, "examples": [{"x": 1.0}, {"x": 0.25, "name": "own"}]}'
    assert await text(doors, "/v1/models/examples:classify", body) == (
        '{\n    "results": [[["ctx", 1.0], ["other", 0.0]], [["own", 0.25], ["other", 0.75]]\n    ]\n}'
    )
    body = b'{"signature_name": "classes_only", "examples": [{"x": 1.0}]}'
    assert (await doors.ask("/v1/models/examples:classify", body)).json == {
        "results": [[["nameless", 0], ["other", 0]]]
    }
    body = b'{"signature_name": "classify_x_to_y", "examples": [{"x": 1.0}]}'
    assert (await doors.ask(f"{HALF}:classify", body)).json == {"results": [[["", 2.5]]]}


async def test_examples_are_regressed(doors: Doors) -> None:
    body = b'{"signature_name": "regress_x_to_y", "examples": [{"x": 1.0}, {"x": 2.0}]}'
    assert await text(doors, f"{HALF}:regress", body) == '{\n    "results": [2.5, 3.0]\n}'
    body = b'{"signature_name": "regress_flat", "examples": [{"x": [1.5], "count": 2}]}'
    assert (await doors.ask("/v1/models/examples:regress", body)).json == {"results": [3.5]}


async def test_what_cannot_be_classified_or_regressed_is_told_in_order(doors: Doors) -> None:
    assert "'examples' is expected and was not found" in await refused(doors, "/v1/models/nope:classify", {})
    body: dict[str, Any] = {"signature_name": "nope", "examples": [{"x": 1.0}]}
    assert "Servable not found" in await refused(doors, "/v1/models/nope:regress", body, 404)
    assert await refused(doors, f"{HALF}:classify", body) == "No signature was found with the name: nope"
    body = {"examples": [{"x": 1.0}]}
    assert "No regression inputs found" in await refused(doors, f"{HALF}:regress", body)
    assert "Expected one output Tensor" in await refused(doors, "/v1/models/examples:regress", body)
    body = {"signature_name": "regress", "examples": [{"x": 1}]}
    assert "expected type: float" in await refused(doors, "/v1/models/examples:regress", body)


@pytest.mark.parametrize("verb", ["predict", "classify", "regress"])
async def test_a_signature_may_have_to_be_made_for_what_is_asked(serving_catalogue: Catalogue, verb: str) -> None:
    method = f"tensorflow/serving/{verb}"
    x, y = Tensor("x:0", "string", (None,)), Tensor("y:0", "float32", (None,))
    outputs = {"predict": "y", "classify": "scores", "regress": "outputs"}

    def model(name: str, method: str) -> Servable:
        signature = Signature({"inputs": x}, {outputs[verb]: y}, method)
        shape = (-1, 1) if verb == "classify" else (-1,)
        run = lambda *_: [np.ones(1, np.float32).reshape(shape)]  # noqa: E731  # it stands for a graph
        return Servable(name, 1, {"serving_default": signature}, lambda _inputs, _outputs: run, lambda: None)

    body = b'{"inputs": [""], "examples": [{}]}'
    catalogue = Catalogue([model("fit", method), model("unfit", "other")])
    async with open_doors(catalogue, enable_signature_method_name_check=True) as doors:
        assert (await doors.ask(f"/v1/models/fit:{verb}", body)).status == 200
        told = await refused(doors, f"/v1/models/unfit:{verb}", body, 500 if verb == "predict" else 400)
        assert "signature method_name to be" in told
        assert "Was: other" in told
    async with open_doors(catalogue) as doors:
        assert (await doors.ask(f"/v1/models/unfit:{verb}", body)).status == 200


# Status and metadata


async def test_the_status_lists_versions_the_newest_first(doors: Doors) -> None:
    fine = {"error_code": "OK", "error_message": ""}
    available = {"state": "AVAILABLE", "status": fine}
    both = {"model_version_status": [{"version": "123", **available}, {"version": "7", **available}]}
    assert (await doors.ask(HALF)).json == both
    assert (await doors.ask(f"{HALF}/labels/whatever")).json == both
    assert (await doors.ask(f"{HALF}/versions/7")).json == {"model_version_status": both["model_version_status"][1:]}
    told = error(await doors.ask("/v1/models/nope"), 404)
    assert told == "Could not find any versions of model nope"
    for model in ("half_plus_two", "nope"):
        told = error(await doors.ask(f"/v1/models/{model}/versions/8"), 404)
        assert told == f"Could not find version 8 of model {model}"


async def test_the_status_tells_why_a_version_failed() -> None:
    catalogue = Catalogue()
    catalogue.note("m", VersionStatus(3, Stage.END, Code.NOT_FOUND, 'no "file"'))
    async with open_doors(catalogue) as doors:
        (status,) = (await doors.ask("/v1/models/m")).json["model_version_status"]
        assert status["state"] == "END"
        assert status["status"] == {"error_code": "NOT_FOUND", "error_message": 'no "file"'}


async def test_metadata_shows_the_signatures(doors: Doors) -> None:
    page = (await doors.ask(f"{HALF}/metadata")).json
    assert page["model_spec"] == {"name": "half_plus_two", "signature_name": "", "version": "123"}
    signatures = page["metadata"]["signature_def"]["signature_def"]
    assert set(signatures) >= {"serving_default", "classify_x_to_y", "regress_x_to_y"}
    shape = {"dim": [{"size": "-1", "name": ""}, {"size": "1", "name": ""}], "unknown_rank": False}
    assert signatures["serving_default"] == {
        "inputs": {"x": {"name": "x:0", "dtype": "DT_FLOAT", "tensor_shape": shape}},
        "outputs": {"y": {"name": "y:0", "dtype": "DT_FLOAT", "tensor_shape": shape}},
        "method_name": "tensorflow/serving/predict",
        "defaults": {},
    }
    assert (await doors.ask(f"{HALF}/labels/stable/metadata")).json["model_spec"]["version"] == "7"
    assert "Unrecognized" in error(await doors.ask(f"{HALF}/labels/x/metadata"), 400)
    assert "Servable not found" in error(await doors.ask(f"{HALF}/labels/gone/metadata"), 404)
    assert "Servable not found" in error(await doors.ask("/v1/models/nope/metadata"), 404)


# HTTP


@pytest.mark.parametrize("coding", ["gzip", "x-GZIP"])
async def test_a_body_may_be_packed(doors: Doors, coding: str) -> None:
    packed = {"Content-Encoding": coding}
    assert (await doors.ask(f"{HALF}:predict", gzip.compress(OFFICIAL), headers=packed)).status == 200
    for broken in (b"", OFFICIAL, gzip.compress(OFFICIAL)[:-1]):
        told = error(await doors.ask(f"{HALF}:predict", broken, headers=packed), 400)
        assert told == "JSON Parse error: The document is empty"


async def test_a_body_that_unpacks_to_too_much_is_none(serving_catalogue: Catalogue) -> None:
    async with open_doors(serving_catalogue, max_inflated=1000, max_body=100) as doors:
        for size, status in ((1000, 200), (1001, 400)):
            body = gzip.compress(OFFICIAL.ljust(size))
            answer = await doors.ask(f"{HALF}:predict", body, headers={"Content-Encoding": "gzip"})
            assert answer.status == status


async def test_other_codings_and_types_are_not_looked_at(doors: Doors) -> None:
    for headers in ({"Content-Encoding": "br"}, {"Content-Type": "image/png"}):
        assert (await doors.ask(f"{HALF}:predict", OFFICIAL, headers=headers)).status == 200


async def test_bodies_and_their_json_have_limits(serving_catalogue: Catalogue) -> None:
    async with open_doors(serving_catalogue, max_body=100, max_json_depth=3, max_json_values=9) as doors:
        assert "larger than 100 bytes" in await refused(doors, f"{HALF}:predict", b"[" * 101, 413)
        assert "--max-json-values" in await refused(doors, f"{HALF}:predict", b"[" * 10)
        assert "--max-json-depth" in await refused(doors, f"{HALF}:predict", b"[" * 9)


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def test_a_body_may_come_in_chunks(doors: Doors) -> None:
    answer = await doors.ask(f"{HALF}:predict", chunks(OFFICIAL[:5], OFFICIAL[5:]), method="POST")
    assert answer.json == {"predictions": [2.5, 3.0, 4.5]}


async def test_other_origins_are_let_in_where_the_flag_says_so(doors: Doors, serving_catalogue: Catalogue) -> None:
    origin = {"Origin": "https://example.org"}
    assert "Access-Control-Allow-Origin" not in (await doors.ask(HALF, headers=origin)).headers
    async with open_doors(serving_catalogue, rest_api_enable_cors_support=True) as open_to_all:
        for path in (HALF, "/v1/models/nope", "/v1/nonsense"):
            headers = (await open_to_all.ask(path)).headers
            assert headers["Access-Control-Allow-Origin"] == "*"
            assert headers["Access-Control-Allow-Methods"] == "POST, GET"
            assert headers["Access-Control-Allow-Headers"] == "Content-Type"
        for some in (doors, open_to_all):
            for headers, status in ((origin, 200), ({"Origin": "file://"}, 400), ({}, 400)):
                url = f"http://127.0.0.1:{some.port}{HALF}:predict"
                async with some.session.options(url, headers=headers) as answer:
                    assert (answer.status, await answer.read()) == (status, b"")


async def test_a_worker_that_still_loads_says_so() -> None:
    async with open_doors(None) as doors:
        answer = await doors.ask(f"{HALF}:predict", OFFICIAL)
        assert "loading" in error(answer, 503)
        assert answer.headers["Retry-After"] == "1"
        assert error(await doors.ask(HALF), 404) == "Could not find any versions of model half_plus_two"


class Stuck:
    """A model that is stuck until it is released."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.released = threading.Event()
        self.calls = 0

    def servable(self) -> Servable:
        tensor = Tensor("x:0", "float32", None)
        return Servable(
            "stuck", 1, {"serving_default": Signature({"x": tensor}, {"y": tensor})}, lambda *_: self._run, lambda: None
        )

    def _run(self, array: Any) -> list[Any]:
        self.calls += 1
        self.begun.set()
        assert self.released.wait(30)
        return [array]


async def test_a_draining_worker_waits_for_runs_and_sends_their_clients_away() -> None:
    model = Stuck()
    async with open_doors(Catalogue([model.servable()])) as doors:
        request = asyncio.create_task(doors.ask("/v1/models/stuck:predict", b'{"inputs": 1}'))
        assert await asyncio.to_thread(model.begun.wait, 10)
        doors.state.drain()
        idle = asyncio.create_task(doors.state.idle())
        assert (await doors.ask("/v1/models/stuck")).headers["Connection"] == "close"
        assert not idle.done()
        model.released.set()
        assert (await request).headers["Connection"] == "close"
        async with asyncio.timeout(10):
            await idle


async def test_a_client_that_leaves_is_counted_as_one() -> None:
    model = Stuck()
    async with open_doors(Catalogue([model.servable()])) as doors:
        _, writer = await asyncio.open_connection("127.0.0.1", doors.port)
        writer.write(b'POST /v1/models/stuck:predict HTTP/1.1\r\nHost: x\r\nContent-Length: 13\r\n\r\n{"inputs": 1}')
        assert await asyncio.to_thread(model.begun.wait, 10)
        writer.close()
        async with asyncio.timeout(10):
            while 'code="CANCELLED",entrypoint="REST",model="stuck"' not in (await doors.ask("/metrics")).json:
                pass
        model.released.set()


async def test_a_run_has_a_limit_of_time() -> None:
    model = Stuck()
    async with open_doors(Catalogue([model.servable()]), rest_api_timeout_in_ms=1) as doors:
        told = await refused(doors, "/v1/models/stuck:predict", {"inputs": 1}, 504)
        assert told == "Timed out waiting for notification"
        model.released.set()


async def test_a_full_worker_refuses_before_it_reads_a_body() -> None:
    model = Stuck()
    async with open_doors(Catalogue([model.servable()]), queue=1, max_images=1) as doors:
        first = asyncio.create_task(doors.ask("/v1/models/stuck:predict", b'{"inputs": 1}'))
        assert await asyncio.to_thread(model.begun.wait, 10)
        answer = await doors.ask("/v1/models/stuck:predict", b"this is not JSON")
        assert error(answer, 503)
        assert answer.headers["Retry-After"] == "1"
        model.released.set()
        assert (await first).json == {"outputs": 1.0}


async def test_a_mistake_of_ours_is_an_error_of_the_apis_form() -> None:
    broken = Stuck().servable()
    catalogue = Catalogue([broken])
    async with open_doors(catalogue) as doors:
        doors.inference.run = None  # type: ignore[method-assign,assignment]
        assert await refused(doors, "/v1/models/stuck:predict", {"inputs": 1}, 500) == "the worker made a mistake"


async def test_every_request_is_counted(serving_catalogue: Catalogue) -> None:
    async with open_doors(serving_catalogue) as doors:
        await doors.ask(f"{HALF}:predict", OFFICIAL)
        await doors.ask(f"{HALF}:regress", OFFICIAL)
        await doors.ask(f"{HALF}/metadata")
        await doors.ask(HALF, method="OPTIONS")
        page = (await doors.ask("/metrics")).json
    counted = (
        'muster_worker_requests_total{api="%s",code="%s",entrypoint="REST",model="half_plus_two",version="%s"} 1.0'
    )
    assert counted % ("predict", "OK", "123") in page
    assert counted % ("regress", "INVALID_ARGUMENT", "") in page
    assert counted % ("", "OK", "123") in page
    assert 'api="",code="FAILED_PRECONDITION",entrypoint="REST",model="",version=""} 1.0' in page
    assert 'muster_worker_stage_seconds_count{model="half_plus_two",stage="encode",version="123"} 1.0' in page

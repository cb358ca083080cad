"""The client sends tensors as TensorFlow Serving's REST API takes them, through the proxy or to a worker."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from aiohttp import web

from muster.client import AsyncClient, Client
from muster.errors import BadRequest, Overloaded, UnknownModel
from tests.muster.cluster import answering, serving

THREE = {"predictions": [3.0]}


async def sent(**asked: Any) -> tuple[str, dict[str, Any]]:
    """The path and the JSON that arrive."""
    seen: list[Any] = []

    async def v1(request: web.Request) -> web.Response:
        seen.append((request.raw_path, await request.json()))
        return web.json_response(THREE)

    async with serving(v1=v1) as url, AsyncClient(url) as client:
        await client.predict(**asked)
    return seen[0]


async def test_arrays_bytes_and_names_arrive_as_the_rest_api_takes_them() -> None:
    path, body = await sent(model="half plus/two", instances=[{"x": np.float32([1, 2]), "name": b"\xff\x00"}])
    assert path == "/v1/models/half%20plus%2Ftwo:predict"
    assert body == {"instances": [{"x": [1.0, 2.0], "name": {"b64": "/wA="}}]}
    path, body = await sent(model="m", inputs={"a": np.arange(2)}, version=3, signature="other")
    assert path == "/v1/models/m/versions/3:predict"
    assert body == {"inputs": {"a": [0, 1]}, "signature_name": "other"}


async def test_numbers_that_are_none_are_sent_as_tensorflow_serving_reads_them() -> None:
    async def v1(request: web.Request) -> web.Response:
        assert await request.text() == '{"instances": [NaN, Infinity]}'
        return web.json_response(THREE)

    async with serving(v1=v1) as url, AsyncClient(url) as client:
        assert (await client.predict("m", np.array([np.nan, np.inf]))).values == [3.0]


def test_what_cannot_be_a_tensor_is_refused_before_it_is_sent() -> None:
    with Client("http://127.0.0.1:9") as client:
        with pytest.raises(BadRequest, match="object is neither a number"):
            client.predict("m", [object()])
        with pytest.raises(BadRequest, match="either instances"):
            client.predict("m")
        with pytest.raises(BadRequest, match="either instances"):
            client.predict("m", [1], inputs=[1])


@pytest.mark.parametrize("key", ["predictions", "outputs"])
async def test_the_answer_says_who_gave_it_and_how_long_it_took(key: str) -> None:
    answer = answering({key: [1, 2]}, X_Served_By="ann", Server_Timing="infer;dur=2.5")
    async with serving(v1=answer) as url, AsyncClient(url) as client:
        given = await client.predict("m", [0])
    assert (given.values, given.served_by, given.timings) == ([1, 2], "ann", {"infer": 2.5})


@pytest.mark.parametrize(("status", "kind"), [(400, BadRequest), (404, UnknownModel), (503, Overloaded)])
async def test_an_error_that_is_only_a_sentence_is_known_by_its_status(status: int, kind: type[Exception]) -> None:
    async with serving(v1=answering({"error": "so it is"}, status)) as url, AsyncClient(url, attempts=1) as client:
        with pytest.raises(kind, match="so it is"):
            await client.predict("m", [0])


async def test_p2p_asks_for_a_worker_that_has_the_model_and_version() -> None:
    async def root(request: web.Request) -> web.Response:
        assert dict(request.query) == {"model": "m", "version": "2"}
        return web.json_response({"address": worker.removeprefix("http://"), "alternates": [], "ttl": 5})

    async with serving(v1=answering(THREE)) as worker, serving(root=root) as proxy, AsyncClient(proxy) as client:
        assert (await client.predict("m", [2.0], version=2, p2p=True)).values == [3.0]


async def test_a_worker_that_lacks_the_model_by_now_makes_the_client_ask_once_more() -> None:
    workers: list[str] = []

    async def root(_: web.Request) -> web.Response:
        address = workers.pop(0).removeprefix("http://")
        return web.json_response({"address": address, "alternates": [], "ttl": 5})

    without = answering(json.loads('{"error": "Servable not found for request: Latest(m)"}'), 404)
    async with serving(v1=without) as old, serving(v1=answering(THREE)) as new, serving(root=root) as proxy:
        workers += [old, new]
        async with AsyncClient(proxy) as client:
            assert (await client.predict("m", [2.0], p2p=True)).values == [3.0]
    assert workers == []

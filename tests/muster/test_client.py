"""Both clients against a real server; what they decide is tested with the plans."""

from __future__ import annotations

import asyncio
import inspect
import io
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from muster.client import AsyncClient, Client
from muster.errors import (
    BadImage,
    BadRequest,
    ConnectionFailed,
    NoWorkers,
    UnexpectedAnswer,
    WorkerBroke,
    WorkerTimeout,
)
from tests.muster.cluster import SEVEN, answering, nobody_there, serving


class Awaited:
    """The blocking client behind the face of the other, so that every test runs against both."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._client = Client(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)
        return lambda *args, **kwargs: asyncio.to_thread(method, *args, **kwargs)

    async def __aenter__(self) -> Awaited:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._client.close()


@pytest.fixture(params=[Awaited, AsyncClient], ids=["blocking", "awaiting"])
def client_of(request: pytest.FixtureRequest) -> Any:
    return request.param


async def test_bytes_a_path_and_an_open_file_arrive_as_they_are(client_of: Any, tmp_path: Path) -> None:
    bodies = []

    async def classify(request: web.Request) -> web.Response:
        bodies.append(await request.read())
        return web.json_response(SEVEN)

    content = bytes(range(256)) * 8000
    path = tmp_path / "7.png"
    path.write_bytes(content)
    async with serving(classify=classify) as url, client_of(url) as client:
        for image in (content, bytearray(content), memoryview(content), path, str(path), io.BytesIO(content)):
            answer = await client.classify(image)
            assert answer.best.label == "7"
    assert bodies == [content] * 6


async def test_what_is_asked_for_stands_in_the_query_and_nothing_else_does(client_of: Any) -> None:
    queries = []

    async def classify(request: web.Request) -> web.Response:
        queries.append(dict(request.query))
        return web.json_response(SEVEN)

    async with serving(classify=classify) as url, client_of(url) as client:
        await client.classify(b"x", model="digits & more", version=3, top=2)
        await client.classify(b"x")
    assert queries == [{"model": "digits & more", "version": "3", "top": "2"}, {}]


async def test_several_images_go_in_one_form_with_their_names(client_of: Any, tmp_path: Path) -> None:
    (tmp_path / "ä 7.png").write_bytes(b"seven")
    received = []

    async def classify(request: web.Request) -> web.Response:
        async for part in await request.multipart():
            assert part.name == "data"
            received.append((part.filename, await part.read()))
        results = [
            {"filename": "a", "predictions": SEVEN["predictions"]},
            {"filename": "b", **BadImage("torn").to_json()},
        ]
        return web.json_response({"model": SEVEN["model"], "results": results})

    async with serving(classify=classify) as url, client_of(url) as client:
        good, bad = await client.classify_many([tmp_path / "ä 7.png", b"torn"])
    assert received == [("ä 7.png", b"seven"), ("image", b"torn")]
    assert good.best.label == "7"
    assert isinstance(bad, BadImage)


async def test_an_empty_image_is_refused_by_itself_and_does_not_keep_the_others_from_being_answered(
    client_of: Any,
) -> None:
    async with serving(classify=answering(SEVEN)) as url, client_of(url) as client:
        with pytest.raises(BadImage, match="the image is empty"):
            await client.classify(b"")
        first, second, third = await client.classify_many([b"", b"x", b""])
    assert second.best.label == "7"
    assert [str(first), str(third)] == ["the image is empty"] * 2


async def test_a_server_that_speaks_no_tls_is_told_from_one_that_is_not_there(client_of: Any) -> None:
    async with serving(classify=answering(SEVEN)) as url, client_of(url.replace("http:", "https:")) as client:
        with pytest.raises(UnexpectedAnswer, match=r"no TLS with https://.*http://"):
            await client.classify(b"x")


async def test_p2p_sends_the_image_to_the_worker_that_the_proxy_named(client_of: Any) -> None:
    accepted = []

    async def root(request: web.Request) -> web.Response:
        accepted.append(request.headers["Accept"])
        return web.json_response({"address": worker.removeprefix("http://"), "alternates": [], "ttl": 5})

    served = answering(SEVEN, X_Served_By="ann")
    async with serving(classify=served) as worker, serving(root=root) as proxy, client_of(proxy) as client:
        answer = await client.classify(b"x", p2p=True)
        await client.classify(b"x", p2p=True)
    assert answer.served_by == "ann"
    assert accepted == ["application/json"]


async def test_p2p_goes_on_to_the_alternate_when_the_worker_is_gone(client_of: Any) -> None:
    async with serving(classify=answering(SEVEN)) as worker:
        with nobody_there() as gone:
            named = {"address": gone, "alternates": [worker.removeprefix("http://")], "ttl": 5}
            async with serving(root=answering(named)) as proxy, client_of(proxy) as client:
                assert (await client.classify(b"x", p2p=True)).best.label == "7"


async def test_a_busy_answer_is_followed_by_another_try(client_of: Any) -> None:
    asked = []

    async def classify(request: web.Request) -> web.Response:
        asked.append(request)
        if len(asked) == 1:
            return web.json_response({"error": "full", "code": "overloaded"}, status=503, headers={"Retry-After": "0"})
        return web.json_response(SEVEN)

    async with serving(classify=classify) as url, client_of(url) as client:
        await client.classify(b"x")
    assert len(asked) == 2


async def test_nobody_at_the_address_is_an_error_of_ours(client_of: Any) -> None:
    with nobody_there() as address:
        async with client_of(address, attempts=2) as client:
            with pytest.raises(ConnectionFailed, match=f"nothing answers at http://{address}"):
                await client.classify(b"x")


async def test_a_host_that_does_not_exist_is_an_error_of_ours(client_of: Any) -> None:
    async with client_of("no-such-host.invalid", attempts=1) as client:
        with pytest.raises(ConnectionFailed):
            await client.workers()


async def test_an_error_comes_back_as_the_class_that_it_was(client_of: Any) -> None:
    error = NoWorkers("no worker is available")
    async with serving(workers=answering(error.to_json(), 503)) as url, client_of(url, attempts=1) as client:
        with pytest.raises(NoWorkers, match="no worker is available"):
            await client.workers()


@pytest.mark.parametrize(("status", "body"), [(200, "<html>"), (200, '{"a":'), (404, "<html>"), (302, ""), (500, "")])
async def test_the_answer_of_some_other_server_is_one_clear_sentence(client_of: Any, status: int, body: str) -> None:
    async def classify(_: web.Request) -> web.Response:
        return web.Response(status=status, text=body, content_type="text/html")

    async with serving(classify=classify) as url, client_of(url) as client:
        with pytest.raises(UnexpectedAnswer):
            await client.classify(b"x")


async def test_a_server_that_never_answers_costs_no_more_than_the_timeout(client_of: Any) -> None:
    answered = asyncio.Event()

    async def classify(_: web.Request) -> web.Response:
        await answered.wait()
        return web.Response()

    async with serving(classify=classify) as url, client_of(url, timeout=0.2) as client:
        with pytest.raises(WorkerTimeout, match=r"did not answer within 0\.2 seconds"):
            await client.classify(b"x")
        answered.set()


async def test_an_answer_in_crumbs_costs_no_more_than_the_timeout_either(client_of: Any) -> None:
    async def classify(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while request.transport is not None:
            await response.write(b" ")
            await asyncio.sleep(0.02)
        return response

    async with serving(classify=classify) as url, client_of(url, timeout=0.2) as client:
        with pytest.raises(WorkerTimeout):
            await asyncio.wait_for(client.classify(b"x"), 10)


async def test_a_server_that_hangs_up_is_tried_twice(client_of: Any) -> None:
    connections = []

    def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(reader)
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    async with server, client_of(f"127.0.0.1:{server.sockets[0].getsockname()[1]}") as client:
        with pytest.raises(WorkerBroke, match="closed the connection"):
            await client.classify(b"x")
    assert len(connections) == 2


async def test_the_workers_are_listed_with_their_models(client_of: Any) -> None:
    worker = {"id": "ann", "address": "127.0.0.1:1", "models": ["digits"], "state": "ready", "in_flight": 0}
    async with serving(workers=answering({"workers": [worker]})) as url, client_of(url) as client:
        (listed,) = await client.workers()
    assert (listed.id, listed.address, listed.models, listed.state) == ("ann", "127.0.0.1:1", ("digits",), "ready")


@pytest.mark.parametrize("address", ["", "http://", "ftp://host", "host:port", "host:99999", "http://host/path", "a b"])
def test_what_is_no_address_of_a_proxy_is_refused_at_once(address: str) -> None:
    with pytest.raises(BadRequest, match="is not the address of a proxy"):
        Client(address)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with Client() as client, pytest.raises(FileNotFoundError, match=r"missing\.png"):
        client.classify(tmp_path / "missing.png")


def test_both_clients_offer_the_same_methods() -> None:
    def offered(kind: type) -> dict[str, list[str]]:
        methods = {name: member for name, member in vars(kind).items() if not name.startswith("_")}
        return {name.removeprefix("a"): list(inspect.signature(member).parameters) for name, member in methods.items()}

    assert offered(Client) == offered(AsyncClient)

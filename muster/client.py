"""The cluster from Python: `Client` blocks, `AsyncClient` awaits; otherwise they are the same.

    with Client("http://localhost:12480") as cluster:
        answer = cluster.classify("digit.png")
        print(answer.best.label, answer.best.score)

An image is its encoded bytes, a path, or a file opened for reading bytes. With `p2p=True` the client asks the proxy for
a worker and sends the image there, which spares the proxy the pixels. What is tried again, and when: `muster.plans`.

Raised: the classes of `muster.errors`, such as ConnectionFailed (nobody answers), NoWorkers, BadImage, UnknownModel;
and OSError for a file that cannot be read.
"""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import time
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path
from random import SystemRandom
from typing import Any, BinaryIO, Final, Self, TypedDict, TypeVar, Unpack, cast
from urllib.parse import urlsplit

import httpx

from muster.answers import Classification, Listed, Prediction, Values
from muster.errors import BadRequest, ClusterError
from muster.plans import Lost, Outcome, Pause, Plan, Planner, Reply, Send, Step, Upload
from muster.tensors import request_body
from muster.wire import FILE_FIELD, PROXY_PORT

__all__ = [
    "DEFAULT_PROXY", "AsyncClient", "Classification", "Client", "Image", "Listed", "Options", "Prediction", "Tensors",
    "Values",
]  # fmt: skip

T = TypeVar("T")
Image = bytes | bytearray | memoryview | str | os.PathLike[str] | BinaryIO
"""Encoded bytes, a path, or an open file."""

DEFAULT_PROXY: Final = f"http://localhost:{PROXY_PORT}"
CONNECT_TIMEOUT: Final = 3.0
"""Seconds; a worker's address that cannot be routed to from here shall not eat the whole deadline."""


class Options(TypedDict, total=False):
    """What may be said besides the image. The cluster has a default for each but `p2p`, which is off."""

    model: str | None
    version: int | None
    top: int | None
    """How many labels to return."""
    p2p: bool
    """Send the image to a worker directly."""


class Tensors(TypedDict, total=False):
    """What `predict` takes besides the model and its instances."""

    inputs: Any
    """Whole tensors instead of instances: one, or one for each of the model's inputs by its name."""
    version: int | None
    signature: str | None
    p2p: bool
    """Send the tensors to a worker directly."""


class Client:
    """A client that blocks. Threads may share one.

    `timeout` is how long one call may take, retries and pauses included, in seconds; `attempts` is how often it tries.
    BadRequest if `proxy` is not an address.
    """

    def __init__(self, proxy: str = DEFAULT_PROXY, *, timeout: float = 30.0, attempts: int = 4) -> None:
        self._planner = _planner(proxy, timeout, attempts)
        # A transport of its own ignores HTTP_PROXY: that is about the world outside, and P2P through it would be none.
        self._http = httpx.Client(transport=httpx.HTTPTransport())

    def classify(self, image: Image, **options: Unpack[Options]) -> Classification:
        """What is in the image, the likeliest first."""
        return _only(self._run(_plan(self._planner, [_upload(image)], options)))

    def classify_many(self, images: Iterable[Image], **options: Unpack[Options]) -> list[Classification | ClusterError]:
        """Several images in one request. Each has its own outcome, in order: its labels or its own error."""
        return self._run(_plan(self._planner, [_upload(image) for image in images], options))

    def predict(self, model: str, instances: Any = None, **tensors: Unpack[Tensors]) -> Values:
        """What a model makes of tensors: one item for each of the `instances`, or the outputs for the `inputs`.

        Arrays, lists, numbers, texts and bytes are sent as TensorFlow Serving's REST API takes them.
        """
        return self._run(_predict(self._planner, model, instances, tensors))

    def workers(self) -> list[Listed]:
        """The workers as the proxy sees them."""
        return self._run(self._planner.workers())

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self, plan: Plan[T]) -> T:
        outcome: Outcome = None
        while True:
            try:
                step = plan.send(outcome)
            except StopIteration as end:
                return cast("T", end.value)
            outcome = self._do(step)

    def _do(self, step: Step) -> Outcome:
        if isinstance(step, Pause):
            time.sleep(step.seconds)
            return None
        ends = time.monotonic() + step.patience
        content = bytearray()
        try:
            with closing(self._http.send(_request(step), stream=True)) as response:
                for piece in response.iter_bytes():
                    content += piece
                    if time.monotonic() > ends:  # httpx limits the wait for each piece, not for all
                        return Lost.LATE
        except httpx.RequestError as error:
            return _lost(error)
        return _reply(response, bytes(content))


class AsyncClient:
    """`Client` for asyncio: the same methods, awaited. Tasks may share one."""

    def __init__(self, proxy: str = DEFAULT_PROXY, *, timeout: float = 30.0, attempts: int = 4) -> None:
        self._planner = _planner(proxy, timeout, attempts)
        self._http = httpx.AsyncClient(transport=httpx.AsyncHTTPTransport())

    async def classify(self, image: Image, **options: Unpack[Options]) -> Classification:
        """As `Client.classify`."""
        upload = await asyncio.to_thread(_upload, image)
        return _only(await self._run(_plan(self._planner, [upload], options)))

    async def classify_many(
        self, images: Iterable[Image], **options: Unpack[Options]
    ) -> list[Classification | ClusterError]:
        """As `Client.classify_many`."""
        uploads = [await asyncio.to_thread(_upload, image) for image in images]
        return await self._run(_plan(self._planner, uploads, options))

    async def predict(self, model: str, instances: Any = None, **tensors: Unpack[Tensors]) -> Values:
        """As `Client.predict`."""
        return await self._run(await asyncio.to_thread(_predict, self._planner, model, instances, tensors))

    async def workers(self) -> list[Listed]:
        """As `Client.workers`."""
        return await self._run(self._planner.workers())

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def _run(self, plan: Plan[T]) -> T:
        outcome: Outcome = None
        while True:
            try:
                step = plan.send(outcome)
            except StopIteration as end:
                return cast("T", end.value)
            outcome = await self._do(step)

    async def _do(self, step: Step) -> Outcome:
        if isinstance(step, Pause):
            await asyncio.sleep(step.seconds)
            return None
        try:
            async with asyncio.timeout(step.patience):
                response = await self._http.send(_request(step))
        except TimeoutError:
            return Lost.LATE
        except httpx.RequestError as error:
            return _lost(error)
        return _reply(response, response.content)


def _planner(proxy: str, timeout: float, attempts: int) -> Planner:
    return Planner(_url(proxy), timeout, attempts, time.monotonic, SystemRandom())


def _plan(planner: Planner, uploads: Sequence[Upload], options: Options) -> Plan[list[Classification | ClusterError]]:
    query = {name: str(options[name]) for name in ("model", "version", "top") if options.get(name) is not None}
    return planner.classify(uploads, query, p2p=options.get("p2p", False))


def _predict(planner: Planner, model: str, instances: Any, tensors: Tensors) -> Plan[Values]:
    body = request_body(instances, tensors.get("inputs"), tensors.get("signature"))
    return planner.predict(model, tensors.get("version"), body, p2p=tensors.get("p2p", False))


def _only(outcomes: Sequence[Classification | ClusterError]) -> Classification:
    (outcome,) = outcomes
    if isinstance(outcome, ClusterError):
        raise outcome
    return outcome


def _upload(image: Image) -> Upload:
    if isinstance(image, bytes | bytearray | memoryview):
        return Upload("image", bytes(image))
    if isinstance(image, str | os.PathLike):
        return Upload(Path(image).name, Path(image).read_bytes())
    return Upload(Path(str(getattr(image, "name", "image"))).name, image.read())


def _url(proxy: str) -> str:
    """`http://host:port` of what may be written without its scheme."""
    try:
        parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
        host = parts.hostname and " " not in parts.hostname
        fine = host and parts.scheme in ("http", "https") and parts.port != 0 and parts.path in ("", "/")
        url = httpx.URL(f"{parts.scheme}://{parts.netloc}")
    except (ValueError, httpx.InvalidURL):
        fine = False
    if not fine:
        raise BadRequest(f"{proxy!r} is not the address of a proxy, such as {DEFAULT_PROXY}")
    return str(url)


def _request(step: Send) -> httpx.Request:
    ask = step.ask
    timeout = httpx.Timeout(step.patience, connect=min(CONNECT_TIMEOUT, step.patience))
    method = "POST" if ask.uploads or ask.json else "GET"
    request: dict[str, Any] = {"method": method, "headers": {"Accept": "application/json"}}
    if ask.json:
        request["content"] = ask.json
        request["headers"]["Content-Type"] = "application/json"
    elif len(ask.uploads) == 1:
        request["content"] = ask.uploads[0].content
        request["headers"]["Content-Type"] = "application/octet-stream"
    elif ask.uploads:
        request["files"] = [(FILE_FIELD, (upload.filename, upload.content)) for upload in ask.uploads]
    return httpx.Request(
        url=step.server + ask.path, params=ask.query or None, extensions={"timeout": timeout.as_dict()}, **request
    )


def _reply(response: httpx.Response, content: bytes) -> Reply:
    try:
        body = json.loads(content)
    except ValueError:
        body = None
    return Reply(response.status_code, response.headers, body)


def _lost(error: httpx.RequestError) -> Lost:
    met = getattr(error.__cause__, "args", ())  # httpx wraps an error of httpcore, which wraps what it met itself
    if any(isinstance(each, ssl.SSLError) for each in met):
        return Lost.NO_TLS
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout | httpx.ProxyError):
        return Lost.UNREACHABLE
    return Lost.LATE if isinstance(error, httpx.TimeoutException) else Lost.BROKEN

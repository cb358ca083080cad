"""Small gRPC workers, whose every answer is up to the test, and a proxy in front of them. Messages are bytes."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio

from tests.consul_agent import free_ports
from tests.proxy.harness import ScriptedWorker, cluster, get
from worker.messages.serving import GetModelStatusRequest, MultiInferenceRequest, PredictRequest

PREDICT = "/tensorflow.serving.PredictionService/Predict"
STATUS = "/tensorflow.serving.ModelService/GetModelStatus"
HEALTH = "/grpc.health.v1.Health/"
Code = grpc.StatusCode


@dataclass
class Heard:
    """One call as a worker saw it."""

    method: str
    request: bytes
    metadata: dict[str, Any]
    context: Any


Answer = Callable[[Heard], Awaitable[bytes]]


class GrpcWorker(ScriptedWorker):
    """A worker that has a gRPC port beside its HTTP port. `answer` gives a call's answer; it may abort it."""

    def __init__(
        self,
        answer: Answer | None = None,
        *,
        models: Sequence[str] | None = ("digits",),
        versions: Sequence[tuple[str, int]] = (),
        replay_safe: bool = True,
        grpc: bool = True,
    ) -> None:
        super().__init__(replay_safe=replay_safe)
        (self.grpc_port,) = free_ports(1)
        self.answer_call = answer
        self.calls: list[Heard] = []
        self.worker = dataclasses.replace(
            self.worker, models=None if models is None else tuple(models), versions=tuple(versions),
            grpc_port=self.grpc_port if grpc else None,
        )  # fmt: skip
        self._grpc: Any = None

    async def start(self) -> None:
        await super().start()
        await self.start_grpc()

    async def start_grpc(self) -> None:
        self._grpc = grpc.aio.server(options=(("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", -1)))
        self._grpc.add_generic_rpc_handlers((_Handler(self),))
        assert self._grpc.add_insecure_port(f"127.0.0.1:{self.grpc_port}") == self.grpc_port
        await self._grpc.start()

    async def stop_grpc(self) -> None:
        """At once: the port refuses, connections are closed."""
        if self._grpc is not None:
            await self._grpc.stop(0)
            self._grpc = None

    async def stop(self) -> None:
        await self.stop_grpc()
        await super().stop()


class _Handler(grpc.GenericRpcHandler):  # type: ignore[misc]
    def __init__(self, worker: GrpcWorker) -> None:
        self._worker = worker

    def service(self, details: Any) -> Any:
        method = details.method

        async def unary(request: bytes, context: Any) -> bytes:
            heard = Heard(method, request, dict(context.invocation_metadata()), context)
            self._worker.calls.append(heard)
            if self._worker.answer_call is None:
                return self._worker.id.encode()
            return await self._worker.answer_call(heard)

        async def stream(messages: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
            self._worker.calls.append(Heard(method, b"", dict(context.invocation_metadata()), context))
            async for message in messages:
                if message == b"fail":
                    await context.abort(Code.DATA_LOSS, "half of it is lost")
                if message == b"tick":
                    while True:
                        await asyncio.sleep(0.1)
                        yield message
                yield bytes(300_000) if message == b"large" else b"<" + message + b">"

        if "Stream" in method:
            return grpc.stream_stream_rpc_method_handler(stream)
        return grpc.unary_unary_rpc_method_handler(unary)


def predict(model: str = "digits", version: int | None = None, label: str | None = None) -> bytes:
    request = PredictRequest()
    request.model_spec.name = model
    if version is not None:
        request.model_spec.version.value = version
    if label is not None:
        request.model_spec.version_label = label
    request.inputs["x"].float_val.extend([1.0, 2.0])
    return request.SerializeToString()


def status(model: str) -> bytes:
    request = GetModelStatusRequest()
    request.model_spec.name = model
    return request.SerializeToString()


def multi_inference(*models: str) -> bytes:
    request = MultiInferenceRequest()
    for model in models:
        request.tasks.add().model_spec.name = model
    return request.SerializeToString()


@dataclass
class Got:
    """How a call ended."""

    answer: bytes | None
    code: Any
    details: str
    initial: dict[str, Any]
    trailing: dict[str, Any]
    pairs: list[tuple[str, Any]]
    """All of `trailing`, with what comes more than once."""


class GrpcClient:
    """A client of the proxy's gRPC port."""

    def __init__(self, port: int) -> None:
        self.http: Any = None
        self.port = port
        self.channel = grpc.aio.insecure_channel(
            f"127.0.0.1:{port}",
            options=(("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1)),
        )

    def call(self, request: bytes, method: str = PREDICT, **options: Any) -> Any:
        """A call that is under way."""
        return self.channel.unary_unary(method)(request, timeout=options.pop("timeout", None), **options)

    async def ask(self, request: bytes, method: str = PREDICT, **options: Any) -> Got:
        """A call and how it ended. It is given 10 seconds of our own, which the proxy does not hear of."""
        call = self.call(request, method, **options)
        try:
            answer = await call
        except grpc.aio.AioRpcError:
            answer = None
        trailing = list(await call.trailing_metadata() or ())
        return Got(
            answer, await call.code(), await call.details() or "", dict(await call.initial_metadata() or ()),
            dict(trailing), trailing,
        )  # fmt: skip

    async def metrics(self) -> str:
        return str((await self.http.ask(get(b"/metrics"))).body.decode())

    async def seats(self) -> dict[str, dict[str, Any]]:
        """`/workers`, by id."""
        listed = json.loads((await self.http.ask(get(b"/workers"))).body)["workers"]
        return {worker["id"]: worker for worker in listed}


@asynccontextmanager
async def grpc_cluster(*workers: GrpcWorker, **changes: object) -> AsyncIterator[GrpcClient]:
    """The workers, a proxy in front of them, and a client."""
    (port,) = free_ports(1)
    client = GrpcClient(port)
    changes = {"rest": 60.0, "rest_longest": 60.0, **changes}  # who rests does so until the test is over
    try:
        async with cluster(*workers, grpc_port=port, **changes) as client.http:
            yield client
    finally:  # what was under way when the proxy was asked to end has ended
        await client.channel.close()

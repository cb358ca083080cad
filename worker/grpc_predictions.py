"""`tensorflow.serving.PredictionService`: Predict, Classify, Regress, MultiInference and GetModelMetadata.

A request is read, its model looked up and kept, the request checked against it (`worker.requests`), run and answered.
The caller's deadline bounds the run, and a caller that leaves costs no run that has not begun. Trailing metadata say
who answered and where the time went, as the headers of HTTP answers do.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import grpc

from muster import wire
from muster.errors import ClusterError
from worker.grpc_calls import Method, aside, parse, unary_methods
from worker.inference import Inference
from worker.messages import serving
from worker.metrics import Metrics
from worker.models.servable import Servable, bytes_in
from worker.requests import Planned, Rules, plan_classify, plan_multi_inference, plan_predict, plan_regress, unpacked
from worker.state import State
from worker.status import Code, StatusError, code_of
from worker.timing import server_timing

SERVICE: Final = "tensorflow.serving.PredictionService"
SIGNATURE_DEF: Final = "signature_def"
"""The only metadata there are."""


@dataclass(frozen=True, slots=True)
class _Call:
    """One of the methods that run a model."""

    api: str
    request: Any
    plan: Callable[[Servable, Any, Rules], Planned]


_CALLS: Final = (
    _Call("Predict", serving.PredictRequest, plan_predict),
    _Call("Classify", serving.ClassificationRequest, plan_classify),
    _Call("Regress", serving.RegressionRequest, plan_regress),
    _Call("MultiInference", serving.MultiInferenceRequest, plan_multi_inference),
)


class _Account:
    """What is known of a call for the figures, whatever becomes of it."""

    __slots__ = ("model", "version")

    def __init__(self) -> None:
        self.model = ""
        self.version: int | None = None


class PredictionService:
    """The service. `handler` is what a gRPC server takes."""

    def __init__(self, state: State, inference: Inference, metrics: Metrics, rules: Rules) -> None:
        self._state = state
        self._inference = inference
        self._metrics = metrics
        self._rules = rules
        methods: dict[str, Method] = {call.api: self._running(call) for call in _CALLS}
        self.handler: grpc.GenericRpcHandler = unary_methods(SERVICE, methods | {"GetModelMetadata": self._metadata})

    def _running(self, call: _Call) -> Method:
        async def method(data: bytes, context: Any) -> bytes:
            return await self._counted(call.api, lambda account: self._run(call, data, context, account))

        return method

    async def _metadata(self, data: bytes, context: Any) -> bytes:
        async def answer(account: _Account) -> bytes:
            return self._describe(parse(serving.GetModelMetadataRequest, data), context, account)

        return await self._counted("GetModelMetadata", answer)

    async def _counted(self, api: str, work: Callable[[_Account], Any]) -> bytes:
        started = time.monotonic()
        account = _Account()
        code = Code.INTERNAL
        try:
            with self._state.request():
                answer: bytes = await work(account)
            code = Code.OK
        except ClusterError as error:
            code = code_of(error)
            raise
        except asyncio.CancelledError:
            code = Code.CANCELLED
            raise
        finally:
            seconds = time.monotonic() - started
            self._metrics.requested("GRPC", api, account.model, account.version, code, seconds)
        return answer

    async def _run(self, call: _Call, data: bytes, context: Any, account: _Account) -> bytes:
        started = time.monotonic()
        size = len(data)
        request = await aside(self._inference, size, lambda: parse(call.request, data))
        spec = _model_spec(request)
        account.model = spec.name
        with self._state.catalogue.use(spec.name, *_version_and_label(spec)) as servable:
            account.version = servable.version
            self._inference.check_room(servable)  # a refusal is cheap as long as the tensors are not read
            size = max(size, unpacked(request))
            planned = await aside(self._inference, size, lambda: call.plan(servable, request, self._rules))
            decode = time.monotonic() - started
            ran = await self._inference.run(
                servable, planned.inputs, planned.arrays, planned.outputs, _deadline(context)
            )  # fmt: skip
            encoding = time.monotonic()
            size = bytes_in(ran.result)
            answer: bytes = await aside(
                self._inference, size, lambda: planned.answer(ran.result).SerializeToString()
            )  # fmt: skip
            encode = time.monotonic() - encoding
            if call.plan is plan_multi_inference:
                self._metrics.serving.examples(servable.name, planned.examples)
            self._metrics.ran(servable, call.api, decode=decode, ran=ran, encode=encode)
        timing = server_timing(decode=decode, queue=ran.waited, infer=ran.took, encode=encode)
        self._sign(context, (wire.SERVER_TIMING.lower(), timing))
        return answer

    def _describe(self, request: Any, context: Any, account: _Account) -> bytes:
        if not request.HasField("model_spec"):
            raise _invalid("Missing ModelSpec")
        if not request.metadata_field:
            raise _invalid("GetModelMetadataRequest must specify at least one metadata_field")
        for field in request.metadata_field:
            if field != SIGNATURE_DEF:
                raise _invalid(f"Metadata field {field} is not supported")
        spec = _model_spec(request)
        account.model = spec.name
        with self._state.catalogue.use(spec.name, *_version_and_label(spec)) as servable:
            account.version = servable.version
            response = serving.GetModelMetadataResponse()
            response.model_spec.name = servable.name
            response.model_spec.version.value = servable.version
            response.metadata[SIGNATURE_DEF].Pack(signature_map(servable))
        self._sign(context)
        answer: bytes = response.SerializeToString()
        return answer

    def _sign(self, context: Any, *more: tuple[str, str]) -> None:
        context.set_trailing_metadata(((wire.SERVED_BY.lower(), self._state.worker.id), *more))


def signature_map(servable: Servable) -> Any:
    """The definitions of all its signatures, as a SignatureDefMap."""
    signatures = serving.SignatureDefMap()
    for name, signature in servable.signatures.items():
        signatures.signature_def[name].ParseFromString(signature.definition)
    return signatures


def _model_spec(request: Any) -> Any:
    """Which model is asked for. A MultiInferenceRequest says so in its first task. Raises StatusError."""
    if isinstance(request, serving.MultiInferenceRequest):
        spec = request.tasks[0].model_spec if request.tasks else serving.ModelSpec()
    elif request.HasField("model_spec"):
        spec = request.model_spec
    else:
        raise _invalid("Missing ModelSpec")
    if not spec.name:
        raise _invalid("ModelSpec has no name specified.")
    return spec


def _version_and_label(spec: Any) -> tuple[int | None, str | None]:
    choice = spec.WhichOneof("version_choice")
    version = spec.version.value if choice == "version" else None
    return version, spec.version_label if choice == "version_label" else None


def _deadline(context: Any) -> float | None:
    """When the caller stops waiting, by the event loop's clock."""
    remaining = context.time_remaining()
    return None if remaining is None else asyncio.get_running_loop().time() + remaining


def _invalid(message: str) -> StatusError:
    return StatusError(Code.INVALID_ARGUMENT, message)

"""A worker's gRPC door on a real socket, in this process; around models that are loaded already."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np

from muster.values import Worker
from worker.grpc_api import GrpcApi
from worker.grpc_server import grpc_listening
from worker.inference import Inference
from worker.messages import serving
from worker.metrics import Metrics
from worker.models.catalogue import Catalogue
from worker.settings import WorkerSettings
from worker.state import State
from worker.status import StatusError
from worker.tensor_proto import to_array, to_proto

PREDICTION = "/tensorflow.serving.PredictionService/"
MODELS = "/tensorflow.serving.ModelService/"
HEALTH = "/grpc.health.v1.Health/"
UNLIMITED = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))
RESPONSES = {
    "Predict": serving.PredictResponse,
    "Classify": serving.ClassificationResponse,
    "Regress": serving.RegressionResponse,
    "MultiInference": serving.MultiInferenceResponse,
    "GetModelMetadata": serving.GetModelMetadataResponse,
    "GetModelStatus": serving.GetModelStatusResponse,
    "HandleReloadConfigRequest": serving.ReloadConfigResponse,
}


class Reloads:
    """Stands for the manager: remembers what was asked for, and refuses what it is told to refuse."""

    def __init__(self) -> None:
        self.configs: list[Any] = []
        self.refusal: StatusError | None = None

    async def reload(self, config: Any) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.configs.append(config)


@dataclass
class GrpcDoors:
    port: int
    state: State
    inference: Inference
    metrics: Metrics
    channel: grpc.aio.Channel
    manager: Reloads = field(default_factory=Reloads)

    async def ask(self, method: str, request: Any, **options: Any) -> Any:
        """One request to PredictionService or ModelService."""
        service = MODELS if method in ("GetModelStatus", "HandleReloadConfigRequest") else PREDICTION
        call = self.channel.unary_unary(service + method)
        return RESPONSES[method].FromString(await call(request.SerializeToString(), **options))

    async def refused(self, method: str, request: Any, **options: Any) -> tuple[str, str]:
        """The same, for a request that fails: the code's name and the details."""
        try:
            answer = await self.ask(method, request, **options)
        except grpc.aio.AioRpcError as error:
            return error.code().name, error.details() or ""
        raise AssertionError(f"answered with {answer}")

    async def predict(self, model: str, inputs: Mapping[str, Any], signature: str = "", **options: Any) -> Any:
        """The outputs by name."""
        answer = await self.ask("Predict", predict_request(model, inputs, signature), **options)
        return {name: to_array(value).tolist() for name, value in answer.outputs.items()}


def predict_request(model: str, inputs: Mapping[str, Any], signature: str = "") -> Any:
    request = serving.PredictRequest()
    request.model_spec.name = model
    request.model_spec.signature_name = signature
    for name, value in inputs.items():
        to_proto(np.asarray(value), request.inputs[name])
    return request


@asynccontextmanager
async def open_grpc(catalogue: Catalogue | None, **changes: Any) -> AsyncIterator[GrpcDoors]:
    """The door around `catalogue`, which is still being loaded if it is None."""
    settings = dataclasses.replace(WorkerSettings(runners=1, host="127.0.0.1"), **changes)
    models = catalogue or Catalogue()
    state = State(Worker("worker-1", "127.0.0.1", 1), models)
    if catalogue is not None:
        state.started()
    inference = Inference(settings)
    metrics = Metrics(state, inference)
    manager = Reloads()
    try:
        async with (
            grpc_listening(settings, GrpcApi(settings, state, inference, manager, metrics)) as port,
            grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=UNLIMITED) as channel,
        ):
            yield GrpcDoors(port, state, inference, metrics, channel, manager)
    finally:
        inference.close()

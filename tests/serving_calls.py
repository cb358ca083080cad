"""Calls of TensorFlow Serving's gRPC API, without its client."""

from __future__ import annotations

from typing import Any, Final

import grpc

from worker.messages import serving

AVAILABLE: Final = 30


def statuses(channel: grpc.Channel, model: str) -> list[Any]:
    """The states of a model's versions."""
    request = serving.GetModelStatusRequest()
    request.model_spec.name = model
    answer = _call(channel, "ModelService/GetModelStatus", request, serving.GetModelStatusResponse)
    return list(answer.model_version_status)


def predict(channel: grpc.Channel, model: str, x: float) -> list[float]:
    """What a model with one number in, x, and one out, y, makes of it."""
    request = serving.PredictRequest()
    request.model_spec.name = model
    request.inputs["x"].dtype = 1
    request.inputs["x"].tensor_shape.dim.add(size=1)
    request.inputs["x"].float_val.append(x)
    answer = _call(channel, "PredictionService/Predict", request, serving.PredictResponse)
    return list(answer.outputs["y"].float_val)


def _call(channel: grpc.Channel, method: str, request: Any, answer: Any) -> Any:
    ask = channel.unary_unary(
        f"/tensorflow.serving.{method}",
        request_serializer=type(request).SerializeToString,
        response_deserializer=answer.FromString,
    )
    return ask(request, timeout=20)

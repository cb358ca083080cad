"""A client as users of TensorFlow Serving write it, with nothing of ours: its generated stubs and TensorFlow.

Run as `python serving_client.py HOST:PORT`, where half_plus_two, examples and types are served (test_grpc_client.py);
it prints what it was told as JSON.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import grpc
import tensorflow as tf
from google.protobuf import text_format
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
    regression_pb2,
)
from tensorflow_serving.config import model_server_config_pb2

EXAMPLE = tf.train.Example(
    features=tf.train.Features(
        feature={
            "x": tf.train.Feature(float_list=tf.train.FloatList(value=[0.75])),
            "name": tf.train.Feature(bytes_list=tf.train.BytesList(value=[b"cat"])),
        }
    )
)
TYPES = {
    "float32": [[1.5, -2.0]], "float64": [0.1], "int32": [[[-7]]], "uint8": [255], "int64": [2**62],
    "bool": [True, False], "string": [b"a", b"\xff"], "complex64": [1 + 2j], "float16": [0.5], "bfloat16": [0.5],
    "uint64": [2**63],
}  # fmt: skip


def main(address: str) -> None:
    """Ask for everything once."""
    with grpc.insecure_channel(address) as channel:
        prediction = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        models = model_service_pb2_grpc.ModelServiceStub(channel)
        told: dict[str, Any] = {
            "predict": predict(prediction),
            "types": {name: round_trip(prediction, name, value) for name, value in TYPES.items()},
            "classify": classify(prediction),
            "regress": regress(prediction),
            "multi_inference": multi_inference(prediction),
            "metadata": metadata(prediction),
            "status": status(models),
            "reload": reload(models),
            "refused": refused(prediction),
        }
    print(json.dumps(told))


def predict(prediction: Any) -> Any:
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "half_plus_two"
    request.model_spec.version.value = 1
    request.inputs["x"].CopyFrom(tf.make_tensor_proto([1.0, 2.0, 5.0], shape=[3, 1]))
    response = prediction.Predict(request, 10.0)
    spec = response.model_spec
    return [tf.make_ndarray(response.outputs["y"]).tolist(), spec.name, spec.version.value, spec.signature_name]


def round_trip(prediction: Any, name: str, value: Any) -> bool:
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "types"
    request.model_spec.signature_name = name
    sent = tf.constant(value, getattr(tf, name))
    request.inputs["x"].CopyFrom(tf.make_tensor_proto(sent))
    received = tf.make_ndarray(prediction.Predict(request, 10.0).outputs["y"])
    return bool(received.dtype == sent.numpy().dtype and received.tolist() == sent.numpy().tolist())


def classify(prediction: Any) -> Any:
    request = classification_pb2.ClassificationRequest()
    request.model_spec.name = "examples"
    request.input.example_list.examples.extend([EXAMPLE, EXAMPLE])
    rows = prediction.Classify(request, 10.0).result.classifications
    return [[[one.label, one.score] for one in row.classes] for row in rows]


def regress(prediction: Any) -> Any:
    request = regression_pb2.RegressionRequest()
    request.model_spec.name = "examples"
    request.model_spec.signature_name = "regress"
    request.input.example_list_with_context.context.CopyFrom(EXAMPLE)
    request.input.example_list_with_context.examples.append(tf.train.Example())
    return [one.value for one in prediction.Regress(request, 10.0).result.regressions]


def multi_inference(prediction: Any) -> Any:
    request = inference_pb2.MultiInferenceRequest()
    for signature, method in (("regress", "regress"), ("serving_default", "classify")):
        task = request.tasks.add(method_name=f"tensorflow/serving/{method}")
        task.model_spec.name = "examples"
        task.model_spec.signature_name = signature
    request.input.example_list.examples.append(EXAMPLE)
    regression, classification = prediction.MultiInference(request, 10.0).results
    return [
        regression.regression_result.regressions[0].value,
        classification.classification_result.classifications[0].classes[0].label,
    ]


def metadata(prediction: Any) -> Any:
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = "half_plus_two"
    signatures = get_model_metadata_pb2.SignatureDefMap()
    assert prediction.GetModelMetadata(request, 10.0).metadata["signature_def"].Unpack(signatures)
    default = signatures.signature_def["serving_default"]
    return [default.inputs["x"].name, [dim.size for dim in default.inputs["x"].tensor_shape.dim], default.method_name]


def status(models: Any) -> Any:
    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = "half_plus_two"
    (version,) = models.GetModelStatus(request, 10.0).model_version_status
    state = get_model_status_pb2.ModelVersionStatus.State.Name(version.state)
    return [version.version, state, version.status.error_code]


def reload(models: Any) -> Any:
    config = text_format.Parse(
        'model_config_list { config { name: "m" base_path: "/models/m" model_platform: "tensorflow" '
        'model_version_policy { specific { versions: 1 versions: 42 } } version_labels { key: "stable" value: 42 } } }',
        model_server_config_pb2.ModelServerConfig(),
    )
    request = model_management_pb2.ReloadConfigRequest(config=config)
    return models.HandleReloadConfigRequest(request, 10.0).status.error_code


def refused(prediction: Any) -> Any:
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "nowhere"
    try:
        prediction.Predict(request, 10.0)
    except grpc.RpcError as error:
        return [error.code().name, error.details()]
    return None


if __name__ == "__main__":
    main(sys.argv[1])

"""A gRPC client: python grpc_client.py HOST:PORT… It uses tensorflow-serving-api's stubs and TensorFlow's tensors."""

from __future__ import annotations

import sys
import threading

import grpc
import tensorflow as tf
from tensorflow_serving.apis import get_model_status_pb2, model_service_pb2_grpc, predict_pb2, regression_pb2
from tensorflow_serving.apis import prediction_service_pb2_grpc as service

CALLS = 50


def request_for(x: float) -> predict_pb2.PredictRequest:
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "half_plus_two"
    request.model_spec.signature_name = "serving_default"
    request.inputs["x"].CopyFrom(tf.make_tensor_proto([[x]], dtype=tf.float32))
    return request


def many_at_once(stub: service.PredictionServiceStub) -> int:
    """How many of `CALLS` futures were answered rightly."""
    right = []
    done = threading.Semaphore(0)

    def callback(x: float, future: grpc.Future) -> None:
        try:
            right.append(future.result().outputs["y"].float_val[0] == x / 2 + 2)
        finally:
            done.release()

    for number in range(CALLS):
        future = stub.Predict.future(request_for(float(number)), 10.0)
        future.add_done_callback(lambda future, x=float(number): callback(x, future))
    for _ in range(CALLS):
        done.acquire()
    return sum(right)


def use(server: str) -> None:
    channel = grpc.insecure_channel(server)
    grpc.channel_ready_future(channel).result(timeout=10)
    status = model_service_pb2_grpc.ModelServiceStub(channel)
    asked = get_model_status_pb2.GetModelStatusRequest()
    asked.model_spec.name = "half_plus_two"
    versions = status.GetModelStatus(asked, 10.0, wait_for_ready=True).model_version_status
    print("status", versions[0].version, versions[0].State.Name(versions[0].state))

    stub = service.PredictionServiceStub(channel)
    answer = stub.Predict(request_for(2.0), 10.0)
    print("predict", tf.make_ndarray(answer.outputs["y"]).tolist(), answer.model_spec.version.value)
    print("futures", many_at_once(stub))

    regress = regression_pb2.RegressionRequest()
    regress.model_spec.name = "half_plus_two"
    regress.model_spec.signature_name = "regress_x_to_y"
    regress.input.example_list.examples.add().features.feature["x"].float_list.value.append(2.0)
    print("regress", [one.value for one in stub.Regress(regress, 10.0).result.regressions])

    missing = request_for(2.0)
    missing.model_spec.name = "intentionally_missing_model"
    try:
        stub.Predict(missing, 10.0)
    except grpc.RpcError as error:
        print("unknown", error.code().name, "Servable" in error.details())


if __name__ == "__main__":
    for server in sys.argv[1:]:
        use(server)

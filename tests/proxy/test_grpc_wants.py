"""What a gRPC request wants, read off its bytes: what a decoder would find, and nothing from what is no message."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.grpc_wants import MAX_FIELDS, UNARY, wanted
from proxy.wants import Want
from tests.proxy.grpc_harness import PREDICT, multi_inference, predict, status
from worker.messages.serving import (
    ClassificationRequest,
    GetModelMetadataRequest,
    GetModelStatusRequest,
    ModelSpec,
    MultiInferenceRequest,
    PredictRequest,
    RegressionRequest,
)

PREDICTION = "/tensorflow.serving.PredictionService/"
MULTI = PREDICTION + "MultiInference"
KINDS = {
    PREDICT: PredictRequest,
    PREDICTION + "Classify": ClassificationRequest,
    PREDICTION + "Regress": RegressionRequest,
    PREDICTION + "GetModelMetadata": GetModelMetadataRequest,
    "/tensorflow.serving.ModelService/GetModelStatus": GetModelStatusRequest,
}
NOTHING = Want(grpc=True)
INT64 = st.integers(-(2**63), 2**63 - 1)


def test_every_method_that_names_a_model_is_known() -> None:
    assert {*KINDS, MULTI} == UNARY


@pytest.mark.parametrize("method", KINDS)
@given(name=st.text(st.characters(exclude_categories=["Cs"])), version=st.none() | INT64)
def test_the_model_and_version_of_each_kind_of_request_are_found(method: str, name: str, version: int | None) -> None:
    request = KINDS[method]()
    request.model_spec.name = name
    request.model_spec.signature_name = "serving_default"
    if version is not None:
        request.model_spec.version.value = version
    assert wanted(method, request.SerializeToString()) == Want(name or None, version, grpc=True)


def test_of_several_tasks_the_first_counts() -> None:
    assert wanted(MULTI, multi_inference("a", "b")) == Want("a", grpc=True)
    assert wanted(MULTI, b"") == NOTHING


def test_a_label_is_for_the_worker_to_look_up() -> None:
    assert wanted(PREDICT, predict("m", label="stable")) == Want("m", grpc=True)


def test_of_a_version_and_a_label_the_last_one_counts() -> None:
    version = ModelSpec()
    version.version.value = 3
    label = ModelSpec(version_label="stable")

    def request(*specs: bytes) -> bytes:
        spec = b"".join(specs)
        return b"\x0a" + bytes([len(spec)]) + spec

    first, second = version.SerializeToString(), label.SerializeToString()
    for raw, found in ((request(first, second), None), (request(second, first), 3)):
        message = PredictRequest.FromString(raw)
        assert message.model_spec.HasField("version") is (found == 3)
        assert wanted(PREDICT, raw) == Want(None, found, grpc=True)


def test_a_specification_that_comes_in_pieces_and_late_is_put_together() -> None:
    tensors = PredictRequest()
    tensors.inputs["x"].tensor_content = bytes(100_000)
    raw = tensors.SerializeToString() + predict("first", version=7) + predict("second")
    message = PredictRequest.FromString(raw)
    assert (message.model_spec.name, message.model_spec.version.value) == ("second", 7)
    assert wanted(PREDICT, raw) == Want("second", 7, grpc=True)


def test_a_large_tensor_is_stepped_over() -> None:
    tensors = PredictRequest()
    tensors.inputs["x"].tensor_content = bytes(50_000_000)
    assert wanted(PREDICT, tensors.SerializeToString() + predict("m")).model == "m"


def test_more_fields_than_anybody_sends_are_not_looked_through() -> None:
    many = b"\x08\x01" * MAX_FIELDS
    assert wanted(PREDICT, many + predict("m")) == NOTHING
    assert wanted(PREDICT, many[2 * 10 :] + predict("m")).model == "m"


@given(st.sampled_from(sorted(UNARY)), st.binary(max_size=200))
def test_whatever_comes_it_is_an_answer(method: str, raw: bytes) -> None:
    want = wanted(method, raw)
    assert want.grpc
    assert want.version is None or -(2**63) <= want.version < 2**63


@given(st.binary(max_size=60))
def test_what_a_decoder_accepts_is_read_as_the_decoder_does(raw: bytes) -> None:
    try:
        message = GetModelStatusRequest.FromString(raw)
    except Exception:  # noqa: BLE001  # the decoder has errors of its own
        return
    spec = message.model_spec
    version = spec.version.value if spec.HasField("version") else None
    found = wanted("/tensorflow.serving.ModelService/GetModelStatus", raw)
    # Groups, and tags that nobody assigned, are left to the worker.
    assert found in (Want(spec.name or None, version, grpc=True), NOTHING)


@given(st.binary(max_size=100), st.integers(0, 100))
def test_a_request_that_is_cut_off_wants_nothing_it_did_not_say(tail: bytes, length: int) -> None:
    whole = status("digits") + tail
    want = wanted("/tensorflow.serving.ModelService/GetModelStatus", whole[:length])
    assert want == NOTHING or want.model is not None


def test_no_version_is_further_than_protobuf_goes() -> None:
    request = MultiInferenceRequest()
    request.tasks.add().model_spec.version.value = -1
    assert wanted(MULTI, request.SerializeToString()).version == -1

"""A version is warm before it is served: by the requests that come with it, and by zeros where they do no harm."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.worker.serving_models import definition, save, save_add, save_examples
from worker.batching_parameters import Batching
from worker.messages.serving import PredictionLog
from worker.messages.tensors import Example
from worker.models import graph
from worker.models.finding import Found
from worker.models.loading import load as load_found
from worker.models.options import LoadOptions
from worker.models.servable import Array, Servable
from worker.models.tensorflow_quietly import tf
from worker.models.warmup_file import FILE
from worker.status import Code, StatusError

v1 = tf.compat.v1


@pytest.fixture
def counter(tmp_path: Path) -> Path:
    """A version whose `count` adds x + 1 to a number that it keeps, and whose `read` gives that number."""

    def build() -> dict[str, Any]:
        kept = v1.get_variable("kept", initializer=0.0, use_resource=True)
        x = v1.placeholder(tf.float32, [], name="x")
        added, read = tf.identity(kept.assign_add(x + 1.0)), tf.identity(kept.read_value())
        return {"count": definition({"x": x}, {"sum": added}), "read": definition({}, {"sum": read})}

    return save(tmp_path / "m" / "1", build)


def load(version: Path, **options: Any) -> Servable:
    return load_found(Found("m", 1, version), LoadOptions(**options))


def counted(servable: Servable) -> float:
    signature = servable.signatures["read"]
    (value,) = servable.function([], [signature.outputs["sum"]])()
    return float(value)


def prediction(signature: str, *, model: str = "whatever", **inputs: float) -> Any:
    """A PredictionLog of a predict request."""
    recorded = PredictionLog()
    request = recorded.predict_log.request
    request.model_spec.name, request.model_spec.signature_name = model, signature
    for name, value in inputs.items():
        request.inputs[name].dtype = 1
        request.inputs[name].float_val.append(value)
    return recorded


def write(version: Path, records: Sequence[Any]) -> Path:
    file = version / FILE
    file.parent.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(file)) as writer:
        for record in records:
            writer.write(record if isinstance(record, bytes) else record.SerializeToString())
    return file


def test_each_request_of_the_file_is_answered_once_whatever_model_it_names(counter: Path) -> None:
    write(counter, [prediction("count", x=1.0), prediction("count", model="other", x=10.0)])
    assert counted(load(counter)) == 13


def test_each_request_is_answered_as_often_as_the_operator_wants(counter: Path) -> None:
    write(counter, [prediction("count", x=1.0)])
    assert counted(load(counter, replays=3)) == 6


def test_the_operator_may_leave_the_file_alone(counter: Path) -> None:
    write(counter, [b"garbage"])
    assert counted(load(counter, replay=False)) == 0


def test_without_requests_a_model_is_never_called_to_its_detriment(counter: Path) -> None:
    assert counted(load(counter)) == 0
    write(counter, [])
    assert counted(load(counter)) == 0


def test_a_thousand_requests_are_enough(counter: Path) -> None:
    write(counter, [prediction("count", x=1.0)] * 1000)
    assert counted(load(counter)) == 2000
    write(counter, [prediction("count", x=1.0)] * 1001)
    with pytest.raises(StatusError, match=r"Number of warmup records exceeds the maximum \(1000\)") as caught:
        load(counter)
    assert caught.value.canonical is Code.INVALID_ARGUMENT


def test_examples_are_classified_and_regressed(tmp_path: Path) -> None:
    version = save_examples(tmp_path / "m" / "1")
    classify, regress, both = PredictionLog(), PredictionLog(), PredictionLog()
    requests = [classify.classify_log.request, regress.regress_log.request, both.multi_inference_log.request]
    example = Example()
    example.features.feature["x"].float_list.value.append(1.0)
    for request in requests:
        request.input.example_list.examples.append(example.SerializeToString())
    requests[1].model_spec.signature_name = "regress"
    for name, method in (("serving_default", "classify"), ("regress", "regress")):
        task = requests[2].tasks.add(method_name=f"tensorflow/serving/{method}")
        task.model_spec.name, task.model_spec.signature_name = "m", name
    write(version, [classify, regress, both])
    load(version)
    requests[1].model_spec.signature_name = "nope"
    write(version, [classify, regress, both])
    with pytest.raises(StatusError, match="No signature was found with the name: nope"):
        load(version)


def unsupported() -> Any:
    recorded = PredictionLog()
    recorded.session_run_log.SetInParent()
    return recorded


@pytest.mark.parametrize(
    ("record", "code", "sentence"),
    [
        (b"garbage", Code.INVALID_ARGUMENT, "Failed to parse warmup record 1 from"),
        (unsupported(), Code.UNIMPLEMENTED, "Unsupported log_type for warmup: 5"),
        (prediction("nope", x=1.0), Code.FAILED_PRECONDITION, 'Serving signature key "nope" not found'),
        (prediction("count", y=1.0), Code.INVALID_ARGUMENT, "not found in request"),
    ],
)
def test_a_record_that_cannot_be_answered_keeps_the_version_from_being_served(
    counter: Path, record: Any, code: Code, sentence: str
) -> None:
    write(counter, [record])
    with pytest.raises(StatusError, match=sentence) as caught:
        load(counter)
    assert caught.value.canonical is code


@pytest.mark.parametrize(
    "damage",
    [
        lambda file: file.write_bytes(b"this is no TFRecord file, but quite a long text"),
        lambda file: os.truncate(file, file.stat().st_size - 3),
    ],
)
def test_a_damaged_file_is_lost_data(counter: Path, damage: Callable[[Path], Any]) -> None:
    damage(write(counter, [prediction("count", x=1.0)]))
    with pytest.raises(StatusError, match="Please verify your warmup data is in TFRecord format") as caught:
        load(counter)
    assert caught.value.canonical is Code.DATA_LOSS


def test_a_version_that_fails_to_load_leaves_no_session_behind(counter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sessions: list[Any] = []
    new = graph.v1.Session

    def noted(*arguments: Any, **options: Any) -> Any:
        sessions.append(new(*arguments, **options))
        return sessions[-1]

    monkeypatch.setattr(graph.v1, "Session", noted)
    write(counter, [b"garbage"])
    with pytest.raises(StatusError):
        load(counter)
    (session,) = sessions
    with pytest.raises(RuntimeError, match="closed"):
        session.run([])


@pytest.fixture
def fed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Array, ...]]:
    """What models are called with."""
    calls: list[tuple[Array, ...]] = []
    function = graph.Graph.function

    def noted(self: Any, inputs: Any, outputs: Any) -> Callable[..., Any]:
        run = function(self, inputs, outputs)

        def call(*arrays: Array) -> Any:
            calls.append(arrays)
            return run(*arrays)

        return call

    monkeypatch.setattr(graph.Graph, "function", noted)
    return calls


def scale(directory: Path, shape: Sequence[int | None], dtype: Any = tf.float32) -> Path:
    def build() -> dict[str, Any]:
        x = v1.placeholder(dtype, shape, name="x")
        return {"serving_default": definition({"x": x}, {"y": x + x})}

    return save(directory, build)


@pytest.mark.parametrize(
    ("shape", "batching", "expected"),
    [
        ([None, 3], None, [(1, 3)]),
        ([None, 3], Batching(8, 8, sizes=(2, 4, 8)), [(2, 3), (4, 3), (8, 3)]),
        ([2, 3], Batching(8, 8, sizes=(2, 4, 8)), [(2, 3)]),
        ([], None, [()]),
        ([None, None], None, []),
        (None, None, []),
        ([None, 10**9], None, []),
    ],
)
def test_signatures_of_known_shapes_are_called_with_zeros_in_the_sizes_of_batches(
    tmp_path: Path, fed: list[tuple[Array, ...]], shape: Any, batching: Batching | None, expected: Sequence[Any]
) -> None:
    load(scale(tmp_path / "m" / "1", shape), batching=batching)
    assert [array.shape for (array,) in fed] == expected
    assert not any(np.any(array) for (array,) in fed)


def test_the_sizes_of_batches_may_be_said_beside_the_model(tmp_path: Path, fed: list[tuple[Array, ...]]) -> None:
    version = scale(tmp_path / "m" / "1", [None])
    assert load(version, batching=Batching(), batching_beside=True).batching is None
    assert [array.shape for (array,) in fed] == [(1,)]
    fed.clear()
    (version / "batching_params.pbtxt").write_text("max_batch_size { value: 4 } allowed_batch_sizes: [2, 4]")
    servable = load(version, batching=Batching(), batching_beside=True)
    assert servable.batching is not None
    assert [array.shape for (array,) in fed] == [(2,), (4,)]


def test_a_model_that_takes_no_zeros_is_served_all_the_same(tmp_path: Path, fed: list[tuple[Array, ...]]) -> None:
    def build() -> dict[str, Any]:
        x = v1.placeholder(tf.int32, [None], name="x")
        return {"serving_default": definition({"x": x}, {"y": 12 // x})}

    servable = load(save(tmp_path / "m" / "1", build))
    assert fed
    signature = servable.signatures["serving_default"]
    run = servable.function([signature.inputs["x"]], [signature.outputs["y"]])
    assert run(np.array([4], np.int32))[0].tolist() == [3]


def test_functions_that_nobody_asked_for_lately_are_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph, "KEPT", 2)
    servable = load(save_add(tmp_path / "m" / "1"))
    signature = servable.signatures["serving_default"]
    a, b = signature.inputs["a"], signature.inputs["b"]
    both = servable.function([a, b], [signature.outputs["sum"]])
    assert servable.function([a, b], [signature.outputs["sum"]]) is both
    servable.function([a, b], [signature.outputs["difference"]])
    servable.function([a], [a])
    assert servable.function([a, b], [signature.outputs["sum"]]) is not both
    five, three = np.array(5, np.int32), np.array(3, np.int32)
    assert both(five, three)[0] == 8


def test_the_order_of_names_in_a_request_makes_no_difference(tmp_path: Path) -> None:
    servable = load(save_add(tmp_path / "m" / "1"))
    inputs = servable.signatures["serving_default"].inputs
    outputs = servable.signatures["serving_default"].outputs
    five, three = np.array(5, np.int32), np.array(3, np.int32)
    for fed in ("ab", "ba"):
        for fetched in (("sum", "difference"), ("difference", "sum"), ("sum", "sum", "difference")):
            run = servable.function([inputs[name] for name in fed], [outputs[name] for name in fetched])
            values = dict(zip(fetched, run(*(five if name == "a" else three for name in fed)), strict=False))
            assert values == {"sum": 8, "difference": 2}

"""What requests in TensorFlow Serving's messages ask of a model, and what is wrong with them: the order of the checks
decides what is told."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.examples import CLASSIFY, REGRESS, classification, classifications, regression, regressions
from worker.messages import serving
from worker.messages.tensors import Example, TensorProto
from worker.models.servable import Servable, Signature, Tensor
from worker.requests import (
    DEFAULT_RULES,
    PREDICT,
    Planned,
    Rules,
    plan_classify,
    plan_multi_inference,
    plan_predict,
    plan_regress,
    unpacked,
)
from worker.status import Code, StatusError
from worker.tensor_proto import to_array, to_proto

X, Y, Z = Tensor("x:0", "float32", None), Tensor("y:0", "float32", None), Tensor("z:0", "float32", None)
EXAMPLES, OTHERS = Tensor("examples:0", "string", (None,)), Tensor("others:0", "string", (None,))
CLASSES, SCORES, VALUE = (
    Tensor("classes:0", "string", None), Tensor("scores:0", "float32", None), Tensor("value:0", "float32", None),
)  # fmt: skip
SIGNATURES = {
    "serving_default": Signature({"x": X, "y": Y}, {"sum": X, "difference": Y, "product": Z}, PREDICT),
    "generous": Signature({"x": X, "y": Y}, {"sum": X}, PREDICT, defaults={"y": np.float32([7])}),
    "odd": Signature({"x": X}, {"y": Y}, "somebody/elses/method"),
    "classify": Signature({"inputs": EXAMPLES}, {"classes": CLASSES, "scores": SCORES}, CLASSIFY),
    "scores": Signature({"inputs": EXAMPLES}, {"scores": SCORES}, CLASSIFY),
    "regress": Signature({"inputs": EXAMPLES}, {"outputs": VALUE}, REGRESS),
    "regress_others": Signature({"inputs": OTHERS}, {"outputs": VALUE}, REGRESS),
}
MODEL = Servable("m", 3, SIGNATURES, lambda _inputs, _outputs: lambda *_: [], lambda: None)


def predict(signature: str = "", wanted: Sequence[str] = (), **inputs: Any) -> Any:
    request = serving.PredictRequest(output_filter=wanted)
    request.model_spec.name = "m"
    request.model_spec.signature_name = signature
    for name, value in inputs.items():
        if isinstance(value, TensorProto):
            request.inputs[name].CopyFrom(value)
        else:
            to_proto(np.asarray(value, np.float32), request.inputs[name])
    return request


def with_examples(request: Any, *examples: bytes, signature: str = "") -> Any:
    request.model_spec.name = "m"
    request.model_spec.signature_name = signature
    request.input.example_list.examples.extend(examples)
    return request


def classify(*examples: bytes, signature: str = "classify") -> Any:
    return with_examples(serving.ClassificationRequest(), *examples, signature=signature)


def regress(*examples: bytes, signature: str = "regress") -> Any:
    return with_examples(serving.RegressionRequest(), *examples, signature=signature)


def multi(*tasks: tuple[str, str], examples: Sequence[bytes] = (b"a",), names: Sequence[str] = ()) -> Any:
    request = serving.MultiInferenceRequest()
    for index, (signature, method) in enumerate(tasks):
        task = request.tasks.add(method_name=method)
        task.model_spec.name = names[index] if names else "m"
        task.model_spec.signature_name = signature
    request.input.example_list.examples.extend(examples)
    return request


def told(plan: Callable[..., Planned], request: Any, rules: Rules = DEFAULT_RULES) -> tuple[Code, str]:
    with pytest.raises(StatusError) as caught:
        plan(MODEL, request, rules)
    return caught.value.canonical, caught.value.message


def test_inputs_and_outputs_are_in_the_signatures_order() -> None:
    planned = plan_predict(MODEL, predict(y=[2.0], x=[1.0]))
    assert planned.inputs == (X, Y)
    assert [array.tolist() for array in planned.arrays] == [[1.0], [2.0]]
    assert planned.outputs == (X, Y, Z)
    answer = planned.answer([np.float32([3]), np.float32([-1]), np.float32([2])])
    assert {name: to_array(value).tolist() for name, value in answer.outputs.items()} == {
        "sum": [3.0], "difference": [-1.0], "product": [2.0]
    }  # fmt: skip
    assert (answer.model_spec.name, answer.model_spec.version.value) == ("m", 3)
    assert answer.model_spec.signature_name == "serving_default"


def test_only_wanted_outputs_are_fetched_in_the_order_in_which_they_are_wanted() -> None:
    assert plan_predict(MODEL, predict(wanted=["product", "sum"], x=[1], y=[1])).outputs == (Z, X)


def test_an_input_with_a_default_may_be_left_out() -> None:
    assert [array.tolist() for array in plan_predict(MODEL, predict("generous", x=[1])).arrays] == [[1.0], [7.0]]
    assert [array.tolist() for array in plan_predict(MODEL, predict("generous", x=[1], y=[2])).arrays] == [[1], [2]]


BAD = TensorProto(dtype=1, tensor_content=b"1")


@pytest.mark.parametrize(
    ("request_", "code", "sentence"),
    [
        (predict("nowhere"), Code.FAILED_PRECONDITION, 'Serving signature key "nowhere" not found.'),
        (
            predict(x=[1], z=[1], a=[1]), Code.INVALID_ARGUMENT,
            "input size does not match signature: 3!=2 len({a,x,z}) != len({x,y}). "
            "Sent extra: {a,z}. Missing but required: {y}.",
        ),
        (
            predict(), Code.INVALID_ARGUMENT,
            "input size does not match signature: 0!=2 len({}) != len({x,y}). "
            "Sent extra: {}. Missing but required: {x,y}.",
        ),
        (
            predict(x=[1], z=BAD), Code.INVALID_ARGUMENT,
            "Signature input alias: y(feed name: y:0) not found in request and no default value provided. "
            "Inputs expected to be in the request {x,z}, or default input alias set: ",
        ),
        (
            predict("generous", x=[1], z=[1]), Code.INVALID_ARGUMENT,
            "Inputs contains invalid name. Used request inputs: x, request input: x,z",
        ),
        (predict(wanted=["nothing"], x=BAD, y=[1]), Code.INVALID_ARGUMENT, "tensor parsing error: x"),
        (
            predict(wanted=["sum", "nothing"], x=[1], y=[1]), Code.INVALID_ARGUMENT,
            "output tensor alias not found in signature: nothing "
            "Outputs expected to be in the set {difference,product,sum}.",
        ),
        (predict(wanted=["sum", "sum"], x=[1], y=[1]), Code.INVALID_ARGUMENT, "duplicate output tensor alias: sum"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_what_is_wrong_with_a_predict_request(request_: Any, code: Code, sentence: str) -> None:
    assert told(plan_predict, request_) == (code, sentence)


def test_a_signature_is_used_for_anything_unless_its_method_is_checked() -> None:
    strict = Rules(check_method=True)
    assert plan_predict(MODEL, predict("odd", x=[1])).outputs == (Y,)
    assert told(plan_predict, predict("odd", x=[1]), strict) == (
        Code.INTERNAL,
        "Expected prediction signature method_name to be one of {tensorflow/serving/predict, "
        "tensorflow/serving/classify, tensorflow/serving/regress}. Was: somebody/elses/method",
    )
    assert told(plan_classify, classify(b"a", signature="regress"), strict) == (
        Code.INVALID_ARGUMENT,
        "Expected classification signature method_name to be tensorflow/serving/classify. "
        "Was: tensorflow/serving/regress",
    )


def test_a_tensor_that_is_filled_up_may_be_as_large_as_the_operator_says() -> None:
    proto = TensorProto(dtype=1, float_val=[1.0])
    proto.tensor_shape.dim.add(size=100)
    assert plan_predict(MODEL, predict(x=proto, y=[1]), Rules(largest_fill=400)).arrays[0].shape == (100,)
    assert told(plan_predict, predict(x=proto, y=[1]), Rules(largest_fill=399))[1] == "tensor parsing error: x"


def test_examples_are_fed_as_the_bytes_that_came() -> None:
    example = Example()
    example.features.feature["x"].float_list.value.append(1.5)
    planned = plan_classify(MODEL, classify(example.SerializeToString(), b"", b"\xff damaged"))
    assert planned.inputs == (EXAMPLES,)
    assert planned.outputs == (CLASSES, SCORES)
    assert planned.arrays[0].tolist() == [example.SerializeToString(), b"", b"\xff damaged"]
    assert planned.examples == 3


def test_the_context_stands_before_each_example() -> None:
    request = regress()
    request.input.example_list_with_context.context = b"c"
    request.input.example_list_with_context.examples.extend([b"1", b"2"])
    assert plan_regress(MODEL, request).arrays[0].tolist() == [b"c1", b"c2"]


def test_a_small_message_cannot_repeat_a_context_without_end() -> None:
    request = regress()
    request.input.example_list_with_context.context = b"c" * 1000
    request.input.example_list_with_context.examples.extend([b""] * 1000)
    assert len(plan_regress(MODEL, request, Rules(largest_fill=1_000_000)).arrays[0]) == 1000
    code, details = told(plan_regress, request, Rules(largest_fill=999_999))
    assert (code, details) == (
        Code.INVALID_ARGUMENT,
        "a context of 1000 bytes for 1000 examples takes more than 999999 bytes (--max-fill)",
    )


def test_a_request_says_what_it_will_unpack_to() -> None:
    request = regress()
    request.input.example_list_with_context.context = b"c" * 1000
    request.input.example_list_with_context.examples.extend([b""] * 1000)
    assert unpacked(request) == 1_000_000
    small = predict(x=[1], y=[1])
    small.inputs["x"].tensor_shape.dim[0].size = 1_000_000
    assert unpacked(small) == 4_000_004
    small.inputs["y"].dtype = 999
    assert unpacked(small) == 4_000_000


def test_labels_and_scores_become_an_answer() -> None:
    answer = plan_classify(MODEL, classify(b"1", b"2")).answer(
        [np.array([[b"cat", b"dog"], [b"\xff", b"dog"]], object), np.float32([[0.75, 0.25], [0, 1]])]
    )
    rows = [[(one.label, one.score) for one in row.classes] for row in answer.result.classifications]
    assert rows == [[("cat", 0.75), ("dog", 0.25)], [("�", 0.0), ("dog", 1.0)]]
    assert answer.model_spec.signature_name == "classify"


def test_several_signatures_are_one_run_and_answered_in_order() -> None:
    planned = plan_multi_inference(
        MODEL, multi(("regress", REGRESS), ("classify", CLASSIFY), ("scores", CLASSIFY), examples=[b"1", b"2"])
    )
    assert planned.inputs == (EXAMPLES,)
    assert planned.outputs == (VALUE, CLASSES, SCORES)
    answer = planned.answer(
        [np.float32([[1], [2]]), np.array([[b"a"], [b"b"]], object), np.float32([[0.5], [0.25]])]
    )  # fmt: skip
    numbers, labelled, scored = answer.results
    assert [one.value for one in numbers.regression_result.regressions] == [1, 2]
    assert labelled.classification_result.classifications[1].classes[0].label == "b"
    assert scored.classification_result.classifications[1].classes[0].label == ""
    assert scored.classification_result.classifications[1].classes[0].score == 0.25
    assert [result.model_spec.signature_name for result in answer.results] == ["regress", "classify", "scores"]


def test_signatures_with_placeholders_of_their_own_all_get_the_examples() -> None:
    planned = plan_multi_inference(MODEL, multi(("scores", CLASSIFY), ("regress_others", REGRESS), examples=[b"1"]))
    assert len(planned.inputs) == len(planned.arrays) == 2
    assert planned.arrays[0] is planned.arrays[1]


@pytest.mark.parametrize(
    ("request_", "code", "sentence"),
    [
        (multi(("scores", CLASSIFY), ("scores", CLASSIFY)), Code.INVALID_ARGUMENT,
         "Duplicate evaluation of signature: scores"),
        (multi(("nowhere", CLASSIFY)), Code.INVALID_ARGUMENT, "Requested signature not found in model graph: nowhere"),
        (multi(("", PREDICT)), Code.UNIMPLEMENTED, f"Unsupported signature method_name: {PREDICT}"),
        (multi(("regress", REGRESS), ("scores", CLASSIFY), names=["m", "n"]), Code.INVALID_ARGUMENT,
         "All ModelSpecs in a MultiInferenceRequest must access the same model name."),
        (multi(("regress", REGRESS), ("scores", CLASSIFY), names=["m", ""]), Code.INVALID_ARGUMENT,
         "Found ModelSpec with an empty model name."),
        (multi(("scores", CLASSIFY), examples=[]), Code.INVALID_ARGUMENT, "Input is empty."),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_what_is_wrong_with_a_request_of_several_tasks(request_: Any, code: Code, sentence: str) -> None:
    assert told(plan_multi_inference, request_) == (code, sentence)


@pytest.mark.parametrize(
    ("plan", "request_", "sentence"),
    [
        (plan_classify, classify(b"a", signature="nowhere"), "No signature was found with the name: nowhere"),
        (plan_regress, regress(b"a", signature="nowhere"), "No signature was found with the name: nowhere"),
        (plan_classify, classify(), "Input is empty."),
        (plan_regress, regress(), "Input is empty."),
        (plan_classify, classify(signature=""), "Expected one input Tensor."),
        (plan_regress, regress(signature=""), "Expected one input Tensor."),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_wrong_with_a_request_of_examples(plan: Any, request_: Any, sentence: str) -> None:
    assert told(plan, request_) == (Code.INVALID_ARGUMENT, sentence)


@pytest.mark.parametrize(
    ("how", "inputs", "outputs", "code", "sentence"),
    [
        (classification, {"inputs": X, "x": X}, {"scores": SCORES}, Code.INVALID_ARGUMENT, "Expected one input Tensor"),
        (classification, {"inputs": X}, {}, Code.INVALID_ARGUMENT, "Expected one or two output Tensors, found 0"),
        (classification, {"x": X}, {"scores": SCORES}, Code.FAILED_PRECONDITION, "No classification inputs found"),
        (classification, {"inputs": X}, {"y": Y}, Code.FAILED_PRECONDITION,
         'Expected classification signature outputs to contain at least one of "classes" or "scores"'),
        (regression, {"inputs": X}, {"outputs": Y, "z": Z}, Code.INVALID_ARGUMENT, "Expected one output Tensor"),
        (regression, {"x": X}, {"outputs": Y}, Code.FAILED_PRECONDITION, "No regression inputs found"),
        (regression, {"inputs": X}, {"y": Y}, Code.FAILED_PRECONDITION, "No regression outputs found"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_which_signatures_cannot_take_examples(how: Any, inputs: Any, outputs: Any, code: Code, sentence: str) -> None:
    with pytest.raises(StatusError, match=sentence) as caught:
        how(Signature(inputs, outputs))
    assert caught.value.canonical is code


@pytest.mark.parametrize(
    ("arrays", "sentence"),
    [
        ([np.array([b"a"], object), np.float32([[1]])], r"Tensor shape: \[batch_size num_classes\] but got \[1\]"),
        ([np.float32([[1]]), np.float32([[1]])], "Expected classes Tensor of DT_STRING. Got: DT_FLOAT"),
        ([np.array([[b"a"]], object), np.float64([[1]])], "Expected scores Tensor of DT_FLOAT. Got: DT_DOUBLE"),
        ([np.array([[b"a"]] * 2, object), np.float32([[1]])], "Expected classes output batch size of 1. Got: 2"),
        ([np.array([[b"a"]], object), np.float32([[1, 2]])], r"should match in dim_size\(1\). Got 1 vs. 2"),
    ],
)  # fmt: skip
def test_outputs_that_classify_nothing(arrays: Any, sentence: str) -> None:
    with pytest.raises(StatusError, match=sentence):
        classifications(classification(SIGNATURES["classify"]), arrays, 1)


@pytest.mark.parametrize(
    ("array", "sentence"),
    [
        (np.float32([[1, 2]]), r"either \[batch_size\] or \[batch_size, 1\] but got \[1,2\]"),
        (np.float32(1), r"but got \[\]"),
        (np.float32([1, 2]), "Input batch size did not match output batch size: 1 vs. 2"),
        (np.int64([1]), "Expected output Tensor of DT_FLOAT.  Got: DT_INT64"),
    ],
)
def test_outputs_that_are_no_regression(array: Any, sentence: str) -> None:
    with pytest.raises(StatusError, match=sentence):
        regressions(regression(SIGNATURES["regress"]), [array], 1)


@given(rows=st.lists(st.lists(st.floats(width=32, allow_nan=False), min_size=2, max_size=2), min_size=1, max_size=5))
def test_scores_without_classes_and_classes_without_scores(rows: list[list[float]]) -> None:
    scores = np.array(rows, np.float32)
    plain = classifications(classification(SIGNATURES["scores"]), [scores], len(rows))
    assert plain == [[(b"", score) for score in row] for row in rows]
    only_classes = classification(Signature({"inputs": X}, {"classes": CLASSES}))
    labels = np.full((len(rows), 2), b"c", object)
    assert classifications(only_classes, [labels], len(rows)) == [[(b"c", 0.0)] * 2] * len(rows)

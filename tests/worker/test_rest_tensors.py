"""JSON values to arrays and back: which values each type takes, what is said of the others, and which error wins."""

from __future__ import annotations

import base64
import json
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from worker import json_answers
from worker.json_requests import examples, tensors
from worker.json_tensor import MOST_DIMENSIONS, PIECE, columns, rows
from worker.messages.tensors import Example
from worker.models.servable import Signature, Tensor
from worker.status import Code, StatusError

UNHURRIED = settings(deadline=None)


def inputs(**types: str) -> dict[str, Tensor]:
    return {name: Tensor(f"{name}:0", dtype, None) for name, dtype in types.items()}


def column(value: Any, dtype: str) -> np.ndarray[Any, Any]:
    (array,) = columns(value, inputs(x=dtype))
    return array


def row_error(instances: list[Any], **types: str) -> str:
    with pytest.raises(StatusError) as caught:
        rows(instances, inputs(**types))
    assert caught.value.canonical is Code.INVALID_ARGUMENT
    return caught.value.message


def column_error(value: Any, code: Code = Code.INVALID_ARGUMENT, **types: str) -> str:
    with pytest.raises(StatusError) as caught:
        columns(value, inputs(**types))
    assert caught.value.canonical is code
    return caught.value.message


@pytest.mark.parametrize(
    ("dtype", "values", "expected"),
    [
        ("float32", [1, 2.5, 1e300, -1e300, 1e-300, float("inf")], [1, 2.5, np.inf, -np.inf, 0, np.inf]),
        ("float32", [2**64 - 1], [float(2**64)]),
        ("float64", [1, 0.1, 1e300], [1, 0.1, 1e300]),
        ("int32", [2**31 - 1, -(2**31)], [2**31 - 1, -(2**31)]),
        ("uint8", [300, -1], [44, 255]),
        ("int8", [200], [-56]),
        ("int16", [70000], [4464]),
        ("int64", [2**63 - 1, -(2**63)], [2**63 - 1, -(2**63)]),
        ("uint32", [2**32 - 1], [2**32 - 1]),
        ("uint64", [2**64 - 1, 0], [2**64 - 1, 0]),
        ("bool", [True, False], [True, False]),
        ("string", ["a", "é", "\udcff", {"b64": "AP8="}], [b"a", b"\xc3\xa9", b"\xff", b"\0\xff"]),
    ],
)
def test_each_type_takes_its_values(dtype: str, values: list[Any], expected: list[Any]) -> None:
    array = column(values, dtype)
    assert array.dtype == (object if dtype == "string" else dtype)
    assert array.tolist() == expected
    assert rows(values, inputs(x=dtype))[0].tolist() == expected


@pytest.mark.parametrize(
    ("dtype", "value", "told"),
    [
        ("float32", True, "true Type: True is not of expected type: float"),
        ("float32", "1", '"1" Type: String is not of expected type: float'),
        ("float64", None, "null Type: Null is not of expected type: double"),
        ("float32", {"b64": "AA=="}, '{\n    "b64": "AA=="\n} Type: Object is not of expected type: float'),
        ("int32", 1.0, "1.0 Type: Number is not of expected type: int32"),
        ("int32", 2**31, "2147483648 Type: Number is not of expected type: int32"),
        ("uint8", -(2**31) - 1, "-2147483649 Type: Number is not of expected type: uint8"),
        ("int64", 2**63, "9223372036854775808 Type: Number is not of expected type: int64"),
        ("uint32", -1, "-1 Type: Number is not of expected type: uint32"),
        ("uint64", -1, "-1 Type: Number is not of expected type: uint64"),
        ("int64", False, "false Type: False is not of expected type: int64"),
        ("bool", 1, "1 Type: Number is not of expected type: bool"),
        ("string", 1, "1 Type: Number is not of expected type: string"),
        ("string", {"a": 1}, '{\n    "a": 1\n} not formatted correctly for base64 data'),
    ],
)
def test_what_a_type_does_not_take_is_told_with_the_value(dtype: str, value: Any, told: str) -> None:
    assert column_error({"x": [[value]]}, x=dtype) == f"JSON Value: {told}"
    good = {"string": "a", "bool": True}.get(dtype, 1)
    if not isinstance(value, dict):
        assert row_error([good, value], x=dtype) == (
            f"Failed to process element: 1 of 'instances' list. Error: INVALID_ARGUMENT: JSON Value: {told}"
        )


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "complex64", "qint8", "uint16"])
def test_types_that_json_has_no_values_for_are_not_implemented_but_may_be_empty(dtype: str) -> None:
    name = "half" if dtype == "float16" else dtype
    assert column_error([1], Code.UNIMPLEMENTED, x=dtype) == f"Conversion of JSON Value: 1 to type: {name}"
    assert row_error([1], x=dtype).endswith(f"Error: UNIMPLEMENTED: Conversion of JSON Value: 1 to type: {name}")
    assert column([[], []], dtype).shape == (2, 0)


@pytest.mark.parametrize(
    ("value", "shape"), [(1, ()), ([], (0,)), ([[], []], (2, 0)), ([[[1], [2]]], (1, 2, 1)), ([1, 2], (2,))]
)
def test_shapes_are_taken_as_they_are_written(value: Any, shape: tuple[int, ...]) -> None:
    assert column(value, "int32").shape == shape
    assert column({"x": value}, "int32").shape == shape


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ([[1, 2], [3]], "Encountered list at unexpected size: 1 at level: 1 expected size: 2"),
        ([[], [1]], "Encountered list at unexpected size: 1 at level: 1 expected size: 0"),
        ([1, [2]], "Encountered list at unexpected level: 1 expected < 1"),
        ([[1], 2], "JSON Value: 2 found at incorrect level: 2 in the JSON DOM. Expected at level: 2"),
        ([["a"], [3, 4]], 'JSON Value: "a" Type: String is not of expected type: int32'),
        ([[3], [3, 4], ["a"]], "Encountered list at unexpected size: 2 at level: 1 expected size: 1"),
    ],
)
def test_the_first_thing_that_is_wrong_in_a_ragged_value_is_told(value: Any, told: str) -> None:
    assert column_error(value, x="int32") == told


@pytest.mark.parametrize(
    ("instances", "types", "told"),
    [
        ([[1], [1, 2]], {"x": "int32"}, "element: 1 of 'instances' list. Error: INVALID_ARGUMENT: "
         "Expecting tensor size: 1 but got: 2"),
        ([[[1, 2]], [[1], [2]]], {"x": "int32"}, "Expecting shape [1,2] but got: [2,1]"),
        ([1, [1]], {"x": "int32"}, "Expecting shape [] but got: [1]"),
        ([{"x": 1}, 1], {"x": "int32"}, "Expecting object but got list at item 1 of input"),
        ([1, {"x": 1}], {"x": "int32"}, "Expecting value/list but got object at item 1 of input list"),
        ([{"b64": {"b64": "YQ=="}}, {"b64": "YQ=="}], {"b64": "string"}, "Expecting object but got list at item 1 of"),
        ([{"a": 1, "b": 2}, {"a": 1}], {"a": "int32", "b": "int32"},
         'element: 1 of \'instances\' list. JSON object: {\n    "a": 1\n} keys must be equal to: a,b'),
        ([{"b": 2, "a": 1, "c": 1}], {"a": "int32", "b": "int32"},
         "Failed to process element: 0 key: c of 'instances' list. Error: INVALID_ARGUMENT: "
         "JSON object: does not have named input: c"),
        ([{"a": 1, "b": "x"}], {"a": "int32", "b": "int32"}, "element: 0 key: b of 'instances' list. Error: INVALID_"),
        ([1], {"a": "int32", "b": "int32"}, "instances is a plain list, but expecting list of objects as multiple "),
        ([{"b64": "YQ=="}], {"a": "string", "b": "string"}, "instances is a plain list, but expecting list of objects"),
    ],
)  # fmt: skip
def test_rows_are_judged_one_after_the_other(instances: list[Any], types: dict[str, str], told: str) -> None:
    assert told in row_error(instances, **types)


def test_rows_become_batches_in_the_order_of_the_inputs() -> None:
    a, b = rows([{"b": "x", "a": [1, 2]}, {"a": [3, 4], "b": {"b64": "eQ"}}], inputs(a="int64", b="string"))
    assert (a.tolist(), b.tolist()) == ([[1, 2], [3, 4]], [b"x", b"y"])


def test_columns_may_have_more_names_than_are_needed_but_not_fewer() -> None:
    a, b = columns({"c": None, "a": 1, "b": [2, 3]}, inputs(a="int32", b="int32"))
    assert (a.tolist(), b.tolist()) == (1, [2, 3])
    assert column_error({"a": 1}, a="int32", b="int32") == "Missing named input: b in 'inputs' object."
    assert column_error([1], a="int32", b="int32").startswith("inputs is a plain value/list, but expecting an object")


def test_an_object_called_b64_alone_is_a_value_and_not_a_name() -> None:
    assert column({"b64": "YQ=="}, "string").tolist() == b"a"
    assert rows([{"b64": "YQ=="}], inputs(b64="string"))[0].tolist() == [b"a"]


@pytest.mark.parametrize("packed", ["YWI=", "YWI", " Y W\nI = ", "YWI=\t"])
def test_base64_may_be_unpadded_and_have_white_space(packed: str) -> None:
    assert column({"b64": packed}, "string").tolist() == b"ab"


@pytest.mark.parametrize("packed", ["Y", "YW=", "YWI==", "Y-_=", "YWI=YWI=", "é", "YW!I"])
def test_what_is_not_standard_base64_is_refused(packed: str) -> None:
    assert column_error({"b64": packed}, x="string") == "Unable to base64 decode"


@UNHURRIED
@given(st.binary(max_size=40))
def test_base64_of_anything_reads_back(data: bytes) -> None:
    assert column({"b64": base64.b64encode(data).decode()}, "string").tolist() == data


def test_more_dimensions_than_there_can_be_are_unreadable() -> None:
    value: Any = 1
    for _ in range(MOST_DIMENSIONS):
        value = [value]
    assert column(value, "int32").ndim == MOST_DIMENSIONS
    assert column_error([value], x="int32") == "tensor parsing error: x"


@UNHURRIED
@given(hnp.arrays(np.int32, hnp.array_shapes(min_dims=1, max_dims=4, min_side=1)))
def test_what_is_written_reads_back(array: np.ndarray[Any, Any]) -> None:
    answer = json_answers.columns({"y": array})
    again = tensors(json.loads(answer.replace(b"outputs", b"inputs")), Signature(inputs(x="int32"), {}), "")
    assert np.array_equal(again[0][0], array)


LEAVES = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.integers(0, 3) | st.floats() | st.text(max_size=2)
    | st.just({"b64": "YQ=="}) | st.just({"b64": "!"}) | st.just({"x": 1}) | st.just({})
)  # fmt: skip
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3), max_leaves=6)
ROWS = st.lists(
    VALUES | st.fixed_dictionaries({"x": VALUES}) | st.dictionaries(st.sampled_from("xy"), VALUES), min_size=1
)


@UNHURRIED
@given(ROWS, st.sampled_from(["float32", "uint8", "int64", "uint64", "bool", "string", "float16"]), st.booleans())
def test_everything_is_an_array_or_has_a_reason_not_to_be_one(value: list[Any], dtype: str, as_rows: bool) -> None:
    try:
        (array,) = rows(value, inputs(x=dtype)) if as_rows else columns(value, inputs(x=dtype))
    except StatusError as error:
        reason: StatusError | None = error
    else:
        reason = None
        assert array.dtype == (object if dtype == "string" else dtype)
        assert len(array) == len(value)
    assert reason is None or "tensor parsing error" not in reason.message
    assert reason is None or reason.canonical is Code.INVALID_ARGUMENT or (dtype == "float16" and not as_rows)


# Answers


def test_rows_take_a_line_each_and_single_values_share_one() -> None:
    one = np.array([2.5, 3], np.float32)
    assert json_answers.predictions({"y": one}) == b'{\n    "predictions": [2.5, 3.0\n    ]\n}'
    assert json_answers.predictions({"y": one.reshape(1, 2, 1)}) == b'{\n    "predictions": [[[2.5], [3.0]]\n    ]\n}'
    assert json_answers.predictions({"y": one[:0]}) == b'{\n    "predictions": []\n}'
    two = json_answers.predictions({"y": one, "z_bytes": np.array([b"a", b"b"], object)}).decode()
    assert two.startswith(
        '{\n    "predictions": [\n        {\n            "y": 2.5,\n            "z_bytes": {\n'
        '                "b64": "YQ=="\n            }\n        },\n        {\n            "y": 3.0,\n'
    )


def test_bytes_within_lists_stand_as_deep_as_they_are_nested() -> None:
    nested = {"y_bytes": np.array([[b"a"], [b"b"]], object)}
    inner = '[{\n                "b64": "%s"\n            }]'
    assert json_answers.predictions(nested).decode() == (
        f'{{\n    "predictions": [{inner % "YQ=="}, {inner % "Yg=="}\n    ]\n}}'
    )
    assert json_answers.columns({"y_bytes": nested["y_bytes"][0]}) == (
        b'{\n    "outputs": [\n        {\n            "b64": "YQ=="\n        }\n    ]\n}'
    )


def test_lists_without_values_stay_on_their_line() -> None:
    assert json_answers.columns({"y": np.empty((2, 0))}) == b'{\n    "outputs": [\n        [],\n        []\n    ]\n}'
    assert json_answers.columns({"y": np.empty((0, 3))}) == b'{\n    "outputs": []\n}'
    assert json_answers.predictions({"y": np.empty((2, 0))}) == b'{\n    "predictions": [[], []\n    ]\n}'


def test_columns_take_a_line_for_every_value() -> None:
    one = np.array([[True, False]])
    assert json_answers.columns({"y": one}) == (
        b'{\n    "outputs": [\n        [\n            true,\n            false\n        ]\n    ]\n}'
    )
    assert json_answers.columns({"y": np.array(7)}) == b'{\n    "outputs": 7\n}'
    assert b'"a": [\n            1\n        ],\n        "b": []' in json_answers.columns(
        {"a": np.array([1]), "b": np.empty(0)}
    )


def test_texts_are_written_as_their_bytes() -> None:
    raw = np.array([b'\xff"\\\n\x01/'], object)
    assert json_answers.predictions({"y": raw}) == b'{\n    "predictions": ["\xff\\"\\\\\\n\\u0001/"\n    ]\n}'


@pytest.mark.parametrize(
    ("outputs", "told"),
    [
        ({}, "Cannot convert empty tensor map to JSON"),
        ({"y": np.array(1)}, "Tensor name: y has no shape information "),
        ({"a": np.zeros(3), "b": np.zeros(1)}, "Tensor name: b has inconsistent batch size: 1 expecting: 3"),
        ({"y": np.zeros(1, np.float16)}, "Failed to write JSON value for tensor type: half"),
        ({"y": np.zeros(1, ml_dtypes.bfloat16)}, "Failed to write JSON value for tensor type: bfloat16"),
        ({"y": np.zeros(1, np.complex64)}, "Failed to write JSON value for tensor type: complex64"),
    ],
)
def test_what_cannot_be_written_as_rows_is_told(outputs: dict[str, Any], told: str) -> None:
    with pytest.raises(StatusError) as caught:
        json_answers.predictions(outputs)
    assert (caught.value.canonical, caught.value.message) == (Code.INVALID_ARGUMENT, told)


# Examples


def features(document: Any) -> list[dict[str, Any]]:
    found = []
    for record in examples(document, 1000):
        feature = Example.FromString(record).features.feature
        found.append({name: (kind := feature[name].WhichOneof("kind")) and
                      (kind, list(getattr(feature[name], kind).value)) for name in feature})  # fmt: skip
    return found


def test_a_features_kind_follows_its_values() -> None:
    document = {"examples": [{"i": 1, "b": [True, 2], "f": [1.5, float("inf")], "s": ["é", {"b64": "/w=="}], "e": []}]}
    assert features(document) == [
        {
            "i": ("int64_list", [1]),
            "b": ("int64_list", [1, 2]),
            "f": ("float_list", [1.5, float("inf")]),
            "s": ("bytes_list", ["é".encode(), b"\xff"]),
            "e": None,
        }
    ]


def test_an_examples_own_feature_overrides_the_contexts() -> None:
    document = {"context": {"a": 1, "b": 2}, "examples": [{"a": 3}, {}]}
    assert features(document) == [
        {"a": ("int64_list", [3]), "b": ("int64_list", [2])},
        {"a": ("int64_list", [1]), "b": ("int64_list", [2])},
    ]


@pytest.mark.parametrize(
    ("document", "told"),
    [
        ({}, "key 'examples' is expected and was not found"),
        ({"examples": {}}, "Expecting 'examples' value to be an list/array"),
        ({"examples": []}, "'examples' value is an empty array"),
        ({"examples": [None]}, "Example must be JSON object but got JSON Null"),
        ({"context": [], "examples": [{}]}, "Example must be JSON object but got JSON Array"),
        ({"examples": [{"F": [1, 1.5]}]}, "Unexpected element type in feature: F expecting type: int64"),
        ({"examples": [{"F": ["a", 1]}]}, "Unexpected element type in feature: F expecting type: bytes"),
        ({"examples": [{"F": None}]}, "Feature: F has element with unexpected JSON type: Null"),
        ({"examples": [{"F": [[1]]}]}, "Feature: F has element with unexpected JSON type: Array"),
        ({"examples": [{"F": {"a": 1}}]}, "Feature: F has element with unexpected JSON type: Object"),
        ({"examples": [{"F": 2**63}]}, "Only int64_t is supported"),
        ({"examples": [{"F": {"b64": "!"}}]}, "Unable to base64 decode"),
        ({"examples": [{"\udcff": 1}]}, "is not UTF-8"),
    ],
)
def test_what_is_no_example_is_told(document: Any, told: str) -> None:
    with pytest.raises(StatusError) as caught:
        examples(document, 1000)
    assert caught.value.canonical is Code.INVALID_ARGUMENT
    assert told in caught.value.message


def test_a_context_is_repeated_as_often_as_the_operator_says() -> None:
    document = {"context": {"a": 1}, "examples": [{}] * 100}
    (context,) = examples({"examples": [document["context"]]}, 0)
    assert list(examples(document, 100 * len(context))) == [context] * 100
    with pytest.raises(StatusError, match=r"--max-fill"):
        examples(document, 100 * len(context) - 1)


@pytest.mark.parametrize(("dtype", "odd"), [("float32", "x"), ("int32", 0.5), ("uint8", 2**31), ("bool", 1)])
def test_among_very_many_values_the_one_that_does_not_fit_is_found(dtype: str, odd: Any) -> None:
    count = 2 * PIECE + 5
    fine = [bool(number % 2) if dtype == "bool" else number % 100 for number in range(count)]
    signature = {"x": Tensor("x:0", dtype, None)}
    (array,) = columns(fine, signature)
    assert array.dtype == np.dtype(dtype)
    assert array.tolist() == fine
    with pytest.raises(StatusError):
        columns([*fine[:-1], odd], signature)

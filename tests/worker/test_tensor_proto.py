"""TensorProto to arrays and back, beside TensorFlow's own functions for it."""

from __future__ import annotations

import contextlib
import tracemalloc
from typing import Any

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps

from worker.messages.tensors import TensorProto
from worker.models.tensorflow_quietly import tf
from worker.tensor_proto import Unreadable, to_array, to_proto
from worker.tensor_types import BY_NAME, TYPES, ElementType

from tensorflow.core.framework import tensor_pb2  # isort: skip  # TensorFlow is imported quietly, above

SHAPES = nps.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)
PLAIN = [kind for kind in TYPES if kind.dtype.fields is None and kind.name != "string"]
TENSORFLOWS = {
    "float32", "float64", "int32", "uint8", "int16", "int8", "complex64", "complex128", "int64", "bool", "uint16",
    "uint32", "uint64", "float16", "bfloat16",
}  # fmt: skip
"""The types that TensorFlow's own Python functions can read and write."""
QUANTISED = [kind for kind in TYPES if kind.dtype.fields is not None]


def message(number: int, shape: tuple[int, ...] = (), **fields: Any) -> Any:
    proto = TensorProto(dtype=number, **fields)
    for size in shape:
        proto.tensor_shape.dim.add(size=size)
    return proto


def of_bits(kind: ElementType, shape: tuple[int, ...], data: st.DataObject) -> np.ndarray[Any, Any]:
    """An array of any bits that make a value."""
    if kind.name == "bool":
        return data.draw(nps.arrays(np.bool_, shape))
    if kind.name in ("int4", "uint4", "int2", "uint2"):
        return data.draw(nps.arrays(np.int8, shape, elements=st.integers(0, 1))).astype(kind.dtype)
    if kind.name == "float4_e2m1fn":
        return data.draw(nps.arrays(np.uint8, shape, elements=st.integers(0, 15))).view(kind.dtype)
    if kind.dtype.isbuiltin == 1:
        return data.draw(nps.arrays(kind.dtype, shape))
    return data.draw(nps.arrays(f"u{kind.dtype.itemsize}", shape)).view(kind.dtype)


def same(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> bool:
    return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()


@pytest.mark.parametrize("kind", PLAIN, ids=lambda kind: kind.name)
@settings(max_examples=25)
@given(data=st.data(), shape=SHAPES, as_content=st.booleans())
def test_an_array_survives_the_wire(kind: ElementType, data: st.DataObject, shape: Any, as_content: bool) -> None:
    array = of_bits(kind, shape, data)
    to_proto(array, proto := TensorProto(), kind.name, as_content)
    assert same(to_array(TensorProto.FromString(proto.SerializeToString())), array)
    assert bool(proto.tensor_content) == (as_content and array.size > 0)


@given(strings=nps.arrays(object, SHAPES, elements=st.binary(max_size=20)), as_content=st.booleans())
def test_strings_survive_the_wire(strings: Any, as_content: bool) -> None:
    to_proto(strings, proto := TensorProto(), "string", as_content)
    read = to_array(TensorProto.FromString(proto.SerializeToString()))
    assert read.dtype == object
    assert read.shape == strings.shape
    assert read.tolist() == strings.tolist()


@pytest.mark.parametrize("kind", QUANTISED, ids=lambda kind: kind.name)
def test_a_quantised_type_is_told_from_the_integers_it_is_made_of(kind: ElementType) -> None:
    plain = np.array([[0, 1], [127, 5]], kind.dtype[0])
    to_proto(plain, proto := TensorProto(), kind.name)
    assert proto.dtype == kind.number
    assert list(proto.int_val) == [0, 1, 127, 5]
    assert same(to_array(proto), plain.view(kind.dtype))


@pytest.mark.parametrize("kind", [kind for kind in PLAIN if kind.name in TENSORFLOWS], ids=lambda kind: kind.name)
@settings(max_examples=10)
@given(data=st.data(), shape=SHAPES)
def test_tensorflow_reads_what_is_written_here_and_the_other_way_round(
    kind: ElementType, data: st.DataObject, shape: Any
) -> None:
    array = of_bits(kind, shape, data)
    to_proto(array, proto := TensorProto(), kind.name)
    assert same(tf.make_ndarray(tensor_pb2.TensorProto.FromString(proto.SerializeToString())), array)
    written = tf.make_tensor_proto(array, dtype=kind.number).SerializeToString()
    assert same(to_array(TensorProto.FromString(written)), array)


@given(strings=nps.arrays(object, SHAPES, elements=st.binary(max_size=20)))
def test_tensorflow_reads_strings_that_are_written_here(strings: Any) -> None:
    to_proto(strings, proto := TensorProto(), "string", as_content=True)
    theirs = tf.make_ndarray(tensor_pb2.TensorProto.FromString(proto.SerializeToString()))
    assert theirs.tolist() == strings.tolist()


def test_values_are_written_in_the_field_of_their_type_however_many() -> None:
    for kind in PLAIN:
        to_proto(np.zeros(3000, kind.dtype), proto := TensorProto(), kind.name)
        assert not proto.tensor_content
        assert len(getattr(proto, kind.field)) == 3000 * kind.parts


@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.name)
def test_a_shape_without_values_is_full_of_zeros(kind: ElementType) -> None:
    array = to_array(message(kind.number, (2, 3)))
    assert array.shape == (2, 3)
    assert array.dtype == kind.dtype
    assert array.tolist() == ([[b""] * 3] * 2 if kind.name == "string" else np.zeros((2, 3), kind.dtype).tolist())


def test_the_last_value_stands_for_those_that_are_not_sent() -> None:
    assert to_array(message(1, (2, 3), float_val=[1.5, 2.5])).tolist() == [[1.5, 2.5, 2.5], [2.5, 2.5, 2.5]]
    assert to_array(message(7, (3,), string_val=[b"a", b"b"])).tolist() == [b"a", b"b", b"b"]
    assert to_array(message(8, (3,), scomplex_val=[1, 2, 3])).tolist() == [1 + 2j] * 3  # half a number is none
    assert to_array(message(11, (2,), int_val=[7])).tolist() == [(7,), (7,)]


def test_values_that_the_shape_has_no_place_for_are_ignored() -> None:
    assert to_array(message(3, (2,), int_val=[1, 2, 3])).tolist() == [1, 2]
    assert to_array(message(7, (), string_val=[b"a", b"b"])).tolist() == b"a"
    assert to_array(message(1, (0, 5), float_val=[1.0], tensor_content=b"x")).shape == (0, 5)


def test_integers_too_large_for_a_narrow_type_wrap() -> None:
    assert to_array(message(4, (2,), int_val=[300, -1])).tolist() == [44, 255]


def test_a_truth_value_in_raw_bytes_is_true_unless_it_is_zero() -> None:
    truths = to_array(message(10, (3,), tensor_content=b"\x00\x02\x01"))
    assert truths.tolist() == [False, True, True]
    assert truths.view(np.uint8).tolist() == [0, 1, 1]


def test_strings_in_raw_bytes_are_lengths_and_then_letters() -> None:
    content = b"\x01\x00\xac\x02" + b"a" + b"b" * 300
    assert to_array(message(7, (3,), tensor_content=content)).tolist() == [b"a", b"", b"b" * 300]


@pytest.mark.parametrize(
    "proto",
    [
        message(0, (1,)),
        message(20, (1,)),
        message(99, (1,)),
        message(1, (-1,), float_val=[1.0]),
        message(1, (1,) * 65, float_val=[1.0]),
        message(1, (2,), tensor_content=b"1234567"),
        message(1, (2**62, 2**62), float_val=[1.0]),
        message(1, (0, 2**62, 2**62)),
        message(7, (2,), tensor_content=b"\x01"),
        message(7, (1,), tensor_content=b"\x05abc"),
        message(7, (1,), tensor_content=b"\xff\xff\xff\xff\xff\xff\xff\x01"),
        message(7, (2**40,), tensor_content=b"\x01a"),
    ],
    ids=str,
)
def test_what_is_no_tensor_is_unreadable(proto: Any) -> None:
    with pytest.raises(Unreadable):
        to_array(proto)


@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.name)
def test_a_small_message_cannot_make_a_huge_tensor(kind: ElementType) -> None:
    size = 24 if kind.name == "string" else kind.dtype.itemsize  # a string takes room even if it is empty
    assert to_array(message(kind.number, (2000,)), largest_fill=2000 * size).shape == (2000,)
    tracemalloc.start()
    try:
        with pytest.raises(Unreadable):
            to_array(message(kind.number, (2**20, 2**20)))
        with pytest.raises(Unreadable):
            to_array(message(kind.number, (2000,)), largest_fill=2000 * size - 1)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


@given(data=st.binary(max_size=200))
def test_whatever_arrives_is_an_array_or_unreadable(data: bytes) -> None:
    try:
        proto = TensorProto.FromString(data)
    except DecodeError:
        return
    with contextlib.suppress(Unreadable):
        to_array(proto, largest_fill=10_000)


def test_every_type_has_the_number_and_the_numpy_type_that_tensorflow_gives_it() -> None:
    for name, kind in BY_NAME.items():
        theirs = tf.dtypes.as_dtype(kind.number)
        assert theirs.name == name
        assert np.dtype(theirs.as_numpy_dtype) == kind.dtype

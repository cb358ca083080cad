"""`tensorflow.TensorProto`, the tensor on the wire, to an array and back, as TensorFlow itself reads and writes it.

A value comes as raw bytes (`tensor_content`) or as a list in the field of its type, which may be shorter than the shape
asks for: then its last value, or zero where there is none, stands for the rest. That is a small message for a large
tensor, so how much may be made up this way is limited.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from worker.messages.tensors import TensorProto
from worker.models.servable import Array
from worker.tensor_types import BY_NAME, BY_NUMBER, ElementType, type_of

LARGEST_FILL: Final = 32 * 2**20
"""Bytes. The largest tensor that is made of fewer values than it has elements, if nobody says otherwise."""
_MOST_DIMENSIONS: Final = 64
"""NumPy's limit; TensorFlow's kernels take fewer still."""
_STRING_SIZE: Final = 24
"""Bytes that TensorFlow needs for a string, however short."""
_LENGTH_DELIMITED: Final = 2


class Unreadable(ValueError):
    """The message is not a tensor: its type, shape and values do not go together, or it is too large."""


def to_array(proto: Any, largest_fill: int = LARGEST_FILL) -> Array:
    """The value of a TensorProto. Raises Unreadable."""
    kind = BY_NUMBER.get(proto.dtype)
    if kind is None:
        raise Unreadable(f"{proto.dtype} is not a type of values")
    shape = tuple(dimension.size for dimension in proto.tensor_shape.dim)
    if len(shape) > _MOST_DIMENSIONS or min(shape, default=0) < 0:
        raise Unreadable("no tensor has this shape")
    count = math.prod(shape)
    try:
        if not count:
            return np.empty(shape, kind.dtype)
        content = proto.tensor_content
        flat = _from_content(content, kind, count) if content else _from_values(proto, kind, count, largest_fill)
    except ValueError as error:  # NumPy's, for sizes that it cannot count
        raise Unreadable(str(error)) from None
    return flat.reshape(shape)


def announced(proto: Any) -> int:
    """Bytes of the array that a TensorProto says it is, if it is any."""
    kind = BY_NUMBER.get(proto.dtype)
    if kind is None:
        return 0
    count: int = math.prod([dimension.size for dimension in proto.tensor_shape.dim])
    return count * _size(kind)


def to_proto(array: Array, proto: Any, declared: str = "", as_content: bool = False) -> None:
    """Make the empty TensorProto `proto` hold `array`. `declared` is the name of its type if the graph says one.

    `as_content` writes raw bytes, but for strings: those every client can read in their own field only.
    """
    kind = BY_NAME.get(declared)
    if kind is None or kind.dtype.fields is None:  # only for quantised types does the graph know better
        kind = type_of(array)
    proto.dtype = kind.number
    proto.tensor_shape.SetInParent()
    for size in array.shape:
        proto.tensor_shape.dim.add().size = size
    if as_content and kind.name != "string":
        proto.tensor_content = array.tobytes()
    elif kind.stored.kind == "f":
        _merge_packed(proto, kind.field, array.tobytes())
    elif kind.field == "float8_val":
        proto.float8_val = array.tobytes()
    else:
        getattr(proto, kind.field).extend(_storable(array, kind))


def _size(kind: ElementType) -> int:
    """Bytes of one value."""
    return _STRING_SIZE if kind.name == "string" else kind.dtype.itemsize


def _storable(array: Array, kind: ElementType) -> list[Any]:
    flat = array.ravel()
    if kind.field == "half_val":
        flat = flat.view(np.uint16)
    elif kind.field == "int_val" and flat.dtype.kind not in "iu":  # a small type of ml_dtypes
        flat = flat.astype(np.int32)
    values: list[Any] = flat.tolist()
    return values


def _merge_packed(proto: Any, field: str, values: bytes) -> None:
    """Append values of fixed width in the form that they have on the wire, which is also the form in memory."""
    if values:
        tag = TensorProto.DESCRIPTOR.fields_by_name[field].number << 3 | _LENGTH_DELIMITED
        proto.MergeFromString(b"".join((_varint(tag), _varint(len(values)), values)))


def _varint(number: int) -> bytes:
    groups = bytearray()
    while number > 0x7F:
        groups.append(number & 0x7F | 0x80)
        number >>= 7
    groups.append(number)
    return bytes(groups)


def _from_content(content: bytes, kind: ElementType, count: int) -> Array:
    if kind.name == "string":
        return _strings(content, count)
    if len(content) != count * kind.dtype.itemsize:
        raise Unreadable(f"{len(content)} bytes of content are not {count} values of the type {kind.name}")
    if kind.name == "bool":
        return np.frombuffer(content, np.uint8).astype(np.bool_)
    return np.frombuffer(content, kind.dtype)


def _strings(content: bytes, count: int) -> Array:
    """The strings in `content`: first the lengths of all, as varints, then all their bytes."""
    if count > len(content):
        raise Unreadable(f"{len(content)} bytes of content are not {count} strings")
    lengths, position = [], 0
    for _ in range(count):
        length, position = _read_varint(content, position)
        lengths.append(length)
    if len(content) - position != sum(lengths):
        raise Unreadable("the strings of the content have other lengths than it says")
    strings = np.empty(count, object)
    for index, length in enumerate(lengths):
        strings[index] = content[position : position + length]
        position += length
    return strings


def _read_varint(content: bytes, position: int) -> tuple[int, int]:
    number = shift = 0
    for byte in content[position : position + 5]:
        number |= (byte & 0x7F) << shift
        shift += 7
        position += 1
        if byte < 0x80:
            return number, position
    raise Unreadable("the content's lengths of strings cannot be read")


def _from_values(proto: Any, kind: ElementType, count: int, largest_fill: int) -> Array:
    values = getattr(proto, kind.field)
    given = len(values) // kind.parts
    if count > given and count * _size(kind) > largest_fill:
        raise Unreadable(f"{given} values for {count} elements: so many are not filled in")
    flat = _elements(values, kind, min(given, count))
    if len(flat) == count:
        return flat
    filled = np.empty(count, kind.dtype)
    filled[: len(flat)] = flat
    filled[len(flat) :] = flat[-1] if len(flat) else b"" if kind.name == "string" else np.zeros((), kind.dtype)
    return filled


def _elements(values: Any, kind: ElementType, count: int) -> Array:
    """The first `count` elements in a field."""
    if kind.name == "string":
        strings = np.empty(count, object)
        strings[:] = values[:count]
        return strings
    if kind.field == "float8_val":
        return np.frombuffer(values, np.uint8, count).view(kind.dtype)
    # A half has the bits of an unsigned number of 16 bits, in a field of signed ones with 32.
    stored: NDArray[Any] = np.array(values, np.int32 if kind.field == "half_val" else kind.stored)
    stored = stored[: count * kind.parts].astype(kind.stored, copy=False)
    if kind.parts > 1 or kind.field == "half_val":
        return stored.view(kind.dtype)
    if kind.dtype.fields is not None:
        return stored.astype(kind.dtype[0]).view(kind.dtype)
    return stored.astype(kind.dtype, copy=False)

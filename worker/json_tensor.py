"""From JSON values to arrays, with the errors, and in their order, that TensorFlow Serving has for what does not fit.

An array is made by looking at all values of one level of nesting at once. Only when something is wrong is the value
walked through one by one, to say what.
"""

from __future__ import annotations

import binascii
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from math import prod
from typing import Any, Final

import numpy as np

from worker.json_quote import kind_of, quoted
from worker.models.servable import Array, Tensor
from worker.status import Code, StatusError
from worker.tensor_types import BY_NAME

MOST_DIMENSIONS: Final = 64
"""NumPy takes no more; TensorFlow stops at 254."""
_INT32: Final = (-(1 << 31), (1 << 31) - 1)
_RANGES: Final = {
    "int8": _INT32, "uint8": _INT32, "int16": _INT32, "int32": _INT32,  # the narrow ones wrap around silently
    "int64": (-(1 << 63), (1 << 63) - 1), "uint32": (0, (1 << 32) - 1), "uint64": (0, (1 << 64) - 1),
}  # fmt: skip
_DECIMALS: Final = ("float32", "float64")
_NAMES: Final = {"float32": "float", "float64": "double", "float16": "half"}
_NUMBERS: Final = frozenset({int, float})
PIECE: Final = 64 * 1024
"""So many values are looked at by one call. Nothing else runs in this process meanwhile."""
_WHITE: Final = b" \t\n\v\f\r"


def type_name(dtype: str) -> str:
    """What messages call the type."""
    return _NAMES.get(dtype, dtype)


def rows(instances: Sequence[Any], inputs: Mapping[str, Tensor]) -> list[Array]:
    """An array for each of `inputs` from a list, not empty, of instances. Raises StatusError (INVALID_ARGUMENT)."""
    named = _is_object(instances[0])
    if len(inputs) > 1 and not named:
        raise _invalid(
            "instances is a plain list, but expecting list of objects as multiple input tensors required as per "
            "tensorinfo_map"
        )
    columns: Mapping[str, Any] = {}
    if not named:
        columns = {next(iter(inputs)): instances}
    elif all(isinstance(item, dict) and item.keys() == inputs.keys() and _is_object(item) for item in instances):
        columns = {name: [item[name] for item in instances] for name in inputs}
    arrays = [_made(column, name, inputs[name]) for name, column in columns.items()]
    if len(arrays) != len(inputs) or any(array is None for array in arrays):
        raise _what_is_wrong_with_rows(instances, inputs, named)
    return [array for array in arrays if array is not None]


def columns(value: Any, inputs: Mapping[str, Tensor]) -> list[Array]:
    """An array for each of `inputs` from an object, or the only one from the value itself. Raises StatusError."""
    if not _is_object(value):
        if len(inputs) > 1:
            raise _invalid(
                "inputs is a plain value/list, but expecting an object as multiple input tensors required as per "
                "tensorinfo_map"
            )
        value = {next(iter(inputs)): value}
    arrays = []
    for name, tensor in inputs.items():
        if name not in value:
            raise _invalid(f"Missing named input: {name} in 'inputs' object.")
        array = _made(value[name], name, tensor)
        if array is None:
            raise _what_is_wrong(value[name], tensor.dtype) or _unreadable(name)
        arrays.append(array)
    return arrays


def is_base64(value: Any) -> bool:
    """Is it `{"b64": "…"}` and nothing else?"""
    return type(value) is dict and len(value) == 1 and type(value.get("b64")) is str


def unbase64(value: Mapping[str, str]) -> bytes:
    """The bytes of such an object. Standard letters, white space anywhere, padding or none. Raises StatusError."""
    packed = value["b64"].encode("utf-8", "surrogateescape").translate(None, _WHITE)
    bare = packed.rstrip(b"=")
    padding = b"=" * (-len(bare) % 4)
    try:
        if len(packed) > len(bare) and packed != bare + padding:
            raise ValueError("padded wrongly")  # noqa: TRY301  # it is one error with those of the decoder
        return binascii.a2b_base64(bare + padding, strict_mode=True)
    except ValueError:
        raise _invalid("Unable to base64 decode") from None


def text_bytes(value: str) -> bytes:
    """A text's bytes as they were sent."""
    return value.encode("utf-8", "surrogateescape")


def _is_object(value: Any) -> bool:
    return isinstance(value, dict) and not is_base64(value)


def _made(value: Any, name: str, tensor: Tensor) -> Array | None:
    """The array, or None if `value` is none. Raises StatusError if it has too many dimensions, or bad base64."""
    shape: list[int] = []
    level = [value]
    while level and type(level[0]) is list:
        size = len(level[0])
        if set(map(type, level)) != {list} or set(map(len, level)) != {size}:
            return None
        if len(shape) == MOST_DIMENSIONS:
            raise _unreadable(name)
        shape.append(size)
        level = list(chain.from_iterable(level))
    array = _flat(level, tensor.dtype)
    return None if array is None else array.reshape(shape)


def _flat(leaves: list[Any], dtype: str) -> Array | None:
    """The leaves as an array of one dimension, or None if some does not fit the type."""
    if not leaves:
        return np.empty(0, BY_NAME[dtype].dtype)
    kinds = set().union(*(set(map(type, piece)) for piece in _pieces(leaves)))
    if dtype == "string":
        return _strings(leaves) if all(type(leaf) is str or is_base64(leaf) for leaf in leaves) else None
    if dtype == "bool":
        return _numbers(leaves, "bool") if kinds == {bool} else None
    if dtype in _DECIMALS:
        if not kinds <= _NUMBERS:
            return None
        with np.errstate(over="ignore", under="ignore"):  # too large becomes infinite, too small 0
            return _numbers(leaves, "float64").astype(dtype)
    if dtype in _RANGES and kinds == {int}:
        low, high = _RANGES[dtype]
        if all(low <= min(piece) and max(piece) <= high for piece in _pieces(leaves)):
            return _numbers(leaves, "uint64" if dtype == "uint64" else "int64").astype(dtype)
    return None


def _pieces(leaves: list[Any]) -> Iterator[list[Any]]:
    for start in range(0, len(leaves), PIECE):
        yield leaves[start : start + PIECE]


def _numbers(leaves: list[Any], dtype: str) -> Array:
    if len(leaves) <= PIECE:
        return np.array(leaves, dtype)
    return np.concatenate([np.array(piece, dtype) for piece in _pieces(leaves)])


def _strings(leaves: list[Any]) -> Array:
    array = np.empty(len(leaves), object)
    array[:] = [text_bytes(leaf) if type(leaf) is str else unbase64(leaf) for leaf in leaves]
    return array


# What is wrong


def _what_is_wrong_with_rows(instances: Sequence[Any], inputs: Mapping[str, Tensor], named: bool) -> StatusError:
    """The error of the first instance that is wrong."""
    shapes: dict[str, list[int]] = {}
    for number, instance in enumerate(instances):
        if _is_object(instance) != named:
            kinds = ("object", "list") if named else ("value/list", "object")
            return _invalid(f"Expecting {kinds[0]} but got {kinds[1]} at item {number} of input list")
        for name, value in instance.items() if named else ((next(iter(inputs)), instance),):
            error = _what_is_wrong_with_item(name, value, inputs, shapes)
            if error is not None:
                key = f"key: {name} " if named else ""
                return _invalid(
                    f"Failed to process element: {number} {key}of 'instances' list. "
                    f"Error: {error.canonical.name}: {error.message}"
                )
        if named and instance.keys() != inputs.keys():
            return _invalid(
                f"Failed to process element: {number} of 'instances' list. JSON object: {quoted(instance)} "
                f"keys must be equal to: {','.join(sorted(inputs))}"
            )
    return _unreadable(next(iter(inputs)))


def _what_is_wrong_with_item(
    name: str, value: Any, inputs: Mapping[str, Tensor], shapes: dict[str, list[int]]
) -> StatusError | None:
    if name not in inputs:
        return _invalid(f"JSON object: does not have named input: {name}")
    error = _what_is_wrong(value, inputs[name].dtype)
    if error is not None:
        return error
    got = _shape(value)
    expected = shapes.setdefault(name, got)
    if prod(got) != prod(expected):
        return _invalid(f"Expecting tensor size: {prod(expected)} but got: {prod(got)}")
    if got != expected:
        return _invalid(f"Expecting shape {_shown(expected)} but got: {_shown(got)}")
    return None


def _what_is_wrong(value: Any, dtype: str) -> StatusError | None:
    """The error of the first value within `value` that is wrong."""
    shape = _shape(value)
    rank = len(shape)
    walk: list[Iterator[Any]] = [iter((value,))]
    while walk:
        item = next(walk[-1], walk)
        level = len(walk) - 1
        if item is walk:
            walk.pop()
        elif type(item) is not list:
            error = _what_is_wrong_with_leaf(item, dtype, level, rank)
            if error is not None:
                return error
        elif level >= rank:
            return _invalid(f"Encountered list at unexpected level: {level} expected < {rank}")
        elif len(item) != shape[level]:
            return _invalid(
                f"Encountered list at unexpected size: {len(item)} at level: {level} expected size: {shape[level]}"
            )
        else:
            walk.append(iter(item))
    return None


def _what_is_wrong_with_leaf(value: Any, dtype: str, level: int, rank: int) -> StatusError | None:
    if level != rank:
        return _invalid(
            f"JSON Value: {quoted(value)} found at incorrect level: {level + 1} in the JSON DOM. "
            f"Expected at level: {rank}"
        )
    if isinstance(value, dict) and dtype == "string":
        if not is_base64(value):
            return _invalid(f"JSON Value: {quoted(value)} not formatted correctly for base64 data")
        try:
            unbase64(value)
        except StatusError as error:
            return error
        return None
    if not isinstance(value, dict) and dtype not in (*_RANGES, *_DECIMALS, "bool", "string"):
        return StatusError(Code.UNIMPLEMENTED, f"Conversion of JSON Value: {quoted(value)} to type: {type_name(dtype)}")
    if _flat([value], dtype) is None:
        return _invalid(
            f"JSON Value: {quoted(value)} Type: {kind_of(value)} is not of expected type: {type_name(dtype)}"
        )
    return None


def _shape(value: Any) -> list[int]:
    """The shape that the first elements suggest."""
    shape = []
    while type(value) is list:
        shape.append(len(value))
        if not value:
            break
        value = value[0]
    return shape


def _shown(shape: Sequence[int]) -> str:
    return f"[{','.join(map(str, shape))}]"


def _unreadable(name: str) -> StatusError:
    return _invalid(f"tensor parsing error: {name}")


def _invalid(message: str) -> StatusError:
    return StatusError(Code.INVALID_ARGUMENT, message)

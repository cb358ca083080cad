"""The JSON of the REST API's answers, to the byte what RapidJSON's pretty writer makes of them.

Objects and lists take a line for each member, four spaces deeper than the line they begin on; the lists in a row take
one line together. Texts need not be UTF-8, so what is made here is bytes.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from math import prod

import numpy as np

from worker.json_numbers import decimals, integers
from worker.json_quote import INDENT, bytes_text, text
from worker.json_tensor import type_name
from worker.models.servable import Array
from worker.status import Code, StatusError

_WRITABLE = frozenset(
    map(np.dtype, ("float32", "float64", "int8", "uint8", "int16", "int32", "int64", "uint32", "uint64", "bool"))
)


def predictions(outputs: Mapping[str, Array]) -> bytes:
    """The rows: an item for each index of the first dimension, which all outputs must share. Raises StatusError."""
    if not outputs:
        raise _invalid("Cannot convert empty tensor map to JSON")
    size = None
    for name, array in outputs.items():
        if not array.ndim:
            raise _invalid(f"Tensor name: {name} has no shape information ")
        if size not in (None, len(array)):
            raise _invalid(f"Tensor name: {name} has inconsistent batch size: {len(array)} expecting: {size}")
        size = len(array)
    if len(outputs) == 1:
        ((name, array),) = outputs.items()
        items = _nested(name, array, 1, level=2)
        return _object("predictions", _on_one_line(items, ended=True))
    members = [[f"{text(name)}: {item}" for item in _nested(name, array, 1, 3)] for name, array in outputs.items()]
    between = f",\n{INDENT * 3}"
    rows = [f"{{\n{INDENT * 3}{between.join(row)}\n{INDENT * 2}}}" for row in zip(*members, strict=True)]
    return _object("predictions", _on_lines(rows, 1))


def columns(outputs: Mapping[str, Array]) -> bytes:
    """The tensors as they are. Raises StatusError."""
    if not outputs:
        raise _invalid("Cannot convert empty tensor map to JSON")
    if len(outputs) == 1:
        ((name, array),) = outputs.items()
        return _object("outputs", _nested(name, array, 0, 1, one_line=False)[0])
    members = [
        f"{text(name)}: {_nested(name, array, 0, 2, one_line=False)[0]}" for name, array in outputs.items()
    ]  # fmt: skip
    inner = f",\n{INDENT * 2}".join(members)
    return _object("outputs", f"{{\n{INDENT * 2}{inner}\n{INDENT}}}")


def classifications(found: Sequence[Sequence[tuple[bytes, float]]]) -> bytes:
    """For each example the labels and their scores."""
    scores = iter(decimals(np.array([score for classes in found for _, score in classes], np.float32)))
    items = [f"[{', '.join(f'[{bytes_text(label)}, {next(scores)}]' for label, _ in classes)}]" for classes in found]
    return _object("results", _on_one_line(items, ended=True))


def regressions(found: Sequence[float]) -> bytes:
    """For each example its number."""
    return _object("results", _on_one_line(decimals(np.array(found, np.float32)), ended=False))


def error(message: str) -> bytes:
    """What went wrong, in UTF-8 whatever the message quotes: nobody should fail to read why he failed."""
    return _object("error", text(message.encode("utf-8", "surrogateescape").decode("utf-8", "replace")))


def _object(key: str, value: str) -> bytes:
    return f'{{\n{INDENT}"{key}": {value}\n}}'.encode("utf-8", "surrogateescape")


def _on_one_line(items: Sequence[str], *, ended: bool) -> str:
    """A list; `ended` on a line of its own, as by a writer who hears of single lines only when the list has begun."""
    return f"[{', '.join(items)}{chr(10) + INDENT if ended and items else ''}]"


def _on_lines(items: Sequence[str], level: int) -> str:
    """A list that begins on a line with that many indentations."""
    if not items:
        return "[]"
    between = f",\n{INDENT * (level + 1)}"
    return f"[\n{INDENT * (level + 1)}{between.join(items)}\n{INDENT * level}]"


def _nested(name: str, array: Array, kept: int, level: int, one_line: bool = True) -> list[str]:
    """The texts of the parts of `array` that the first `kept` dimensions count; each begins at that level."""
    depth = array.ndim - kept
    items = _flat(name, array, level + depth)
    for dimension in range(array.ndim - 1, kept - 1, -1):
        size = array.shape[dimension]
        starts = range(0, prod(array.shape[:dimension]) * size, size) if size else ()
        lists = [items[start : start + size] for start in starts] or [[]] * prod(array.shape[:dimension])
        inner = level + dimension - kept
        items = [f"[{', '.join(one)}]" if one_line else _on_lines(one, inner) for one in lists]
    return items


def _flat(name: str, array: Array, level: int) -> list[str]:
    """The text of every value, in order."""
    flat = array.ravel()
    if flat.dtype == object:
        if not name.endswith("_bytes"):
            return [bytes_text(value) for value in flat]
        outer, inner = INDENT * level, INDENT * (level + 1)
        return [f'{{\n{inner}"b64": "{base64.b64encode(value).decode()}"\n{outer}}}' for value in flat]
    if flat.size and flat.dtype not in _WRITABLE:
        raise _invalid(f"Failed to write JSON value for tensor type: {type_name(flat.dtype.name)}")
    return decimals(flat) if flat.dtype.kind == "f" else integers(flat)


def _invalid(message: str) -> StatusError:
    return StatusError(Code.INVALID_ARGUMENT, message)

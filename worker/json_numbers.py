"""Numbers as TensorFlow Serving writes them, a whole array at a time.

A decimal takes six digits ("%g") if these read back to the same value, else as many as its type can ever need; without
a point or an exponent it gets ".0". What is not finite is written bare. Many numbers are written by calls that take
them all, because one call for each would take longer than most models; for a few the arrays would be what takes long.
"""

from __future__ import annotations

import struct
from math import isfinite, isnan
from typing import Any, Final

import numpy as np
import orjson
from numpy.typing import NDArray

FEW: Final = 16
MANY: Final = 16 * 1024
"""So many are written by one call. Nothing else runs in this process meanwhile, so larger arrays take several."""
_SINGLE: Final = struct.Struct("f")
_MOST_DIGITS: Final = {np.dtype(np.float32): 9, np.dtype(np.float64): 17}
_LARGEST_SINGLE: Final = float(np.finfo(np.float32).max)


def decimals(values: NDArray[Any]) -> list[str]:
    """The texts of `values`, float32 or float64, of one dimension."""
    if len(values) <= FEW:
        single = values.dtype == np.float32
        return [_decimal(value, single) for value in values.tolist()]
    if len(values) > MANY:
        return [text for piece in _pieces(values) for text in decimals(piece)]
    finite = np.isfinite(values)
    if finite.all():
        return _finite(values)
    texts = _finite(np.where(finite, values, 0))
    for index in np.flatnonzero(~finite).tolist():
        texts[index] = _not_finite(values[index])
    return texts


def decimal(value: float) -> str:
    """The text of one number: as a float32 if it is in the range of that type, else as a float64."""
    if abs(value) <= _LARGEST_SINGLE:
        (value,) = _SINGLE.unpack(_SINGLE.pack(value))
        return _decimal(value, single=True)
    return _decimal(value, single=False)


def integers(values: NDArray[Any]) -> list[str]:
    """The texts of integers or booleans, of one dimension."""
    if not values.size:
        return []
    if len(values) > MANY:
        return [text for piece in _pieces(values) for text in integers(piece)]
    return orjson.dumps(values, option=orjson.OPT_SERIALIZE_NUMPY)[1:-1].decode().split(",")


def _pieces(values: NDArray[Any]) -> list[NDArray[Any]]:
    return [values[start : start + MANY] for start in range(0, len(values), MANY)]


def _decimal(value: float, single: bool) -> str:
    if not isfinite(value):
        return _not_finite(value)
    text = f"{value:g}"
    read = float(text)
    if single:
        (read,) = _SINGLE.unpack(_SINGLE.pack(read))
    if read != value:
        text = f"{value:.9g}" if single else f"{value:.17g}"
    return text if "." in text or "e" in text else f"{text}.0"


def _not_finite(value: float) -> str:
    return "NaN" if isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _finite(values: NDArray[Any]) -> list[str]:
    texts = _format("%g", values)
    read = np.array(orjson.loads("[" + ",".join(texts) + "]"), np.float64).astype(values.dtype)
    longer = np.flatnonzero(read != values)
    if longer.size:
        digits = _MOST_DIGITS[values.dtype]
        for index, text in zip(longer.tolist(), _format(f"%.{digits}g", values[longer]), strict=True):
            texts[index] = text
    for index in np.flatnonzero(values == np.rint(values)).tolist():
        if "e" not in texts[index]:
            texts[index] += ".0"
    return texts


def _format(form: str, values: NDArray[Any]) -> list[str]:
    return (",".join([form] * len(values)) % tuple(values.tolist())).split(",")

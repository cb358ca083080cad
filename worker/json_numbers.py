"""Numbers as TensorFlow Serving writes them, a whole array at a time.

A decimal takes six digits ("%g") if these read back to the same value, else as many as its type can ever need; without
a point or an exponent it gets ".0". What is not finite is written bare. All work is done by calls that take the whole
array, because one call for each number would take longer than most models.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

_MOST_DIGITS = {np.dtype(np.float32): 9, np.dtype(np.float64): 17}


def decimals(values: NDArray[Any]) -> list[str]:
    """The texts of `values`, float32 or float64, of one dimension."""
    finite = np.isfinite(values)
    if finite.all():
        return _finite(values)
    texts = _finite(np.where(finite, values, 0))
    for index in np.flatnonzero(~finite):
        value = values[index]
        texts[index] = "NaN" if np.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return texts


def decimal(value: float) -> str:
    """The text of one number: as a float32 if it is in the range of that type, else as a float64."""
    narrow = abs(value) <= float(np.finfo(np.float32).max)
    return decimals(np.array([value], np.float32 if narrow else np.float64))[0]


def integers(values: NDArray[Any]) -> list[str]:
    """The texts of integers or booleans, of one dimension."""
    if values.dtype == np.bool_:
        return ["true" if value else "false" for value in values.tolist()]
    return list(map(str, values.tolist()))


def _finite(values: NDArray[Any]) -> list[str]:
    if not values.size:
        return []
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

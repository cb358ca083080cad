"""TensorFlow's element types: their numbers, their NumPy types, and the field of a TensorProto that holds their values.

Names are those of `worker.models.servable.Tensor.dtype`. Quantised types are structured NumPy types, for that is how
TensorFlow is told them apart from plain integers; what it returns for them is plain. Types that a client cannot send
a value of, resources and variants, are not here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import ml_dtypes
import numpy as np
from numpy.typing import DTypeLike, NDArray

from worker.messages.tensors import DataType


@dataclass(frozen=True, slots=True)
class ElementType:
    """One type. `stored` is the type of the values in `field`, of which each element takes `parts`."""

    name: str
    number: int
    dtype: np.dtype[Any]
    field: str
    stored: np.dtype[Any]
    parts: int = 1

    @property
    def enum(self) -> str:
        """The name that messages to users have for it, such as `DT_FLOAT`."""
        return str(DataType.values_by_number[self.number].name)


def _type(name: str, enum: str, dtype: DTypeLike, field: str, stored: DTypeLike, parts: int = 1) -> ElementType:
    number = DataType.values_by_name[enum].number
    return ElementType(name, number, np.dtype(dtype), field, np.dtype(stored), parts)


_INTEGERS: tuple[tuple[str, DTypeLike], ...] = (
    ("int32", np.int32), ("uint8", np.uint8), ("int16", np.int16), ("int8", np.int8), ("uint16", np.uint16),
    ("qint8", [("qint8", "i1")]), ("quint8", [("quint8", "u1")]), ("qint32", [("qint32", "<i4")]),
    ("qint16", [("qint16", "<i2")]), ("quint16", [("quint16", "<u2")]),
)  # fmt: skip
_SMALL = {
    "int_val": ("int4", "uint4", "int2", "uint2"),
    "float8_val": (
        "float8_e5m2", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e4m3b11fnuz", "float8_e5m2fnuz", "float4_e2m1fn",
    ),
}  # fmt: skip
"""Types that NumPy knows from ml_dtypes, which learns one or the other with each version."""
TYPES: Final = (
    _type("float32", "DT_FLOAT", np.float32, "float_val", "<f4"),
    _type("float64", "DT_DOUBLE", np.float64, "double_val", "<f8"),
    _type("string", "DT_STRING", object, "string_val", object),
    _type("complex64", "DT_COMPLEX64", np.complex64, "scomplex_val", "<f4", 2),
    _type("complex128", "DT_COMPLEX128", np.complex128, "dcomplex_val", "<f8", 2),
    _type("int64", "DT_INT64", np.int64, "int64_val", np.int64),
    _type("uint32", "DT_UINT32", np.uint32, "uint32_val", np.uint32),
    _type("uint64", "DT_UINT64", np.uint64, "uint64_val", np.uint64),
    _type("bool", "DT_BOOL", np.bool_, "bool_val", np.bool_),
    _type("float16", "DT_HALF", np.float16, "half_val", np.uint16),
    _type("bfloat16", "DT_BFLOAT16", ml_dtypes.bfloat16, "half_val", np.uint16),
    *(_type(name, f"DT_{name.upper()}", dtype, "int_val", np.int32) for name, dtype in _INTEGERS),
    *(
        _type(name, f"DT_{name.upper()}", getattr(ml_dtypes, name), field, {"int_val": "i4", "float8_val": "u1"}[field])
        for field, names in _SMALL.items()
        for name in names
        if hasattr(ml_dtypes, name)
    ),
)
BY_NUMBER: Final = {kind.number: kind for kind in TYPES}
BY_NAME: Final = {kind.name: kind for kind in TYPES}
_BY_DTYPE: Final = {kind.dtype: kind for kind in TYPES}


def type_of(array: NDArray[Any]) -> ElementType:
    """The type of the array's elements, as far as the array itself can tell."""
    return _BY_DTYPE[array.dtype]

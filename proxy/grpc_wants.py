"""Which model a gRPC request wants, read off its bytes without decoding it. Pure.

Every request of TensorFlow Serving's begins with a `ModelSpec`, or holds tasks that do:

    PredictRequest, ClassificationRequest, RegressionRequest,
    GetModelMetadataRequest, GetModelStatusRequest      model_spec = 1
    MultiInferenceRequest                               tasks = 1 { model_spec = 1 }, of which the first counts
    ModelSpec                                           name = 1, version = 2 { value = 1 }, version_label = 4

Only the fields' heads are looked at; what is in between, tensors for the most part, is stepped over. What is no
message, or has more fields than anybody sends, wants nothing in particular: the worker says what is wrong with it.
"""

from __future__ import annotations

from collections.abc import Iterator

from proxy.wants import Want

SERVICE = "/tensorflow.serving."
UNARY = frozenset(
    SERVICE + method
    for method in (
        "PredictionService/Predict", "PredictionService/Classify", "PredictionService/Regress",
        "PredictionService/MultiInference", "PredictionService/GetModelMetadata", "ModelService/GetModelStatus",
    )
)  # fmt: skip
"""The methods that take one request that names a model, and give one answer."""
READ_ONLY = frozenset((SERVICE + "PredictionService/GetModelMetadata", SERVICE + "ModelService/GetModelStatus"))
MAX_FIELDS = 1000
"""So many fields of one message are looked at."""
_NESTED = SERVICE + "PredictionService/MultiInference"
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_INT64 = 1 << 64


class _NoMessageError(ValueError):
    """These bytes are no message of ours."""


def wanted(method: str, request: bytes) -> Want:
    """What a request of one of the `UNARY` methods needs."""
    try:
        start, end = 0, len(request)
        if method == _NESTED:
            start, end = next(_messages(request, start, end), (0, 0))
        return _spec(request, start, end)
    except _NoMessageError:
        return Want(grpc=True)


def _spec(data: bytes, start: int, end: int) -> Want:
    """What the `model_spec = 1` of the message there says; a field that comes twice is merged, as protobuf has it."""
    name, version = b"", None
    for spec in _messages(data, start, end):
        for field, kind, value, stop in _fields(data, *spec):
            if kind != _LENGTH:
                continue
            if field == 1:
                name = data[value:stop]
            elif field == 2:
                version = _int64(data, value, stop)
            elif field == 4:
                version = None  # of a version and a label, the last one counts
    return Want(name.decode(errors="replace") or None, version, grpc=True)


def _int64(data: bytes, start: int, end: int) -> int:
    number = 0
    for field, kind, value, _ in _fields(data, start, end):
        if (field, kind) == (1, _VARINT):
            number = value
    return number - _INT64 if number >= _INT64 // 2 else number


def _messages(data: bytes, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Where each message in field 1 of the message there begins and ends."""
    for field, kind, value, stop in _fields(data, start, end):
        if (field, kind) == (1, _LENGTH):
            yield value, stop


def _fields(data: bytes, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Each field's number and kind; then its value and 0 for a varint, else where its bytes begin and end."""
    for _ in range(MAX_FIELDS):
        if start >= end:
            return
        tag, start = _varint(data, start, end)
        kind = tag & 7
        if kind == _VARINT:
            value, start = _varint(data, start, end)
            yield tag >> 3, kind, value, 0
            continue
        if kind == _LENGTH:
            size, start = _varint(data, start, end)
        elif kind in (_FIXED32, _FIXED64):
            size = 4 if kind == _FIXED32 else 8
        else:
            raise _NoMessageError
        if size > end - start:
            raise _NoMessageError
        yield tag >> 3, kind, start, start + size
        start += size
    raise _NoMessageError


def _varint(data: bytes, start: int, end: int) -> tuple[int, int]:
    number = 0
    for place in range(start, min(start + 10, end)):
        number |= (data[place] & 0x7F) << (7 * (place - start))
        if data[place] < 0x80:
            return number & (_INT64 - 1), place + 1
    raise _NoMessageError

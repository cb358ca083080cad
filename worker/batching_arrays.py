"""Several requests' tensors as those of one model call, and its results as theirs again.

A request is a list of arrays whose first dimension is its rows. Whatever is merged, padded and cut here, each request
gets back what the model says about its own rows. Pure; the errors are TensorFlow Serving's.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from itertools import accumulate, pairwise

import numpy as np

from worker.models.servable import Array
from worker.status import Code, StatusError

_RANKS = range(1, 7)


def rows_of(arrays: Sequence[Array]) -> int:
    """The rows of a request. Raises StatusError, INVALID_ARGUMENT, if it has none in common."""
    if not arrays:
        raise StatusError(Code.INVALID_ARGUMENT, "Batching session Run() must have at least one input tensor")
    if any(array.ndim == 0 for array in arrays):
        raise StatusError(
            Code.INVALID_ARGUMENT, "Batching session Run() input tensors must have at least one dimension"
        )
    rows = len(arrays[0])
    if any(len(array) != rows for array in arrays):
        raise StatusError(
            Code.INVALID_ARGUMENT, "Batching session Run() input tensors must have equal 0th-dimension size"
        )
    return rows


def kind_of(arrays: Sequence[Array], pads_lengths: bool) -> Hashable:
    """Requests of one kind can run in one call. Raises StatusError, INVALID_ARGUMENT, for what cannot be padded."""
    if not pads_lengths:
        return tuple((array.dtype, array.shape[1:]) for array in arrays)
    if any(array.ndim not in _RANKS for array in arrays):
        raise StatusError(Code.INVALID_ARGUMENT, "Only tensors with rank from 1 to 6 can be padded.")
    return tuple((array.dtype, array.ndim) for array in arrays)


def pieces_of(arrays: Sequence[Array], size: int) -> list[list[Array]]:
    """A request as several of at most `size` rows, in order; at least one."""
    return [[array[start : start + size] for array in arrays] for start in range(0, max(len(arrays[0]), 1), size)]


def merged(tasks: Sequence[Sequence[Array]], rows: int) -> list[Array]:
    """The requests, all of one kind, below each other and padded to `rows` rows with the first row of the last one.

    Where they differ in inner dimensions each array is first padded to the largest, with its own first element.
    """
    missing = rows - sum(len(task[0]) for task in tasks)
    if len(tasks) == 1 and not missing:
        return list(tasks[0])
    return [_column(column, missing) for column in zip(*tasks, strict=True)]


def cut(outputs: Sequence[Array], counts: Sequence[int], rows: int) -> list[list[Array]]:
    """The results of a call of `rows` rows for requests of `counts` rows; what is left over was padding.

    Raises StatusError, FAILED_PRECONDITION, if they are not by rows.
    """
    for output in outputs:
        if output.ndim == 0:
            raise StatusError(Code.FAILED_PRECONDITION, "Batched output tensor has 0 dimensions")
        if len(output) != rows:
            raise StatusError(
                Code.FAILED_PRECONDITION,
                "Batched output tensor's 0th dimension does not equal the sum of the 0th dimension sizes of the input "
                f"tensors. 0th dimension size: {len(output)}; batch size: {sum(counts)}; "
                f"padding size: {rows - sum(counts)}",
            )
    if len(counts) == 1 and counts[0] == rows:
        return [list(outputs)]
    return [[output[start:end] for output in outputs] for start, end in pairwise(accumulate(counts, initial=0))]


def joined(pieces: Sequence[Sequence[Array]]) -> list[Array]:
    """The results of a request's pieces as those of the request. Raises StatusError if they do not fit together."""
    if len(pieces) == 1:
        return list(pieces[0])
    try:
        return [np.concatenate(column) for column in zip(*pieces, strict=True)]
    except ValueError:
        raise StatusError(
            Code.FAILED_PRECONDITION, "the request was run in several calls, and their results differ in shape"
        ) from None


def _column(arrays: Sequence[Array], missing: int) -> Array:
    inner = {array.shape[1:] for array in arrays}
    if len(inner) > 1:
        largest = tuple(map(max, zip(*inner, strict=True)))
        arrays = [_widened(array, largest) for array in arrays]
    if missing:
        last = next((array for array in reversed(arrays) if len(array)), None)
        if last is not None:
            arrays = [*arrays, np.repeat(last[:1], missing, axis=0)]
    return np.concatenate(arrays)


def _widened(array: Array, inner: tuple[int, ...]) -> Array:
    if array.shape[1:] == inner:
        return array
    first = array.flat[0] if array.size else (b"" if array.dtype == object else 0)
    wide = np.full((len(array), *inner), first, array.dtype)
    wide[tuple(slice(0, side) for side in array.shape)] = array
    return wide

"""Merging, padding, cutting: whatever is done to requests on the way, each gets what the model says of its own rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.batching_arrays import cut, joined, kind_of, merged, pieces_of, rows_of
from worker.models.servable import Array
from worker.status import Code, StatusError

TYPES = (np.float32, np.int64, np.bool_, object)


def numbered(shape: tuple[int, ...], dtype: Any, start: int) -> Array:
    """An array of different values; strings if it is of objects."""
    values = np.arange(start, start + int(np.prod(shape))).reshape(shape)
    if dtype is not object:
        return values.astype(dtype)
    texts = np.empty(shape, object)
    for index, value in np.ndenumerate(values):
        texts[index] = b"%d" % value
    return texts


@st.composite
def requests(draw: st.DrawFn, same_shape: bool) -> list[list[Array]]:
    """Requests of one kind: one or two tensors each."""
    dtypes = draw(st.lists(st.sampled_from(TYPES), min_size=1, max_size=2))
    ranks = [draw(st.integers(0, 3)) for _ in dtypes]
    inner = [tuple(draw(st.integers(0, 3)) for _ in range(rank)) for rank in ranks]
    tasks = []
    for number in range(draw(st.integers(1, 5))):
        rows = draw(st.integers(0, 4))
        if not same_shape:
            inner = [tuple(draw(st.integers(1, 3)) for _ in range(rank)) for rank in ranks]
        tasks.append([
            numbered((rows, *sides), dtype, 100 * number) for dtype, sides in zip(dtypes, inner, strict=True)
        ])  # fmt: skip
    return tasks


@given(requests(same_shape=True), st.integers(0, 5))
def test_a_model_that_works_by_rows_tells_each_request_what_it_would_tell_it_alone(
    tasks: list[list[Array]], missing: int
) -> None:
    counts = [rows_of(task) for task in tasks]
    size = sum(counts) + missing if sum(counts) else 0
    columns = merged(tasks, size)
    assert all(len(column) == size for column in columns)
    for task, results in zip(tasks, cut(columns, counts, size), strict=True):
        for given_in, came_out in zip(task, results, strict=True):
            assert came_out.dtype == given_in.dtype
            assert came_out.tolist() == given_in.tolist()


@given(requests(same_shape=False))
def test_lengths_are_padded_to_the_largest_with_the_first_element_of_each_tensor(tasks: list[list[Array]]) -> None:
    assert len({kind_of(task, pads_lengths=True) for task in tasks}) == 1
    counts = [len(task[0]) for task in tasks]
    for task, results in zip(tasks, cut(merged(tasks, sum(counts)), counts, sum(counts)), strict=True):
        for number, (given_in, came_out) in enumerate(zip(task, results, strict=True)):
            largest = tuple(max(other[number].shape[side] for other in tasks) for side in range(1, given_in.ndim))
            assert came_out.shape == (len(given_in), *largest)
            own = tuple(slice(0, side) for side in given_in.shape)
            assert came_out[own].tolist() == given_in.tolist()
            padding = came_out.copy()
            if given_in.size:
                padding[own] = given_in.flat[0]
                assert set(padding.ravel().tolist()) == {given_in.flat[0]}


@given(requests(same_shape=True), st.integers(1, 3))
def test_a_request_in_pieces_is_itself_again(tasks: list[list[Array]], size: int) -> None:
    pieces = pieces_of(tasks[0], size)
    assert all(len(array) <= size for piece in pieces for array in piece)
    for whole, again in zip(tasks[0], joined(pieces), strict=True):
        assert (again.dtype, again.tolist()) == (whole.dtype, whole.tolist())


def test_missing_rows_are_copies_of_the_first_row_of_the_last_request() -> None:
    first, last = np.array([[1.0], [2.0]]), np.array([[3.0], [4.0]])
    assert merged([[first], [last]], 6)[0].ravel().tolist() == [1, 2, 3, 4, 3, 3]


def test_a_request_that_fills_its_call_is_not_copied() -> None:
    array = np.zeros((4, 2))
    assert merged([[array]], 4)[0] is array
    assert cut([array], [4], 4)[0][0] is array


@pytest.mark.parametrize(
    ("arrays", "sentence"),
    [
        ([], "at least one input tensor"),
        ([np.zeros(2), np.zeros(())], "input tensors must have at least one dimension"),
        ([np.zeros((2, 1)), np.zeros((3, 1))], "input tensors must have equal 0th-dimension size"),
    ],
)
def test_a_request_without_rows_cannot_be_batched(arrays: list[Array], sentence: str) -> None:
    with pytest.raises(StatusError, match=sentence) as caught:
        rows_of(arrays)
    assert caught.value.canonical is Code.INVALID_ARGUMENT


def test_only_ranks_up_to_six_are_padded() -> None:
    with pytest.raises(StatusError, match="rank from 1 to 6") as caught:
        kind_of([np.zeros((1,) * 7)], pads_lengths=True)
    assert caught.value.canonical is Code.INVALID_ARGUMENT


@pytest.mark.parametrize(("output", "sentence"), [
    (np.zeros(()), "Batched output tensor has 0 dimensions"),
    (np.zeros(3), "0th dimension does not equal the sum of the 0th dimension sizes"),
])  # fmt: skip
def test_results_that_are_not_by_rows_cannot_be_given_back(output: Array, sentence: str) -> None:
    with pytest.raises(StatusError, match=sentence) as caught:
        cut([output], [1, 1], 2)
    assert caught.value.canonical is Code.FAILED_PRECONDITION


def test_pieces_whose_results_differ_in_shape_are_an_error_with_a_reason() -> None:
    with pytest.raises(StatusError, match="differ in shape") as caught:
        joined([[np.zeros((1, 2))], [np.zeros((1, 3))]])
    assert caught.value.canonical is Code.FAILED_PRECONDITION


def test_tensors_of_another_type_or_shape_are_of_another_kind() -> None:
    one = [np.zeros((2, 3), np.float32)]
    assert kind_of(one, False) == kind_of([np.ones((5, 3), np.float32)], False)
    assert kind_of(one, False) != kind_of([np.zeros((2, 4), np.float32)], False)
    assert kind_of(one, True) == kind_of([np.zeros((2, 4), np.float32)], True)
    assert kind_of(one, True) != kind_of([np.zeros((2, 3), np.float64)], True)
    assert kind_of(one, True) != kind_of([np.zeros((2, 3, 1), np.float32)], True)

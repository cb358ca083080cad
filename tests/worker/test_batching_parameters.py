"""BatchingParameters: the names, defaults and refusals of TensorFlow Serving."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.batching_parameters import Batching, batching_beside, batching_from, batching_of
from worker.messages.config import BadConfig, BatchingParameters, parse_config
from worker.settings import WorkerSettings
from worker.status import Code, StatusError


def read(text: str) -> Batching:
    return batching_from(parse_config(text.encode(), BatchingParameters, "the test"))


def test_an_empty_file_means_the_defaults() -> None:
    assert read("") == Batching() == Batching(1000, 1000, 0.0, 10, None, (), False)


def test_every_parameter_is_read() -> None:
    text = """
        max_batch_size { value: 128 }  batch_timeout_micros { value: 2500 }  max_enqueued_batches { value: 7 }
        num_batch_threads { value: 3 }  thread_pool_name { value: "pool" }  pad_variable_length_inputs: true
        enable_large_batch_splitting { value: true }  max_execution_batch_size { value: 32 }
        allowed_batch_sizes: 8  allowed_batch_sizes: 32
    """
    assert read(text) == Batching(128, 32, 0.0025, 7, 3, (8, 32), True)


def test_without_splitting_the_size_of_an_execution_says_nothing() -> None:
    assert read("max_batch_size { value: 64 } max_execution_batch_size { value: 8 }").size == 64


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("max_batch_size { value: 0 }", "max_batch_size must be positive; was 0"),
        ("batch_timeout_micros { value: -1 }", "batch_timeout_micros must be non-negative; was -1"),
        ("max_enqueued_batches { value: -1 }", "max_enqueued_batches must be non-negative; was -1"),
        ("num_batch_threads { value: 0 }", "num_batch_threads must be positive; was 0"),
        ("allowed_batch_sizes: 8 allowed_batch_sizes: 8", "must be positive and monotonically increasing"),
        ("allowed_batch_sizes: 0 allowed_batch_sizes: 1000", "must be positive and monotonically increasing"),
        ("max_batch_size { value: 16 } allowed_batch_sizes: 8", "to max_batch_size; last entry was 8; expected 16"),
        ("max_batch_size { value: 16 } allowed_batch_sizes: 16 enable_large_batch_splitting { value: true } "
         "max_execution_batch_size { value: 8 }", "equal to max_execution_batch_size; last entry was 16; expected 8"),
        ("max_batch_size { value: 16 } enable_large_batch_splitting { value: true } "
         "max_execution_batch_size { value: 32 }", "must not be larger than max_batch_size 16"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_with_its_reason(text: str, sentence: str) -> None:
    with pytest.raises(StatusError, match=sentence) as caught:
        read(text)
    assert caught.value.canonical is Code.INVALID_ARGUMENT


@given(st.sets(st.integers(1, 100), min_size=1), st.integers(0, 100))
def test_a_call_is_padded_to_the_next_allowed_size(allowed: set[int], rows: int) -> None:
    batching = Batching(sizes=tuple(sorted(allowed)))
    fits = [size for size in allowed if size >= rows]
    assert batching.padded(rows) == (min(fits) if fits else rows)


def test_nothing_is_batched_unless_asked_for(tmp_path: Path) -> None:
    assert batching_of(WorkerSettings()) is None
    assert batching_of(WorkerSettings(enable_batching=True)) == Batching()
    file = tmp_path / "parameters"
    file.write_text("max_batch_size { value: 5 }")
    assert batching_of(WorkerSettings(enable_batching=True, batching_parameters_file=str(file))) == Batching(5, 5)


@pytest.mark.parametrize("flag", [{"batching_parameters_file": "x"}, {"enable_per_model_batching_parameters": True}])
def test_parameters_without_batching_are_refused(flag: dict[str, str | bool]) -> None:
    with pytest.raises(StatusError, match="not --enable_batching"):
        batching_of(WorkerSettings(**flag))  # type: ignore[arg-type]


def test_a_file_that_is_no_such_thing_is_named(tmp_path: Path) -> None:
    file = tmp_path / "parameters"
    file.write_text("max_batch_size: 5")
    with pytest.raises(BadConfig, match="parameters"):
        batching_of(WorkerSettings(enable_batching=True, batching_parameters_file=str(file)))
    with pytest.raises(FileNotFoundError):
        batching_of(WorkerSettings(enable_batching=True, batching_parameters_file=str(tmp_path / "nothing")))


def test_a_version_may_bring_its_own(tmp_path: Path) -> None:
    assert batching_beside(tmp_path) is None
    (tmp_path / "batching_params.pbtxt").write_text("max_batch_size { value: 5 }")
    assert batching_beside(tmp_path) == Batching(5, 5)

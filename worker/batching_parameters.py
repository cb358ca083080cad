"""How requests share model calls, as operators say it: TensorFlow Serving's BatchingParameters, checked.

The names and defaults are theirs, and so are the reasons for which parameters are refused. `batching_of` reads what the
flags point to, `batching_beside` what stands in a version's directory.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worker.messages.config import BatchingParameters, read_config
from worker.serving_settings import ServingSettings
from worker.status import Code, StatusError

BESIDE = "batching_params.pbtxt"
"""The file in a version's directory, if --enable_per_model_batching_parameters."""


@dataclass(frozen=True, slots=True)
class Batching:
    """Checked parameters, in rows (first dimensions), seconds and batches."""

    largest: int = 1000
    """Rows of the largest request."""
    size: int = 1000
    """Rows of the largest model call; a larger request is cut into several calls."""
    wait: float = 0.0
    """How long a batch may stay open for more although a thread is free."""
    backlog: int = 10
    """Batches of one queue that may be there and not begun."""
    threads: int | None = None
    """Model calls at the same time, over all models; None leaves it to other settings."""
    sizes: tuple[int, ...] = ()
    """A call is padded up to the next of these, if there are any."""
    pads_lengths: bool = False
    """Are inner dimensions padded to the largest in the batch? Else only requests that agree in them share a call."""

    def padded(self, rows: int) -> int:
        """The rows of the call in which `rows` rows run."""
        return next((size for size in self.sizes if size >= rows), rows)


def batching_from(message: Any) -> Batching:
    """What a BatchingParameters message asks for. Raises StatusError, INVALID_ARGUMENT, if that cannot be."""
    largest = _value(message, "max_batch_size", 1000, at_least=1)
    size = largest
    if message.enable_large_batch_splitting.value:
        size = _value(message, "max_execution_batch_size", largest, at_least=1)
        if size > largest:
            raise _refused(f"max_execution_batch_size {size} must not be larger than max_batch_size {largest}")
    sizes = tuple(message.allowed_batch_sizes)
    if any(after <= before for before, after in zip((0, *sizes), sizes, strict=False)):
        raise _refused("allowed_batch_sizes entries must be positive and monotonically increasing")
    if sizes and sizes[-1] != size:
        last = "max_execution_batch_size" if message.enable_large_batch_splitting.value else "max_batch_size"
        raise _refused(
            f"Last entry in allowed_batch_sizes must be equal to {last}; last entry was {sizes[-1]}; expected {size}"
        )
    return Batching(
        largest,
        size,
        _value(message, "batch_timeout_micros", 0, at_least=0) / 1e6,
        max(_value(message, "max_enqueued_batches", 10, at_least=0), 1),  # the batch that is open is one of them
        _value(message, "num_batch_threads", 0, at_least=1) if message.HasField("num_batch_threads") else None,
        sizes,
        message.pad_variable_length_inputs,
    )


def batching_of(settings: ServingSettings) -> Batching | None:
    """What the flags ask for; None without --enable_batching. Reads the file that they name.

    Raises StatusError, INVALID_ARGUMENT, for what cannot be, BadConfig for a file that cannot be read as parameters,
    OSError for one that cannot be read at all.
    """
    if not settings.enable_batching:
        for name in ("batching_parameters_file", "enable_per_model_batching_parameters"):
            if getattr(settings, name):
                raise _refused(f"--{name} is given, but not --enable_batching")
        return None
    file = settings.batching_parameters_file
    return batching_from(read_config(Path(file), BatchingParameters)) if file else Batching()


def batching_beside(directory: Path) -> Batching | None:
    """What the version in `directory` asks for itself; None if it does not. Raises as `batching_of` does."""
    file = directory / BESIDE
    return batching_from(read_config(file, BatchingParameters)) if file.is_file() else None


def _value(message: Any, name: str, default: int, *, at_least: int) -> int:
    value: int = getattr(message, name).value if message.HasField(name) else default
    if message.HasField(name) and value < at_least:
        raise _refused(f"{name} must be {'positive' if at_least else 'non-negative'}; was {value}")
    return value


def _refused(sentence: str) -> StatusError:
    return StatusError(Code.INVALID_ARGUMENT, sentence)

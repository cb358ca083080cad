"""TensorFlow Lite files: one `.tflite` file, run by interpreters of which each call has one to itself.

What TensorFlow Serving's users expect of them holds here: a file's signatures are those that TensorFlow wrote into its
metadata; a file without any has one, made of its tensors' names. Inputs are resized to whatever shape a request brings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Lock

import numpy as np

from worker.models.graph import first_line
from worker.models.options import LoadOptions
from worker.models.servable import Array, ModelProblem, Run, Signature, Tensor
from worker.models.tensorflow_quietly import tf
from worker.models.tflite_signatures import LiteTensors, lite_signatures
from worker.status import Code, StatusError


class LiteModel:
    """A loaded file. There are as many interpreters as there were calls at the same time, and one at least."""

    def __init__(self, content: bytes, threads: int) -> None:
        self._content = content
        self._threads = threads
        self._lock = Lock()
        first = Interpreter(content, threads)
        self._free = [first]
        self._tensors = first.tensors
        self.signatures: Mapping[str, Signature] = lite_signatures(content, first.tensors)
        self.pure = frozenset(self.signatures)

    def function(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> Run:
        """See Servable."""
        feeds = [self._tensors.input(tensor.name) for tensor in inputs]
        fetches = [self._tensors.output(tensor.name) for tensor in outputs]

        def run(*arrays: Array) -> list[Array]:
            interpreter = self._take()
            results = interpreter.run(dict(zip(feeds, arrays, strict=True)), fetches)
            with self._lock:
                self._free.append(interpreter)  # only now: one that failed is in nobody knows what state
            return results

        return run

    def close(self) -> None:
        """See Servable."""
        with self._lock:
            self._free.clear()

    def _take(self) -> Interpreter:
        with self._lock:
            if self._free:
                return self._free.pop()
        return Interpreter(self._content, self._threads)


class Interpreter:
    """One interpreter, which one thread at a time may use. `tensors` are the model's."""

    def __init__(self, content: bytes, threads: int) -> None:
        self._interpreter = tf.lite.Interpreter(model_content=content, num_threads=threads)
        self._interpreter.allocate_tensors()
        self.tensors = LiteTensors(self._interpreter.get_input_details(), self._interpreter.get_output_details())
        self._shapes = dict(self.tensors.shapes)

    def run(self, feeds: Mapping[int, Array], fetches: Sequence[int]) -> list[Array]:
        """The tensors with the numbers `fetches` for `feeds`, values by number. Raises StatusError."""
        # An interpreter does not understand a text without dimensions: it would read memory that is none of its own.
        feeds = {index: np.atleast_1d(array) if array.dtype == object else array for index, array in feeds.items()}
        try:
            self._resize(feeds)
            for index, shape in self._shapes.items():
                # What is not fed must not be left from the call before.
                value = feeds[index] if index in feeds else np.zeros(shape, self.tensors.numpy_type(index))
                self._interpreter.set_tensor(index, value)
            self._interpreter.invoke()
            return [np.asarray(self._interpreter.get_tensor(index)) for index in fetches]
        except ValueError as error:  # the wrong type or shape
            raise StatusError(Code.INVALID_ARGUMENT, first_line(error)) from error
        except RuntimeError as error:
            raise StatusError(Code.INTERNAL, f"Failed to run interpreter: {first_line(error)}") from error

    def _resize(self, feeds: Mapping[int, Array]) -> None:
        changed = {index: array.shape for index, array in feeds.items() if array.shape != self._shapes[index]}
        for index, shape in changed.items():
            self._interpreter.resize_tensor_input(index, shape)
        if changed:
            self._interpreter.allocate_tensors()
            self._shapes |= changed


def load_tflite(file: Path, options: LoadOptions) -> LiteModel:
    """The model in `file`. Raises ModelProblem."""
    try:
        return LiteModel(file.read_bytes(), options.intra_op_threads)
    except Exception as error:  # whatever a damaged file makes TensorFlow or flatbuffers raise
        raise ModelProblem(f"the TensorFlow Lite model {file} cannot be loaded: {first_line(error)}") from error

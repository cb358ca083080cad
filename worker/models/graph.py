"""A TensorFlow graph with its session: the one way in which models are run here.

Every kind of model file becomes a `Graph`. Its session lives as long as the model, nothing is built per request, and
calls go through a session callable, which costs a third of `Session.run` and, like TensorFlow Serving, takes tensors by
name. A call computes in the thread that makes it, on one core and without the GIL: two threads that each run a model
serve more images than one call spread over two cores.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

import numpy as np

from worker.models.options import LoadOptions
from worker.models.servable import Array, Run, Signature, Tensor
from worker.models.tensorflow_quietly import tf
from worker.status import Code, StatusError, code_of_number

from tensorflow.core.protobuf import config_pb2  # isort: skip  # TensorFlow is imported quietly, above, or not at all

v1 = tf.compat.v1
_IN_THE_CALLING_THREAD = -1
KEPT = 256
"""So many functions of one graph are kept: callers choose the outputs, and can choose them in very many ways."""


@dataclass(frozen=True, slots=True, eq=False)
class Graph:
    """A loaded model: its session, its signatures by name, and which of them change nothing when they are called."""

    session: Any
    signatures: Mapping[str, Signature]
    pure: frozenset[str] = frozenset()
    inter_op_threads: int = 1
    _functions: dict[tuple[tuple[str, ...], tuple[str, ...]], Run] = field(default_factory=dict)
    _lock: Lock = field(default_factory=Lock)

    def function(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> Run:
        """A function of arrays, one for each of `inputs`, that returns one for each of `outputs`. Thread-safe.

        Its calls raise StatusError. The first one prepares the graph, which may take long.
        """
        fed, fetched = [tensor.name for tensor in inputs], [tensor.name for tensor in outputs]
        # One order of names, so that whoever asks in another one meets the function that is prepared already.
        key = tuple(sorted(fed)), tuple(sorted(set(fetched)))
        with self._lock:
            run = self._functions.get(key)
            if run is None:
                if len(self._functions) == KEPT:
                    del self._functions[next(iter(self._functions))]
                run = self._functions[key] = self._function(*key)
        return run if key == (tuple(fed), tuple(fetched)) else _reordered(run, fed, fetched)

    def _function(self, feeds: Sequence[str], fetches: Sequence[str]) -> Run:
        options = config_pb2.CallableOptions(feed=feeds, fetch=fetches)
        if self.inter_op_threads == 1:
            options.run_options.inter_op_thread_pool = _IN_THE_CALLING_THREAD
        prepared: list[Any] = []
        preparing = Lock()

        def prepare() -> Any:
            with preparing:
                if not prepared:
                    prepared.append(self.session._make_callable_from_options(options))
            return prepared[0]

        def run(*arrays: Array) -> list[Array]:
            try:
                results = (prepared[0] if prepared else prepare())(*arrays)
            except tf.errors.OpError as error:
                raise StatusError(code_of_number(error.error_code), error.message) from error
            except UnicodeDecodeError as error:
                # TensorFlow cannot raise an error that quotes bytes of the request which are no text.
                raise StatusError(Code.INVALID_ARGUMENT, error.object.decode("utf-8", "replace")) from error
            # A tensor without dimensions comes as NumPy's or Python's own scalar.
            return [np.asarray(value, object if isinstance(value, bytes) else None) for value in results]

        return run

    def close(self) -> None:
        """End the session and give its memory back. No call may be under way."""
        with self._lock:
            self._functions.clear()
        self.session.close()


def _reordered(run: Run, fed: Sequence[str], fetched: Sequence[str]) -> Run:
    """The same function for other orders of its arguments and results than the alphabetical ones."""
    places = sorted(range(len(fed)), key=lambda place: fed[place])
    names = sorted(set(fetched))
    wanted = [names.index(name) for name in fetched]

    def reordered(*arrays: Array) -> list[Array]:
        results = run(*(arrays[place] for place in places))
        return [results[place] for place in wanted]

    return reordered


def new_session(options: LoadOptions) -> Any:
    """An empty graph in a session of its own."""
    config = v1.ConfigProto(
        intra_op_parallelism_threads=options.intra_op_threads,
        inter_op_parallelism_threads=options.inter_op_threads,
        device_count={"GPU": 0},
    )
    return v1.Session(graph=tf.Graph(), config=config)


def first_line(error: Exception) -> str:
    """The gist of an error of TensorFlow, which tends to print half a screen."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0].rstrip(".")

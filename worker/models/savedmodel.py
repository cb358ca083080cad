"""SavedModel directories, written by TensorFlow 1 or 2 alike."""

from __future__ import annotations

from pathlib import Path

from worker.models.graph import Graph, first_line, new_session, v1
from worker.models.options import DEFAULTS, LoadOptions
from worker.models.purity import pure_signatures
from worker.models.servable import ModelProblem
from worker.models.signatures import signature_of
from worker.models.tensorflow_quietly import tf


def load_savedmodel(directory: Path, options: LoadOptions = DEFAULTS) -> Graph:
    """The graph in `directory`, with its variables restored and its initialisers run. Raises ModelProblem."""
    session = new_session(options)
    try:
        with session.graph.as_default():
            meta_graph = v1.saved_model.load(session, list(options.tags), str(directory))
        signatures = {key: signature_of(definition) for key, definition in meta_graph.signature_def.items()}
        pure = pure_signatures(meta_graph.graph_def, signatures)
    except Exception as error:  # whatever a damaged file makes TensorFlow raise
        session.close()
        raise ModelProblem(f"the SavedModel in {directory} cannot be loaded: {_meant(error, options)}") from error
    return Graph(session, signatures, pure, options.inter_op_threads)


def _meant(error: Exception, options: LoadOptions) -> str:
    """What TensorFlow means; in some cases its own words lead astray."""
    match error:
        case OSError():
            return "its saved_model.pb is damaged"
        case RuntimeError():
            tags = " and ".join(repr(tag) for tag in options.tags)
            return f"its saved_model.pb holds no graph with the tag {tags}"
        case tf.errors.DataLossError() | tf.errors.OutOfRangeError():
            return "its variables are damaged"
    return first_line(error)

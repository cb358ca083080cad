"""`.keras` files, loaded in safe mode: a file cannot bring Python code of its own along.

Keras exports the model as a SavedModel, which is loaded like any other: Keras's own `predict` costs some thirty
milliseconds a call.
"""

from __future__ import annotations

import tempfile
import zipfile
from pathlib import Path

from worker.models.graph import Graph
from worker.models.savedmodel import first_line, load_savedmodel
from worker.models.servable import ModelProblem
from worker.models.tensorflow_quietly import tf


def load_keras_file(file: Path) -> Graph:
    """The graph of the model in `file`. Raises ModelProblem."""
    if not zipfile.is_zipfile(file):  # Keras would say that there is no such file
        raise ModelProblem(f"{file} is not a Keras model, or only a part of one: a .keras file is a zip archive")
    with tempfile.TemporaryDirectory(prefix="muster-keras-") as exported:
        try:
            model = tf.keras.models.load_model(file, compile=False, safe_mode=True)
            model.export(exported, verbose=False)
        except Exception as error:  # whatever a damaged or unsafe file makes Keras raise
            raise ModelProblem(f"the Keras model {file} cannot be loaded: {first_line(error)}") from error
        return load_savedmodel(Path(exported))

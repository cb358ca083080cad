"""`.keras` files, loaded in safe mode: a file cannot bring Python code of its own along.

Keras exports the model as a SavedModel, which is loaded like any other: Keras's own `predict` costs some thirty
milliseconds a call. What the export numbers, `output_0`, gets back the name that the model's author gave it.
"""

from __future__ import annotations

import dataclasses
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import Any, Final

from worker.models.graph import Graph, first_line
from worker.models.options import LoadOptions
from worker.models.savedmodel import load_savedmodel
from worker.models.servable import ModelProblem, Signature
from worker.models.signatures import definition_of
from worker.models.tensorflow_quietly import tf

_KERAS: Final = Lock()
"""Keras keeps state of the whole process while it builds a model."""


def load_keras_file(file: Path, options: LoadOptions) -> Graph:
    """The graph of the model in `file`. Raises ModelProblem."""
    if not zipfile.is_zipfile(file):  # Keras would say that there is no such file
        raise ModelProblem(f"{file} is not a Keras model, or only a part of one: a .keras file is a zip archive")
    with tempfile.TemporaryDirectory(prefix="muster-keras-") as exported:
        try:
            with _KERAS:
                model = tf.keras.models.load_model(file, compile=False, safe_mode=True)
                model.export(exported, verbose=False)
        except Exception as error:  # whatever a damaged or unsafe file makes Keras raise
            raise ModelProblem(f"the Keras model {file} cannot be loaded: {first_line(error)}") from error
        graph = load_savedmodel(Path(exported), dataclasses.replace(options, tags=("serve",)))
    names = _output_names(model)
    renamed = {key: _with_outputs(signature, names) for key, signature in graph.signatures.items()}
    return dataclasses.replace(graph, signatures=renamed)


def _output_names(model: Any) -> Sequence[str]:
    """The names of the layers that give the outputs, in order; nothing for a model that is code of its own."""
    if isinstance(model, tf.keras.Sequential):
        return [model.layers[-1].name]
    return getattr(model, "output_names", ())


def _with_outputs(signature: Signature, names: Sequence[str]) -> Signature:
    """The signature with its numbered outputs named, if these are the names of all of them."""
    numbered = [f"output_{number}" for number in range(len(names))]
    if set(numbered) != set(signature.outputs) or len(set(names)) != len(names):
        return signature
    outputs = {name: signature.outputs[number] for name, number in zip(names, numbered, strict=True)}
    definition = definition_of(signature.inputs, outputs, signature.method_name).SerializeToString()
    return dataclasses.replace(signature, outputs=outputs, definition=definition)

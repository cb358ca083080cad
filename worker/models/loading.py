"""The loader: from a model on disk to a warm servable. It reads what stands beside it, and loads it as what it is.

Importing this imports TensorFlow, which takes seconds: `worker.serve` does so in the thread that loads, when it knows
that there is something to load.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from worker.models.classifier import image_classifier
from worker.models.finding import Found
from worker.models.frozen import load_frozen
from worker.models.graph import Graph
from worker.models.keras_file import load_keras_file
from worker.models.labels import read_labels
from worker.models.options import LoadOptions
from worker.models.preprocessing import Hints, read_hints
from worker.models.savedmodel import load_savedmodel
from worker.models.servable import ModelProblem, Servable


def load(model: Found, options: LoadOptions) -> Servable:
    """Load and warm `model`.

    It takes seconds, and several may be loaded at the same time. Raises ModelProblem, one sentence, or StatusError if
    it cannot be served, and leaves nothing behind then.
    """
    try:
        described = model.beside("preprocessing.json")
        hints = (read_hints(described) if described else Hints()).overridden_by(options.hints)
        labels_file = options.labels or model.beside("labels.txt")
        names = read_labels(labels_file) if labels_file else None
    except ValueError as error:
        raise ModelProblem(str(error)) from error
    except OSError as error:
        raise ModelProblem(f"cannot read {error.filename}: {error.strerror}") from error
    file = model.model_file(options.prefer_tflite)
    graph = _graph(file, hints)
    if file.suffix == ".pb":
        hints = dataclasses.replace(hints, input=None, output=None)  # they named layers, and are used up
    classifier = image_classifier(f"the model {model.name!r}", graph, hints, names, options.max_batch)
    return Servable(model.name, model.version, graph.signatures, graph.function, graph.close, classifier)


def _graph(file: Path, hints: Hints) -> Graph:
    if file.is_dir():
        return load_savedmodel(file)
    if file.suffix == ".keras":
        return load_keras_file(file)
    return load_frozen(file, hints.input, hints.output)

"""From models on disk to a catalogue of warm ones: read what stands beside them, load them as what they are.

Importing this imports TensorFlow, which takes seconds: `worker.serve` does so in the thread that loads, when it knows
that there is something to load.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from worker.models.catalogue import Catalogue
from worker.models.classifier import image_classifier
from worker.models.finding import Found
from worker.models.frozen import load_frozen
from worker.models.graph import Graph
from worker.models.keras_file import load_keras_file
from worker.models.labels import read_labels
from worker.models.preprocessing import Hints, read_hints
from worker.models.savedmodel import load_savedmodel
from worker.models.servable import ModelProblem, Servable


def load_catalogue(models: Sequence[Found], flags: Hints, labels: Path | None, max_batch: int) -> Catalogue:
    """Load and warm the models; `flags` and `labels` go before what stands beside them.

    It takes seconds. Raises ModelProblem, one sentence, if any model cannot be served.
    """
    if labels is not None and len(models) > 1:
        names = ", ".join(model.name for model in models)
        raise ModelProblem(f"--labels {labels} are the labels of one model, but there are several: {names}")
    return Catalogue([_load(model, flags, labels, max_batch) for model in models])


def _load(model: Found, flags: Hints, labels_file: Path | None, max_batch: int) -> Servable:
    try:
        described = model.beside("preprocessing.json")
        hints = (read_hints(described) if described else Hints()).overridden_by(flags)
        labels_file = labels_file or model.beside("labels.txt")
        labels = read_labels(labels_file) if labels_file else None
    except ValueError as error:
        raise ModelProblem(str(error)) from error
    except OSError as error:
        raise ModelProblem(f"cannot read {error.filename}: {error.strerror}") from error
    graph = _graph(model, hints)
    if model.path.suffix == ".pb":
        hints = dataclasses.replace(hints, input=None, output=None)  # they named layers, and are used up
    return image_classifier(model.name, model.version, graph, hints, labels, max_batch)


def _graph(model: Found, hints: Hints) -> Graph:
    if model.path.is_dir():
        return load_savedmodel(model.path)
    if model.path.suffix == ".keras":
        return load_keras_file(model.path)
    return load_frozen(model.path, hints.input, hints.output)

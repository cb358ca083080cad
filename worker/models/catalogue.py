"""The models of this worker: loaded once, looked up by every request."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path

from muster.errors import BadRequest, UnknownModel
from worker.models.classifier import image_classifier
from worker.models.finding import Found, find
from worker.models.frozen import load_frozen
from worker.models.graph import Graph
from worker.models.keras_file import load_keras_file
from worker.models.labels import read_labels
from worker.models.preprocessing import Hints, read_hints
from worker.models.savedmodel import load_savedmodel
from worker.models.servable import ModelProblem, Servable

log = logging.getLogger(__name__)


class Catalogue:
    """The models that are served, by name and version. It does not change."""

    def __init__(self, servables: Sequence[Servable]) -> None:
        self._models: dict[str, dict[int, Servable]] = {}
        for servable in servables:
            self._models.setdefault(servable.name, {})[servable.version] = servable

    @property
    def names(self) -> tuple[str, ...]:
        """The models' names, in alphabetical order."""
        return tuple(sorted(self._models))

    @property
    def servables(self) -> tuple[Servable, ...]:
        """Every version of every model."""
        return tuple(servable for versions in self._models.values() for servable in versions.values())

    def look_up(self, name: str | None = None, version: int | None = None, label: str | None = None) -> Servable:
        """The model of that name, in that version or in its newest.

        Without a name it is the only model, or the one called "default". Raises UnknownModel, and BadRequest where the
        name cannot be left out.
        """
        name = name if name is not None else self._default()
        versions = self._models.get(name)
        if versions is None:
            raise UnknownModel(f"there is no model {name!r}", models=list(self.names))
        if label is not None:
            raise UnknownModel(f"no version of the model {name!r} has the label {label!r}", models=list(self.names))
        if version is None:
            version = max(versions)
        if version not in versions:
            raise UnknownModel(f"the model {name!r} has no version {version}", versions=sorted(versions))
        return versions[version]

    def _default(self) -> str:
        if len(self._models) == 1:
            return next(iter(self._models))
        if "default" in self._models:
            return "default"
        raise BadRequest("this worker has several models: say which, as in ?model=NAME", models=list(self.names))


def load_catalogue(path: Path, flags: Hints, labels: Path | None, max_batch: int) -> Catalogue:
    """Load and warm every model at `path`; `flags` and `labels` go before what stands beside the models.

    It takes seconds. Raises ModelProblem, one sentence, if any model cannot be served.
    """
    models = find(path)
    if labels is not None and len(models) > 1:
        raise ModelProblem(f"--labels names the labels of one model, but {path} holds {len(models)}")
    return Catalogue([_load(model, flags, labels, max_batch) for model in models])


def _load(model: Found, flags: Hints, labels_file: Path | None, max_batch: int) -> Servable:
    try:
        described = model.beside("preprocessing.json")
        hints = (read_hints(described) if described else Hints()).overridden_by(flags)
        labels_file = labels_file or model.beside("labels.txt")
        labels = read_labels(labels_file) if labels_file else None
    except (ValueError, OSError) as error:
        raise ModelProblem(str(error)) from error
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

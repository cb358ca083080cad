"""What a path holds: which models, in which versions, of which kind.

    models/                  a directory of models
      digits/                a model's directory; of its numeric versions the highest is served
        1/                   a version's directory, holding one of
          saved_model.pb       a SavedModel
          model.keras          a Keras file
          graph.pb             a frozen graph
          labels.txt           beside it or in assets.extra/: the labels, and preprocessing.json likewise

Any of these levels may be named, or a `.keras` or `.pb` file itself. A version's directory need not be numeric if it is
named itself or stands for the model; its version is 1 then. Nothing is opened here and no name comes from a request.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from worker.models.servable import ModelProblem

SAVED_MODEL_FILES = ("saved_model.pb", "saved_model.pbtxt")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


@dataclass(frozen=True, slots=True)
class Found:
    """One version of one model on disk; `path` is a SavedModel's directory, or a `.keras` or `.pb` file."""

    name: str
    version: int
    path: Path

    def beside(self, file: str) -> Path | None:
        """The file of that name that belongs to this version, if there is one."""
        home = self.path if self.path.is_dir() else self.path.parent
        return next((path for path in (home / "assets.extra" / file, home / file) if path.is_file()), None)


def find(path: Path) -> list[Found]:
    """The models at `path`, at least one, by name. ModelProblem, one sentence, if there are none."""
    path = path.absolute()
    if path.name in SAVED_MODEL_FILES and path.is_file():
        path = path.parent
    if not path.exists():
        raise ModelProblem(f"there is nothing at {path}")
    if path.is_file() and _model_file(path) is None:
        raise ModelProblem(f"{path} is neither a .keras file nor a frozen graph (.pb)")
    models = _model(path, path.stem if path.is_file() else path.name) or _models_in(path)
    if not models:
        raise ModelProblem(
            f"there is no model in {path}: expected NAME/VERSION/saved_model.pb, a .keras file or a frozen graph (.pb)"
        )
    for model in models:
        if not _NAME.fullmatch(model.name):
            raise ModelProblem(f"{model.name!r} cannot name a model: letters, digits and _ . - can")
    return models


def _models_in(directory: Path) -> list[Found]:
    return [
        found
        for child in sorted(directory.iterdir())
        if child.is_dir() and not child.name.startswith(".")
        for found in _model(child, child.name)
    ]


def _model(path: Path, name: str) -> list[Found]:
    """The model that `path` is, in its highest version; nothing if it is none."""
    file = _model_file(path)
    if file is not None:
        version = _version(path)
        return [Found(name, 1, file) if version is None else Found(path.parent.name, version, file)]
    if not path.is_dir():
        return []
    numbered = [(version, child) for child in path.iterdir() if (version := _version(child)) is not None]
    for version, child in sorted(numbered, reverse=True):
        file = _model_file(child)
        if file is not None:
            return [Found(name, version, file)]
    return []


def _version(path: Path) -> int | None:
    """The version that a directory's name says."""
    return int(path.name) if re.fullmatch(r"[0-9]{1,18}", path.name) and path.is_dir() else None


def _model_file(path: Path) -> Path | None:
    """What to load at `path`: a SavedModel's directory is loaded as a whole."""
    if path.is_file():
        return path if path.suffix in (".keras", ".pb") else None
    if any((path / name).is_file() for name in SAVED_MODEL_FILES):
        return path
    files = sorted(file for file in path.iterdir() if file.suffix in (".keras", ".pb") and file.is_file())
    if len(files) > 1:
        raise ModelProblem(f"{path} holds several model files ({', '.join(file.name for file in files)}): name one")
    return files[0] if files else None

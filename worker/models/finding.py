"""What a path holds: which models, in which versions, of which kind.

    models/                  a directory of models
      digits/                a model's directory
        1/                   a version's directory, holding one of
          saved_model.pb       a SavedModel
          model.keras          a Keras file
          model.tflite         a TensorFlow Lite file
          graph.pb             a frozen graph
          labels.txt           beside it or in assets.extra/: the labels, and preprocessing.json likewise

Any of these levels may be named, or a `.keras`, `.tflite` or `.pb` file itself. A version's directory need not be
numeric if it is named itself or stands for the model; its version is 1 then. No file is opened here and no name comes
from a request.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from worker.models.servable import ModelProblem

SAVED_MODEL_FILES: Final = ("saved_model.pb", "saved_model.pbtxt")
PREFERABLE: Final = "model.tflite"
"""The file that may be preferred to a SavedModel that lies beside it."""
HIGHEST: Final = 2**63 - 1
_SUFFIXES: Final = (".keras", ".tflite", ".pb")
_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


class NoModel(ModelProblem):
    """The path is there, and no model is in it."""


@dataclass(frozen=True, slots=True)
class Found:
    """One version of one model on disk; `path` is the version's directory, or the model's file where that was named."""

    name: str
    version: int
    path: Path

    def beside(self, file: str) -> Path | None:
        """The file of that name that belongs to this version, if there is one."""
        home = self.path if self.path.is_dir() else self.path.parent
        return next((path for path in (home / "assets.extra" / file, home / file) if path.is_file()), None)

    def model_file(self, prefer_tflite: bool = False) -> Path:
        """What to load: a file, or the directory of a SavedModel. ModelProblem if that is in doubt or not there."""
        if self.path.is_file():
            return self.path
        if prefer_tflite and (self.path / PREFERABLE).is_file():
            return self.path / PREFERABLE
        if _is_saved_model(self.path):
            return self.path
        files = _model_files(self.path)
        if len(files) > 1:
            names = ", ".join(file.name for file in files)
            raise ModelProblem(f"{self.path} holds several model files ({names}): name one")
        if not files:
            raise ModelProblem(
                f"there is no model in {self.path}: expected a SavedModel (saved_model.pb), a .keras or .tflite file, "
                "or a frozen graph (.pb)"
            )
        return files[0]


def find(path: Path) -> list[Found]:
    """The models at `path`, each in its highest version; at least one, by name. ModelProblem if there are none."""
    return [versions[max(versions)] for versions in find_all(path).values()]


def find_all(path: Path, complain: Callable[[str], None] | None = None) -> dict[str, dict[int, Found]]:
    """The models at `path` with all their versions; at least one, by name. ModelProblem, one sentence, if there are
    none. One with a name that no model can have is a problem, too; `complain` hears of it instead, if others are there.
    """
    path = path.absolute()
    if path.name in SAVED_MODEL_FILES and path.is_file():
        path = path.parent
    if not path.exists():
        raise ModelProblem(f"there is nothing at {path}")
    if path.is_file() and path.suffix not in _SUFFIXES:
        raise ModelProblem(f"{path} is neither a .keras file nor a .tflite file nor a frozen graph (.pb)")
    found = _one_model(path) or _models_in(path)
    if not found:
        raise NoModel(
            f"there is no model in {path}: "
            "expected NAME/VERSION/saved_model.pb, a .keras or .tflite file or a frozen graph (.pb)"
        )
    for name in [name for name in found if not _NAME.fullmatch(name)]:
        problem = f"{name!r} cannot name a model: letters, digits and _ . - can"
        if complain is None or len(found) == 1:
            raise ModelProblem(problem)
        complain(problem)
        del found[name]
    return found


def versions_in(directory: Path, name: str) -> dict[int, Found]:
    """The numbered directories in a model's `directory` that hold a model; of two for one number the last by name."""
    if not directory.is_dir():
        return {}
    numbered = ((version_number(child.name), child) for child in sorted(directory.iterdir()) if child.is_dir())
    return {
        version: Found(name, version, child) for version, child in numbered if version is not None and _is_model(child)
    }


def version_number(name: str) -> int | None:
    """The version that a directory's name says, if it says one."""
    number = int(name) if re.fullmatch(r"[0-9]{1,40}", name) else HIGHEST + 1
    return number if number <= HIGHEST else None


def _one_model(path: Path) -> dict[str, dict[int, Found]]:
    """The model that `path` is; empty if it is none."""
    if path.is_file():
        return {path.stem: {1: Found(path.stem, 1, path)}}
    if _is_model(path):
        version = version_number(path.name)
        name, number = (path.name, 1) if version is None else (path.parent.name, version)
        return {name: {number: Found(name, number, path)}}
    versions = versions_in(path, path.name)
    return {path.name: versions} if versions else {}


def _models_in(directory: Path) -> dict[str, dict[int, Found]]:
    models: dict[str, dict[int, Found]] = {}
    for child in sorted(directory.iterdir()):
        if child.is_dir() and not child.name.startswith("."):
            with suppress(OSError):  # it is not for us, as lost+found is, or gone by now
                models |= _one_model(child)
    return models


def _is_model(directory: Path) -> bool:
    return _is_saved_model(directory) or bool(_model_files(directory))


def _is_saved_model(directory: Path) -> bool:
    return any((directory / name).is_file() for name in SAVED_MODEL_FILES)


def _model_files(directory: Path) -> list[Path]:
    return sorted(file for file in directory.iterdir() if file.suffix in _SUFFIXES and file.is_file())

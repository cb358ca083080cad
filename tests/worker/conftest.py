"""Small real models, each built once, and a worker's doors on a real socket."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.worker import colours
from worker.models.catalogue import Catalogue
from worker.models.finding import find
from worker.models.loading import load
from worker.models.options import LoadOptions


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of models: one of each kind that classifies colours."""
    root = tmp_path_factory.mktemp("models")
    colours.save_string(root / "string" / "1")
    colours.save_float(root / "float" / "1")
    colours.save_float(root / "float" / "3")
    colours.save_uint8(root / "uint8" / "1")
    colours.save_tf1(root / "tf1" / "1")
    colours.save_frozen(root / "frozen" / "1" / "graph.pb")
    colours.save_keras(root / "keras" / "7" / "model.keras")
    return root


@pytest.fixture(scope="session")
def catalogue(models: Path) -> Catalogue:
    """All of `models`, loaded and warm."""
    return Catalogue([load(model, LoadOptions(max_batch=4)) for model in find(models)])

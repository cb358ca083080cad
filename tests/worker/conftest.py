"""Small real models, each built once, and a worker's doors on a real socket."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from tests.worker import colours, serving_models
from worker.models.catalogue import Catalogue
from worker.models.finding import find, find_all
from worker.models.loading import load
from worker.models.options import LoadOptions
from worker.models.tensorflow_quietly import tf


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


@pytest.fixture(scope="session")
def serving_catalogue(tmp_path_factory: pytest.TempPathFactory) -> Catalogue:
    """Models as TensorFlow Serving's users have them, loaded; half_plus_two has labels, and one model an odd name."""
    root = tmp_path_factory.mktemp("serving")
    serving_models.save_half_plus_two(root / "half_plus_two" / "123")
    serving_models.save_half_plus_three(root / "half_plus_two" / "7")
    serving_models.save_add(root / "add" / "1")
    serving_models.save_examples(root / "examples" / "1")
    serving_models.save_strings(root / "strings" / "1")
    serving_models.save_failing(root / "failing" / "1")
    serving_models.save_identity(root / "doubles" / "1", tf.float64)
    serving_models.save_identity(root / "longs" / "1", tf.int64)
    models = [
        load(found, LoadOptions(max_batch=4)) for versions in find_all(root).values() for found in versions.values()
    ]
    odd = next(dataclasses.replace(model, name="a b%ä") for model in models if model.name == "longs")
    catalogue = Catalogue([*models, odd])
    catalogue.label({"half_plus_two": {"stable": 7, "gone": 6}})
    return catalogue

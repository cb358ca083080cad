"""Every kind of model file is loaded, or refused with a sentence that helps."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from muster.errors import BadRequest, UnknownModel
from tests.worker import colours
from tests.worker.servables import scores
from worker import images
from worker.classify_api import Query, chosen
from worker.models.catalogue import Catalogue
from worker.models.finding import find
from worker.models.loading import load as load_found
from worker.models.options import LoadOptions
from worker.models.preprocessing import Hints, Pixels
from worker.models.servable import Classifier, ModelProblem, Servable
from worker.models.tensorflow_quietly import tf

NO_HINTS = Hints()


def load(path: Path, hints: Hints = NO_HINTS, labels: Path | None = None) -> Servable:
    (found,) = find(path)
    return load_found(found, LoadOptions(hints, labels, max_batch=4))


def view(servable: Servable) -> Classifier:
    assert servable.classifier is not None, servable.no_classifier
    return servable.classifier


def look_up(catalogue: Catalogue, name: str | None = None, version: int | None = None, label: str | None = None) -> Any:
    with chosen(catalogue, Query(name, version, label, 5)) as servable:
        return servable


def items(servable: Servable, *pictures: bytes) -> list[Any]:
    takes = view(servable).takes
    if isinstance(takes, Pixels):
        return [images.to_pixels(picture, takes, 10_000) for picture in pictures]
    return list(pictures)


@pytest.mark.parametrize("name", ["string", "float", "uint8", "tf1", "frozen", "keras"])
@pytest.mark.parametrize("count", [1, 3, 4])
def test_every_kind_of_model_sees_the_colours_of_a_batch_in_order(catalogue: Catalogue, name: str, count: int) -> None:
    servable = look_up(catalogue, name)
    shown = ["blue", "red", "lime", "blue"][:count]
    given = scores(servable, items(servable, *map(colours.png, shown)))
    assert given.shape == (count, 3)
    assert given.dtype == np.float32
    assert np.allclose(given.sum(axis=1), 1, atol=1e-5)
    assert [view(servable).labels[row.argmax()].replace("green", "lime") for row in given] == shown


def test_a_model_is_called_with_few_sizes_of_batches_only(catalogue: Catalogue) -> None:
    assert view(look_up(catalogue, "float")).batch_sizes == (1, 2, 4)


def test_the_newest_version_is_served_and_the_others_are_not(catalogue: Catalogue) -> None:
    assert look_up(catalogue, "float").version == 3
    assert look_up(catalogue, "float", 3) is look_up(catalogue, "float")
    with pytest.raises(UnknownModel, match="no version 1"):
        look_up(catalogue, "float", 1)


def test_what_is_not_there_is_named_and_what_is_there_is_listed(catalogue: Catalogue) -> None:
    with pytest.raises(UnknownModel, match="'cats'") as caught:
        look_up(catalogue, "cats")
    assert "float" in caught.value.details["models"]
    with pytest.raises(UnknownModel, match="is empty"):
        look_up(catalogue, "")
    with pytest.raises(UnknownModel, match="label 'stable'"):
        look_up(catalogue, "float", label="stable")
    with pytest.raises(BadRequest, match=r"\?model=NAME"):
        look_up(catalogue)


def test_a_version_directory_alone_is_a_model_named_by_the_directory_above(models: Path) -> None:
    servable = load(models / "float" / "1")
    assert (servable.name, servable.version) == ("float", 1)


def test_a_model_directory_alone_is_a_model(models: Path) -> None:
    assert load(models / "string").name == "string"


def test_a_keras_file_alone_is_a_model_named_by_the_file(models: Path, tmp_path: Path) -> None:
    file = tmp_path / "flowers.keras"
    file.write_bytes((models / "keras" / "7" / "model.keras").read_bytes())
    servable = load(file)
    assert (servable.name, servable.version, view(servable).labels) == ("flowers", 1, ("0", "1", "2"))


def test_a_frozen_graph_loads_with_the_flags_of_label_image(tmp_path: Path) -> None:
    file = colours.save_frozen(tmp_path / "graph.pb")
    servable = load(file, Hints(input="import/input", output="final_result", mean=(0.0,), std=(255.0,)))
    assert view(servable).labels == colours.LABELS


def test_a_layer_that_is_not_there_is_named_with_those_that_are(tmp_path: Path) -> None:
    file = colours.save_frozen(tmp_path / "graph.pb")
    with pytest.raises(ModelProblem, match=r"no layer 'nope'.*--output-layer.*final_result"):
        load(file, Hints(output="nope"))


def test_a_graph_made_for_one_image_at_a_time_is_fed_one_at_a_time(tmp_path: Path) -> None:
    assert view(load(colours.save_frozen(tmp_path / "graph.pb", batch=1))).batch_sizes == (1,)


def test_labels_given_by_flag_win_over_those_beside_the_model(models: Path, tmp_path: Path) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("rot\ngrün\nblau\n\n", encoding="utf-8")
    assert view(load(models / "float", labels=labels)).labels == ("rot", "grün", "blau")


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        ("a\nb\n", r"3 outputs, but its labels in \S+/labels\.txt are 2"),
        ("\n", r"labels\.txt holds no labels"),
        (None, r"cannot read \S+/labels\.txt: No such file"),
    ],
)
def test_labels_that_do_not_fit_are_refused(models: Path, tmp_path: Path, labels: str | None, sentence: str) -> None:
    file = tmp_path / "labels.txt"
    if labels is not None:
        file.write_text(labels)
    with pytest.raises(ModelProblem, match=sentence):
        load(models / "float", labels=file)


def test_nothing_at_the_path_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ModelProblem, match="there is nothing at"):
        load(tmp_path / "missing")


def test_no_model_at_the_path_says_what_was_expected(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("no model here")
    (tmp_path / "empty" / "1").mkdir(parents=True)
    with pytest.raises(ModelProblem, match="expected NAME/VERSION/saved_model"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("file", "sentence"),
    [
        ("1/saved_model.pb", r"/model/1 cannot be loaded: its saved_model\.pb is damaged$"),
        ("model.keras", r"/model/model\.keras is not a Keras model, or only a part of one"),
        ("graph.pb", r"/model/graph\.pb is not a frozen TensorFlow graph"),
    ],
)
def test_a_damaged_model_file_is_one_sentence(tmp_path: Path, file: str, sentence: str) -> None:
    path = tmp_path / "model" / file
    path.parent.mkdir(parents=True)
    path.write_bytes(b"not a model\xff")
    with pytest.raises(ModelProblem, match=sentence) as caught:
        load(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("file", "size", "sentence"),
    [
        ("tf1/1/saved_model.pb", 0, "holds no graph with the tag 'serve'$"),
        ("tf1/1/saved_model.pb", 100, "its saved_model.pb is damaged$"),
        ("tf1/1/variables/variables.index", 30, "its variables are damaged$"),
        ("tf1/1/variables/variables.data-00000-of-00001", 1, "its variables are damaged$"),
        ("keras/7/model.keras", 1000, "model.keras is not a Keras model, or only a part of one"),
    ],
)
def test_a_model_that_was_copied_in_part_is_one_sentence(
    models: Path, tmp_path: Path, file: str, size: int, sentence: str
) -> None:
    name = Path(file).parts[0]
    shutil.copytree(models / name, tmp_path / name)
    os.truncate(tmp_path / file, size)
    with pytest.raises(ModelProblem, match=sentence):
        load(tmp_path)


def test_a_size_that_nobody_knows_is_asked_for_and_taken_from_the_file_beside(tmp_path: Path) -> None:
    spec = tf.TensorSpec([None, None, None, 3], tf.float32, name="image")
    version = colours.save(tmp_path / "m" / "1", lambda image: tf.reduce_mean(image, [1, 2]), spec)
    assert "--input-height" in load(tmp_path).no_classifier
    (version / "assets.extra" / "preprocessing.json").write_text(
        json.dumps({"height": 5, "width": 6, "resize": "crop", "mean": [1, 2, 3], "std": 2, "channels": "BGR"})
    )
    assert view(load(tmp_path)).takes == Pixels(5, 6, resize="crop", mean=(1.0, 2.0, 3.0), std=(2.0,), bgr=True)


def test_a_flag_wins_over_the_file_beside_the_model(tmp_path: Path) -> None:
    version = colours.save_float(tmp_path / "m" / "1")
    (version / "preprocessing.json").write_text('{"mean": 1, "std": 2}')
    wanted = view(load(tmp_path, Hints(std=(4.0,)))).takes
    assert isinstance(wanted, Pixels)
    assert (wanted.mean, wanted.std) == ((1.0,), (4.0,))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "not JSON"),
        ("[]", "a JSON object"),
        ('{"hight": 3}', "'hight'"),
        ('{"height": 0}', "not a number of pixels"),
        ('{"std": 0}', "must not be 0"),
        ('{"mean": [1, 2]}', "neither a number nor three"),
        ('{"mean": NaN}', "neither a number nor three"),
        ('{"resize": "squash"}', "none of stretch, crop"),
        ('{"signature": ""}', "not a name"),
        ('{"signature": "nope"}', "no signature 'nope'; it has serving_default"),
        ('{"output": "nope"}', "no output 'nope'; it has scores"),
    ],
)
def test_a_mistake_in_the_file_beside_the_model_is_named(tmp_path: Path, text: str, sentence: str) -> None:
    version = colours.save_float(tmp_path / "m" / "1")
    (version / "preprocessing.json").write_text(text)
    with pytest.raises(ModelProblem, match=sentence):
        load(tmp_path)


def test_scores_become_probabilities_only_when_they_are_declared_to_be_logits(tmp_path: Path) -> None:
    spec = tf.TensorSpec([None, 2, 2, 3], tf.float32, name="image")
    colours.save(tmp_path / "m" / "1", lambda image: 90 * tf.reduce_mean(image, [1, 2]), spec)
    white = [np.ones((2, 2, 3), np.float32)]
    assert np.allclose(scores(load(tmp_path), white), 90)
    assert np.allclose(scores(load(tmp_path, Hints(scores="logits")), white), 1 / 3)


def test_a_name_that_could_not_stand_in_a_url_is_refused(tmp_path: Path) -> None:
    colours.save_frozen(tmp_path / "a model" / "graph.pb")
    with pytest.raises(ModelProblem, match="'a model'"):
        load(tmp_path)

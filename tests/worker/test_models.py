"""Every kind of model file is loaded, or refused with a sentence that helps."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from muster.errors import BadRequest, UnknownModel
from tests.worker import colours
from tests.worker.servables import scores
from tests.worker.serving_models import definition
from worker import images
from worker.classify_api import Query, chosen
from worker.messages.tensors import SignatureDef
from worker.models.catalogue import Catalogue
from worker.models.finding import Found, find, find_all, version_number, versions_in
from worker.models.loading import load as load_found
from worker.models.options import LoadOptions, load_options
from worker.models.preprocessing import Hints, Pixels
from worker.models.servable import Classifier, ModelProblem, Servable
from worker.models.tensorflow_quietly import tf
from worker.settings import WorkerSettings

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


@pytest.mark.parametrize("name", ["saved_model.pbtxt", "variables/variables.index", "assets.extra/anything"])
def test_what_a_reader_would_wait_for_without_end_is_refused(tmp_path: Path, name: str) -> None:
    colours.save_float(tmp_path)
    pipe = tmp_path / name
    pipe.parent.mkdir(exist_ok=True)
    pipe.unlink(missing_ok=True)
    os.mkfifo(pipe)
    with pytest.raises(ModelProblem, match=f"{name} is neither a file nor a directory"):
        load_found(Found("m", 1, tmp_path), LoadOptions())


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


def test_versions_load_at_the_same_time(models: Path) -> None:
    found = [version for versions in find_all(models).values() for version in versions.values()]
    with ThreadPoolExecutor(4) as threads:
        servables = list(threads.map(lambda version: load_found(version, LoadOptions(max_batch=2)), found * 2))
    assert all(servable.classifier is not None for servable in servables)
    for servable in servables:
        servable.close()


def test_every_version_of_a_model_is_found_and_the_highest_first_of_all(models: Path) -> None:
    assert sorted(find_all(models)["float"]) == [1, 3]
    assert {model.name: model.version for model in find(models)}["float"] == 3


@pytest.mark.parametrize(
    ("name", "version"),
    [("7", 7), ("0", 0), ("007", 7), ("9223372036854775807", 2**63 - 1), ("9223372036854775808", None), ("-1", None),
     ("1.0", None), ("v1", None), ("", None), ("١", None)],
)  # fmt: skip
def test_a_version_is_a_number_that_a_directory_is_called_by(name: str, version: int | None) -> None:
    assert version_number(name) == version


def test_of_two_directories_for_one_version_the_last_by_name_counts(tmp_path: Path) -> None:
    for name in ("01", "1", "001", "x", "2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.keras").touch()
    (tmp_path / "3").mkdir()
    versions = versions_in(tmp_path, "m")
    assert {version: found.path.name for version, found in versions.items()} == {1: "1", 2: "2"}
    assert versions_in(tmp_path / "missing", "m") == {}


def test_a_directory_that_may_not_be_read_does_not_hide_the_models_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lost+found").mkdir()
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "model.keras").touch()
    read = Path.iterdir

    def iterdir(path: Path) -> Iterator[Path]:
        if path.name == "lost+found":
            raise PermissionError(13, "Permission denied", str(path))
        return read(path)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    assert list(find_all(tmp_path)) == ["m"]


def test_a_directory_with_several_model_files_is_not_guessed_at(tmp_path: Path) -> None:
    for name in ("a.pb", "b.keras"):
        (tmp_path / name).touch()
    with pytest.raises(ModelProblem, match=r"several model files \(a\.pb, b\.keras\)"):
        load(tmp_path)


def test_a_directory_that_is_said_to_be_a_version_and_holds_nothing_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ModelProblem, match=r"there is no model in .*: expected a SavedModel"):
        load_found(Found("m", 1, tmp_path), LoadOptions())


def test_metadata_of_a_model_of_tensorflow_2_names_its_initialiser(models: Path) -> None:
    signatures = load(models / "float").signatures
    assert set(signatures) == {"serving_default", "__saved_model_init_op"}
    described = SignatureDef.FromString(signatures["__saved_model_init_op"].definition)
    assert described.outputs["__saved_model_init_op"].tensor_shape.unknown_rank


@pytest.mark.parametrize("kind", ["frozen", "keras", "tf1", "float"])
def test_every_kind_of_model_has_metadata(models: Path, kind: str) -> None:
    for signature in load(models / kind).signatures.values():
        described = SignatureDef.FromString(signature.definition)
        for sides in ((described.inputs, signature.inputs), (described.outputs, signature.outputs)):
            assert {key: info.name for key, info in sides[0].items()} == {
                key: tensor.name for key, tensor in sides[1].items()
            }
        assert described.method_name == signature.method_name


def test_a_keras_model_keeps_the_names_of_its_inputs_and_outputs(tmp_path: Path) -> None:
    keras = tf.keras
    features, other = keras.Input((8,), name="features"), keras.Input((2,), name="other")
    both = keras.layers.Concatenate()([features, other])
    kind, size = keras.layers.Dense(3, name="kind")(both), keras.layers.Dense(1, name="size")(features)
    keras.Model([features, other], [kind, size]).save(tmp_path / "m.keras")
    signature = load(tmp_path / "m.keras").signatures["serving_default"]
    assert set(signature.inputs) == {"features", "other"}
    assert {name: tensor.shape for name, tensor in signature.outputs.items()} == {"kind": (None, 3), "size": (None, 1)}
    assert set(SignatureDef.FromString(signature.definition).outputs) == {"kind", "size"}


def test_the_graph_with_the_wanted_tags_is_loaded(tmp_path: Path) -> None:
    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, name="x")
        builder = v1.saved_model.Builder(str(tmp_path / "m" / "1"))
        builder.add_meta_graph_and_variables(session, ["serve"], {"plain": definition({"x": x}, {"y": x})})
        builder.add_meta_graph(["serve", "gpu"], {"tagged": definition({"x": x}, {"y": x})})
        builder.save()
    (found,) = find(tmp_path)
    assert list(load_found(found, LoadOptions()).signatures) == ["plain"]
    assert list(load_found(found, LoadOptions(tags=("serve", "gpu"))).signatures) == ["tagged"]
    with pytest.raises(ModelProblem, match="no graph with the tag 'nope' and 'serve'"):
        load_found(found, LoadOptions(tags=("nope", "serve")))


@pytest.mark.parametrize(
    ("flags", "intra", "inter"),
    [({}, 1, 1), ({"tensorflow_session_parallelism": 3}, 3, 3), ({"tensorflow_intra_op_parallelism": 2}, 2, 1),
     ({"tensorflow_inter_op_parallelism": 2}, 1, 2)],
)  # fmt: skip
def test_threads_within_a_call_are_one_unless_more_are_wanted(
    models: Path, flags: dict[str, int], intra: int, inter: int
) -> None:
    options = load_options(WorkerSettings(**flags))
    assert (options.intra_op_threads, options.inter_op_threads) == (intra, inter)
    (found,) = find(models / "tf1")
    assert load_found(found, options).classifier is not None

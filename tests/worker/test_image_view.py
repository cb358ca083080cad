"""Which models classify images, by which of their tensors and with which labels; all others are served all the same."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from muster.errors import BadRequest
from tests.worker import colours
from tests.worker.doors import open_doors
from tests.worker.serving_models import save_examples
from worker.models import classifier
from worker.models.catalogue import Catalogue
from worker.models.finding import find
from worker.models.loading import load as load_found
from worker.models.options import LoadOptions
from worker.models.preprocessing import Hints
from worker.models.servable import Classifier, ModelProblem, Servable
from worker.models.tensorflow_quietly import tf

IMAGE = tf.TensorSpec([None, 2, 2, 3], tf.float32, name="image")
FEATURES = tf.TensorSpec([None, 4], tf.float32, name="features")
Outputs = Callable[..., dict[str, Any]]


def save(directory: Path, signatures: Mapping[str, tuple[Outputs, Any]]) -> Path:
    """A model with these signatures, each a function of a tensor like the spec beside it; the models' directory."""
    module = tf.Module()
    functions = {key: tf.function(function, input_signature=[spec]) for key, (function, spec) in signatures.items()}
    module.functions = functions
    tf.saved_model.save(module, str(directory / "m" / "1"), signatures=functions)
    return directory


def load(directory: Path, **options: Any) -> Servable:
    (found,) = find(directory)
    return load_found(found, LoadOptions(max_batch=2, **options))


def view(directory: Path, **options: Any) -> Classifier:
    servable = load(directory, **options)
    assert servable.classifier is not None, servable.no_classifier
    return servable.classifier


def means(image: Any) -> Any:
    return tf.reduce_mean(image, [1, 2])


def largest(image: Any) -> Any:
    return tf.reduce_max(image, [1, 2])


async def test_a_model_of_other_things_than_images_predicts_and_classify_says_why_not(tmp_path: Path) -> None:
    servable = load(save(tmp_path, {"serving_default": (lambda features: {"twice": features * 2}, FEATURES)}))
    signature = servable.signatures["serving_default"]
    run = servable.function([signature.inputs["features"]], [signature.outputs["twice"]])
    assert run(np.ones((1, 4), np.float32))[0].tolist() == [[2, 2, 2, 2]]
    async with open_doors(Catalogue([servable])) as doors:
        answer = await doors.ask("/classify?model=m", colours.png())
    assert answer.status == BadRequest("").status
    assert "its input is float32 of shape (?, 4), not encoded images" in answer.json["error"]


@pytest.mark.parametrize(
    ("outputs", "reason"),
    [
        (lambda image: {"map": image}, r"no row of floating-point scores for each image, but float32 \(\?, 2, 2, 3\)"),
        (lambda image: {"best": tf.argmax(means(image), 1)}, r"no row of floating-point scores .* but int64 \(\?\)"),
        (lambda image: {"a": means(image), "b": largest(image)}, r"several outputs \(a, b\): name one"),
        (lambda image: {"output_0": means(image), "output_1": largest(image)}, r"several outputs"),
        (lambda image: {"scores": means(image), "softmax": largest(image)}, r"several outputs"),
        (lambda image: {"scores": means(image)[:1]}, r"output for 2 images has the shape \(1, 3\), not"),
        (lambda image: {"scores": means(image) * np.nan}, r"does not run with an image: .*not numbers"),
    ],
)  # fmt: skip
def test_a_model_that_gives_no_scores_or_leaves_doubt_has_no_image_view(
    tmp_path: Path, outputs: Outputs, reason: str
) -> None:
    servable = load(save(tmp_path, {"serving_default": (outputs, IMAGE)}))
    assert servable.classifier is None
    assert re.search(reason, servable.no_classifier), servable.no_classifier


def test_records_and_tables_of_texts_are_not_taken_for_images(tmp_path: Path) -> None:
    save_examples(tmp_path / "examples" / "m" / "1")
    assert load(tmp_path / "examples").no_classifier == "its signature takes tf.Example records"
    texts = tf.TensorSpec([None, 2], tf.string, name="texts")
    save(tmp_path / "texts", {"serving_default": (lambda texts: {"scores": tf.ones(tf.shape(texts))}, texts)})
    assert "its input is string of shape (?, 2)" in load(tmp_path / "texts").no_classifier


def test_of_several_outputs_the_row_of_scores_is_taken(tmp_path: Path) -> None:
    def outputs(image: Any) -> dict[str, Any]:
        scores = means(image)
        return {"softmax": scores, "prediction": tf.argmax(scores, 1), "map": image, "top": tf.reduce_max(scores, 1)}

    servable = load(save(tmp_path, {"serving_default": (outputs, IMAGE)}))
    assert servable.classifier is not None
    assert servable.classifier.output == servable.signatures["serving_default"].outputs["softmax"]
    assert set(servable.signatures["serving_default"].outputs) == {"softmax", "prediction", "map", "top"}


def test_of_several_rows_the_one_with_a_known_name_is_taken(tmp_path: Path) -> None:
    save(tmp_path, {"serving_default": (lambda image: {"features": largest(image), "scores": means(image)}, IMAGE)})
    servable = load(tmp_path)
    assert servable.classifier is not None
    assert servable.classifier.output == servable.signatures["serving_default"].outputs["scores"]


def test_what_the_owner_names_is_taken(tmp_path: Path) -> None:
    save(tmp_path, {"serving_default": (lambda image: {"a": means(image), "b": largest(image)}, IMAGE)})
    (tmp_path / "m" / "1" / "preprocessing.json").write_text(json.dumps({"output": "b"}))
    servable = load(tmp_path)
    assert servable.classifier is not None
    assert servable.classifier.output == servable.signatures["serving_default"].outputs["b"]


def test_the_only_signature_that_takes_images_is_found(tmp_path: Path) -> None:
    def twice(features: Any) -> dict[str, Any]:
        return {"y": features * 2}

    save(tmp_path, {"serving_default": (twice, FEATURES), "images": (lambda image: {"scores": means(image)}, IMAGE)})
    servable = load(tmp_path)
    assert servable.classifier is not None
    assert servable.classifier.input == servable.signatures["images"].inputs["image"]


def test_several_signatures_that_take_images_are_not_chosen_from_by_guessing(tmp_path: Path) -> None:
    save(tmp_path, {key: (lambda image: {"scores": means(image)}, IMAGE) for key in ("one", "other")})
    assert (
        load(tmp_path).no_classifier == "several of its signatures take images (one, other): name one in "
        "preprocessing.json"
    )
    assert view(tmp_path, hints=Hints(signature="other")).labels == ("0", "1", "2")


def with_classes(rows: Callable[[Any], Any], scores: Callable[[Any], Any] = means) -> Outputs:
    return lambda image: {"classes": rows(image), "scores": scores(image)}


def fixed(image: Any) -> Any:
    return tf.repeat(tf.constant([["red", "green", "blue"]]), tf.shape(image)[0], 0)


def test_texts_beside_the_scores_are_the_labels(tmp_path: Path) -> None:
    save(tmp_path, {"serving_default": (with_classes(fixed), IMAGE)})
    assert view(tmp_path).labels == colours.LABELS


def test_labels_in_a_file_win_over_those_in_the_model(tmp_path: Path) -> None:
    save(tmp_path, {"serving_default": (with_classes(fixed), IMAGE)})
    (tmp_path / "m" / "1" / "labels.txt").write_text("a\nb\nc\n")
    assert view(tmp_path).labels == ("a", "b", "c")


def in_order(direction: str) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    """Classes and scores, sorted by score."""

    def classes(image: Any) -> Any:
        return tf.gather(tf.constant(colours.LABELS), tf.argsort(means(image), direction=direction))

    return classes, lambda image: tf.sort(means(image), direction=direction)


def test_texts_that_change_places_are_no_labels(tmp_path: Path) -> None:
    save(tmp_path, {"serving_default": (with_classes(*in_order("ASCENDING")), IMAGE)})
    assert "names the classes in another order for each image" in load(tmp_path).no_classifier


def test_texts_that_might_be_sorted_by_score_are_no_labels(tmp_path: Path) -> None:
    _, scores = in_order("DESCENDING")
    save(tmp_path, {"serving_default": (with_classes(fixed, scores), IMAGE)})
    assert "may name the classes in another order for each image" in load(tmp_path).no_classifier


@pytest.mark.parametrize("hints", [Hints(output="nope"), Hints(signature="nope"), Hints(height=7)])
def test_what_the_owner_says_wrongly_is_an_error_of_the_model(tmp_path: Path, hints: Hints) -> None:
    save(tmp_path, {"serving_default": (lambda image: {"scores": means(image)}, IMAGE)})
    with pytest.raises(ModelProblem, match=r"nope|height 2, not 7"):
        load(tmp_path, hints=hints)


@pytest.mark.parametrize("labels", ["a\nb\n", "\n"])
def test_a_drop_in_serves_a_model_whatever_labels_lie_beside_it(
    tmp_path: Path, labels: str, caplog: pytest.LogCaptureFixture
) -> None:
    save(tmp_path, {"serving_default": (lambda image: {"scores": means(image)}, IMAGE)})
    (tmp_path / "m" / "1" / "labels.txt").write_text(labels)
    with caplog.at_level(logging.WARNING):
        servable = load(tmp_path, must_classify_as_said=False)
    assert servable.classifier is None
    assert "labels" in servable.no_classifier
    assert servable.no_classifier in caplog.text
    with pytest.raises(ModelProblem):
        load(tmp_path)


def test_a_drop_in_tries_no_signature_that_changes_something(tmp_path: Path) -> None:
    shown = tf.Variable(0.0)

    def count(image: Any) -> dict[str, Any]:
        with tf.control_dependencies([shown.assign_add(1.0)]):
            return {"scores": means(image) + shown}

    module = tf.Module()
    module.shown = shown
    module.count = tf.function(count, input_signature=[IMAGE])
    tf.saved_model.save(module, str(tmp_path / "m" / "1"), signatures={"serving_default": module.count})
    servable = load(tmp_path, must_classify_as_said=False)
    assert servable.no_classifier == "it has no signature that could"
    signature = servable.signatures["serving_default"]
    run = servable.function([signature.inputs["image"]], [signature.outputs["scores"]])
    assert run(np.zeros((1, 2, 2, 3), np.float32))[0].tolist() == [[1, 1, 1]]
    assert load(tmp_path).classifier is not None


def test_a_model_of_large_images_gets_small_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, {"serving_default": (lambda image: {"scores": means(image)}, IMAGE)})
    assert view(tmp_path).batch_sizes == (1, 2)
    monkeypatch.setattr(classifier, "LARGEST_BATCH", 2 * 2 * 3 * 4 + 1)
    assert view(tmp_path).batch_sizes == (1,)

"""TensorFlow Lite files are models like any others."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import numpy as np
import pytest

from tests.worker import colours, lite_models
from tests.worker.servables import scores
from tests.worker.serving_models import PREDICT, REGRESS
from worker import images
from worker.messages.tensors import SignatureDef
from worker.models import tflite
from worker.models.finding import Found, find
from worker.models.loading import load as load_found
from worker.models.options import LoadOptions
from worker.models.preprocessing import Pixels
from worker.models.servable import Array, ModelProblem, Servable, Tensor
from worker.models.signatures import definition_of
from worker.models.tensorflow_quietly import tf
from worker.status import Code, StatusError

VECTOR = tf.TensorSpec([None, 4], tf.float32, name="x")


@pytest.fixture(scope="session")
def twice() -> bytes:
    """x → 2 x, and the sum of it in a second output."""
    return lite_models.convert(lambda x: (2 * x, tf.reduce_sum(x)), VECTOR)


def float32(name: str) -> Tensor:
    return Tensor(name, "float32", None)


def load(directory: Path, content: bytes | None = None, **options: Any) -> Servable:
    """The model `m` in `directory`, which has this file if it has none yet."""
    version = directory / "m" / "1"
    version.mkdir(parents=True, exist_ok=True)
    if content is not None:
        (version / "model.tflite").write_bytes(content)
    return load_found(Found("m", 1, version), LoadOptions(max_batch=4, **options))


def predict(servable: Servable, *arrays: Array, key: str = "serving_default") -> list[Array]:
    """The outputs of a signature for its inputs, both in the order of their names."""
    signature = servable.signatures[key]
    inputs = [tensor for _, tensor in sorted(signature.inputs.items())]
    outputs = [tensor for _, tensor in sorted(signature.outputs.items())]
    return servable.function(inputs, outputs)(*arrays)


def test_a_file_without_signatures_has_one_made_of_its_tensors_names(tmp_path: Path, twice: bytes) -> None:
    servable = load(tmp_path, twice)
    (key,) = servable.signatures
    signature = servable.signatures[key]
    inputs, outputs = lite_models.tensor_names(twice)
    assert key == "serving_default"
    assert [name + ":0" for name in signature.inputs] == inputs
    assert sorted(signature.outputs) == sorted(outputs)  # without their numbers they would be the same
    assert signature.method_name == PREDICT
    described = SignatureDef.FromString(signature.definition)
    assert set(described.inputs) == set(signature.inputs)
    assert set(described.outputs) == set(signature.outputs)
    assert [size.size for size in next(iter(described.inputs.values())).tensor_shape.dim] == [-1, 4]


def test_inputs_take_the_shape_of_each_request(tmp_path: Path, twice: bytes) -> None:
    servable = load(tmp_path, twice)
    for shape in [(1, 4), (5, 4), (2, 3), (1, 4)]:
        total, doubled = sorted(predict(servable, np.ones(shape, np.float32)), key=np.ndim)
        assert doubled.tolist() == np.full(shape, 2.0).tolist()
        assert total == shape[0] * shape[1]


@pytest.mark.parametrize("suffix", ["", ":0"])
def test_every_signature_in_the_metadata_is_served_under_its_names(tmp_path: Path, twice: bytes, suffix: str) -> None:
    twice = lite_models.with_names(twice, lambda name: name.replace(":", "_") + suffix)
    (x,), outputs = lite_models.tensor_names(twice)
    suffixed = x if suffix else f"{x}:0"
    definitions = {
        "one": definition_of({"in": float32(suffixed)}, {"out": float32(outputs[0])}, PREDICT),
        "other": definition_of({"number": float32(suffixed)}, {"result": float32(outputs[1])}, REGRESS),
    }
    servable = load(tmp_path, lite_models.with_signatures(twice, definitions))
    assert set(servable.signatures) == {"one", "other"}
    assert servable.signatures["other"].method_name == REGRESS
    results = [predict(servable, np.ones((2, 4), np.float32), key=key)[0] for key in ("one", "other")]
    assert sorted(np.sum(result) for result in results) == [8, 16]


def test_the_only_signature_in_the_metadata_is_the_default_one(tmp_path: Path, twice: bytes) -> None:
    (x,), (y, _) = lite_models.tensor_names(twice)
    named = {"any": definition_of({"in": float32(x)}, {"out": float32(y)}, PREDICT)}
    servable = load(tmp_path, lite_models.with_signatures(twice, named))
    assert list(servable.signatures) == ["serving_default"]
    assert list(servable.signatures["serving_default"].inputs) == ["in"]


def test_a_signature_of_tensors_that_are_not_there_is_one_sentence(tmp_path: Path, twice: bytes) -> None:
    named = {"any": definition_of({"in": float32("nope")}, {}, PREDICT)}
    with pytest.raises(ModelProblem, match=r"its signature 'any' names a tensor 'nope'; it has"):
        load(tmp_path, lite_models.with_signatures(twice, named))


def test_strings_go_in_and_out(tmp_path: Path) -> None:
    content = lite_models.convert(lambda text: text[:1], tf.TensorSpec([None], tf.string, name="text"))
    (found,) = predict(load(tmp_path, content), np.array([b"a\0\xff\0", b"second"], object))
    assert found.dtype == object
    assert found.tolist() == [b"a\0\xff\0"]


def test_a_text_without_dimensions_is_a_text_as_well(tmp_path: Path) -> None:
    content = lite_models.convert(lambda text: text, tf.TensorSpec([None], tf.string, name="text"))
    servable = load(tmp_path, content)
    for array in (np.array(b"alone", object), np.array([[b"a", b"b"], [b"c", b"d"]], object)):
        (found,) = predict(servable, array)
        assert found.reshape(-1).tolist() == array.reshape(-1).tolist()


def test_an_input_that_a_signature_does_not_have_keeps_nothing_of_an_earlier_call(tmp_path: Path) -> None:
    content = lite_models.convert(lambda x, y: x + 10 * y, VECTOR, tf.TensorSpec([None, 4], tf.float32, name="y"))
    inputs, (total,) = lite_models.tensor_names(content)
    x, y = sorted(inputs)
    named = {
        "both": definition_of({"x": float32(x), "y": float32(y)}, {"sum": float32(total)}, PREDICT),
        "one": definition_of({"x": float32(x)}, {"sum": float32(total)}, PREDICT),
    }
    servable = load(tmp_path, lite_models.with_signatures(content, named))
    ones = np.ones((1, 4), np.float32)
    assert predict(servable, ones, ones, key="both")[0].tolist() == [[11.0] * 4]
    assert predict(servable, ones, key="one")[0].tolist() == [[1.0] * 4]


@pytest.mark.parametrize(
    ("array", "sentence"),
    [
        (np.ones((1, 4), np.float64), "Got value of type FLOAT64 but expected type FLOAT32"),
        (np.ones((1, 3), np.float32), "Failed to run interpreter"),
    ],
)
def test_what_the_model_cannot_take_is_refused_and_the_next_request_is_served(
    tmp_path: Path, array: Array, sentence: str
) -> None:
    servable = load(tmp_path, lite_models.convert(lambda x: tf.matmul(x, tf.ones([4, 2])), VECTOR))
    with pytest.raises(StatusError, match=sentence) as caught:
        predict(servable, array)
    assert caught.value.canonical in (Code.INVALID_ARGUMENT, Code.INTERNAL)
    assert predict(servable, np.ones((1, 4), np.float32))[0].tolist() == [[4, 4]]


def test_calls_one_after_another_share_one_interpreter(
    tmp_path: Path, twice: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    servable = load(tmp_path, twice)
    made = []
    new = tflite.Interpreter

    def noted(*arguments: Any) -> Any:
        made.append(arguments)
        return new(*arguments)

    monkeypatch.setattr(tflite, "Interpreter", noted)
    for _ in range(5):
        predict(servable, np.ones((1, 4), np.float32))
    assert not made


def test_calls_at_the_same_time_do_not_meet(tmp_path: Path, twice: bytes) -> None:
    servable = load(tmp_path, twice)
    together = Barrier(4)

    def call(number: int) -> bool:
        together.wait()
        results = [predict(servable, np.full((1 + number, 4), number, np.float32)) for _ in range(100)]
        return all(sorted(result, key=np.ndim)[1].tolist() == [[2.0 * number] * 4] * (1 + number) for result in results)

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(call, range(4)))


def test_a_classifier_of_images_classifies_them(tmp_path: Path) -> None:
    servable = load(tmp_path, lite_models.with_labels(lite_models.colours(), "red\ngreen\nblue\n"))
    view = servable.classifier
    assert view is not None, servable.no_classifier
    assert isinstance(view.takes, Pixels)
    assert view.labels == colours.LABELS
    assert view.batch_sizes == (1, 2, 4)
    shown = [images.to_pixels(colours.png(colour), view.takes, 10_000) for colour in ("blue", "red")]
    assert scores(servable, shown).argmax(1).tolist() == [2, 0]


@pytest.mark.parametrize("dtype", [tf.uint8, tf.int8])
def test_a_quantized_classifier_gives_real_scores(tmp_path: Path, dtype: Any) -> None:
    servable = load(tmp_path, lite_models.quantized_colours(dtype))
    view = servable.classifier
    assert view is not None, servable.no_classifier
    assert isinstance(view.takes, Pixels)
    for index, colour in enumerate(("red", "lime", "blue")):
        (row,) = scores(servable, [images.to_pixels(colours.png(colour), view.takes, 10_000)])
        assert row.argmax() == index
        assert row.sum() == pytest.approx(1, abs=0.02)
    (raw,) = predict(servable, np.zeros((1, 8, 8, 3), dtype.as_numpy_dtype))
    assert raw.dtype == dtype.as_numpy_dtype


def test_a_file_may_be_named_itself(tmp_path: Path, twice: bytes) -> None:
    file = tmp_path / "doubling.tflite"
    file.write_bytes(twice)
    (found,) = find(file)
    assert (found.name, found.version) == ("doubling", 1)
    assert "serving_default" in load_found(found, LoadOptions()).signatures


def test_beside_a_saved_model_the_file_is_taken_only_if_it_is_preferred(tmp_path: Path, twice: bytes) -> None:
    colours.save_float(tmp_path / "m" / "1")
    assert list(load(tmp_path, twice).signatures["serving_default"].outputs) == ["scores"]
    assert len(load(tmp_path, prefer_tflite=True).signatures["serving_default"].outputs) == 2


@pytest.mark.parametrize("keep", [0, 3, 100, -200])
def test_a_file_that_was_copied_in_part_is_one_sentence(tmp_path: Path, twice: bytes, keep: int) -> None:
    with pytest.raises(ModelProblem, match=r"the TensorFlow Lite model \S+/model\.tflite cannot be loaded") as caught:
        load(tmp_path, twice[:keep])
    assert "\n" not in str(caught.value)

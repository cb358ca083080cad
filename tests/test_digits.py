"""The model that comes with the project, as its program made it."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from worker import digits

Read = Callable[[bytes], tuple[int, float]]


@pytest.fixture(scope="module")
def read(digits_model: Path) -> Read:
    """Ask the saved model: the likeliest digit and its score."""
    import tensorflow as tf

    loaded = tf.saved_model.load(str(digits_model / "digits" / "1"))
    classify = loaded.signatures["serving_default"]

    def read(encoded: bytes) -> tuple[int, float]:
        scores = classify(image_bytes=tf.constant([encoded]))["scores"].numpy()[0]
        assert scores.sum() == pytest.approx(1, abs=1e-5)
        return int(scores.argmax()), float(scores.max())

    read.loaded = loaded  # type: ignore[attr-defined]  # TensorFlow lets go of the variables otherwise
    return read


@pytest.fixture(params=range(10))
def digit(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture
def picture(digits_model: Path, digit: int) -> Image.Image:
    return Image.open(digits_model / "digits" / "samples" / f"{digit}.png").convert("L")


def encoded(picture: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def test_a_sample_is_read_as_it_is_named(digits_model: Path, digit: int, read: Read) -> None:
    answer, score = read((digits_model / "digits" / "samples" / f"{digit}.png").read_bytes())
    assert answer == digit
    assert score > 0.9


@pytest.mark.parametrize("kind", ["JPEG", "BMP", "GIF"])
def test_a_digit_is_read_in_every_format(picture: Image.Image, digit: int, kind: str, read: Read) -> None:
    assert read(encoded(picture, kind))[0] == digit
    assert read(encoded(picture.convert("RGB"), kind))[0] == digit


def test_chalk_on_a_board_is_read_like_ink_on_paper(picture: Image.Image, digit: int, read: Read) -> None:
    assert read(encoded(ImageOps.invert(picture)))[0] == digit
    assert read(encoded(ImageOps.invert(picture), "JPEG"))[0] == digit


def test_pale_ink_on_grey_paper_is_read(picture: Image.Image, digit: int, read: Read) -> None:
    assert read(encoded(picture.point(lambda value: 90 + value // 4)))[0] == digit


def test_transparency_is_paper(picture: Image.Image, digit: int, read: Read) -> None:
    ink = Image.merge("RGBA", [Image.new("L", picture.size, 0)] * 3 + [ImageOps.invert(picture)])
    assert read(encoded(ink))[0] == digit
    assert read(encoded(ink.convert("LA")))[0] == digit


def test_cmyk_and_sixteen_bits_are_read(picture: Image.Image, digit: int, read: Read) -> None:
    deep = Image.fromarray(np.asarray(picture).astype(np.uint16) * 257)
    assert read(encoded(picture.convert("CMYK"), "JPEG"))[0] == digit
    assert read(encoded(deep))[0] == digit


def test_a_blank_sheet_is_no_reason_to_fail(read: Read) -> None:
    assert 0 <= read(encoded(Image.new("L", (30, 20), 255)))[1] <= 1
    assert 0 <= read(encoded(Image.new("L", (1, 1), 0)))[1] <= 1


def test_the_large_sample_is_large_and_read_right(digits_model: Path, read: Read) -> None:
    big = (digits_model / "digits" / "samples" / "big.jpg").read_bytes()
    assert len(big) > 1_500_000
    assert read(big)[0] == 3


def test_every_output_has_its_label(digits_model: Path) -> None:
    labels = (digits_model / "digits" / "1" / "assets.extra" / "labels.txt").read_text().split()
    assert labels == [str(digit) for digit in range(10)]


def program(*arguments: object, **environ: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-X", "importtime", "-m", "worker.digits", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | environ, timeout=60, check=False)


def test_a_model_that_is_there_is_left_alone_and_tensorflow_with_it(digits_model: Path) -> None:
    made = (digits_model / "digits" / "1" / "saved_model.pb").stat().st_mtime_ns
    asked = program("--out", digits_model)
    assert asked.returncode == 0
    assert "already there" in asked.stdout
    assert "tensorflow" not in asked.stderr  # -X importtime lists every import there
    assert (digits_model / "digits" / "1" / "saved_model.pb").stat().st_mtime_ns == made


@pytest.mark.parametrize(
    "model",
    ["net/3/saved_model.pb", "net/3/graph.pb", "net/3/net.keras", "net/saved_model.pb", "net/graph.pb", "net/net.keras",
     "saved_model.pb", "net.keras", "net.pb"],
)  # fmt: skip
def test_beside_a_model_of_the_users_own_none_is_made_if_so_asked(tmp_path: Path, model: str) -> None:
    (tmp_path / model).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / model).touch()
    asked = program("--out", tmp_path, "--only-if-empty")
    assert asked.returncode == 0
    assert "There is a model already" in asked.stdout
    assert not (tmp_path / "digits").exists()


def test_what_lies_half_made_is_not_a_model(tmp_path: Path) -> None:
    half = tmp_path / ".making-x" / "version"
    half.mkdir(parents=True)
    (half / "saved_model.pb").touch()
    assert digits.find_model(tmp_path) is None


def test_a_place_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "models").touch()
    asked = program("--out", tmp_path / "models")
    errors = [line for line in asked.stderr.splitlines() if not line.startswith("import time:")]
    assert asked.returncode == 1
    assert len(errors) == 1
    assert "the digits model could not be made" in errors[0]


def scribble(version: Path, samples: Path, _: digits.Say) -> None:
    """Stands in for half a minute of training where what is in the files does not matter."""
    (version / "variables").mkdir(parents=True)
    (version / "saved_model.pb").touch()
    samples.mkdir()


def test_a_model_below_the_promised_accuracy_is_refused() -> None:
    digits.judge(0.97)
    with pytest.raises(digits.NotGoodEnough, match=r"0\.969, and at least 0\.97"):
        digits.judge(0.969)


def test_of_a_model_that_failed_half_way_nothing_is_left(tmp_path: Path) -> None:
    def fail(version: Path, samples: Path, say: digits.Say) -> None:
        scribble(version, samples, say)
        raise digits.NotGoodEnough("it reads nothing")

    with pytest.raises(digits.NotGoodEnough):
        digits.make(tmp_path / "models", print, fail)
    assert list(tmp_path.iterdir()) == []


def test_an_interruption_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "worker.digits", "--out", str(tmp_path / "models")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as making:
        assert making.stdout is not None
        assert "Making a model" in making.stdout.readline()
        making.send_signal(signal.SIGINT)
        rest = making.stdout.read()
    assert making.returncode == 130
    assert rest == "python -m worker.digits: error: interrupted; the digits model was not made\n"
    assert list(tmp_path.iterdir()) == []


def test_what_an_interruption_leaves_half_built_is_not_complained_about() -> None:
    program = (
        "from worker import digits\n"
        "with digits._native_noise_hidden():\n"
        "    import tensorflow as tf\n"
        "    half_built = [tf.TensorArray(tf.float32, 1).write(0, 1.0)]\n"
        "half_built.clear()"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stderr == ""


def test_samples_of_an_earlier_attempt_are_replaced(tmp_path: Path) -> None:
    (tmp_path / "digits" / "samples").mkdir(parents=True)
    (tmp_path / "digits" / "samples" / "old.png").touch()
    digits.make(tmp_path, print, scribble)
    assert sorted(path.name for path in (tmp_path / "digits").iterdir()) == ["1", "samples"]
    assert list((tmp_path / "digits" / "samples").iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_what_root_makes_belongs_to_the_owner_of_the_place(tmp_path: Path) -> None:
    os.chown(tmp_path, 12345, 54321)
    digits.make(tmp_path / "models", print, scribble)
    made = [tmp_path / "models", *(tmp_path / "models").rglob("*")]
    assert {(path.stat().st_uid, path.stat().st_gid) for path in made} == {(12345, 54321)}
    assert len(made) == 6

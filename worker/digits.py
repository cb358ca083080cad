"""The model that comes with the project: handwritten digits, made on this machine in half a minute.

    python -m worker.digits --out models

trains a small CNN on the digits inside scikit-learn, judges the *exported* model by pictures it never saw, and leaves

    models/digits/1/                         a SavedModel: `image_bytes` string[n] in, `scores` float[n, 10] out
    models/digits/1/assets.extra/labels.txt
    models/digits/samples/{0..9}.png         pictures to try, from those it never saw
    models/digits/samples/big.jpg            one of several megabytes, as photographs are

Everything is made beside and the version moved into place last: who sees `models/digits/1` sees all of it.
TensorFlow is imported when it is known that there is something to make, so asking again costs nothing.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from muster.lifetime import follow_lifeline
from muster.settings import load, setting

NAME: Final = "digits"
VERSION: Final = "1"
LEAST_ACCURACY: Final = 0.97
INTERRUPTED: Final = 128 + signal.SIGINT
"""The exit status that shells know for it."""
MODEL_FILES: Final = {".pb", ".pbtxt", ".keras"}
FILES_TO_TRY: Final = {*(f"{digit}.png" for digit in range(10)), "big.jpg"}

Say = Callable[[str], object]
Build = Callable[[Path, Path, Say], object]


@dataclass(frozen=True, slots=True)
class DigitsSettings:
    """Make the digits model, and some pictures to try it with."""

    out: str = setting("models", "directory of models to make it in")
    only_if_empty: bool = setting(False, "do nothing if that directory holds any model already")


class NotGoodEnough(Exception):
    """The model does not keep what we promise of it, so it was not put into place."""


def main(argv: list[str] | None = None) -> int:
    """Run the program. Exit status 0: the model is there; 1 or INTERRUPTED: it is not, and stderr says why."""
    arguments = sys.argv[1:] if argv is None else argv
    settings = load(DigitsSettings, arguments, os.environ, "DIGITS", "python -m worker.digits")
    interrupted: list[int] = []

    def interrupt(number: int, _: object) -> None:
        interrupted.append(number)
        raise KeyboardInterrupt  # either signal clears away what is half made

    signal.signal(signal.SIGINT, interrupt)
    signal.signal(signal.SIGTERM, interrupt)
    follow_lifeline()
    out = Path(settings.out)
    try:
        if settings.only_if_empty and (model := find_model(out)):
            _say(f"There is a model already: {model}")
        elif (out / NAME / VERSION / "saved_model.pb").is_file():
            _say(f"The digits model is already there: {out / NAME / VERSION}")
        else:
            make(out, _say)
            _say(f"The digits model is in {out / NAME / VERSION}. A picture to try: {out / NAME / 'samples' / '7.png'}")
    except (Exception, KeyboardInterrupt) as error:
        # The import of a library that is cut short complains of something else.
        if interrupted:
            return _complain("interrupted; the digits model was not made", INTERRUPTED)
        if isinstance(error, ModuleNotFoundError):
            return _complain(f"making the digits model needs {error.name}; pip install 'muster[digits]' brings it")
        if isinstance(error, NotGoodEnough | OSError):
            return _complain(f"the digits model could not be made: {error}")
        raise
    return 0


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()  # progress is worth seeing now, through a pipe too


def _complain(sentence: str, status: int = 1) -> int:
    sys.stderr.write(f"python -m worker.digits: error: {sentence}\n")
    return status


def find_model(directory: Path) -> Path | None:
    """Something in a directory of models that a worker could serve, or None."""
    for pattern in ("*", "*/*", "*/*/*"):
        for path in sorted(directory.glob(pattern)):
            if path.suffix in MODEL_FILES and not any(
                part.startswith(".") for part in path.relative_to(directory).parts
            ):
                return path if path.suffix == ".keras" else path.parent
    return None


def make(out: Path, say: Say, build: Build | None = None) -> None:
    """Make the model in the directory `out`, which need not exist; `build` does the work, by default `build_digits`.

    Raises NotGoodEnough, ModuleNotFoundError or OSError; then there is no new model and nothing half made.
    """
    owner = _owner_to_be(out)
    made = [path for path in (out, out / NAME) if not path.exists()]
    out.mkdir(parents=True, exist_ok=True)
    # Hidden and without a number in it: a worker that watches `out` cannot take it for a model.
    staging = Path(tempfile.mkdtemp(prefix=".making-", dir=out))
    try:
        (build or build_digits)(staging / "version", staging / "samples", say)
        home = out / NAME
        home.mkdir(exist_ok=True)
        if owner is not None:
            for path in (*made, *staging.rglob("*")):
                os.chown(path, *owner)
        shutil.rmtree(home / "samples", ignore_errors=True)
        (staging / "samples").rename(home / "samples")
        (staging / "version").rename(home / VERSION)  # last: now it exists
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        for path in reversed(made):
            with suppress(OSError):  # it holds something, most likely the model
                path.rmdir()


def _owner_to_be(out: Path) -> tuple[int, int] | None:
    """Root in a container writes into somebody's directory: what it makes there shall be theirs."""
    if os.geteuid() != 0:
        return None
    nearest = next(path for path in (out.absolute(), *out.absolute().parents) if path.exists())
    return nearest.stat().st_uid, nearest.stat().st_gid


def build_digits(version: Path, samples: Path, say: Say) -> None:
    """Train, judge and write the model's version directory and the pictures to try. Raises as `make` does."""
    say("Making a model that reads handwritten digits (once, in about half a minute) ...")
    with _native_noise_hidden():
        from worker import digits_network as digits

        pictures, labels, unseen, unseen_labels = digits.handwriting()
        network = digits.train(pictures, labels, say)
        classify = digits.export(network, version)
        accuracy = digits.accuracy(classify, unseen, unseen_labels)
        say(f"  test accuracy {accuracy:.3f}, on {len(unseen)} pictures that it never saw")
        judge(accuracy)
        samples.mkdir()
        for name, content in digits.samples(classify, unseen, unseen_labels):
            (samples / name).write_bytes(content)
    missing = FILES_TO_TRY - {path.name for path in samples.iterdir()}
    if missing:
        raise NotGoodEnough(f"it reads no picture with certainty for {', '.join(sorted(missing))}")


def judge(accuracy: float) -> None:
    """Raise NotGoodEnough if a test accuracy from 0 to 1 is below what we promise."""
    if accuracy < LEAST_ACCURACY:
        raise NotGoodEnough(f"its test accuracy is {accuracy:.3f}, and at least {LEAST_ACCURACY} is expected")


@contextmanager
def _native_noise_hidden() -> Iterator[None]:
    """Hide what TensorFlow logs, and its C++ code writes to file descriptor 2; real errors come as exceptions."""
    os.environ["KERAS_BACKEND"] = "tensorflow"
    logging.getLogger("absl").setLevel(logging.ERROR)
    # Nor are its own errors shown: they are complaints about the half-built graphs that an interruption leaves behind.
    logging.getLogger("tensorflow").setLevel(logging.CRITICAL)
    sys.stderr.flush()
    kept = os.dup(2)
    with Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(kept, 2)
        os.close(kept)


if __name__ == "__main__":
    sys.exit(main())

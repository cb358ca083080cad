"""The loader: from a model on disk to a warm servable. It reads what stands beside it, and loads it as what it is.

Importing this imports TensorFlow, which takes seconds: the manager does so in the thread that loads, when it knows that
there is something to load.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from worker.batching_parameters import batching_beside
from worker.models.choosing import Unfit
from worker.models.classifier import image_view
from worker.models.finding import Found
from worker.models.frozen import load_frozen
from worker.models.keras_file import load_keras_file
from worker.models.labels import Labels, packed_labels, read_labels
from worker.models.options import LoadOptions
from worker.models.preprocessing import Hints, read_hints
from worker.models.savedmodel import load_savedmodel
from worker.models.servable import Classifier, ModelProblem, Run, Servable, Signature, Tensor
from worker.models.settling import stranger
from worker.models.tflite import load_tflite
from worker.models.warmup import rehearse
from worker.models.warmup_file import replay

log = logging.getLogger(__name__)


def load(model: Found, options: LoadOptions, computing: Callable[[], None] = lambda: None) -> Servable:
    """Load and warm `model`; `computing` is called when what remains is mostly calls of it.

    It takes seconds, and several may be loaded at the same time. Raises ModelProblem, one sentence, or StatusError if
    it cannot be served, and leaves nothing behind then.
    """
    if strange := stranger(model.path):
        raise ModelProblem(f"{strange} is neither a file nor a directory: models are made of nothing else")
    file = model.model_file(options.prefer_tflite)
    said = _said(model, file, options)
    loaded = _load_file(file, said.hints, options)
    try:
        computing()
        home = model.path if model.path.is_dir() else model.path.parent
        batching = batching_beside(home) if options.batching_beside else options.batching
        servable = Servable(
            model.name, model.version, loaded.signatures, loaded.function, loaded.close,
            batching=batching if options.batching_beside else None,
        )  # fmt: skip
        replayed = replay(servable, home, options.replays) if options.replay else None
        view, reason = (None, said.wrong) if said.wrong else _view(servable, loaded.pure, file, said, options)
        rehearse(servable, loaded.pure, batching.sizes or (1,) if batching else (1,))
    except BaseException:
        loaded.close()
        raise
    return dataclasses.replace(servable, classifier=view, no_classifier=reason, replayed=replayed)


class _Loaded(Protocol):
    """What the loaders of the several kinds of files return; see Servable. `pure` are the keys of signatures whose
    calls change nothing.
    """

    @property
    def signatures(self) -> Mapping[str, Signature]: ...

    @property
    def pure(self) -> frozenset[str]: ...

    def function(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> Run: ...

    def close(self) -> None: ...


def _load_file(file: Path, hints: Hints, options: LoadOptions) -> _Loaded:
    if file.is_dir():
        return load_savedmodel(file, options)
    if file.suffix == ".keras":
        return load_keras_file(file, options)
    if file.suffix == ".tflite":
        return load_tflite(file, options)
    return load_frozen(file, hints.input, hints.output, options)


@dataclass(frozen=True, slots=True)
class _Said:
    """What the owner says about the image view: `wrong` is what of it cannot be read, if that is no error."""

    hints: Hints
    labels: Labels | None = None
    wrong: str = ""


def _said(model: Found, file: Path, options: LoadOptions) -> _Said:
    try:
        described = model.beside("preprocessing.json")
        hints = (read_hints(described) if described else Hints()).overridden_by(options.hints)
        listed = options.labels or model.beside("labels.txt")
        return _Said(hints, read_labels(listed) if listed else packed_labels(file))
    except ValueError as error:
        wrong = str(error)
    except OSError as error:
        wrong = f"cannot read {error.filename}: {error.strerror}"
    if options.must_classify_as_said:
        raise ModelProblem(wrong)
    log.warning("the model %r does not classify images: %s", model.name, wrong)
    return _Said(options.hints, wrong=wrong)


def _view(
    servable: Servable, pure: frozenset[str], file: Path, said: _Said, options: LoadOptions
) -> tuple[Classifier | None, str]:
    """The image view, or why there is none."""
    if not options.must_classify_as_said:  # nobody asked for a view, so nothing may be changed by looking for one
        harmless = {key: signature for key, signature in servable.signatures.items() if key in pure}
        servable = dataclasses.replace(servable, signatures=harmless)
    hints = said.hints
    if file.suffix == ".pb":
        hints = dataclasses.replace(hints, input=None, output=None)  # they named layers, and are used up
    try:
        return image_view(servable, hints, said.labels, options.max_batch), ""
    except Unfit as error:
        reason = str(error)
    except ModelProblem as error:
        if options.must_classify_as_said:
            raise
        reason = str(error)
    level = logging.WARNING if said.labels or said.hints != Hints() else logging.INFO
    log.log(level, "the model %r does not classify images: %s", servable.name, reason)
    return None, reason

"""What the owner of a worker wants of every model that it loads. Knows no files and no TensorFlow."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from worker.batching_parameters import Batching, batching_of
from worker.models.preprocessing import Hints
from worker.settings import WorkerSettings


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """How models are loaded and warmed; the defaults are those of a worker without flags."""

    hints: Hints = field(default_factory=Hints)
    """What the flags say about the image view; it goes before what stands beside the model."""
    labels: Path | None = None
    """The labels file that a flag names; likewise."""
    max_batch: int = 16
    tags: tuple[str, ...] = ("serve",)
    """Of the graph in a SavedModel that is wanted."""
    prefer_tflite: bool = False
    must_classify_as_said: bool = True
    """Is it an error of the model if its image view does not fit what its owner said of it? Otherwise it has none."""
    intra_op_threads: int = 1
    inter_op_threads: int = 1
    replay: bool = True
    """Replay the requests for warming up that come with a model."""
    replays: int = 1
    """So often each."""
    batching: Batching | None = None
    """How requests share model calls, if they do."""
    batching_beside: bool = False
    """Only those of models whose directories say how."""


DEFAULTS: Final = LoadOptions()


def load_options(settings: WorkerSettings) -> LoadOptions:
    """What the settings say about loading. Raises as `batching_of` does."""
    threads = settings.tensorflow_session_parallelism
    return LoadOptions(
        hints=settings.hints,
        labels=None if settings.labels is None else Path(settings.labels),
        max_batch=settings.max_batch,
        tags=tuple(tag.strip() for tag in settings.saved_model_tags.split(",") if tag.strip()),
        prefer_tflite=settings.prefer_tflite_model,
        must_classify_as_said=not settings.drop_in,
        intra_op_threads=threads or settings.tensorflow_intra_op_parallelism or 1,
        inter_op_threads=threads or settings.tensorflow_inter_op_parallelism or 1,
        replay=settings.enable_model_warmup,
        replays=max(settings.num_request_iterations_for_warmup, 1),
        batching=batching_of(settings),
        batching_beside=settings.enable_per_model_batching_parameters,
    )

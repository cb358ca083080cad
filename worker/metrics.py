"""What Prometheus may know about this worker: who asked for what, how it ended, and where the time went."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from worker.inference import Answer, Inference
from worker.models.servable import Servable
from worker.state import State

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_IMAGES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """The worker's figures, in a registry of their own."""

    def __init__(self, state: State, inference: Inference) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_Depths(state, inference))
        model = ("model", "version")
        self._requests = Counter(
            "muster_worker_requests", "Requests to classify, by their HTTP status",
            (*model, "status"), registry=self._registry,
        )  # fmt: skip
        self._stages = Histogram(
            "muster_worker_stage_seconds", "Time that each stage took, per image (encode: per request)",
            (*model, "stage"), registry=self._registry, buckets=_SECONDS,
        )  # fmt: skip
        self._batches = Histogram(
            "muster_worker_batch_size", "Images that shared the model call of an image",
            model, registry=self._registry, buckets=_IMAGES,
        )  # fmt: skip

    def answered(self, servable: Servable | None, status: int) -> None:
        """A request ended; `servable` is None if it never came as far as a model."""
        model, version = (servable.name, str(servable.version)) if servable else ("", "")
        self._requests.labels(model, version, str(status)).inc()

    def classified(self, servable: Servable, answer: Answer) -> None:
        """An image went through."""
        model, version = servable.name, str(servable.version)
        for stage, seconds in (("decode", answer.decode), ("queue", answer.queue), ("infer", answer.infer)):
            self._stages.labels(model, version, stage).observe(seconds)
        self._batches.labels(model, version).observe(answer.batch)

    def encoded(self, servable: Servable, seconds: float) -> None:
        """The answer was written."""
        self._stages.labels(servable.name, str(servable.version), "encode").observe(seconds)

    def page(self) -> bytes:
        """All figures in Prometheus's text format."""
        return generate_latest(self._registry)


class _Depths(Collector):
    """Figures that are looked up when somebody asks for them."""

    def __init__(self, state: State, inference: Inference) -> None:
        self._state = state
        self._inference = inference

    def collect(self) -> Iterator[GaugeMetricFamily]:
        yield GaugeMetricFamily(
            "muster_worker_images_inside", "Images being decoded, waiting or running", self._inference.inside
        )
        depth = GaugeMetricFamily(
            "muster_worker_queue_depth", "Decoded images waiting for the model", labels=("model", "version")
        )
        for servable in self._state.catalogue.servables if self._state.name != "loading" else ():
            depth.add_metric((servable.name, str(servable.version)), self._inference.waiting(servable))
        yield depth

"""What Prometheus may know about this worker: who asked for what, how it ended, and where the time went.

The doors record: `requested` once for every request, whatever became of it, and `ran` for every task that went through
a model. Recording is a few additions. How many figures there are is for the operator to say, not for clients: a model
or version that is not here is counted under "", and what is known of versions that are gone is dropped in time.
TensorFlow Serving's own names for the same things are in `worker.serving_metrics`, which hears everything, too.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from worker.batching import Ran
from worker.figures import Spread, Tally, growing
from worker.inference import Answer, Inference
from worker.models.catalogue import Attempt, Stage
from worker.models.servable import Servable
from worker.serving_metrics import ServingMetrics
from worker.state import State
from worker.status import Code

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
KEPT = 16
"""So many versions that are gone keep their figures; those of older ones are dropped."""
_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_LOAD_SECONDS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
_ROWS = growing(1.0, 2, 11)
_Version = tuple[str, str]


class Metrics:
    """The worker's figures. `serving_path` is where TensorFlow Serving's page of them is to be, if anywhere."""

    def __init__(self, state: State, inference: Inference, serving_path: str | None = None) -> None:
        self.serving = ServingMetrics()
        """The same under TensorFlow Serving's names."""
        self.serving_path = serving_path
        self._state = state
        self._inference = inference
        request = ("model", "version", "entrypoint", "api")
        self._requests = Tally("muster_worker_requests", (*request, "code"))
        self._latency = Spread("muster_worker_request_seconds", request, _SECONDS)
        self._stages = Spread("muster_worker_stage_seconds", ("model", "version", "stage"), _SECONDS)
        self._rows = Spread("muster_worker_batch_size", ("model", "version"), _ROWS)
        self._loads = Spread("muster_worker_load_seconds", ("model", "outcome"), _LOAD_SECONDS)
        self._here: set[_Version] = set()
        self._gone: dict[_Version, None] = {}  # those that left, the last one last
        state.models.on_change(self._adopt)
        state.models.on_attempt(self._loaded)
        inference.on_call(self.serving.batched)
        self._adopt()
        self._registry = CollectorRegistry()
        self._registry.register(_Page(self))
        ProcessCollector(registry=self._registry)

    def requested(self, entrypoint: str, api: str, model: str, version: int | None, code: Code, seconds: float) -> None:
        """A request ended after `seconds`.

        `entrypoint` is "REST", "GRPC" or "HTTP" (images); `api` a word of ours, never the client's; `model` the name
        that was asked for and `version` the one that answered, None if it never came as far as that.
        """
        values = (*self._place(model, version), entrypoint, api.lower())
        self._requests.add((*values, code.name))
        self._latency.observe(values, seconds)
        self.serving.requested(entrypoint, api, model, code, seconds, known=bool(values[0]))

    def ran(self, servable: Servable, api: str, *, decode: float, ran: Ran[Any], encode: float) -> None:
        """A request went through the model; `decode` and `encode` are the seconds before and after."""
        self._task(servable, decode, ran.waited, ran.took, ran.batch)
        self.encoded(servable, encode)
        self.serving.ran(servable.name, api, ran.took)

    def classified(self, servable: Servable, answer: Answer) -> None:
        """An image of a request went through the model."""
        self._task(servable, answer.decode, answer.queue, answer.infer, answer.batch)
        self.serving.ran(servable.name, "", answer.infer)

    def encoded(self, servable: Servable, seconds: float) -> None:
        """The answer was written."""
        self._stages.observe((servable.name, str(servable.version), "encode"), seconds)

    def _task(self, servable: Servable, decode: float, waited: float, took: float, batch: int) -> None:
        model, version = servable.name, str(servable.version)
        self._stages.observe((model, version, "decode"), decode)
        self._stages.observe((model, version, "queue"), waited)
        self._stages.observe((model, version, "infer"), took)
        self._rows.observe((model, version), batch)

    def page(self) -> bytes:
        """All figures in Prometheus's text format."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """All figures as Prometheus's client library wants them."""
        yield _counter(self._requests, "Requests, by how they ended")
        yield _histogram(self._latency, "Time from a request's head to the end of the work on it")
        yield _histogram(self._stages, "Time that each stage of a task took; encode is that of a request")
        yield _histogram(self._rows, "Rows (images, examples) that shared the model call of a task")
        yield _histogram(self._loads, "Time that an attempt to load a version took")
        yield from self._depths()
        yield from self._states()

    def _depths(self) -> Iterator[Metric]:
        yield GaugeMetricFamily(
            "muster_worker_images_inside",
            "Images and requests being decoded, waiting or running",
            self._inference.inside,
        )
        depth = GaugeMetricFamily(
            "muster_worker_queue_depth", "Tasks waiting for the model", labels=("model", "version")
        )
        for servable in self._state.models.servables:
            depth.add_metric((servable.name, str(servable.version)), self._inference.waiting(servable))
        yield depth

    def _states(self) -> Iterator[Metric]:
        own = GaugeMetricFamily("muster_worker_state", "Where the worker is in its life", labels=("state",))
        own.add_metric((self._state.name,), 1)
        yield own
        states = GaugeMetricFamily(
            "muster_worker_model_state", "Where each version is in its life; code says why it failed, if it did",
            labels=("model", "version", "state", "code"),
        )  # fmt: skip
        for name, statuses in self._state.models.all_statuses.items():
            for status in statuses:
                if status.stage is not Stage.END or status.code is not Code.OK:
                    states.add_metric((name, str(status.version), status.stage.name, status.code.name), 1)
        yield states

    def _loaded(self, attempt: Attempt) -> None:
        servable = attempt.servable
        self._loads.observe((attempt.name, "failed" if servable is None else "loaded"), attempt.seconds)
        self.serving.loaded(attempt.path, attempt.seconds, success=servable is not None)
        if servable is not None and servable.replayed is not None:
            self.serving.warmed_up(attempt.path, servable.replayed.seconds, servable.replayed.records, Code.OK)

    def _place(self, model: str, version: int | None) -> _Version:
        values = (model, "" if version is None else str(version))
        if values in self._here or values in self._gone:
            return values
        return (model, "") if (model, "") in self._here else ("", "")

    def _adopt(self) -> None:
        """Go by the models that are here now."""
        here = {(name, str(version)) for name, versions in self._state.models.available.items() for version in versions}
        here |= {(name, "") for name, _ in here}
        self._gone |= dict.fromkeys(sorted(self._here - here))
        self._here = here
        for back in here & self._gone.keys():
            del self._gone[back]
        forgotten = set(list(self._gone)[:-KEPT])
        for old in forgotten:
            del self._gone[old]
        if forgotten:
            for figure in (self._requests, self._latency, self._stages, self._rows):
                figure.forget(lambda values: values[:2] in forgotten)


class _Page(Collector):
    """What the registry of Prometheus's client library asks."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        return self._metrics.collect()


def _counter(tally: Tally, sentence: str) -> Metric:
    family = CounterMetricFamily(tally.name, sentence, labels=tally.labels)
    for values, number in tally.cells.items():
        family.add_metric(values, number)
    return family


def _histogram(spread: Spread, sentence: str) -> Metric:
    family = HistogramMetricFamily(spread.name, sentence, labels=spread.labels)
    limits = [*map(str, spread.limits), "+Inf"]
    for values, counts, total in spread.cells():
        family.add_metric(values, list(zip(limits, map(float, counts), strict=True)), total)
    return family

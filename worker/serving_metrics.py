"""The metrics of TensorFlow Serving under their own names, and the page in its own form.

Dashboards and alerts that were made for tensorflow_model_server read them. The names hold colons and the braces are
written even when they are empty, which no client library of Prometheus does; so the page is written here. Latencies
are in microseconds, as they are there.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from muster.errors import BadRequest
from worker.batching import Called
from worker.figures import Spread, Tally, Values, growing
from worker.messages.config import MonitoringConfig, read_config
from worker.status import Code

CONTENT_TYPE = "text/plain"
DEFAULT_PATH = "/monitoring/prometheus/metrics"
STRANGERS = 100
"""So many names of models that never were here are told apart; requests for further ones are counted under one."""
PATHS = 200
"""So many paths of models are told apart; what is known of those that were not loaded for longest is dropped."""
_OTHERS = "(others)"
_LATENCY = growing(10, 1.8, 33)
_QUEUING = growing(100, 1.2, 52)
_SIZES = growing(1, 2, 14)
_EXAMPLES = growing(1, 2, 20)
_COUNTED_GRPC = ("predict", "classify", "regress")


def page_path(monitoring_config_file: str) -> str | None:
    """Where that file wants the page to be; None if it, or its absence, wants no page. Raises BadConfig, OSError."""
    if not monitoring_config_file:
        return None
    wanted = read_config(Path(monitoring_config_file), MonitoringConfig).prometheus_config
    return (wanted.path or DEFAULT_PATH) if wanted.enable else None


class ServingMetrics:
    """The figures that tensorflow_model_server keeps."""

    def __init__(self) -> None:
        serving = ":tensorflow:serving:"
        batching = serving + "batching_session:"
        loading = ":tensorflow:cc:saved_model:"
        self._requests = Tally(serving + "request_count", ("model_name", "status"))
        self._latency = Spread(serving + "request_latency", ("model_name", "API", "entrypoint"), _LATENCY)
        self._runtime = Spread(serving + "runtime_latency", ("model_name", "API", "runtime"), _LATENCY)
        self._examples = Spread(serving + "request_example_counts", ("model",), _EXAMPLES)
        self._examples_total = Tally(serving + "request_example_count_total", ("model",))
        self._warm_up = Spread(serving + "model_warmup_latency", ("model_path", "status"), _LATENCY)
        self._warm_up_records = Tally(serving + "model_warmup_records_read", ("model_path", "status"))
        self._queuing = Spread(batching + "queuing_latency", ("thread_pool_name",), _QUEUING)
        self._calls = Tally(batching + "wrapped_run_count")
        self._padding = Spread(batching + "padding_size", ("execution_batch_size",), _SIZES)
        self._task_rows = Spread(batching + "input_batch_size", (), _SIZES)
        self._call_rows = Spread(batching + "processed_batch_size", (), _SIZES)
        self._load_attempts = Tally(loading + "load_attempt_count", ("model_path", "status"))
        self._load_latency = Tally(loading + "load_latency", ("model_path",))
        self._runs = Tally(":tensorflow:core:graph_runs")
        self._run_time = Tally(":tensorflow:core:graph_run_time_usecs")
        self._figures = [figure for figure in vars(self).values() if isinstance(figure, Tally | Spread)]
        self._counters = {figure.name: figure for figure in self._figures if isinstance(figure, Tally)}
        self._strangers: set[str] = set()
        self._paths: dict[str, None] = {}  # the one that was loaded last is last

    def requested(self, entrypoint: str, api: str, model: str, code: Code, seconds: float, *, known: bool) -> None:
        """A request ended. `known`: there is, or was, such a model here."""
        word = api.lower()
        if entrypoint == "GRPC" and word not in _COUNTED_GRPC:
            return
        self._requests.add((model if known else self._stranger(model), code.name))
        if code is Code.OK:
            self._latency.observe((model, word if entrypoint == "REST" else _title(word), entrypoint), seconds * 1e6)

    def ran(self, model: str, api: str, seconds: float) -> None:
        """The model ran for so long for a request, or one image of it (then `api` is "")."""
        microseconds = seconds * 1e6
        if api:
            self._runtime.observe((model, _title(api.lower()), "TF1"), microseconds)
        self._runs.add()
        self._run_time.add((), microseconds)

    def batched(self, called: Called) -> None:
        """A model call was made that several requests may have shared."""
        self._calls.add()
        for rows, waited in called.items:
            self._task_rows.observe((), rows)
            self._queuing.observe(("",), waited * 1e6)
        self._call_rows.observe((), called.rows + called.padding)
        self._padding.observe((str(called.rows + called.padding),), called.padding)

    def examples(self, model: str, count: int) -> None:
        """A MultiInference request came with so many examples."""
        self._examples.observe((model,), count)
        self._examples_total.add((model,), count)

    def loaded(self, path: str, seconds: float, *, success: bool) -> None:
        """It was tried to load the SavedModel at `path`."""
        self._paths.pop(path, None)
        self._paths[path] = None
        if len(self._paths) > PATHS:
            oldest = next(iter(self._paths))
            del self._paths[oldest]
            for figure in (self._load_attempts, self._load_latency, self._warm_up, self._warm_up_records):
                figure.forget(lambda values: values[0] == oldest)
        self._load_attempts.add((path, "success" if success else "fail"))
        if success:
            self._load_latency.add((path,), round(seconds * 1e6))

    def warmed_up(self, path: str, seconds: float, records: int, code: Code) -> None:
        """The recorded requests of the model at `path` were replayed."""
        self._warm_up.observe((path, code.name), seconds * 1e6)
        self._warm_up_records.add((path, code.name), records)

    def value_of(self, name: str) -> int | None:
        """The sum of a counter over all labels; None if there is no such counter.

        `name` may be written with slashes, as TensorFlow names its metrics, or as the page does.
        """
        figure = self._counters.get(name.replace("/", ":"))
        return None if figure is None else int(sum(figure.cells.values()))

    def page(self) -> bytes:
        """All figures as tensorflow_model_server writes them."""
        return "".join(f"{line}\n" for figure in self._figures for line in _lines(figure)).encode("utf-8", "replace")

    def _stranger(self, name: str) -> str:
        if name not in self._strangers:
            if len(self._strangers) >= STRANGERS or len(name) > 256:
                return _OTHERS
            self._strangers.add(name)
        return name


def check_target(target: str, path: str) -> None:
    """The page is at `path` and has no query: TensorFlow Serving takes one for a part of the path. BadRequest."""
    if target != path:
        raise BadRequest(f"Unexpected path: {target[:1000]}. Should be {path}")


def _title(api: str) -> str:
    return "MultiInference" if api == "multiinference" else api.capitalize()


def _lines(figure: Tally | Spread) -> Iterator[str]:
    if isinstance(figure, Tally):
        yield f"# TYPE {figure.name} counter"
        for values, number in figure.cells.items():
            yield f"{figure.name}{{{_pairs(figure.labels, values)}}} {round(number)}"
        return
    yield f"# TYPE {figure.name} histogram"
    limits = [*(f"{limit:.6g}" for limit in figure.limits), "+Inf"]
    for values, counts, total in figure.cells():
        pairs = _pairs(figure.labels, values)
        before = f"{pairs}," if pairs else ""
        for limit, count in zip(limits, counts, strict=True):
            yield f'{figure.name}_bucket{{{before}le="{limit}"}} {count}'
        yield f"{figure.name}_sum{{{pairs}}} {total:.17g}"
        yield f"{figure.name}_count{{{pairs}}} {counts[-1]}"


def _pairs(labels: Values, values: Values) -> str:
    return ",".join(f'{label}="{_escaped(value)}"' for label, value in zip(labels, values, strict=True))


def _escaped(value: str) -> str:
    # A raw line break would end the line; the other two are what Prometheus asks for.
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")

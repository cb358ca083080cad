"""What the worker tells Prometheus, on its own page and on that of tensorflow_model_server."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from muster.values import Worker
from tests.worker.colours import png
from tests.worker.doors import Doors, open_doors
from tests.worker.servables import image_servable
from worker.batching import Called, Ran
from worker.figures import Spread, Tally, growing
from worker.inference import Inference
from worker.messages.config import BadConfig
from worker.metrics import KEPT, Metrics
from worker.models.catalogue import Attempt, Catalogue, Stage, VersionStatus
from worker.models.servable import Replayed, Servable
from worker.serving_metrics import PATHS, STRANGERS, ServingMetrics, page_path
from worker.settings import WorkerSettings
from worker.state import State
from worker.status import Code

PATH = "/monitoring/prometheus/metrics"


def servable(name: str = "m", version: int = 1) -> Servable:
    return image_servable(name, lambda batch: np.zeros((len(batch), 1), np.float32), version=version)


@contextmanager
def measured(*servables: Servable) -> Iterator[tuple[Metrics, Catalogue]]:
    catalogue = Catalogue(servables)
    state = State(Worker("worker-1", "127.0.0.1", 1), catalogue)
    inference = Inference(WorkerSettings(runners=1))
    yield Metrics(state, inference), catalogue
    inference.close()


def samples(metrics: Metrics) -> dict[tuple[str, ...], float]:
    """What the page says: the name, then the labels as `label=value`, in alphabetical order."""
    return {
        (sample.name, *sorted(f"{label}={value}" for label, value in sample.labels.items())): sample.value
        for family in text_string_to_metric_families(metrics.page().decode())
        for sample in family.samples
    }


# The worker's own page


def test_requests_are_told_apart_by_door_call_model_version_and_outcome() -> None:
    with measured(servable()) as (metrics, _):
        for code in (Code.OK, Code.OK, Code.INVALID_ARGUMENT):
            metrics.requested("REST", "predict", "m", 1, code, 0.02)
        metrics.requested("GRPC", "Predict", "m", 1, Code.OK, 0.02)
        told = samples(metrics)
    labels = ("model=m", "version=1")
    name = "muster_worker_requests_total"
    assert told[name, "api=predict", "code=OK", "entrypoint=REST", *labels] == 2
    assert told[name, "api=predict", "code=INVALID_ARGUMENT", "entrypoint=REST", *labels] == 1
    assert told[name, "api=predict", "code=OK", "entrypoint=GRPC", *labels] == 1
    latency = "muster_worker_request_seconds"
    assert told[f"{latency}_count", "api=predict", "entrypoint=REST", *labels] == 3
    assert told[f"{latency}_bucket", "api=predict", "entrypoint=REST", "le=0.01", *labels] == 0
    assert told[f"{latency}_bucket", "api=predict", "entrypoint=REST", "le=0.025", *labels] == 3


def test_names_and_versions_that_clients_invent_are_counted_as_one() -> None:
    with measured(servable()) as (metrics, _):
        for number in range(1000):
            metrics.requested("REST", "predict", f"invented-{number}", None, Code.NOT_FOUND, 0.0)
            metrics.requested("REST", "predict", "m", 1000 + number, Code.NOT_FOUND, 0.0)
        told = {key: value for key, value in samples(metrics).items() if key[0] == "muster_worker_requests_total"}
        assert {key[-2:]: value for key, value in told.items()} == {
            ("model=", "version="): 1000,
            ("model=m", "version="): 1000,
        }
        assert metrics.serving.page().count(b"request_count{") <= STRANGERS + 2


def test_the_time_of_each_stage_is_shown_for_the_version_that_ran() -> None:
    with measured(servable()) as (metrics, _):
        metrics.ran(servable(), "predict", decode=0.001, ran=Ran([], waited=0.2, took=0.03, batch=3), encode=0.004)
        told = samples(metrics)
    sums = {key[2]: value for key, value in told.items() if key[0] == "muster_worker_stage_seconds_sum"}
    assert sums == {"stage=decode": 0.001, "stage=queue": 0.2, "stage=infer": 0.03, "stage=encode": 0.004}
    assert told["muster_worker_batch_size_bucket", "le=2.0", "model=m", "version=1"] == 0
    assert told["muster_worker_batch_size_bucket", "le=4.0", "model=m", "version=1"] == 1


async def test_a_version_that_is_unloaded_leaves_the_gauges_and_its_counts_stay() -> None:
    with measured(servable(version=1), servable(version=2)) as (metrics, catalogue):
        metrics.requested("REST", "predict", "m", 1, Code.OK, 0.0)
        assert ("muster_worker_queue_depth", "model=m", "version=1") in samples(metrics)
        await catalogue.retire(catalogue.servables[0])
        catalogue.note("m", VersionStatus(1, Stage.END))
        metrics.requested("REST", "predict", "m", 1, Code.OK, 0.0)  # one that was under way
        told = samples(metrics)
    assert [key for key in told if key[0] == "muster_worker_queue_depth"] == [
        ("muster_worker_queue_depth", "model=m", "version=2")
    ]
    assert [key[-1] for key in told if key[0] == "muster_worker_model_state"] == ["version=2"]
    labels = ("api=predict", "code=OK", "entrypoint=REST", "model=m", "version=1")
    assert told["muster_worker_requests_total", *labels] == 2


async def test_hundreds_of_versions_one_after_the_other_do_not_leave_their_figures_for_ever() -> None:
    with measured() as (metrics, catalogue):
        for version in range(1, 301):
            catalogue.publish(servable(version=version))
            metrics.requested("REST", "predict", "m", version, Code.OK, 0.0)
            metrics.ran(servable(version=version), "predict", decode=0, ran=Ran([], 0, 0, 1), encode=0)
            if version > 1:
                await catalogue.retire(catalogue.servables[0])
                catalogue.note("m", VersionStatus(version - 1, Stage.END))
        told = samples(metrics)
    for name in ("muster_worker_requests_total", "muster_worker_batch_size_count"):
        versions = {int(key[-1].removeprefix("version=")) for key in told if key[0] == name}
        assert versions == set(range(300 - KEPT, 301))


def test_a_version_that_failed_to_load_is_shown_with_its_code() -> None:
    with measured(servable()) as (metrics, catalogue):
        catalogue.note("m", VersionStatus(2, Stage.LOADING))
        catalogue.note("broken", VersionStatus(7, Stage.END, Code.DATA_LOSS, "it is damaged"))
        states = {key[1:] for key in samples(metrics) if key[0] == "muster_worker_model_state"}
    assert states == {
        ("code=OK", "model=m", "state=AVAILABLE", "version=1"),
        ("code=OK", "model=m", "state=LOADING", "version=2"),
        ("code=DATA_LOSS", "model=broken", "state=END", "version=7"),
    }


def test_attempts_to_load_are_timed_and_the_replayed_requests_are_told() -> None:
    with measured() as (metrics, catalogue):
        warm = dataclasses.replace(servable(), replayed=Replayed(5, 0.25))
        catalogue.attempted(Attempt("m", "/models/m/1", 2.0, warm))
        catalogue.attempted(Attempt("m", "/models/m/2", 1.0, None))
        told = samples(metrics)
        lines = page(metrics.serving)
    assert told["muster_worker_load_seconds_sum", "model=m", "outcome=loaded"] == 2
    assert told["muster_worker_load_seconds_count", "model=m", "outcome=failed"] == 1
    assert ':tensorflow:cc:saved_model:load_attempt_count{model_path="/models/m/1",status="success"} 1' in lines
    assert ':tensorflow:cc:saved_model:load_attempt_count{model_path="/models/m/2",status="fail"} 1' in lines
    assert ':tensorflow:serving:model_warmup_latency_sum{model_path="/models/m/1",status="OK"} 250000' in lines


# The page of tensorflow_model_server


@pytest.fixture(scope="module")
def monitoring(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("monitoring") / "monitoring.config"
    file.write_text("prometheus_config { enable: true }")
    return str(file)


@pytest.fixture
async def doors(monitoring: str) -> AsyncIterator[Doors]:
    async with open_doors(Catalogue([servable()]), monitoring_config_file=monitoring) as doors:
        yield doors


async def test_the_page_is_there_for_any_method_and_says_plain_text(doors: Doors) -> None:
    for method in ("GET", "POST", "PUT", "DELETE"):
        answer = await doors.ask(PATH, method=method)
        assert (answer.status, answer.headers["Content-Type"]) == (200, "text/plain")
        assert "# TYPE :tensorflow:serving:request_count counter\n" in answer.json
    assert (await doors.ask("/metrics")).status == 200


async def test_a_query_is_taken_for_a_part_of_its_path(doors: Doors) -> None:
    answer = await doors.ask(PATH + "?a=b")
    assert answer.status == 400
    assert answer.json["error"] == f"Unexpected path: {PATH}?a=b. Should be {PATH}"


async def test_images_count_as_runs_of_the_graph(doors: Doors) -> None:
    assert (await doors.ask("/classify", png())).status == 200
    assert ":tensorflow:core:graph_runs{} 1\n" in (await doors.ask(PATH)).json


async def test_rest_requests_are_counted_and_timed_under_both_names(doors: Doors) -> None:
    rows = b'{"instances": [{"b64": "AAAA"}, {"b64": "BBBB"}]}'
    assert (await doors.ask("/v1/models/m:predict", rows)).status == 200
    assert (await doors.ask("/v1/models/m:predict", b"{}")).status == 400
    assert (await doors.ask("/v1/models/nope:predict", rows)).status == 404
    lines = (await doors.ask(PATH)).json.splitlines()
    count = ":tensorflow:serving:request_count"
    assert f'{count}{{model_name="m",status="OK"}} 1' in lines
    assert f'{count}{{model_name="m",status="INVALID_ARGUMENT"}} 1' in lines
    assert f'{count}{{model_name="nope",status="NOT_FOUND"}} 1' in lines
    latency = ":tensorflow:serving:request_latency_count"
    assert [line for line in lines if line.startswith(latency)] == [
        f'{latency}{{model_name="m",API="predict",entrypoint="REST"}} 1'
    ]
    assert ':tensorflow:serving:runtime_latency_count{model_name="m",API="Predict",runtime="TF1"} 1' in lines
    own = (await doors.ask("/metrics")).json.splitlines()
    labels = 'api="predict",code="OK",entrypoint="REST",model="m",version="1"'
    assert f"muster_worker_requests_total{{{labels}}} 1.0" in own
    assert 'muster_worker_stage_seconds_count{model="m",stage="infer",version="1"} 1.0' in own


async def test_nobody_asked_for_the_page_and_there_is_none() -> None:
    async with open_doors(Catalogue([servable()])) as doors:
        assert (await doors.ask(PATH)).status == 404


async def test_the_page_is_where_the_file_says(tmp_path: Path) -> None:
    file = tmp_path / "monitoring.config"
    file.write_text('prometheus_config { enable: true path: "/figures" }')
    async with open_doors(Catalogue([servable()]), monitoring_config_file=str(file)) as doors:
        assert (await doors.ask("/figures")).status == 200
        assert (await doors.ask(PATH)).status == 404


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("prometheus_config { enable: true }", PATH),
        ('prometheus_config: { enable: true, path: "/p" }', "/p"),
        ('prometheus_config { enable: false path: "/p" }', None),
        ("prometheus_config { }", None),
        ("", None),
    ],
)
def test_the_file_says_whether_and_where(tmp_path: Path, text: str, path: str | None) -> None:
    file = tmp_path / "monitoring.config"
    file.write_text(text)
    assert page_path(str(file)) == path


def test_without_a_file_there_is_no_page_and_a_broken_one_is_named(tmp_path: Path) -> None:
    assert page_path("") is None
    file = tmp_path / "monitoring.config"
    file.write_text("prometheus_config { enabled: yes }")
    with pytest.raises(BadConfig, match=re.escape(str(file))):
        page_path(str(file))


def page(metrics: ServingMetrics) -> list[str]:
    return metrics.page().decode().splitlines()


def test_requests_are_counted_and_only_successes_are_timed() -> None:
    metrics = ServingMetrics()
    metrics.requested("REST", "predict", "m", Code.OK, 0.000025, known=True)
    metrics.requested("GRPC", "Predict", "m", Code.OK, 0.000025, known=True)
    metrics.requested("GRPC", "Predict", "m", Code.INVALID_ARGUMENT, 9.0, known=True)
    metrics.requested("REST", "", "nope", Code.NOT_FOUND, 9.0, known=False)
    lines = page(metrics)
    name = ":tensorflow:serving:request_count"
    assert [line for line in lines if line.startswith(name)] == [
        name + '{model_name="m",status="OK"} 2',
        name + '{model_name="m",status="INVALID_ARGUMENT"} 1',
        name + '{model_name="nope",status="NOT_FOUND"} 1',
    ]
    for labels in ('API="predict",entrypoint="REST"', 'API="Predict",entrypoint="GRPC"'):
        latency = f':tensorflow:serving:request_latency%s{{model_name="m",{labels}%s}} %s'
        assert latency % ("_bucket", ',le="18"', 0) in lines
        assert latency % ("_bucket", ',le="32.4"', 1) in lines
        assert latency % ("_bucket", ',le="+Inf"', 1) in lines
        assert latency % ("_sum", "", 25) in lines
        assert latency % ("_count", "", 1) in lines
    assert sum("request_latency_count" in line for line in lines) == 2


def test_grpc_calls_other_than_the_three_are_not_counted() -> None:
    metrics = ServingMetrics()
    for api in ("MultiInference", "GetModelMetadata", "GetModelStatus"):
        metrics.requested("GRPC", api, "m", Code.OK, 0.1, known=True)
    assert not [line for line in page(metrics) if "request_count{" in line]


def test_the_limits_of_latencies_are_those_that_dashboards_know() -> None:
    metrics = ServingMetrics()
    metrics.ran("m", "classify", 1.0)
    (first, *_) = re.findall(r'le="([^"]*)"', "".join(page(metrics)))
    limits = [
        match[1]
        for line in page(metrics)
        if (match := re.match(r':tensorflow:serving:runtime_latency_bucket\{.*API="Classify",.*le="([^"]*)"', line))
    ]
    assert first == "10"
    assert limits[:6] == ["10", "18", "32.4", "58.32", "104.976", "188.957"]
    assert (len(limits), limits[-2], limits[-1]) == (34, f"{10 * 1.8**32:.6g}", "+Inf")


def test_figures_without_labels_have_empty_braces() -> None:
    metrics = ServingMetrics()
    metrics.ran("m", "predict", 0.5)
    assert ":tensorflow:core:graph_runs{} 1" in page(metrics)
    assert ":tensorflow:core:graph_run_time_usecs{} 500000" in page(metrics)


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_whatever_a_model_is_called_each_line_stays_one_and_the_name_can_be_read_back(name: str) -> None:
    metrics = ServingMetrics()
    metrics.requested("REST", "", name, Code.NOT_FOUND, 0, known=True)
    (line,) = [line for line in metrics.page().decode().split("\n") if "request_count{" in line]
    match = re.fullmatch(r':tensorflow:serving:request_count\{model_name="(.*)",status="NOT_FOUND"\} 1', line)
    assert match is not None
    plain = {"\\": "\\", '"': '"', "n": "\n"}
    assert re.sub(r"\\(.)", lambda escape: plain[escape[1]], match[1], flags=re.DOTALL) == name


def test_loads_and_warm_ups_are_told_by_the_path_of_the_model() -> None:
    metrics = ServingMetrics()
    metrics.loaded("/models/m/1", 2.5, success=True)
    metrics.loaded("/models/m/2", 1.0, success=False)
    metrics.warmed_up("/models/m/1", 0.001, 5, Code.OK)
    lines = page(metrics)
    assert ':tensorflow:cc:saved_model:load_attempt_count{model_path="/models/m/1",status="success"} 1' in lines
    assert ':tensorflow:cc:saved_model:load_attempt_count{model_path="/models/m/2",status="fail"} 1' in lines
    assert ':tensorflow:cc:saved_model:load_latency{model_path="/models/m/1"} 2500000' in lines
    assert ':tensorflow:serving:model_warmup_latency_count{model_path="/models/m/1",status="OK"} 1' in lines
    assert ':tensorflow:serving:model_warmup_records_read{model_path="/models/m/1",status="OK"} 5' in lines


def test_hundreds_of_versions_do_not_leave_their_paths_for_ever() -> None:
    metrics = ServingMetrics()
    for version in range(3 * PATHS):
        metrics.loaded(f"/models/m/{version}", 1.0, success=True)
        metrics.warmed_up(f"/models/m/{version}", 0.001, 1, Code.OK)
    paths = re.findall(r'load_latency\{model_path="/models/m/(\d+)"', metrics.page().decode())
    assert [int(path) for path in paths] == list(range(2 * PATHS, 3 * PATHS))
    assert metrics.page().count(b"model_warmup_latency_count{") == PATHS


def test_calls_that_requests_share_are_told_with_their_sizes_and_waits() -> None:
    metrics = ServingMetrics()
    metrics.batched(Called(rows=5, padding=3, items=((2, 0.001), (3, 0.0002))))
    lines = page(metrics)
    batching = ":tensorflow:serving:batching_session:"
    assert f"{batching}wrapped_run_count{{}} 1" in lines
    assert f"{batching}input_batch_size_count{{}} 2" in lines
    assert f"{batching}input_batch_size_sum{{}} 5" in lines
    assert f'{batching}processed_batch_size_bucket{{le="4"}} 0' in lines
    assert f'{batching}processed_batch_size_bucket{{le="8"}} 1' in lines
    assert f'{batching}padding_size_sum{{execution_batch_size="8"}} 3' in lines
    assert f'{batching}queuing_latency_bucket{{thread_pool_name="",le="172.8"}} 0' in lines
    assert f'{batching}queuing_latency_bucket{{thread_pool_name="",le="207.36"}} 1' in lines


def test_a_counter_can_be_asked_for_by_either_name_and_is_the_sum_over_its_labels() -> None:
    metrics = ServingMetrics()
    assert metrics.value_of("/tensorflow/serving/request_count") == 0
    metrics.requested("REST", "predict", "a", Code.OK, 0, known=True)
    metrics.requested("REST", "predict", "b", Code.INTERNAL, 0, known=True)
    assert metrics.value_of("/tensorflow/serving/request_count") == 2
    assert metrics.value_of(":tensorflow:serving:request_count") == 2
    assert metrics.value_of("/tensorflow/serving/request_latency") is None
    assert metrics.value_of("no such thing") is None


@given(st.lists(st.floats(0, 1e6)))
def test_a_histogram_counts_every_value_in_its_place(observed: list[float]) -> None:
    spread = Spread("s", ("label",), growing(1, 3, 8))
    for value in observed:
        spread.observe(("x",), value)
    cells = list(spread.cells())
    if not observed:
        assert cells == []
        return
    ((_, counts, total),) = cells
    assert counts == [sum(value <= limit for value in observed) for limit in spread.limits] + [len(observed)]
    assert total == pytest.approx(sum(observed))


def test_recording_leaves_tallies_of_others_alone() -> None:
    tally = Tally("t", ("label",))
    tally.add(("a",), 2)
    tally.add(("b",))
    tally.forget(lambda values: values == ("a",))
    assert tally.cells == {("b",): 1}

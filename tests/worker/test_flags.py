"""The two command lines that a worker understands."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from worker import flags
from worker.serving_settings import ServingSettings
from worker.settings import WorkerSettings
from worker.status import Code, StatusError

BASE = "--model_base_path=/models/half"


def read(*argv: str, **environ: str) -> WorkerSettings:
    return flags.read(argv, environ)


def ended(*argv: str, **environ: str) -> object:
    """The exit status."""
    with pytest.raises(SystemExit) as end:
        read(*argv, **environ)
    return end.value.code


def test_with_its_own_flags_port_is_the_port_of_http_and_zero_is_any() -> None:
    settings = read("--model", "models", "--port", "8501")
    assert (settings.drop_in, settings.port, settings.grpc_port) == (False, 8501, 0)
    assert settings.serves_http
    assert settings.serves_grpc
    assert read().serves_http
    assert not read("--no-grpc").serves_grpc


def test_as_a_drop_in_port_is_the_port_of_grpc_and_http_is_off_unless_asked_for() -> None:
    settings = read(BASE)
    assert (settings.drop_in, settings.grpc_port, settings.serves_http) == (True, 8500, False)
    settings = read(BASE, "--port=9000", "--rest_api_port=9001")
    assert (settings.grpc_port, settings.port) == (9000, 9001)
    settings = read(BASE, "--port=0", "--grpc_socket_path=/tmp/socket")
    assert not settings.serves_grpc


def test_a_drop_in_takes_larger_bodies_unless_told_otherwise() -> None:
    assert read(BASE).max_body == 256 * 2**20
    assert read(BASE, WORKER_MAX_BODY="1MiB").max_body == 2**20
    assert read().max_body == 32 * 2**20


@pytest.mark.parametrize("flag", ["--model_base_path=/m", "--model-base-path=/m", "--model_config_file=/m"])
def test_either_spelling_means_tensorflow_model_server(flag: str) -> None:
    assert read(flag).drop_in


def test_the_environment_can_say_so_too() -> None:
    settings = read(WORKER_MODEL_BASE_PATH="/models/half", WORKER_PORT="8501")
    assert (settings.drop_in, settings.port, settings.grpc_port) == (True, 8501, 8500)


@pytest.mark.parametrize(
    ("said", "batches"),
    [("--enable_batching", True), ("--enable_batching=True", True), ("--enable-batching=FALSE", False), ("", False)],
)
def test_a_boolean_is_said_alone_or_with_its_value_in_any_case(said: str, batches: bool) -> None:
    assert read(BASE, *filter(None, [said])).enable_batching is batches


def test_a_value_may_be_the_next_word() -> None:
    settings = read(
        "--model_name", "half", "--model_base_path", "/models/half", "--file_system_poll_wait_seconds", "-1"
    )
    assert (settings.model_name, settings.file_system_poll_wait_seconds) == ("half", -1)


def test_this_projects_own_flags_and_variables_stand_among_the_others() -> None:
    settings = read(BASE, "--max-body=1MiB", "--log_level", "debug", "--no-enable_profiler", WORKER_QUEUE="99")
    assert (settings.max_body, settings.log_level, settings.queue) == (2**20, "debug", 99)
    assert settings.enable_profiler is False


def test_a_drop_in_is_announced_only_where_a_registry_is_named() -> None:
    assert (read(BASE).registry, read(BASE).drain_delay) == ("static://", 0)
    settings = read(BASE, "--rest_api_port=8501", "--registry=consul://c:8500")
    assert (settings.registry, settings.drain_delay) == ("consul://c:8500", WorkerSettings().drain_delay)
    assert read(BASE, "--rest_api_port=8501", WORKER_REGISTRY="embedded").registry == "embedded"
    assert read().registry == "consul"


def test_an_unknown_flag_is_told_and_the_server_starts(capsys: pytest.CaptureFixture[str]) -> None:
    assert read(BASE, "--frobnicate=1", "loose").drop_in
    out = capsys.readouterr().out
    assert out.startswith("unknown argument: --frobnicate=1\nunknown argument: loose\nusage: ")
    assert "\t--rest_api_port=0\t" in out


def test_a_flag_without_effect_is_told_with_the_reason(capsys: pytest.CaptureFixture[str]) -> None:
    assert read(BASE, "--rest_api_num_threads=8", "--flush_filesystem_caches", "--mixed_precision", "x").drop_in
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("without effect here: --rest_api_num_threads (one event loop serves every connection), ")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("argv", "complaint"),
    [
        ([BASE, "--port=abc"], "--port: 'abc' is not a port"),
        ([BASE, "--rest_api_port=65536"], "--rest_api_port: '65536' is not a port"),
        ([BASE, "--enable_batching=maybe"], "--enable_batching=maybe: the value is neither true nor false"),
        ([BASE, "--max_num_load_retries=1.5"], "--max_num_load_retries: '1.5' is not a whole number"),
        ([BASE, "--model_name"], "--model_name has no value"),
        ([BASE, "--model_name", "--port=1"], "--model_name has no value"),
        ([BASE, "--help"], ""),
    ],
)
def test_a_value_that_cannot_be_read_prints_the_usage_and_ends_with_255(
    argv: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ended(*argv) == 255
    out, err = capsys.readouterr()
    assert out.startswith("usage: ")
    assert err.startswith(complaint)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ([BASE, "--port=0"], "At least one of server_options.grpc_port or server_options.grpc_socket_path"),
        (
            ["--rest_api_port=8501"],
            "Both server_options.model_base_path and server_options.model_config_file are empty!",
        ),
        (["--model_name=x"], "Both server_options.model_base_path and server_options.model_config_file are empty!"),
        ([BASE, "--batching_parameters_file=/b"], "without setting server_options.enable_batching to true"),
        ([BASE, *(f"--tensorflow_{kind}_parallelism=2" for kind in ("session", "intra_op", "inter_op"))], "together"),
        ([BASE, "--use_alts_credentials"], "use ssl_config_file"),
        ([BASE, "--registry=consul"], "rest_api_port must be set"),
    ],
)
def test_what_does_not_go_together_is_refused(argv: list[str], words: str) -> None:
    with pytest.raises(StatusError, match=words) as refusal:
        read(*argv)
    assert refusal.value.canonical is Code.INVALID_ARGUMENT


def test_http_is_left_out_if_both_ports_are_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    settings = read(BASE, "--port=9000", "--rest_api_port=9000")
    assert settings.serves_grpc
    assert not settings.serves_http
    assert "Skipped exporting HTTP/REST API" in capsys.readouterr().err


def test_the_version_is_in_tensorflow_model_servers_words(capsys: pytest.CaptureFixture[str]) -> None:
    assert ended("--version") == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("TensorFlow ModelServer: ")
    assert second.startswith("TensorFlow Library: 2.")


def test_every_flag_of_tensorflow_model_server_is_known() -> None:
    switches = (
        "allow_version_labels_for_unavailable_models enable_batching enable_grpc_healthcheck_service "
        "enable_model_warmup enable_per_model_batching_parameters enable_profiler "
        "enable_serialization_as_tensor_content enable_signature_method_name_check flush_filesystem_caches "
        "prefer_tflite_model remove_unused_fields_from_bundle_metagraph rest_api_enable_cors_support "
        "skip_initialize_tpu xla_cpu_compilation_enabled xla_gpu_compilation_enabled"
    )
    numbers = (
        "file_system_poll_wait_seconds grpc_max_threads load_retry_interval_micros max_num_load_retries "
        "model_config_file_poll_wait_seconds num_load_threads num_request_iterations_for_warmup num_tflite_pools "
        "num_tflite_interpreters_per_pool num_unload_threads per_process_gpu_memory_fraction port rest_api_num_threads "
        "rest_api_port rest_api_timeout_in_ms tensorflow_session_parallelism tensorflow_intra_op_parallelism"
    )
    texts = (
        "grpc_channel_arguments grpc_socket_path mixed_precision model_name monitoring_config_file "
        "platform_config_file saved_model_tags ssl_config_file tensorflow_session_config_file "
        "thread_pool_factory_config_file"
    )
    argv = [BASE, *(f"--{name}=true" for name in switches.split()), *(f"--{name}=1" for name in numbers.split())]
    argv += [f"--{name}=/x" for name in texts.split()]
    _, unknown = flags.serving_flags.parse(argv)
    assert unknown == []
    assert read(*argv).rest_api_timeout_in_ms == 1


def test_the_comparison_speaks_of_every_flag() -> None:
    page = (Path(__file__).parents[2] / "docs" / "tensorflow-serving.md").read_text("utf-8")
    known = {field.name for field in dataclasses.fields(ServingSettings)} | flags.serving_flags.WITHOUT_EFFECT.keys()
    assert {name for name in known if f"`{name}`" not in page} == set()

"""`python -m worker` in the place of tensorflow_model_server: its command line, its ports, its lines, its end."""

from __future__ import annotations

import shutil
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import httpx
import pytest

from tests.consul_agent import free_ports
from tests.serving_calls import predict
from tests.worker.programs import ModelServer, listens
from tests.worker.serving_models import save_convolution, save_half_plus_three, save_half_plus_two

RIGHT = {"half_plus_two": 3.0, "half_plus_three": 4.0}
"""What the models make of 2."""
RETRY_NEVER = ("--max_num_load_retries=0", "--load_retry_interval_micros=0")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models, one version each. Only to be read, and to be copied from."""
    root = tmp_path_factory.mktemp("saved")
    save_half_plus_two(root / "half_plus_two" / "00000123")
    save_half_plus_three(root / "half_plus_three" / "1")
    return root


@pytest.fixture(scope="module")
def server(saved: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModelServer]:
    """A server of one model, which was asked to start before the model was there."""
    directory = tmp_path_factory.mktemp("server")
    base = directory / "half_plus_two"
    flags = ("--model_name=half_plus_two", f"--model_base_path={base}", f"--grpc_socket_path={directory}/socket")
    with ModelServer(directory, *flags, "--rest_api_num_threads=8", "--frobnicate=1") as server:
        server.until("it looks for its model", lambda: f"{base} of the model" in server.log)
        assert not listens(server.rest)
        assert not listens(server.grpc)
        shutil.copytree(saved / "half_plus_two", base)
        yield server.ready()


def test_its_ports_open_when_its_model_is_there_and_scripts_find_their_lines(server: ModelServer) -> None:
    grpc_line = f"Running gRPC ModelServer at 0.0.0.0:{server.grpc} ..."
    rest_line = f"Exporting HTTP/REST API at:localhost:{server.rest} ..."
    deadline = time.monotonic() + 10
    while rest_line not in server.log and time.monotonic() < deadline:  # it answers a moment before it says so
        time.sleep(0.01)
    assert server.log.index(grpc_line) < server.log.index(rest_line)


def test_a_flag_that_is_unknown_and_one_without_effect_are_told(server: ModelServer) -> None:
    assert "unknown argument: --frobnicate=1\nusage: " in server.out
    assert "without effect here: --rest_api_num_threads" in server.log


def test_the_well_known_example_is_answered_by_every_address_of_the_machine(server: ModelServer) -> None:
    hosts = ["127.0.0.1", "localhost", *(["[::1]"] if has_ipv6() else [])]
    for host in hosts:
        url = f"http://{host}:{server.rest}/v1/models/half_plus_two:predict"
        answer = httpx.post(url, content=b'{"instances": [1.0, 2.0, 5.0]}')
        assert answer.json() == {"predictions": [2.5, 3.0, 4.5]}


def test_a_tensor_with_too_few_dimensions_for_a_convolution_is_an_error_and_not_the_end(tmp_path: Path) -> None:
    save_convolution(tmp_path / "images" / "1")
    with ModelServer(tmp_path, "--model_name=images", f"--model_base_path={tmp_path / 'images'}") as server:
        server.ready()
        url = f"http://127.0.0.1:{server.rest}/v1/models/images:predict"
        answer = httpx.post(url, content=b'{"instances": [1.0]}')
        assert answer.status_code == 400
        assert "must be 4-dimensional: [1]" in answer.json()["error"]
        assert httpx.post(url, json={"inputs": [[[[1.0] * 3] * 4] * 4]}).status_code == 200


def has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


def test_grpc_answers_on_its_port_and_on_its_unix_socket(server: ModelServer) -> None:
    socket_path = server.log_file.parent / "socket"
    for target in (f"localhost:{server.grpc}", f"unix:{socket_path}"):
        with grpc.insecure_channel(target) as channel:
            assert predict(channel, "half_plus_two", 2.0) == [RIGHT["half_plus_two"]]


def test_on_sigterm_requests_under_way_are_answered_and_it_ends_promptly_with_success(server: ModelServer) -> None:
    with socket.create_connection(("127.0.0.1", server.rest)) as client, ThreadPoolExecutor(1) as pool:
        body = b'{"instances": [2.0]}'
        head = b"POST /v1/models/half_plus_two:predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
        client.sendall(head + body[:5])
        # The body is not here yet, so this is under way; another answer shows that the worker has seen its head.
        assert server.predict("half_plus_two", 2.0) == 3.0
        began = time.monotonic()
        ended = pool.submit(server.end)
        server.until("it is told to stop", lambda: "stopping: SIGTERM" in server.log)
        client.sendall(body[5:])
        answer = b""
        while data := client.recv(65536):
            answer += data
        assert b" 200 " in answer.partition(b"\r\n")[0]
        assert ended.result() == 0
        assert time.monotonic() - began < 10


def config(*models: tuple[str, Path]) -> str:
    """The text of a configuration file."""
    entries = (f'config {{ name: "{name}" base_path: "{path}" model_platform: "tensorflow" }}' for name, path in models)
    return "model_config_list { " + " ".join(entries) + " }"


def test_a_config_file_is_read_again_and_what_is_wrong_with_it_changes_nothing(saved: Path, tmp_path: Path) -> None:
    file = tmp_path / "models.config"
    two, three = ((name, saved / name) for name in RIGHT)

    def write(text: str) -> None:
        (tmp_path / "new").write_text(text)
        (tmp_path / "new").replace(file)

    write(config(two))
    flags = (f"--model_config_file={file}", "--model_config_file_poll_wait_seconds=1")
    with ModelServer(tmp_path, *flags) as server:
        server.ready()
        assert server.predict("half_plus_two", 2.0) == RIGHT["half_plus_two"]
        assert "Servable not found for request: Latest(half_plus_three)" in str(server.predict("half_plus_three", 2.0))
        write(config(two, three))
        server.until("the new model is served", lambda: server.predict("half_plus_three", 2.0) == 4.0)
        write("model_config_list { what is this }")
        server.until("the mistake is told", lambda: "what is this" in server.log or str(file) in server.log)
        assert server.predict("half_plus_two", 2.0) == RIGHT["half_plus_two"]
        write(config(three))
        server.until("the old model is gone", lambda: "not found" in str(server.predict("half_plus_two", 2.0)))
        assert server.predict("half_plus_three", 2.0) == RIGHT["half_plus_three"]
        assert server.end() == 0


def test_a_model_that_cannot_be_loaded_ends_it_with_the_words_that_scripts_look_for(tmp_path: Path) -> None:
    version = tmp_path / "broken" / "1"
    version.mkdir(parents=True)
    (version / "saved_model.pb").write_bytes(b"this is no SavedModel")
    flags = ("--model_name=broken", f"--model_base_path={version.parent}", *RETRY_NEVER)
    with ModelServer(tmp_path, *flags) as server:
        assert server.popen.wait(60) == 255
        assert "Failed to start server. Error: UNKNOWN: 1 servable(s) did not become available: " in server.out
        assert "{name: broken version: 1} due to error: " in server.out
        assert "Traceback" not in server.log


@pytest.mark.parametrize(
    ("flags", "out", "log"),
    [
        (["--model_base_path=relative"], "INVALID_ARGUMENT: Expected model default to have an absolute path", ""),
        (["--model_config_file=/does/not/exist"], "NOT_FOUND: ", ""),
        (
            ["--model_config_file={}/garbage"],
            "INVALID_ARGUMENT: Invalid protobuf file: '{}/garbage'",
            "Error parsing text-format tensorflow.serving.ModelServerConfig: ",
        ),
        (["--model_base_path=/x", "--enable_batching", "--batching_parameters_file={}/garbage"],
         "INVALID_ARGUMENT: Invalid protobuf file: '{}/garbage'",
         "Error parsing text-format tensorflow.serving.BatchingParameters: "),
        (["--model_base_path=/x", "--monitoring_config_file={}/garbage"],
         "INVALID_ARGUMENT: Invalid protobuf file: '{}/garbage'",
         "Error parsing text-format tensorflow.serving.MonitoringConfig: "),
    ],
)  # fmt: skip
def test_what_it_cannot_start_with_is_told_at_once(flags: list[str], out: str, log: str, tmp_path: Path) -> None:
    (tmp_path / "garbage").write_text("this is no configuration {")
    with ModelServer(tmp_path, *(flag.format(tmp_path) for flag in flags)) as server:
        assert server.popen.wait(30) == 255
        assert "Failed to start server. Error: " + out.format(tmp_path) in server.out
        assert log in server.log
        assert "Traceback" not in server.log


@pytest.mark.parametrize("flags", [(), ("--rest_api_port=0", "--host=localhost")])
def test_it_ends_promptly_while_it_waits_for_its_model(flags: tuple[str, ...], tmp_path: Path) -> None:
    with ModelServer(tmp_path, f"--model_base_path={tmp_path}/nothing", *flags) as server:
        server.until("it looks for its model", lambda: "/nothing of the model" in server.log)
        assert server.end() == 0
        assert not server.out


@pytest.mark.parametrize("which", [0, 1])
def test_a_port_that_is_taken_is_told_before_anything_is_loaded(which: int, tmp_path: Path) -> None:
    with socket.create_server(("0.0.0.0", 0)) as taken:
        ports = free_ports(2)
        ports[which] = taken.getsockname()[1]
        with ModelServer(tmp_path, "--model_base_path=/does/not/exist", ports=ports) as server:
            assert server.popen.wait(30) == 255
            assert f"port {ports[which]}: Address already in use" in server.out

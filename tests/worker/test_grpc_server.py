"""The gRPC server of a worker: where it listens, with which keys, what it says of its health, and how it ends."""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import uvloop

from tests.worker.grpc_doors import HEALTH, PREDICTION, GrpcDoors, open_grpc, predict_request
from tests.worker.servables import image_servable
from worker import grpc_health
from worker.messages import serving
from worker.messages.config import SSLConfig
from worker.messages.health import HealthCheckRequest, HealthCheckResponse
from worker.models.catalogue import Catalogue
from worker.tensor_proto import to_array

DROP_IN = {"model_base_path": "/models/m", "grpc_port": 1}


@pytest.fixture
def halves() -> Catalogue:
    """A model that needs no TensorFlow: serving_default, image → scores."""
    return Catalogue([image_servable("halves", lambda array: array / 2)])


async def ask(doors: GrpcDoors, channel: grpc.aio.Channel | None = None) -> Any:
    call = (channel or doors.channel).unary_unary(PREDICTION + "Predict")
    answer = await call(predict_request("halves", {"image": np.float32([5])}).SerializeToString(), timeout=10)
    return to_array(serving.PredictResponse.FromString(answer).outputs["scores"]).tolist()


async def health(doors: GrpcDoors, service: str = "") -> str:
    answer = await doors.channel.unary_unary(HEALTH + "Check")(HealthCheckRequest(service=service).SerializeToString())
    return status(answer)


def status(answer: bytes) -> str:
    return str(HealthCheckResponse.ServingStatus.Name(HealthCheckResponse.FromString(answer).status))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def files_in(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir()]


def test_it_serves_in_the_loop_that_the_worker_runs_in(halves: Catalogue) -> None:
    async def serve() -> list[Any]:
        async with open_grpc(halves) as doors:
            return await asyncio.gather(*(ask(doors) for _ in range(20)))

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(serve()) == [[2.5]] * 20


async def test_it_listens_on_a_unix_socket_beside_the_port_and_takes_over_a_stale_one(
    halves: Catalogue, tmp_path: Path
) -> None:
    path = tmp_path / "grpc.sock"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    async with open_grpc(halves, grpc_socket_path=str(path)) as doors:
        assert await ask(doors) == [2.5]
        async with grpc.aio.insecure_channel(f"unix:{path}") as channel:
            assert await ask(doors, channel) == [2.5]


async def test_who_takes_over_a_unix_socket_keeps_it_when_the_earlier_server_ends(
    halves: Catalogue, tmp_path: Path
) -> None:
    path = tmp_path / "grpc.sock"
    async with AsyncExitStack() as later:
        async with open_grpc(halves, grpc_socket_path=str(path)):
            newer = await later.enter_async_context(open_grpc(halves, grpc_socket_path=str(path)))
        async with grpc.aio.insecure_channel(f"unix:{path}") as channel:
            assert await ask(newer, channel) == [2.5]
        assert files_in(tmp_path) == ["grpc.sock"]
    assert files_in(tmp_path) == []


async def test_a_file_that_is_no_socket_is_not_written_over(halves: Catalogue, tmp_path: Path) -> None:
    path = tmp_path / "diary"
    path.write_text("dear diary")
    with pytest.raises(OSError, match=f"Unix socket {path}: there is something that is no socket$"):
        async with open_grpc(halves, grpc_socket_path=str(path)):
            pass
    assert path.read_text() == "dear diary"


async def test_a_drop_in_without_a_port_listens_on_the_unix_socket_alone(halves: Catalogue, tmp_path: Path) -> None:
    path = tmp_path / "grpc.sock"
    async with open_grpc(halves, grpc_socket_path=str(path), **DROP_IN | {"grpc_port": 0}) as doors:
        assert doors.port == 0
        async with grpc.aio.insecure_channel(f"unix:{path}") as channel:
            assert await ask(doors, channel) == [2.5]


async def test_a_port_that_is_taken_is_one_sentence(halves: Catalogue) -> None:
    async with open_grpc(halves) as doors:
        with pytest.raises(OSError, match=f"^cannot listen on 127.0.0.1 port {doors.port}: Address already in use$"):
            async with open_grpc(halves, grpc_port=doors.port):
                pass
    with pytest.raises(OSError, match=r"^cannot listen for gRPC on the Unix socket /nowhere/grpc\.sock$"):
        async with open_grpc(halves, grpc_socket_path="/nowhere/grpc.sock"):
            pass


async def test_a_port_may_be_used_again_at_once(halves: Catalogue) -> None:
    port = free_port()
    for _ in range(2):
        async with open_grpc(halves, grpc_port=port) as doors:
            assert doors.port == port
            assert await ask(doors) == [2.5]


async def test_channel_arguments_reach_grpc(halves: Catalogue) -> None:
    limited = "grpc.max_receive_message_length=20,grpc.primary_user_agent=somebody"
    async with open_grpc(halves, grpc_channel_arguments=limited) as doors:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await ask(doors)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    with pytest.raises(ValueError, match="'forever' is not of the form key=value"):
        async with open_grpc(halves, grpc_channel_arguments="forever"):
            pass


async def test_a_worker_of_a_cluster_takes_no_message_that_is_larger_than_any_body(halves: Catalogue) -> None:
    request = predict_request("halves", {"image": np.zeros(300_000, np.float32)})
    async with open_grpc(halves, max_inflated=1_000_000) as doors:
        channel = grpc.aio.insecure_channel(f"127.0.0.1:{doors.port}", compression=grpc.Compression.Gzip)
        with pytest.raises(grpc.aio.AioRpcError) as caught:  # it is small on its way
            await channel.unary_unary(PREDICTION + "Predict")(request.SerializeToString())
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        await channel.close()
        assert await ask(doors) == [2.5]
    async with open_grpc(halves, max_inflated=1_000_000, **DROP_IN | {"grpc_port": free_port()}) as doors:
        assert (await doors.ask("Predict", request)).model_spec.name == "halves"


async def test_a_client_that_lists_very_many_models_does_not_fill_the_log(
    halves: Catalogue, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    request = serving.ReloadConfigRequest()
    for number in range(5000):
        request.config.model_config_list.config.add(name=f"{number}" * 1000)
    async with open_grpc(halves) as doors:
        await doors.ask("HandleReloadConfigRequest", request)
    assert "a client asks for these models" in caplog.text
    assert len(caplog.text) < 20_000


async def test_no_more_calls_at_the_same_time_than_the_flag_allows(halves: Catalogue) -> None:
    async with open_grpc(halves, grpc_max_threads=1) as doors:
        watching = doors.channel.unary_stream(HEALTH + "Watch")(b"")
        await watching.read()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await ask(doors)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        watching.cancel()


async def test_who_opens_calls_and_sends_no_request_does_not_keep_them(halves: Catalogue) -> None:
    async with open_grpc(halves, grpc_max_threads=2, body_timeout=0.3) as doors:
        opened = [doors.channel.stream_unary(PREDICTION + "Predict")() for _ in range(2)]
        told = {await call.code(): await call.details() for call in opened}
        assert told == {grpc.StatusCode.DEADLINE_EXCEEDED: "the request did not arrive within 0.3 seconds"}
        assert await ask(doors) == [2.5]
        ended = doors.channel.stream_unary(PREDICTION + "Predict")()
        await ended.done_writing()
        assert (await ended.code(), await ended.details()) == (grpc.StatusCode.INTERNAL, "the request is missing")


async def test_who_watches_leaves_room_for_others(halves: Catalogue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grpc_health, "MOST_WATCHES", 2)
    async with open_grpc(halves) as doors:
        watch = doors.channel.unary_stream(HEALTH + "Watch")
        watching = [watch(b"") for _ in range(2)]
        for call in watching:
            await call.read()
        third = watch(b"")
        assert await third.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        watching[0].cancel()
        async with asyncio.timeout(5):
            while await (again := watch(b"")).read() is grpc.aio.EOF:  # until the server knows that one has left
                pass
        again.cancel()


async def test_a_burst_of_calls_waits_for_its_turn() -> None:
    async with open_grpc(None) as doors:
        answers = await asyncio.gather(*(health(doors) for _ in range(4000)))
    assert answers == ["NOT_SERVING"] * 4000


async def test_health_is_that_of_the_worker() -> None:
    async with open_grpc(None) as doors:
        assert await health(doors) == "NOT_SERVING"
        doors.state.started()
        assert await health(doors) == "NOT_SERVING"  # there is no model yet
        doors.state.models.publish(image_servable("halves", lambda array: array))
        for service in ("", "PredictionService", "ModelService", "tensorflow.serving.PredictionService"):
            assert await health(doors, service) == "SERVING"
        doors.state.drain()
        assert await health(doors) == "NOT_SERVING"
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await health(doors, "GuessingService")
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def all_ended(reads: list[asyncio.Task[Any]]) -> None:
    assert [await read for read in reads] == [grpc.aio.EOF] * len(reads)


async def test_whoever_watches_health_hears_of_each_change_and_of_the_end() -> None:
    async with AsyncExitStack() as life, open_grpc(None) as doors:
        channel = await life.enter_async_context(grpc.aio.insecure_channel(f"127.0.0.1:{doors.port}"))
        watch = channel.unary_stream(HEALTH + "Watch")
        known = watch(b"")
        unknown = watch(HealthCheckRequest(service="GuessingService").SerializeToString())
        assert status(await known.read()) == "NOT_SERVING"
        assert status(await unknown.read()) == "SERVICE_UNKNOWN"
        doors.state.models.publish(image_servable("halves", lambda array: array))
        doors.state.started()
        assert status(await known.read()) == "SERVING"
        await doors.state.models.retire(*doors.state.models.servables)
        assert status(await known.read()) == "NOT_SERVING"
        ends = [asyncio.create_task(call.read()) for call in (known, unknown)]
        life.push_async_callback(all_ended, ends)


async def test_a_drop_in_is_asked_for_its_health_only_where_the_flag_says_so(halves: Catalogue) -> None:
    port = {"grpc_port": free_port()}
    async with open_grpc(halves, **DROP_IN | port) as doors:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await health(doors)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    async with open_grpc(halves, **DROP_IN | port, enable_grpc_healthcheck_service=True) as doors:
        await doors.state.models.retire(*doors.state.models.servables)
        assert await health(doors, "PredictionService") == "SERVING"  # as there, whatever the models do
        doors.state.drain()
        assert await health(doors) == "NOT_SERVING"


async def test_a_watch_that_cannot_be_read_is_one_sentence(halves: Catalogue, caplog: pytest.LogCaptureFixture) -> None:
    async with open_grpc(halves) as doors:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await doors.channel.unary_stream(HEALTH + "Watch")(b"\xff").read()
        assert caught.value.code() is grpc.StatusCode.INTERNAL
        assert caught.value.details() == "the request cannot be read as a grpc.health.v1.HealthCheckRequest"
    assert not caplog.records


async def test_a_profiler_that_could_not_be_started_is_started_for_the_next_who_asks(
    halves: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    profile = "/tensorflow.ProfilerService/Profile"
    async with open_grpc(halves) as stand_in, open_grpc(halves, **DROP_IN | {"grpc_port": free_port()}) as doors:
        starts = iter([OSError("too many open files"), stand_in.port])

        def start() -> int:
            outcome = next(starts)
            if isinstance(outcome, OSError):
                raise outcome
            return outcome

        monkeypatch.setattr("worker.models.profiler.start_profiler", start)
        for code in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNIMPLEMENTED):  # the stand-in knows no such method
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await doors.channel.unary_unary(profile)(b"", timeout=60)
            assert caught.value.code() is code
    assert next(starts, None) is None


async def test_a_server_whose_profiler_never_started_ends_as_any_other(
    halves: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start() -> int:
        raise OSError("too many open files")

    monkeypatch.setattr("worker.models.profiler.start_profiler", start)
    async with open_grpc(halves, **DROP_IN | {"grpc_port": free_port()}) as doors:
        with pytest.raises(grpc.aio.AioRpcError):
            await doors.channel.unary_unary("/tensorflow.ProfilerService/Profile")(b"", timeout=60)


async def test_tensorflows_profiler_is_reached_through_a_drop_in(
    halves: Catalogue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # a profile without a name is written here
    profile, a_tenth_of_a_second = "/tensorflow.ProfilerService/Profile", b"\x08\x64"
    port = {"grpc_port": free_port()}
    async with open_grpc(halves, **DROP_IN | port) as doors:
        await doors.channel.unary_unary(profile)(a_tenth_of_a_second, timeout=60)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await doors.channel.unary_unary("/tensorflow.ProfilerService/Monitor")(b"", timeout=60)
        assert caught.value.details() == "unimplemented."  # in TensorFlow's words, so it was TensorFlow that answered
    for settings in (DROP_IN | port | {"enable_profiler": False}, {}):
        async with open_grpc(halves, **settings) as doors:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await doors.channel.unary_unary(profile)(a_tenth_of_a_second)
            assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


class Keys:
    """An authority, and what it signed."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._openssl("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ca.key -out ca.pem "
                      "-days 2 -subj /CN=authority")  # fmt: skip
        for name in ("server", "client"):
            self._openssl(f"req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout {name}.key -out {name}.csr "
                          f"-subj /CN={name}")  # fmt: skip
            (directory / "names").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1")
            self._openssl(f"x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out {name}.pem -days 2 "
                          "-extfile names")  # fmt: skip

    def _openssl(self, arguments: str) -> None:
        subprocess.run(["openssl", *arguments.split()], cwd=self.directory, check=True, capture_output=True)

    def __getitem__(self, name: str) -> bytes:
        return (self.directory / name).read_bytes()

    def config(self, **more: Any) -> str:
        """An SSLConfig file."""
        config = SSLConfig(server_key=self["server.key"], server_cert=self["server.pem"], **more)
        path = self.directory / "ssl.pbtxt"
        path.write_text(str(config))
        return str(path)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl to make keys with")
    return Keys(tmp_path_factory.mktemp("keys"))


async def test_with_keys_it_speaks_tls_and_nothing_else(halves: Catalogue, keys: Keys) -> None:
    trusting = grpc.ssl_channel_credentials(keys["ca.pem"])
    async with open_grpc(halves, ssl_config_file=keys.config()) as doors:
        async with grpc.aio.secure_channel(f"localhost:{doors.port}", trusting) as channel:
            assert await ask(doors, channel) == [2.5]
        with pytest.raises(grpc.aio.AioRpcError):
            await ask(doors)


async def test_clients_show_their_certificates_where_the_operator_asks_for_it(halves: Catalogue, keys: Keys) -> None:
    stranger = grpc.ssl_channel_credentials(keys["ca.pem"])
    friend = grpc.ssl_channel_credentials(keys["ca.pem"], keys["client.key"], keys["client.pem"])
    file = keys.config(custom_ca=keys["ca.pem"], client_verify=True)
    async with open_grpc(halves, ssl_config_file=file) as doors:
        async with grpc.aio.secure_channel(f"localhost:{doors.port}", friend) as channel:
            assert await ask(doors, channel) == [2.5]
        async with grpc.aio.secure_channel(f"localhost:{doors.port}", stranger) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await ask(doors, channel)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('server_key: "k"', "must hold both server_key and server_cert"),
        ('server_key: "k" server_cert: "c" client_verify: true', "no custom_ca to verify clients with"),
        ('server_key: "k" server_cert: "c"', "perhaps the keys and certificates of --ssl_config_file are not in PEM"),
        ("key: 1", "ssl.pbtxt"),
    ],
)
async def test_keys_that_cannot_be_used_are_one_sentence(
    halves: Catalogue, tmp_path: Path, text: str, sentence: str
) -> None:
    (tmp_path / "ssl.pbtxt").write_text(text)
    with pytest.raises((OSError, ValueError), match=sentence):
        async with open_grpc(halves, ssl_config_file=str(tmp_path / "ssl.pbtxt")):
            pass

"""TensorFlow Serving's gRPC services: what a client asks and is told."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import numpy as np
import pytest

from tests.worker import serving_models
from tests.worker.grpc_doors import MODELS, PREDICTION, open_grpc, predict_request
from tests.worker.lives import until
from worker.examples import CLASSIFY, REGRESS
from worker.messages import serving
from worker.messages.tensors import Example, TensorProto
from worker.models.catalogue import Catalogue, Stage, VersionStatus
from worker.models.finding import Found
from worker.models.loading import load
from worker.models.options import LoadOptions
from worker.models.servable import Servable
from worker.models.tensorflow_quietly import tf
from worker.status import Code, StatusError
from worker.tensor_proto import to_array

DTYPES = (tf.float32, tf.int64, tf.string, tf.bool, tf.bfloat16, tf.complex64, tf.qint8)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Catalogue:
    root = tmp_path_factory.mktemp("served")
    saved = {
        "half_plus_two": serving_models.save_half_plus_two(root / "half_plus_two" / "1"),
        "examples": serving_models.save_examples(root / "examples" / "1"),
        "failing": serving_models.save_failing(root / "failing" / "1"),
        "types": serving_models.save_identities(root / "types" / "1", *DTYPES),
    }
    options = LoadOptions(max_batch=4)
    return Catalogue([load(Found(name, 1, path), options) for name, path in saved.items()])


def example(**features: float | int | bytes) -> bytes:
    record = Example()
    for name, value in features.items():
        feature = record.features.feature[name]
        {float: feature.float_list, int: feature.int64_list, bytes: feature.bytes_list}[type(value)].value.append(value)
    return record.SerializeToString()


def spec(request: Any, model: str, signature: str = "", **choice: Any) -> Any:
    request.model_spec.name = model
    request.model_spec.signature_name = signature
    if "version" in choice:
        request.model_spec.version.value = choice["version"]
    if "label" in choice:
        request.model_spec.version_label = choice["label"]
    return request


def with_examples(request: Any, model: str, signature: str, *examples: bytes) -> Any:
    request.input.example_list.examples.extend(examples)
    return spec(request, model, signature)


async def test_half_plus_two_answers_as_its_users_know_it(served: Catalogue) -> None:
    async with open_grpc(served) as doors:
        answer = await doors.ask("Predict", predict_request("half_plus_two", {"x": np.float32([1, 2, 5])}))
        assert list(answer.outputs["y"].float_val) == [2.5, 3.0, 4.5]
        assert not answer.outputs["y"].tensor_content
        assert [dimension.size for dimension in answer.outputs["y"].tensor_shape.dim] == [3]
        assert answer.model_spec.name == "half_plus_two"
        assert answer.model_spec.version.value == 1
        assert answer.model_spec.signature_name == "serving_default"


async def test_who_answered_and_where_the_time_went_comes_behind_the_answer(served: Catalogue) -> None:
    async with open_grpc(served) as doors:
        call = doors.channel.unary_unary(PREDICTION + "Predict")
        asked = call(predict_request("half_plus_two", {"x": np.float32([1])}).SerializeToString())
        await asked
        trailing = dict(await asked.trailing_metadata())
        assert trailing["x-served-by"] == "worker-1"
        assert all(f"{stage};dur=" in trailing["server-timing"] for stage in ("decode", "queue", "infer", "encode"))


@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        ("float32", np.float32([[1.5, -2], [np.inf, 0]])),
        ("int64", np.int64([-(2**63), 2**63 - 1])),
        ("string", np.array([b"\x00\xff", "Stra\u00dfe".encode(), b""], object)),
        ("string", np.array(b"one", object)),
        ("bool", np.array([True, False])),
        ("complex64", np.complex64([1 + 2j])),
        ("float32", np.float32(7)),
        ("float32", np.zeros((0, 3), np.float32)),
    ],
)
async def test_a_tensor_comes_back_as_it_went(served: Catalogue, dtype: str, value: Any) -> None:
    async with open_grpc(served) as doors:
        answer = await doors.ask("Predict", predict_request("types", {"x": value}, dtype))
        assert to_array(answer.outputs["y"]).tolist() == value.tolist()
        assert to_array(answer.outputs["y"]).shape == value.shape


async def test_types_that_numpy_does_not_have_come_back_as_they_went(served: Catalogue) -> None:
    async with open_grpc(served) as doors:
        for dtype, proto in (
            ("bfloat16", TensorProto(dtype=14, half_val=[0x3F80, 0xC000])),
            ("qint8", TensorProto(dtype=11, int_val=[1, -128])),
        ):
            proto.tensor_shape.dim.add(size=2)
            request = predict_request("types", {}, dtype)
            request.inputs["x"].CopyFrom(proto)
            assert (await doors.ask("Predict", request)).outputs["y"] == proto


async def test_a_large_tensor_goes_through_in_the_field_of_its_type(served: Catalogue) -> None:
    image = np.random.default_rng(1).random((8, 224, 224, 3), np.float32)  # 4.8 MB: more than gRPC takes by itself
    async with open_grpc(served) as doors:
        answer = await doors.ask("Predict", predict_request("types", {"x": image}, "float32"))
        assert len(answer.outputs["y"].float_val) == image.size
        assert (to_array(answer.outputs["y"]) == image).all()


async def test_raw_bytes_are_sent_where_the_operator_wants_them(served: Catalogue) -> None:
    async with open_grpc(served, enable_serialization_as_tensor_content=True) as doors:
        answer = await doors.ask("Predict", predict_request("half_plus_two", {"x": np.float32([1, 2])}))
        assert answer.outputs["y"].tensor_content == np.float32([2.5, 3]).tobytes()
        assert not answer.outputs["y"].float_val


async def test_a_version_or_a_label_may_be_asked_for(served: Catalogue) -> None:
    served.label({"half_plus_two": {"stable": 1, "canary": 9}})
    async with open_grpc(served) as doors:
        x = {"x": np.float32([2])}
        for choice in ({"version": 1}, {"label": "stable"}):
            request = spec(predict_request("half_plus_two", x), "half_plus_two", **choice)
            assert (await doors.ask("Predict", request)).model_spec.version.value == 1
        for choice, code, words in (
            ({"version": 7}, "NOT_FOUND", "Servable not found for request: Specific(half_plus_two, 7)"),
            ({"version": 0}, "NOT_FOUND", "Servable not found for request: Specific(half_plus_two, 0)"),
            ({"label": "canary"}, "NOT_FOUND", "Servable not found for request: Specific(half_plus_two, 9)"),
            ({"label": "nobody"}, "INVALID_ARGUMENT", "Unrecognized servable version label: nobody"),
            ({"label": ""}, "INVALID_ARGUMENT", "Unrecognized servable version label: "),
        ):
            request = spec(predict_request("half_plus_two", x), "half_plus_two", **choice)
            assert await doors.refused("Predict", request) == (code, words)


@pytest.mark.parametrize("method", ["Predict", "Classify", "Regress", "GetModelMetadata"])
async def test_a_request_names_a_model_that_is_here(served: Catalogue, method: str) -> None:
    request = {
        "Predict": serving.PredictRequest, "Classify": serving.ClassificationRequest,
        "Regress": serving.RegressionRequest, "GetModelMetadata": serving.GetModelMetadataRequest,
    }[method]()  # fmt: skip
    async with open_grpc(served) as doors:
        assert await doors.refused(method, request) == ("INVALID_ARGUMENT", "Missing ModelSpec")
        request.model_spec.SetInParent()
        if method == "GetModelMetadata":
            request.metadata_field.append("signature_def")
        assert await doors.refused(method, request) == ("INVALID_ARGUMENT", "ModelSpec has no name specified.")
        request.model_spec.name = "nowhere"
        words = "Servable not found for request: Latest(nowhere)"
        assert await doors.refused(method, request) == ("NOT_FOUND", words)


async def test_classify_regress_and_both_at_once(served: Catalogue) -> None:
    records = example(x=0.75, name=b"cat"), example(x=1.0, count=4)
    async with open_grpc(served) as doors:
        request = with_examples(serving.ClassificationRequest(), "examples", "", *records)
        answer = await doors.ask("Classify", request)
        assert [[(one.label, one.score) for one in row.classes] for row in answer.result.classifications] == [
            [("cat", 0.75), ("other", 0.25)], [("nameless", 1.0), ("other", 0.0)],
        ]  # fmt: skip
        assert answer.model_spec.signature_name == "serving_default"

        answer = await doors.ask("Regress", with_examples(serving.RegressionRequest(), "examples", "regress", *records))
        assert [one.value for one in answer.result.regressions] == [0.75, 5.0]
        assert answer.model_spec.signature_name == "regress"

        both = serving.MultiInferenceRequest()
        for signature, method in (("regress_flat", REGRESS), ("", CLASSIFY)):
            task = both.tasks.add(method_name=method)
            task.model_spec.name, task.model_spec.signature_name = "examples", signature
        both.input.example_list.examples.extend(records)
        number, label = (await doors.ask("MultiInference", both)).results
        assert [one.value for one in number.regression_result.regressions] == [0.75, 5.0]
        assert label.classification_result.classifications[0].classes[0].label == "cat"
        assert label.model_spec.signature_name == "serving_default"


async def test_an_example_overrides_the_context(served: Catalogue) -> None:
    request = spec(serving.RegressionRequest(), "examples", "regress")
    request.input.example_list_with_context.context = example(x=1.0, count=100)
    request.input.example_list_with_context.examples.extend([example(), example(count=5)])
    async with open_grpc(served) as doors:
        answer = await doors.ask("Regress", request)
        assert [one.value for one in answer.result.regressions] == [101.0, 6.0]


async def test_what_the_graph_refuses_is_told_in_tensorflows_words(served: Catalogue) -> None:
    async with open_grpc(served) as doors:
        negative = predict_request("failing", {"x": np.float32([-1])})
        code, words = await doors.refused("Predict", negative)
        assert code == "INVALID_ARGUMENT"
        assert "x is negative" in words
        damaged = with_examples(serving.RegressionRequest(), "examples", "regress", b"\xff\xff")
        code, words = await doors.refused("Regress", damaged)
        assert code == "INVALID_ARGUMENT"
        assert "Could not parse example input" in words
        wrong = predict_request("half_plus_two", {"x": np.int32([1])})
        assert (await doors.refused("Predict", wrong))[0] == "INVALID_ARGUMENT"


async def test_a_signature_without_inputs_can_be_called(served: Catalogue) -> None:
    async with open_grpc(served) as doors:
        assert await doors.predict("failing", {}, "nothing") == {"y": 1.0}


async def test_a_long_error_is_cut(served: Catalogue) -> None:
    async with open_grpc(served) as doors:
        request = predict_request("half_plus_two", {"x": np.float32([1])}, "\u00e4" * 2000)
        code, words = await doors.refused("Predict", request)
        assert code == "FAILED_PRECONDITION"
        assert words.startswith('Serving signature key "\u00e4')
        assert words.endswith("\u00e4...TRUNCATED")
        assert len(words.encode()) in (1023 + 12, 1024 + 12)


async def test_bytes_that_are_no_request_and_methods_that_are_not_there(served: Catalogue) -> None:
    async with open_grpc(served) as doors:
        for method, code in (
            (PREDICTION + "Predict", grpc.StatusCode.INTERNAL),
            (MODELS + "GetModelStatus", grpc.StatusCode.INTERNAL),
            (PREDICTION + "Guess", grpc.StatusCode.UNIMPLEMENTED),
            ("/tensorflow.serving.SessionService/SessionRun", grpc.StatusCode.UNIMPLEMENTED),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await doors.channel.unary_unary(method)(b"\xff\xff\xff")
            assert caught.value.code() is code


async def test_metadata_tell_every_signature(served: Catalogue) -> None:
    request = spec(serving.GetModelMetadataRequest(metadata_field=["signature_def"]), "half_plus_two")
    async with open_grpc(served) as doors:
        answer = await doors.ask("GetModelMetadata", request)
        assert (answer.model_spec.name, answer.model_spec.version.value) == ("half_plus_two", 1)
        assert answer.model_spec.signature_name == ""
        packed = answer.metadata["signature_def"]
        assert packed.type_url == "type.googleapis.com/tensorflow.serving.SignatureDefMap"
        signatures = serving.SignatureDefMap.FromString(packed.value).signature_def
        assert signatures["serving_default"].inputs["x"].name == "x:0"
        assert signatures["classify_x_to_y"].method_name == CLASSIFY

        del request.metadata_field[:]
        code, words = await doors.refused("GetModelMetadata", request)
        assert (code, words) == ("INVALID_ARGUMENT", "GetModelMetadataRequest must specify at least one metadata_field")
        request.metadata_field.append("secrets")
        code, words = await doors.refused("GetModelMetadata", request)
        assert (code, words) == ("INVALID_ARGUMENT", "Metadata field secrets is not supported")


async def test_states_of_all_versions_or_of_one_the_newest_first(served: Catalogue) -> None:
    served.note("half_plus_two", VersionStatus(3, Stage.END, Code.UNKNOWN, "it is damaged"))
    request = spec(serving.GetModelStatusRequest(), "half_plus_two", label="ignored")
    async with open_grpc(served) as doors:
        told = (await doors.ask("GetModelStatus", request)).model_version_status
        assert [(one.version, one.state, one.status.error_code, one.status.error_message) for one in told] == [
            (3, 50, 2, "it is damaged"), (1, 30, 0, ""),
        ]  # fmt: skip
        (one,) = (
            await doors.ask("GetModelStatus", spec(serving.GetModelStatusRequest(), "half_plus_two", version=1))
        ).model_version_status
        assert one.version == 1
        for request, words in (
            (spec(serving.GetModelStatusRequest(), "nowhere"), "Could not find any versions of model nowhere"),
            (spec(serving.GetModelStatusRequest(), ""), "Could not find any versions of model "),
            (spec(serving.GetModelStatusRequest(), "types", version=2), "Could not find version 2 of model types"),
        ):
            assert await doors.refused("GetModelStatus", request) == ("NOT_FOUND", words)
        refusal = await doors.refused("GetModelStatus", serving.GetModelStatusRequest())
        assert refusal == ("INVALID_ARGUMENT", "Missing ModelSpec")


async def test_a_new_configuration_goes_to_the_manager_and_growth_is_told(served: Catalogue) -> None:
    request = serving.ReloadConfigRequest(metric_names=["/tensorflow/serving/request_count", "/no/such/metric"])
    request.config.model_config_list.config.add(name="m", base_path="/models/m", model_platform="tensorflow")
    async with open_grpc(served) as doors:
        answer = await doors.ask("HandleReloadConfigRequest", request)
        assert answer.status.error_code == 0
        assert [config.model_config_list.config[0].name for config in doors.manager.configs] == ["m"]
        assert [(one.name, one.int64_value_increase) for one in answer.metric] == [
            ("/tensorflow/serving/request_count", 0)
        ]
        doors.manager.refusal = StatusError(Code.INVALID_ARGUMENT, "Illegal to list model m multiple times")
        refusal = await doors.refused("HandleReloadConfigRequest", request)
        assert refusal == ("INVALID_ARGUMENT", "Illegal to list model m multiple times")


async def test_while_models_load_states_are_told_and_requests_are_unavailable() -> None:
    async with open_grpc(None) as doors:
        code, words = await doors.refused("Predict", predict_request("m", {}))
        assert code == "UNAVAILABLE"
        assert "loading" in words
        doors.state.models.note("m", VersionStatus(1, Stage.LOADING))
        (one,) = (await doors.ask("GetModelStatus", spec(serving.GetModelStatusRequest(), "m"))).model_version_status
        assert one.state == 20


async def test_requests_are_served_on_while_the_worker_drains(served: Catalogue) -> None:
    async with open_grpc(served) as doors:
        doors.state.drain()
        assert await doors.predict("half_plus_two", {"x": np.float32([2])}) == {"y": [3.0]}


async def test_every_request_is_counted(served: Catalogue) -> None:
    async with open_grpc(served) as doors:
        await doors.predict("half_plus_two", {"x": np.float32([2])})
        await doors.refused("Predict", predict_request("half_plus_two", {}))
        page = doors.metrics.page().decode()
        for code in ("OK", "INVALID_ARGUMENT"):
            line = next(line for line in page.splitlines() if "requests_total{" in line and f'code="{code}"' in line)
            assert 'entrypoint="GRPC"' in line
            assert 'model="half_plus_two"' in line
            assert line.endswith(" 1.0")
        assert doors.metrics.serving.value_of("/tensorflow/serving/request_count") == 2


class Slow:
    """A model whose calls wait to be let go; it remembers which there were."""

    def __init__(self) -> None:
        self.calls: list[float] = []
        self.begun = asyncio.Event()
        self.go_on = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def catalogue(self, served: Catalogue) -> Catalogue:
        with served.use("half_plus_two") as model:
            return Catalogue([Servable("slow", 1, model.signatures, lambda _inputs, _outputs: self._run, lambda: None)])

    def _run(self, x: Any) -> list[Any]:
        self.calls.append(float(x[0]))
        self._loop.call_soon_threadsafe(self.begun.set)
        asyncio.run_coroutine_threadsafe(self.go_on.wait(), self._loop).result()
        return [x]


async def test_a_caller_that_leaves_costs_no_run_that_has_not_begun(served: Catalogue) -> None:
    slow = Slow()
    async with open_grpc(slow.catalogue(served)) as doors:
        (model,) = doors.state.models.servables
        first = asyncio.create_task(doors.predict("slow", {"x": np.float32([1])}))
        await slow.begun.wait()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await doors.predict("slow", {"x": np.float32([2])}, timeout=0.1)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        leaves = asyncio.create_task(doors.predict("slow", {"x": np.float32([3])}))
        await until(lambda: doors.inference.waiting(model) == 1)
        leaves.cancel()
        await until(lambda: doors.inference.waiting(model) == 0)
        slow.go_on.set()
        assert await first == {"y": [1.0]}
        assert await doors.predict("slow", {"x": np.float32([4])}) == {"y": [4.0]}
        assert slow.calls == [1.0, 4.0]


async def test_what_has_no_room_is_refused_before_its_tensors_are_read(served: Catalogue) -> None:
    slow = Slow()
    unreadable = predict_request("slow", {"x": np.float32([2])})
    unreadable.inputs["x"].dtype = 0
    async with open_grpc(slow.catalogue(served), queue=1, max_images=1) as doors:
        first = asyncio.create_task(doors.predict("slow", {"x": np.float32([1])}))
        await slow.begun.wait()
        assert (await doors.refused("Predict", unreadable))[0] == "UNAVAILABLE"
        slow.go_on.set()
        assert await first == {"y": [1.0]}
        assert (await doors.refused("Predict", unreadable))[0] == "INVALID_ARGUMENT"


async def test_the_callers_deadline_is_that_of_the_run(served: Catalogue, monkeypatch: pytest.MonkeyPatch) -> None:
    deadlines = []
    async with open_grpc(served) as doors:
        run = doors.inference.run

        async def noted(*arguments: Any) -> Any:
            deadlines.append(arguments[-1])
            return await run(*arguments)

        monkeypatch.setattr(doors.inference, "run", noted)
        await doors.predict("half_plus_two", {"x": np.float32([1])})
        await doors.predict("half_plus_two", {"x": np.float32([1])}, timeout=100)
        none, some = deadlines
        assert none is None
        assert 0 < some - asyncio.get_running_loop().time() < 110  # gRPC rounds up on the wire


async def test_a_worker_waits_for_requests_that_run_when_it_closes(served: Catalogue) -> None:
    slow = Slow()
    async with open_grpc(slow.catalogue(served)) as doors:
        running = asyncio.create_task(doors.predict("slow", {"x": np.float32([1])}))
        await slow.begun.wait()
        idle = asyncio.create_task(doors.state.idle())
        await asyncio.sleep(0)
        assert not idle.done()
        slow.go_on.set()
        await idle
        assert await running == {"y": [1.0]}

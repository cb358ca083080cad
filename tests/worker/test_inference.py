"""From a door to the model and back: who shares a call with whom, and what everybody is told."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import json
import os
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from muster.errors import Overloaded
from tests.worker.colours import SIDE, encoded, picture, png
from tests.worker.doors import open_doors
from tests.worker.servables import IMAGE, SCORES, image_servable
from worker.batching import Called, Ran
from worker.batching_parameters import Batching
from worker.inference import LARGE_TEXT, Answer, Inference
from worker.lines import KEPT
from worker.models.catalogue import Catalogue
from worker.models.servable import Array, Servable, Tensor
from worker.settings import WorkerSettings
from worker.status import Code, StatusError

PATIENCE = 10.0


class Gate:
    """A model that holds the only runner while it is closed."""

    def __init__(self) -> None:
        self._open = threading.Event()
        self._open.set()
        self.servable = image_servable("gate", self._call)

    def _call(self, batch: Array) -> Array:
        assert self._open.wait(PATIENCE)
        return np.zeros((len(batch), 1), np.float32)

    @contextmanager
    def closed(self) -> Iterator[None]:
        self._open.clear()
        try:
            yield
        finally:
            self._open.set()


class Scene:
    """An inference with one runner, and a gate in front of it."""

    def __init__(self, settings: WorkerSettings) -> None:
        self.inference = Inference(settings)
        self.gate = Gate()

    async def ran(
        self, servable: Servable, signature: str = "serving_default", deadline: float | None = None, **values: Any
    ) -> Ran[list[Array]]:
        """What becomes of a request for all outputs of a signature, by name; inputs in the order of the arguments."""
        doors = servable.signatures[signature]
        arrays = [
            value if isinstance(value, np.ndarray) else np.array(value, doors.inputs[name].dtype)
            for name, value in values.items()
        ]
        inputs = [doors.inputs[name] for name in values]
        outputs = [doors.outputs[name] for name in sorted(doors.outputs)]
        return await self.inference.run(servable, inputs, arrays, outputs, deadline)

    @asynccontextmanager
    async def busy(self) -> AsyncIterator[None]:
        """What comes in the block waits until its end."""
        with self.gate.closed():
            task = asyncio.create_task(self.inference.run(self.gate.servable, [IMAGE], [np.zeros(1)], [SCORES]))
            await asyncio.sleep(0)
            yield
        await task

    async def together(self, *requests: Any) -> list[Any]:
        """The outcomes of requests that all came while the runner was busy."""
        async with self.busy():
            tasks = [asyncio.create_task(request) for request in requests]
            await asyncio.sleep(0)
        return await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Callable[..., Scene]]:
    scenes: list[Scene] = []

    def new(parameters: str | None = None, **changes: Any) -> Scene:
        if parameters is not None:
            (tmp_path / "parameters").write_text(parameters)
            changes |= {"enable_batching": True, "batching_parameters_file": str(tmp_path / "parameters")}
        scenes.append(Scene(dataclasses.replace(WorkerSettings(runners=1), **changes)))
        return scenes[-1]

    yield new
    for one in scenes:
        one.inference.close()


@pytest.fixture
def served(serving_catalogue: Catalogue) -> Callable[[str], Servable]:
    return lambda name: next(one for one in reversed(serving_catalogue.servables) if one.name == name)


Scenes = Callable[..., Scene]
Served = Callable[[str], Servable]


def said(outcome: object, code: Code, sentence: str) -> None:
    assert isinstance(outcome, StatusError), outcome
    assert outcome.canonical is code
    assert sentence in outcome.message


async def test_without_batching_every_request_is_a_call_whatever_its_shape(scene: Scenes, served: Served) -> None:
    add, stage = served("add"), scene()
    one, scalar, odd, no_batch = await stage.together(
        stage.ran(add, a=[1, 2], b=[10, 20]), stage.ran(add, a=1, b=10), stage.ran(add, a=[[1, 2]], b=3),
        stage.ran(add, "first", a=[1, 2, 3], b=[0]),
    )  # fmt: skip
    assert [value.tolist() for value in (*one.result, *scalar.result, *odd.result)] == [
        [-9, -18], [11, 22], -9, 11, [[-2, -1]], [[4, 5]],
    ]  # fmt: skip
    assert [value.tolist() for value in no_batch.result] == [[1, 2, 3], [1]]
    assert [ran.batch for ran in (one, scalar, odd, no_batch)] == [2, 1, 1, 3]


async def test_with_batching_requests_share_a_call_and_get_their_own_rows(scene: Scenes, served: Served) -> None:
    add, stage = served("add"), scene("")
    calls: list[Called] = []
    stage.inference.on_call(calls.append)
    first, second = await stage.together(stage.ran(add, a=[1, 2], b=[10, 20]), stage.ran(add, b=[30], a=[3]))
    assert [value.tolist() for value in first.result] == [[-9, -18], [11, 22]]
    assert [value.tolist() for value in second.result] == [[-27], [33]]
    assert (first.batch, second.batch) == (3, 3)
    assert [(call.rows, call.padding, [rows for rows, _ in call.items]) for call in calls[1:]] == [(3, 0, [2, 1])]


async def test_outputs_come_in_the_order_in_which_they_are_asked_for(scene: Scenes, served: Served) -> None:
    add, stage = served("add"), scene("")
    doors = add.signatures["serving_default"]
    a, b, total, difference = (*map(doors.inputs.__getitem__, "ab"), doors.outputs["sum"], doors.outputs["difference"])
    arrays = [np.array([7], np.int32), np.array([2], np.int32)]
    for outputs, values in (([total, difference], [9, 5]), ([difference, total], [5, 9]), ([difference], [5])):
        ran = await stage.inference.run(add, [a, b], arrays, outputs)
        assert [value.tolist() for value in ran.result] == [[value] for value in values]


async def test_requests_of_other_inner_shapes_run_with_their_like_and_nobody_fails(
    scene: Scenes, served: Served
) -> None:
    doubles, stage = served("doubles"), scene("")
    short, long, short_too = await stage.together(
        stage.ran(doubles, x=[[1.0]]), stage.ran(doubles, x=[[1.0, 2.0]]), stage.ran(doubles, x=[[3.0]])
    )
    assert [ran.result[0].tolist() for ran in (short, long, short_too)] == [[[1.0]], [[1.0, 2.0]], [[3.0]]]
    assert [ran.batch for ran in (short, long, short_too)] == [2, 1, 2]


async def test_lengths_are_padded_if_asked_for(scene: Scenes, served: Served) -> None:
    doubles, stage = served("doubles"), scene("pad_variable_length_inputs: true")
    short, long = await stage.together(stage.ran(doubles, x=[[7.0]]), stage.ran(doubles, x=[[1.0, 2.0]]))
    assert short.result[0].tolist() == [[7.0, 7.0]]
    assert long.result[0].tolist() == [[1.0, 2.0]]


async def test_calls_are_padded_to_the_allowed_sizes(scene: Scenes, served: Served) -> None:
    parameters = "max_batch_size { value: 8 } allowed_batch_sizes: 4 allowed_batch_sizes: 8"
    doubles, stage = served("doubles"), scene(parameters)
    ran = await stage.ran(doubles, x=[1.0, 2.0, 3.0])
    assert (ran.result[0].tolist(), ran.batch, ran.padding) == ([1.0, 2.0, 3.0], 3, 1)
    first, second = await stage.together(stage.ran(doubles, x=[1.0] * 5), stage.ran(doubles, x=[2.0]))
    assert (second.result[0].tolist(), first.batch, first.padding) == ([2.0], 6, 2)


async def test_a_request_without_rows_is_answered_without_rows(scene: Scenes, served: Served) -> None:
    stage = scene("max_batch_size { value: 8 } allowed_batch_sizes: 8")
    ran = await stage.ran(served("doubles"), x=[])
    assert (ran.result[0].tolist(), ran.batch) == ([], 0)
    none, some = await stage.together(stage.ran(served("doubles"), x=[]), stage.ran(served("doubles"), x=[1.0]))
    assert (none.result[0].tolist(), some.result[0].tolist()) == ([], [1.0])


async def test_a_request_that_is_too_large_is_told_so(scene: Scenes, served: Served) -> None:
    stage = scene("max_batch_size { value: 2 }")
    (outcome,) = await stage.together(stage.ran(served("doubles"), x=[1.0, 2.0, 3.0]))
    said(outcome, Code.INVALID_ARGUMENT, "Task size 3 is larger than maximum input batch size 2")


async def test_a_large_request_is_run_in_pieces_if_asked_for(scene: Scenes, served: Served) -> None:
    stage = scene(
        "max_batch_size { value: 8 } enable_large_batch_splitting { value: true } max_execution_batch_size { value: 3 }"
    )
    calls: list[Called] = []
    stage.inference.on_call(calls.append)
    whole, other = await stage.together(
        stage.ran(served("doubles"), x=[float(value) for value in range(8)]), stage.ran(served("doubles"), x=[9.0])
    )
    assert whole.result[0].tolist() == [0, 1, 2, 3, 4, 5, 6, 7]
    assert other.result[0].tolist() == [9]
    assert [call.rows for call in calls[1:]] == [3, 3, 3]


async def test_a_bad_request_fails_with_the_models_words_and_its_neighbours_are_answered(
    scene: Scenes, served: Served
) -> None:
    stage, failing = scene(""), served("failing")
    good, bad, good_too = await stage.together(
        stage.ran(failing, x=[1.0]), stage.ran(failing, x=[-1.0]), stage.ran(failing, x=[2.0])
    )
    said(bad, Code.INVALID_ARGUMENT, "x is negative")
    assert [ran.result[0].tolist() for ran in (good, good_too)] == [[1.0], [2.0]]


@pytest.mark.parametrize(("signature", "values", "code", "sentence"), [
    ("serving_default", {"a": 1, "b": 2}, Code.INVALID_ARGUMENT, "at least one dimension"),
    ("serving_default", {"a": [1], "b": [2, 3]}, Code.INVALID_ARGUMENT, "equal 0th-dimension size"),
    ("first", {"a": [1, 2], "b": [2, 3]}, Code.FAILED_PRECONDITION, "0th dimension does not equal the sum"),
])  # fmt: skip
async def test_what_cannot_be_batched_is_told_so(
    scene: Scenes, served: Served, signature: str, values: dict[str, Any], code: Code, sentence: str
) -> None:
    stage = scene("")
    (outcome,) = await stage.together(stage.ran(served("add"), signature, **values))
    said(outcome, code, sentence)


async def test_images_and_tensors_for_the_same_call_share_it(scene: Scenes, catalogue: Catalogue) -> None:
    model = next(one for one in catalogue.servables if one.name == "float")
    stage = scene("batch_timeout_micros { value: 3600000000 } max_batch_size { value: 2 }")
    async with asyncio.timeout(PATIENCE):
        image, tensor = await asyncio.gather(
            stage.inference.classify(model, [png("red")], 3),
            stage.ran(model, image=np.zeros((1, SIDE, SIDE, 3), np.float32)),
        )
    assert isinstance(image[0], Answer)
    assert (image[0].predictions[0].label, image[0].batch, tensor.batch) == ("red", 2, 2)


async def test_tensors_that_share_calls_take_no_places_of_images(scene: Scenes, catalogue: Catalogue) -> None:
    model = next(one for one in catalogue.servables if one.name == "float")
    stage = scene("", queue=1, max_images=1)
    pixels = np.zeros((1, SIDE, SIDE, 3), np.float32)
    async with stage.busy():
        tasks = [asyncio.create_task(stage.ran(model, image=pixels)) for _ in range(3)]
        image = asyncio.create_task(stage.inference.classify(model, [png("red")], 3))
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            await stage.inference.classify(model, [png("red")], 3)
    assert isinstance((await image)[0], Answer)
    assert len(await asyncio.gather(*tasks)) == 3


async def test_a_deadline_in_the_queue_is_told_in_the_words_for_it(scene: Scenes, served: Served) -> None:
    for stage, code, sentence in (
        (scene(""), Code.RESOURCE_EXHAUSTED, "Run() timeout exceeded while waiting in batching queue"),
        (scene(), Code.DEADLINE_EXCEEDED, "Timed out waiting for notification"),
    ):
        async with stage.busy():
            with pytest.raises(StatusError) as caught:
                await stage.ran(served("doubles"), deadline=asyncio.get_running_loop().time() + 0.01, x=[1.0])
            said(caught.value, code, sentence)


async def test_a_model_with_too_much_to_do_refuses_and_another_one_does_not(scene: Scenes, served: Served) -> None:
    stage = scene(queue=2, max_images=2)
    longs, doubles = served("longs"), served("doubles")
    async with stage.busy():
        tasks = [asyncio.create_task(stage.ran(doubles, x=[1.0])) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded) as caught:
            await stage.ran(doubles, x=[1.0])
        with pytest.raises(Overloaded):
            stage.inference.check_room(doubles)
        assert caught.value.details == {"queue": 2}
        stage.inference.check_room(longs)
        tasks.append(asyncio.create_task(stage.ran(longs, x=[1])))
        await asyncio.sleep(0)
        assert stage.inference.inside == 4
        assert stage.inference.waiting(doubles) == 2
    await asyncio.gather(*tasks)
    assert stage.inference.inside == 0


async def test_the_batching_parameters_say_how_many_calls_run_at_a_time(scene: Scenes, served: Served) -> None:
    stage = scene("num_batch_threads { value: 1 }", runners=3)
    async with stage.busy():
        task = asyncio.create_task(stage.ran(served("doubles"), x=[1.0]))
        await asyncio.sleep(0)
        assert stage.inference.waiting(served("doubles")) == 1
    assert (await task).result[0].tolist() == [1.0]


async def test_per_model_parameters_go_for_the_models_that_have_them(scene: Scenes, served: Served) -> None:
    stage = scene("num_batch_threads { value: 1 }", enable_per_model_batching_parameters=True, runners=3)
    plain = served("add")
    own = dataclasses.replace(plain, batching=Batching(1, 1))
    ran = await stage.ran(plain, a=[1, 2], b=3)
    assert ran.result[1].tolist() == [4, 5]
    (outcome,) = await stage.together(stage.ran(own, a=[1, 2], b=[1, 2]))
    said(outcome, Code.INVALID_ARGUMENT, "Task size 2 is larger than maximum input batch size 1")


async def test_a_model_is_only_let_go_when_no_call_is_under_way(scene: Scenes) -> None:
    stage = scene()
    gate = stage.gate
    with gate.closed():
        task = asyncio.create_task(stage.inference.run(gate.servable, [IMAGE], [np.zeros(1)], [SCORES]))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        forgotten = asyncio.create_task(stage.inference.forget(gate.servable))
        await asyncio.sleep(0)
        assert not forgotten.done()
    async with asyncio.timeout(PATIENCE):
        await forgotten


async def test_nothing_of_hundreds_of_models_that_were_let_go_stays(scene: Scenes) -> None:
    stage = scene("")
    left = []
    for version in range(300):

        def call(batch: Array) -> Array:
            return np.zeros((len(batch), 1), np.float32)

        servable = image_servable("m", call, version=version)
        left.append(weakref.ref(call))
        await stage.inference.run(servable, [IMAGE], [np.zeros(1)], [SCORES])
        await stage.inference.forget(servable)
        del servable, call
    gc.collect()
    assert sum(one() is not None for one in left) <= 1
    assert stage.inference.inside == 0


async def test_clients_who_ask_for_ever_other_outputs_leave_no_queues_behind(scene: Scenes) -> None:
    stage = scene("")
    asked: list[str] = []
    servable = dataclasses.replace(
        stage.gate.servable, function=lambda _, outputs: asked.append(outputs[0].name) or (lambda array: [array])
    )
    for number in [*range(3 * KEPT), 0]:
        for name in (f"y{number}", "usual"):
            await stage.inference.run(servable, [IMAGE], [np.zeros(1)], [Tensor(name, "float32", None)])
    assert asked == ["y0", "usual", *(f"y{number}" for number in [*range(1, 3 * KEPT), 0])]


async def test_a_model_with_many_queues_gets_no_more_turns_than_one_with_one(scene: Scenes) -> None:
    stage, order = scene(), []

    def noting(name: str) -> Servable:
        def call(array: Array) -> list[Array]:
            order.append(name)
            return [array]

        return dataclasses.replace(stage.gate.servable, name=name, function=lambda _, outputs: call)

    many, one = noting("many"), noting("one")
    requests = [(many, f"y{number}") for number in range(4)] + [(one, "y"), (one, "y")]
    await stage.together(*(
        stage.inference.run(servable, [IMAGE], [np.zeros(1)], [Tensor(output, "float32", None)])
        for servable, output in requests
    ))  # fmt: skip
    assert order == ["many", "one", "many", "one", "many", "many"]


async def test_a_full_queue_is_503_with_its_length_and_a_time_to_come_again(tmp_path: Path) -> None:
    parameters = tmp_path / "parameters"
    parameters.write_text("max_batch_size { value: 1 } max_enqueued_batches { value: 2 }")
    gate = Gate()
    settings = {"enable_batching": True, "batching_parameters_file": str(parameters), "queue": 9, "max_images": 9}
    async with open_doors(Catalogue([gate.servable]), **settings) as doors, asyncio.timeout(PATIENCE):
        body = json.dumps({"instances": ["a"]})
        with gate.closed():
            tasks = [asyncio.create_task(doors.ask("/v1/models/gate:predict", body)) for _ in range(3)]
            while doors.inference.waiting(gate.servable) < 2:  # noqa: ASYNC110  # plain state, which sets no event
                await asyncio.sleep(0)
            answer = await doors.ask("/v1/models/gate:predict", body)
            image = await doors.ask("/classify", png("red"))
        assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
        assert answer.json == {
            "error": "The batch scheduling queue to which this task was submitted is full; "
            "currently 2 batches enqueued and max_enqueued_batches is 2"
        }
        assert (image.status, image.json["code"], image.json["queue"]) == (503, "overloaded", 2)
        assert [(await task).status for task in tasks] == [200, 200, 200]


async def test_a_request_that_will_be_refused_is_refused_before_its_body_is_sent() -> None:
    gate = Gate()
    async with open_doors(Catalogue([gate.servable]), queue=1, max_images=1) as doors, asyncio.timeout(PATIENCE):
        with gate.closed():
            task = asyncio.create_task(doors.ask("/classify", png("red")))
            while doors.inference.inside < 1:  # noqa: ASYNC110  # plain state, which sets no event
                await asyncio.sleep(0)
            for path in (b"/classify", b"/v1/models/gate:predict"):
                head = b"POST " + path + b" HTTP/1.1\r\nHost: x\r\nContent-Length: 9999\r\nExpect: 100-continue\r\n\r\n"
                reader, writer = await asyncio.open_connection("127.0.0.1", doors.port)
                writer.write(head)
                assert (await reader.readline()).startswith(b"HTTP/1.1 503")
                writer.close()
        assert (await task).status == 200


async def test_nobodys_small_request_waits_for_large_images() -> None:
    large = encoded(picture(size=(3000, 3000), mode="RGBA"), compress_level=1)
    async with open_doors(Catalogue([image_servable("any", lambda batch: np.zeros((len(batch), 1)))])) as doors:
        crowd = 4 * (os.cpu_count() or 1)
        others = [asyncio.create_task(doors.ask("/classify", large)) for _ in range(crowd)]
        while doors.inference.inside < crowd:  # noqa: ASYNC110  # plain state, which sets no event
            await asyncio.sleep(0)
        assert (await doors.ask("/classify", png("red"))).status == 200
        assert not all(task.done() for task in others)
        assert {(await task).status for task in others} == {200}


async def test_nobodys_small_request_waits_for_large_texts_which_are_read_one_at_a_time() -> None:
    begun, end = threading.Semaphore(0), threading.Event()

    def read() -> bool:
        begun.release()
        return end.wait(PATIENCE)

    with closing(Inference(WorkerSettings())) as inference:
        crowd = [asyncio.create_task(inference.in_thread(read, LARGE_TEXT + 1)) for _ in range(os.cpu_count() or 1)]
        async with asyncio.timeout(PATIENCE):
            assert await inference.in_thread(lambda: begun.acquire(timeout=PATIENCE))
            assert await inference.in_thread(lambda: not begun.acquire(blocking=False), LARGE_TEXT)
        end.set()
        assert all([await task for task in crowd])

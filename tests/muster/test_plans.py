"""The client's decisions, without a network: a plan is driven by hand, a second takes no time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.answers import Classification, server_timing
from muster.errors import (
    BadImage,
    BadRequest,
    ClusterError,
    ConnectionFailed,
    Forbidden,
    NotAnImage,
    NoWorkers,
    Overloaded,
    UnexpectedAnswer,
    UnknownModel,
    WorkerBroke,
    WorkerTimeout,
)
from muster.plans import Lost, Pause, Plan, Planner, Reply, Send, Upload

PROXY, ANN, BOB = "http://proxy:1", "http://ann:1", "http://bob:1"
PICTURE = Upload("7.png", b"pixels")
SEVEN = {"model": {"name": "digits", "version": 1}, "predictions": [{"label": "7", "score": 0.9}]}


class World:
    """Answers a plan's requests by rule and keeps the time."""

    def __init__(self, answer: Callable[[Send], Reply | Lost]) -> None:
        self.now = 0.0
        self.sent: list[str] = []
        self.pauses: list[float] = []
        self._answer = answer

    def clock(self) -> float:
        return self.now

    def planner(self, timeout: float = 30.0, attempts: int = 4) -> Planner:
        return Planner(PROXY, timeout, attempts, self.clock, Random(1))

    def run(self, plan: Plan[Any]) -> Any:
        outcome: Reply | Lost | None = None
        while True:
            try:
                step = plan.send(outcome)
            except StopIteration as end:
                return end.value
            if isinstance(step, Pause):
                self.pauses.append(step.seconds)
                self.now += step.seconds
                outcome = None
            else:
                self.sent.append(step.server + step.ask.path)
                outcome = self._answer(step)

    def classify(self, planner: Planner, p2p: bool = False) -> list[Classification | ClusterError]:
        answer: list[Classification | ClusterError] = self.run(planner.classify([PICTURE], {}, p2p=p2p))
        return answer


def ok(body: object, **headers: str) -> Reply:
    return Reply(200, headers, body)


def refusal(error: ClusterError, headers: Mapping[str, str] | None = None) -> Reply:
    return Reply(error.status, headers or {}, error.to_json())


def in_turn(*replies: Reply | Lost) -> Callable[[Send], Reply | Lost]:
    coming = iter(replies)
    return lambda _: next(coming)


def peers(*addresses: str, ttl: float = 10) -> Reply:
    return ok({"address": addresses[0], "url": f"http://{addresses[0]}", "alternates": addresses[1:], "ttl": ttl})


def test_the_answer_becomes_values() -> None:
    headers = {"X-Served-By": "ann", "Server-Timing": "decode;dur=1.5, infer;dur=3"}
    world = World(in_turn(Reply(200, headers, SEVEN)))
    (answer,) = world.classify(world.planner())
    assert isinstance(answer, Classification)
    assert (answer.model, answer.version, answer.best.label, answer.best.score) == ("digits", 1, "7", 0.9)
    assert (answer.served_by, answer.timings) == ("ann", {"decode": 1.5, "infer": 3.0})


def test_a_full_worker_is_asked_again_no_sooner_than_it_said() -> None:
    world = World(in_turn(refusal(Overloaded("full"), {"Retry-After": "3"}), ok(SEVEN)))
    world.classify(world.planner())
    assert len(world.sent) == 2
    assert 3 <= world.pauses[0] < 4


def test_pauses_grow_when_nobody_says_how_long() -> None:
    world = World(lambda _: Lost.UNREACHABLE)
    with pytest.raises(ConnectionFailed, match="nothing answers at http://proxy:1"):
        world.classify(world.planner(attempts=4))
    assert len(world.sent) == 4
    assert world.pauses == sorted(world.pauses)


def test_a_call_never_outlives_its_deadline() -> None:
    world = World(lambda _: refusal(NoWorkers("nobody"), {"Retry-After": "4"}))
    with pytest.raises(NoWorkers):
        world.classify(world.planner(timeout=10, attempts=100))
    assert world.now < 10


@pytest.mark.parametrize("error", [BadImage("torn"), BadRequest("what?"), Forbidden("off"), WorkerBroke("died")])
def test_what_will_not_get_better_is_not_tried_again(error: ClusterError) -> None:
    world = World(lambda _: refusal(error))
    planner = world.planner()
    with pytest.raises(type(error), match=error.message):
        world.run(planner.classify([PICTURE, PICTURE], {}, p2p=False))
    assert len(world.sent) == 1


def test_a_request_that_timed_out_is_never_sent_twice() -> None:
    world = World(lambda _: Lost.LATE)
    with pytest.raises(WorkerTimeout):
        world.classify(world.planner())
    assert len(world.sent) == 1


def test_an_image_that_breaks_connections_is_sent_twice_at_most() -> None:
    world = World(lambda _: Lost.BROKEN)
    with pytest.raises(WorkerBroke):
        world.classify(world.planner(attempts=10))
    assert len(world.sent) == 2


def test_a_worker_is_asked_for_once_and_kept_for_as_long_as_it_is_good() -> None:
    world = World(lambda send: peers("ann:1", ttl=10) if send.ask.path == "/" else ok(SEVEN))
    planner = world.planner()
    world.classify(planner, p2p=True)
    world.now = 9.9
    world.classify(planner, p2p=True)
    world.now = 10.0
    world.classify(planner, p2p=True)
    ask, use = PROXY + "/", ANN + "/classify"
    assert world.sent == [ask, use, use, ask, use]


def test_each_model_has_workers_of_its_own() -> None:
    named = {"digits": peers("ann:1"), "cats": peers("bob:1")}
    world = World(lambda send: named[send.ask.query["model"]] if send.ask.path == "/" else ok(SEVEN))
    planner = world.planner()
    for model in ("digits", "cats", "digits"):
        world.run(planner.classify([PICTURE], {"model": model, "top": "3"}, p2p=True))
    ask = PROXY + "/"
    assert world.sent == [ask, ANN + "/classify", ask, BOB + "/classify", ANN + "/classify"]


def test_a_proxy_is_asked_for_what_decides_between_workers_and_no_more() -> None:
    asked: list[Mapping[str, str]] = []

    def answer(send: Send) -> Reply:
        if send.ask.path == "/":
            asked.append(send.ask.query)
        return peers("ann:1") if send.ask.path == "/" else ok(SEVEN)

    world = World(answer)
    world.run(world.planner().classify([PICTURE], {"model": "digits", "version": "2", "top": "3"}, p2p=True))
    assert asked == [{"model": "digits", "version": "2"}]


@pytest.mark.parametrize(
    "lost",
    [refusal(UnknownModel("there is no model 'digits'")), Reply(404, {}, {"error": "Servable not found"})],
    ids=["as ours say it", "as TensorFlow Serving says it"],
)
def test_when_a_worker_has_not_got_the_model_any_more_the_proxy_says_who_has(lost: Reply) -> None:
    world = World(in_turn(peers("ann:1"), ok(SEVEN), lost, peers("bob:1"), ok(SEVEN)))
    planner = world.planner()
    world.classify(planner, p2p=True)
    world.classify(planner, p2p=True)
    assert world.sent[2:] == [ANN + "/classify", PROXY + "/", BOB + "/classify"]
    assert world.pauses == []


def test_a_model_that_nobody_has_is_not_looked_for_again_and_again() -> None:
    lost = refusal(UnknownModel("there is no model 'digits'"))
    world = World(lambda send: peers("ann:1") if send.ask.path == "/" else lost)
    with pytest.raises(UnknownModel):
        world.classify(world.planner(), p2p=True)
    assert world.sent == [PROXY + "/", ANN + "/classify"] * 2


def test_when_a_worker_is_gone_its_alternate_is_asked_at_once() -> None:
    gone = {ANN: Lost.UNREACHABLE}
    world = World(lambda send: peers("ann:1", "bob:1") if send.ask.path == "/" else gone.get(send.server, ok(SEVEN)))
    planner = world.planner()
    world.classify(planner, p2p=True)
    world.classify(planner, p2p=True)
    assert world.sent == [PROXY + "/", ANN + "/classify", BOB + "/classify", BOB + "/classify"]
    assert world.pauses == []


def test_when_all_known_workers_are_gone_the_proxy_is_asked_for_others() -> None:
    world = World(in_turn(peers("ann:1"), Lost.UNREACHABLE, peers("bob:1"), ok(SEVEN)))
    world.classify(world.planner(), p2p=True)
    assert world.sent == [PROXY + "/", ANN + "/classify", PROXY + "/", BOB + "/classify"]


def test_a_worker_that_is_stuck_is_not_asked_by_the_next_call() -> None:
    world = World(in_turn(peers("ann:1", "bob:1"), Lost.LATE, ok(SEVEN)))
    planner = world.planner()
    with pytest.raises(WorkerTimeout):
        world.classify(planner, p2p=True)
    world.classify(planner, p2p=True)
    assert world.sent[-1] == BOB + "/classify"


def test_a_bad_image_does_not_cost_a_worker_its_place() -> None:
    world = World(in_turn(peers("ann:1"), refusal(NotAnImage("text")), ok(SEVEN)))
    planner = world.planner()
    (outcome,) = world.classify(planner, p2p=True)
    assert isinstance(outcome, NotAnImage)
    world.classify(planner, p2p=True)
    assert world.sent == [PROXY + "/", ANN + "/classify", ANN + "/classify"]


def test_workers_that_cannot_be_reached_directly_are_named_with_the_way_out() -> None:
    world = World(lambda send: peers("ann:1") if send.ask.path == "/" else Lost.UNREACHABLE)
    with pytest.raises(ConnectionFailed, match=r"nothing answers at http://ann:1; without P2P the proxy"):
        world.classify(world.planner(), p2p=True)


def test_of_several_images_each_has_its_own_outcome() -> None:
    results = [{"filename": "a", "predictions": SEVEN["predictions"]}, {"filename": "b", **BadImage("torn").to_json()}]
    world = World(in_turn(ok({"model": SEVEN["model"], "results": results})))
    good, bad = world.run(world.planner().classify([PICTURE, PICTURE], {}, p2p=False))
    assert isinstance(good, Classification)
    assert isinstance(bad, BadImage)


def test_no_images_cost_no_request() -> None:
    world = World(in_turn())
    assert world.run(world.planner().classify([], {}, p2p=False)) == []


@pytest.mark.parametrize(
    "body", [None, [], "hello", {}, {"model": {}}, {"model": {"name": "m"}, "predictions": [{"label": "7"}]},
             {"model": {"name": "m"}, "results": []}, {"model": {"name": "m"}, "results": 3}],
)  # fmt: skip
def test_an_answer_of_somebody_else_is_said_to_be_one(body: object) -> None:
    world = World(in_turn(ok(body)))
    with pytest.raises(UnexpectedAnswer):
        world.classify(world.planner())


@pytest.mark.parametrize("address", ["", "ann", "ann:1/evil", "a b:1", "user@ann:1", "ann:1\r\n", "ann:port", None])
def test_a_worker_address_that_is_none_is_refused(address: object) -> None:
    world = World(in_turn(ok({"address": address, "ttl": 1})))
    with pytest.raises(UnexpectedAnswer):
        world.classify(world.planner(), p2p=True)


@given(st.text())
def test_any_server_timing_header_is_read_without_complaint(text: str) -> None:
    assert all(isinstance(value, float) for value in server_timing(text).values())


@given(st.lists(st.sampled_from([*Lost, Overloaded("full"), NoWorkers("none"), WorkerBroke("died")]), max_size=12))
def test_whatever_fails_a_call_ends_within_its_attempts(failures: list[Lost | ClusterError]) -> None:
    coming = iter([failure if isinstance(failure, Lost) else refusal(failure) for failure in failures])
    world = World(lambda send: peers("ann:1", "bob:1") if send.ask.path == "/" else next(coming, ok(SEVEN)))
    planner = world.planner(timeout=30, attempts=5)
    with suppress(ClusterError):
        world.classify(planner, p2p=True)
    assert sum(url.endswith("/classify") for url in world.sent) <= 5
    assert world.now < 30

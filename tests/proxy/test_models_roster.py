"""Who gets the requests for a model, as the roster decides it."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.errors import BadRequest, ClusterError, NoWorkers, UnknownModel
from muster.values import Snapshot, Worker
from proxy.health import Outcome, Policy, Rest
from proxy.roster import MISSED, Roster
from proxy.wants import ANY, Want
from tests.proxy.test_roster import Clock

Models = Mapping[str, Sequence[int]] | None
UNNAMED = Want(unnamed=True)


def listed(has: Mapping[str, Models], grpc: str = "") -> Snapshot:
    """Workers by what they have; those named in `grpc` speak it."""
    workers = []
    for name, models in has.items():
        worker = Worker(name, "127.0.0.1", 9000 + ord(name), grpc_port=7000 if name in grpc else None)
        workers.append(worker if models is None else worker.serving(models))
    return Snapshot(1, tuple(workers))


def roster_of(has: Mapping[str, Models], clock: Clock | None = None, grpc: str = "") -> Roster:
    roster = Roster(clock or Clock(), Policy(Rest(first=1.0, longest=8.0), slow_start=0.0))
    roster.apply(listed(has, grpc))
    return roster


def pick(roster: Roster, want: Want, *, failed: bool = False) -> str:
    seat = roster.lease((), want)
    roster.release(seat, Outcome.REFUSED if failed else Outcome.ANSWERED, 0.0)
    return seat.worker.id


def picks(roster: Roster, want: Want, count: int) -> str:
    return "".join(pick(roster, want) for _ in range(count))


def test_a_model_is_asked_only_of_those_that_have_it_and_they_take_turns() -> None:
    roster = roster_of({"a": {"digits": [1]}, "b": {"cats": [1]}, "c": {"digits": [1], "cats": [1]}})
    assert Counter(picks(roster, Want("digits"), 10)) == {"a": 5, "c": 5}
    assert Counter(picks(roster, Want("cats"), 10)) == {"b": 5, "c": 5}
    assert Counter(picks(roster, ANY, 9)) == {"a": 3, "b": 3, "c": 3}


def test_models_that_are_asked_for_in_turn_are_each_spread_over_all_workers() -> None:
    roster = roster_of({name: {"digits": [1], "cats": [1]} for name in "ab"})
    taken = [(model, pick(roster, Want(model))) for _ in range(10) for model in ("digits", "cats")]
    assert Counter(taken) == {(model, name): 5 for model in ("digits", "cats") for name in "ab"}


def test_many_models_that_are_seldom_asked_for_do_not_all_begin_with_the_same_worker() -> None:
    models = {f"m{number}": [1] for number in range(30)}
    roster = roster_of(dict.fromkeys("abc", models))
    assert Counter(pick(roster, Want(model)) for model in models) == {"a": 10, "b": 10, "c": 10}


def test_a_version_is_asked_of_those_that_have_it_if_there_are_any() -> None:
    roster = roster_of({"a": {"digits": [1]}, "b": {"digits": [1, 2]}, "c": None})
    assert picks(roster, Want("digits", 2), 3) == "bbb"
    assert Counter(picks(roster, Want("digits", 1), 4)) == {"a": 2, "b": 2}
    assert Counter(picks(roster, Want("digits", 9), 6)) == {"a": 2, "b": 2, "c": 2}


def test_who_does_not_say_what_it_has_is_taken_to_have_everything() -> None:
    roster = roster_of({"a": {"digits": [1]}, "b": None})
    assert Counter(picks(roster, Want("digits"), 4)) == {"a": 2, "b": 2}
    assert picks(roster, Want("cats"), 2) == "bb"
    assert picks(roster, Want("cats", 3), 2) == "bb"


def test_who_has_no_model_gets_nothing() -> None:
    roster = roster_of({"a": {"digits": [1]}, "b": {}})
    for want in (ANY, UNNAMED, Want("digits")):
        assert picks(roster, want, 3) == "aaa"
    with pytest.raises(NoWorkers):
        roster_of({"b": {}}).lease()


def test_a_model_that_nobody_has_is_unknown_and_the_others_are_named() -> None:
    with pytest.raises(UnknownModel) as caught:
        roster_of({"a": {"digits": [1]}, "b": {"cats": [1]}}).lease((), Want("dogs"))
    assert caught.value.details == {"models": ["cats", "digits"]}


def test_without_any_worker_no_model_is_unknown() -> None:
    with pytest.raises(NoWorkers):
        roster_of({}).lease((), Want("digits"))


def test_a_model_whose_only_worker_rests_is_asked_of_it_all_the_same() -> None:
    roster = roster_of({"a": {"digits": [1]}, "b": {"cats": [1]}})
    assert pick(roster, Want("digits"), failed=True) == "a"
    assert pick(roster, Want("digits")) == "a"


def test_a_request_is_never_sent_to_a_worker_that_cannot_answer_it_because_others_failed() -> None:
    roster = roster_of({"a": {"digits": [1]}, "b": {"cats": [1]}})
    seat = roster.lease((), Want("digits"))
    assert not roster.spare([seat], Want("digits"))
    assert roster.spare([seat], ANY)
    with pytest.raises(NoWorkers):
        roster.lease([seat], Want("digits"))


def test_a_model_whose_last_worker_left_is_missed_for_a_while_before_it_is_unknown() -> None:
    clock = Clock()
    both: dict[str, Models] = {"a": {"digits": [1]}, "b": {"cats": [1]}}
    roster = roster_of(both, clock)
    roster.apply(listed({"b": {"cats": [1]}}))
    with pytest.raises(NoWorkers, match="at the moment"):
        roster.lease((), Want("digits"))
    with pytest.raises(BadRequest):
        roster.lease((), UNNAMED)
    clock.now += MISSED
    with pytest.raises(UnknownModel):
        roster.lease((), Want("digits"))
    assert pick(roster, UNNAMED) == "b"


def test_a_model_that_a_worker_gave_up_is_unknown_at_once() -> None:
    roster = roster_of({"a": {"digits": [1], "cats": [1]}})
    assert pick(roster, Want("cats")) == "a"
    roster.apply(listed({"a": {"digits": [1]}}))
    with pytest.raises(UnknownModel):
        roster.lease((), Want("cats"))


def test_a_model_that_comes_back_is_there_at_once() -> None:
    roster = roster_of({"a": {"digits": [1]}, "b": {"cats": [1]}})
    roster.apply(listed({"b": {"cats": [1]}}))
    roster.apply(listed({"b": {"cats": [1]}, "c": {"digits": [1]}}))
    assert pick(roster, Want("digits")) == "c"
    roster.apply(listed({"b": {"cats": [1]}, "c": {"dogs": [1]}}))
    with pytest.raises(UnknownModel):
        roster.lease((), Want("digits"))


def test_a_version_that_was_loaded_since_is_found_from_the_next_snapshot_on() -> None:
    roster = roster_of({"a": {"digits": [1]}, "b": {"digits": [1]}})
    picks(roster, Want("digits", 2), 3)
    roster.apply(listed({"a": {"digits": [1]}, "b": {"digits": [1, 2]}}))
    assert picks(roster, Want("digits", 2), 3) == "bbb"


@pytest.mark.parametrize(
    ("has", "expected"),
    [
        ({"a": {"digits": [1]}, "b": {"digits": [2]}}, "ab"),
        ({"a": {"cats": [1]}, "b": {"cats": [1], "default": [1]}}, "b"),
        ({"a": {"cats": [1]}, "b": None}, "ab"),
        ({"a": {"cats": [1], "dogs": [1]}, "b": None}, "ab"),
        ({"a": None, "b": None}, "ab"),
    ],
    ids=[
        "the only model",
        "the one called default",
        "one, and who does not say",
        "several, and who does not say",
        "nobody says",
    ],
)
def test_an_unnamed_model_is_the_only_one_or_the_default(has: Mapping[str, Models], expected: str) -> None:
    assert set(picks(roster_of(has), UNNAMED, 4)) == set(expected)


def test_among_several_models_an_unnamed_one_is_a_mistake_that_names_them() -> None:
    with pytest.raises(BadRequest) as caught:
        roster_of({"a": {"digits": [1]}, "b": {"cats": [1]}}).lease((), UNNAMED)
    assert caught.value.details == {"models": ["cats", "digits"]}


def test_grpc_goes_to_those_that_speak_it() -> None:
    roster = roster_of({"a": {"digits": [1]}, "b": {"digits": [1]}, "c": {"cats": [1]}}, grpc="bc")
    assert picks(roster, Want("digits", grpc=True), 3) == "bbb"
    assert Counter(picks(roster, Want(grpc=True), 4)) == {"b": 2, "c": 2}
    with pytest.raises(UnknownModel):
        roster.lease((), Want("dogs", grpc=True))
    silent = roster_of({"a": {"digits": [1]}})
    with pytest.raises(NoWorkers, match="gRPC"):
        silent.lease((), Want("digits", grpc=True))


def test_the_grpc_port_that_a_worker_opens_later_counts() -> None:
    roster = roster_of({"a": {"digits": [1]}})
    (worker,) = listed({"a": {"digits": [1]}}).workers
    roster.apply(Snapshot(2, (dataclasses.replace(worker, grpc_port=7000),)))
    assert pick(roster, Want("digits", grpc=True)) == "a"


def test_names_that_clients_make_up_leave_nothing_behind() -> None:
    roster = roster_of({"a": {"digits": [1]}, "b": None})
    for number in range(1000):
        picks(roster, Want(f"made-up-{number}", number), 1)
        picks(roster, Want("digits", 10 + number), 1)
        picks(roster, Want(None, 10 + number, unnamed=True), 1)
    assert len(roster._rounds) == 2


_HAS = st.dictionaries(
    st.sampled_from("abcd"),
    st.none() | st.dictionaries(st.sampled_from(["x", "y", "default"]), st.lists(st.integers(1, 3), max_size=2)),
)
_WANTS = st.builds(
    Want,
    st.none() | st.sampled_from(["x", "y", "default", "z"]),
    st.none() | st.integers(1, 4),
    st.booleans(),
    st.booleans(),
)


@given(st.lists(_HAS, min_size=1, max_size=4), st.lists(st.tuples(_WANTS, st.booleans()), max_size=12))
def test_whatever_happens_nobody_gets_what_it_cannot_do(
    has: list[dict[str, Models]], asked: list[tuple[Want, bool]]
) -> None:
    clock = Clock()
    roster = roster_of({}, clock)
    for models in has:
        roster.apply(listed(models, grpc="ab"))
        for want, failed in asked:
            clock.now += 0.3
            try:
                seat = roster.lease((), want)
            except ClusterError:
                continue
            roster.release(seat, Outcome.REFUSED if failed else Outcome.ANSWERED, 0.0)
            worker = seat.worker
            assert not worker.empty
            assert not want.grpc or worker.grpc_port
            assert want.unnamed or want.model is None or worker.models is None or want.model in worker.models

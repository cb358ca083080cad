"""Workers as plain JSON."""

from __future__ import annotations

import json

import pytest
from hypothesis import given

from discovery.worker_json import from_json, in_order, to_json, worker_id
from muster.values import Worker
from tests.discovery.test_records import _JSON, _WORKERS


@given(_WORKERS)
def test_a_worker_survives_the_way_through_json(worker: Worker) -> None:
    assert from_json(json.loads(json.dumps(to_json(worker)))) == worker


@given(_JSON)
def test_json_that_is_no_worker_is_a_value_error_and_nothing_else(value: object) -> None:
    with pytest.raises(ValueError):
        from_json(value)


def test_members_of_a_later_version_are_ignored() -> None:
    assert from_json({"id": "a", "host": "h", "port": 1, "colour": "blue"}) == Worker(id="a", host="h", port=1)


@pytest.mark.parametrize(
    "wrong",
    [
        {"id": 3},
        {"port": "1"},
        {"port": True},
        {"models": "digits"},
        {"models": [1]},
        {"models": ["a"], "versions": [1]},
        {"models": ["a"], "versions": {"a": 1}},
        {"replay_safe": 1},
        {"weight": 0},
    ],
    ids=repr,
)
def test_a_member_of_the_wrong_type_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        from_json({"id": "a", "host": "h", "port": 1, **wrong})


def test_the_versions_stand_under_the_name_of_their_model() -> None:
    told = to_json(Worker(id="a", host="h", port=1).serving({"digits": [2, 1], "cats": []}))
    assert (told["models"], told["versions"]) == (["digits", "cats"], {"digits": [1, 2]})


def test_versions_that_cannot_be_are_left_out() -> None:
    versions = {"digits": [True, "1", -1, 2**63, 3, 3], "cats": [1]}
    worker = from_json({"id": "a", "host": "h", "port": 1, "models": ["digits"], "versions": versions})
    assert worker.versions == (("digits", 3),)


def test_a_restarted_worker_has_a_new_id() -> None:
    assert worker_id("10.0.0.1", 8501, "x1") == "worker-10.0.0.1-8501-x1"
    assert worker_id("10.0.0.1", 8501, "x1") != worker_id("10.0.0.1", 8501, "x2")


@given(_WORKERS, _WORKERS)
def test_the_order_does_not_depend_on_who_came_first(one: Worker, other: Worker) -> None:
    assert [w.id for w in in_order([one, other])] == [w.id for w in in_order([other, one])]

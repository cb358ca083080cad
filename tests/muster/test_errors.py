"""One error tree for both ends of the wire."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster import errors
from muster.errors import ClusterError, MethodNotAllowed, Overloaded, UnexpectedAnswer

KINDS = sorted(ClusterError.by_code.values(), key=lambda kind: kind.code)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.code)
def test_an_error_comes_back_from_its_json_as_what_it_was(kind: type[ClusterError]) -> None:
    error = kind("a sentence", queue=3)
    again = ClusterError.from_json(error.status, json.loads(json.dumps(error.to_json())))
    assert type(again) is kind
    assert again.message == "a sentence"
    assert again.details == {"queue": 3}
    assert again.status == error.status


def test_every_error_of_the_module_has_a_code_of_its_own() -> None:
    public = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, ClusterError)]
    assert len({kind.code for kind in public}) == len(public)


@pytest.mark.parametrize("body", [None, [], "text", 3, {}, {"code": "overloaded"}, {"error": 5}, {"error": None}])
def test_an_answer_without_an_explanation_names_its_status(body: object) -> None:
    error = ClusterError.from_json(418, body)
    assert isinstance(error, UnexpectedAnswer)
    assert error.status == 418
    assert "418" in error.message


def test_a_code_of_a_later_version_keeps_its_sentence_and_status() -> None:
    error = ClusterError.from_json(507, {"error": "the moon is full", "code": "moon"})
    assert isinstance(error, UnexpectedAnswer)
    assert (error.message, error.status) == ("the moon is full", 507)


@given(
    st.integers(100, 599),
    st.recursive(
        st.none() | st.text() | st.integers(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    ),
)
def test_any_body_of_an_error_becomes_an_error(status: int, body: object) -> None:
    assert isinstance(ClusterError.from_json(status, body), ClusterError)


@given(st.dictionaries(st.text(), st.integers() | st.text()), st.sampled_from(KINDS))
def test_members_that_nobody_knows_do_not_break_the_client(
    members: dict[str, object], kind: type[ClusterError]
) -> None:
    error = ClusterError.from_json(kind.status, {**members, "error": "a sentence", "code": kind.code})
    assert error.message == "a sentence"


def test_waiting_and_allowed_methods_are_told_in_headers() -> None:
    assert Overloaded("full").headers() == {"Retry-After": "1"}
    assert MethodNotAllowed("no", allow="GET, HEAD").headers() == {"Allow": "GET, HEAD"}
    assert ClusterError("broken").headers() == {}

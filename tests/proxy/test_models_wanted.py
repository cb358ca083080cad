"""Which model a request is for."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.wants import ANY, CACHED, Want, wanted


@pytest.mark.parametrize(
    ("target", "want"),
    [
        (b"/v1/models/digits", Want("digits")),
        (b"/v1/models/digits:predict", Want("digits")),
        (b"/v1/models/digits/metadata", Want("digits")),
        (b"/v1/models/digits?x=/versions/3", Want("digits")),
        (b"/v1/models/digits/versions/12", Want("digits", 12)),
        (b"/v1/models/digits/versions/12:predict", Want("digits", 12)),
        (b"/v1/models/digits/versions/12/metadata?x", Want("digits", 12)),
        (b"/v1/models/digits/labels/stable:predict", Want("digits")),
        (b"/v1/models/a%2Fb:predict", Want("a/b")),
        (b"/v1/models/a%2Fb%3Ac%20%C3%A9/versions/7", Want("a/b:c é", 7)),
        (b"/v1/models/a+b", Want("a+b")),
        (b"/V1/Models/digits:predict", Want("digits")),
    ],
    ids=repr,
)
def test_the_path_of_tensorflow_servings_api_names_a_model_and_perhaps_a_version(target: bytes, want: Want) -> None:
    assert wanted(b"GET", target) == wanted(b"POST", target) == want


@pytest.mark.parametrize(
    "target",
    [
        b"/v1/models/digits/versions/",
        b"/v1/models/digits/versions/x:predict",
        b"/v1/models/digits/versions/1x",
        b"/v1/models/digits/versions/1%31",
        b"/v1/models/digits/versions/" + b"9" * 30,
        b"/v1/models/digits/version/1",
        b"/v1/models/digits//versions/1",
    ],
    ids=repr,
)
def test_what_makes_no_sense_as_a_version_is_left_to_a_worker_with_the_model(target: bytes) -> None:
    assert wanted(b"GET", target) == Want("digits")


@pytest.mark.parametrize(
    "target",
    [
        b"/v1/models",
        b"/v1/models/",
        b"/v1/models/:predict",
        b"/v1/models//x",
        b"/v2/models/digits",
        b"/x/v1/models/digits",
        b"/p2p/v1/models/digits",
        b"/metadata?model=digits",
        b"/",
        b"/classify/?model=digits",
        b"/classify",
    ],
    ids=repr,
)
def test_any_worker_may_answer_what_names_no_model(target: bytes) -> None:
    assert wanted(b"GET", target) == ANY


@pytest.mark.parametrize("path", [b"/classify", b"/"])
@pytest.mark.parametrize(
    ("query", "want"),
    [
        (b"?model=digits", Want("digits")),
        (b"?top=3&model=digits&version=2", Want("digits", 2)),
        (b"?model=a%2Fb+c", Want("a/b c")),
        (b"?model=digits&model=cats", Want("digits")),
        (b"?model=digits&version=x", Want("digits")),
        (b"?model=", Want("")),
    ],
    ids=repr,
)
def test_the_query_of_a_classification_names_a_model(path: bytes, query: bytes, want: Want) -> None:
    assert wanted(b"POST", path + query) == want


def test_a_classification_without_a_model_wants_the_one_that_is_meant() -> None:
    assert wanted(b"POST", b"/classify?top=3") == wanted(b"POST", b"/") == Want(unnamed=True)


@given(st.text(min_size=1), st.integers(0, 10**17))
def test_every_name_can_be_asked_for(name: str, version: int) -> None:
    escaped = quote(name, safe="").encode()
    assert wanted(b"GET", b"/v1/models/%b/versions/%d:predict" % (escaped, version)) == Want(name, version)
    assert wanted(b"POST", b"/classify?version=%d&model=%b" % (version, escaped)) == Want(name, version)


@given(st.binary(max_size=40), st.sampled_from([b"/v1/models/", b"/classify?", b"/?", b"/"]))
def test_no_target_breaks_the_reading(rest: bytes, start: bytes) -> None:
    assert isinstance(wanted(b"POST", start + rest), Want)


def test_a_long_target_is_read_like_a_short_one() -> None:
    name = "x" * (2 * CACHED)
    assert wanted(b"GET", b"/v1/models/%b:predict" % name.encode()) == Want(name)

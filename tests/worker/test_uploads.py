"""Bodies are taken apart exactly, and whatever they hold, only our own errors come out."""

from __future__ import annotations

import base64
import time

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.errors import BadRequest, ClusterError, TooLarge
from worker.uploads import unpack

FORM = 'multipart/form-data; boundary="cut here"'
names = st.text(st.characters(blacklist_categories=("Cs", "Cc")), min_size=1, max_size=30)


def form(*files: tuple[str, bytes]) -> bytes:
    parts = [
        b'--cut here\r\nContent-Disposition: form-data; name="data"; filename="%s"\r\n\r\n%s\r\n'
        % (name.replace("%", "%25").replace('"', "%22").encode(), data)
        for name, data in files
    ]
    return b"".join(parts) + b"--cut here--\r\n"


@given(st.lists(st.tuples(names, st.binary(max_size=300)), min_size=1, max_size=5))
def test_files_of_a_form_come_out_as_they_went_in(files: list[tuple[str, bytes]]) -> None:
    assert [upload.data for upload in unpack(form(*files), FORM, 5)] == [data for _, data in files]


@given(st.lists(st.binary(max_size=300), min_size=1, max_size=5))
def test_images_in_json_come_out_as_they_went_in(images: list[bytes]) -> None:
    body = orjson.dumps({"instances": [{"b64": base64.b64encode(image).decode()} for image in images]})
    assert [upload.data for upload in unpack(body, "application/json", 5)] == images


@given(st.binary(min_size=1, max_size=400), st.text(max_size=60))
def test_anything_else_is_the_image_itself_and_no_content_type_hurts(body: bytes, kind: str) -> None:
    try:
        uploads = unpack(body, kind, 5)
    except ClusterError as error:
        assert error.status < 500  # noqa: PT017
    else:
        assert [upload.data for upload in uploads] == [body]


@given(st.data())
def test_a_mangled_form_is_refused_or_read_and_nothing_worse(data: st.DataObject) -> None:
    body = bytearray(form(("a.png", b"one"), ("b.png", b"two")))
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(body) - 1))
        body[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    try:
        unpack(bytes(body), FORM, 5)
    except ClusterError as error:
        assert error.status < 500  # noqa: PT017


def test_a_file_name_is_told_back_and_need_not_be_there() -> None:
    assert unpack(form(("größe.png", b"x")), FORM, 5)[0].filename == "größe.png"
    nameless = b'--b\r\nContent-Disposition: form-data; name="data"\r\n\r\nx\r\n--b--'
    assert unpack(nameless, "multipart/form-data; boundary=b", 5)[0].filename is None


def test_as_many_images_as_allowed_and_not_one_more() -> None:
    json = orjson.dumps({"instances": [{"b64": ""}] * 3})
    for body, kind in ((form(*[("a", b"x")] * 3), FORM), (json, "application/json")):
        assert len(unpack(body, kind, 3)) == 3
        with pytest.raises(TooLarge, match="at most 2"):
            unpack(body, kind, 2)


def test_brackets_in_a_long_text_are_no_depth_and_counting_them_is_quick() -> None:
    began = time.monotonic()
    with pytest.raises(BadRequest, match="not base64"):
        unpack(b'{"instances": [{"b64": "' + b"[" * 5_000_000 + b'"}]}', "application/json", 5)
    with pytest.raises(BadRequest, match="nested"):
        unpack(b'{"a": "' + b"x" * 5_000_000 + b'", "b": ' + b"[" * 65, "application/json", 5)
    assert time.monotonic() - began < 5

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


@pytest.mark.parametrize("flood", [b"[" * 5_000_000, b"[]," * 3_000_000, b"1," * 5_000_000, b'"":0,' * 2_000_000])
def test_json_that_would_take_long_to_parse_is_refused_without_parsing_it(flood: bytes) -> None:
    began = time.process_time()
    with pytest.raises(BadRequest, match="far more than"):
        unpack(b'{"instances": [' + flood + b"0]}", "application/json", 5)
    assert time.process_time() - began < 0.2


def test_what_a_client_adds_to_json_does_not_matter() -> None:
    body = b'{"signature_name": "x", "parameters": {"a": [1, 2]}, "instances": [{"b64": "aGk="}]}'
    assert [upload.data for upload in unpack(body, "application/json", 1)] == [b"hi"]


@pytest.mark.parametrize(
    ("disposition", "name"),
    [
        (b"name=\"picture\"; filename*=UTF-8''gr%C3%B6%C3%9Fe.png", "größe.png"),
        (b"name=picture; FileName*=iso-8859-1'de'gr%F6%DFe.png", "größe.png"),
        (b'name="picture"; filename="plain"; filename*=UTF-8\'\'extended', "plain"),
        (b"name=\"picture\"; filename*=''%FF", "\ufffd"),
    ],
)
def test_a_file_whose_name_is_sent_in_the_extended_form_is_a_file_too(disposition: bytes, name: str) -> None:
    body = b"--b\r\nContent-Disposition: form-data; " + disposition + b"\r\n\r\nx\r\n--b--"
    (upload,) = unpack(body, "multipart/form-data; boundary=b", 5)
    assert (upload.filename, upload.data) == (name, b"x")


def test_a_file_name_in_an_exotic_charset_is_refused() -> None:
    body = b"--b\r\nContent-Disposition: form-data; name=a; filename*=unicode_escape''%5Cud800\r\n\r\nx\r\n--b--"
    with pytest.raises(BadRequest, match="unicode_escape"):
        unpack(body, "multipart/form-data; boundary=b", 5)

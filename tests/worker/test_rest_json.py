"""The JSON that is read, and the numbers that are written: what TensorFlow Serving's users have come to rely on."""

from __future__ import annotations

import contextlib
import gc
import json
import math
import struct
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from worker import json_numbers
from worker.json_dialect import parse
from worker.json_numbers import FEW, MANY, decimal, decimals, integers
from worker.json_quote import quoted
from worker.json_reader import Doubled, Reader
from worker.status import StatusError

DEEP = 500_000
UNHURRIED = settings(deadline=None)


def read(body: bytes, depth: int = 1_000_000, values: int = 1_000_000) -> Any:
    return parse(body, depth=depth, values=values)


def complaint(body: bytes, **limits: int) -> str:
    with pytest.raises(StatusError) as caught:
        read(body, **limits)
    assert caught.value.status == 400
    return caught.value.message


@pytest.mark.parametrize(
    ("body", "what", "offset"),
    [
        (b"  ", "The document is empty.", 2),
        (b"]", "The document is empty.", 0),
        (b"\0", "The document is empty.", 0),
        (b"nul", "Invalid value.", 3),
        (b"x", "Invalid value.", 0),
        (b"// x", "Invalid value.", 0),
        (b"{", "Missing a name for object member.", 1),
        (b"{a:1}", "Missing a name for object member.", 1),
        (b'{"a":1,}', "Missing a name for object member.", 7),
        (b'{"a"', "Missing a colon after a name of object member.", 4),
        (b'{"a" 1}', "Missing a colon after a name of object member.", 5),
        (b'{"a":', "Invalid value.", 5),
        (b'{"a":1', "Missing a comma or } after an object member.", 6),
        (b'{"a":1 \0}', "Missing a comma or } after an object member.", 7),
        (b"[", "Invalid value.", 1),
        (b"[1,]", "Invalid value.", 3),
        (b"[1 2]", "Missing a comma or ] after an array element.", 3),
        (b"[01]", "Missing a comma or ] after an array element.", 2),
        (b"[-x]", "Invalid value.", 2),
        (b"[Infi]", "Invalid value.", 5),
        (b"[1.]", "Miss fraction part in number.", 3),
        (b"[1e+]", "Miss exponent in number.", 4),
        (b"[1e999]", "Number too big to be stored in double.", 1),
        (b"[0,1,2,3,4,5,6,7,8,1e999,10]", "Number too big to be stored in double.", 19),
        (b'["a', "Missing a closing quotation mark in string.", 3),
        (b'["a\x01"]', "Invalid escape character in string.", 3),
        (b'["\\x"]', "Invalid escape character in string.", 2),
        (b'["\\u12g4"]', "Incorrect hex digit after \\u escape in string.", 2),
        (b'["\\ud800"]', "The surrogate pair in string is invalid.", 2),
        (b'["\\ud800\\u0041"]', "The surrogate pair in string is invalid.", 2),
    ],
)
def test_what_is_not_json_is_told_in_rapidjsons_words_with_the_place(body: bytes, what: str, offset: int) -> None:
    assert complaint(body) == f"JSON Parse error: {what} at offset: {offset}"


def test_an_empty_body_is_an_empty_document() -> None:
    assert complaint(b"") == "JSON Parse error: The document is empty"


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b'{"a":1} and so on', {"a": 1}),
        ('{"ä":"ü"}ü'.encode(), {"ä": "ü"}),
        (b'\xef\xbb\xbf{"a":1}', {"a": 1}),
        (b'{"a":1,"b":2,"a":3}', {"a": 1, "b": 2}),
        (b'{"a":[{"b":[1],"b":2}]}', {"a": [{"b": [1]}]}),
        (b'{"a":"x:y","b":"::"}', {"a": "x:y", "b": "::"}),
        (b'{"a":"x:y","a":"::"}', {"a": "x:y"}),
        (b"[Inf,-Inf,Infinity,-Infinity]", [math.inf, -math.inf, math.inf, -math.inf]),
        (b'["\xff\\u00e9\\ud83d\\ude00"]', ["\udcffé😀"]),
        (b"[[1,2.5],[3,-4]]x", [[1, 2.5], [3, -4]]),
        (b"[1, 2, 3, 4, 5, 6, 7, 8, [1, 2], [ 3 , -Inf ], Inf]", [*range(1, 9), [1, 2], [3, -math.inf], math.inf]),
        (b"[-Infinity,2,3,4,5,6,7,8,9,true,null]", [-math.inf, *range(2, 10), True, None]),
        (b"[18446744073709551615,18446744073709551616]", [2**64 - 1, 2.0**64]),
        (b"[-9223372036854775808,-9223372036854775809]!", [-(2**63), -(2.0**63)]),
        (b"[-0, 1e-400]", [0, 0.0]),
        (b"5x", 5),
    ],
)
def test_what_rapidjson_reads_is_read(body: bytes, value: Any) -> None:
    assert repr(read(body)) == repr(value)


def test_nan_is_a_number() -> None:
    assert math.isnan(read(b"NaN"))


def test_an_object_remembers_that_a_key_stood_twice() -> None:
    assert isinstance(read(b'{"b64":"a","b64":"b"}'), Doubled)
    assert not isinstance(read(b'{"b64":"a"}x'), Doubled)


def test_half_a_million_levels_are_read_like_two() -> None:
    value = read(b"[" * DEEP + b"]" * DEEP)
    for _ in range(DEEP - 1):
        (value,) = value
    assert value == []
    assert complaint(b'{"a":' * 5000 + b"}") == "JSON Parse error: Invalid value. at offset: 25000"


def test_equal_keys_are_seen_at_any_depth() -> None:
    deep = b"[" * 1010 + b"]" * 1010
    assert read(b'{"a":1,"b":%b,"a":2}' % deep)["a"] == 1


def test_numbers_that_are_too_big_are_not_looked_for_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    loads = orjson.loads
    monkeypatch.setattr(orjson, "loads", lambda body: calls.append(body) or loads(body))
    assert "too big" in complaint(b"[%b1e999]" % (b"1," * 3000))
    assert len(calls) < 10


@pytest.mark.parametrize("row", [b"1" * 200_000, b"[%b]" % b",".join([b"0.125"] * 4000), b"1." + b"3" * 200_000])
def test_no_step_of_the_reader_takes_long_whatever_the_numbers_are(monkeypatch: pytest.MonkeyPatch, row: bytes) -> None:
    taken: list[int] = []
    loads = orjson.loads
    monkeypatch.setattr(orjson, "loads", lambda body: taken.append(len(body)) or loads(body))
    with contextlib.suppress(StatusError):
        Reader(b"[%b]" % b",".join([row] * 100), 99).read()
    assert max(taken, default=0) < 100_000


def test_depth_and_number_of_values_have_their_limits() -> None:
    assert read(b'[{"a":[]}]', depth=3) == [{"a": []}]
    assert complaint(b"[" * 5000, depth=99) == "JSON Parse error: nested deeper than 99 (--max-json-depth)"
    assert read(b"[1,2,3]", values=3) == [1, 2, 3]
    assert complaint(b"[1,2,3,4]", values=3) == "JSON Parse error: more than 3 values (--max-json-values)"


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=20) | st.dictionaries(st.text(), inner),
    max_leaves=40,
)  # fmt: skip


@UNHURRIED
@given(VALUES)
@example([1.5] * 20)
@example([[1, 2, 3]] * 20)
def test_both_readers_read_what_the_standard_library_writes(value: Any) -> None:
    body = json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")
    assert repr(read(body)) == repr(Reader(body, 10_000).read()) == repr(json.loads(body))


@UNHURRIED
@given(st.lists(st.floats() | st.lists(st.floats() | st.integers(0, 9), max_size=3), max_size=40))
def test_what_is_not_finite_is_read_among_many_numbers(value: Any) -> None:
    body = json.dumps(value).encode()
    assert repr(read(body)) == repr(json.loads(body))


PIECES = (
    rb"""{"a": "b": } [ ] , : " \ 1 - .5 e9 true NaN "x" 1,2,3,4,5,6,7,8,9,10 [1,2],[3,4] 99999999999999999999 \u00e9"""
)


@UNHURRIED
@given(st.lists(st.sampled_from([*PIECES.split(), b" ", b"\xff", b"\0"]), max_size=12).map(b"".join))
def test_both_readers_agree_on_whatever_comes(body: bytes) -> None:
    def outcome(function: Any) -> str:
        try:
            return repr(function())
        except StatusError as error:
            return error.message

    assert outcome(lambda: read(body)) == outcome(lambda: Reader(body, 10_000).read())


# Numbers


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (9e6, "9e+06"), (999999.0, "999999.0"), (0.1, "0.1"), (1 / 3, "0.333333343"), (3e-5, "3e-05"), (-0.0, "-0.0"),
        (1e6, "1e+06"), (1234567.0, "1234567.0"), (123456789.0, "123456792.0"), (3.4028234e38, "3.40282347e+38"),
        (math.nan, "NaN"), (math.inf, "Infinity"), (-math.inf, "-Infinity"), (2.5, "2.5"), (1e-45, "1.4013e-45"),
    ],
)  # fmt: skip
def test_a_float_takes_six_digits_or_nine(value: float, text: str) -> None:
    assert decimals(np.array([value], np.float32)) == [text]


def test_a_double_takes_six_digits_or_seventeen() -> None:
    values = np.array([0.1, 1 / 3, 1e15, 123456789012.0, 1.7976931348623157e308, 5e-324, 1e17])
    assert decimals(values) == [
        "0.1", "0.33333333333333331", "1e+15", "123456789012.0", "1.7976931348623157e+308", "4.94066e-324", "1e+17",
    ]  # fmt: skip


@UNHURRIED
@given(st.lists(st.floats(width=32)))
def test_every_float_reads_back_to_itself(values: list[float]) -> None:
    texts = decimals(np.array(values, np.float32))
    assert len(texts) == len(values)
    for value, text in zip(values, texts, strict=True):
        assert any(mark in text for mark in ".enN") or text.endswith("Infinity")
        back = float(text.replace("Infinity", "inf"))
        assert struct.pack("f", back) == struct.pack("f", value) or math.isnan(value)
        if math.isfinite(value) and np.float32(f"{value:g}") == np.float32(value):
            assert text.removesuffix(".0") == f"{value:g}"


@UNHURRIED
@given(st.floats(allow_nan=False))
def test_every_double_reads_back_to_itself(value: float) -> None:
    (text,) = decimals(np.array([value], np.float64))
    assert float(text.replace("Infinity", "inf")) == value


@UNHURRIED
@given(hnp.arrays(st.sampled_from([np.float32, np.float64]), st.integers(FEW + 1, 2 * FEW)))
@example(np.array([3.4028235e38, 1e6, -1234567, np.nan, np.inf, -np.inf, -0.0, 1e-45] * FEW, np.float32))
def test_many_numbers_are_written_like_few(values: np.ndarray[Any, Any]) -> None:
    assert decimals(values) == [text for value in np.split(values, len(values)) for text in decimals(value)]


def test_integers_and_booleans_are_plain() -> None:
    assert integers(np.array([-(2**63), 2**63 - 1])) == ["-9223372036854775808", "9223372036854775807"]
    assert integers(np.array([True, False])) == ["true", "false"]


# Quotations


def test_a_quotation_is_pretty_and_short() -> None:
    assert quoted({"a": [1, [], {}, {"b": None}], "c": 'x"\n\x01', "d": True}) == (
        '{\n    "a": [\n        1,\n        [],\n        {},\n        {\n            "b": null\n        }\n    ],\n'
        '    "c": "x\\"\\n\\u0001",\n    "d": true\n}'
    )
    assert (quoted(0.1), quoted(3), quoted("é"), quoted(1e300)) == ("0.1", "3", '"é"', "1e+300")
    assert decimal(float("nan")) == "NaN"
    deep: Any = []
    for _ in range(DEEP):
        deep = [deep]
    assert len(quoted(deep)) == len(quoted(["x" * 10_000_000])) == 256


def test_large_arrays_are_written_in_pieces_and_nobody_can_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.arange(3 * MANY + 5, dtype=np.float32) / 8
    values[[0, MANY - 1, MANY, -1]] = [math.nan, math.inf, -math.inf, math.nan]
    longest: list[int] = []
    whole = json_numbers._finite
    monkeypatch.setattr(json_numbers, "_finite", lambda piece: longest.append(len(piece)) or whole(piece))
    texts = decimals(values)
    assert max(longest) <= MANY  # nothing else runs in the process while a piece is written
    assert texts == [text for start in range(0, len(values), 16) for text in decimals(values[start : start + 16])]
    counted = np.arange(2 * MANY + 1)
    assert integers(counted) == list(map(str, counted))


def test_the_garbage_collector_does_not_search_a_document_that_is_being_read() -> None:
    searches: list[str] = []

    def note(phase: str, _: dict[str, int]) -> None:
        searches.append(phase)

    gc.callbacks.append(note)
    try:
        assert len(parse(b"[" + b"[1]," * 100_000 + b"[1]]", depth=9, values=10**6)) == 100_001
    finally:
        gc.callbacks.remove(note)
    assert len(searches) < 10
    with pytest.raises(StatusError):
        parse(b"[" * 100_000, depth=9, values=10**6)
    assert gc.isenabled()

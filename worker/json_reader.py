"""A reader of JSON as RapidJSON reads it, with its texts and offsets in the errors; `worker.json_dialect` says when.

It is a machine of states with a stack, so no depth is too much for it. Numbers that stand together are read together.
"""

from __future__ import annotations

import re
from math import inf, isinf, nan
from typing import Any, Final, TypeAlias

import orjson

from worker.status import Code, StatusError

Json: TypeAlias = Any
"""None, bool, int (of 64 bits), float, str, list or dict."""

_BOM: Final = b"\xef\xbb\xbf"
_WHITESPACE: Final = re.compile(rb"[ \n\r\t]*")
_INTEGER: Final = re.compile(rb"-?(?:0|[1-9][0-9]*)")
_REST_OF_NUMBER: Final = re.compile(rb"(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_NUMBER_HERE: Final = rb"-?(?:(?:0|[1-9][0-9]{0,40})(?:\.[0-9]{1,40})?(?:[eE][+-]?[0-9]{1,4})?|NaN|Inf(?:inity)?)"
_COMMA_HERE: Final = rb"[ \n\r\t]*,[ \n\r\t]*"
_LIST_HERE: Final = rb"\[[ \n\r\t]*%b(?:%b%b){0,63}[ \n\r\t]*\]" % (_NUMBER_HERE, _COMMA_HERE, _NUMBER_HERE)
_RUN: Final = re.compile(
    rb"(?:%b|%b)(?:%b(?:%b|%b)){8,1024}(?=[ \n\r\t]*[],])"
    % (_NUMBER_HERE, _LIST_HERE, _COMMA_HERE, _NUMBER_HERE, _LIST_HERE)
)
"""Numbers, and lists of numbers, that are read together, because one at a time takes long. Not too many and none that
is long, because nothing else runs in this process during a match, and it needs memory."""
_NOT_FINITE: Final = re.compile(rb"-?(?:NaN|Inf(?:inity)?)")
_STAND_IN: Final = {None: nan, True: inf, False: -inf}
"""Literals that stand for these while orjson reads numbers, among which there are no literals."""
_PLAIN_TEXT: Final = re.compile(rb'[^"\\\x00-\x1f]*')
_ESCAPES: Final = {34: b'"', 47: b"/", 92: b"\\", 98: b"\b", 102: b"\f", 110: b"\n", 114: b"\r", 116: b"\t"}
_HEX: Final = re.compile(rb"[0-9a-fA-F]{4}")
_LITERALS: Final = {ord("n"): (b"null", None), ord("t"): (b"true", True), ord("f"): (b"false", False)}

_INVALID: Final = "Invalid value."
_EMPTY: Final = "The document is empty."
_NO_NAME: Final = "Missing a name for object member."
_NO_COLON: Final = "Missing a colon after a name of object member."
_NO_COMMA_IN_OBJECT: Final = "Missing a comma or } after an object member."
_NO_COMMA_IN_LIST: Final = "Missing a comma or ] after an array element."
_BAD_ESCAPE: Final = "Invalid escape character in string."


class Doubled(dict[str, Json]):
    """An object in which a key stood more than once; the first of each is here."""


def _stand_in(match: re.Match[bytes]) -> bytes:
    if match[0].endswith(b"N"):
        return b"null"
    return b"false" if match[0].startswith(b"-") else b"true"


def _restored(numbers: list[Json]) -> list[Json]:
    """Numbers, and lists of numbers, with those in place that are not finite."""
    return [
        _restored(number) if type(number) is list
        else _STAND_IN[number] if number is None or type(number) is bool
        else number
        for number in numbers
    ]  # fmt: skip


class Reader:
    """Reads one value, strictly. The states are those of a machine with a stack: no depth is too much for it."""

    def __init__(self, body: bytes, depth: int) -> None:
        self._body = body
        self._at = len(_BOM) if body.startswith(_BOM) else 0
        self._depth = depth
        self._runs = True
        # The container that is being filled and the keys that it has had, and the same of those around it.
        self._root: list[Json] = []
        self._into: Json = self._root
        self._keys: list[str] = []
        self._around: list[tuple[Json, list[str]]] = []

    def read(self) -> Json:
        """The value. Raises StatusError."""
        if not self._body:
            raise StatusError(Code.INVALID_ARGUMENT, "JSON Parse error: The document is empty")
        if self._peek() in b"]},:":  # or nothing at all
            raise self._error(_EMPTY)
        while True:
            if self._value():
                while self._into is not self._root and self._ends():
                    self._leave()
                if self._into is self._root:
                    return self._root[0]
            if type(self._into) is dict:
                self._keys.append(self._key())

    def _value(self) -> bool:
        """Read a value or the beginning of one: False if there is something inside of it."""
        if self._around and type(self._into) is list and self._run(self._into):
            return True
        mark = self._peek()
        if mark not in (b"[", b"{"):
            self._put(self._scalar(mark))
            return True
        if len(self._around) >= self._depth:
            raise StatusError(
                Code.INVALID_ARGUMENT, f"JSON Parse error: nested deeper than {self._depth} (--max-json-depth)"
            )
        self._at += 1
        self._around.append((self._into, self._keys))
        self._into, self._keys = ([] if mark == b"[" else {}), []
        return self._peek() == (b"]" if mark == b"[" else b"}")

    def _ends(self) -> bool:
        """After a value: does its container end, or does another value follow?"""
        mark = self._peek()
        is_list = type(self._into) is list
        ends = mark == (b"]" if is_list else b"}")
        if not ends and mark != b",":
            raise self._error(_NO_COMMA_IN_LIST if is_list else _NO_COMMA_IN_OBJECT)
        self._at += 1
        return ends

    def _leave(self) -> None:
        value = self._into
        if type(value) is dict and len(value) < len(self._keys):
            value = Doubled(value)
        self._into, self._keys = self._around.pop()
        self._put(value)

    def _put(self, value: Json) -> None:
        if type(self._into) is list:
            self._into.append(value)
        else:
            self._into.setdefault(self._keys[-1], value)

    def _key(self) -> str:
        """A member's name and its colon."""
        if self._peek() != b'"':
            raise self._error(_NO_NAME)
        key = self._text()
        if self._peek() != b":":
            raise self._error(_NO_COLON)
        self._at += 1
        return key

    def _peek(self) -> bytes:
        """The next byte that is not white; empty at the end, which a zero byte is, too."""
        mark = self._body[self._at : self._at + 1]
        if mark > b" ":
            return mark
        match = _WHITESPACE.match(self._body, self._at)
        assert match is not None  # noqa: S101  # it matches nothing, too
        self._at = match.end()
        mark = self._body[self._at : self._at + 1]
        return b"" if mark == b"\0" else mark

    def _run(self, into: list[Json]) -> bool:
        """Read as many numbers as follow, if they are many and orjson takes them all."""
        match = _RUN.match(self._body, self._at) if self._runs else None
        if match is None:
            return False
        run, odd = _NOT_FINITE.subn(_stand_in, match[0])
        try:
            numbers = orjson.loads(b"[" + run + b"]")
        except orjson.JSONDecodeError:  # one is too big: it will be found
            self._runs = False
            return False
        into += _restored(numbers) if odd else numbers
        self._at = match.end()
        return True

    def _scalar(self, mark: bytes) -> Json:
        if mark == b'"':
            return self._text()
        if mark and mark[0] in _LITERALS:
            literal, value = _LITERALS[mark[0]]
            self._expect(literal)
            return value
        return self._number()

    def _expect(self, literal: bytes) -> None:
        for byte in literal:
            if self._body[self._at : self._at + 1] != bytes((byte,)):
                raise self._error(_INVALID)
            self._at += 1

    def _number(self) -> int | float:
        body, start = self._body, self._at
        integer = _INTEGER.match(body, start)
        if integer is None:
            return self._not_finite()
        rest = _REST_OF_NUMBER.match(body, integer.end())
        assert rest is not None  # noqa: S101  # it matches nothing, too
        self._at = rest.end()
        following = body[self._at : self._at + 1]
        if following == b"." and not rest[0]:
            self._at += 1
            raise self._error("Miss fraction part in number.")
        if following in (b"e", b"E") and b"e" not in rest[0].lower():
            self._at += 2 if body[self._at + 1 : self._at + 2] in (b"+", b"-") else 1
            raise self._error("Miss exponent in number.")
        if not rest[0]:
            if len(integer[0]) < len("9" * 19):
                return int(integer[0])
            exact = int(integer[0]) if len(integer[0]) <= len("-" + "9" * 20) else 1 << 64
            if -(1 << 63) <= exact < 1 << 64:
                return exact
        value = float(body[start : self._at])
        if isinf(value):
            self._at = start
            raise self._error("Number too big to be stored in double.")
        return value

    def _not_finite(self) -> float:
        """NaN, Infinity or Inf, with or without a minus."""
        minus = self._body[self._at : self._at + 1] == b"-"
        self._at += minus
        if self._body[self._at : self._at + 1] == b"N":
            self._expect(b"NaN")
            return nan
        self._expect(b"Inf")
        if self._body[self._at : self._at + 1] == b"i":
            self._expect(b"inity")
        return float("-inf" if minus else "inf")

    def _text(self) -> str:
        body = self._body
        self._at += 1
        parts: list[bytes] = []
        while True:
            plain = _PLAIN_TEXT.match(body, self._at)
            assert plain is not None  # noqa: S101  # it matches nothing, too
            parts.append(plain[0])
            self._at = plain.end()
            mark = body[self._at : self._at + 1]
            if mark == b'"':
                self._at += 1
                return b"".join(parts).decode("utf-8", "surrogateescape")
            if mark != b"\\":
                raise self._error(_BAD_ESCAPE if mark.strip(b"\0") else "Missing a closing quotation mark in string.")
            parts.append(self._escape())

    def _escape(self) -> bytes:
        kind = self._body[self._at + 1 : self._at + 2]
        if kind != b"u":
            if not kind or kind[0] not in _ESCAPES:
                raise self._error(_BAD_ESCAPE)
            self._at += 2
            return _ESCAPES[kind[0]]
        code = self._hex(self._at + 2)
        length = len(r"\u0000")
        if 0xD800 <= code <= 0xDBFF:
            if self._body[self._at + length : self._at + length + 2] != rb"\u":
                raise self._error("The surrogate pair in string is invalid.")
            low = self._hex(self._at + length + 2)
            if not 0xDC00 <= low <= 0xDFFF:
                raise self._error("The surrogate pair in string is invalid.")
            code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00)
            length *= 2
        self._at += length
        return chr(code).encode("utf-8", "surrogatepass")

    def _hex(self, at: int) -> int:
        match = _HEX.match(self._body, at)
        if match is None:
            raise self._error("Incorrect hex digit after \\u escape in string.")
        return int(match[0], 16)

    def _error(self, text: str) -> StatusError:
        return StatusError(Code.INVALID_ARGUMENT, f"JSON Parse error: {text} at offset: {self._at}")

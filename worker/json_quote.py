"""JSON as RapidJSON writes it: how it escapes texts, and how messages to users quote the value that they are about."""

from __future__ import annotations

import re
from collections.abc import Iterator
from math import isfinite
from typing import Any, Final

from worker.json_numbers import decimal

MOST: Final = 256
"""Bytes of a value that a message quotes."""
INDENT: Final = "    "
_SPECIAL: Final = re.compile(r'["\\\x00-\x1f]')
_SHORT: Final = {'"': '\\"', "\\": "\\\\", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
_KINDS: Final = {type(None): "Null", list: "Array", str: "String", int: "Number", float: "Number"}


def kind_of(value: Any) -> str:
    """RapidJSON's word for what kind of value this is."""
    if isinstance(value, bool):
        return str(value)
    return "Object" if isinstance(value, dict) else _KINDS[type(value)]


def text(value: str) -> str:
    """`value` in quotation marks."""
    return f'"{_SPECIAL.sub(_escape, value)}"'


def bytes_text(value: bytes) -> str:
    """A text that need not be UTF-8, in quotation marks; encode it with `surrogateescape`."""
    return text(value.decode("utf-8", "surrogateescape"))


def quoted(value: Any) -> str:
    """The beginning of `value`, pretty."""
    if isinstance(value, float):
        return decimal(value)
    shown = ""
    for part in _parts(value):
        shown += part
        if len(shown) > MOST:
            break
    return shown.encode("utf-8", "surrogateescape")[:MOST].decode("utf-8", "surrogateescape")


def _escape(match: re.Match[str]) -> str:
    return _SHORT.get(match[0]) or f"\\u{ord(match[0]):04X}"


def _parts(value: Any) -> Iterator[str]:
    """The text in pieces. Not recursive, because values may be nested half a million times."""
    around: list[tuple[Iterator[Any], str]] = []
    inside: tuple[Iterator[Any], str] = iter([("", value)]), ""
    separator = ""
    while True:
        entry = next(inside[0], None)
        if entry is None:
            if not around:
                return
            yield ("\n" + INDENT * (len(around) - 1) if separator else "") + inside[1]
            inside, separator = around.pop(), ","
            continue
        name, item = entry
        lead = f"{separator}\n{INDENT * len(around)}" if around else ""
        yield f"{lead}{name}"
        if isinstance(item, (dict, list)):
            around.append(inside)
            yield "{" if isinstance(item, dict) else "["
            inside, separator = _entries(item), ""
        else:
            yield _scalar(item)
            separator = ","


def _entries(container: Any) -> tuple[Iterator[tuple[str, Any]], str]:
    if isinstance(container, dict):
        return ((f"{text(key[:MOST])}: ", value) for key, value in container.items()), "}"
    return (("", value) for value in container), "]"


def _scalar(value: Any) -> str:
    if isinstance(value, str):
        return text(value[: MOST + 1])
    if isinstance(value, float):
        return repr(value) if isfinite(value) else decimal(value)
    if value is None:
        return "null"
    return str(value).lower()  # an integer, True or False

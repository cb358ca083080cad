"""The JSON that TensorFlow Serving reads, which is RapidJSON's: the standard and a little more, with its own errors.

What follows the first value is ignored, the first of several equal keys counts, NaN and Infinity are numbers, bytes
that are not UTF-8 pass through texts (as `surrogateescape`), and integers beyond 64 bits are decimals. orjson reads
what both read alike; everything else is read by `worker.json_reader`, which is strict, exact and slower. Depth and
number of values are bounded by the caller.
"""

from __future__ import annotations

import gc
import json

import orjson

from worker.json_reader import Json, Reader
from worker.status import Code, StatusError


def parse(body: bytes, *, depth: int, values: int) -> Json:
    """The value that `body` begins with. Raises StatusError (INVALID_ARGUMENT).

    Lists and objects may be nested `depth` deep, and hold `values` values and texts' commas together.
    """
    if body.count(b",") + body.count(b"[") + body.count(b"{") > values:
        raise StatusError(Code.INVALID_ARGUMENT, f"JSON Parse error: more than {values} values (--max-json-values)")
    standard = body
    document = _read_by_orjson(standard)
    if isinstance(document, orjson.JSONDecodeError):
        standard = body[: document.pos]  # if all that is wrong is what follows the value, then nothing is wrong
        document = _read_by_orjson(standard)
    if isinstance(document, (dict, list)) and not _has_equal_keys(standard, document):
        return document
    del document  # there is no need for memory for two
    return Reader(body, depth).read()


def _read_by_orjson(body: bytes) -> Json | orjson.JSONDecodeError:
    # The garbage collector would look for circles among millions of new lists, again and again, most of the time that
    # this takes; and nothing else runs in this process meanwhile.
    collecting = gc.isenabled()
    gc.disable()
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        return error
    finally:
        if collecting:
            gc.enable()


def _has_equal_keys(body: bytes, document: Json) -> bool:
    """Did some object of `body`, which orjson read as `document`, have a key twice?

    Each key has its colon: when as many keys are found as there are colons, none was lost. Colons in texts make the
    count fail; then the parser of the standard library shows every pair.
    """
    colons = body.count(b":")
    keys = 0
    where: list[Json] = [document]
    for value in where:  # it grows: level by level, because objects are high up and long lists of numbers below
        if keys == colons:
            return False
        if type(value) is dict:
            keys += len(value)
            where.extend(value.values())
        elif type(value) is list and value and type(value[0]) in (dict, list):
            where.extend(value)
    if keys == colons:
        return False
    found = False

    def look(pairs: list[tuple[str, Json]]) -> None:
        nonlocal found
        found = found or len(dict(pairs)) < len(pairs)

    try:
        json.loads(body, object_pairs_hook=look)
    except RecursionError:
        return True  # we do not know; the reader below will
    return found

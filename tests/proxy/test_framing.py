"""Where bodies end."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.framing import LAST_CHUNK, BadChunk, Body, ChunkedBody, CountedBody, chunk

PIECES = st.lists(st.binary(min_size=1, max_size=40), max_size=6)
EXTENSIONS = st.sampled_from([b"", b";a=b", b" ; c", b';q="x y"'])
TRAILERS = st.sampled_from([b"", b"X-Trailer: t\r\n", b"A: b\r\nC:\r\n"])


def fed(body: Body, data: bytes, cuts: list[int]) -> tuple[bytes, bytes]:
    """Feed `data` cut at `cuts`: what belonged to the body, and what came after."""
    inside, after = b"", b""
    edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    for start, end in pairwise(edges):
        if body.done:
            after += data[start:end]
        else:
            got, rest = body.feed(data[start:end])
            inside, after = inside + got, after + rest
    return inside, after


@given(PIECES, EXTENSIONS, TRAILERS, st.binary(max_size=20), st.lists(st.integers(0, 400), max_size=12))
def test_chunks_give_the_same_body_however_they_are_cut(
    pieces: list[bytes], extension: bytes, trailers: bytes, after: bytes, cuts: list[int]
) -> None:
    raw = b"".join(b"%x%b\r\n%b\r\n" % (len(piece), extension, piece) for piece in pieces)
    body = ChunkedBody()
    assert fed(body, raw + b"0\r\n" + trailers + b"\r\n" + after, cuts) == (b"".join(pieces), after)
    assert body.done


@given(PIECES, st.integers(1, 5), st.binary(max_size=20))
def test_chunks_that_are_read_in_turns_give_the_same_body(pieces: list[bytes], turn: int, after: bytes) -> None:
    body, inside, rest = ChunkedBody(turn), b"", b"".join(map(chunk, pieces)) + LAST_CHUNK + after
    turns = 0
    while not body.done:
        got, left = body.feed(rest)
        inside, rest = inside + got, bytes(left)
        turns += 1
    assert (inside, rest) == (b"".join(pieces), after)
    assert turns >= (len(pieces) + 2) / turn  # a line for each chunk, the last and the end of the trailers


@given(PIECES)
def test_what_we_frame_we_can_read(pieces: list[bytes]) -> None:
    body = ChunkedBody()
    assert body.feed(b"".join(map(chunk, pieces)) + LAST_CHUNK) == (b"".join(pieces), b"")
    assert body.done


@given(st.binary(max_size=60), st.binary(max_size=20), st.lists(st.integers(0, 100), max_size=8))
def test_a_counted_body_ends_where_its_length_says(payload: bytes, after: bytes, cuts: list[int]) -> None:
    body = CountedBody(len(payload))
    assert fed(body, payload + after, cuts) == (payload, after)
    assert body.done
    assert body.left == 0


@pytest.mark.parametrize(
    "raw",
    [
        b"5\nhello\n0\n\n",
        b"5\r\nhello\n",
        b"5\r\nhello\rX",
        b"5\r\nhelloo\r\n",
        b"0x5\r\n",
        b"+5\r\n",
        b"-1\r\n",
        b" 5\r\n",
        b"\r\n",
        b"g\r\n",
        b"5;\x00\r\n",
        b"1" * 17 + b"\r\n",
        b"5;" + b"a" * 300,
        b"5;" + b"a" * 300 + b"\r\n",
        b"0\r\nno colon\r\n\r\n",
        b"0\r\nbad name : x\r\n",
        b"0\r\n" + b"A: b\r\n" * 1000,
    ],
)
@pytest.mark.parametrize("at_once", [True, False])
def test_odd_chunks_are_refused(raw: bytes, at_once: bool) -> None:
    cuts = [] if at_once else list(range(len(raw)))
    with pytest.raises(BadChunk):
        fed(ChunkedBody(), raw, cuts)


def test_a_chunk_announces_its_size_before_it_arrives() -> None:
    body = ChunkedBody()
    body.feed(b"7fffffff\r\nx")
    assert body.declared > 2**30

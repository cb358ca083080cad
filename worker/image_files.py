"""What Pillow does not look at in the files of images: damage that it decodes to something, and work without end. Pure.

Used by `worker.images`. Whatever is too short raises struct.error, what cannot be unpacked zlib.error.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from typing import Final

START_OF_JPEG: Final = b"\xff\xd8"
START_OF_SCAN: Final = b"\xff\xda"
END_OF_JPEG: Final = b"\xff\xd9"
MARK_IN_JPEG: Final = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
"""Not those among the pixels: an escaped 0xFF, the marks for starting afresh."""
MOST_SCANS: Final = 100
"""Times that a JPEG goes over its pixels to refine them; ten are usual. Each takes time, and hardly a byte."""
START_OF_PNG: Final = b"\x89PNG\r\n\x1a\n"
_SAMPLES: Final = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""Of a pixel, by the type of a PNG's colours."""
_PASSES: Final = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""First column and row, and steps, of the seven parts of an interlaced PNG."""
_PIECE: Final = 1024 * 1024


def scans(data: bytes) -> int:
    """How often a JPEG's decoder has to go over its pixels, as far as that is not too often."""
    at = count = 0
    while count <= MOST_SCANS and (mark := MARK_IN_JPEG.search(data, at)) and mark[0] != END_OF_JPEG:
        at = mark.end()
        if mark[0] != START_OF_JPEG:
            at += int.from_bytes(data[at : at + 2])
        count += mark[0] == START_OF_SCAN
    return count


def is_intact(png: bytes) -> bool:
    """Are all parts of the PNG that make the picture there, to its end, and are their checksums right?"""
    view = memoryview(png)
    return all(
        struct.unpack_from(">I", png, at + len(part))[0] == zlib.crc32(part, zlib.crc32(kind))
        for kind, at, part in _parts(view)
        if kind[:1].isupper()
    )


def has_all_pixels(png: bytes) -> bool:
    """Does the PNG, which is intact, hold as many bytes of pixels as its header says?"""
    width, height, depth, colours, _, _, interlaced = struct.unpack_from(">IIBBBBB", png, len(START_OF_PNG) + 8)
    missing = 0
    for left, top, across, down in _PASSES if interlaced else ((0, 0, 1, 1),):
        columns, rows = -((left - width) // across), -((top - height) // down)
        if columns > 0 and rows > 0:
            missing += rows * (1 + (columns * depth * _SAMPLES[colours] + 7) // 8)
    unpacker = zlib.decompressobj()
    for kind, _, part in _parts(memoryview(png)):
        packed: bytes | memoryview = part if kind == b"IDAT" else b""
        while missing > 0 and packed and not unpacker.eof:
            missing -= len(unpacker.decompress(packed, _PIECE))
            packed = unpacker.unconsumed_tail
    while missing > 0 and not unpacker.eof and (rest := unpacker.decompress(b"", _PIECE)):
        missing -= len(rest)
    return missing <= 0


def _parts(png: memoryview) -> Iterator[tuple[bytes, int, memoryview]]:
    """The kind of each part, where its contents begin, and they."""
    at, kind = len(START_OF_PNG), b""
    while kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", png, at)
        yield kind, at + 8, png[at + 8 : at + 8 + length]
        at += length + 12

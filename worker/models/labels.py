"""The names of a model's outputs: one per line, in the order of its scores, as TensorFlow's examples write them."""

from __future__ import annotations

import re
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

LARGEST: Final = 16 * 2**20
"""Bytes of a list of labels."""
_PACKED: Final = re.compile(r"(label|class)[a-z_]*\.txt")


@dataclass(frozen=True, slots=True)
class Labels:
    """The names, and the file that they are from."""

    names: tuple[str, ...]
    file: Path


def read_labels(path: Path) -> Labels:
    """The lines of `path`, without blank ones at its end. ValueError, one sentence, if there are none."""
    if path.stat().st_size > LARGEST:
        raise ValueError(f"{path} is too large to be a list of labels")
    return Labels(_lines(path.read_bytes(), path), path)


def packed_labels(file: Path) -> Labels | None:
    """The labels inside a TensorFlow Lite file, where its tools append them as an archive; None if there are none.

    ValueError, one sentence, if that cannot be read.
    """
    if file.suffix != ".tflite" or not zipfile.is_zipfile(file):
        return None
    try:
        with zipfile.ZipFile(file) as archive:
            found = [entry for entry in archive.infolist() if _PACKED.fullmatch(entry.filename)]
            if len(found) != 1 or found[0].file_size > LARGEST:
                return None
            return Labels(_lines(archive.read(found[0]), file), file)
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError) as error:
        raise ValueError(f"the archive in {file} cannot be read: {error}") from None


def _lines(content: bytes, path: Path) -> tuple[str, ...]:
    try:
        lines = content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not a text file in UTF-8") from None
    while lines and not lines[-1].strip():
        lines.pop()
    if not lines:
        raise ValueError(f"{path} holds no labels")
    return tuple(line.strip() for line in lines)


def class_numbers(count: int) -> tuple[str, ...]:
    """What outputs are called when nobody named them: "0", "1", …"""
    return tuple(str(number) for number in range(count))

"""The names of a model's outputs: one per line, in the order of its scores, as TensorFlow's examples write them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Labels:
    """The names, and the file that they are from."""

    names: tuple[str, ...]
    file: Path


def read_labels(path: Path) -> Labels:
    """The lines of `path`, without blank ones at its end. ValueError, one sentence, if there are none."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not a text file in UTF-8") from None
    while lines and not lines[-1].strip():
        lines.pop()
    if not lines:
        raise ValueError(f"{path} holds no labels")
    return Labels(tuple(line.strip() for line in lines), path)


def class_numbers(count: int) -> tuple[str, ...]:
    """What outputs are called when nobody named them: "0", "1", …"""
    return tuple(str(number) for number in range(count))

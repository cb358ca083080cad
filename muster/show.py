"""Prints what the cluster answers: for people, or as JSON for programs, one object per line."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from muster.answers import Classification, Listed

BAR = 24
"""Width of the bar of a score of 1, in characters."""


def answer(file: Path, answer: Classification) -> None:
    """The labels of one image with their scores, and who gave them."""
    table = _table("label", "score", "")
    table.columns[1].justify = "right"
    for each in answer.predictions:
        table.add_row(each.label, f"{each.score:.4f}", "█" * round(BAR * min(max(each.score, 0.0), 1.0)))
    _print(table)
    version = "" if answer.version is None else f" version {answer.version}"
    by = f", worker {answer.served_by}" if answer.served_by else ""
    _print(f"{file}: model {answer.model}{version}{by}")


def short_answer(file: Path, answer: Classification) -> None:
    """The likeliest label of one image among several, on one line."""
    best = f"{answer.best.label}  {answer.best.score:.4f}" if answer.predictions else "nothing"
    _print(f"{file}: {best}")


def answer_json(file: Path, answer: Classification) -> None:
    """The server's own words, with where they came from."""
    _print_json(
        {
            "file": str(file),
            "model": {"name": answer.model, "version": answer.version},
            "predictions": [{"label": each.label, "score": each.score} for each in answer.predictions],
            "served_by": answer.served_by,
            "timings": dict(answer.timings),
        }
    )


def error_json(file: Path, sentence: str, code: str) -> None:
    """Why there is no answer for a file."""
    _print_json({"file": str(file), "error": sentence, "code": code})


def workers(listed: Sequence[Listed]) -> None:
    """Who serves what."""
    if not listed:
        _print("No workers are listed.")
        return
    table = _table("worker", "address", "models", "state")
    for worker in listed:
        models = ", ".join(_with_versions(model, worker.versions.get(model, ())) for model in worker.models)
        table.add_row(worker.id, worker.address, models, worker.state)
    _print(table)


def _with_versions(model: str, versions: Sequence[int]) -> str:
    """`digits 1, 2` would read like two models, hence `digits (1, 2)`."""
    return f"{model} ({', '.join(map(str, versions))})" if versions else model


def workers_json(listed: Sequence[Listed]) -> None:
    """Who serves what, one worker per line."""
    for worker in listed:
        _print_json(dataclasses.asdict(worker))


def _table(*titles: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for title in titles:
        table.add_column(title, overflow="fold")
    return table


def _print(what: Table | str) -> None:
    # Labels and file names are what they are: no markup in them, and no colours for the digits in them.
    Console(markup=False, highlight=False, emoji=False, soft_wrap=isinstance(what, str)).print(what)


def _print_json(value: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(value, ensure_ascii=False) + "\n")

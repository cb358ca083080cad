"""What docs/operations.md and the README name exists, and is what they say: settings, metrics, words of the log."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import Field, fields
from pathlib import Path
from typing import Any

import pytest

from muster.settings import size
from proxy import access
from proxy.dispatch import Failure
from proxy.health import Outcome
from proxy.metrics import PREFIX, processes, starts
from proxy.probes import Finding
from proxy.settings import ProxySettings
from tests.proxy.harness import ScriptedWorker, cluster, get
from worker.settings import WorkerSettings

PROJECT = Path(__file__).resolve().parents[1]
OPERATIONS = (PROJECT / "docs" / "operations.md").read_text()
README = (PROJECT / "README.md").read_text()

SETTINGS = README.partition("\n## Settings\n")[2].partition("\n## ")[0]
FAILURES = OPERATIONS.partition("\n## What each failure looks like\n")[2].partition("\n## ")[0]
CHOICES = OPERATIONS.partition("\n## Which setting does what\n")[2].partition("\n**")[0]

PROXY = {"--" + field.name.replace("_", "-"): field for field in fields(ProxySettings)}
WORKER = {"--" + field.name.replace("_", "-"): field for field in fields(WorkerSettings)}
FLAG = re.compile(r"--[a-z][a-z0-9-]*")


def rows(table: str) -> list[list[str]]:
    """The cells of each row of the tables in a text, without their heads."""
    cells = [line.strip("|").split("|") for line in table.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in cells if not set(row[0].strip()) <= {"-"}]


def defaults(table: str, settings: dict[str, Field[Any]]) -> list[tuple[str, str, Any]]:
    """Each flag in the first column of a table, what its second column says that the default is, and what it is."""
    found = []
    for first, said, *_ in rows(table):
        flags = [flag for flag in FLAG.findall(first) if not flag.startswith("--no-")]
        if flags and flags[0] in settings:
            texts = [said] if len(flags) == 1 else said.split(", ")
            found += [(flag, text, settings[flag].default) for flag, text in zip(flags, texts, strict=False)]
    return found


def meant(text: str) -> float | bool | None:
    """The number, or on or off, that a table's word for a default stands for. None: other words."""
    word = text.removesuffix(" s").partition(",")[0]
    if word in ("on", "off"):
        return word == "on"
    with suppress(ValueError):
        return float(word)
    with suppress(ValueError):
        return size(word)
    return None


@pytest.mark.parametrize("document", [OPERATIONS, SETTINGS], ids=["operations", "readme"])
def test_every_flag_that_is_named_exists(document: str) -> None:
    named = {flag for code in re.findall(r"`([^`\n]+)`", document) for flag in FLAG.findall(code)}
    assert len(named) > 20
    opposites = {"--no-" + flag[2:] for flag, field in PROXY.items() if isinstance(field.default, bool)}
    assert named - PROXY.keys() - WORKER.keys() - opposites - {"--help"} == set()


@pytest.mark.parametrize(
    ("table", "settings"),
    [
        (CHOICES, PROXY),
        (SETTINGS.partition("**worker**")[0], PROXY),
        ("|" + SETTINGS.partition("**worker**")[2], WORKER),
    ],
    ids=["operations", "readme-proxy", "readme-worker"],
)
def test_defaults_are_what_the_tables_say(table: str, settings: dict[str, Field[Any]]) -> None:
    compared = [(flag, meant(text), default) for flag, text, default in defaults(table, settings)]
    numbers = [(flag, said, default) for flag, said, default in compared if said is not None]
    assert len(numbers) >= 5
    assert [(flag, said, default) for flag, said, default in numbers if said != default] == []


async def test_every_metric_that_is_named_is_among_those_that_the_proxy_tells() -> None:
    async with cluster(ScriptedWorker()) as proxy:
        told = (await proxy.ask(get(b"/metrics"))).body.decode()
    known = {
        name.removeprefix(PREFIX).removesuffix("_total") for name in re.findall(r"^# TYPE (\S+)", told, re.MULTILINE)
    }
    of_a_parent = {processes(1, 1).name.removeprefix(PREFIX), starts({}).name.removeprefix(PREFIX)}
    named = set(re.findall(PREFIX + r"([a-z_]*[a-z])", OPERATIONS))
    named |= set(re.findall(r"`([a-z_]+)\{", FAILURES))
    of_the_log = {"access_log_dropped"}  # which is off here
    assert len(named) > 25
    assert {name.removesuffix("_total") for name in named} - known - of_a_parent - of_the_log == set()


def test_every_reason_in_the_table_of_failures_can_be_one() -> None:
    of = {
        "failed_attempts": {failure.name.lower() for failure in Failure},
        "ejections": {outcome.name.lower() for outcome in Outcome} | {"errors", "error rate", "probe"},
        "probes": {finding.name.lower() for finding in Finding},
    }
    named = re.findall(r"(\w+)\{\w+=\"([\w ]+)\"\}", FAILURES)
    checked = [(metric, reason) for metric, reason in named if metric in of]
    assert len(checked) >= 5
    assert [(metric, reason) for metric, reason in checked if reason not in of[metric]] == []


def test_the_table_of_ends_has_all_that_the_access_log_writes() -> None:
    table = OPERATIONS.partition("| `end` |")[2].partition("\n\n")[0]
    written = {access.COMPLETE, access.LEFT, access.SLOW, access.BAD, access.CUT, access.REFUSED, access.STOPPED}
    written |= set(access._ENDS.values())
    assert set(re.findall(r"^\| `([a-z:]+)`", table, re.MULTILINE)) == {end.decode() for end in written}

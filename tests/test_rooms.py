"""The walls between the rooms, read from the source: who may import whom, and who may import what is heavy."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MAY_IMPORT = {
    "muster": {"muster"},
    "discovery": {"discovery", "muster"},
    "proxy": {"proxy", "discovery", "muster"},
    "worker": {"worker", "discovery", "muster"},
}
HEAVY = {"tensorflow", "keras", "sklearn", "numpy", "PIL"}
SERVER = {"aiohttp", "consul", "google", "grpc", "httptools", "multipart", "orjson", "prometheus_client", "uvloop"}
LIGHT = {"httpx", "rich", "typer"}
"""What comes with the package when no extra is asked for: all that `muster` may use."""


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {module_name(path): path for room in MAY_IMPORT for path in sorted((ROOT / room).rglob("*.py"))}


def imported(module: str) -> Iterator[str]:
    """Every module that is imported anywhere in the source, by its full name; names from a package count as modules."""
    path = SOURCES[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            origin = ".".join([*above, *filter(None, [node.module])])
            for alias in node.names:
                inner = f"{origin}.{alias.name}"
                yield inner if inner in SOURCES else origin


def room(module: str) -> str:
    return module.partition(".")[0]


def test_every_room_is_there() -> None:
    assert {room(module) for module in SOURCES} == set(MAY_IMPORT)


@pytest.mark.parametrize("module", SOURCES)
def test_a_file_imports_only_from_the_rooms_below(module: str) -> None:
    ours = {name for name in imported(module) if room(name) in MAY_IMPORT or room(name) in ("tests", "bench")}
    assert {name for name in ours if room(name) not in MAY_IMPORT[room(module)]} == set()


@pytest.mark.parametrize("module", [module for module in SOURCES if room(module) != "worker"])
def test_only_the_worker_imports_what_is_heavy(module: str) -> None:
    assert {name for name in imported(module) if room(name) in HEAVY} == set()


def test_pillow_is_imported_in_one_place() -> None:
    assert {module for module in SOURCES if any(room(name) == "PIL" for name in imported(module))} <= {"worker.images"}


@pytest.mark.parametrize("module", [module for module in SOURCES if room(module) == "muster"])
def test_the_client_needs_nothing_that_an_extra_brings(module: str) -> None:
    foreign = {room(name) for name in imported(module)} - set(sys.stdlib_module_names) - {"muster"}
    assert foreign <= LIGHT


def test_no_file_imports_itself_in_a_circle() -> None:
    # A package's own file may gather what its modules define; that is no step of the stairs.
    steps = {
        module: {name for name in imported(module) if name in SOURCES and SOURCES[name].name != "__init__.py"}
        for module, path in SOURCES.items()
        if path.name != "__init__.py"
    }
    try:
        TopologicalSorter(steps).prepare()
    except CycleError as error:
        pytest.fail(" → ".join(error.args[1]))


@pytest.mark.parametrize("module", SOURCES)
def test_nobody_but_its_program_imports_a_list_of_lifetimes(module: str) -> None:
    serves = {name for name in imported(module) if name in ("proxy.serve", "worker.serve")}
    assert serves <= {f"{room(module)}.serve"} if module.endswith(".__main__") else not serves


@pytest.mark.parametrize("module", SOURCES)
def test_no_file_can_be_mistaken_for_a_module_that_it_might_import(module: str) -> None:
    assert module.rpartition(".")[2] not in {
        "http",
        "consul",
        "queue",
        "asyncio",
        "logging",
        "types",
        "random",
        "socket",
    }


def test_the_client_and_the_command_line_load_nothing_of_a_server() -> None:
    program = "import sys, muster.client, muster.cli; print(*{name.partition('.')[0] for name in sys.modules})"
    run = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = set(run.stdout.split())
    assert "muster" in loaded
    assert (
        loaded & {*HEAVY, "aiohttp", "uvloop", "consul", "grpc", "orjson", "prometheus_client", "discovery", "proxy"}
        == set()
    )

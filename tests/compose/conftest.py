"""The images and one cluster for all tests here; whatever fails shows what the containers said."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path

import pytest

from tests.compose.project import BUILD_PATIENCE, Project, v1_or_v2

OWNER = 4321
"""The user who owns the directory of models, where these tests may give it to somebody."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failure in here is understood from what the containers wrote."""
    report = yield
    project = getattr(item, "funcargs", {}).get("cluster")
    if report.failed and project is not None:
        report.sections.append(("containers", project.logs()))
    return report


@pytest.fixture(scope="session")
def command() -> Sequence[str]:
    """What stands for `docker-compose` here."""
    return v1_or_v2()


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of models, empty before the first cluster, which does not belong to root."""
    directory = tmp_path_factory.mktemp("compose") / "models"
    directory.mkdir()
    if os.geteuid() == 0:
        os.chown(directory, OWNER, OWNER)
    return directory


@pytest.fixture(scope="session")
def images(command: Sequence[str], models: Path) -> None:
    """The three images, of the code as it is now."""
    Project("muster-images", command, models).compose("build", patience=BUILD_PATIENCE)


@pytest.fixture(scope="session")
def cluster(command: Sequence[str], images: None, models: Path) -> Iterator[Project]:
    """A cluster of three workers, started with an empty directory of models. Tests may scale it, and say to what."""
    project = Project(f"muster-test-{os.getpid()}", command, models)
    try:
        try:
            project.scale(3)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{project.logs()}") from None
        yield project
    finally:
        project.down()

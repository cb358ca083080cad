"""The rules of lifecycles by themselves: which versions are wanted, which step is next, which files have settled."""

from __future__ import annotations

import os
import shutil
import sys
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.models import settling
from worker.models.courtesy import BITE, small_bites
from worker.models.finding import Found
from worker.models.policy import All, Latest, Specific, wanted
from worker.models.settling import LARGEST, Settling, fingerprint
from worker.models.source import Place, Source
from worker.models.transition import Load, Phase, Transition, Unload, next_step

VERSIONS = st.frozensets(st.integers(0, 2**63 - 1), max_size=20)


@given(VERSIONS, st.integers(0, 30))
def test_latest_is_the_highest_few_and_at_least_one(there: frozenset[int], count: int) -> None:
    chosen = wanted(Latest(count), there)
    assert chosen <= there
    assert len(chosen) == min(max(count, 1), len(there))
    assert all(low < high for low in there - chosen for high in chosen)


@given(VERSIONS, VERSIONS)
def test_all_is_all_and_specific_is_what_is_there_of_it(there: frozenset[int], asked: frozenset[int]) -> None:
    assert wanted(All(), there) == there
    assert wanted(Specific(asked), there) == asked & there


@dataclass(frozen=True)
class Version:
    number: int
    wanted: bool
    phase: Phase


def standings(*phases: Phase) -> st.SearchStrategy[list[Version]]:
    one = st.builds(Version, st.integers(0, 9), st.booleans(), st.sampled_from(phases))
    return st.lists(one, max_size=8, unique_by=lambda version: version.number)


@given(standings(*Phase), st.sampled_from(Transition))
def test_a_step_loads_what_is_wanted_and_new_or_unloads_what_is_served_and_not_wanted(
    versions: list[Version], transition: Transition
) -> None:
    match next_step(transition, versions):
        case Load(version):
            assert version.wanted
            assert version.phase is Phase.NEW
            assert all(one.phase is not Phase.LOADING for one in versions)
            new = [one.number for one in versions if one.wanted and one.phase is Phase.NEW]
            assert version.number == max(new)
        case Unload(version):
            assert not version.wanted
            assert version.phase is Phase.AVAILABLE


@given(standings(*Phase))
def test_the_last_version_that_serves_stays_until_a_wanted_one_does(versions: list[Version]) -> None:
    step = next_step(Transition.AVAILABILITY, versions)
    serving = [one for one in versions if one.phase is Phase.AVAILABLE]
    if isinstance(step, Unload) and any(one.wanted for one in versions):
        assert len(serving) > 1


@given(standings(*Phase))
def test_with_memory_for_one_nothing_is_loaded_while_something_unwanted_has_memory(versions: list[Version]) -> None:
    step = next_step(Transition.RESOURCE, versions)
    if isinstance(step, Load):
        held = (Phase.AVAILABLE, Phase.LOADING, Phase.LEAVING)
        assert not [one for one in versions if one.phase in held and not one.wanted]


@given(standings(Phase.NEW, Phase.AVAILABLE, Phase.FAILED), st.sampled_from(Transition))
def test_steps_end_with_everything_wanted_served_and_nothing_else_unless_all_that_is_wanted_failed(
    versions: list[Version], transition: Transition
) -> None:
    for _ in range(20):
        step = next_step(transition, versions)
        if step is None:
            break
        phase = Phase.AVAILABLE if isinstance(step, Load) else Phase.NEW
        versions = [replace(one, phase=phase) if one is step.version else one for one in versions]
    assert step is None
    assert all(one.phase is not Phase.NEW for one in versions if one.wanted)
    stuck = [one for one in versions if one.phase is Phase.AVAILABLE and not one.wanted]
    wanted_ones = [one for one in versions if one.wanted]
    assert len(stuck) <= 1
    if stuck:
        assert transition is Transition.AVAILABILITY
        assert wanted_ones
        assert all(one.phase is Phase.FAILED for one in wanted_ones)


# Files


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def newest(tree: Path) -> float:
    """When the youngest inode in the tree changed."""
    return max(path.stat().st_ctime for path in (tree, *tree.rglob("*")))


def test_a_tree_settles_when_nothing_in_it_changed_for_a_while(tmp_path: Path) -> None:
    tree = tmp_path / "1"
    (tree / "variables").mkdir(parents=True)
    file = tree / "variables" / "data"
    file.write_bytes(b"x")
    clock = Clock()
    settling = Settling(0.3, clock, lambda: newest(tree))  # by the wall clock everything is brand-new for ever
    assert settling.settled(tree) is None
    for change in (
        lambda: file.write_bytes(b"xy"),
        lambda: (tree / "more").touch(),
        lambda: os.utime(file, (1, 1)),
        lambda: shutil.rmtree(tree / "variables"),
    ):
        clock.now += 0.29
        assert settling.settled(tree) is None
        change()
        assert settling.settled(tree) is None
    clock.now += 0.31
    assert settling.settled(tree) is not None


def test_a_tree_of_old_files_has_settled_at_once_even_if_it_was_moved_just_now(tmp_path: Path) -> None:
    staged = tmp_path / "staged"
    staged.mkdir()
    (staged / "model").write_bytes(b"x")
    made = (staged / "model").stat().st_ctime
    while staged.stat().st_ctime < made + 0.02:
        os.utime(staged, (1, 1))
    tree = staged.rename(tmp_path / "1")
    assert Settling(0.3, Clock(), lambda: made + 0.31).settled(tree) is not None
    assert Settling(0.3, Clock(), lambda: made + 0.29).settled(tree) is None


def test_a_copy_with_the_dates_of_its_original_is_not_taken_for_old(tmp_path: Path) -> None:
    tree = tmp_path / "1"
    tree.mkdir()
    (tree / "model").write_bytes(b"x")
    for path in (tree / "model", tree):
        os.utime(path, (1, 1))
    assert Settling(0.3, Clock(), lambda: newest(tree) + 0.1).settled(tree) is None


def test_what_is_not_there_has_not_settled_and_links_in_circles_end(tmp_path: Path) -> None:
    settling = Settling(0.0)
    assert settling.settled(tmp_path / "missing") is None
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "again").symlink_to(tmp_path / "1")
    assert settling.settled(tmp_path / "1") is not None


class Shelf:
    """Places with one model, in its highest version."""

    def __init__(self, *versions: Path) -> None:
        self._versions = {int(path.name): Found("m", int(path.name), path) for path in versions}

    def look(self) -> dict[str, Place]:
        return {"m": (Latest(), self._versions)}


def test_a_young_version_holds_up_the_others_for_a_moment_and_one_that_is_being_written_does_not(
    tmp_path: Path,
) -> None:
    versions = tmp_path / "1", tmp_path / "2"
    for version in versions:
        version.mkdir()
    (versions[1] / "model").touch()
    clock = Clock()
    source = Source(Shelf(*versions), Settling(0.3, clock, lambda: newest(tmp_path)))

    def seen() -> list[int] | None:
        models = source.look(()).models
        return [finished.found.version for finished in models["m"]] if "m" in models else None

    assert seen() is None
    clock.now += 0.2
    (versions[1] / "model").write_text("more")
    assert seen() is None  # now it is known to be written to, but the first one has not been looked at before
    clock.now += 0.2
    (versions[1] / "model").write_text("still more")
    seen()
    clock.now += 0.2
    (versions[1] / "model").write_text("and more")
    assert seen() == [1]
    clock.now += 0.31
    assert seen() == [2]


def test_the_interpreter_changes_hands_quickly_until_the_last_of_several_loads_is_done() -> None:
    usual = sys.getswitchinterval()
    first, second = small_bites(), small_bites()
    with ExitStack() as outlasting:
        with first:
            assert sys.getswitchinterval() == pytest.approx(BITE)
            outlasting.enter_context(second)
        assert sys.getswitchinterval() == pytest.approx(BITE)
    assert sys.getswitchinterval() == pytest.approx(usual)


def test_links_that_lead_in_circles_lead_nowhere(tmp_path: Path) -> None:
    tree = tmp_path / "1"
    (tree / "variables").mkdir(parents=True)
    (tree / "saved_model.pb").write_bytes(b"")
    for number in range(20):  # followed to any depth, these are more paths than there are atoms
        (tree / f"again{number}").symlink_to(".")
        (tree / "variables" / f"up{number}").symlink_to("..")
    assert len(fingerprint(tree)) == 3 + 20 + 20
    assert fingerprint(tree) == fingerprint(tree)
    before = fingerprint(tree)
    (tree / "variables" / "more").write_bytes(b"")
    assert fingerprint(tree) != before


def test_a_link_to_a_whole_disk_is_not_followed_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert LARGEST >= 10_000
    monkeypatch.setattr(settling, "LARGEST", 10)
    for number in range(30):
        (tmp_path / str(number)).write_bytes(b"")
    assert len(fingerprint(tmp_path)) == 10

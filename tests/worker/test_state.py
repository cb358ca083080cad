"""What a worker says of itself follows its models."""

from __future__ import annotations

import pytest

from muster.errors import Loading
from muster.values import Worker
from tests.worker.servables import image_servable
from worker.models.catalogue import Catalogue
from worker.models.servable import Array
from worker.state import State

WORKER = Worker("worker-1", "127.0.0.1", 8501)


async def test_a_worker_names_the_versions_that_are_available_at_the_moment() -> None:
    catalogue = Catalogue()
    state = State(WORKER, catalogue)
    told: list[tuple[tuple[str, int], ...]] = []
    catalogue.on_change(lambda: told.append(state.worker.versions))
    assert state.worker.models == (), "it says that it has none yet, not that it does not say"
    first = image_servable("digits", _same, version=1)
    catalogue.publish(first)
    catalogue.publish(image_servable("digits", _same, version=2))
    catalogue.publish(image_servable("cats", _same, version=7))
    await catalogue.retire(first)
    assert state.worker.models == ("cats", "digits")
    assert told == [
        (("digits", 1),),
        (("digits", 1), ("digits", 2)),
        (("cats", 7), ("digits", 1), ("digits", 2)),
        (("cats", 7), ("digits", 2)),
    ], "whoever hears of a change finds the worker up to date"
    assert (state.worker.id, state.worker.address) == (WORKER.id, WORKER.address)


async def test_a_worker_without_a_model_is_not_ready() -> None:
    catalogue = Catalogue()
    state = State(WORKER, catalogue)
    state.started()
    digits = image_servable("digits", _same)
    catalogue.publish(digits)
    state.check_ready()
    await catalogue.retire(digits)
    assert state.worker.empty
    with pytest.raises(Loading, match="no model"):
        state.check_ready()


def _same(batch: Array) -> Array:
    return batch

"""Who is served first when callers give up: work for somebody who has gone is work for nobody."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.worker.test_batching import Mill, start, until
from worker.batching import Batcher
from worker.patience import Patience
from worker.runners import Runners


@pytest.fixture
async def runners() -> AsyncIterator[Runners]:
    one = Runners(1)
    yield one
    one.close()


async def give_up(batcher: Batcher[int, int], count: int) -> None:
    tasks = start(batcher, *[0] * count)
    await until(lambda: batcher.waiting >= count)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


async def test_as_long_as_most_callers_wait_they_are_served_in_order(runners: Runners) -> None:
    mill = Mill()
    batcher = Batcher(mill, runners)
    with mill.held():
        tasks = start(batcher, 1)
        await mill.a_call_began()
        await give_up(batcher, 10)
        tasks += start(batcher, 2, 3, 4)
        await until(lambda: batcher.waiting == 3)
    await asyncio.gather(*tasks)
    assert mill.batches == [[1], [2], [3], [4]]


async def test_when_callers_give_up_the_newest_are_served_first_until_they_wait_again(runners: Runners) -> None:
    mill = Mill()
    batcher = Batcher(mill, runners)
    with mill.held():
        tasks = start(batcher, 1)
        await mill.a_call_began()
        await give_up(batcher, 16)
        tasks += start(batcher, *range(2, 30))
        await until(lambda: batcher.waiting == 28)
    await asyncio.gather(*tasks)
    order = [batch[0] for batch in mill.batches]
    assert order == [1, *range(29, 14, -1), *range(2, 15)]


async def test_deadlines_that_pass_count_as_giving_up(runners: Runners) -> None:
    mill = Mill()
    batcher = Batcher(mill, runners)
    with mill.held():
        tasks = start(batcher, 1)
        await mill.a_call_began()
        soon = asyncio.get_running_loop().time() + 0.01
        late = await asyncio.gather(
            *(batcher.submit(0, deadline=soon) for _ in range(16)), return_exceptions=True
        )  # fmt: skip
        assert len(late) == 16
        tasks += start(batcher, 2, 3)
        await until(lambda: batcher.waiting == 2)
    await asyncio.gather(*tasks)
    assert mill.batches == [[1], [3], [2]]


@given(st.lists(st.booleans(), max_size=200))
def test_it_takes_many_who_give_up_and_is_forgotten_when_all_are_served(lost: list[bool]) -> None:
    patience = Patience()
    for one in lost:
        patience.lost() if one else patience.served()
        assert not patience.newest_first or sum(lost) >= 16
    for _ in range(64):
        patience.served()
    assert not patience.newest_first

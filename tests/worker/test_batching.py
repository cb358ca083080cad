"""The batcher: nothing waits without need, nobody pays for his neighbour, nobody is forgotten."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muster.errors import Draining, Overloaded
from worker.batching import Batcher, Ran
from worker.runners import Line, Runners, Turns
from worker.status import Code, StatusError

PATIENCE = 10.0


class Mill:
    """A call that records its batches and can be held up."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.started = threading.Semaphore(0)
        self._open = threading.Event()
        self._open.set()

    def __call__(self, items: Sequence[int]) -> list[int]:
        self.batches.append(list(items))
        self.started.release()
        assert self._open.wait(PATIENCE)
        if any(item < 0 for item in items):
            raise ValueError(f"bad: {[item for item in items if item < 0]}")
        return [item * 10 for item in items]

    @contextmanager
    def held(self) -> Iterator[None]:
        """Calls that begin in the block end after it."""
        self._open.clear()
        try:
            yield
        finally:
            self._open.set()

    async def a_call_began(self) -> None:
        assert await asyncio.to_thread(self.started.acquire, timeout=PATIENCE)


@pytest.fixture
def mill() -> Mill:
    return Mill()


@pytest.fixture
async def runners() -> AsyncIterator[Runners]:
    one = Runners(1)
    yield one
    one.close()


def start(batcher: Batcher[int, int], *items: int) -> list[asyncio.Task[Ran[int]]]:
    return [asyncio.create_task(batcher.submit(item)) for item in items]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110  # plain state, which sets no event
            await asyncio.sleep(0)


async def test_a_single_item_runs_at_once_and_alone(mill: Mill, runners: Runners) -> None:
    batcher = Batcher(mill, runners, size=8)
    ran = await batcher.submit(1)
    assert (ran.result, ran.batch, mill.batches) == (10, 1, [[1]])
    assert ran.waited < 1 > ran.took


async def test_an_answered_item_is_not_kept_until_its_deadline(runners: Runners) -> None:
    class Image:
        """Something large."""

    batcher: Batcher[Image, int] = Batcher(lambda items: [1] * len(items), runners)
    image = Image()
    kept = weakref.ref(image)
    await batcher.submit(image, deadline=asyncio.get_running_loop().time() + 3600)
    del image
    gc.collect()
    assert kept() is None


async def test_what_queues_up_while_the_runner_is_busy_becomes_one_batch_in_order(mill: Mill, runners: Runners) -> None:
    batcher = Batcher(mill, runners, size=3)
    with mill.held():
        tasks = start(batcher, 1)
        await mill.a_call_began()
        tasks += start(batcher, 2, 3, 4, 5, 6)
        await until(lambda: batcher.waiting == 5)
    assert [(await task).result for task in tasks] == [10, 20, 30, 40, 50, 60]
    assert mill.batches == [[1], [2, 3, 4], [5, 6]]


async def test_two_runners_work_at_the_same_time(mill: Mill) -> None:
    two = Runners(2)
    batcher = Batcher(mill, two, size=8)
    with mill.held():
        tasks = start(batcher, 1, 2)
        await mill.a_call_began()
        await mill.a_call_began()
    await asyncio.gather(*tasks)
    assert sorted(mill.batches) == [[1], [2]]
    two.close()


async def test_batchers_with_work_take_turns_at_the_runners(runners: Runners) -> None:
    order: list[str] = []
    busy, other, mill = (Batcher(_noting(order, name), runners, size=1) for name in ("busy", "other", "mill"))
    tasks = [*start(busy, 1, 2, 3), *start(other, 1), *start(mill, 1)]
    await asyncio.gather(*tasks)
    assert order == ["busy", "busy", "other", "mill", "busy"]


def _noting(order: list[str], name: str) -> Callable[[Sequence[int]], list[int]]:
    def call(items: Sequence[int]) -> list[int]:
        order.append(name)
        return list(items)

    return call


async def test_a_bad_item_fails_alone_and_its_neighbours_are_answered(mill: Mill, runners: Runners) -> None:
    batcher = Batcher(mill, runners, size=8)
    with mill.held():
        tasks = start(batcher, 1)
        await mill.a_call_began()
        tasks += start(batcher, 2, -3, 4)
        await until(lambda: batcher.waiting == 3)
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert [outcome.result if isinstance(outcome, Ran) else str(outcome) for outcome in outcomes] == [
        10, 20, "bad: [-3]", 40,
    ]  # fmt: skip


async def crowd(mill: Mill, batcher: Batcher[int, int], *items: int) -> list[Ran[int] | BaseException]:
    """The outcomes of `items`, which all queued up while the only runner was busy."""
    with mill.held():
        first = start(batcher, 1)
        await mill.a_call_began()
        tasks = start(batcher, *items)
        await until(lambda: batcher.waiting == len(items))
    await asyncio.gather(*first)
    return await asyncio.gather(*tasks, return_exceptions=True)


async def test_one_bad_item_costs_a_few_calls_and_not_one_for_each_neighbour(mill: Mill, runners: Runners) -> None:
    batcher = Batcher(mill, runners, size=64)
    outcomes = await crowd(mill, batcher, *range(2, 33), -1, *range(2, 34))
    assert sum(isinstance(outcome, Ran) for outcome in outcomes) == 63
    assert len(mill.batches) - 1 <= 2 * 6 + 1
    assert sum(map(len, mill.batches)) - 1 <= 3 * 64


async def test_after_a_failure_batches_are_small_until_some_went_well(mill: Mill, runners: Runners) -> None:
    batcher = Batcher(mill, runners, size=8)
    await crowd(mill, batcher, 2, 3, 4, 5, 6, 7, 8, -1)
    mill.batches.clear()
    await crowd(mill, batcher, *range(2, 18))
    assert [len(batch) for batch in mill.batches] == [1, 4, 4, 8]


async def test_somebody_who_sends_only_bad_items_costs_hardly_more_than_a_call_for_each(
    mill: Mill, runners: Runners
) -> None:
    batcher = Batcher(mill, runners, size=8)
    await crowd(mill, batcher, *[-1] * 80)
    assert len(mill.batches) - 1 <= 80 + 16


async def test_only_items_of_one_kind_share_a_call(mill: Mill, runners: Runners) -> None:
    batcher = Batcher(mill, runners, size=8)
    with mill.held():
        tasks = start(batcher, 1)
        await mill.a_call_began()
        tasks += [asyncio.create_task(batcher.submit(item, kind=item % 2)) for item in (2, 3, 4, 5)]
        await until(lambda: batcher.waiting == 4)
    assert [(await task).result for task in tasks] == [10, 20, 30, 40, 50]
    assert mill.batches == [[1], [2, 4], [3, 5]]


async def test_a_call_holds_as_many_rows_as_fit_and_says_how_many(mill: Mill, runners: Runners) -> None:
    batcher = Batcher(mill, runners, size=8, padded=lambda rows: 8)
    with mill.held():
        tasks = start(batcher, 1)
        await mill.a_call_began()
        tasks += [asyncio.create_task(batcher.submit(item, rows=3)) for item in (2, 3, 4)]
        await until(lambda: batcher.waiting == 3)
    ran = [await task for task in tasks]
    assert mill.batches == [[1], [2, 3], [4]]
    assert [(one.batch, one.padding) for one in ran] == [(1, 7), (6, 2), (6, 2), (3, 5)]


async def test_what_comes_together_is_admitted_together_or_not_at_all(mill: Mill, runners: Runners) -> None:
    batcher = Batcher(mill, runners, size=2, backlog=2)
    with mill.held():
        tasks = start(batcher, 1)
        await mill.a_call_began()
        together = asyncio.create_task(batcher.submit_all([(2, 2), (3, 1)]))
        await until(lambda: batcher.waiting == 2)
        with pytest.raises(Overloaded, match="is full"):
            await batcher.submit_all([(4, 1), (5, 1)])
        assert batcher.waiting == 2
    assert [ran.result for ran in await together] == [20, 30]
    await asyncio.gather(*tasks)


async def test_a_deadline_that_passes_in_the_queue_costs_no_call(mill: Mill, runners: Runners) -> None:
    batcher = Batcher(mill, runners)
    with mill.held():
        tasks = start(batcher, 1)
        await mill.a_call_began()
        with pytest.raises(StatusError, match="waiting in batching queue") as caught:
            await batcher.submit(2, deadline=asyncio.get_running_loop().time() + 0.01)
    assert caught.value.canonical is Code.RESOURCE_EXHAUSTED
    await asyncio.gather(*tasks)
    assert (await batcher.submit(3)).result == 30
    assert mill.batches == [[1], [3]]


async def test_a_deadline_that_is_over_is_told_without_any_work(mill: Mill, runners: Runners) -> None:
    batcher = Batcher(mill, runners)
    with pytest.raises(StatusError, match="waiting in batching queue"):
        await batcher.submit(1, deadline=asyncio.get_running_loop().time())
    assert mill.batches == []


async def test_a_deadline_that_passes_in_a_call_is_told_while_the_call_goes_on(mill: Mill, runners: Runners) -> None:
    batcher = Batcher(mill, runners)
    with mill.held():
        with pytest.raises(StatusError, match="Timed out waiting for notification") as caught:
            await batcher.submit(1, deadline=asyncio.get_running_loop().time() + 0.01)
        assert caught.value.canonical is Code.DEADLINE_EXCEEDED
        assert mill.batches == [[1]]
    assert (await batcher.submit(2)).result == 20


async def test_idle_is_when_the_calls_of_those_who_left_are_over_too(mill: Mill, runners: Runners) -> None:
    batcher = Batcher(mill, runners)
    with mill.held():
        (gone,) = start(batcher, 1)
        await mill.a_call_began()
        gone.cancel()
        await asyncio.wait([gone])
        idle = asyncio.create_task(batcher.idle())
        await asyncio.sleep(0)
        assert not idle.done()
    async with asyncio.timeout(PATIENCE):
        await idle
    assert not batcher.busy


async def test_a_call_that_wants_to_end_the_process_is_an_error_of_its_caller(runners: Runners) -> None:
    def leave(items: Sequence[int]) -> list[int]:
        raise SystemExit(3)

    batcher = Batcher(leave, runners)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="SystemExit"):
            await batcher.submit(1)


async def test_who_has_many_queues_gets_no_more_turns_than_who_has_one(runners: Runners) -> None:
    order: list[str] = []

    class Family(Turns):
        def offer(self, line: Line) -> None:
            self.add(line)
            runners.offer(self)

    large, small = Family(), Family()
    cousins = [Batcher(_noting(order, "large"), large) for _ in range(4)]
    child = Batcher(_noting(order, "small"), small)
    await asyncio.gather(*[task for cousin in cousins for task in start(cousin, 1)], *start(child, 1, 2))
    assert order == ["large", "large", "small", "large", "small", "large"]


async def test_a_full_queue_refuses_at_once_and_says_how_long_it_is(mill: Mill, runners: Runners) -> None:
    batcher = Batcher(mill, runners, size=1, backlog=2)
    with mill.held():
        tasks = start(batcher, 1)
        await mill.a_call_began()
        tasks += start(batcher, 2, 3)
        await until(lambda: batcher.waiting == 2)
        with pytest.raises(Overloaded, match="is full; currently 2 batches enqueued") as caught:
            await batcher.submit(4)
    assert caught.value.details == {"queue": 2}
    assert caught.value.headers() == {"Retry-After": "1"}
    await asyncio.gather(*tasks)


async def test_an_item_whose_caller_has_gone_costs_no_call_and_no_place(mill: Mill, runners: Runners) -> None:
    batcher = Batcher(mill, runners, size=1, backlog=2)
    with mill.held():
        tasks = start(batcher, 1)
        await mill.a_call_began()
        gone, stays = start(batcher, 2, 3)
        await until(lambda: batcher.waiting == 2)
        gone.cancel()
        await asyncio.wait([gone])
        late = asyncio.create_task(batcher.submit(4))
        await until(lambda: batcher.waiting == 2)
    await asyncio.gather(*tasks, stays, late)
    assert mill.batches == [[1], [3], [4]]


async def test_a_caller_who_goes_while_his_item_runs_disturbs_nobody(mill: Mill, runners: Runners) -> None:
    batcher = Batcher(mill, runners, size=8)
    with mill.held():
        (gone,) = start(batcher, 1)
        await mill.a_call_began()
        gone.cancel()
        await asyncio.wait([gone])
    assert (await batcher.submit(2)).result == 20


async def test_a_wait_that_was_asked_for_ends_when_the_batch_is_full(mill: Mill, runners: Runners) -> None:
    batcher = Batcher(mill, runners, size=2, wait=3600.0)
    tasks = start(batcher, 1, 2)
    async with asyncio.timeout(PATIENCE):
        await asyncio.gather(*tasks)
    assert mill.batches == [[1, 2]]


async def test_a_wait_that_was_asked_for_ends_when_it_is_over(mill: Mill, runners: Runners) -> None:
    batcher = Batcher(mill, runners, size=8, wait=0.05)
    async with asyncio.timeout(PATIENCE):
        ran = await asyncio.gather(*start(batcher, 1, 2))
    assert mill.batches == [[1, 2]]
    assert ran[0].waited >= 0.04


async def test_closing_refuses_what_waits_and_what_comes_and_lets_the_running_finish(
    mill: Mill, runners: Runners
) -> None:
    batcher = Batcher(mill, runners, size=1)
    with mill.held():
        running = start(batcher, 1)[0]
        await mill.a_call_began()
        waiting = start(batcher, 2)[0]
        await until(lambda: batcher.waiting == 1)
        batcher.close()
        with pytest.raises(Draining):
            await waiting
        with pytest.raises(Draining):
            await batcher.submit(3)
    assert (await running).result == 10


async def test_a_call_that_loses_an_answer_is_an_error_and_no_one_waits_for_ever(runners: Runners) -> None:
    batcher: Batcher[int, int] = Batcher(lambda items: [], runners, size=8)
    with pytest.raises(RuntimeError, match="1 items went in and 0 results came out"):
        await batcher.submit(1)


@settings(max_examples=60, deadline=None)
@given(
    items=st.lists(st.integers(-2, 9), max_size=40),
    size=st.integers(1, 5),
    threads=st.integers(1, 3),
    cancelled=st.sets(st.integers(0, 39)),
    wait=st.sampled_from([0.0, 0.003]),
)
def test_everybody_gets_exactly_his_own_outcome(
    items: list[int], size: int, threads: int, cancelled: set[int], wait: float
) -> None:
    async def play() -> None:
        mill, several = Mill(), Runners(threads)
        batcher = Batcher(mill, several, size=size, wait=wait)
        tasks = start(batcher, *items)
        await asyncio.sleep(0)
        for index in cancelled:
            if index < len(tasks):
                tasks[index].cancel()
        async with asyncio.timeout(PATIENCE):
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        for index, (item, outcome) in enumerate(zip(items, outcomes, strict=True)):
            if isinstance(outcome, asyncio.CancelledError):
                assert index in cancelled
            elif item < 0:
                assert str(outcome) == f"bad: [{item}]"
            else:
                assert isinstance(outcome, Ran)
                assert outcome.result == item * 10
        assert all(1 <= len(batch) <= size for batch in mill.batches)
        assert batcher.waiting == 0
        several.close()

    asyncio.run(play())

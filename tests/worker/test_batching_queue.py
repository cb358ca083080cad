"""The queue alone: order, size and backlog hold, whoever comes, leaves or is taken."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from worker.batching_queue import Queue

SIZE, BACKLOG, WAIT = 4, 3, 10.0


@dataclass(eq=False)
class Waiter:
    number: int
    rows: int = 1
    kind: str = ""
    since: float = 0.0


class AnyLife(RuleBasedStateMachine):
    """Whatever happens to a queue, beside a plain list of who waits."""

    def __init__(self) -> None:
        super().__init__()
        self.queue: Queue[Waiter] = Queue(SIZE, BACKLOG, WAIT)
        self.waiting: list[Waiter] = []
        self.now = 0.0
        self.count = 0

    @rule(rows=st.integers(0, SIZE), kind=st.sampled_from("ab"))
    def come(self, rows: int, kind: str) -> None:
        if not self.queue.fits([rows], kind):
            assert self.queue.batches == BACKLOG
            return
        self.count += 1
        waiter = Waiter(self.count, rows, kind, self.now)
        self.queue.put(waiter)
        self.waiting.append(waiter)

    @rule(sizes=st.lists(st.integers(1, SIZE), min_size=1, max_size=4), kind=st.sampled_from("ab"))
    def come_together(self, sizes: list[int], kind: str) -> None:
        if self.queue.fits(sizes, kind):
            for rows in sizes:
                self.count += 1
                self.waiting.append(Waiter(self.count, rows, kind, self.now))
                self.queue.put(self.waiting[-1])

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        waiter = self.waiting.pop(data.draw(st.integers(0, len(self.waiting) - 1)))
        assert self.queue.leave(waiter)
        assert not self.queue.leave(waiter)

    @rule(seconds=st.floats(0, 20))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(most=st.integers(1, 9), newest=st.booleans())
    def take(self, most: int, newest: bool) -> None:
        due = self.queue.due(self.now)
        taken = self.queue.take(self.now, most, newest=newest)
        assert bool(taken) == due
        if not taken:
            assert all(self.now - waiter.since < WAIT for waiter in self.waiting)
            return
        assert len(taken) <= most
        assert sum(max(waiter.rows, 1) for waiter in taken) <= SIZE
        assert len({waiter.kind for waiter in taken}) == 1
        same_kind = [waiter for waiter in self.waiting if waiter.kind == taken[0].kind]
        start = same_kind.index(taken[0])
        assert newest or start == 0
        assert taken == same_kind[start : start + len(taken)]
        self.waiting = [waiter for waiter in self.waiting if waiter not in taken]

    @invariant()
    def everybody_is_there_and_nothing_is_too_long(self) -> None:
        assert len(self.queue) == len(self.waiting)
        assert all(waiter in self.queue for waiter in self.waiting)
        assert self.queue.batches <= BACKLOG
        assert bool(self.queue.batches) == bool(self.waiting)
        if self.queue.full:
            assert not self.queue.fits([0], "a")
            assert not self.queue.fits([0], "c")


TestAnyLife = AnyLife.TestCase
TestAnyLife.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)


@given(st.lists(st.integers(0, SIZE), max_size=20))
def test_without_a_wait_everybody_is_due_at_once_and_leaves_in_order(sizes: list[int]) -> None:
    queue: Queue[Waiter] = Queue(SIZE)
    waiters = [Waiter(number, rows) for number, rows in enumerate(sizes)]
    for waiter in waiters:
        queue.put(waiter)
    taken = []
    while batch := queue.take(0.0, 99):
        taken += batch
    assert taken == waiters


def test_a_batch_closes_for_one_that_does_not_fit_and_is_due_then() -> None:
    queue: Queue[Waiter] = Queue(SIZE, wait=WAIT)
    first, second = Waiter(1, 3), Waiter(2, 2)
    queue.put(first)
    assert not queue.due(0.0)
    queue.put(second)
    assert queue.take(0.0, 99) == [first]
    assert queue.take(0.0, 99) == []
    assert queue.take(WAIT, 99) == [second]


def test_a_full_batch_of_one_kind_does_not_wait_behind_an_open_one_of_another() -> None:
    queue: Queue[Waiter] = Queue(2, wait=WAIT)
    queue.put(Waiter(1, 1, "a"))
    full = Waiter(2, 2, "b")
    queue.put(full)
    assert queue.take(0.0, 99) == [full]


def test_who_leaves_makes_room() -> None:
    queue: Queue[Waiter] = Queue(1, backlog=1)
    waiter = Waiter(1)
    queue.put(waiter)
    assert queue.full
    queue.leave(waiter)
    assert queue.fits([1], "")

"""Loops that neither spin nor storm."""

from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from discovery.pacing import Backoff, TokenBucket


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_loop_that_never_blocks_is_held_to_its_rate() -> None:
    clock = Clock()
    bucket = TokenBucket(clock, burst=2, rate=5)
    for _ in range(52):
        clock.now += bucket.take()
    assert clock.now == 10


def test_two_quick_answers_in_a_row_cost_nothing_after_a_pause() -> None:
    clock = Clock()
    bucket = TokenBucket(clock, burst=2, rate=5)
    for _ in range(10):
        clock.now += bucket.take()
    clock.now += 10
    assert [bucket.take(), bucket.take()] == [0, 0]
    assert bucket.take() > 0


@given(st.integers())
def test_failures_are_followed_by_ever_longer_waits_but_a_registry_that_is_back_is_heard_within_a_second(
    seed: int,
) -> None:
    backoff = Backoff(Random(seed))
    waits = [backoff.next() for _ in range(50)]
    assert all(0.1 <= wait <= 0.8 for wait in waits)
    assert waits[0] == 0.1
    assert min(waits[7:]) >= 0.4
    backoff.reset()
    assert backoff.next() == 0.1


def test_two_watchers_of_one_registry_do_not_come_back_in_step() -> None:
    one, other = Backoff(Random(1)), Backoff(Random(2))
    assert [one.next() for _ in range(5)] != [other.next() for _ in range(5)]

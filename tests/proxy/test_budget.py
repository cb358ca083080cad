"""How much may be sent again."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from proxy.budget import RESERVE, WINDOW, RetryBudget


def granted(budget: RetryBudget, wanted: int) -> int:
    return sum(budget.take() for _ in range(wanted))


def test_something_may_be_sent_again_without_any_traffic_before() -> None:
    budget = RetryBudget(0.2)
    assert granted(budget, RESERVE) == RESERVE >= 100
    assert not budget.take()
    assert budget.refused == 1


def test_a_fifth_of_the_requests_of_the_last_seconds_may_be_sent_again() -> None:
    budget = RetryBudget(0.2)
    budget.requests += 5000
    assert granted(budget, 5000) == 1000
    assert budget.left == 0


def test_what_happened_longer_ago_than_the_window_is_forgotten() -> None:
    budget = RetryBudget(0.2)
    budget.requests += 5000
    granted(budget, 5000)
    for _ in range(WINDOW - 1):
        budget.turn()
        assert not budget.take()
    budget.turn()
    assert budget.left == RESERVE


def test_in_a_long_storm_the_reserve_comes_once_and_not_with_each_window() -> None:
    budget = RetryBudget(0.2)
    for _ in range(60):
        for _ in range(200):
            budget.requests += 1
            budget.take()
        budget.turn()
        assert budget.spent <= max(RESERVE, 0.2 * budget.requests)
    assert budget.spent > 0.19 * budget.requests


def test_nothing_is_sent_again_without_a_budget() -> None:
    budget = RetryBudget(0.0)
    budget.requests += 5000
    assert granted(budget, 10) == 0


def test_what_a_dead_worker_held_may_be_sent_again_besides_and_soon_or_never() -> None:
    budget = RetryBudget(0.2)
    granted(budget, RESERVE)
    budget.grant(300)
    assert granted(budget, 500) == 300
    budget.grant(300)
    for _ in range(WINDOW):
        budget.turn()
    assert budget.left == RESERVE


def test_who_has_not_failed_leaves_half_of_it_to_those_who_do() -> None:
    budget = RetryBudget(0.2)
    budget.requests += 5000
    assert sum(budget.take(spare=True) for _ in range(5000)) == 500
    assert budget.refused == 0  # nobody lost anything
    assert granted(budget, 5000) == 500
    assert not RetryBudget(0.0).take(spare=True)


def test_no_death_grants_anything_where_nothing_is_to_be_sent_again() -> None:
    budget = RetryBudget(0.0)
    budget.grant(300)
    assert granted(budget, 10) == 0


@given(st.lists(st.tuples(st.integers(0, 2000), st.sampled_from([0, 1, 150, 500]), st.integers(0, 300)), max_size=30))
def test_what_is_allowed_is_a_fifth_or_the_reserve_and_what_the_dead_held(seconds: list[tuple[int, int, int]]) -> None:
    budget = RetryBudget(0.2)
    history = []
    for requests, failures, held in seconds:
        budget.requests += requests
        budget.grant(held)
        again = granted(budget, failures)
        history.append((requests, again, held))
        came, sent, granted_ = (sum(column) for column in zip(*history[-WINDOW:], strict=True))
        assert not again or sent <= max(RESERVE, 0.2 * came) + granted_
        budget.turn()

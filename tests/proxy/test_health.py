"""What the requests that went to a worker say about it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.health import CALM, LEAST_SHARE, WINDOW, Health, Outcome, Policy, Rest, shares_by_latency

POLICY = Policy(Rest(first=1.0, longest=8.0), errors=5, rate=0.5, least=20, slow_start=10.0)


def rest(health: Health, now: float, *, reachable: bool = False) -> float:
    pause = POLICY.rest.after(health.next_rest(now))
    health.rest("why", now, pause, reachable=reachable)
    return pause


def test_five_errors_in_a_row_are_enough() -> None:
    health = Health()
    assert [health.erred(POLICY, 100.0) for _ in range(5)] == [None, None, None, None, "errors"]


def test_a_success_in_between_begins_the_row_anew() -> None:
    health = Health()
    for _ in range(4):
        health.erred(POLICY, 100.0)
    health.answered(0.01)
    assert not health.clear
    assert not health.vindicated(0.01, 100.0)
    assert health.clear
    assert health.erred(POLICY, 100.0) is None


def test_half_of_the_answers_are_too_many_errors_but_only_among_enough() -> None:
    health = Health()
    verdicts = []
    for _ in range(10):
        health.answered(0.01)
        health.vindicated(0.01, 100.0)
        verdicts.append(health.erred(POLICY, 100.0))
    assert verdicts == [None] * 9 + ["error rate"]


def test_errors_are_forgotten_when_they_leave_the_window() -> None:
    health = Health()
    for _ in range(30):
        health.answered(0.01)
        health.erred(POLICY, 100.0)
        health.vindicated(0.01, 100.0)
    for second in range(WINDOW + 1):
        assert (health.window()[1] == 0) == (second > WINDOW), second
        health.turn()
    assert health.window() == (0, 0, 0)


def test_a_turn_that_comes_late_moves_the_window_by_all_the_seconds_since() -> None:
    health = Health()
    health.erred(POLICY, 100.0)
    health.turn(WINDOW + 1)
    assert health.window() == (0, 0, 0)


def test_rests_double_up_to_the_longest_and_calm_makes_up_for_them() -> None:
    health, now, lengths = Health(), 100.0, []
    for _ in range(5):
        lengths.append(rest(health, now))
        now = health.rest_until
    assert lengths == [1, 2, 4, 8, 8]
    assert rest(health, now + 2 * CALM) == 8  # the sixth less two is the fourth
    assert rest(health, health.rest_until + 100 * CALM) == 1


def test_to_be_back_begins_the_row_of_errors_anew() -> None:
    health = Health()
    for _ in range(5):
        health.erred(POLICY, 100.0)
    rest(health, 100.0, reachable=True)
    health.come_back(100.5)
    assert [health.erred(POLICY, 101.0) for _ in range(5)] == [None, None, None, None, "errors"]


def test_to_be_back_early_is_no_calm() -> None:
    health, now, lengths = Health(), 100.0, []
    for _ in range(3):
        lengths.append(rest(health, now))
        health.come_back(now + 0.1)
        now += 0.2
    assert lengths == [1, 2, 4]


@pytest.mark.parametrize("turns", [0, 1])
def test_on_its_return_it_is_judged_by_what_it_does_then(turns: int) -> None:
    health = Health()
    for _ in range(20):
        health.answered(0.01)
        health.vindicated(0.01, 100.0)
        verdict = health.erred(POLICY, 100.0)
    assert verdict == "error rate"
    for _ in range(turns):
        health.turn()
    rest(health, 101.0, reachable=True)
    health.answered(0.01)
    health.vindicated(0.01, 102.0)
    assert health.erred(POLICY, 102.0) is None


def test_a_failure_while_it_rests_makes_it_rest_on_but_counts_for_no_other_rest() -> None:
    health = Health()
    rest(health, 100.0)
    for now in (100.5, 101.0, 101.5):
        assert rest(health, now) == 1
        assert health.rest_until == now + 1
    assert rest(health, 102.5) == 2


def test_chance_makes_a_rest_longer_by_a_part_at_most() -> None:
    lengths = [Rest(2.0, 30.0, jitter=0.2).after(1, chance) for chance in (0.0, 0.5, 1.0)]
    assert lengths == [2.0, pytest.approx(2.2), pytest.approx(2.4)]


def test_a_success_from_before_the_rest_does_not_end_it() -> None:
    health = Health()
    rest(health, 100.0)
    assert not health.vindicated(1.0, 100.5)  # asked at 99.5
    assert not health.vindicated(None, 100.5)
    assert health.rest_until == 101.0
    assert health.vindicated(0.3, 100.5)
    assert health.rest_until == 0.0


def test_one_death_that_ends_many_requests_is_one_failure_however_late_they_notice() -> None:
    health = Health()
    assert health.failed(3.0, 100.0)
    rest(health, 100.0)
    assert not health.failed(2.0, 100.1)  # asked at 98.1
    assert not health.failed(30.0, 120.0)  # asked at 90, and notices long after the rest
    assert health.failed(0.1, 100.2)  # as the last resort, after the rest began
    assert health.failed(0.1, 120.0)


def test_who_rests_for_its_answers_may_still_turn_out_to_be_dead() -> None:
    health = Health()
    rest(health, 100.0, reachable=True)
    assert health.failed(None, 100.5)
    assert health.failed(2.0, 100.5)


def test_who_comes_back_gets_its_share_little_by_little() -> None:
    health = Health()
    assert health.share(POLICY, 100.0) == 1.0
    rest(health, 100.0)
    assert health.share(POLICY, 100.5) == LEAST_SHARE
    shares = [health.share(POLICY, 101.0 + second) for second in (0.0, 2.0, 5.0, 9.0, 10.0)]
    assert shares == pytest.approx([LEAST_SHARE, 0.2, 0.5, 0.9, 1.0])


def test_who_comes_back_early_gets_its_share_little_by_little_too() -> None:
    health = Health()
    rest(health, 100.0)
    health.come_back(100.2)
    assert [health.share(POLICY, now) for now in (100.2, 105.2, 110.2)] == pytest.approx([LEAST_SHARE, 0.5, 1.0])


def test_who_declines_gets_less_in_proportion_and_all_again_soon_after() -> None:
    health = Health()
    for _ in range(10):
        health.answered(0.01)
        health.declined()
    assert health.share(POLICY, 100.0) == pytest.approx(0.5)
    for _ in range(1000):
        health.declined()
    assert health.share(POLICY, 100.0) == LEAST_SHARE
    for _ in range(4):
        health.turn()
        health.answered(0.01)
    assert health.share(POLICY, 104.0) == 1.0


def test_latency_is_smoothed_and_few_requests_count_for_less() -> None:
    health = Health()
    health.answered(0.1)
    health.turn()
    assert health.latency == pytest.approx(0.1)
    for _ in range(10):
        health.answered(1.1)
    health.turn()
    assert health.latency == pytest.approx(0.4)
    health.answered(1.4)
    health.turn()
    assert health.latency == pytest.approx(0.5)
    health.turn()
    assert health.latency == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("latencies", "expected"),
    [
        ([], []),
        ([0.05], [1.0]),
        ([None, 0.05], [1.0, 1.0]),
        ([0.05, 0.01], [0.2, 1.0]),
        ([0.01, 0.05, 0.01], [1.0, 0.2, 1.0]),
        ([0.01, 0.029, 0.01], [1.0, 1.0, 1.0]),
        ([0.0001, 0.0011, 0.0001], [1.0, 1.0, 1.0]),
        ([0.05, 0.05, 0.01], [1.0, 1.0, 1.0]),
        ([0.01, None, 0.1, 0.01], [1.0, 1.0, 0.1, 1.0]),
    ],
    ids=["nobody", "alone", "not known", "of two", "five times slower", "not slow enough", "noise", "most are slow",
         "ten times slower"],
)  # fmt: skip
def test_who_is_slower_than_the_median_of_the_others_deserves_less(
    latencies: list[float | None], expected: list[float]
) -> None:
    assert shares_by_latency(latencies, 3.0) == pytest.approx(expected)


@given(st.lists(st.none() | st.floats(0.0001, 100.0), max_size=20))
def test_the_fastest_always_deserves_all(latencies: list[float | None]) -> None:
    shares = shares_by_latency(latencies, 3.0)
    assert len(shares) == len(latencies)
    assert all(0 < share <= 1 for share in shares)
    known = [latency for latency in latencies if latency is not None]
    if known:
        assert shares[latencies.index(min(known))] == 1.0


_EVENTS = st.sampled_from(["answer", "error", "decline", "death", "turn", "late"])


@given(st.lists(st.tuples(_EVENTS, st.floats(0.0, 5.0), st.floats(0.0, 10.0))))
def test_whatever_happens_a_rest_ends_and_a_share_is_a_share(events: list[tuple[str, float, float]]) -> None:
    health, now = Health(), 100.0
    for event, pause, seconds in events:
        now += pause
        match event:
            case "answer":
                health.answered(seconds)
                if not health.clear:
                    health.vindicated(seconds, now)
            case "error" if health.erred(POLICY, now):
                rest(health, now, reachable=True)
            case "decline":
                health.declined()
            case "death" if health.failed(seconds, now):
                rest(health, now)
            case "turn":
                health.turn()
            case "late":
                health.turn(100)
        assert health.rest_until <= now + POLICY.rest.longest
        assert LEAST_SHARE <= health.share(POLICY, now) <= 1.0
        assert min(health.window()) >= 0
    assert health.share(POLICY, now + 60.0) >= LEAST_SHARE
    assert {outcome for outcome in Outcome if outcome.unreachable} == {
        Outcome.REFUSED, Outcome.BROKE, Outcome.GARBAGE, Outcome.SILENT}  # fmt: skip

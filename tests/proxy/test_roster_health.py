"""Who rests, who gets less, and how they come back, as the roster decides it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.values import Snapshot, Worker
from proxy.budget import RetryBudget
from proxy.fitness import EJECTED, ONCE, PROMPT, QUIET
from proxy.health import SLOW_FOR, Outcome, Policy, Rest
from proxy.roster import Roster
from proxy.seats import Seat
from proxy.wants import ANY, Want
from tests.proxy.test_roster import Clock


class Site:
    """Workers by the models that they have, and a roster that knows them."""

    def __init__(self, has: Mapping[str, tuple[str, ...] | None], **policy: float) -> None:
        self.clock = Clock()
        self.roster = Roster(self.clock, Policy(Rest(1.0, 8.0), **policy), chance=lambda: 0.0)  # type: ignore[arg-type]
        workers = [Worker(name, "127.0.0.1", 9000 + at, models=models) for at, (name, models) in enumerate(has.items())]
        self.roster.apply(Snapshot(1, tuple(workers)))

    def seat(self, name: str) -> Seat:
        return next(seat for seat in self.roster.seats if seat.worker.id == name)

    def end(self, name: str, outcome: Outcome, times: int = 1, seconds: float = 0.01) -> None:
        """So many requests at this worker end like this."""
        seat = self.seat(name)
        for _ in range(times):
            seat.in_flight += 1
            self.roster.release(seat, outcome, seconds)

    def serve(self, requests: int, outcomes: Mapping[str, Outcome], want: Want = ANY) -> Counter[str]:
        """Send requests, one after the other; those workers answer like that, the others well. Who got how many."""
        taken: Counter[str] = Counter()
        for _ in range(requests):
            seat = self.roster.lease((), want)
            taken[seat.worker.id] += 1
            self.roster.release(seat, outcomes.get(seat.worker.id, Outcome.ANSWERED), 0.01)
        return taken

    def second(self, **latencies: float) -> None:
        """A second passes, in which each of these workers answers ten requests in so much time."""
        for name, seconds in latencies.items():
            self.end(name, Outcome.ANSWERED, 10, seconds)
        self.clock.now += 1.0
        self.roster.turn()

    def resting(self) -> str:
        return "".join(seat.worker.id for seat in self.roster.seats if self.roster.fitness.resting(seat))


def three() -> Site:
    return Site(dict.fromkeys("abc"))


@pytest.mark.parametrize("outcome", [Outcome.REFUSED, Outcome.BROKE, Outcome.GARBAGE, Outcome.SILENT])
def test_one_that_seems_dead_gets_nothing_from_that_moment_on(outcome: Outcome) -> None:
    site = three()
    site.end("a", outcome)
    assert site.serve(20, {}) == {"b": 10, "c": 10}
    assert site.roster.fitness.ejections == {outcome.name.lower(): 1}


@pytest.mark.parametrize("outcome", [Outcome.ANSWERED, Outcome.DECLINED, Outcome.CANCELLED])
def test_nobody_rests_for_good_answers_for_being_full_or_for_clients_that_left(outcome: Outcome) -> None:
    site = three()
    site.end("a", outcome, 100)
    assert site.resting() == ""


def test_one_that_only_fails_at_its_work_rests_after_five_errors() -> None:
    site = three()
    taken = site.serve(100, {"a": Outcome.ANSWERED_5XX})
    assert taken["a"] == 5
    assert site.roster.fitness.ejections == {"errors": 1}


def test_one_that_fails_half_of_the_time_rests_too() -> None:
    site = three()
    for _ in range(30):
        site.serve(3, {})
        site.serve(3, {"a": Outcome.ANSWERED_5XX})
    assert site.resting() == "a"
    assert site.roster.fitness.ejections == {"error rate": 1}


def test_never_more_than_half_rest_for_their_answers_and_the_others_get_the_least_share() -> None:
    site = three()
    for name in "ab":
        site.end(name, Outcome.ANSWERED_5XX, 5)
    taken = site.serve(210, {})
    assert taken["a"] == 0
    assert taken["b"] == 10
    assert taken["c"] == 200


def test_of_those_that_answer_badly_the_last_that_began_to_stays() -> None:
    site = three()
    for name in "ba":
        site.end(name, Outcome.ANSWERED_5XX, 5)
        site.clock.now += 0.1
    assert site.resting() == "b"
    assert site.serve(210, {})["b"] == 0


def test_who_alone_has_a_model_serves_it_however_badly() -> None:
    site = Site({"a": ("cats",), "b": ("digits",), "c": ("digits",), "d": ("digits",)})
    site.end("a", Outcome.ANSWERED_5XX, 5)
    assert site.serve(3, {}, Want("cats")) == {"a": 3}
    assert site.serve(30, {}, ANY)["a"] == 0


def test_those_that_are_dead_count_towards_the_part_that_may_be_missing() -> None:
    site = Site(dict.fromkeys("abcd"))
    site.end("a", Outcome.REFUSED)
    site.end("b", Outcome.REFUSED)
    site.end("c", Outcome.ANSWERED_5XX, 5)
    assert set(site.serve(100, {"c": Outcome.ANSWERED_5XX})) == {"c", "d"}


def test_one_that_is_asked_in_spite_of_its_answers_and_turns_out_to_be_dead_is_asked_no_more() -> None:
    site = three()
    site.end("a", Outcome.ANSWERED_5XX, 5)
    site.end("b", Outcome.ANSWERED_5XX, 5)
    assert "b" in site.serve(100, {})
    site.end("b", Outcome.REFUSED)
    assert "b" not in site.serve(100, {})


def test_all_may_be_missing_if_all_are_dead_and_then_who_is_due_first_is_asked() -> None:
    site = three()
    for name in "abc":
        site.end(name, Outcome.REFUSED)
        site.clock.now += 0.1
    assert site.roster.lease().worker.id == "a"


def test_who_answers_badly_is_a_better_last_resort_than_who_does_not_answer() -> None:
    site = Site(dict.fromkeys("ab"), max_ejected=1.0)
    site.end("a", Outcome.REFUSED)
    site.clock.now += 0.5
    site.end("b", Outcome.ANSWERED_5XX, 5)
    assert site.roster.lease().worker.id == "b"


def test_the_last_resort_that_fails_again_makes_room_for_another() -> None:
    site = Site(dict.fromkeys("ab"))
    for name in "ab":
        site.end(name, Outcome.REFUSED)
        site.clock.now += 0.1
    asked = []
    for _ in range(4):
        seat = site.roster.lease()
        asked.append(seat.worker.id)
        site.clock.now += 0.1
        site.roster.release(seat, Outcome.REFUSED, 0.0)
    assert asked == ["a", "b", "a", "b"]


def test_a_success_from_before_its_rest_does_not_bring_a_worker_back() -> None:
    site = three()
    early = [site.roster.lease() for _ in range(3)]
    site.clock.now += 0.5
    site.end("a", Outcome.REFUSED, seconds=0.0)
    site.clock.now += 0.2
    for seat in early:
        site.roster.release(seat, Outcome.ANSWERED, 0.7)
    assert site.resting() == "a"
    site.end("a", Outcome.ANSWERED, seconds=0.1)
    assert site.resting() == ""


def test_who_comes_back_gets_more_from_second_to_second() -> None:
    site = three()
    site.end("a", Outcome.REFUSED)
    site.clock.now += 1.0
    shares = []
    for _ in range(11):
        shares.append(site.serve(210, {})["a"])
        site.second()
    assert shares[0] <= 10
    assert shares == sorted(shares)
    assert shares[-1] == 70


def test_two_of_three_that_decline_soon_get_next_to_nothing_and_come_back_soon() -> None:
    site = three()
    declining = {"a": Outcome.DECLINED, "b": Outcome.DECLINED}
    taken = sum((site.serve(200, declining) for _ in range(10) if site.second() is None), Counter())
    assert taken["a"] + taken["b"] < 0.15 * 2000
    for _ in range(4):
        site.serve(210, {})
        site.second()
    assert site.serve(210, {}) == {"a": 70, "b": 70, "c": 70}


def test_those_that_answered_well_so_far_and_decline_from_now_on_cost_no_more_than_the_retry_budget() -> None:
    site, budget, lost = three(), RetryBudget(0.2), 0
    for request in range(200 * 30):  # at 200 a second
        site.clock.now += 1 / 200
        if request % 200 == 100:
            site.roster.turn()
            budget.turn()
        budget.requests += 1
        declining = "ab" if request >= 200 * 12 else ""
        tried: list[Seat] = []
        while (seat := site.roster.lease(tried)).worker.id in declining:
            site.roster.release(seat, Outcome.DECLINED, 0.001)
            tried.append(seat)
            if not budget.take():
                lost += 1
                break
        else:
            site.roster.release(seat, Outcome.ANSWERED, 0.01)
    assert lost == 0


def test_where_all_of_many_decline_shares_are_worked_out_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site({f"worker {number}": ("digits",) for number in range(200)})
    worked_out: list[float] = []
    share_out = site.roster.fitness.share_out

    def counted() -> bool:
        worked_out.append(site.clock.now)
        return share_out()

    monkeypatch.setattr(site.roster.fitness, "share_out", counted)
    for _ in range(2):
        tried: list[Seat] = []
        while site.roster.spare(tried):
            seat = site.roster.lease(tried)
            site.roster.release(seat, Outcome.DECLINED, 0.001)
            tried.append(seat)
        assert len(tried) == 200
        site.clock.now += PROMPT
    assert len(worked_out) <= 2 * 2  # and once more each time, for the rounds that begin anew


@pytest.mark.parametrize(("opens", "share"), [(True, 1.0), (False, 0.05)], ids=["streams", "nothing at all"])
def test_one_whose_answers_last_for_long_gets_no_less_as_long_as_they_begin(opens: bool, share: float) -> None:
    site = three()
    a = site.seat("a")
    for _ in range(20):  # in each of these seconds ten requests come to everybody; those at b and c end at once
        a.in_flight += 10
        a.health.opened += 10 * opens
        site.second(b=0.01, c=0.01)
    assert a.share == pytest.approx(share)


def test_a_model_that_takes_long_is_not_taken_for_one_that_answers_nothing() -> None:
    site = three()
    for second in range(80):  # 30 requests every 20 seconds, which take their time
        for number, seat in enumerate(site.roster.seats):
            if second % 20 == 0:
                seat.in_flight += 10
            elif second % 20 == 14 + number:
                for _ in range(10):
                    site.roster.release(seat, Outcome.ANSWERED, 14.0 + number)
        site.second()
        assert [seat.share for seat in site.roster.seats] == [1.0, 1.0, 1.0]


def test_one_that_is_five_times_slower_gets_a_fifth_until_it_is_fast_again() -> None:
    site = three()
    for _ in range(SLOW_FOR):
        site.second(a=0.05, b=0.01, c=0.01)
    assert site.serve(110, {}) == {"a": 10, "b": 50, "c": 50}
    for _ in range(15):
        site.second(a=0.01, b=0.01, c=0.01)
    assert site.serve(9, {}) == {"a": 3, "b": 3, "c": 3}


def test_one_that_says_that_it_is_well_and_answers_no_request_soon_gets_next_to_none_until_it_does() -> None:
    site = three()
    site.second(a=0.01, b=0.01, c=0.01)
    for _ in range(2 * SLOW_FOR):
        held = [site.roster.lease() for _ in range(60)]
        for seat in held:
            if seat.worker.id != "a":
                site.roster.release(seat, Outcome.ANSWERED, 0.01)
        site.roster.fitness.restore(site.seat("a"))
        site.second()
    assert site.serve(410, {"a": Outcome.CANCELLED})["a"] == 10
    for _ in range(site.seat("a").in_flight):
        site.roster.release(site.seat("a"), Outcome.ANSWERED, 0.01)
    site.second()
    assert site.serve(9, {}) == {"a": 3, "b": 3, "c": 3}


def test_connections_that_stay_open_do_not_make_a_worker_slow() -> None:
    site = three()
    site.second(a=0.01, b=0.01, c=0.01)
    while site.seat("a").in_flight < 20:
        site.roster.lease()
    for _ in range(4 * SLOW_FOR):
        site.second(b=0.01, c=0.01)
    assert site.serve(9, {})["a"] == 3


def test_one_late_answer_takes_nothing_away() -> None:
    site = three()
    site.end("a", Outcome.ANSWERED, 1, 2.0)  # the first, and the worker was not warm
    for _ in range(2 * SLOW_FOR):
        site.second()
    for _ in range(SLOW_FOR - 1):
        site.second(a=2.0, b=0.01, c=0.01)
    assert site.serve(9, {}) == {"a": 3, "b": 3, "c": 3}


def test_who_serves_another_model_may_take_longer() -> None:
    site = Site({"a": ("large",), "b": ("small",), "c": ("small",)})
    for _ in range(SLOW_FOR):
        site.second(a=0.5, b=0.01, c=0.01)
    assert site.serve(9, {}) == {"a": 3, "b": 3, "c": 3}


def test_seconds_in_which_nothing_changes_leave_the_round_as_it_is() -> None:
    site = three()
    a, b, c = (seat.worker for seat in site.roster.seats)
    site.roster.apply(Snapshot(2, (replace(a, weight=5), b, c)))
    taken = ""
    for _ in range(70):
        taken += "".join(site.serve(1, {}))
        site.second()
    for start in range(0, 70, 7):
        assert Counter(taken[start : start + 7]) == {"a": 5, "b": 1, "c": 1}


def test_a_snapshot_that_says_nothing_new_leaves_weighted_turns_exact() -> None:
    roster = Roster(Clock())
    workers = tuple(Worker(name, "127.0.0.1", 9000 + ord(name), weight=5 if name == "a" else 1) for name in "abc")
    taken = ""
    for version in range(70):
        roster.apply(Snapshot(version, workers))
        seat = roster.lease()
        taken += seat.worker.id
        roster.release(seat, Outcome.ANSWERED, 0.01)
    for start in range(0, 70, 7):
        assert Counter(taken[start : start + 7]) == {"a": 5, "b": 1, "c": 1}


def test_a_weight_that_changes_counts_from_the_next_request_on() -> None:
    roster = Roster(Clock())
    for weight, expected in ((1, 10), (3, 18), (1, 10)):  # as when its check warns, and passes again
        a, b = (Worker(name, "127.0.0.1", 9000 + ord(name), weight=1 if name == "b" else weight) for name in "ab")
        roster.apply(Snapshot(weight, (a, b)))
        taken = Counter(roster.next().worker.id for _ in range(24 if weight == 3 else 20))
        assert taken["a"] == expected


# Asking workers how they are


def test_who_owes_answers_and_gives_none_for_a_moment_is_suspect() -> None:
    site = three()
    assert site.roster.fitness.suspects() == []
    hanging = site.roster.lease()
    assert site.roster.fitness.suspects() == []
    site.clock.now += 0.6 * QUIET
    assert site.roster.fitness.suspects() == []
    site.end("b", Outcome.ANSWERED)
    site.clock.now += 0.4 * QUIET
    assert site.roster.fitness.suspects() == [hanging]
    site.roster.release(hanging, Outcome.ANSWERED, 0.5)
    assert site.roster.fitness.suspects() == []


@pytest.mark.parametrize("outcome", [Outcome.ANSWERED, Outcome.ANSWERED_5XX, Outcome.DECLINED])
def test_one_that_answers_something_is_not_suspect_however_long_the_rest_takes(outcome: Outcome) -> None:
    site = three()
    seats = [site.roster.lease() for _ in range(12)]
    for seat in seats:
        if seat.worker.id == "a":
            assert seat not in site.roster.fitness.suspects()
            site.clock.now += 0.6 * QUIET
            site.roster.release(seat, outcome, 1.0)
    assert {seat.worker.id for seat in site.roster.fitness.suspects()} == {"b", "c"}


def test_one_that_says_that_it_is_well_is_asked_less_and_less_often() -> None:
    site = three()
    seat = site.roster.lease()  # a tunnel, say
    site.roster.fitness.suspects()
    asked = 0
    for _ in range(600):
        site.clock.now += 0.1
        for suspect in site.roster.fitness.suspects():
            asked += 1
            site.roster.fitness.restore(suspect)
    assert 5 <= asked <= 10
    site.roster.release(seat, Outcome.ANSWERED, 60.0)
    site.roster.fitness.suspects()
    seat.in_flight += 1
    site.clock.now += QUIET
    assert site.roster.fitness.suspects() == [seat]


def test_one_that_refused_is_asked_and_comes_back_when_it_is_ready() -> None:
    site = three()
    site.end("a", Outcome.REFUSED)
    assert site.roster.fitness.suspects() == [site.seat("a")]
    site.roster.fitness.restore(site.seat("a"))
    assert site.resting() == ""
    assert site.roster.fitness.suspects() == []


def test_one_that_is_found_to_hang_rests_for_as_long_as_it_does_and_those_who_have_to_know_are_told() -> None:
    site = three()
    told: list[str] = []
    site.roster.fitness.on_eject.append(lambda seat: told.append(seat.worker.id))
    seat = site.seat("a")
    for _ in range(20):
        site.roster.fitness.eject(seat, "hangs")
        assert site.roster.fitness.suspects() == [seat]
        site.clock.now += 0.8 * EJECTED
        assert "a" not in site.serve(10, {})
    assert site.roster.fitness.ejections == {"hangs": 1}
    assert set(told) == {"a"}
    site.roster.fitness.restore(seat)
    assert site.resting() == ""
    assert "a" in site.serve(100, {})


def test_a_death_is_told_once_in_a_while_with_all_that_was_held() -> None:
    site = three()
    held: list[int] = []
    site.roster.fitness.on_death.append(lambda seat: held.append(seat.in_flight))
    seat = site.seat("a")
    seat.in_flight = 6
    site.end("a", Outcome.BROKE)
    for _ in range(6):  # the others that it held
        site.roster.release(seat, Outcome.BROKE, 5.0)
    assert held == [7]
    site.clock.now += 3.0
    site.end("a", Outcome.BROKE)  # it is back, and breaks off again: no accident
    site.clock.now += ONCE + 0.1
    site.roster.fitness.eject(seat, "hangs")
    site.end("b", Outcome.ANSWERED_5XX, 5)
    assert held == [7, 0]


def test_one_whose_requests_others_answer_first_is_suspect_until_it_is_heard() -> None:
    site = three()
    site.roster.fitness.suspects()
    for _ in range(10):
        site.end("a", Outcome.CANCELLED)
        site.clock.now += QUIET / 10
        expected = site.roster.fitness.suspects()
    assert expected == [site.seat("a")]
    site.roster.fitness.restore(site.seat("a"))
    site.clock.now += 100.0
    assert site.roster.fitness.suspects() == []


def test_turns_that_were_missed_count() -> None:
    site = three()
    site.end("a", Outcome.DECLINED, 10)
    site.clock.now += 5.0  # the program stood still
    site.roster.turn()
    assert site.seat("a").share == 1.0


def test_who_has_to_be_asked_in_spite_of_its_answers_does_not_rest() -> None:
    site = three()
    for name in "abc":
        site.end(name, Outcome.ANSWERED_5XX, 5)
    assert site.resting() == "a"
    site.end("b", Outcome.REFUSED)
    assert site.resting() == "b"


@pytest.mark.parametrize("outcome", [Outcome.ANSWERED_5XX, Outcome.BROKE, Outcome.GARBAGE, Outcome.SILENT])
def test_to_be_ready_does_not_excuse_bad_answers(outcome: Outcome) -> None:
    site = three()
    site.end("a", outcome, 5)
    assert site.roster.fitness.suspects() == []
    site.roster.fitness.restore(site.seat("a"))
    assert site.resting() == "a"


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from(Outcome), st.floats(0, 2), st.booleans())))
def test_somebody_is_always_asked_and_at_least_half_of_those_that_are_alive(
    events: list[tuple[str, Outcome, float, bool]],
) -> None:
    site = Site(dict.fromkeys("abcd"))
    for name, outcome, pause, turn in events:
        site.clock.now += pause
        site.end(name, outcome, 6)
        if turn:
            site.roster.turn()
        resting = [seat for seat in site.roster.seats if site.roster.fitness.resting(seat)]
        dead = {seat.worker.id for seat in resting if not seat.health.reachable}
        taken = set(site.serve(400, {}))
        assert taken
        if len(dead) < 4:
            assert not taken & dead
            assert len(taken) >= min(2, 4 - len(dead))

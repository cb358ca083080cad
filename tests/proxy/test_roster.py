"""Whose turn it is."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.errors import NoWorkers
from muster.values import Snapshot, Worker
from proxy.balancing import MAX_CYCLE, round_robin
from proxy.health import Outcome, Policy, Rest
from proxy.roster import Roster


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def workers(names: str, **weights: int) -> tuple[Worker, ...]:
    return tuple(Worker(name, "127.0.0.1", 9000 + ord(name), weight=weights.get(name, 1)) for name in names)


def roster_of(names: str, clock: Clock | None = None, **weights: int) -> Roster:
    roster = Roster(clock or Clock(), Policy(Rest(first=1.0, longest=8.0), slow_start=0.0))
    roster.apply(Snapshot(1, workers(names, **weights)))
    return roster


def picks(roster: Roster, count: int) -> str:
    taken = []
    for _ in range(count):
        seat = roster.lease()
        roster.release(seat, Outcome.ANSWERED, 0.0)
        taken.append(seat.worker.id)
    return "".join(taken)


def test_workers_take_turns() -> None:
    assert picks(roster_of("abc"), 9) == "abcabcabc"


def test_three_workers_stay_within_half_a_percent_while_a_fourth_comes_and_goes() -> None:
    roster = roster_of("abc")
    taken = ""
    for change in range(300):
        taken += picks(roster, 100)
        roster.apply(Snapshot(change + 2, workers("abc" if change % 2 else "abcd")))
    counts = Counter(taken)
    mean = sum(counts[name] for name in "abc") / 3
    assert all(abs(counts[name] - mean) / mean < 0.005 for name in "abc")


def test_the_others_are_named_once_each_whatever_their_weight() -> None:
    roster = roster_of("abc", a=5, b=2)
    (first, *_) = roster.seats
    assert sorted(seat.worker.id for seat in roster.others(first, most=9)) == ["b", "c"]
    last = list(roster.seats)[-1]
    assert sorted(seat.worker.id for seat in roster.others(last, most=9)) == ["a", "b"]


def test_a_registration_that_changes_nothing_does_not_start_the_round_again() -> None:
    roster = roster_of("abc")
    taken = ""
    for version in range(30):
        taken += picks(roster, 1)
        roster.apply(Snapshot(version + 2, workers("abc")))
    assert taken == "abc" * 10


def test_weights_five_one_one_are_exact_in_every_seven() -> None:
    taken = picks(roster_of("abc", a=5), 70)
    for start in range(0, 70, 7):
        assert Counter(taken[start : start + 7]) == {"a": 5, "b": 1, "c": 1}
    assert "aaaaaaa" not in taken


@dataclass
class Seatlike:
    weight: int
    last_pick: int = 0
    share: float = 1.0
    in_flight: int = 0
    limit: int = 1
    latency: float = 0.0


@given(st.lists(st.integers(1, 50), min_size=1, max_size=12))
def test_every_seat_is_in_the_cycle_as_often_as_its_weight_says(weights: list[int]) -> None:
    seats = [Seatlike(weight) for weight in weights]
    cycle = round_robin(seats)
    shares = Counter(id(seat) for seat in cycle)
    assert all(shares[id(seat)] * sum(weights) == seat.weight * len(cycle) for seat in seats)


@given(st.lists(st.integers(1, 65535), min_size=2, max_size=30))
def test_a_cycle_is_bounded_and_forgets_nobody(weights: list[int]) -> None:
    seats = [Seatlike(weight) for weight in weights]
    cycle = round_robin(seats)
    assert len(cycle) <= MAX_CYCLE + len(seats)
    assert {id(seat) for seat in cycle} == {id(seat) for seat in seats}


def test_who_stays_keeps_what_is_known_of_it() -> None:
    roster = roster_of("ab")
    seat = roster.lease()
    gone = roster.apply(Snapshot(2, workers("ac", a=3)))
    assert [left.worker.id for left in gone] == ["b"]
    kept = next(other for other in roster.seats if other.worker.id == "a")
    assert kept is seat
    assert (kept.in_flight, kept.weight) == (1, 3)


def test_a_worker_that_left_may_still_finish_its_work() -> None:
    roster = roster_of("a")
    seat = roster.lease()
    roster.apply(Snapshot(2))
    assert not seat.listed
    roster.release(seat, Outcome.ANSWERED, 0.0)
    with pytest.raises(NoWorkers):
        roster.lease()


def test_rests_grow_and_a_success_ends_them() -> None:
    clock = Clock()
    roster = roster_of("ab", clock)
    lengths = []
    for _ in range(5):
        seat = next(seat for seat in roster.seats if seat.worker.id == "a")
        seat.in_flight += 1
        roster.release(seat, Outcome.REFUSED, 0.0)
        lengths.append(seat.rest_until - clock.now)
        assert picks(roster, 4) == "bbbb"
        clock.now = seat.rest_until
    assert lengths == [1, 2, 4, 8, 8]
    assert set(picks(roster, 4)) == {"a", "b"}
    assert seat.failures == 0


def test_a_worker_whose_client_left_is_not_blamed() -> None:
    roster = roster_of("a")
    seat = roster.lease()
    roster.release(seat, Outcome.CANCELLED)
    assert (seat.in_flight, seat.failures) == (0, 0)


def test_the_rest_of_one_does_not_double_the_load_of_its_neighbour() -> None:
    roster = roster_of("abcd")
    seat = roster.lease()
    roster.release(seat, Outcome.REFUSED, 0.0)
    assert Counter(picks(roster, 30)) == {"b": 10, "c": 10, "d": 10}


def test_when_all_rest_the_one_that_is_due_first_is_asked() -> None:
    clock = Clock()
    roster = roster_of("ab", clock)
    for _ in range(2):
        roster.release(roster.lease(), Outcome.REFUSED, 0.0)
        clock.now += 0.1
    assert roster.lease().worker.id == "a"


def test_a_worker_that_was_tried_is_not_tried_again() -> None:
    roster = roster_of("abc")
    tried = [roster.lease(), roster.lease()]
    assert roster.lease(tried) not in tried
    with pytest.raises(NoWorkers):
        roster.lease(list(roster.seats))


@given(st.data())
def test_no_seat_is_ever_leaked_or_lost(data: st.DataObject) -> None:
    clock = Clock()
    roster = roster_of("abc", clock)
    leases = []
    for step in range(data.draw(st.integers(0, 40))):
        match data.draw(st.sampled_from(["lease", "release", "apply", "wait"])):
            case "lease" if roster.seats:
                leases.append(roster.lease())
            case "release" if leases:
                seat = leases.pop(data.draw(st.integers(0, len(leases) - 1)))
                roster.release(seat, data.draw(st.sampled_from(Outcome)), data.draw(st.none() | st.floats(0, 30)))
            case "apply":
                roster.apply(Snapshot(step, workers(data.draw(st.sampled_from(["abc", "ab", "bcd", "", "a"])))))
            case _:
                clock.now += data.draw(st.floats(0, 20))
        held = Counter(id(seat) for seat in leases)
        assert all(seat.in_flight == held[id(seat)] for seat in roster.seats)
    for seat in leases:
        roster.release(seat, Outcome.ANSWERED, 0.0)
        assert seat.in_flight >= 0
    assert all(seat.in_flight == 0 for seat in roster.seats)


def test_one_death_that_ends_many_requests_is_one_failure() -> None:
    roster = roster_of("ab")
    seats = [roster.lease() for _ in range(20)]
    for seat in seats:
        roster.release(seat, Outcome.BROKE if seat.worker.id == "a" else Outcome.ANSWERED, 1.0)
    (ann,) = (seat for seat in roster.seats if seat.worker.id == "a")
    assert ann.failures == 1


def test_a_worker_that_is_listed_with_another_address_is_another_worker() -> None:
    roster = roster_of("a")
    seat = roster.lease()
    moved = Worker("a", "127.0.0.2", 9000)
    assert list(roster.apply(Snapshot(2, (moved,)))) == [seat]
    assert not seat.listed
    assert roster.lease().worker == moved

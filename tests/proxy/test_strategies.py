"""Whose turn it is, by each strategy."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.balancing import MAX_CYCLE, STRATEGIES, LeastInFlight, PowerOfTwo, Strategy, round_robin, strategy


@dataclass(eq=False)
class Seatlike:
    name: str
    weight: int = 1
    share: float = 1.0
    in_flight: int = 0
    limit: int = 100
    last_pick: int = 0
    latency: float = 0.0


def names(order: Strategy[Seatlike], count: int, tried: Sequence[Seatlike] = ()) -> str:
    taken = (order.step(tried) for _ in range(count))
    return "".join(seat.name if seat else "-" for seat in taken)


def test_five_one_one_is_exact_in_every_seven_and_no_run_is_longer_than_it_must_be() -> None:
    for heavy in range(3):
        seats = [Seatlike(name, weight=5 if at == heavy else 1) for at, name in enumerate("abc")]
        taken = names(Strategy(seats), 700)
        for start in range(693):
            assert Counter(taken[start : start + 7])["abc"[heavy]] == 5
        assert "abc"[heavy] * 5 not in taken


def test_a_share_is_a_part_of_the_weight() -> None:
    seats = [Seatlike("a"), Seatlike("b", share=0.5), Seatlike("c", weight=2, share=0.25)]
    assert Counter(names(Strategy(seats), 400)) == {"a": 200, "b": 100, "c": 100}


@given(st.lists(st.tuples(st.integers(1, 9), st.sampled_from([0.05, 0.3, 1.0])), min_size=1, max_size=9))
def test_in_any_stretch_of_the_cycle_nobody_is_far_from_its_part(deserved: list[tuple[int, float]]) -> None:
    seats = [Seatlike(str(at), weight, share) for at, (weight, share) in enumerate(deserved)]
    cycle = round_robin(seats)
    turns = Counter(seat.name for seat in cycle)
    so_far: Counter[str] = Counter()
    for taken, seat in enumerate(cycle, 1):
        so_far[seat.name] += 1
        for name, all_of_them in turns.items():
            assert abs(so_far[name] - all_of_them * taken / len(cycle)) < 1 + len(seats) / 2


def test_in_a_long_cycle_who_stands_in_is_who_waited_longest() -> None:
    seats = [Seatlike("a", weight=100), *map(Seatlike, "bcdef")]
    ann = seats[0]
    order = Strategy(seats)
    taken: Counter[str] = Counter()
    for pick in range(1, 201):
        seat = order.step([ann])
        assert seat is not None
        seat.last_pick = pick
        taken[seat.name] += 1
    assert max(taken.values()) - min(taken.values()) <= 10, taken
    assert set(taken) == set("bcdef")


def test_who_stands_in_for_another_does_not_lose_its_own_turn() -> None:
    ann, bob = Seatlike("a"), Seatlike("b")
    order = Strategy([ann, bob])
    first = ""
    for _ in range(6):
        taken = order.step(())
        assert taken is not None
        first += taken.name
        if taken is ann:
            assert order.step([ann]) is bob
    assert first == "ababab"


@pytest.mark.parametrize("full", [False, True])
def test_those_beside_one_that_cannot_be_had_share_what_it_does_not_do(full: bool) -> None:
    seats = [Seatlike(name) for name in "abc"]
    ann = seats[0]
    ann.in_flight = ann.limit if full else 0
    order = Strategy(seats)
    taken = ""
    for _ in range(60):
        seat = order.step(())
        if seat is ann:
            seat = order.step([ann])
        assert seat is not None
        taken += seat.name
    assert Counter(taken) == {"b": 30, "c": 30}


def test_200_workers_that_all_deserve_a_part_make_a_cycle_that_is_bounded() -> None:
    seats = [Seatlike(str(at), weight=at % 50 + 1, share=0.05) for at in range(200)]
    assert len(round_robin(seats)) <= MAX_CYCLE + 200


@pytest.mark.parametrize("kind", STRATEGIES.values(), ids=STRATEGIES.keys())
class TestEveryStrategy:
    def test_who_is_full_is_stepped_over(self, kind: type[Strategy[Seatlike]]) -> None:
        seats = [Seatlike(name, weight=weight) for name, weight in (("a", 9), ("b", 1), ("c", 1))]
        seats[0].in_flight = seats[0].limit
        assert set(names(kind(seats), 40)) == {"b", "c"}

    def test_who_was_tried_is_not_tried_again(self, kind: type[Strategy[Seatlike]]) -> None:
        seats = [Seatlike(name, weight=weight) for name, weight in (("a", 9), ("b", 1), ("c", 1))]
        assert set(names(kind(seats), 40, [seats[0], seats[2]])) == {"b"}

    def test_when_nobody_has_room_there_is_nobody(self, kind: type[Strategy[Seatlike]]) -> None:
        assert kind([]).step(()) is None
        seats = [Seatlike(name, in_flight=100) for name in "abc"]
        assert kind(seats).step(()) is None
        seats[1].in_flight = 99
        assert names(kind(seats), 5) == "bbbbb"
        assert kind(seats).step([seats[1]]) is None

    def test_what_is_upcoming_names_everybody(self, kind: type[Strategy[Seatlike]]) -> None:
        seats = [Seatlike(name, weight=2) for name in "abc"]
        order = kind(seats)
        order.step(())
        assert set(order.upcoming) == set(seats)

    @given(st.data())
    def test_whoever_is_taken_has_room_and_somebody_is_taken_if_anybody_has(
        self, kind: type[Strategy[Seatlike]], data: st.DataObject
    ) -> None:
        seats = [
            Seatlike(str(at), data.draw(st.integers(1, 3)), data.draw(st.sampled_from([0.05, 1.0])),
                     data.draw(st.integers(0, 3)), limit=3)
            for at in range(data.draw(st.integers(0, 6)))
        ]  # fmt: skip
        order = kind(seats)
        for _ in range(20):
            tried = [seat for seat in seats if data.draw(st.booleans())]
            free = [seat for seat in seats if seat.in_flight < 3 and seat not in tried]
            seat = order.step(tried)
            assert (seat in free) if free else (seat is None)
            if seat is not None:
                seat.in_flight += 1


def test_the_one_with_the_fewest_under_way_is_taken_and_equals_take_turns() -> None:
    seats = [Seatlike("a", in_flight=2), Seatlike("b", in_flight=1), Seatlike("c", in_flight=1)]
    order = LeastInFlight(seats)
    taken = []
    for _ in range(5):
        seat = order.step(())
        assert seat is not None
        seat.in_flight += 1
        taken.append(seat.name)
    assert taken == ["b", "c", "a", "b", "c"]
    assert names(LeastInFlight([Seatlike(name) for name in "abc"]), 6) == "abcabc"


def test_fewest_is_meant_by_weight_and_share() -> None:
    seats = [Seatlike("a", weight=5, in_flight=4), Seatlike("b", in_flight=1), Seatlike("c", share=0.1, in_flight=1)]
    assert names(LeastInFlight(seats), 1) == "a"


def test_of_two_the_one_that_will_be_done_first_is_taken() -> None:
    slow, fast = Seatlike("s", latency=0.5), Seatlike("f", latency=0.1)
    chances = iter([0.0, 0.9] * 3)
    order = PowerOfTwo([slow, fast], lambda: next(chances))
    assert names(order, 1) == "f"
    fast.in_flight = 3
    assert names(order, 1) == "f"
    fast.in_flight = 5
    assert names(order, 1) == "s"


def test_one_whose_latency_is_not_known_is_judged_by_what_it_has_to_do() -> None:
    new, known = Seatlike("n", in_flight=2), Seatlike("k", latency=0.1, in_flight=1)
    chances = iter([0.0, 0.9] * 2)
    order = PowerOfTwo([new, known], lambda: next(chances))
    assert names(order, 1) == "k"
    known.in_flight = 3
    assert names(order, 1) == "n"


def test_chance_that_names_one_twice_has_the_next_in_turn_beside_it() -> None:
    a, b = Seatlike("a", in_flight=5), Seatlike("b")
    assert names(PowerOfTwo([a, b], lambda: 0.0), 2) == "ab"


def test_two_choices_keep_loads_together() -> None:
    chance = random.Random(1).random
    seats = [Seatlike(str(at), limit=10_000, latency=0.1) for at in range(20)]
    order = PowerOfTwo(seats, chance)
    for _ in range(2000):
        seat = order.step(())
        assert seat is not None
        seat.in_flight += 1
    assert max(seat.in_flight for seat in seats) - min(seat.in_flight for seat in seats) <= 8


def test_a_strategy_that_there_is_not_is_named() -> None:
    assert strategy("least-in-flight") == "least-in-flight"
    with pytest.raises(ValueError, match="'fastest' is not one of round-robin, least-in-flight, power-of-two"):
        strategy("fastest")

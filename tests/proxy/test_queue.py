"""Requests that wait while every worker is full."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from muster.errors import ClusterError, NoWorkers, Overloaded, UnknownModel
from muster.values import Snapshot, Worker
from proxy.health import Outcome, Policy, Rest
from proxy.roster import Roster
from proxy.seats import Limits, Seat
from proxy.waiting import Busy, Ticket
from proxy.wants import ANY, Want

DIGITS, CATS = Want("digits"), Want("cats")


class Loop:
    """Time that passes when the test says so, and what is due then."""

    def __init__(self) -> None:
        self.now = 100.0
        self._soon: list[Callable[[], Any]] = []
        self._timers: list[tuple[float, int, Timer]] = []
        self.timers_made = 0

    def time(self) -> float:
        return self.now

    def call_soon(self, callback: Callable[..., Any], *args: Any) -> None:
        self._soon.append(lambda: callback(*args))

    def call_at(self, when: float, callback: Callable[..., Any], *args: Any) -> Timer:
        timer = Timer(lambda: callback(*args))
        self.timers_made += 1
        heapq.heappush(self._timers, (when, self.timers_made, timer))
        return timer

    @property
    def timers(self) -> int:
        return sum(1 for _, _, timer in self._timers if timer.callback)

    def run(self, seconds: float = 0.0) -> None:
        end = self.now + seconds
        while True:
            while self._soon:
                self._soon.pop(0)()
            if not self._timers or self._timers[0][0] > end:
                self.now = end
                return
            self.now, _, timer = heapq.heappop(self._timers)
            if timer.callback:
                timer.callback()


class Timer:
    def __init__(self, callback: Callable[[], Any]) -> None:
        self.callback: Callable[[], Any] | None = callback

    def cancel(self) -> None:
        self.callback = None


class Site:
    """A roster whose workers each have room for `capacity` requests, and those who ask it."""

    def __init__(
        self, has: Mapping[str, Sequence[str]], *, capacity: int = 1, limit: int = 8, slow_start: float = 0.0
    ) -> None:
        self.loop = Loop()
        self.roster = Roster(self.loop.time, Policy(Rest(1.0, 8.0), slow_start=slow_start), limits=Limits(capacity))
        self.roster.may_wait(self.loop, limit, 2.0)
        self.announce(has)
        self.heard: dict[str, Seat | ClusterError] = {}

    def announce(self, has: Mapping[str, Sequence[str]]) -> None:
        workers = (Worker(name, "127.0.0.1", 9000 + ord(name), models=tuple(models)) for name, models in has.items())
        self.roster.apply(Snapshot(1, tuple(workers)))

    def fill(self) -> list[Seat]:
        """Take every free seat."""
        seats = list(self.roster.seats)
        return [self.roster.lease([other for other in seats if other is not seat])
                for seat in seats for _ in range(seat.limit - seat.in_flight)]  # fmt: skip

    def wait(self, name: str, want: Want = ANY, tried: Sequence[Seat] = ()) -> Ticket[Seat]:
        with pytest.raises(Busy):
            self.roster.lease(tried, want)
        return self.roster.wait(want, tried, lambda outcome: self.heard.__setitem__(name, outcome))

    def finish(self, seat: Seat, outcome: Outcome = Outcome.ANSWERED) -> None:
        self.roster.release(seat, outcome, 0.1)
        self.loop.run()

    def got(self) -> dict[str, str]:
        """Who heard what so far: the worker's id, or the kind of error."""
        return {name: outcome.worker.id if isinstance(outcome, Seat) else type(outcome).__name__
                for name, outcome in self.heard.items()}  # fmt: skip


def test_a_worker_never_holds_more_than_its_limit() -> None:
    site = Site({"a": ["digits"], "b": ["digits"]}, capacity=3)
    for _ in range(6):
        site.roster.lease()
    with pytest.raises(Busy) as caught:
        site.roster.lease()
    assert caught.value.status == 503
    assert caught.value.headers() == {"Retry-After": "1"}
    assert [seat.in_flight for seat in site.roster.seats] == [3, 3]


@pytest.mark.parametrize(("said", "processes", "limit"), [(0, 1, 9), (64, 1, 64), (64, 4, 16), (2, 4, 1), (0, 2, 4)])
def test_the_limit_is_what_the_worker_said_shared_among_the_processes(said: int, processes: int, limit: int) -> None:
    assert Limits(9, processes).of(Worker("a", "127.0.0.1", 9000, capacity=said)) == limit


@pytest.mark.parametrize(("capacity", "processes"), [(3, 2), (8, 3), (64, 5), (128, 128)])
def test_what_a_worker_holds_is_shared_among_the_processes_to_the_last_place(capacity: int, processes: int) -> None:
    workers = [Worker(f"w{n}", "127.0.0.1", 9000, capacity=capacity) for n in range(100)]
    limits = [Limits(9, processes, number) for number in range(processes)]
    assert {sum(limit.of(worker) for limit in limits) for worker in workers} == {capacity}
    of_all = [sum(limit.of(worker) for worker in workers) for limit in limits]
    assert max(of_all) - min(of_all) <= 0.2 * max(of_all), "what is over goes to others with each worker"


def test_a_limit_that_a_worker_says_anew_counts_from_then_on() -> None:
    roster = Roster(Loop().time)
    for capacity in (2, 3):
        roster.apply(Snapshot(capacity, (Worker("a", "127.0.0.1", 9000, capacity=capacity),)))
        while roster.spare(()):
            roster.lease()
        assert [seat.in_flight for seat in roster.seats] == [capacity]


def test_who_came_first_is_served_first() -> None:
    site = Site({"a": ["digits"]})
    (seat,) = site.fill()
    for name in ("one", "two", "three"):
        site.wait(name)
    site.finish(seat)
    assert site.got() == {"one": "a"}
    assert seat.in_flight == 1
    site.finish(seat)
    assert list(site.got()) == ["one", "two"]


def test_nobody_is_told_while_the_one_before_is_still_giving_up_its_seat() -> None:
    site = Site({"a": ["digits"]})
    (seat,) = site.fill()
    site.wait("one")
    site.roster.release(seat, Outcome.ANSWERED, 0.1)
    assert not site.heard
    assert seat.in_flight == 1  # but nobody else can have it either
    with pytest.raises(Busy):
        site.roster.lease()
    site.loop.run()
    assert site.got() == {"one": "a"}


def test_a_seat_goes_to_the_first_that_can_use_it() -> None:
    site = Site({"a": ["digits"], "b": ["cats"]})
    a, b = site.fill()
    site.wait("one", DIGITS)
    site.wait("two", CATS)
    site.wait("three", ANY)
    site.finish(b)
    assert site.got() == {"two": "b"}
    site.finish(b)
    assert site.got() == {"two": "b", "three": "b"}
    site.finish(a)
    assert site.got()["one"] == "a"


def test_a_worker_that_was_tried_is_not_given_again() -> None:
    site = Site({"a": ["digits"], "b": ["digits"]})
    a, b = site.fill()
    site.wait("one", tried=[a])
    site.finish(a)
    assert site.got() == {}
    site.finish(b)
    assert site.got() == {"one": "b"}


def test_a_full_line_turns_away_at_once_and_says_when_to_come_back() -> None:
    site = Site({"a": ["digits"]}, limit=2)
    site.fill()
    site.wait("one")
    site.wait("two")
    with pytest.raises(Overloaded) as caught:
        site.wait("three")
    assert caught.value.status == 503
    assert caught.value.headers() == {"Retry-After": "1"}
    assert "2 requests wait already" in caught.value.message
    assert site.roster.line is not None
    assert (len(site.roster.line), site.roster.line.refused) == (2, 1)


def test_without_places_nobody_waits() -> None:
    site = Site({"a": ["digits"]}, limit=0)
    site.fill()
    with pytest.raises(Overloaded):
        site.wait("one")


def test_a_model_that_is_seldom_asked_for_is_not_crowded_out_of_the_line() -> None:
    site = Site({"a": ["digits"], "b": ["cats"]}, limit=4)
    _, b = site.fill()
    for number in range(4):
        site.wait(f"digits {number}", DIGITS)
    site.wait("cats", CATS)
    site.loop.run()
    assert site.got() == {"digits 3": "Overloaded"}
    site.wait("more cats", CATS)
    with pytest.raises(Overloaded):  # two and two: that is fair
        site.wait("still more cats", CATS)
    site.finish(b)
    assert site.got()["cats"] == "b"


def test_nobody_makes_room_for_one_more_of_those_that_have_as_many_then() -> None:
    site = Site({"a": ["digits"], "b": ["cats"]}, limit=3)
    site.fill()
    for name, want in (("one", DIGITS), ("two", DIGITS), ("three", CATS)):
        site.wait(name, want)
    with pytest.raises(Overloaded):
        site.wait("four", CATS)


def test_who_waits_too_long_is_told_so_in_time() -> None:
    site = Site({"a": ["digits"]})
    (seat,) = site.fill()
    site.wait("one")
    site.loop.run(1.5)
    site.wait("two")
    site.loop.run(0.49)
    assert site.got() == {}
    site.loop.run(0.01)
    assert site.got() == {"one": "Overloaded"}
    site.finish(seat)
    assert site.got()["two"] == "a"
    assert site.roster.line is not None
    assert (site.roster.line.waits, site.roster.line.timeouts) == (2, 1)
    assert site.roster.line.seconds == pytest.approx(0.5)


def test_one_timer_serves_all_who_wait_and_none_is_left_when_nobody_does() -> None:
    site = Site({"a": ["digits"]})
    (seat,) = site.fill()
    assert site.loop.timers == 0
    for number in range(5):
        site.wait(str(number))
    assert site.loop.timers == 1
    for _ in range(5):
        site.finish(seat)
    assert site.loop.timers == 0


def test_who_would_most_likely_wait_in_vain_is_told_so_at_once() -> None:
    site = Site({"a": ["digits"]}, limit=100)
    seat = site.roster.lease()
    site.roster.release(seat, Outcome.ANSWERED, 0.5)  # so in two seconds it does four
    site.roster.turn()
    site.fill()
    for number in range(4):
        site.wait(str(number))
    with pytest.raises(Overloaded):
        site.wait("five")


def test_nobody_is_turned_away_for_the_pace_of_some_while_that_of_another_is_unknown() -> None:
    site = Site({"a": ["digits"], "b": ["digits"]}, limit=100)
    seat = site.roster.lease()
    site.roster.release(seat, Outcome.ANSWERED, 2.0)
    site.roster.turn()
    site.fill()
    for number in range(10):
        site.wait(str(number))


def test_who_left_the_line_gets_no_seat() -> None:
    site = Site({"a": ["digits"]})
    (seat,) = site.fill()
    ticket = site.wait("one")
    site.wait("two")
    ticket.cancel()
    ticket.cancel()
    site.finish(seat)
    assert site.got() == {"two": "a"}


def test_who_leaves_while_its_seat_is_on_the_way_gives_it_back_to_the_next() -> None:
    site = Site({"a": ["digits"]})
    (seat,) = site.fill()
    ticket = site.wait("one")
    site.wait("two")
    site.roster.release(seat, Outcome.ANSWERED, 0.1)
    ticket.cancel()
    ticket.cancel()
    site.loop.run()
    assert site.got() == {"two": "a"}
    assert seat.in_flight == 1


def test_a_new_worker_serves_those_who_wait() -> None:
    site = Site({"a": ["digits"]})
    site.fill()
    site.wait("one")
    site.wait("two")
    site.announce({"a": ["digits"], "b": ["digits"]})
    site.loop.run()
    assert site.got() == {"one": "b"}


def test_when_the_last_worker_leaves_those_who_wait_are_told() -> None:
    site = Site({"a": ["digits"], "b": ["cats"]})
    site.fill()
    site.wait("one", DIGITS)
    site.wait("two", CATS)
    site.announce({"b": ["cats"]})
    site.loop.run()
    assert site.got() == {"one": "NoWorkers"}
    site.announce({"b": ["dogs"]})
    site.loop.run()
    assert site.got()["two"] == "UnknownModel"
    assert isinstance(site.heard["one"], NoWorkers)
    assert isinstance(site.heard["two"], UnknownModel)


def test_a_worker_that_left_serves_nobody_who_waits() -> None:
    site = Site({"a": ["digits"], "b": ["digits"]})
    a, b = site.fill()
    site.wait("one")
    site.announce({"b": ["digits"]})
    site.finish(a)
    assert site.got() == {}
    site.finish(b)
    assert site.got() == {"one": "b"}


def test_a_worker_that_comes_back_from_a_rest_serves_those_who_wait() -> None:
    site = Site({"a": ["digits"], "b": ["digits"]}, slow_start=10.0)
    a, _ = site.fill()
    site.finish(a, Outcome.REFUSED)
    site.wait("one")
    site.loop.run(1.0)
    assert site.got() == {}
    site.roster.turn()
    site.loop.run()
    assert site.got() == {"one": "a"}


def test_an_address_that_is_handed_out_takes_no_room() -> None:
    site = Site({"a": ["digits"]})
    (seat,) = site.roster.seats
    for _ in range(3):
        assert site.roster.next() is seat
    assert seat.in_flight == 0


def test_while_all_rest_they_keep_to_their_limits_too() -> None:
    site = Site({"a": ["digits"]})
    (seat,) = site.fill()
    site.roster.fitness.eject(seat, "hangs")
    site.wait("one")
    site.finish(seat)
    assert site.got() == {"one": "a"}


def test_an_address_is_handed_out_whether_or_not_there_is_room() -> None:
    site = Site({"a": ["digits"], "b": ["digits"]})
    site.fill()
    assert {site.roster.next().worker.id for _ in range(4)} == {"a", "b"}


@pytest.mark.parametrize("seconds", [0.05, 1.0])
def test_with_three_times_more_than_they_can_do_all_workers_are_kept_busy_and_hardly_anybody_waits_in_vain(
    seconds: float,
) -> None:
    site = Site({name: ["digits"] for name in "abc"}, capacity=4, limit=128)
    roster, loop = site.roster, site.loop
    capacity, done = 12 / seconds, 0
    waits: list[float] = []

    def serve(seat: Seat) -> None:
        loop.call_at(loop.now + seconds, finish, seat)

    def finish(seat: Seat) -> None:
        nonlocal done
        done += 1
        roster.release(seat, Outcome.ANSWERED, seconds)

    def arrive() -> None:
        came = loop.now

        def turn(outcome: Seat | ClusterError) -> None:
            waits.append(loop.now - came)
            if isinstance(outcome, Seat):
                serve(outcome)

        try:
            serve(roster.lease())
        except Busy:
            with suppress(Overloaded):
                roster.wait(ANY, (), turn)

    for second in range(30):
        for number in range(round(3 * capacity)):
            loop.call_at(100.0 + second + number / (3 * capacity), arrive)
        loop.call_at(101.0 + second, roster.turn)
    loop.run(30.0)
    assert done >= 0.95 * 30 * capacity
    assert all(seat.in_flight <= 4 for seat in roster.seats)
    assert max(waits) <= 2.0 + 1e-6
    assert roster.line is not None
    assert roster.line.timeouts <= 128
    assert roster.line.refused + roster.line.timeouts >= 1.9 * 30 * capacity


class Busyness(RuleBasedStateMachine):
    """Anything that can happen while workers are full: nobody is forgotten, nothing leaks, no limit is passed."""

    MODELS: Mapping[str, Sequence[str]] = {"a": ["digits"], "b": ["digits", "cats"], "c": ["cats"]}

    def __init__(self) -> None:
        super().__init__()
        self.site = Site(self.MODELS, capacity=2, limit=5)
        self.leased: list[Seat] = []
        self.waiting: list[Ticket[Seat]] = []

    @rule(want=st.sampled_from([DIGITS, CATS, ANY]))
    def ask(self, want: Want) -> None:
        roster = self.site.roster
        with suppress(NoWorkers, UnknownModel, Overloaded):
            try:
                self.leased.append(roster.lease((), want))
            except Busy:
                ticket = roster.wait(want, (), lambda outcome: self.turn(ticket, outcome))
                self.waiting.append(ticket)

    def turn(self, ticket: Ticket[Seat], outcome: Seat | ClusterError) -> None:
        self.waiting.remove(ticket)
        if isinstance(outcome, Seat):
            self.leased.append(outcome)

    @precondition(lambda self: self.leased)
    @rule(data=st.data(), outcome=st.just(Outcome.ANSWERED) | st.sampled_from(Outcome), seconds=st.floats(0, 5))
    def finish(self, data: st.DataObject, outcome: Outcome, seconds: float) -> None:
        seat = self.leased.pop(data.draw(st.integers(0, len(self.leased) - 1)))
        self.site.roster.release(seat, outcome, seconds)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        self.waiting.pop(data.draw(st.integers(0, len(self.waiting) - 1))).cancel()

    @rule(names=st.sampled_from(["abc", "ab", "c", ""]))
    def announce(self, names: str) -> None:
        self.site.announce({name: self.MODELS[name] for name in names})

    @rule(seconds=st.floats(0.0, 3.0))
    def wait(self, seconds: float) -> None:
        self.site.loop.run(seconds)

    @rule()
    def second(self) -> None:
        self.site.roster.turn()

    @rule()
    def soon(self) -> None:
        self.site.loop.run()

    @invariant()
    def limits_are_kept(self) -> None:
        line = self.site.roster.line
        assert line is not None
        assert len(line) <= 5
        assert all(seat.in_flight <= seat.limit for seat in self.site.roster.seats)

    def teardown(self) -> None:
        self.site.loop.run(2.0)
        assert not self.waiting
        assert self.site.loop.timers == 0
        for seat in self.leased:
            self.site.roster.release(seat, Outcome.ANSWERED, 0.1)
        assert all(seat.in_flight == 0 for seat in self.site.roster.seats)
        assert self.site.roster.line is not None
        assert not self.site.roster.line._wants


TestBusyness = Busyness.TestCase
TestBusyness.settings = settings(max_examples=60, stateful_step_count=40)

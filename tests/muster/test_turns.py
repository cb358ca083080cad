"""Much work does not keep others waiting: it is done in turns, and once for all who ask at the same time."""

from __future__ import annotations

import asyncio

import pytest

from muster.together import Together
from muster.turns import Turns


async def test_in_each_turn_of_the_loop_one_is_called_in_the_order_in_which_they_came() -> None:
    loop = asyncio.get_running_loop()
    turns, turn, called = Turns(loop), 0, []

    def work(name: str, more: int) -> None:
        called.append((turn, name))
        if more:
            turns.add(lambda: work(name, more - 1))

    for name in "abc":
        turns.add(lambda name=name: work(name, 1))  # type: ignore[misc]
    assert not called
    for turn in range(10):  # noqa: B007
        await asyncio.sleep(0)
    assert "".join(name for _, name in called) == "abcabc"
    assert len({turn for turn, _ in called}) == len(called)


async def test_who_fails_does_not_keep_those_behind_him() -> None:
    loop = asyncio.get_running_loop()
    turns, called, said = Turns(loop), [], []
    loop.set_exception_handler(lambda _, context: said.append(context["exception"]))
    turns.add(lambda: 1 // 0)  # type: ignore[arg-type, return-value]
    turns.add(lambda: called.append("next"))
    for _ in range(3):
        await asyncio.sleep(0)
    assert called == ["next"]
    assert [type(each) for each in said] == [ZeroDivisionError]


class Page:
    """Takes a turn of the loop to be made, and says which one it is."""

    def __init__(self) -> None:
        self.made = 0

    async def make(self) -> int:
        self.made += 1
        mine = self.made
        await asyncio.sleep(0)
        return mine


async def test_those_who_ask_in_the_same_turn_share_what_is_made_and_who_comes_later_does_not() -> None:
    page = Page()
    shared = Together(page.make)
    asking = [asyncio.create_task(shared.get()) for _ in range(100)]
    await asyncio.sleep(0)  # they ask
    await asyncio.sleep(0)  # it begins
    late = asyncio.create_task(shared.get())
    assert set(await asyncio.gather(*asking)) == {1}
    assert await late == 2


async def test_who_leaves_does_not_take_it_away_from_the_others() -> None:
    page = Page()
    shared = Together(page.make)
    leaving, staying = asyncio.create_task(shared.get()), asyncio.create_task(shared.get())
    await asyncio.sleep(0)
    leaving.cancel()
    assert await staying == 1
    with pytest.raises(asyncio.CancelledError):
        await leaving


async def test_what_cannot_be_made_is_known_to_all_who_asked_and_tried_again_for_the_next() -> None:
    results = iter([OSError("no"), 2])

    async def make() -> int:
        result = next(results)
        if isinstance(result, OSError):
            raise result
        return result

    shared = Together(make)
    asked = await asyncio.gather(shared.get(), shared.get(), return_exceptions=True)
    assert [type(each) for each in asked] == [OSError, OSError]
    assert await shared.get() == 2

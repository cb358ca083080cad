"""Host names: what one of them suffers is no other's trouble."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from threading import Event, Thread

import pytest

from discovery.names import MOST, Addresses, Names, look_up


class Resolver:
    """Knows some names; those that are `silent` hang until the test is over."""

    def __init__(self) -> None:
        self.known: dict[str, Addresses] = {"one": ("192.0.2.1",), "two": ("192.0.2.2", "2001:db8::2")}
        self.silent: set[str] = set()
        self.asked: list[str] = []
        self.over = Event()

    def look_up(self, name: str) -> Addresses:
        self.asked.append(name)
        if name in self.silent:
            self.over.wait()
        if name not in self.known:
            raise socket.gaierror(-2, "Name or service not known")
        return self.known[name]


@pytest.fixture
def resolver() -> Iterator[Resolver]:
    resolver = Resolver()
    yield resolver
    resolver.over.set()


async def test_an_address_is_its_own(resolver: Resolver) -> None:
    names = Names(resolver.look_up)
    assert await names.find("127.0.0.1") == ("127.0.0.1",)
    assert await names.find("::1") == ("::1",)
    assert resolver.asked == []


async def test_a_name_is_found_with_all_its_addresses(resolver: Resolver) -> None:
    assert await Names(resolver.look_up).find("two") == ("192.0.2.2", "2001:db8::2")


async def test_a_name_that_does_not_exist_is_an_error_each_time(resolver: Resolver) -> None:
    names = Names(resolver.look_up)
    for _ in range(2):
        with pytest.raises(OSError, match="not known"):
            await names.find("none")


async def test_a_name_for_which_there_was_no_thread_is_found_when_there_is_one(
    resolver: Resolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = Names(resolver.look_up)
    with monkeypatch.context() as none_left:
        none_left.setattr(Thread, "start", _no_thread)
        with pytest.raises(OSError, match="can't start new thread"):
            await names.find("one")
    async with asyncio.timeout(5):
        assert await names.find("one") == ("192.0.2.1",)


def _no_thread(_: Thread) -> None:
    raise RuntimeError("can't start new thread")


async def test_names_that_hang_hold_up_no_other_and_are_looked_up_once_at_a_time(resolver: Resolver) -> None:
    names = Names(resolver.look_up)
    resolver.silent = {f"silent{number}" for number in range(40)}
    waiting = [asyncio.create_task(names.find(name)) for name in sorted(resolver.silent) * 3]
    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        assert await names.find("one") == ("192.0.2.1",)
    assert len(resolver.asked) == 41
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)


async def test_who_moves_is_found_at_the_new_address(resolver: Resolver) -> None:
    names = Names(resolver.look_up)
    await names.find("one")
    resolver.known["one"] = ("192.0.2.9",)
    assert await names.find("one") == ("192.0.2.9",)


@pytest.mark.parametrize("trouble", ["silent", "failing"])
async def test_a_resolver_in_trouble_does_not_hide_who_was_found_before(resolver: Resolver, trouble: str) -> None:
    names = Names(resolver.look_up)
    await names.find("one")
    if trouble == "silent":
        resolver.silent = {"one"}
    else:
        del resolver.known["one"]
    async with asyncio.timeout(5):
        for _ in range(100):  # only the first waits for a moment
            assert await names.find("one") == ("192.0.2.1",)


async def test_there_is_a_limit_to_look_ups_that_hang(resolver: Resolver) -> None:
    names = Names(resolver.look_up)
    resolver.silent = {f"silent{number}" for number in range(MOST)}
    waiting = [asyncio.create_task(names.find(name)) for name in resolver.silent]
    await asyncio.sleep(0)
    with pytest.raises(OSError, match="too many names"):
        await names.find("one")
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)


def test_the_system_knows_this_machine() -> None:
    assert set(look_up("localhost")) & {"127.0.0.1", "::1"}

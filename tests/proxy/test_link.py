"""The link between a proxy process and its parent."""

from __future__ import annotations

import asyncio
import os
import socket

import pytest

from proxy.link import ASK, COVER, LEAVING, PING, PONG, READY, TELL, Link
from tests.proxy.harness import until


class Ends:
    """Both ends in this process, and what `there` hears."""

    def __init__(self) -> None:
        here, there = socket.socketpair()
        self.here, self.there = Link(here), Link(there)
        self.heard: list[tuple[bytes, int, int]] = []
        for verb in (READY, COVER, ASK, TELL):
            self.there.on[verb] = lambda number, descriptor, verb=verb: self.heard.append((verb, number, descriptor))


async def test_words_come_in_their_order_with_their_numbers_and_descriptors() -> None:
    ends = Ends()
    pipes = [os.pipe() for _ in range(2)]
    ends.here.say(READY)
    ends.here.say(TELL, descriptor=pipes[0][1])
    ends.here.say(COVER, 3)
    ends.here.say(ASK, 0, pipes[1][1])
    for _, write in pipes:
        os.close(write)
    await until(lambda: len(ends.heard) == 4)
    assert [(verb, number) for verb, number, _ in ends.heard] == [(READY, -1), (TELL, -1), (COVER, 3), (ASK, 0)]
    assert [descriptor for verb, _, descriptor in ends.heard if verb in (READY, COVER)] == [-1, -1]
    for (read, _), verb in zip(pipes, (TELL, ASK), strict=True):
        (descriptor,) = [descriptor for heard, _, descriptor in ends.heard if heard == verb]
        os.write(descriptor, verb)
        os.close(descriptor)
        assert os.read(read, 10) == verb
        os.close(read)
    ends.here.close()
    ends.there.close()


async def test_a_descriptor_that_nobody_wants_is_closed() -> None:
    ends = Ends()
    del ends.there.on[TELL]
    read, write = os.pipe()
    ends.here.say(TELL, descriptor=write)
    os.close(write)
    assert await asyncio.to_thread(os.read, read, 1) == b"", "nobody has the other end"
    os.close(read)
    ends.here.close()
    ends.there.close()


async def test_a_ping_is_answered_and_nothing_is_heard_of_it() -> None:
    ends, answered = Ends(), asyncio.Event()
    ends.here.on[PONG] = lambda *_: answered.set()
    ends.here.say(PING)
    await asyncio.wait_for(answered.wait(), 5)
    assert ends.heard == []
    ends.here.close()
    ends.there.close()


@pytest.mark.parametrize("unread", [False, True])
async def test_the_end_is_told_once_and_speaking_on_harms_nobody(unread: bool) -> None:
    ends, told = Ends(), []
    ends.here.ended = lambda: told.append(1)
    if unread:
        ends.here.say(LEAVING)  # then it is a reset
    ends.there.close()
    await until(lambda: bool(told))
    for _ in range(3):
        ends.here.say(PING)
    await asyncio.sleep(0.01)
    assert told == [1]
    ends.here.close()

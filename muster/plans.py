"""What the client does, decided without I/O: a plan yields the next thing to do and is told how it went.

    Send     ask this of that server; tell me the `Reply`, or that it was `Lost`
    Pause    let so many seconds pass

`muster.client` has two drivers for plans, one that blocks and one that awaits, and they decide nothing. A plan's rules:

    nothing answers at an address  → the next address; when there is none left, ask the proxy for others
    the connection broke later     → once more, since classifying twice does no harm; but not thrice, lest an image that
                                     kills a worker kills them all
    no answer in time              → give up: the worker may still be at it
    an error that says retry       → after its `Retry-After` or a growing pause; at once if another worker is known
    a worker lacks the model       → ask the proxy once who has it now: models come and go

and all of it within a number of attempts and a deadline.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from random import Random
from typing import Any, TypeVar
from urllib.parse import quote

from muster import answers
from muster.answers import Classification, Listed, Values
from muster.errors import (
    BadImage,
    ClusterError,
    ConnectionFailed,
    NotAnImage,
    TooLarge,
    UnexpectedAnswer,
    WorkerBroke,
    WorkerTimeout,
)
from muster.wire import CLASSIFY, MODELS, WORKERS

T = TypeVar("T")

FIRST_PAUSE = 0.1
LONGEST_PAUSE = 2.0
_CHOICE = ("model", "version")
"""What of a query decides which workers are of use."""


@dataclass(frozen=True, slots=True)
class Upload:
    """One image as it is sent."""

    filename: str
    content: bytes


@dataclass(frozen=True, slots=True)
class Ask:
    """A request, whoever it goes to: a POST of uploads (one is the body, several are a form) or of JSON, else a GET.

    `choice` is what decides which workers are of use: `model` and `version`, as a query of the proxy.
    """

    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    uploads: Sequence[Upload] = ()
    json: bytes = b""
    choice: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Send:
    """Ask it of the server at `http://host:port`, and have the answer within `patience` seconds."""

    server: str
    ask: Ask
    patience: float


@dataclass(frozen=True, slots=True)
class Pause:
    """Do nothing for so many seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer: its status, its headers (found in any case), its body as parsed JSON or None."""

    status: int
    headers: Mapping[str, str]
    body: Any


class Lost(Enum):
    """Why there was no answer."""

    UNREACHABLE = auto()
    BROKEN = auto()
    LATE = auto()
    NO_TLS = auto()


Step = Send | Pause
Outcome = Reply | Lost | None
Plan = Generator[Step, Outcome, T]


@dataclass(slots=True)
class Effort:
    """What one call has cost so far, and when it is enough."""

    deadline: float
    attempts: int
    failures: int = 0
    broken: int = 0
    misled: bool = False  # by an address of a worker that has not got the model any more

    def pause_after(self, error: ClusterError, now: float, rng: Random) -> float:
        """Seconds to let pass before the next attempt; raises `error` if there is to be none."""
        self.failures += 1
        if not (error.retryable or error.retry_after is not None) or self.failures >= self.attempts:
            raise error
        pause = error.retry_after or min(FIRST_PAUSE * 2 ** (self.failures - 1), LONGEST_PAUSE)
        pause *= 1 + rng.random() / 4  # those who were refused together shall not come back together
        if now + pause >= self.deadline:
            raise error
        return pause


@dataclass(slots=True)
class _Known:
    """The addresses that the proxy named to a question, without those that failed since."""

    addresses: list[str] = field(default_factory=list)
    good_until: float = 0.0


class Planner:
    """Makes the plans of one client; remembers the workers that its proxy named for each model.

    `timeout` is in seconds and covers a whole plan, pauses included; `attempts` counts every failure in it.
    """

    def __init__(self, proxy: str, timeout: float, attempts: int, clock: Callable[[], float], rng: Random) -> None:
        self.proxy = proxy
        self._timeout = timeout
        self._attempts = attempts
        self._clock = clock
        self._rng = rng
        self._peers: dict[tuple[str | None, ...], _Known] = {}  # by what they were named for

    def classify(
        self, uploads: Sequence[Upload], query: Mapping[str, str], *, p2p: bool
    ) -> Plan[list[Classification | ClusterError]]:
        """One outcome per upload, in order: what was seen, or what is wrong with that very image."""
        # Alone, an empty image would be a request without a body, which says nothing about images.
        sent = [upload for upload in uploads if upload.content]
        outcomes = iter((yield from self._outcomes(sent, query, p2p)) if sent else ())
        return [next(outcomes) if upload.content else BadImage("the image is empty") for upload in uploads]

    def _outcomes(
        self, uploads: Sequence[Upload], query: Mapping[str, str], p2p: bool
    ) -> Plan[list[Classification | ClusterError]]:
        try:
            choice = {name: query[name] for name in _CHOICE if name in query}
            reply = yield from self._persist(Ask(CLASSIFY, query, uploads, choice=choice), p2p)
        except (BadImage, NotAnImage, TooLarge) as error:
            if len(uploads) == 1:
                return [error]
            raise
        outcomes = answers.classifications(reply.headers, reply.body)
        if len(outcomes) != len(uploads):
            raise UnexpectedAnswer(f"{len(uploads)} images were sent and {len(outcomes)} answers came", status=502)
        return outcomes

    def predict(self, model: str, version: int | None, json: bytes, *, p2p: bool) -> Plan[Values]:
        """What the model makes of the tensors in the body of a TensorFlow Serving REST request."""
        path, choice = f"{MODELS}/{quote(model, safe='')}", {"model": model}
        if version is not None:
            path, choice = f"{path}/versions/{version}", choice | {"version": str(version)}
        reply = yield from self._persist(Ask(f"{path}:predict", json=json, choice=choice), p2p)
        return answers.values(reply.headers, reply.body)

    def workers(self) -> Plan[list[Listed]]:
        """The workers as the proxy sees them."""
        reply = yield from self._persist(Ask(WORKERS), p2p=False)
        return answers.roster(reply.body)

    def _persist(self, ask: Ask, p2p: bool) -> Plan[Reply]:
        effort = Effort(self._clock() + self._timeout, self._attempts)
        known = self._peers.setdefault(tuple(map(ask.choice.get, _CHOICE)), _Known()) if p2p else _Known()
        while True:
            peer = None
            try:
                if p2p:
                    peer = yield from self._peer(effort, ask, known)
                return (yield from self._once(effort, f"http://{peer}" if peer else self.proxy, ask))
            except ClusterError as error:
                if error.status == 404:  # in TensorFlow Serving's API it has no code that tells more
                    known.addresses.clear()
                    if peer is None or effort.misled:
                        raise
                    effort.misled = True
                    continue
                if peer in known.addresses and error.status >= 500:
                    known.addresses.remove(peer)
                pause = effort.pause_after(error, self._clock(), self._rng)
            if not (peer and known.addresses):
                yield Pause(pause)

    def _peer(self, effort: Effort, ask: Ask, known: _Known) -> Plan[str]:
        if not known.addresses or self._clock() >= known.good_until:
            reply = yield from self._once(effort, self.proxy, Ask("/", ask.choice))
            named = answers.peers(reply.body)
            known.addresses = list(named.addresses)
            known.good_until = self._clock() + named.ttl
        return known.addresses[0]

    def _once(self, effort: Effort, server: str, ask: Ask) -> Plan[Reply]:
        outcome = yield Send(server, ask, effort.deadline - self._clock())
        match outcome:
            case Reply(status) if 200 <= status < 300:
                return outcome
            case Reply(status, headers, body):
                raise answers.explained(status, body, headers.get("Retry-After"))
            case Lost.LATE:
                raise WorkerTimeout(f"{server} did not answer within {self._timeout:g} seconds")
            case Lost.NO_TLS:
                raise UnexpectedAnswer(
                    f"no TLS with {server}: it is served as http://, or its certificate is not trusted here", status=502
                )
            case Lost.BROKEN:
                effort.broken += 1
                kind = ConnectionFailed if effort.broken == 1 else WorkerBroke
                raise kind(f"{server} closed the connection before it answered")
            case _:
                hint = "" if server == self.proxy else "; without P2P the proxy passes the request on"
                raise ConnectionFailed(f"nothing answers at {server}{hint}")

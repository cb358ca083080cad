"""Light, steady traffic on a cluster, each request remembered: who answered, what, and after how long.

It goes through the proxy; or P2P, by the rules of the proxy's answer: to the addresses in it, for as long as they are
good, and not a moment shorter.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import httpx

RATE = 20
"""Requests in a second."""
PATIENCE = 20.0
"""Seconds after which a request counts as lost."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one request ended: `problem` is empty if the answer was right. `at` by the monotonic clock, in seconds."""

    at: float
    seconds: float
    worker: str
    problem: str


class Traffic:
    """Asks for the digit on a picture as long as the block lasts. A request that is late does not hold up the next."""

    def __init__(self, proxy: str, picture: Path, *, p2p: bool = False) -> None:
        self.outcomes: list[Outcome] = []
        self.asked = 0
        self._proxy = proxy
        self._p2p = p2p
        self._hosts = itertools.cycle([proxy])
        self._hosts_until = 0.0
        self._image = picture.read_bytes()
        self._digit = picture.stem
        self._client = httpx.Client(timeout=PATIENCE)
        self._pool = ThreadPoolExecutor(RATE)
        self._over = threading.Event()
        self._pacer = threading.Thread(target=self._keep_asking, name="traffic")

    def __enter__(self) -> Traffic:
        self._pacer.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._pacer.join()
        self._pool.shutdown()
        self._client.close()

    def answered_by(self) -> Counter[str]:
        """How many right answers each worker gave so far."""
        return Counter(outcome.worker for outcome in tuple(self.outcomes) if not outcome.problem)

    def problems(self) -> list[Outcome]:
        """What went wrong."""
        return [outcome for outcome in self.outcomes if outcome.problem]

    def slowest(self) -> float:
        """Seconds that the slowest request took."""
        return max(outcome.seconds for outcome in self.outcomes)

    def _keep_asking(self) -> None:
        due = time.monotonic()
        while not self._over.wait(due - time.monotonic()):
            if self._p2p and time.monotonic() >= self._hosts_until:
                self._learn_addresses()
            self._pool.submit(self._ask, next(self._hosts))
            self.asked += 1
            due += 1 / RATE

    def _learn_addresses(self) -> None:
        answer = self._client.get(self._proxy, headers={"Accept": "application/json"}).json()
        self._hosts = itertools.cycle(f"http://{address}" for address in (answer["address"], *answer["alternates"]))
        self._hosts_until = time.monotonic() + answer["ttl"]

    def _ask(self, host: str) -> None:
        start = time.monotonic()
        worker = problem = ""
        try:
            answer = self._client.post(f"{host}/classify", files={"data": self._image})
            worker = answer.headers.get("X-Served-By", "")
            if answer.status_code != 200 or answer.json()["predictions"][0]["label"] != self._digit:
                problem = f"{answer.status_code} {answer.text}"
        except httpx.HTTPError as error:
            problem = repr(error)
        self.outcomes.append(Outcome(start, time.monotonic() - start, worker, problem))

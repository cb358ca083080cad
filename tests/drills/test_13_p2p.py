"""13. Addresses that are handed out, while workers are killed."""

from __future__ import annotations

import http.client
import json
import threading
import time
from contextlib import closing
from typing import Any

import pytest

from muster.client import Client
from tests.drills.cluster import Cluster, form, until
from tests.drills.conftest import Figure
from tests.drills.machine import Machine, Took


def test_no_address_of_a_dead_worker_is_handed_out_once_it_is_found_dead(
    three: Cluster, machine: Machine, figure: Figure
) -> None:
    kills: list[_Kill] = []

    def kill(_: int) -> tuple[Took]:
        kills.append(_Kill(three, form(30, 4)))
        three.worker()
        return (kills[-1].took,)

    tries = machine.tries(form(3, 2), kill)
    between = [told for kill in kills for told in kill.between]
    figure(
        f"{sum(kill.count for kill in kills)} addresses, {len(kills)} workers killed; {len(between)} of a dead worker, "
        f"each recovered with its first alternate; none handed out later than "
        f"{max(took.seconds for (took,) in tries) * 1000:.1f} ms after the ejection, which took at most "
        f"{max(kill.ejected for kill in kills) * 1000:.0f} ms{machine.note}"
    )
    assert all(took.seconds <= took.limit for (took,) in tries)


class _Kill:
    """One worker is killed while addresses are asked for all the time and others use the proxy."""

    def __init__(self, cluster: Cluster, seconds: float) -> None:
        load = cluster.load(seconds)
        dead = cluster.workers.pop(0)
        address = f"127.0.0.1:{dead.port}"
        handed: list[tuple[float, float, dict[str, Any]]] = []  # when it was asked for, when it came
        stop = threading.Event()

        def ask() -> None:
            with closing(http.client.HTTPConnection("127.0.0.1", cluster.port, timeout=10)) as connection:
                while not stop.is_set():
                    asked = time.monotonic()
                    connection.request("GET", "/", headers={"Accept": "application/json"})
                    told = json.loads(connection.getresponse().read())
                    handed.append((asked, time.monotonic(), told))

        asking = threading.Thread(target=ask)
        asking.start()
        time.sleep(seconds / 4)
        killed = dead.kill()
        until(lambda: cluster.listed().get(dead.id, {"state": "gone"})["state"] != "ready", "it is ejected", 10)
        ejected = time.monotonic()
        time.sleep(seconds / 2)
        stop.set()
        asking.join()
        load.wait().without_failures()
        self.count = len(handed)
        self.between = [told for asked, _, told in handed if asked >= killed and told["address"] == address]
        for told in self.between:
            _recovers(told)
        last = max(
            (came for asked, came, told in handed if asked >= killed and told["address"] == address), default=0.0
        )
        self.took = Took(ejected, max(last, ejected), 0.020)
        self.ejected = ejected - killed


def _recovers(told: dict[str, Any]) -> None:
    """What a client does with an address: nobody answers there, so it asks the first of the alternates."""
    with pytest.raises(ConnectionRefusedError):
        _post(told["address"])
    assert _post(told["alternates"][0]) == 200


def _post(address: str) -> int:
    host, _, port = address.rpartition(":")
    with closing(http.client.HTTPConnection(host, int(port), timeout=5)) as connection:
        connection.request("POST", "/classify", b"x" * 1000)
        return connection.getresponse().status


def test_the_client_library_gets_over_a_dead_worker_by_itself(three: Cluster, figure: Figure) -> None:
    tries = form(300, 60)
    with Client(three.url) as client:
        for number in range(tries):
            if number == tries // 3:
                three.workers[0].kill()
            assert client.predict("drill", [1.0], p2p=True)
    figure(f"{tries} requests of the client library to workers themselves, one killed meanwhile: none failed")

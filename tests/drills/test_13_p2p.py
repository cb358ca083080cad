"""13. Addresses that are handed out, while workers are killed."""

from __future__ import annotations

import http.client
import json
import threading
import time
from contextlib import closing

from muster.client import Client
from tests.drills.cluster import Cluster, form, until
from tests.drills.conftest import Figure


def test_no_address_of_a_dead_worker_is_handed_out_once_it_is_found_dead(three: Cluster, figure: Figure) -> None:
    load = three.load(form(30, 6), rate=100)
    dead = three.workers[0]
    address = f"127.0.0.1:{dead.port}"
    handed: list[tuple[float, dict[str, object]]] = []  # when it was asked for
    stop = threading.Event()

    def ask() -> None:
        with closing(http.client.HTTPConnection("127.0.0.1", three.port, timeout=10)) as connection:
            while not stop.is_set():
                asked = time.monotonic()
                connection.request("GET", "/", headers={"Accept": "application/json"})
                handed.append((asked, json.loads(connection.getresponse().read())))

    asking = threading.Thread(target=ask)
    asking.start()
    time.sleep(1)
    killed = dead.kill()
    until(lambda: three.listed().get(dead.id, {"state": "gone"})["state"] != "ready", "it is ejected", 10)
    ejected = time.monotonic()
    time.sleep(2.5)
    stop.set()
    asking.join()
    outcome = load.stop()
    between = [told for asked, told in handed if asked >= killed and told["address"] == address]
    later = [asked - ejected for asked, told in handed if asked > ejected and told["address"] == address]
    alternates = [told["alternates"] for told in between]
    figure(
        f"{len(handed)} addresses, {len(between)} of the dead worker before it was ejected "
        f"({(ejected - killed) * 1000:.0f} ms), each with a live alternate; {len(later)} afterwards"
    )
    outcome.without_failures()
    assert all(time_ <= 0.020 for time_ in later)
    assert all(isinstance(others, list) and others and others[0] != address for others in alternates)


def test_the_client_library_gets_over_a_dead_worker_by_itself(three: Cluster, figure: Figure) -> None:
    tries = form(300, 60)
    with Client(three.url) as client:
        for number in range(tries):
            if number == tries // 3:
                three.workers[0].kill()
            assert client.predict("drill", [1.0], p2p=True)
    figure(f"{tries} requests of the client library to workers themselves, one killed meanwhile: none failed")

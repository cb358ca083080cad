"""What people and machines may look at: the roster as JSON, the dashboard. Reads all and changes nothing."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from importlib import resources
from typing import Any

from discovery.worker_json import to_json
from proxy.metrics import View, state_of
from proxy.roster import Roster
from proxy.seats import Seat


def roster_json(view: View) -> dict[str, Any]:
    """`/workers`: every listed worker as it announced itself, and what this process has seen of it."""
    roster = view.commons.roster
    return {
        "workers": [
            to_json(seat.worker)
            | {"address": seat.worker.address, "url": seat.worker.url, "state": state_of(roster, seat)}
            | _seen(roster, seat)
            for seat in roster.seats
        ],
        "registry": {"contact_age": view.registry.contact_age, "stale": view.prober.stale},
    }


def _seen(roster: Roster, seat: Seat) -> dict[str, Any]:
    health, left = seat.health, roster.fitness.rest_left(seat)
    return {
        "in_flight": seat.in_flight,
        "in_flight_limit": seat.limit,
        "picks": seat.picks,
        "failures": seat.failures,
        "share": round(seat.share, 3),
        "latency": None if health.latency is None else round(health.latency, 4),
        "rests_for": round(left, 3),
        "reason": health.reason if left else "",
    }


_OF_A_PROCESS = ("state", "in_flight", "in_flight_limit", "picks", "failures", "share", "rests_for", "reason")


def joint_roster(by_process: Mapping[int, dict[str, Any]]) -> dict[str, Any]:
    """`/workers` of several processes: numbers are added up, the worst state counts, and who saw what stands below."""
    first = next(iter(by_process.values()))
    workers: dict[str, dict[str, Any]] = {}
    for number, told in by_process.items():
        for each in told["workers"]:
            whole = workers.setdefault(each["id"], each | {"processes": {}})
            whole["processes"][str(number)] = {key: each[key] for key in _OF_A_PROCESS}
    for whole in workers.values():
        parts = whole["processes"].values()
        for key in ("in_flight", "in_flight_limit", "picks"):
            whole[key] = sum(part[key] for part in parts)
        worst = max(parts, key=lambda part: (part["state"] != "ready", part["rests_for"]))
        whole |= {key: worst[key] for key in ("state", "failures", "share", "rests_for", "reason")}
    return {"workers": list(workers.values()), "registry": first["registry"]}


def dashboard() -> tuple[str, str]:
    """The page for browsers, and the Content-Security-Policy that lets its script and style run and nothing else."""
    page = (resources.files("proxy") / "static" / "dashboard.html").read_text("utf-8")

    def allowed(tag: str) -> str:
        content = re.search(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        digest = hashlib.sha256(content[1].encode() if content else b"").digest()
        return f"'sha256-{base64.b64encode(digest).decode()}'"

    policy = (
        f"default-src 'none'; script-src {allowed('script')}; style-src {allowed('style')}; connect-src 'self'; "
        "img-src blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return page, policy

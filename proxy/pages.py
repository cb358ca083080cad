"""What people and machines may look at: the roster as JSON, metrics, the dashboard. Reads all and changes nothing."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable, Sequence
from importlib import resources
from itertools import accumulate
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from discovery.registry import Registry
from discovery.worker_json import to_json
from proxy.commons import Commons
from proxy.roster import Roster
from proxy.seats import Seat
from proxy.stats import BUCKETS


def state_of(roster: Roster, seat: Seat) -> str:
    """`ready`; `resting` after a failure; `empty` for a worker that has no model at the moment."""
    if seat.worker.empty:
        return "empty"
    return "resting" if roster.resting(seat) else "ready"


def roster_json(commons: Commons, registry: Registry) -> dict[str, Any]:
    """`/workers`: every listed worker as it announced itself, and what this proxy has seen of it."""
    roster = commons.roster
    return {
        "workers": [
            to_json(seat.worker)
            | {
                "address": seat.worker.address,
                "url": seat.worker.url,
                "state": state_of(roster, seat),
                "in_flight": seat.in_flight,
                "picks": seat.picks,
                "failures": seat.failures,
            }
            for seat in roster.seats
        ],
        "registry": {"contact_age": registry.contact_age},
    }


class Metrics(Collector):
    """The relay's counters and the roster, as Prometheus wants them, made when it asks."""

    def __init__(self, commons: Commons, registry: Registry) -> None:
        self._commons = commons
        self._registry = registry

    def collect(self) -> Iterable[Metric]:
        """All families."""
        yield from self._requests()
        yield from self._workers()

    def _requests(self) -> Iterable[Metric]:
        commons, stats = self._commons, self._commons.stats
        answers = CounterMetricFamily("muster_proxy_responses", "Answers sent to clients", labels=["status"])
        for status, count in stats.statuses.items():
            answers.add_metric([str(status)], count)
        yield answers
        yield _histogram(
            "muster_proxy_request_seconds", "Time from a request's head to the end of its answer",
            stats.latencies, stats.seconds,
        )  # fmt: skip
        calls = CounterMetricFamily("muster_proxy_grpc_responses", "gRPC calls that ended", labels=["code"])
        for code, count in stats.grpc_codes.items():
            calls.add_metric([code], count)
        yield calls
        yield _histogram(
            "muster_proxy_grpc_seconds", "Time from a gRPC call's request to the end of its answer",
            stats.grpc_latencies, stats.grpc_seconds,
        )  # fmt: skip
        failures = CounterMetricFamily("muster_proxy_failed_attempts", "Failed attempts at a worker", labels=["reason"])
        for failure, count in stats.failures.items():
            failures.add_metric([failure.name.lower()], count)
        yield failures
        yield CounterMetricFamily("muster_proxy_cancelled", "Clients that left before their answer", stats.cancelled)
        yield CounterMetricFamily("muster_proxy_truncated", "Answers that a worker broke off half-way", stats.truncated)
        yield GaugeMetricFamily("muster_proxy_connections", "Clients' connections", commons.connections)
        yield GaugeMetricFamily("muster_proxy_replay_bytes", "Bodies kept to be sent again", commons.replay.used)

    def _workers(self) -> Iterable[Metric]:
        roster = self._commons.roster
        in_flight = GaugeMetricFamily("muster_proxy_in_flight", "Requests under way at a worker", labels=["worker"])
        picks = CounterMetricFamily("muster_proxy_picks", "Times that a worker was chosen", labels=["worker"])
        states = {"ready": 0, "resting": 0, "empty": 0}
        for seat in roster.seats:
            in_flight.add_metric([seat.worker.id], seat.in_flight)
            picks.add_metric([seat.worker.id], seat.picks)
            states[state_of(roster, seat)] += 1
        workers = GaugeMetricFamily("muster_proxy_workers", "Listed workers", labels=["state"])
        for state, count in states.items():
            workers.add_metric([state], count)
        yield from (in_flight, picks, workers)
        age = self._registry.contact_age
        if age is not None:
            yield GaugeMetricFamily("muster_proxy_registry_age_seconds", "Time since the registry last answered", age)


def _histogram(name: str, sentence: str, counts: Sequence[int], seconds: float) -> Metric:
    limits = [*map(str, BUCKETS), "+Inf"]
    return HistogramMetricFamily(
        name, sentence, buckets=list(zip(limits, accumulate(counts), strict=True)), sum_value=seconds
    )


def metrics_registry(commons: Commons, registry: Registry) -> CollectorRegistry:
    """A Prometheus registry of the proxy's own metrics."""
    collectors = CollectorRegistry()
    collectors.register(Metrics(commons, registry))
    return collectors


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

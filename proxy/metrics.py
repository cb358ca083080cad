"""What the proxy counts, as Prometheus wants it: families made when somebody asks, of one process or of several."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from prometheus_client import generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector, CollectorRegistry

from discovery.registry import Registry
from proxy.commons import Commons
from proxy.probes import Prober
from proxy.roster import Roster
from proxy.seats import Seat
from proxy.stats import BUCKETS

PREFIX = "muster_proxy_"
Plain = list[Any]
"""A family as JSON: name, help, type, and the samples, each a name, labels and a value."""


@dataclass(frozen=True, slots=True)
class View:
    """All that can be looked at."""

    commons: Commons
    registry: Registry
    prober: Prober


def state_of(roster: Roster, seat: Seat) -> str:
    """`ready`; `resting` after failures; `empty` for a worker that has no model at the moment."""
    if seat.worker.empty:
        return "empty"
    return "resting" if roster.fitness.resting(seat) else "ready"


def families(view: View) -> Iterator[Metric]:
    """This process's."""
    yield from _requests(view.commons)
    yield from _attempts(view.commons)
    yield from _queue(view.commons)
    yield from _connections(view.commons)
    yield from _workers(view.commons.roster)
    yield _by("probes", "Questions to workers how they are", "result",
              {finding.name.lower(): count for finding, count in view.prober.results.items()})  # fmt: skip
    age = view.registry.contact_age
    if age is not None:
        yield _gauge("registry_age_seconds", "Time since the registry last answered", age)
    yield _gauge("registry_stale", "1 while the registry has been silent for too long", int(view.prober.stale))


def _requests(commons: Commons) -> Iterator[Metric]:
    stats = commons.stats
    yield _by("responses", "Answers sent to clients", "status", stats.statuses)
    yield _histogram("request_seconds", "Time from a request's head to the end of its answer",
                     stats.latencies, stats.seconds)  # fmt: skip
    yield _by("grpc_responses", "gRPC calls that ended", "code", stats.grpc_codes)
    yield _histogram("grpc_seconds", "Time from a gRPC call's request to the end of its answer",
                     stats.grpc_latencies, stats.grpc_seconds)  # fmt: skip
    yield _counter("cancelled", "Clients that left before their answer", stats.cancelled)
    yield _counter("truncated", "Answers that a worker broke off half-way", stats.truncated)
    if commons.access is not None:
        yield _counter("access_log_dropped", "Lines of the access log that were lost", commons.access.dropped)


def _attempts(commons: Commons) -> Iterator[Metric]:
    stats, retries = commons.stats, commons.retries
    yield _counter("requests", "Requests and calls that came for workers", retries.requests)
    failures = {failure.name.lower(): count for failure, count in stats.failures.items()}
    yield _by("failed_attempts", "Failed attempts at a worker", "reason", failures)
    yield _counter("retries", "Requests that were sent again, to another worker", retries.spent)
    yield _counter("retries_refused", "Requests that the budget did not let be sent again", retries.refused)
    yield _gauge("retry_budget", "Requests that may be sent again now", retries.left)
    yield _counter("hedges", "Second attempts beside a slow first one", stats.hedges)
    yield _counter("hedges_won", "Second attempts that were answered first", stats.hedges_won)
    yield _gauge("replay_bytes", "Bodies kept to be sent again", commons.replay.used)


def _queue(commons: Commons) -> Iterator[Metric]:
    line = commons.roster.line
    if line is not None:
        yield _gauge("queue", "Requests that wait for a worker with room", len(line))
        yield _counter("queue_waits", "Requests that had to wait", line.waits)
        yield _counter("queue_seconds", "Time that those waited that got a worker", line.seconds)
        yield _counter("queue_refused", "Requests turned away because too many waited", line.refused)
        yield _counter("queue_timeouts", "Requests that waited in vain", line.timeouts)


def _connections(commons: Commons) -> Iterator[Metric]:
    yield _gauge("connections", "Clients' connections", commons.connections)
    yield _gauge("tasks", "Tasks of the event loop: a request for a worker needs none", len(asyncio.all_tasks()))
    yield _by("connections_refused", "Connections turned away", "limit", commons.stats.connections_refused)
    yield _gauge("grpc_calls", "gRPC calls under way", commons.grpc_calls)
    yield _gauge("grpc_bytes", "Messages of gRPC calls that are here", commons.grpc_bytes)
    yield _by("grpc_refused", "gRPC calls turned away", "limit", commons.stats.grpc_refused)
    yield _counter("connections_evicted", "Idle connections closed to make room", commons.stats.connections_evicted)


def _workers(roster: Roster) -> Iterator[Metric]:
    states = {"ready": 0, "resting": 0, "empty": 0}
    for seat in roster.seats:
        states[state_of(roster, seat)] += 1
    yield _by("workers", "Listed workers", "state", states, kind=GaugeMetricFamily)
    gauge = GaugeMetricFamily
    by_id = {seat.worker.id: seat for seat in roster.seats}
    under_way = {id_: seat.in_flight for id_, seat in by_id.items()}
    yield _by("in_flight", "Requests under way at a worker", "worker", under_way, kind=gauge)
    limits = {id_: seat.limit for id_, seat in by_id.items()}
    yield _by("in_flight_limit", "Requests that a worker may have under way", "worker", limits, kind=gauge)
    shares = {id_: seat.share for id_, seat in by_id.items()}
    yield _by("share", "Part of its weight that a worker gets", "worker", shares, kind=gauge)
    picks = {id_: seat.picks for id_, seat in by_id.items()}
    yield _by("picks", "Times that a worker was chosen", "worker", picks)
    yield _by("ejections", "Times that a worker began to rest", "reason", roster.fitness.ejections)


def _counter(name: str, sentence: str, value: float) -> Metric:
    return CounterMetricFamily(PREFIX + name, sentence, value)


def _gauge(name: str, sentence: str, value: float) -> Metric:
    return GaugeMetricFamily(PREFIX + name, sentence, value)


def _by(
    name: str,
    sentence: str,
    label: str,
    values: Mapping[Any, float],
    kind: type[CounterMetricFamily | GaugeMetricFamily] = CounterMetricFamily,
) -> Metric:
    family = kind(PREFIX + name, sentence, labels=[label])
    for key, value in values.items():
        family.add_metric([str(key)], value)
    return family


def _histogram(name: str, sentence: str, counts: Sequence[int], seconds: float) -> Metric:
    limits = [*map(str, BUCKETS), "+Inf"]
    return HistogramMetricFamily(
        PREFIX + name, sentence, buckets=list(zip(limits, accumulate(counts), strict=True)), sum_value=seconds
    )


# Several processes


def plain(metrics: Iterable[Metric]) -> list[Plain]:
    """Families as JSON."""
    return [
        [one.name, one.documentation, one.type, [[each.name, each.labels, each.value] for each in one.samples]]
        for one in metrics
    ]


def merged(by_process: Mapping[int, Sequence[Plain]]) -> Iterator[Metric]:
    """The families of several processes, in which each sample says whose it is.

    Nothing is added up: a process that is started again begins at zero, as a counter of Prometheus may, and a sum would
    not. `sum without (process) (rate(…))` is the sum that means something.
    """
    known: dict[str, Metric] = {}
    for number, told in by_process.items():
        for name, sentence, kind, samples in told:
            family = known.get(name)
            if family is None:
                family = known[name] = Metric(name, sentence, kind)
            for sample, labels, value in samples:
                family.add_sample(sample, {**labels, "process": str(number)}, value)
    yield from known.values()


class _Once(Collector):
    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = list(metrics)

    def collect(self) -> Iterable[Metric]:
        return self._metrics


def text(metrics: Iterable[Metric]) -> bytes:
    """As Prometheus reads it."""
    registry = CollectorRegistry()
    registry.register(_Once(metrics))
    return generate_latest(registry)


def processes(answering: int, of: int) -> Metric:
    """How many of the processes are in what is shown."""
    return _by("processes", "Proxy processes, and how many of them these figures are of", "state",
               {"answering": answering, "meant": of}, kind=GaugeMetricFamily)  # fmt: skip


def starts(by_reason: Mapping[str, int]) -> Metric:
    """How often there was a new process of this number."""
    return _by("process_starts", "Starts of a proxy process, by what became of the one before", "reason", by_reason)

"""What the relay counts, as plain numbers: cheap to keep on the hot path, turned into metrics when somebody asks."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter

from proxy.dispatch import Failure

BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper limits of the latency histogram, in seconds; what is above the last counts as +Inf."""


class Stats:
    """Counts since the start of the process."""

    def __init__(self) -> None:
        self.statuses: Counter[int] = Counter()  # answers sent, by HTTP status
        self.latencies = [0] * (len(BUCKETS) + 1)
        self.seconds = 0.0  # sum of all latencies
        self.grpc_codes: Counter[str] = Counter()  # gRPC calls, by the name of their code
        self.grpc_latencies = [0] * (len(BUCKETS) + 1)
        self.grpc_seconds = 0.0
        self.grpc_refused: Counter[str] = Counter()  # calls turned away, by the limit: `all`, `peer` or `memory`
        self.failures: Counter[Failure] = Counter()  # failed attempts, by kind
        self.hedges = 0  # second attempts because the first took long
        self.hedges_won = 0  # of which the answer counted
        self.connections_refused: Counter[str] = Counter()  # by the limit that it was: `all` or `peer`
        self.connections_evicted = 0  # idle ones, to make room
        self.cancelled = 0  # clients that left before their answer
        self.truncated = 0  # answers that a worker broke off half-way

    def answered(self, status: int, seconds: float) -> None:
        """One answer is complete, `seconds` after its request's head arrived."""
        self.statuses[status] += 1
        self.latencies[bisect_left(BUCKETS, seconds)] += 1
        self.seconds += seconds

    def grpc_answered(self, code: str, seconds: float) -> None:
        """One gRPC call ended with this code, `seconds` after it began."""
        self.grpc_codes[code] += 1
        self.grpc_latencies[bisect_left(BUCKETS, seconds)] += 1
        self.grpc_seconds += seconds

    def refused(self, status: int) -> None:
        """The proxy itself answered with an error; its latency is not a worker's."""
        self.statuses[status] += 1

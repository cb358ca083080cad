"""The proxy's settings: each one a flag, a `PROXY_…` variable and a line of `--help`."""

from __future__ import annotations

from dataclasses import dataclass

from muster.settings import log_level, port, setting, size
from muster.wire import PROXY_GRPC_PORT, PROXY_PORT, SERVICE
from proxy.balancing import STRATEGIES, strategy
from proxy.request_heads import MAX_HEADERS

MAX_PROCESSES = 128


def access_log(text: str) -> str:
    """`text`, `json` or `off`, in any case. ValueError otherwise."""
    if text.lower() not in ("text", "json", "off"):
        raise ValueError(f"{text!r} is not text, json or off")
    return text.lower()


def positive(text: str) -> int:
    """A whole number from 1 up. ValueError if it is not one."""
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"{text!r} is not a whole number from 1 up")
    return int(text)


def processes(text: str) -> int:
    """A number of processes. ValueError if it makes no sense."""
    number = positive(text)
    if number > MAX_PROCESSES:
        raise ValueError(f"{text!r} is more than {MAX_PROCESSES} processes")
    return number


def part(text: str) -> float:
    """A number from 0 to 1. ValueError if it is not one."""
    value = float(text)
    if not 0 <= value <= 1:
        raise ValueError(f"{text!r} is not a number from 0 to 1")
    return value


@dataclass(frozen=True, slots=True)
class ProxySettings:
    """The reverse proxy: sends requests to the workers that are fit to serve, and hands out their addresses."""

    host: str = setting("0.0.0.0", "address to listen on")  # noqa: S104  # a proxy is there to be reached
    grpc: bool = setting(True, "pass on gRPC, too")
    grpc_port: int = setting(PROXY_GRPC_PORT, "port for gRPC; 0 takes a free one", parse=port)
    port: int = setting(PROXY_PORT, "port to listen on", parse=port)
    processes: int = setting(1, "proxy processes that share the ports; more than one for more than one core",
                             parse=processes)  # fmt: skip
    registry: str = setting("consul", "where workers are listed: consul[://HOST:PORT], embedded[://HOST:PORT] or "
                                      "static://HOST:PORT,HOST:PORT")  # fmt: skip
    registry_stale: float = setting(15.0, "silence of the registry after which workers are asked themselves whether "
                                          "they are well", unit="seconds")  # fmt: skip
    service: str = setting(SERVICE, "name of the service in Consul")
    p2p: bool = setting(True, "hand out workers' addresses on / and redirect /p2p/ to them")
    p2p_ttl: float = setting(1.0, "how long a client may keep a worker's address; less than the workers' drain delay",
                             unit="seconds")  # fmt: skip
    max_head: int = setting(16384, "largest head of a request or response", unit="bytes", parse=size)
    max_headers: int = setting(MAX_HEADERS, "headers that a request may have", parse=positive)
    max_body: int = setting(4 * 2**30, "largest body of a request", unit="bytes", parse=size)
    replay_body: int = setting(8 * 2**20, "largest body that is kept so that it can be sent again", unit="bytes",
                               parse=size)  # fmt: skip
    replay_total: int = setting(256 * 2**20, "memory for all bodies that are kept to be sent again, and as much for "
                                             "the messages of gRPC", unit="bytes", parse=size)  # fmt: skip
    max_connections: int = setting(8192, "clients' connections in all; one more makes idle ones close, or is refused",
                                   parse=positive)  # fmt: skip
    max_connections_per_peer: int = setting(4096, "connections of one client's address", parse=positive)
    connect_timeout: float = setting(1.0, "how long a worker may take to accept a connection", unit="seconds")
    response_timeout: float = setting(60.0, "how long a worker may stay silent while it owes an answer", unit="seconds")
    retry_budget: float = setting(0.2, "requests that may be sent again after a failure, as a part of those that came "
                                       "in the last 10 seconds, 0 to 1; 0 sends none again", parse=part)  # fmt: skip
    hedge_after: float = setting(0.0, "how long a worker that promised that it is safe may take to begin its answer "
                                      "before another is asked as well; 0 asks no other", unit="seconds")  # fmt: skip
    tunnel_idle: float = setting(600.0, "how long a WebSocket may stay silent", unit="seconds")
    header_timeout: float = setting(15.0, "how long a client may take to send a request's head", unit="seconds")
    body_timeout: float = setting(30.0, "how long a client may take to send a request's body; a second more for each "
                                        "16 KiB that arrived", unit="seconds")  # fmt: skip
    write_timeout: float = setting(30.0, "how long a client may refuse to take its answer", unit="seconds")
    idle_timeout: float = setting(75.0, "how long a client's connection may stay idle", unit="seconds")
    upstream_idle: float = setting(30.0, "how long an idle connection to a worker is kept; shorter than the worker's "
                                         "own limit", unit="seconds")  # fmt: skip
    rest: float = setting(1.0, "how long a worker is left alone after a failure; doubled with each in a row",
                          unit="seconds")  # fmt: skip
    rest_longest: float = setting(30.0, "longest time that a worker is left alone", unit="seconds")
    max_ejected: float = setting(0.5, "part of the workers, 0 to 1, that may be left alone because of their answers; "
                                      "those that cannot be reached are left alone in any case",
                                 parse=part)  # fmt: skip
    max_errors: int = setting(5, "5xx answers in a row after which a worker is left alone")
    max_error_rate: float = setting(0.5, "part of a worker's answers within 10 seconds, 0 to 1, that may be 5xx before "
                                         "it is left alone", parse=part)  # fmt: skip
    slow_start: float = setting(10.0, "how long the share of a worker that comes back grows", unit="seconds")
    strategy: str = setting("round-robin", f"which worker is next: {', '.join(STRATEGIES)}", parse=strategy)
    max_in_flight: int = setting(1024, "requests under way at a worker that does not say how many it takes")
    queue: int = setting(128, "requests that may wait while every worker is full")
    queue_timeout: float = setting(2.0, "how long a request may wait while every worker is full", unit="seconds")
    drain_timeout: float = setting(30.0, "how long requests under way may take to finish when the proxy stops",
                                   unit="seconds")  # fmt: skip
    access_log: str = setting("text", "a line on standard output for each request: text, json or off",
                              parse=access_log)  # fmt: skip
    log_level: str = setting("info", "debug, info, warning or error", parse=log_level)

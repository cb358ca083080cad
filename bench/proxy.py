"""What a proxied request costs: muster, nginx and HAProxy in front of the same two workers, in one run.

    make bench-proxy            or      python -m bench.proxy --seconds 4 --rounds 3 [--json] [GET …]

The workers are faked by nginx, which answers anything at once, so that the proxy is all that is measured. Every proxy
gets one process or thread, and the rounds are interleaved, because a machine's speed drifts. The figure to compare is
CPU time per request (user + system, of the proxy alone): unlike requests per second it hardly depends on how many cores
are left for the others. What an address costs (P2P), and by how much an answer comes later than from the worker itself,
are measured in the same run; the latter means something only on a machine that has nothing else to do. Needs nginx,
haproxy and wrk (Debian's packages of these names). Loopback only.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil
from rich.console import Console
from rich.progress import track
from rich.table import Table

from tests.consul_agent import free_ports

MANY = 200  # workers


@dataclass(frozen=True)
class Case:
    """One kind of load, and what muster may cost under it as a multiple of what HAProxy costs in the same run."""

    name: str
    limit: float
    size: int = 0  # bytes of body, 0: a GET
    connections: int = 16
    many: bool = False  # workers


CASES = (
    Case("GET", 2.0),
    Case("POST 1 kB", 35 / 15, size=1_000),
    Case("POST 100 kB", 1.0, size=100_000),
    Case("POST 1 MB", 0.6, size=1_000_000),
    Case("GET, 1 connection", 2.0, connections=1),
    Case("GET, 512 connections", 2.0, connections=512),
    Case(f"GET, {MANY} workers", 2.0, many=True),
)
ALONE = Case("POST 100 kB, 1 connection", 0.0, size=100_000, connections=1)
LATER = {"p50": 0.1, "p99": 0.4}
"""Milliseconds by which an answer to `ALONE` may come later than from the worker itself."""
ADDRESSES = {"text": "*/*", "JSON": "application/json"}
ADDRESS_RATE = 15_000  # addresses a second and core

WRK_POST = 'wrk.method = "POST"\nwrk.body = string.rep("x", {size})\n'


@dataclass(frozen=True)
class Sample:
    """One proxy under one load."""

    proxy: str
    case: str
    cpu: float  # microseconds a request
    rate: float  # requests a second
    p50: float  # milliseconds
    p99: float


@dataclass(frozen=True)
class Server:
    """Somebody who can be asked."""

    process: psutil.Process
    port: int
    folder: Path


PROXIES = ("nginx", "HAProxy", "muster")


def nginx_workers(ports: list[int]) -> str:
    listen = "".join(f"listen 127.0.0.1:{port};" for port in ports)
    return nginx(f'server {{ {listen} location / {{ default_type text/plain; return 200 "hello\\n"; }} }}')


def nginx_proxy(port: int, workers: list[int]) -> str:
    servers = "".join(f"server 127.0.0.1:{worker};" for worker in workers)
    return nginx(
        f"upstream workers {{ {servers} keepalive 64; }} "
        f"server {{ listen 127.0.0.1:{port}; location / {{"
        'proxy_pass http://workers; proxy_http_version 1.1; proxy_set_header Connection ""; '
        "proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; } }"
    )


def nginx(server: str) -> str:
    temporary = "".join(f"{kind}_temp_path {kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    return (
        "daemon off; worker_processes 1; pid pid; error_log error.log; events { worker_connections 4096; }"
        "http { access_log off; keepalive_requests 100000000; client_max_body_size 0; client_body_buffer_size 2m;"
        f"{temporary} {server} }}"
    )


def haproxy(port: int, workers: list[int]) -> str:
    servers = "".join(f"  server w{worker} 127.0.0.1:{worker}\n" for worker in workers)
    return (
        "global\n  nbthread 1\n  maxconn 4096\ndefaults\n  mode http\n  timeout connect 5s\n  timeout client 60s\n"
        f"  timeout server 60s\n  option forwardfor\nfrontend front\n  bind 127.0.0.1:{port}\n  default_backend back\n"
        f"backend back\n  balance roundrobin\n  http-reuse always\n{servers}"
    )


@contextmanager
def running(command: list[str], ports: list[int], folder: Path) -> Iterator[psutil.Process]:
    """Run a server until the block ends; the block starts when its ports answer."""
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
    try:
        for port in ports:
            wait_for(port, process, folder)
        yield psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait(10)


def wait_for(port: int, process: subprocess.Popen[bytes], folder: Path) -> None:
    deadline = time.monotonic() + 15
    while subprocess.run(["curl", "-so", os.devnull, f"http://127.0.0.1:{port}/"], check=False).returncode:
        if process.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"{process.args!r} does not listen on {port}: {(folder / 'log').read_text()[-500:]}")
        time.sleep(0.05)


def cpu_seconds(process: psutil.Process) -> float:
    """User and system time of a process and its children so far."""
    family = [process, *process.children(recursive=True)]
    return sum(sum(member.cpu_times()[:2]) for member in family)


def measure(name: str, server: Server, case: Case, seconds: int, path: str = "/x", accept: str = "*/*") -> Sample:
    script = server.folder / "post.lua"
    script.write_text(WRK_POST.format(size=case.size) if case.size else "")
    before = cpu_seconds(server.process)
    out = subprocess.run(
        ["wrk", "-t1", f"-c{case.connections}", f"-d{seconds}", "--latency", "-s", str(script), "-H",
         f"Accept: {accept}", f"http://127.0.0.1:{server.port}{path}"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    spent = cpu_seconds(server.process) - before
    done = re.search(r"(\d+) requests in", out)
    if done is None or "Non-2xx" in out or "Socket errors" in out:
        raise SystemExit(f"{name} failed under {case.name}:\n{out}")
    requests = int(done[1])
    return Sample(name, case.name, spent / requests * 1e6, requests / seconds, percentile(out, 50), percentile(out, 99))


def percentile(out: str, which: int) -> float:
    """wrk's latency, in milliseconds."""
    found = re.search(rf"{which}%\s+([\d.]+)(us|ms|s)\b", out)
    assert found is not None
    return float(found[1]) * {"us": 0.001, "ms": 1.0, "s": 1000.0}[found[2]]


def programs(port: int, workers: list[int]) -> dict[str, tuple[list[str], str]]:
    """The command of each proxy, and its configuration."""
    registry = "static://" + ",".join(f"127.0.0.1:{worker}" for worker in workers)
    ours = [sys.executable, "-m", "proxy", "--host", "127.0.0.1", "--port", str(port), "--no-grpc",
            "--registry", registry, "--log-level", "warning"]  # fmt: skip
    return {
        "nginx": (["nginx", "-p", ".", "-c", "conf"], nginx_proxy(port, workers)),
        "HAProxy": (["haproxy", "-db", "-f", "conf"], haproxy(port, workers)),
        "muster": (ours, ""),
    }


@contextmanager
def everything() -> Iterator[tuple[dict[tuple[str, bool], Server], Server]]:
    """Every proxy in front of two workers and, apart from that, of many; and the workers themselves."""
    with ExitStack() as life:
        root = Path(life.enter_context(tempfile.TemporaryDirectory(prefix="muster-bench-")))

        def start(name: str, command: list[str], conf: str, ports: list[int]) -> Server:
            folder = root / name
            folder.mkdir()
            (folder / "conf").write_text(conf)
            return Server(life.enter_context(running(command, ports, folder)), ports[0], folder)

        workers = free_ports(MANY)
        origin = start("workers", ["nginx", "-p", ".", "-c", "conf"], nginx_workers(workers), workers)
        servers = {}
        for many in (False, True):
            for name in PROXIES:
                (port,) = free_ports(1)
                command, conf = programs(port, workers if many else workers[:2])[name]
                servers[name, many] = start(f"{name}-{many}", command, conf, [port])
        yield servers, origin


def run(cases: Sequence[Case], seconds: int, rounds: int, console: Console) -> list[Sample]:
    with everything() as (servers, origin):
        plan: list[Callable[[], Sample]] = []
        for _ in range(rounds):
            plan += [
                partial(measure, name, servers[name, case.many], case, seconds) for case in cases for name in PROXIES
            ]
            plan += [partial(measure, name, servers[name, False], ALONE, seconds) for name in PROXIES]
            plan.append(partial(measure, "nobody", origin, ALONE, seconds))
            for form, accept in ADDRESSES.items():
                asking = Case(form, 0.0)
                plan.append(partial(measure, "muster", servers["muster", False], asking, seconds, "/", accept))
        return [one() for one in track(plan, "measuring", console=console, transient=True)]


def of(samples: Sequence[Sample], proxy: str, case: str) -> list[Sample]:
    """The rounds of one measurement, in their order."""
    return [sample for sample in samples if (sample.proxy, sample.case) == (proxy, case)]


def middle(samples: Sequence[Sample]) -> Sample:
    """The median round, by CPU time."""
    return sorted(samples, key=lambda sample: sample.cpu)[(len(samples) - 1) // 2]


def mark(fine: bool) -> str:
    return "" if fine else "  over"


def report(samples: Sequence[Sample], cases: Sequence[Case], console: Console) -> None:
    table = Table(title="CPU µs a request (requests/s; p50/p99 ms), median of the rounds")
    for column in ("", *PROXIES, "muster : HAProxy", "limit"):
        table.add_column(column, justify="right")
    for case in cases:
        rounds = {name: of(samples, name, case.name) for name in PROXIES}
        pairs = zip(rounds["muster"], rounds["HAProxy"], strict=True)
        ratio = statistics.median(ours.cpu / theirs.cpu for ours, theirs in pairs)
        cells = [f"{s.cpu:.1f} ({s.rate:,.0f}; {s.p50:.2f}/{s.p99:.2f})" for s in map(middle, rounds.values())]
        table.add_row(case.name, *cells, f"{ratio:.2f}", f"{case.limit:.2f}{mark(ratio <= case.limit)}")
    console.print(table)
    report_latency(samples, console)
    for form in ADDRESSES:
        sample = middle(of(samples, "muster", form))
        rate = 1e6 / sample.cpu
        console.print(
            f"an address as {form}: {sample.cpu:.1f} µs, {rate:,.0f} a second and core (at least {ADDRESS_RATE:,})"
            f"{mark(rate >= ADDRESS_RATE)}"
        )


def report_latency(samples: Sequence[Sample], console: Console) -> None:
    for percentage, limit in LATER.items():
        median = {
            name: statistics.median(getattr(sample, percentage) for sample in of(samples, name, ALONE.name))
            for name in (*PROXIES, "nobody")
        }
        added = {name: median[name] - median["nobody"] for name in PROXIES}
        console.print(
            f"{ALONE.name}, {percentage}: {median['nobody']:.2f} ms, and later by "
            + ", ".join(f"{later:.2f} ({name})" for name, later in added.items())
            + f"; limit {limit}{mark(added['muster'] <= limit)}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=4, help="length of one measurement (default: 4)")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each (default: 3)")
    parser.add_argument("--json", action="store_true", help="print all samples as JSON lines instead of a table")
    parser.add_argument("cases", nargs="*", help=f"only these of: {'; '.join(case.name for case in CASES)}")
    options = parser.parse_args()
    missing = [tool for tool in ("nginx", "haproxy", "wrk", "curl") if shutil.which(tool) is None]
    if missing:
        raise SystemExit(
            f"not installed: {', '.join(missing)} (on Debian: apt-get install nginx-light haproxy wrk curl)"
        )
    console = Console(stderr=options.json, width=150)
    cases = [case for case in CASES if case.name in (options.cases or {case.name})]
    samples = run(cases, options.seconds, options.rounds, console)
    if options.json:
        for sample in samples:
            print(json.dumps(vars(sample)))
    else:
        report(samples, cases, console)


if __name__ == "__main__":
    main()

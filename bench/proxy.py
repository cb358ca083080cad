"""What a proxied request costs: muster, nginx and HAProxy in front of the same two workers, in one run.

    make bench-proxy            or      python -m bench.proxy --seconds 4 --rounds 3 [--json]

The workers are faked by nginx, which answers anything at once, so that the proxy is all that is measured. Every proxy
gets one process or thread, and the rounds are interleaved, because a machine's speed drifts. The figure to compare is
CPU time per request (user + system, of the proxy alone): unlike requests per second it hardly depends on how many cores
are left for the others. Needs nginx, haproxy and wrk (Debian's packages of these names). Loopback only.
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
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
from rich.console import Console
from rich.progress import track
from rich.table import Table

from tests.consul_agent import free_ports

CASES = {"GET": 0, "POST 1 kB": 1_000, "POST 100 kB": 100_000, "POST 1 MB": 1_000_000}
LIMITS = {"GET": 35 / 15, "POST 1 kB": 40 / 15, "POST 100 kB": 60 / 49, "POST 1 MB": 320 / 519}
"""What muster may cost, as a multiple of what HAProxy costs in the same run."""

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


def measure(name: str, process: psutil.Process, port: int, case: str, seconds: int, folder: Path) -> Sample:
    script = folder / "post.lua"
    script.write_text(WRK_POST.format(size=CASES[case]) if CASES[case] else "")
    before = cpu_seconds(process)
    out = subprocess.run(
        ["wrk", "-t1", "-c16", f"-d{seconds}", "--latency", "-s", str(script), f"http://127.0.0.1:{port}/x"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    spent = cpu_seconds(process) - before
    done = re.search(r"(\d+) requests in", out)
    if done is None or "Non-2xx" in out or "Socket errors" in out:
        raise SystemExit(f"{name} failed under {case}:\n{out}")
    requests = int(done[1])
    return Sample(name, case, spent / requests * 1e6, requests / seconds, percentile(out, 50), percentile(out, 99))


def percentile(out: str, which: int) -> float:
    """wrk's latency, in milliseconds."""
    found = re.search(rf"{which}%\s+([\d.]+)(us|ms|s)\b", out)
    assert found is not None
    return float(found[1]) * {"us": 0.001, "ms": 1.0, "s": 1000.0}[found[2]]


def run(seconds: int, rounds: int, console: Console) -> list[Sample]:
    with ExitStack() as life:
        root = Path(life.enter_context(tempfile.TemporaryDirectory(prefix="muster-bench-")))
        first, second, *fronts = free_ports(5)
        workers = [first, second]
        programs = {
            "workers": (["nginx", "-p", ".", "-c", "conf"], nginx_workers(workers)),
            "nginx": (["nginx", "-p", ".", "-c", "conf"], nginx_proxy(fronts[0], workers)),
            "HAProxy": (["haproxy", "-db", "-f", "conf"], haproxy(fronts[1], workers)),
            "muster": (
                [sys.executable, "-m", "proxy", "--host", "127.0.0.1", "--port", str(fronts[2]),
                 "--no-grpc", "--registry", f"static://127.0.0.1:{first},127.0.0.1:{second}",
                 "--log-level", "warning"], ""),
        }  # fmt: skip
        started = {}
        for name, (command, conf) in programs.items():
            folder = root / name
            folder.mkdir()
            (folder / "conf").write_text(conf)
            ports = workers if name == "workers" else [fronts[len(started) - 1]]
            started[name] = (life.enter_context(running(command, ports, folder)), ports[0], folder)
        del started["workers"]
        plan = [(case, name) for _ in range(rounds) for case in CASES for name in started]
        return [
            measure(name, *started[name][:2], case, seconds, started[name][2])
            for case, name in track(plan, "measuring", console=console, transient=True)
        ]


def best(samples: list[Sample], proxy: str, case: str) -> Sample:
    """The median round, by CPU time."""
    rounds = sorted((s for s in samples if (s.proxy, s.case) == (proxy, case)), key=lambda sample: sample.cpu)
    return rounds[(len(rounds) - 1) // 2]


def report(samples: list[Sample], console: Console) -> None:
    table = Table(title="CPU µs a request (requests/s; p50/p99 ms), median of the rounds")
    for column in ("", "nginx", "HAProxy", "muster", "muster : HAProxy", "limit"):
        table.add_column(column, justify="right")
    for case in CASES:
        row = {name: best(samples, name, case) for name in ("nginx", "HAProxy", "muster")}
        ratio = statistics.median(
            ours.cpu / theirs.cpu
            for ours, theirs in zip(
                (s for s in samples if (s.proxy, s.case) == ("muster", case)),
                (s for s in samples if (s.proxy, s.case) == ("HAProxy", case)),
                strict=True,
            )
        )
        mark = "" if ratio <= LIMITS[case] else "  over"
        cells = [f"{s.cpu:.1f} ({s.rate:,.0f}; {s.p50:.2f}/{s.p99:.2f})" for s in row.values()]
        table.add_row(case, *cells, f"{ratio:.2f}", f"{LIMITS[case]:.2f}{mark}")
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=4, help="length of one measurement (default: 4)")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each (default: 3)")
    parser.add_argument("--json", action="store_true", help="print all samples as JSON lines instead of a table")
    options = parser.parse_args()
    missing = [tool for tool in ("nginx", "haproxy", "wrk", "curl") if shutil.which(tool) is None]
    if missing:
        raise SystemExit(
            f"not installed: {', '.join(missing)} (on Debian: apt-get install nginx-light haproxy wrk curl)"
        )
    console = Console(stderr=options.json, width=150)
    samples = run(options.seconds, options.rounds, console)
    if options.json:
        for sample in samples:
            print(json.dumps(vars(sample)))
    else:
        report(samples, console)


if __name__ == "__main__":
    main()

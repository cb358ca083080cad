"""What `muster up` says when the cluster is up: what runs where, and what to try next. Pure text."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from muster.answers import Listed
from muster.wire import PROXY_PORT


def guide(host: str, port: int, grpc_port: int, registry: str, listed: Sequence[Listed], model: Path) -> str:
    """A few lines for people. `host` is where the proxy listens; `model` is what the workers serve."""
    here = reachable(host)
    proxy = f"{here}:{port}"
    names = sorted({name for worker in listed for name in worker.models})
    lines = [
        "",
        "The cluster is up. Ctrl-C ends it.",
        f"  proxy     http://{proxy}  (a browser sees the cluster there)",
        f"  gRPC      {here}:{grpc_port}  (TensorFlow Serving's services)",
        f"  workers   {'  '.join(worker.address for worker in listed)}",
        f"  registry  {registry}",
        f"  serving   {', '.join(names) or 'nothing yet'}, from {model}",
        "",
        "Try:",
        *_commands(proxy, *_pictures(model), _to_be_named(names), names),
    ]
    return "\n".join(lines)


def reachable(host: str) -> str:
    """The name of this machine's own way to an address that something listens on."""
    if host in ("", "0.0.0.0", "::", "127.0.0.1", "localhost"):  # noqa: S104  # compared, not bound
        return "localhost"
    return f"[{host}]" if ":" in host else host


def _pictures(model: Path) -> tuple[str, str]:
    """A picture to try and a large one: those that came with the digits model, or placeholders."""
    for home in (model / "digits", model, model.parent):
        small, large = home / "samples" / "7.png", home / "samples" / "big.jpg"
        if small.is_file() and large.is_file():
            return str(small), str(large)
    return "IMAGE", "LARGE_IMAGE"


def _to_be_named(names: Sequence[str]) -> str | None:
    """The model to ask in the examples, if one must be named: that of the pictures to try, if it is there."""
    if len(names) < 2:
        return None
    return "digits" if "digits" in names else names[0]


def _commands(proxy: str, small: str, large: str, model: str | None, names: Sequence[str]) -> list[str]:
    options = "" if proxy == f"localhost:{PROXY_PORT}" else f" --proxy {proxy}"
    options += "" if model is None else f" --model {model}"

    def classify(base: str) -> str:
        # A shell takes a bare `?` for a pattern.
        return f"{base}/classify" if model is None else f'"{base}/classify?model={model}"'

    commands = [
        (f"curl {classify(proxy)} -F data=@{small}", "through the proxy"),
        (f"curl {classify(f'$(curl -s {proxy})')} -F data=@{small}", "P2P: ask for a worker, then talk to it"),
        (f"curl -L {classify(f'{proxy}/p2p')} -F data=@{large}", "P2P in one step: redirected before the body is sent"),
        (f"{_ourselves()} classify {small}{options}", "the same without curl"),
        *[
            (f"curl {proxy}/v1/models/{quote(name, safe='')}/metadata", "the tensors that it takes, images or not")
            for name in ([model] if model else names)
        ],
    ]
    width = max(len(command) for command, _ in commands)
    return [f"  {command:{width}}  # {remark}" for command, remark in commands]


def _ourselves() -> str:
    """The command that people can type here to run this program."""
    if shutil.which("muster"):
        return "muster"
    program = Path(sys.argv[0])
    if program.name != "muster":
        return f"{Path(sys.executable).name} -m muster"
    return str(program.relative_to(Path.cwd()) if program.is_relative_to(Path.cwd()) else program)

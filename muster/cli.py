"""The `muster` command: ask a cluster, look at its workers, run one on this machine.

What is printed is for people; with `--json` it is for programs, one JSON object per line. Whatever fails is one
sentence on stderr and exit status 1; a mistake in the command line is 2. Imports wait until a command needs them, so
that `muster --help` need not.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from muster import __version__
from muster.errors import BadImage, BadRequest, ClusterError, NotAnImage, TooLarge
from muster.wire import PROXY_GRPC_PORT, PROXY_PORT

if TYPE_CHECKING:
    from muster.client import AsyncClient, Classification, Options

    Outcome = Classification | BadImage | NotAnImage | TooLarge | OSError

AT_ONCE: Final = 8
"""Files under way at the same time: enough to keep several workers busy."""
PER_FILE: Final = (BadImage, NotAnImage, TooLarge, OSError)
"""What can be wrong with one file; anything else is wrong with all of them."""
DEFAULT_PROXY: Final = f"http://localhost:{PROXY_PORT}"

app = typer.Typer(
    help="Serve TensorFlow image models from a cluster that assembles itself, and ask it what is in a picture.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Proxy = Annotated[str, typer.Option(envvar="MUSTER_PROXY", metavar="URL", help="The cluster's proxy.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, one object per line.")]


def main() -> None:
    """Run the command line. Nothing that a user can cause shows a traceback."""
    try:
        app(prog_name="muster")
    except (ClusterError, OSError) as error:
        _complain(str(error))
        sys.exit(1)


def _complain(sentence: str) -> None:
    sys.stderr.write(f"muster: {sentence}\n")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"muster {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass  # `--version` has acted already


@app.command()
def classify(
    files: Annotated[list[Path], typer.Argument(help="Images.", metavar="FILE...")],
    proxy: Proxy = DEFAULT_PROXY,
    p2p: Annotated[bool, typer.Option("--p2p", help="Send the images to a worker, not through the proxy.")] = False,
    json: Json = False,
    model: Annotated[str | None, typer.Option(help="The model to ask, if there are several.")] = None,
    top: Annotated[int | None, typer.Option(min=1, help="How many labels to show.")] = None,
) -> None:
    """Say what is in images. One that cannot be read does not keep the others from being answered."""
    try:
        fine = asyncio.run(_classify(files, proxy, json, {"model": model, "top": top, "p2p": p2p}))
    except BadRequest as error:
        models = error.details.get("models")
        if model is not None or not isinstance(models, list):
            raise
        # The server says how to name a model in a URL.
        raise BadRequest(
            f"several models are served: choose one with --model NAME: {', '.join(map(str, models))}"
        ) from error
    if not fine:
        raise typer.Exit(1)


async def _classify(files: list[Path], proxy: str, json: bool, options: Options) -> bool:
    """Ask about all, print the outcomes in order. False if a file could not be read."""
    from muster.client import AsyncClient

    room = asyncio.Semaphore(AT_ONCE)
    fine = True
    async with AsyncClient(proxy) as client:
        asked = [asyncio.create_task(_ask(client, room, file, options)) for file in files]
        try:
            for file, ask in zip(files, asked, strict=True):
                outcome = await ask
                fine = fine and not isinstance(outcome, Exception)
                _print_outcome(file, outcome, json, alone=len(files) == 1)
        finally:
            for ask in asked:
                ask.cancel()
            await asyncio.gather(*asked, return_exceptions=True)
    return fine


async def _ask(client: AsyncClient, room: asyncio.Semaphore, file: Path, options: Options) -> Outcome:
    async with room:
        try:
            return await client.classify(file, **options)
        except PER_FILE as error:
            return error


def _print_outcome(file: Path, outcome: Outcome, json: bool, alone: bool) -> None:
    from muster import show

    if not isinstance(outcome, Exception):
        (show.answer_json if json else show.answer if alone else show.short_answer)(file, outcome)
        return
    # Of an OSError only the words: without Python's number in brackets, and the file is named anyway.
    sentence = (isinstance(outcome, OSError) and outcome.strerror) or str(outcome)
    if json:
        show.error_json(file, sentence, outcome.code if isinstance(outcome, ClusterError) else "unreadable_file")
    else:
        _complain(f"{file}: {sentence}")


@app.command()
def workers(proxy: Proxy = DEFAULT_PROXY, json: Json = False) -> None:
    """List the workers as the proxy sees them."""
    from muster import show
    from muster.client import Client

    with Client(proxy) as client:
        listed = client.workers()
    (show.workers_json if json else show.workers)(listed)


@app.command()
def up(
    workers: Annotated[int, typer.Option(min=1, help="How many workers to run.")] = 2,
    model: Annotated[
        Path | None, typer.Option(help="What to serve: a directory of models, a model, a .keras file.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address that the proxy listens on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port that the proxy listens on.")] = PROXY_PORT,
    grpc_port: Annotated[
        int | None,
        typer.Option(
            min=1, max=65535, help="Port that it takes gRPC on: 12482 beside the default --port, else a free one."
        ),
    ] = None,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show everything that the processes log.")] = False,
) -> None:
    """Run a cluster on this machine until Ctrl-C. Without --model it serves ./models, where it makes one if need be."""
    from muster.local import LocalSettings, run

    calls = grpc_port or (PROXY_GRPC_PORT if port == PROXY_PORT else 0)
    run(LocalSettings(workers, model, host, port, calls, verbose))

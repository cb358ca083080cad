"""The gRPC server of a worker: where it listens, under which limits and keys, and how it ends."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path
from typing import Any, Final

import grpc

from discovery.endpoints import join
from muster.wire import GRPC_BURSTS
from worker.addresses import bind
from worker.grpc_api import GrpcApi
from worker.messages.config import SSLConfig, read_config
from worker.settings import WorkerSettings
from worker.unix_socket import provisional, published

MOST_CALLS: Final = 1024
"""Calls at the same time, where --grpc-max-threads says nothing. More are refused: each holds its message in memory."""
GRACE: Final = 1.0
"""Seconds for calls that are being answered while the server closes; running requests were waited for before."""
_OPTIONS: Final[tuple[tuple[str, int | str], ...]] = (
    *GRPC_BURSTS,
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.so_reuseport", 0),  # two servers on one port would each get some of the requests
)


@asynccontextmanager
async def grpc_listening(settings: WorkerSettings, api: GrpcApi) -> AsyncIterator[int]:
    """Serve `api` for as long as the block lasts. It is given the port, 0 if there is only a Unix socket.

    Raises OSError or ValueError, one sentence, if the settings do not allow it.
    """
    credentials = _credentials(settings.ssl_config_file) if settings.ssl_config_file else None
    options = dict(_OPTIONS)
    if not settings.drop_in:
        options["grpc.max_receive_message_length"] = settings.max_inflated  # gRPC counts what it has decompressed
    server = grpc.aio.server(
        options=tuple((options | _arguments(settings.grpc_channel_arguments)).items()),
        maximum_concurrent_rpcs=settings.grpc_max_threads or MOST_CALLS,
    )
    server.add_generic_rpc_handlers(api.handlers)
    port = 0
    if settings.serves_grpc:
        port = _listen_on_port(server, settings.host, settings.grpc_port, credentials)
    path = settings.grpc_socket_path
    name = _listen_on_socket(server, path, credentials) if path else ""
    await server.start()
    try:
        with published(name, path) if name else nullcontext():
            yield port
    finally:
        api.finish()
        await server.stop(GRACE)
        await api.close()


def _listen_on_port(server: grpc.aio.Server, host: str, port: int, credentials: Any) -> int:
    try:
        return _listen(server, join(host, port), credentials)
    except RuntimeError:
        with bind(host, port):  # gRPC does not say why; the system does
            pass
        raise OSError(f"cannot listen for gRPC on {host} port {port}{_perhaps(credentials)}") from None


def _listen_on_socket(server: grpc.aio.Server, path: str, credentials: Any) -> str:
    """Listen on a socket that is to be at `path`; the result is where it is until then."""
    name = provisional(path)
    try:
        _listen(server, f"unix:{name}", credentials)
    except RuntimeError:
        raise OSError(f"cannot listen for gRPC on the Unix socket {path}{_perhaps(credentials)}") from None
    return name


def _listen(server: grpc.aio.Server, address: str, credentials: Any) -> int:
    if credentials is None:
        return int(server.add_insecure_port(address))
    return int(server.add_secure_port(address, credentials))


def _perhaps(credentials: Any) -> str:
    return "" if credentials is None else ": perhaps the keys and certificates of --ssl_config_file are not in PEM form"


def _arguments(text: str) -> dict[str, int | str]:
    """`k=v,k=v` as gRPC takes it: whole numbers as such, everything else as text. Raises ValueError."""
    arguments: dict[str, int | str] = {}
    for part in filter(None, text.split(",")):
        name, equals, value = part.partition("=")
        if not equals or not name:
            raise ValueError(f"--grpc_channel_arguments {text!r}: {part!r} is not of the form key=value")
        arguments[name] = int(value) if re.fullmatch(r"-?[0-9]+", value) else value
    return arguments


def _credentials(file: str) -> Any:
    """What the SSLConfig in `file` says. Raises OSError or ValueError, one sentence."""
    config = read_config(Path(file), SSLConfig)
    if not config.server_key or not config.server_cert:
        raise ValueError(f"{file} must hold both server_key and server_cert, as PEM text")
    if config.client_verify and not config.custom_ca:
        raise ValueError(f"{file} asks for client_verify, but has no custom_ca to verify clients with")
    return grpc.ssl_server_credentials(
        [(config.server_key.encode(), config.server_cert.encode())],
        root_certificates=config.custom_ca.encode() or None,
        require_client_auth=config.client_verify,
    )

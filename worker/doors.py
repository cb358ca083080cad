"""The doors of a worker, opened and closed together: gRPC, and HTTP on a socket that is bound already."""

from __future__ import annotations

import dataclasses
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from muster.lifetime import Stop
from worker.connections import listening
from worker.grpc_api import GrpcApi
from worker.grpc_server import grpc_listening
from worker.http_api import HttpApi
from worker.settings import WorkerSettings
from worker.state import State

log = logging.getLogger(__name__)


@asynccontextmanager
async def open_doors(
    settings: WorkerSettings, state: State, http: HttpApi, sock: socket.socket | None, grpc: GrpcApi, stop: Stop
) -> AsyncIterator[None]:
    """Serve for as long as the block lasts: HTTP on `sock`, if there is one, and gRPC where the settings say.

    The HTTP door opens last and closes first. Scripts wait for the lines in the log.
    """
    async with AsyncExitStack() as life:
        if settings.serves_grpc or settings.grpc_socket_path:
            port = await life.enter_async_context(grpc_listening(settings, grpc))
            state.worker = dataclasses.replace(state.worker, grpc_port=port or None)
            log.info("Running gRPC ModelServer at %s ...", f"0.0.0.0:{port}" if port else settings.grpc_socket_path)
        if sock is not None:
            await life.enter_async_context(listening(http, sock, stop))
            log.info("Exporting HTTP/REST API at:localhost:%d ...", sock.getsockname()[1])
        yield

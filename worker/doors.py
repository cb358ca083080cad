"""The doors of a worker, opened and closed together: HTTP on a socket that is bound already, and gRPC."""

from __future__ import annotations

import logging
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from muster.lifetime import Stop
from worker.connections import listening
from worker.http_api import HttpApi
from worker.settings import WorkerSettings

log = logging.getLogger(__name__)


@asynccontextmanager
async def open_doors(
    settings: WorkerSettings, http: HttpApi, sock: socket.socket | None, stop: Stop
) -> AsyncIterator[None]:
    """Serve for as long as the block lasts; HTTP on `sock`, if there is one. Scripts wait for the lines in the log."""
    async with AsyncExitStack() as life:
        if sock is not None:
            await life.enter_async_context(listening(http, sock, stop))
            log.info("Exporting HTTP/REST API at:localhost:%d ...", sock.getsockname()[1])
        yield

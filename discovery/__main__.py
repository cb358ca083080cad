"""`python -m discovery`: the embedded registry as a process. It ends on SIGTERM, SIGINT, or with who started it."""

from __future__ import annotations

import logging
import os
import sys
from contextlib import AsyncExitStack
from dataclasses import dataclass

from discovery.embedded import serving
from muster import wire
from muster.lifetime import Stop, run
from muster.settings import load, log_level, port, setting

log = logging.getLogger("discovery")


@dataclass(frozen=True, slots=True)
class RegistrySettings:
    """The embedded registry: lists workers on one machine that has no Consul."""

    host: str = setting("127.0.0.1", "address to listen on; whoever reaches it can list workers")
    port: int = setting(wire.EMBEDDED_REGISTRY_PORT, "port to listen on", parse=port)
    log_level: str = setting("info", "debug, info, warning or error", parse=log_level)


async def serve(settings: RegistrySettings, stop: Stop) -> None:
    """Serve until `stop`. Raises OSError, one sentence, if the address is taken."""
    async with AsyncExitStack() as life:
        try:
            address = await life.enter_async_context(serving(settings.host, settings.port, stop))
        except OSError as error:
            raise OSError(f"cannot listen on {settings.host}:{settings.port}: {error.strerror or error}") from error
        log.info("the embedded registry is at %s", address)
        await stop.wait()


def main() -> int:
    """The exit status."""
    settings = load(RegistrySettings, sys.argv[1:], os.environ, "REGISTRY", prog="python -m discovery")
    return run(lambda stop: serve(settings, stop), log_level=settings.log_level)


if __name__ == "__main__":
    sys.exit(main())

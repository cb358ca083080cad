"""`python -m proxy`: settings in, exit status out."""

from __future__ import annotations

import os
import sys

import uvloop

from muster.lifetime import Stop, run
from muster.memory import keep_pages
from muster.settings import load
from proxy.serve import serve
from proxy.settings import ProxySettings


def main() -> int:
    """Run the proxy until it is asked to stop."""
    settings = load(ProxySettings, sys.argv[1:], os.environ, "PROXY", prog="python -m proxy")

    keep_pages()

    async def program(stop: Stop) -> None:
        await serve(settings, stop)

    return run(program, log_level=settings.log_level, loop_factory=uvloop.new_event_loop)


if __name__ == "__main__":
    sys.exit(main())

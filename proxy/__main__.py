"""`python -m proxy`: settings in, exit status out."""

from __future__ import annotations

import os
import signal
import sys

import uvloop

from muster.lifetime import Stop, follow_lifeline, run
from muster.memory import keep_pages
from muster.settings import load
from proxy.place import Place
from proxy.processes import GRACE, Parent
from proxy.settings import ProxySettings


def main() -> int:
    """Run the proxy until it is asked to stop."""
    settings = load(ProxySettings, sys.argv[1:], os.environ, "PROXY", prog="python -m proxy")
    place = Place.from_environment(os.environ)
    if settings.processes > 1 and place is None:
        return run(Parent(settings, sys.argv[1:]).run, log_level=settings.log_level)

    from proxy.serve import serve  # a parent needs nothing of it, above all not its memory

    keep_pages()
    if place is not None:  # one that hangs would keep all listeners open, and with them the port
        follow_lifeline(signal.SIGKILL, settings.drain_timeout + GRACE)

    async def program(stop: Stop) -> None:
        await serve(settings if place is None else place.share(settings), stop, place)

    return run(program, log_level=settings.log_level, loop_factory=uvloop.new_event_loop)


if __name__ == "__main__":
    sys.exit(main())

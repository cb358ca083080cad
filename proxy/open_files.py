"""How many clients the system allows: a connection is an open file, and each that is busy has another behind it."""

from __future__ import annotations

import dataclasses
import logging

from muster.open_files import allow
from proxy.settings import ProxySettings

log = logging.getLogger(__name__)

OTHERS = 256
"""Files that are open besides: listeners, the registry's connections, probes."""
FEW = 1000
"""Connections below which whoever runs the proxy should know. The default is generous: that there is room for fewer is
no news as long as nobody asked for more."""


def within_open_files(settings: ProxySettings) -> ProxySettings:
    """Have the system allow as many open files as it will, and take in no more clients than that is enough for."""
    each = 3 if settings.grpc else 2  # as many more connections are for gRPC; calls share those behind
    needed = each * settings.max_connections + OTHERS
    allowed = allow(needed)
    if allowed >= needed:
        return settings
    fewer = max(1, (allowed - OTHERS) // each)
    usual = ProxySettings().max_connections // settings.processes
    asked = settings.max_connections not in (usual, usual + 1)  # it is shared out to the last one
    level = logging.WARNING if asked or fewer < FEW else logging.INFO
    log.log(level, "the system allows %d open files, so at most %d connections are taken (ulimit -n)", allowed, fewer)
    return dataclasses.replace(settings, max_connections=fewer)

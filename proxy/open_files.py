"""How many clients the system allows: a connection is an open file, and each that is busy has another behind it."""

from __future__ import annotations

import dataclasses
import logging

from muster.open_files import allow
from proxy.settings import ProxySettings

log = logging.getLogger(__name__)

OTHERS = 256
"""Files that are open besides: listeners, the registry's connections, probes."""


def within_open_files(settings: ProxySettings) -> ProxySettings:
    """Have the system allow as many open files as it will, and take in no more clients than that is enough for."""
    each = 3 if settings.grpc else 2  # as many more connections are for gRPC; calls share those behind
    needed = each * settings.max_connections + OTHERS
    allowed = allow(needed)
    if allowed >= needed:
        return settings
    fewer = max(1, (allowed - OTHERS) // each)
    log.warning("the system allows %d open files, so at most %d connections are taken (ulimit -n)", allowed, fewer)
    return dataclasses.replace(settings, max_connections=fewer)

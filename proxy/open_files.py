"""How many connections the system allows: each is an open file, and each that is busy has another behind it."""

from __future__ import annotations

import dataclasses
import logging
import resource

from proxy.settings import ProxySettings

log = logging.getLogger(__name__)

OTHERS = 256
"""Files that are open besides: listeners, the registry's connections, probes."""


def within_open_files(settings: ProxySettings) -> ProxySettings:
    """Have the system allow as many open files as it will, and take in no more clients than that is enough for."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = 2 * settings.max_connections + OTHERS
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return settings
    allowed = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    if allowed > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed >= needed:
        return settings
    fewer = max(1, (allowed - OTHERS) // 2)
    log.warning("the system allows %d open files, so at most %d connections are taken (ulimit -n)", allowed, fewer)
    return dataclasses.replace(settings, max_connections=fewer)

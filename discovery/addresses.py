"""From a registry's address, as people write it in `--registry`, to the registry. Both programs come in here."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager

from discovery.registry import Registry
from muster import wire
from muster.lifetime import Stop


def open_registry(
    address: str, environ: Mapping[str, str], stop: Stop, service: str = wire.SERVICE
) -> AbstractAsyncContextManager[Registry]:
    """The registry at `address`; workers are listed under the name `service`.

    `consul` or `consul://HOST:PORT`: a Consul agent; parts that are not given come from CONSUL_HTTP_* in `environ`.
    `embedded` or `embedded://HOST:PORT`: the registry of `python -m discovery`, by default on 127.0.0.1:12481.
    `static://HOST:PORT,HOST:PORT`: a fixed list; nobody can announce there, so announcing does nothing.
    `stop` hears about it when what keeps a worker listed dies. Raises ValueError, one sentence, for a bad address.
    """
    raise NotImplementedError

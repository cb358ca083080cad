"""From a registry's address, as people write it in `--registry`, to the registry. Both programs come in here."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager

from discovery import consul_settings
from discovery.consul_registry import consul_registry
from discovery.consul_settings import ConsulSettings
from discovery.endpoints import is_label, split
from discovery.registry import Registry
from discovery.static import static_registry
from muster import wire
from muster.lifetime import Stop


def open_registry(
    address: str, environ: Mapping[str, str], stop: Stop, service: str = wire.SERVICE
) -> AbstractAsyncContextManager[Registry]:
    """The registry at `address`; workers are listed under the name `service`.

    `consul` or `consul://HOST:PORT`: a Consul agent; parts that are not given come from CONSUL_HTTP_* in `environ`.
    `embedded` or `embedded://HOST:PORT`: the registry of `python -m discovery`, by default on 127.0.0.1:12481.
    `static://HOST:PORT,HOST:PORT`: a fixed list, which may be empty; announcing there does nothing.
    `stop` hears about it when what keeps a worker listed dies.
    Raises ValueError, one sentence, for an address, a name or a CONSUL_HTTP_* variable that makes no sense.
    """
    if not is_label(service):
        raise ValueError(f"{service!r} is not a service name: letters, digits and inner hyphens, at most 63")
    kind, _, rest = address.partition("://")
    try:
        if kind == "static":
            return static_registry(_places(rest))
        host, port = split(rest.removesuffix("/"))
    except ValueError as error:
        raise ValueError(f"registry {address!r}: {error}") from None
    if kind == "consul":
        return consul_registry(consul_settings.from_environ(environ, host, port), service, stop)
    if kind == "embedded":
        settings = ConsulSettings(host=host or "127.0.0.1", port=port or wire.EMBEDDED_REGISTRY_PORT)
        return consul_registry(settings, service, stop)
    raise ValueError(f"registry {address!r} is neither consul://HOST:PORT, embedded nor static://HOST:PORT,…")


def _places(text: str) -> tuple[tuple[str, int], ...]:
    places = []
    for item in filter(None, (part.strip() for part in text.split(","))):
        host, port = split(item)
        if host is None or port is None:
            raise ValueError(f"{item!r} lacks its host or its port")
        places.append((host, port))
    return tuple(places)

"""One way to one Consul agent, for the writes and for the watch: HTTP with its token, TLS and limits.

Foreign errors become ours here, once: whatever goes wrong is a `RegistryTrouble` whose text is one sentence.
A request is sent once: aiohttp would quietly send an idempotent one again when a connection dies, and a blocking query
sent again with its old index to a restarted agent sees nothing for its whole wait.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiohttp
from yarl import URL

from discovery.bodies import one_line, read_at_most
from discovery.consul_settings import ConsulSettings

MAX_ANSWER = 64 * 2**20  # bytes; thousands of workers are a few MiB


class RegistryTrouble(Exception):
    """The registry did not do what it was asked. The text is one sentence."""


class Unreachable(RegistryTrouble):
    """It was not there, did not answer in time or was not able to; it may be at any moment."""


class Refused(RegistryTrouble):
    """It understood and does not want to, so somebody has to change something."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the agent said. Header names are looked up in any case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def text(self) -> str:
        """The body of an error as it goes into a log line."""
        return one_line(self.body[:500].decode(errors="replace"))


class ConsulHttp:
    """A pool of connections to one agent; `connected` makes one."""

    def __init__(self, settings: ConsulSettings, session: aiohttp.ClientSession) -> None:
        self.settings = settings
        self._session = session

    async def request(
        self,
        method: str,
        target: str,
        *,
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109  # of its phases, which only aiohttp can tell apart
        data: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Ask for `target`, a path with query that is already encoded. Any status is an answer; Unreachable is none."""
        url = URL(self.settings.base_url + target, encoded=True)
        try:
            async with self._session.request(
                method,
                url,
                data=data,
                headers=headers,
                timeout=timeout,
                allow_redirects=False,
                server_hostname=self.settings.server_name,
            ) as response:
                return Answer(response.status, response.headers, await read_at_most(response, MAX_ANSWER))
        except (aiohttp.ClientError, OSError, OverflowError) as error:
            raise Unreachable(f"the registry at {self.settings.where} cannot be reached: {_reason(error)}") from error


@asynccontextmanager
async def connected(settings: ConsulSettings) -> AsyncIterator[ConsulHttp]:
    """A pool of its own for whoever calls: a blocked query must never keep a heartbeat waiting for a connection.

    Raises ValueError, one sentence, for TLS files that cannot be loaded.
    """
    connector: aiohttp.BaseConnector
    if settings.socket is not None:
        connector = aiohttp.UnixConnector(settings.socket)
    else:
        connector = aiohttp.TCPConnector(ssl=settings.ssl_context() if settings.tls else True)
    async with aiohttp.ClientSession(
        connector=connector,
        headers=settings.headers(),
        cookie_jar=aiohttp.DummyCookieJar(),
        middlewares=(_sent_once,),
    ) as session:
        yield ConsulHttp(settings, session)


async def _sent_once(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    try:
        return await handler(request)
    except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
        # Neither of the two may get out: they are what aiohttp sends again on.
        raise Unreachable(f"the registry at {request.url.authority} cannot be reached: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return f"its certificate is not accepted ({error.certificate_error})"
    if isinstance(error, aiohttp.ClientConnectorError):
        return error.strerror or str(error.os_error)
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return "it closed the connection"
    return str(error) or type(error).__name__

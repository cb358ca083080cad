"""What a worker tells its Consul agent, by way of py-consul: the four writes, in our words.

py-consul knows Consul's API; the connections are ours (`consul_http`), because its own can neither time a request out
before a heartbeat is due nor name a TLS server. Its errors, and the dialects of Consul 1.8 and later for "never heard
of it", end here.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import consul.base
from consul.exceptions import ACLDisabled, ACLPermissionDenied, BadRequest, ClientError, ConsulException

from discovery.bodies import one_line
from discovery.consul_http import ConsulHttp, Refused, Unreachable

_TIMEOUT = aiohttp.ClientTimeout(total=2)  # seconds; longer, and a slow agent would cost more than one heartbeat
_UNKNOWN = re.compile(r"unknown (check|service)|does not have associated TTL", re.IGNORECASE)


class ConsulWrites:
    """The writes. Each raises Unreachable, or Refused with the agent's own words."""

    def __init__(self, http: ConsulHttp) -> None:
        settings = http.settings
        self._http = http
        self._consul = _PyConsul(http, settings.host, settings.port)
        self._consul.token = None  # py-consul takes it from the environment; ours is in the headers of the connection

    async def register(self, registration: Mapping[str, Any], *, afresh: bool) -> None:
        """List a worker as `records.registration` describes it.

        `afresh` forgets what stood there under its id, maintenance included. Otherwise maintenance stays, for it may
        be an operator's; Consul 1.8 lifts it when a registration replaces the checks.
        """
        async with self._told("list this worker"):
            await self._consul.agent.service.register(**registration, replace_existing_checks=afresh)
        if afresh:
            await self.maintenance(registration["service_id"], enable=False)

    async def beat(self, check_id: str) -> bool:
        """Pass the check. False if the agent does not know it: then it does not know the worker either."""
        return await self._known("heartbeats", self._consul.agent.check.ttl_pass(check_id))

    async def maintenance(self, worker_id: str, enable: bool, reason: str | None = None) -> None:
        """Tell watchers to leave the worker alone, or no longer. An unknown worker is left alone already."""
        await self._known("maintenance", self._consul.agent.service.maintenance(worker_id, enable, reason))

    async def deregister(self, worker_id: str) -> None:
        """Take the worker off the list. An unknown one is off it already."""
        await self._known("deregistration", self._consul.agent.service.deregister(worker_id))

    async def _known(self, what: str, call: Any) -> bool:
        """Did the agent know what the call was about? Consul 1.8 says 500 with a sentence if not, later ones 404."""
        async with self._told(f"take {what}"):
            try:
                return bool(await call)
            except ConsulException as error:
                if _UNKNOWN.search(str(error)):
                    return False
                raise

    @asynccontextmanager
    async def _told(self, what: str) -> AsyncIterator[None]:
        where = self._http.settings.where
        try:
            yield
        except ACLPermissionDenied as error:
            raise Refused(
                f"the registry at {where} does not permit to {what}: {one_line(str(error))} "
                "(CONSUL_HTTP_TOKEN must allow service:write on the service)"
            ) from error
        except (ACLDisabled, BadRequest, ClientError) as error:
            raise Refused(f"the registry at {where} refuses to {what}: {one_line(str(error))}") from error
        except ConsulException as error:
            raise Unreachable(f"the registry at {where} is not able to {what}: {one_line(str(error))}") from error


class _PyConsul(consul.base.Consul):  # type: ignore[misc]  # py-consul has no types
    def __init__(self, http: ConsulHttp, host: str, port: int) -> None:
        self._connection = http
        super().__init__(host, port)

    def http_connect(self, host: str, port: int, scheme: str, verify: bool | str = True, cert: Any = None) -> Any:
        return _Transport(self._connection, host, port, scheme, verify, cert)


class _Transport(consul.base.HTTPClient):  # type: ignore[misc]
    """py-consul's door to the network: builds the targets, and leaves the asking to `ConsulHttp`."""

    def __init__(self, http: ConsulHttp, *args: Any) -> None:
        super().__init__(*args)
        self._connection = http
        self.base_uri = ""  # `uri` gives targets

    async def _send(
        self,
        method: str,
        callback: Callable[[Any], Any],
        target: str,
        headers: Mapping[str, str] | None,
        data: str | bytes = "",
    ) -> Any:
        body = data.encode() if isinstance(data, str) else data
        answer = await self._connection.request(method, target, timeout=_TIMEOUT, data=body, headers=headers)
        return callback(consul.base.Response(answer.status, answer.headers, answer.text))

    def get(self, callback: Any, path: str, params: Any = None, headers: Any = None, raw: bool = False) -> Any:
        return self._send("GET", callback, self.uri(path, params), headers)

    def put(self, callback: Any, path: str, params: Any = None, data: Any = "", headers: Any = None) -> Any:
        return self._send("PUT", callback, self.uri(path, params), headers, data)

    def delete(self, callback: Any, path: str, params: Any = None, data: Any = "", headers: Any = None) -> Any:
        return self._send("DELETE", callback, self.uri(path, params), headers, data)

    def post(self, callback: Any, path: str, params: Any = None, data: Any = "", headers: Any = None) -> Any:
        return self._send("POST", callback, self.uri(path, params), headers, data)

    async def close(self) -> None:
        """The connections belong to whoever opened them."""

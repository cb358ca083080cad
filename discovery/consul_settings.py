"""Where the Consul agent is and how to talk to it, from the environment variables that Consul's own tools read.

CONSUL_HTTP_ADDR (`host`, `host:port`, `http://…`, `https://…`, `unix://…`), CONSUL_HTTP_TOKEN, CONSUL_HTTP_TOKEN_FILE
(it beats the token, as with Consul), CONSUL_HTTP_SSL, CONSUL_HTTP_SSL_VERIFY, CONSUL_CACERT, CONSUL_CAPATH,
CONSUL_CLIENT_CERT, CONSUL_CLIENT_KEY, CONSUL_TLS_SERVER_NAME, CONSUL_NAMESPACE. An empty variable is an unset one.
"""

from __future__ import annotations

import dataclasses
import ssl
from collections.abc import Mapping
from pathlib import Path

from discovery.endpoints import join, split
from muster import wire
from muster.settings import boolean


@dataclasses.dataclass(frozen=True, slots=True)
class ConsulSettings:
    """One agent. With `socket` it is asked through that Unix socket, and `host` and `port` do not count."""

    host: str = "127.0.0.1"
    port: int = wire.CONSUL_PORT
    socket: str | None = None
    token: str | None = dataclasses.field(default=None, repr=False)
    namespace: str | None = None
    tls: bool = False
    verify: bool = True
    ca_file: str | None = None
    ca_path: str | None = None
    client_cert: str | None = None
    client_key: str | None = None
    server_name: str | None = None

    @property
    def base_url(self) -> str:
        """What the paths of the API are appended to."""
        if self.socket is not None:
            return "http://localhost"
        return f"{'https' if self.tls else 'http'}://{join(self.host, self.port)}"

    @property
    def where(self) -> str:
        """The agent's place, for people."""
        return f"unix://{self.socket}" if self.socket is not None else self.base_url

    def headers(self) -> dict[str, str]:
        """What every request carries. The token travels nowhere else: URLs end up in logs."""
        headers = {}
        if self.token:
            headers["X-Consul-Token"] = self.token
        if self.namespace:
            headers["X-Consul-Namespace"] = self.namespace
        return headers

    def ssl_context(self) -> ssl.SSLContext:
        """For connections by TLS. Raises ValueError, one sentence, if a certificate or key cannot be loaded."""
        try:
            context = ssl.create_default_context(cafile=self.ca_file, capath=self.ca_path)
        except OSError as error:
            raise ValueError(f"CONSUL_CACERT or CONSUL_CAPATH cannot be loaded: {error}") from None
        if not self.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if self.client_cert:
            try:
                context.load_cert_chain(self.client_cert, self.client_key)
            except OSError as error:
                raise ValueError(f"CONSUL_CLIENT_CERT or CONSUL_CLIENT_KEY cannot be loaded: {error}") from None
        return context


def from_environ(environ: Mapping[str, str], host: str | None = None, port: int | None = None) -> ConsulSettings:
    """The settings in `environ`; `host` and `port`, where given, beat CONSUL_HTTP_ADDR.

    Raises ValueError, one sentence that names the variable.
    """

    def value(name: str) -> str | None:
        return environ.get(name, "").strip() or None

    def switch(name: str, default: bool) -> bool:
        try:
            return boolean(value(name) or str(default))
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None

    scheme, socket, env_host, env_port = _address(value("CONSUL_HTTP_ADDR") or "")
    return ConsulSettings(
        host=host or env_host or "127.0.0.1",
        port=port or env_port or wire.CONSUL_PORT,
        socket=None if host or port else socket,
        token=_token(value("CONSUL_HTTP_TOKEN"), value("CONSUL_HTTP_TOKEN_FILE")),
        namespace=value("CONSUL_NAMESPACE"),
        tls=scheme == "https" or switch("CONSUL_HTTP_SSL", False),
        verify=switch("CONSUL_HTTP_SSL_VERIFY", True),
        ca_file=value("CONSUL_CACERT"),
        ca_path=value("CONSUL_CAPATH"),
        client_cert=value("CONSUL_CLIENT_CERT"),
        client_key=value("CONSUL_CLIENT_KEY"),
        server_name=value("CONSUL_TLS_SERVER_NAME"),
    )


def _address(text: str) -> tuple[str, str | None, str | None, int | None]:
    """Scheme, socket, host and port of CONSUL_HTTP_ADDR. A URL without a port means its scheme's, as with Consul."""
    scheme, separator, rest = text.rpartition("://")
    scheme = scheme.lower()
    if scheme == "unix":
        if not rest.startswith("/"):
            raise ValueError(f"CONSUL_HTTP_ADDR: {text!r} does not name a socket by its absolute path")
        return scheme, rest, None, None
    if separator and scheme not in ("http", "https"):
        raise ValueError(f"CONSUL_HTTP_ADDR: {text!r} is neither an http, https nor unix address")
    try:
        host, port = split(rest.removesuffix("/"))
    except ValueError as error:
        raise ValueError(f"CONSUL_HTTP_ADDR: {error}") from None
    if port is None and host and separator:
        port = 443 if scheme == "https" else 80
    return scheme, None, host, port


def _token(token: str | None, file: str | None) -> str | None:
    source = "CONSUL_HTTP_TOKEN"
    if file is not None:
        source = "CONSUL_HTTP_TOKEN_FILE"
        try:
            token = Path(file).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"{source} cannot be read: {error}") from None
    if token and not (token.isascii() and token.isprintable()):  # and it is not repeated in the sentence
        raise ValueError(f"{source} holds something that is not a token")
    return token or None

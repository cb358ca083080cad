"""The images' health check: exit status 0 if the server in this container answers 200, else 1 and one line why.

    python -IS healthy.py WORKER_PORT /readyz WORKER_GRPC_PORT

The ports are in the environment variables that the server itself reads. Where HTTP is off, a second port that can be
connected to will do: it is open only as long as there is something to serve. The standard library only, and no proxy
in between, whatever the environment says about proxies: this is a question to ourselves.
"""

from __future__ import annotations

import http.client
import os
import socket
import sys

PATIENCE = 2.0
"""Seconds for the whole answer."""


def main() -> int:
    """Ask once."""
    variable, path, *others = sys.argv[1:]
    connection = http.client.HTTPConnection("127.0.0.1", int(os.environ[variable]), timeout=PATIENCE)
    try:
        connection.request("GET", path)
        status = connection.getresponse().status
    except ConnectionRefusedError as error:
        return 0 if any(_listens(other) for other in others) else _unhealthy(f"no answer: {error}")
    except (OSError, http.client.HTTPException) as error:
        return _unhealthy(f"no answer: {error}")
    finally:
        connection.close()
    return 0 if status == http.client.OK else _unhealthy(f"{path} answered {status}")


def _listens(variable: str) -> bool:
    try:
        socket.create_connection(("127.0.0.1", int(os.environ[variable])), PATIENCE).close()
    except OSError:
        return False
    return True


def _unhealthy(line: str) -> int:
    sys.stdout.write(line + "\n")  # `docker inspect` shows it
    return 1


if __name__ == "__main__":
    sys.exit(main())

"""Reading a request's body, within bounds of size and time that aiohttp leaves to its user.

A body that is declared too large is refused before the client is invited to send it (`Expect: 100-continue`), one that
turns out too large as soon as it does. After a refusal the connection is closed: nobody reads the rest.
"""

from __future__ import annotations

import asyncio

from aiohttp import web

from muster.errors import BadRequest, RequestTimeout, TooLarge, UnsupportedEncoding


async def read_body(request: web.BaseRequest, limit: int, patience: float) -> bytes:
    """The body, `limit` bytes at most, sent within `patience` seconds.

    Raises TooLarge, RequestTimeout, UnsupportedEncoding for compressed bodies, BadRequest for broken ones.
    """
    if request.headers.get("Content-Encoding", "identity").strip().lower() != "identity":
        raise UnsupportedEncoding("the body is compressed; images are as small as they get, send them as they are")
    if (request.content_length or 0) > limit:
        raise _too_large(limit)
    await _invite(request)
    chunks: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(patience):
            async for chunk in request.content.iter_any():
                size += len(chunk)
                if size > limit:
                    raise _too_large(limit)
                chunks.append(chunk)
    except TimeoutError:
        raise RequestTimeout(f"the body did not arrive within {patience:g} seconds") from None
    except web.RequestPayloadError:
        raise BadRequest("the body ends early or is framed wrongly") from None
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


async def _invite(request: web.BaseRequest) -> None:
    expected = request.headers.get("Expect")
    if expected is None or request.version < (1, 1):
        return
    if expected.lower() != "100-continue":
        raise BadRequest("the only expectation that is met here is 100-continue")
    if request.transport is not None and not request.content.is_eof():
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")


def _too_large(limit: int) -> TooLarge:
    return TooLarge(f"the body is larger than {limit} bytes", max_body=limit)

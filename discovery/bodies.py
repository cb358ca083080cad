"""What other programs answer, cut to a size and a form that can be kept and logged."""

from __future__ import annotations

import aiohttp


async def read_at_most(response: aiohttp.ClientResponse, limit: int) -> bytes:
    """The whole body. Raises OverflowError, one sentence, if it has more than `limit` bytes."""
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > limit:
            raise OverflowError(f"it answers with more than {limit} bytes")
    return bytes(body)


def one_line(text: str, limit: int = 500) -> str:
    """At most `limit` characters of `text`, as they may stand in a line of a log."""
    return "".join(letter if letter.isprintable() else "?" for letter in " ".join(text.split())[:limit])

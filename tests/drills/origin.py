"""A web server whose every byte is known, for drills that compare what went in with what came out.

It runs in a thread of the drill. Each request names a `seed`, from which its answer follows; what it saw of the request
is kept under the same seed.
"""

from __future__ import annotations

import asyncio
import gzip
import random
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field

Headers = list[tuple[bytes, bytes]]


@dataclass
class Saw:
    """One request, as it arrived."""

    line: bytes
    headers: Headers
    body: bytes


@dataclass
class Origin:
    """The server; `seen` is by seed."""

    port: int = 0
    seen: dict[int, Saw] = field(default_factory=dict)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, until it ends."""
        with suppress(asyncio.IncompleteReadError, ConnectionError), closing(writer):
            while True:
                raw = await reader.readuntil(b"\r\n\r\n")
                line, *lines = raw[:-4].split(b"\r\n")
                headers = [(name, value) for name, _, value in (each.partition(b": ") for each in lines)]
                if b" /readyz " in line:
                    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nOK")
                    continue
                told = {name.lower(): value for name, value in headers}
                if b"expect" in told:
                    writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                body = await _body(reader, told)
                seed = int(told[b"seed"])
                self.seen[seed] = Saw(line, headers, body)
                writer.write(answer(seed, line.split(b" ")[0]))
                await writer.drain()


async def _body(reader: asyncio.StreamReader, told: dict[bytes, bytes]) -> bytes:
    if b"content-length" in told:
        return await reader.readexactly(int(told[b"content-length"]))
    body = b""
    if b"transfer-encoding" in told:
        while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
            body += (await reader.readexactly(size + 2))[:-2]
        while await reader.readuntil(b"\r\n") != b"\r\n":
            pass
    return body


def answer(seed: int, method: bytes) -> bytes:
    """The whole answer, the same for the same seed."""
    luck = random.Random(seed * 7 + 1)
    status = luck.choice([b"200 OK", b"200 Fine by me", b"201 Created", b"204 No Content", b"304 Not Modified",
                          b"400 Bad Request", b"404 Not Found", b"418 I'm a teapot", b"500 Oh"])  # fmt: skip
    headers = [b"Content-Type: text/plain; charset=utf-8", b'ETag: "%x"' % luck.getrandbits(64)]
    headers += [b"Set-Cookie: c%d=%d; Path=/" % (n, luck.getrandbits(20)) for n in range(luck.randrange(3))]
    headers += [
        b"X-Odd: " + text for text in luck.sample([b"a, b", b"", b"\xc3\xa9t\xc3\xa9", b"x" * 2000, b"a  b"], 2)
    ]
    if luck.random() < 0.1:
        headers.append(b"X-Large: " + b"v" * 8000)
    body = luck.randbytes(luck.choice([0, 1, 100, 70_000]))
    if luck.random() < 0.3:
        body = gzip.compress(body, mtime=0)
        headers.append(b"Content-Encoding: gzip")
    bodiless = status[:3] in (b"204", b"304")
    chunked = luck.random() < 0.4
    payload = body
    if not bodiless and chunked:
        headers.append(b"Transfer-Encoding: chunked")
        pieces = [body[at : at + 7000] for at in range(0, len(body), 7000)]
        payload = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n"
        payload += (b"X-Trailer: yes\r\n" if luck.random() < 0.3 else b"") + b"\r\n"
    elif status[:3] != b"204":
        headers.append(b"Content-Length: %d" % len(body))
    if bodiless or method == b"HEAD":
        payload = b""
    luck.shuffle(headers)
    return b"HTTP/1.1 %b\r\n%b\r\n\r\n%b" % (status, b"\r\n".join(headers), payload)


@contextmanager
def running() -> Iterator[Origin]:
    """The server in a thread of its own, until the block ends."""
    origin = Origin()
    started = threading.Event()
    loop = asyncio.new_event_loop()

    async def main() -> None:
        server = await asyncio.start_server(origin.serve, "127.0.0.1", 0, limit=2**20)
        origin.port = server.sockets[0].getsockname()[1]
        started.set()
        async with server:
            await ended.wait()

    ended = asyncio.Event()
    thread = threading.Thread(target=loop.run_until_complete, args=(main(),))
    thread.start()
    started.wait()
    try:
        yield origin
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join()
        loop.run_until_complete(_end_connections(loop))
        loop.close()


async def _end_connections(loop: asyncio.AbstractEventLoop) -> None:
    others = asyncio.all_tasks(loop) - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    await asyncio.sleep(0.01)  # their transports close in the next turns

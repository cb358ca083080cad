"""How an answer says where its time went."""

from __future__ import annotations


def server_timing(*, decode: float, queue: float, infer: float, encode: float) -> str:
    """The stages' seconds as the header `Server-Timing`, which is in milliseconds."""
    stages = {"decode": decode, "queue": queue, "infer": infer, "encode": encode}
    return ", ".join(f"{stage};dur={seconds * 1000:.3f}" for stage, seconds in stages.items())

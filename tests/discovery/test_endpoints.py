"""Hosts and ports as text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from discovery.endpoints import is_destination, is_host, is_label, join, split


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("host:80", ("host", 80)),
        ("host", ("host", None)),
        (":80", (None, 80)),
        ("", (None, None)),
        ("10.0.0.1:80", ("10.0.0.1", 80)),
        ("[::1]:80", ("::1", 80)),
        ("[::1]", ("::1", None)),
        ("my_container:80", ("my_container", 80)),
    ],
)
def test_an_address_is_taken_apart(text: str, expected: tuple[str | None, int | None]) -> None:
    assert split(text) == expected


@pytest.mark.parametrize(
    "text",
    ["host:", "host:0", "host:65536", "host:port", "::1", "::1:80", "[host]:80", "a b:80", "h/x:80", "[]:80", "u@h"],
)
def test_what_is_no_address_is_one_sentence(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not HOST:PORT|names a port"):
        split(text)


@given(st.sampled_from(["::1", "10.0.0.1", "host", "a.b.c"]), st.integers(1, 65535))
def test_what_is_joined_can_be_split(host: str, port: int) -> None:
    assert split(join(host, port)) == (host, port)


@pytest.mark.parametrize("name", ["worker", "w", "a-b", "A1", "x" * 63])
def test_a_service_name_is_a_label(name: str) -> None:
    assert is_label(name)


@pytest.mark.parametrize("name", ["", "-a", "a-", "a b", "a.b", "a_b", "ä", "x" * 64, "a\n"])
def test_what_is_no_label_is_no_service_name(name: str) -> None:
    assert not is_label(name)


@pytest.mark.parametrize(
    "host", ["", ".", "a..b", "-a", "a" * 254, "1.2.3", "127.1", "0x7f000001", "a.0x1", "a\n", "a:b"]
)
def test_what_resolvers_might_misunderstand_is_no_host(host: str) -> None:
    assert not is_host(host)


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "::1", "192.168.1.2", "172.17.0.2", "fd00::1", "8.8.8.8", "host.local", "gpu_1."]
)
def test_every_address_that_a_worker_may_have_is_a_destination(host: str) -> None:
    assert is_destination(host)

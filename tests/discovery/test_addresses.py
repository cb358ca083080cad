"""Registries by their addresses."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from discovery.addresses import open_registry
from muster.lifetime import Stop
from muster.values import Worker
from tests.consul_agent import ConsulAgent
from tests.discovery.harness import ConsulPlace, EmbeddedPlace, Place, records_of, watching


async def test_consul_is_found_by_its_variables_or_by_its_address(
    shared_consul: ConsulAgent, service: str, worker: Callable[[str], Worker]
) -> None:
    place = ConsulPlace(shared_consul)
    environ = {"CONSUL_HTTP_ADDR": f"127.0.0.1:{place.port}"}
    for address, variables in (("consul", environ), (f"consul://127.0.0.1:{place.port}", {}), ("consul://", environ)):
        ann = worker("ann")
        async with open_registry(address, variables, Stop(), service) as registry, registry.announce(ann):
            assert len(await records_of(place, service)) == 1


async def test_the_embedded_registry_is_found_by_its_address_and_gets_no_consul_token(
    service: str, worker: Callable[[str], Worker]
) -> None:
    place: Place = EmbeddedPlace()
    await place.start()
    environ = {"CONSUL_HTTP_ADDR": "https://elsewhere:1", "CONSUL_HTTP_TOKEN": "secret", "CONSUL_HTTP_SSL": "true"}
    ann = worker("ann")
    async with (
        open_registry(f"embedded://127.0.0.1:{place.port}", environ, Stop(), service) as registry,
        watching(registry) as eyes,
        registry.announce(ann),
    ):
        await eyes.see(ann.id)
    await place.stop()


async def test_a_fixed_list_may_be_empty_for_workers_that_announce_nowhere(worker: Callable[[str], Worker]) -> None:
    async with (
        open_registry("static://", {}, Stop()) as registry,
        registry.announce(worker("ann")) as listing,
        watching(registry) as eyes,
    ):
        await listing.withdraw("draining")
        await eyes.see()


@pytest.mark.parametrize(
    "address",
    [
        "",
        "zookeeper://a:1",
        "consul:8500",
        "consul://a b",
        "consul://host:port",
        "consul://host:1/path",
        "embedded://host:99999",
        "static://host",
        "static://:80",
        "static://a:1;b:2",
        "Consul",
    ],
)
def test_an_address_that_makes_no_sense_is_one_sentence_that_repeats_it(address: str) -> None:
    with pytest.raises(ValueError) as caught:
        open_registry(address, {}, Stop())
    assert repr(address) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_variable_that_makes_no_sense_is_named() -> None:
    with pytest.raises(ValueError, match="CONSUL_HTTP_ADDR"):
        open_registry("consul", {"CONSUL_HTTP_ADDR": "ftp://x"}, Stop())


@pytest.mark.parametrize("name", ["", "a b", "a/b", "-a", "x" * 64])
def test_a_service_name_that_dns_could_not_carry_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="is not a service name"):
        open_registry("embedded", {}, Stop(), name)

"""The hosts of a domain."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from responder.clock import SystemClock
from responder.dns import Resolver
from responder.mail.status import Failure, FailureError, Outcome
from responder.outbound.mx import MAX_HOSTS, Host, find_hosts, host_addresses, literal_address
from tests.support.dns_server import DNSServer, Zone

ZONE: Zone = {
    "example.com": {"MX": [[20, "backup.example.com"], [10, "b.example.com"], [10, "a.example.com"]]},
    "implicit.test": {"A": ["192.0.2.1"]},
    "nothing.test": {"TXT": ["x"]},
    "null.test": {"MX": [[0, "."]]},
    "nearlynull.test": {"MX": [[0, "."], [10, "a.example.com"]]},
    "broken.test": "SERVFAIL",
    "silent.test": "TIMEOUT",
    "ours.test": {"MX": [[5, "best.test"], [10, "MX.Example.org"], [10, "equal.test"], [20, "worse.test"]]},
    "onlyours.test": {"MX": [[10, "mx.example.org"], [20, "worse.test"]]},
    "mx.example.org": {"A": ["192.0.2.5"]},
    "many.test": {"MX": [[n, f"mx{n}.many.test"] for n in range(1000)]},
    "twice.test": {"MX": [[20, "a.example.com"], [10, "a.example.com"]]},
    "a.example.com": {"A": ["192.0.2.2"], "AAAA": ["2001:db8::2"]},
}


@pytest.fixture
async def server() -> AsyncIterator[DNSServer]:
    async with DNSServer(dict(ZONE)) as server:
        yield server


@pytest.fixture
def resolver(server: DNSServer) -> Resolver:
    return Resolver([server.nameserver], clock=SystemClock(), timeout=0.6)


async def names(domain: str, resolver: Resolver) -> list[str]:
    hosts = await find_hosts(domain, resolver, SystemClock(), own_names={"mx.example.org"})
    return [host.name for host in hosts.hosts]


async def failure(domain: str, resolver: Resolver) -> Failure:
    with pytest.raises(FailureError) as caught:
        await names(domain, resolver)
    return caught.value.failure


async def test_hosts_come_by_preference(resolver: Resolver) -> None:
    found = await names("example.com", resolver)
    assert sorted(found[:2]) == ["a.example.com", "b.example.com"]
    assert found[2:] == ["backup.example.com"]


async def test_equals_come_in_random_order(resolver: Resolver) -> None:
    assert {(await names("example.com", resolver))[0] for _ in range(60)} == {"a.example.com", "b.example.com"}


async def test_no_mx_record_then_the_domain_is_its_own_host(resolver: Resolver) -> None:
    assert await names("implicit.test", resolver) == ["implicit.test"]


async def test_null_mx_is_permanent_at_once(resolver: Resolver) -> None:
    found = await failure("null.test", resolver)
    assert (found.outcome, found.enhanced, found.final) == (Outcome.PERMANENT, "5.1.10", True)


async def test_null_mx_beside_others_is_passed_over(resolver: Resolver) -> None:
    assert await names("nearlynull.test", resolver) == ["a.example.com"]


async def test_unknown_domain_is_permanent(resolver: Resolver) -> None:
    found = await failure("nowhere.test", resolver)
    assert (found.outcome, found.enhanced, found.final) == (Outcome.PERMANENT, "5.1.2", True)


@pytest.mark.parametrize("domain", ["broken.test", "silent.test"])
async def test_failing_name_server_is_transient_and_asks_for_no_address(
    server: DNSServer, resolver: Resolver, domain: str
) -> None:
    found = await failure(domain, resolver)
    assert (found.outcome, found.enhanced) == (Outcome.TRANSIENT, "4.4.3")
    assert (domain, "A") not in server.queries


async def test_we_are_a_host_then_only_better_ones_are_tried(resolver: Resolver) -> None:
    assert await names("ours.test", resolver) == ["best.test"]


@pytest.mark.parametrize("domain", ["onlyours.test", "mx.example.org"])
async def test_we_are_the_best_host_then_it_is_a_loop(resolver: Resolver, domain: str) -> None:
    found = await failure(domain, resolver)
    assert (found.outcome, found.enhanced, found.final) == (Outcome.PERMANENT, "5.4.6", True)


async def test_thousand_hosts_are_cut_down_to_the_best(server: DNSServer, resolver: Resolver) -> None:
    assert await names("many.test", resolver) == [f"mx{n}.many.test" for n in range(MAX_HOSTS)]
    assert sum(server.queries.values()) - server.tcp_queries == 1


async def test_host_named_twice_is_tried_once(resolver: Resolver) -> None:
    assert await find_hosts("twice.test", resolver, SystemClock()) == ([Host("a.example.com", 10)], False)


@pytest.mark.parametrize(
    ("literal", "address"),
    [
        ("[192.0.2.1]", "192.0.2.1"),
        ("[IPv6:2001:db8::1]", "2001:db8::1"),
        ("[ipv6:::1]", "::1"),
    ],
)
async def test_literal_needs_no_lookup(server: DNSServer, resolver: Resolver, literal: str, address: str) -> None:
    assert await names(literal, resolver) == [literal]
    assert await host_addresses(literal, resolver) == [address]
    assert not server.queries


@pytest.mark.parametrize("literal", ["[]", "[1.2.3]", "[300.1.1.1]", "[2001:db8::1]", "[IPv6:192.0.2.1]", "[IPv6:x]"])
def test_malformed_literal_is_permanent(literal: str) -> None:
    with pytest.raises(FailureError) as caught:
        literal_address(literal)
    assert caught.value.failure.enhanced == "5.1.2"


@pytest.mark.parametrize(
    ("host", "enhanced"), [("nothing.test", "5.4.4"), ("nowhere.test", "5.4.4"), ("broken.test", "4.4.3")]
)
async def test_host_without_an_address_and_failing_name_server_are_not_the_same(
    resolver: Resolver, host: str, enhanced: str
) -> None:
    with pytest.raises(FailureError) as caught:
        await host_addresses(host, resolver)
    assert caught.value.failure.enhanced == enhanced

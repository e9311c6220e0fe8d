"""What the resolver believes of DNSSEC: the AD bit of a name server on this machine, and nobody else's."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from responder.clock import SystemClock
from responder.dns import Base, NoData, NotFound, Resolver, TemporaryError
from tests.support.dns_server import DNSServer, Zone

DIGEST = "ab" * 32
ZONE: Zone = {
    "signed.example": {"MX": [[10, "mx.signed.example"]], "AD": True},
    "mx.signed.example": {"A": ["192.0.2.1"], "AAAA": ["2001:db8::1"], "AD": True},
    "_25._tcp.mx.signed.example": {"TLSA": [[3, 1, 1, DIGEST], [2, 0, 0, "abcd"]], "AD": True},
    "plain.example": {"MX": [[10, "mx.plain.example"]]},
    "mx.plain.example": {"A": ["192.0.2.1"]},
    "bare.example": {"AD": True},
    "alias.example": {"CNAME": "mx.signed.example", "AD": True},
    "away.example": {"CNAME": "mx.plain.example", "AD": True},
    "lured.example": {"CNAME": "mx.signed.example"},
    "half.example": {"A": ["192.0.2.1"], "AAAA": "SERVFAIL", "AD": True},
    "dead.example": "SERVFAIL",
}


@pytest.fixture
async def server() -> AsyncIterator[DNSServer]:
    async with DNSServer(dict(ZONE)) as server:
        yield server


def make(server: DNSServer, believe_ad: bool | None = None) -> Resolver:
    return Resolver([server.nameserver], clock=SystemClock(), timeout=1, believe_ad=believe_ad)


async def test_records_are_signed_then_it_is_known_and_stays_known_in_the_cache(server: DNSServer) -> None:
    resolver = make(server)
    for _ in range(2):
        assert await resolver.mx_secure("signed.example") == ([(10, "mx.signed.example")], True)
        assert await resolver.mx_secure("plain.example") == ([(10, "mx.plain.example")], False)
    assert server.queries["signed.example", "MX"] == 1


async def test_tlsa_records_come_as_they_are(server: DNSServer) -> None:
    records, secure = await make(server).tlsa("_25._tcp.mx.signed.example")
    assert (sorted(records), secure) == ([(2, 0, 0, b"\xab\xcd"), (3, 1, 1, b"\xab" * 32)], True)


async def test_there_is_none_then_it_is_known_whether_that_is_signed(server: DNSServer) -> None:
    resolver = make(server)
    with pytest.raises(NoData) as caught:
        await resolver.mx_secure("bare.example")
    assert caught.value.secure
    with pytest.raises(NoData) as caught:
        await resolver.tlsa("mx.plain.example")
    assert not caught.value.secure


async def test_nobody_is_believed_then_nothing_is_signed_and_nobody_is_asked(server: DNSServer) -> None:
    resolver = make(server, believe_ad=False)
    assert await resolver.mx_secure("signed.example") == ([(10, "mx.signed.example")], False)
    assert not server.asked_ad


@pytest.mark.parametrize(
    ("servers", "believed"),
    [
        (["127.0.0.1"], True),
        (["[::1]:53", "127.0.0.53"], True),
        (["127.0.0.1", "192.0.2.1"], False),
        (["192.0.2.1"], False),
        (["2001:db8::1"], False),
    ],
)
def test_name_servers_are_elsewhere_then_they_are_not_believed(servers: list[str], believed: bool) -> None:
    assert Resolver(servers, clock=SystemClock()).validates is believed
    assert Resolver(servers, clock=SystemClock(), believe_ad=True).validates


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("mx.signed.example", Base(True, ("mx.signed.example",))),
        ("mx.plain.example", Base(False, ("mx.plain.example",))),
        ("alias.example", Base(True, ("mx.signed.example", "alias.example"))),
        ("away.example", Base(True, ("away.example",))),
        ("lured.example", Base(False, ("lured.example",))),
        ("half.example", Base(True, ("half.example",))),
    ],
)
async def test_host_has_names_by_which_its_records_are_asked_for(server: DNSServer, host: str, expected: Base) -> None:
    assert await make(server).tlsa_base(host) == expected


async def test_host_can_not_be_looked_up_then_nobody_knows(server: DNSServer) -> None:
    with pytest.raises(TemporaryError):
        await make(server).tlsa_base("dead.example")
    with pytest.raises(NotFound):
        await make(server).tlsa_base("nowhere.example.net")

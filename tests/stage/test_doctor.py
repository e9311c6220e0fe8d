"""What other servers would find odd about this one's names and addresses."""

from __future__ import annotations

from collections.abc import AsyncIterator
from ipaddress import ip_address
from typing import Any

import pytest

from responder.clock import SystemClock
from responder.config import Config
from responder.dns import Resolver
from responder.outbound import doctor
from responder.outbound.doctor import examine
from responder.outbound.reach import is_local
from tests.support.dns_server import DNSServer, Zone

ADDRESS, OTHER = "8.8.4.4", "2a00:1450::5"
GOOD: Zone = {
    "mx.example.org": {"A": [ADDRESS], "AAAA": [OTHER]},
    "4.4.8.8.in-addr.arpa": {"PTR": ["MX.example.org"]},
    "5.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.5.4.1.0.0.a.2.ip6.arpa": {"PTR": ["mx.example.org"]},
}


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with these two addresses."""
    monkeypatch.setattr(doctor, "outward", lambda: [ADDRESS, OTHER])
    monkeypatch.setattr(doctor, "is_local", lambda ip: str(ip) in (ADDRESS, OTHER, "10.0.0.5"))


@pytest.fixture
async def dns() -> AsyncIterator[DNSServer]:
    async with DNSServer(dict(GOOD)) as dns:
        yield dns


async def remarks(dns: DNSServer, **tables: Any) -> list[tuple[str, str]]:
    config = Config.model_validate({"hostname": "mx.example.org", **tables})
    found = await examine(config, Resolver([dns.nameserver], clock=SystemClock(), timeout=0.6))
    return [(remark.key, remark.reason) for remark in found]


async def test_all_fits_then_nothing_is_remarked(dns: DNSServer) -> None:
    assert await remarks(dns) == []
    assert await remarks(dns, delivery={"source_address": ADDRESS}) == []
    assert await remarks(dns, sources={"example.org": {"addresses": [ADDRESS, OTHER]}}) == []


@pytest.mark.parametrize("transport", [{"transport": "print"}, {"transport": "smarthost", "smarthost": "relay:25"}])
async def test_no_mail_goes_to_strangers_then_nobody_is_asked(dns: DNSServer, transport: dict[str, str]) -> None:
    assert await remarks(dns, hostname="nowhere.test", delivery=transport) == []
    assert not dns.queries


@pytest.mark.parametrize(
    ("zone", "reason"),
    [
        ({"mx.example.org": "NXDOMAIN"}, "does not resolve"),
        ({"mx.example.org": "SERVFAIL"}, "can't be looked up now"),
        (
            {"mx.example.org": {"A": ["8.8.8.8"], "AAAA": [OTHER]}},
            f"{ADDRESS} is not among the addresses of mx.example",
        ),
        ({"4.4.8.8.in-addr.arpa": "NXDOMAIN"}, f"{ADDRESS} has no name (PTR)"),
        ({"4.4.8.8.in-addr.arpa": "TIMEOUT"}, f"the name of {ADDRESS} can't be looked up now"),
        ({"4.4.8.8.in-addr.arpa": {"PTR": ["host4.provider.test"]}}, f"{ADDRESS} is called host4.provider.test (PTR)"),
    ],
)
async def test_something_does_not_fit_then_it_is_remarked(dns: DNSServer, zone: Zone, reason: str) -> None:
    dns.zone.update(zone)
    [(key, said)] = await remarks(dns)
    assert key == "hostname"
    assert said.startswith(reason)
    [(key, said)] = await remarks(dns, delivery={"source_address": ADDRESS})
    assert key == ("hostname" if reason.startswith(("does not", "can't")) else "delivery.source_address")


async def test_source_of_a_domain_does_not_fit_then_its_own_key_is_named(dns: DNSServer) -> None:
    dns.zone["mx.example.net"] = {"A": ["8.8.8.8"]}
    sources = {
        "a.example": {"addresses": [ADDRESS], "hostname": "mx.example.net"},
        "b.example": {"hostname": "nowhere.test"},
        "c.example": {"addresses": ["8.8.4.9"]},
        "d.example": {"addresses": ["10.0.0.5"]},
    }
    found = await remarks(dns, sources=sources)
    assert [key for key, _ in found] == [
        "sources.a.example.addresses",
        "sources.b.example.hostname",
        "sources.c.example.addresses",
        "sources.d.example.addresses",
    ]
    assert "not among the addresses of mx.example.net" in found[0][1]
    assert "does not resolve" in found[1][1]
    assert "no address of this machine" in found[2][1]
    assert "no public address" in found[3][1]


def test_outward_addresses_when_asked_for_then_they_are_this_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert all(is_local(ip_address(address)) for address in doctor.outward())

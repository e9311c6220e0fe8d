"""Whose mail leaves from where: address and EHLO name by the domain of ours, connections never shared between them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from responder.clock import SystemClock
from responder.config import Config
from responder.departure import Departure, sources
from responder.dns import Resolver
from responder.mail.status import Outcome
from responder.outbound.base import Envelope, RecipientResult
from responder.outbound.dial import Timeouts
from responder.outbound.sources import Source
from responder.outbound.transport import MXTransport, Settings, SmarthostTransport
from responder.store.sqlite import SQLiteStore
from tests.support.dns_server import DNSServer, Zone
from tests.support.smtp_sink import SMTPSink

SHORT = Timeouts(connect=1, greeting=1, command=1, data=1, block=1, dot=1, tls=1, farewell=1)
CONFIG = {
    "hostname": "mx.example.org",
    "domains": ["example.org", "example.net"],
    "delivery": {"source_address": "127.0.0.11"},
    "sources": {
        "Example.NET": {"addresses": ["127.0.0.12", "::1"], "hostname": "mx.example.net"},
        "named.example": {"hostname": "mx.named.example"},
        "placed.example": {"addresses": ["127.0.0.13"]},
        "six.example": {"addresses": ["::1"]},
    },
}
MAIL = Envelope("me@example.org", ("you@example.com",), b"Subject: hello\r\n\r\nhello\r\n")


class Host(SMTPSink):
    """Remembers where its clients came from."""

    def __init__(self, address: str, port: int = 0) -> None:
        super().__init__(address=address, port=port)
        self.clients: list[str] = []

    async def _accept(self, reader, writer) -> None:  # type: ignore[no-untyped-def]
        self.clients.append(writer.get_extra_info("peername")[0])
        await super()._accept(reader, writer)

    @property
    def seen(self) -> list[tuple[str, str]]:
        """Where from, and the name in EHLO, of each connection."""
        names = [line.partition(" ")[2] for _, line in self.commands if line.startswith("EHLO")]
        return list(zip(self.clients, names, strict=True))


class Net:
    def __init__(self, dns: DNSServer, four: Host, six: Host) -> None:
        self.four, self.six = four, six
        config = Config.model_validate(CONFIG)
        settings = Settings(
            config.hostname,
            source_address=config.delivery.source_address,
            sources=sources(config),
            timeouts=SHORT,
        )
        clock = SystemClock()
        resolver = Resolver([dns.nameserver], clock=clock, timeout=1)
        self.mx = MXTransport(settings, resolver, clock, port=four.port, allow_private=True)
        self.smarthost = SmarthostTransport(settings, resolver, clock, smarthost=f"127.0.0.1:{four.port}")

    async def send(self, **fields: Any) -> RecipientResult:
        (result,) = await self.mx.send(replace(MAIL, **fields))
        return result


@pytest.fixture
async def net() -> AsyncIterator[Net]:
    zone: Zone = {
        "example.com": {"A": ["127.0.0.1"]},
        "six.test": {"AAAA": ["::1"]},
        "both.test": {"A": ["127.0.0.1"], "AAAA": ["::1"]},
    }
    four = Host("127.0.0.1")
    async with DNSServer(zone) as dns, four:
        six = Host("::1", four.port)
        async with six:
            net = Net(dns, four, six)
            yield net
            await net.mx.close()
            await net.smarthost.close()


@pytest.mark.parametrize(
    ("fields", "seen"),
    [
        ({}, ("127.0.0.11", "mx.example.org")),
        ({"reverse_path": "bounces+1@example.net"}, ("127.0.0.12", "mx.example.net")),
        ({"reverse_path": "me@EXAMPLE.net"}, ("127.0.0.12", "mx.example.net")),
        ({"reverse_path": "me@sub.example.net"}, ("127.0.0.11", "mx.example.org")),
        ({"reverse_path": ""}, ("127.0.0.11", "mx.example.org")),
        ({"reverse_path": "", "domain": "example.net"}, ("127.0.0.12", "mx.example.net")),
        ({"reverse_path": "me@example.net", "domain": "example.org"}, ("127.0.0.11", "mx.example.org")),
        ({"reverse_path": "me@named.example"}, ("127.0.0.11", "mx.named.example")),
        ({"reverse_path": "me@placed.example"}, ("127.0.0.13", "mx.example.org")),
    ],
)
async def test_mail_of_a_domain_then_it_leaves_from_that_domains_address_by_its_name(
    net: Net, fields: dict[str, str], seen: tuple[str, str]
) -> None:
    assert (await net.send(**fields)).outcome is Outcome.SUCCESS
    assert net.four.seen == [seen]


async def test_host_has_ipv6_only_then_the_ipv6_source_is_used(net: Net) -> None:
    result = await net.send(reverse_path="me@example.net", recipients=("you@six.test",))
    assert (result.outcome, net.six.seen) == (Outcome.SUCCESS, [("::1", "mx.example.net")])


async def test_source_has_no_address_of_the_family_then_mail_does_not_leave_from_another(net: Net) -> None:
    result = await net.send(reverse_path="me@placed.example", recipients=("you@six.test",))
    assert (result.outcome, result.enhanced, net.six.clients) == (Outcome.TRANSIENT, "4.4.1", [])
    assert result.text == "::1 can't be reached from 127.0.0.13"


async def test_source_has_one_family_then_the_hosts_address_of_that_family_is_taken(net: Net) -> None:
    result = await net.send(reverse_path="me@six.example", recipients=("you@both.test",))
    assert (result.outcome, net.four.clients, net.six.clients) == (Outcome.SUCCESS, [], ["::1"])


async def test_connection_is_kept_for_one_domain_then_it_serves_no_other(net: Net) -> None:
    for sender in ("a@example.net", "b@example.net", "c@example.org", "d@named.example", "e@example.net"):
        assert (await net.send(reverse_path=sender)).outcome is Outcome.SUCCESS
    assert net.four.seen == [
        ("127.0.0.12", "mx.example.net"),
        ("127.0.0.11", "mx.example.org"),
        ("127.0.0.11", "mx.named.example"),
    ]
    assert {(one.reverse_path.partition("@")[2], one.helo.rstrip(".")) for one in net.four.transactions} == {
        ("example.net", "mx.example.net"),
        ("example.org", "mx.example.org"),
        ("named.example", "mx.named.example"),
    }


async def test_smarthost_and_routes_then_they_are_reached_from_there_too(net: Net) -> None:
    mail = replace(MAIL, reverse_path="me@example.net")
    await net.smarthost.send(mail)
    await net.mx.send(replace(mail, route=f"127.0.0.1:{net.four.port}"))
    assert net.four.seen == [("127.0.0.12", "mx.example.net")] * 2


async def test_our_other_name_is_the_host_then_it_is_a_loop(net: Net) -> None:
    async with DNSServer({"example.com": {"MX": [[1, "mx.example.net"]]}}) as dns:
        net.mx._resolver = Resolver([dns.nameserver], clock=SystemClock(), timeout=1)
        assert (await net.send()).enhanced == "5.4.6"


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        ({"x.example": {"addresses": ["192.0.2.1", "192.0.2.2"]}}, "one IPv4 and one IPv6"),
        ({"x.example": {"addresses": ["elsewhere"]}}, "wants an IP address"),
        ({"x.example": {"hostname": "192.0.2.1"}}, "host name|wants a"),
        ({"not a domain": {}}, "wants a domain"),
        ({"x.example": {}, "X.Example": {}}, "another spelling"),
        ({"x.example": {"address": "192.0.2.1"}}, "address"),
    ],
)
def test_table_that_makes_no_sense_then_it_is_refused(table: object, reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        Config.model_validate({"sources": table})


def test_source_when_nothing_is_given_then_the_kernel_chooses() -> None:
    assert Source("mx.example.org").towards("192.0.2.1") == ""
    assert Source("mx.example.org", ipv6="2001:db8::1").towards("192.0.2.1") is None


def test_sources_change_at_a_reload_then_the_way_out_is_made_anew_and_knows_what_it_knew(tmp_path: Path) -> None:
    clock = SystemClock()
    departure = Departure(Config.model_validate(CONFIG), SQLiteStore(tmp_path / "x.db", clock), clock)
    old, changed = Config.model_validate(CONFIG), Config.model_validate(CONFIG | {"sources": {}})
    first = departure.transport
    assert isinstance(first, MXTransport)
    assert departure.follow(old, old) is None
    assert departure.follow(changed, old) is first
    second = departure.transport
    assert isinstance(second, MXTransport)
    mail = replace(MAIL, reverse_path="me@example.net")
    assert (first.source(mail).hostname, second.source(mail).hostname) == ("mx.example.net", "mx.example.org")
    assert first._memory is second._memory

"""What a destination's policy does to the choice of hosts and connections."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any

import pytest

from responder.clock import SystemClock
from responder.dns import Resolver
from responder.mail.status import FailureError, Outcome, Trouble
from responder.outbound.base import Envelope
from responder.outbound.dial import Timeouts
from responder.outbound.tls.policy import DomainPolicy, PolicyUsed, SessionNote
from responder.outbound.tls.security import OPPORTUNISTIC, Insecure, InsecureError, Level, Security
from responder.outbound.transport import MXTransport, Settings, SmarthostTransport
from tests.support.dns_server import DNSServer, Zone
from tests.support.smtp_sink import SMTPSink

SHORT = Timeouts(connect=1, greeting=1, command=1, data=1, block=1, dot=1, tls=1, farewell=1)
SETTINGS = Settings("mx.example.org", timeouts=SHORT, providers={"one.test": "both", "two.test": "both"})
MAIL = Envelope("me@example.org", ("you@example.com",), b"Subject: hello\r\n\r\nhello\r\n")
ENCRYPTED = Security(Level.ENCRYPTED)


class Scripted:
    """Both `Policies` and `DomainPolicy`: by host what it must have, or what is raised."""

    used = PolicyUsed("sts", "example.com")

    def __init__(self, **hosts: Security | FailureError) -> None:
        self.hosts = hosts
        self.asked: list[dict[str, Any]] = []
        self.notes: list[SessionNote] = []
        self.fails: FailureError | None = None

    async def find(
        self, domain: str, hosts: Sequence[str], *, secure: bool, requiretls: bool, optional: bool = False
    ) -> DomainPolicy:
        self.asked.append(
            {"domain": domain, "hosts": list(hosts), "secure": secure, "requiretls": requiretls, "optional": optional}
        )
        if self.fails is not None:
            raise self.fails
        return self

    async def of(self, host: str) -> Security:
        found = self.hosts.get(host.partition(".")[0], OPPORTUNISTIC)
        if isinstance(found, FailureError):
            raise found
        return found

    def note(self, note: SessionNote) -> None:
        self.notes.append(note)

    @property
    def noted(self) -> list[tuple[str, str, str]]:
        """Host, address, and the kind of what was wrong."""
        return [(note.host, note.address, note.why.kind if note.why else "") for note in self.notes]


class Net:
    def __init__(self, stack: contextlib.AsyncExitStack) -> None:
        self._stack = stack
        self.zone: Zone = {"example.com": {"MX": []}}
        self.dns = DNSServer(self.zone)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.hosts = 0

    async def host(self, *, tls: bool = False) -> SMTPSink:
        self.hosts += 1
        name, address = f"mx{self.hosts}.test", f"127.0.5.{self.hosts}"
        self.zone["example.com"]["MX"].append([10 * self.hosts, name])
        self.zone[name] = {"A": [address]}
        return await self._stack.enter_async_context(SMTPSink(address=address, port=self.port, tls=tls))

    def transport(self, policies: Scripted, smarthost: str = "") -> MXTransport | SmarthostTransport:
        clock = SystemClock()
        resolver = Resolver([self.dns.nameserver], clock=clock, timeout=0.6, believe_ad=True)
        transport = (
            SmarthostTransport(SETTINGS, resolver, clock, smarthost=smarthost, policies=policies)
            if smarthost
            else MXTransport(SETTINGS, resolver, clock, port=self.port, allow_private=True, policies=policies)
        )
        self._stack.push_async_callback(transport.close)
        return transport


@pytest.fixture
async def net() -> AsyncIterator[Net]:
    async with contextlib.AsyncExitStack() as stack:
        net = Net(stack)
        await stack.enter_async_context(net.dns)
        yield net


async def test_host_has_not_what_is_asked_then_no_mail_passes_and_the_next_is_tried(net: Net) -> None:
    plain, good = await net.host(), await net.host(tls=True)
    policies = Scripted(mx1=ENCRYPTED, mx2=ENCRYPTED)
    (result,) = await net.transport(policies).send(MAIL)
    assert (result.outcome, result.host, result.tls) == (Outcome.SUCCESS, "mx2.test", "TLSv1.3")
    assert (plain.connections, plain.transactions, "MAIL" in plain.verbs()) == (1, [], False)
    assert len(good.transactions) == 1
    assert policies.noted == [("mx1.test", "127.0.5.1", "starttls-not-supported"), ("mx2.test", "127.0.5.2", "")]
    assert {note.policy.domain for note in policies.notes} == {"example.com"}


async def test_no_host_has_what_is_asked_then_the_mail_waits_and_nobody_is_dead(net: Net) -> None:
    plain = await net.host()
    transport = net.transport(Scripted(mx1=ENCRYPTED))
    for number in (1, 2):
        (result,) = await transport.send(MAIL)
        assert (result.outcome, result.enhanced, result.pause) == (Outcome.TRANSIENT, "4.7.5", 0.0)
        assert plain.connections == number


async def test_policy_excludes_a_host_then_it_is_not_connected(net: Net) -> None:
    first, second = await net.host(tls=True), await net.host(tls=True)
    why = Insecure("validation-failure", "not among the mx")
    policies = Scripted(mx1=InsecureError(Trouble.INSECURE.failure(why.text), why))
    (result,) = await net.transport(policies).send(MAIL)
    assert (result.outcome, result.host) == (Outcome.SUCCESS, "mx2.test")
    assert (first.connections, second.connections) == (0, 1)
    assert policies.noted[0] == ("mx1.test", "", "validation-failure")


async def test_policy_can_not_be_known_then_the_mail_waits_and_nobody_is_connected(net: Net) -> None:
    host = await net.host(tls=True)
    policies = Scripted()
    policies.fails = FailureError(Trouble.DNS_FAILED.failure("TLSA"))
    (result,) = await net.transport(policies).send(MAIL)
    assert (result.outcome, result.enhanced, host.connections) == (Outcome.TRANSIENT, "4.4.3", 0)
    (result,) = await net.transport(policies).send(replace(MAIL, route=f"127.0.5.1:{net.port}"))
    assert (result.outcome, result.enhanced, host.connections) == (Outcome.TRANSIENT, "4.4.3", 0)


async def test_connection_was_made_for_less_then_it_does_not_serve_a_mail_that_needs_more(net: Net) -> None:
    host = await net.host()
    policies = Scripted()
    transport = net.transport(policies)
    assert (await transport.send(MAIL))[0].outcome is Outcome.SUCCESS
    policies.hosts = {"mx1": ENCRYPTED}
    (result,) = await transport.send(MAIL)
    assert (result.outcome, result.enhanced, len(host.transactions)) == (Outcome.TRANSIENT, "4.7.5", 1)
    policies.hosts = {}
    assert (await transport.send(MAIL))[0].outcome is Outcome.SUCCESS
    assert (host.connections, len(host.transactions)) == (2, 2)  # the first one was kept all the while


async def test_kept_connection_then_only_the_new_one_is_noted(net: Net) -> None:
    await net.host(tls=True)
    policies = Scripted()
    transport = net.transport(policies)
    for _ in range(3):
        await transport.send(MAIL)
    assert policies.noted == [("mx1.test", "127.0.5.1", "")]


async def test_policies_are_asked_then_they_hear_what_they_need(net: Net) -> None:
    await net.host(tls=True)
    await net.host(tls=True)
    policies = Scripted()
    await net.transport(policies).send(MAIL)
    net.zone["example.com"]["AD"] = True
    await net.transport(policies).send(replace(MAIL, requiretls=True))
    await net.transport(policies).send(replace(MAIL, tls_optional=True, route=f"127.0.5.1:{net.port}"))
    await net.transport(policies, f"127.0.5.1:{net.port}").send(MAIL)
    both = ["mx1.test", "mx2.test"]
    assert policies.asked == [
        {"domain": "example.com", "hosts": both, "secure": False, "requiretls": False, "optional": False},
        {"domain": "example.com", "hosts": both, "secure": True, "requiretls": True, "optional": False},
        {"domain": "", "hosts": ["127.0.5.1"], "secure": False, "requiretls": False, "optional": True},
        {"domain": "", "hosts": ["127.0.5.1"], "secure": False, "requiretls": False, "optional": False},
    ]


@pytest.mark.parametrize(
    ("zone", "provider"),
    [
        ({"MX": [[20, "alt1.aspmx.l.google.com"], [10, "aspmx.l.Google.com"], [10, "zz.google.com"]]}, "google.com"),
        ({"MX": [[20, "backup.other.test"], [10, "aspmx.l.google.com"]]}, "example.com"),
        ({"MX": [[10, "mx.one.test"], [20, "mx.two.test"]]}, "both"),
        ({"MX": [[10, "x.mail.protection.outlook.com"]]}, "outlook.com"),
        ({"MX": [[10, "mx.example.co.uk"]]}, "example.co.uk"),
        ({"MX": [[10, "localhost"]]}, "localhost"),
        ({"MX": [[0, "."]]}, "example.com"),
        ({"A": ["127.0.5.1"]}, "example.com"),
        ("NXDOMAIN", "example.com"),
        ("SERVFAIL", "example.com"),
        ("TIMEOUT", "example.com"),
    ],
)
async def test_provider_when_asked_for_then_it_is_the_registered_domain_of_its_hosts(
    net: Net, zone: object, provider: str
) -> None:
    net.zone["example.com"] = zone
    transport = net.transport(Scripted())
    assert await transport.provider("example.com") == provider
    if zone not in ("SERVFAIL", "TIMEOUT"):
        for _ in range(5):
            assert await transport.provider("example.com") == provider
        assert net.dns.queries["example.com", "MX"] == 1  # the resolver's cache


async def test_provider_when_hosts_are_no_longer_its_own_then_nobody_is_asked(net: Net) -> None:
    mine = await net.host()
    net.zone["example.com"] = {"MX": [[10, "mx1.test"]], "TTL": 0}
    transport = net.transport(Scripted())
    (result,) = await transport.send(replace(MAIL, provider="big.example"))
    assert (result.failure, mine.connections) == (Trouble.MOVED.failure(), 0)
    for provider in ("", "mx1.test", "example.com"):  # any, the right one, its own
        (result,) = await transport.send(replace(MAIL, provider=provider))
        assert result.outcome is Outcome.SUCCESS, provider


async def test_provider_of_a_literal_or_of_a_smarthost_then_nobody_is_asked(net: Net) -> None:
    assert await net.transport(Scripted()).provider("[192.0.2.1]") == "[192.0.2.1]"
    assert await net.transport(Scripted(), "relay.test:25").provider("example.com") == ""
    assert not net.dns.queries

"""Whatever a domain's name servers say: the right outcome, and no connection where none may be.

The hosts here are at loopback addresses, which the transport takes for public ones where a test lets it: then `PUBLIC` stands
for the Internet, and all else is judged as it always is.
"""

from __future__ import annotations

import contextlib
import itertools
import socket
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Any

import pytest

from responder.clock import SystemClock
from responder.dns import Resolver
from responder.mail.status import Outcome
from responder.outbound import reach
from responder.outbound.base import Envelope, RecipientResult
from responder.outbound.dial import Timeouts
from responder.outbound.mx import MAX_HOSTS
from responder.outbound.pool import Pool
from responder.outbound.sources import Source
from responder.outbound.transport import MXTransport, Settings
from tests.support.dns_server import DNSServer, Zone
from tests.support.smtp_sink import SMTPSink

SHORT = Timeouts(connect=1, greeting=0.5, command=0.5, data=0.5, block=0.5, dot=0.5, tls=0.5, farewell=0.5)
SETTINGS = Settings("mx.example.org", timeouts=SHORT)
MAIL = Envelope("me@example.org", ("you@example.com",), b"Subject: hello\r\n\r\nhello\r\n")
PUBLIC = "127.0.2.1"
PERMANENT, TRANSIENT, SUCCESS = Outcome.PERMANENT, Outcome.TRANSIENT, Outcome.SUCCESS


class Internet:
    """A name server; one real host that everybody may reach; and a trap on each address that nobody may."""

    def __init__(self, stack: contextlib.AsyncExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
        self._stack = stack
        self.zone: Zone = {
            "good.example": {"A": [PUBLIC]},
            "example.com": {"MX": [[10, "good.example"]]},
        }
        self.dns = DNSServer(self.zone)
        self.dialled: list[str] = []
        self.clock = SystemClock()
        judge = reach._kind

        def kind(ip: Any, *, allow_private: bool) -> str:
            return "" if str(ip) == PUBLIC else judge(ip, allow_private=allow_private)

        monkeypatch.setattr(reach, "_kind", kind)
        connect = socket.socket.connect

        async def dial(address: str, port: int, source_address: str, limit: float) -> socket.socket:
            self.dialled.append(address)
            sock = socket.socket()
            connect(sock, (address, port))
            sock.setblocking(False)
            return sock

        monkeypatch.setattr("responder.outbound.dial.dial", dial)

    async def begin(self) -> None:
        await self._stack.enter_async_context(self.dns)
        self.trap = await self._stack.enter_async_context(SMTPSink(address="127.0.0.1"))
        self.good = await self._stack.enter_async_context(SMTPSink(address=PUBLIC, port=self.trap.port))

    def transport(self, **settings: Any) -> MXTransport:
        resolver = Resolver([self.dns.nameserver], clock=self.clock, timeout=0.6)
        transport = MXTransport(replace(SETTINGS, **settings), resolver, self.clock, port=self.good.port)
        self._stack.push_async_callback(transport.close)
        return transport

    async def deliver(self, **settings: Any) -> RecipientResult:
        (result,) = await self.transport(**settings).send(MAIL)
        assert self.trap.connections == 0
        assert set(self.dialled) <= {PUBLIC}
        return result


@pytest.fixture
async def net(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Internet]:
    async with contextlib.AsyncExitStack() as stack:
        net = Internet(stack, monkeypatch)
        await net.begin()
        yield net


async def test_nothing_is_wrong_then_the_mail_arrives(net: Internet) -> None:
    assert (await net.deliver()).outcome is SUCCESS
    assert net.dialled == [PUBLIC]


# What the domain itself is. Nobody is connected.
DOMAINS: dict[str, tuple[Zone, Outcome, str]] = {
    "does not exist": ({"example.com": "NXDOMAIN"}, PERMANENT, "5.1.2"),
    "fails": ({"example.com": "SERVFAIL"}, TRANSIENT, "4.4.3"),
    "is refused": ({"example.com": "REFUSED"}, TRANSIENT, "4.4.3"),
    "is garbage": ({"example.com": "GARBAGE"}, TRANSIENT, "4.4.3"),
    "is silent": ({"example.com": "TIMEOUT"}, TRANSIENT, "4.4.3"),
    "has only its MX fail": ({"example.com": {"MX": "SERVFAIL", "A": [PUBLIC]}}, TRANSIENT, "4.4.3"),
    "has only its MX silent": ({"example.com": {"MX": "TIMEOUT", "A": [PUBLIC]}}, TRANSIENT, "4.4.3"),
    "takes no mail": ({"example.com": {"MX": [[0, "."]], "A": [PUBLIC]}}, PERMANENT, "5.1.10"),
    "has no host": ({"example.com": {"TXT": ["x"]}}, PERMANENT, "5.4.4"),
    "is an alias of nothing": ({"example.com": {"CNAME": "gone.test"}}, PERMANENT, "5.1.2"),
    "is its own alias": ({"example.com": {"CNAME": "example.com"}}, TRANSIENT, "4.4.3"),
    "is in a circle": ({"example.com": {"CNAME": "b.test"}, "b.test": {"CNAME": "example.com"}}, TRANSIENT, "4.4.3"),
    "dangles": ({"example.com": {"MX": [[10, "gone.test"]]}}, PERMANENT, "5.4.4"),
    "has hosts without addresses": (
        {
            "example.com": {"MX": [[10, "a.test"], [20, "b.test"]]},
            "a.test": {"TXT": ["x"]},
            "b.test": {"MX": [[1, "x"]]},
        },
        PERMANENT,
        "5.4.4",
    ),
    "has one host that dangles and one unknown": (
        {"example.com": {"MX": [[10, "gone.test"], [20, "b.test"]]}, "b.test": "SERVFAIL"},
        TRANSIENT,
        "4.4.3",
    ),
    "has a host whose alias goes in a circle": (
        {"example.com": {"MX": [[10, "a.test"]]}, "a.test": {"CNAME": "b.test"}, "b.test": {"CNAME": "a.test"}},
        TRANSIENT,
        "4.4.3",
    ),
    "is ours by name": ({"example.com": {"MX": [[10, "MX.example.org"], [20, "good.example"]]}}, PERMANENT, "5.4.6"),
    "is ours by the name of another source": ({"example.com": {"MX": [[10, "mx2.example.net"]]}}, PERMANENT, "5.4.6"),
}


@pytest.mark.parametrize("chase", [True, False], ids=["recursive", "step by step"])
@pytest.mark.parametrize("case", DOMAINS)
async def test_domain_is_such_then_that_is_the_outcome_and_nobody_is_connected(
    net: Internet, case: str, chase: bool
) -> None:
    zone, outcome, enhanced = DOMAINS[case]
    net.dns.chase = chase
    net.zone.update(zone)
    result = await net.deliver(sources={"example.net": Source("mx2.example.net")})
    assert (result.outcome, result.enhanced) == (outcome, enhanced)
    assert net.dialled == []


# Names that lead on. The mail arrives.
ALIASES: dict[str, Zone] = {
    "domain": {"example.com": {"CNAME": "b.test"}, "b.test": {"MX": [[10, "good.example"]]}},
    "host, which RFC 5321 5.1 forbids and others deliver to": {
        "example.com": {"MX": [[10, "a.test"]]},
        "a.test": {"CNAME": "good.example"},
    },
    "host, seven times": {
        "example.com": {"MX": [[10, "a0.test"]]},
        **{f"a{n}.test": {"CNAME": f"a{n + 1}.test"} for n in range(7)},
        "a7.test": {"A": [PUBLIC]},
    },
    "implicit MX": {"example.com": {"CNAME": "good.example"}},
}


@pytest.mark.parametrize("chase", [True, False], ids=["recursive", "step by step"])
@pytest.mark.parametrize("case", ALIASES)
async def test_alias_of_the_domain_or_host_then_the_mail_arrives(net: Internet, case: str, chase: bool) -> None:
    net.dns.chase = chase
    net.zone.update(ALIASES[case])
    assert (await net.deliver()).outcome is SUCCESS


async def test_chain_of_a_hundred_aliases_then_it_is_given_up_in_time(net: Internet) -> None:
    net.dns.chase = False
    net.zone.update({f"a{n}.test": {"CNAME": f"a{n + 1}.test"} for n in range(100)})
    net.zone.update({"example.com": {"MX": [[10, "a0.test"]]}, "a100.test": {"A": [PUBLIC]}})
    result = await net.deliver()
    assert (result.outcome, result.enhanced, net.dialled) == (TRANSIENT, "4.4.3", [])
    assert sum(net.dns.queries.values()) < 30


@pytest.mark.parametrize("bad", ["gone.test", "broken.test", "silent.test", "private.test"])
async def test_best_host_is_of_no_use_then_the_next_takes_it(net: Internet, bad: str) -> None:
    net.zone["example.com"] = {"MX": [[10, bad], [20, "good.example"]]}
    net.zone.update({"broken.test": "SERVFAIL", "silent.test": "TIMEOUT", "private.test": {"A": ["127.0.0.1"]}})
    result = await net.deliver()
    assert (result.outcome, result.host) == (SUCCESS, "good.example")


@pytest.mark.parametrize("preference", [lambda n: n, lambda _: 10], ids=["each its own", "all the same"])
async def test_thousand_hosts_then_ten_are_asked_for_and_no_more(net: Internet, preference: Any) -> None:
    net.zone["example.com"] = {"MX": [[preference(n), f"mx{n}.test"] for n in range(1000)]}
    net.zone.update({f"mx{n}.test": {"A": [f"127.0.0.{1 + n % 200}", f"10.1.{n % 250}.1"]} for n in range(1000)})
    result = await net.deliver()
    assert (result.outcome, result.enhanced, net.dialled) == (PERMANENT, "5.4.4", [])
    asked = {name for name, _ in net.dns.queries if name.startswith("mx")}
    assert len(asked) <= MAX_HOSTS
    if preference(3) == 3:
        assert asked == {f"mx{n}.test" for n in range(MAX_HOSTS)}


async def test_host_with_a_thousand_addresses_then_few_are_looked_at(net: Internet) -> None:
    addresses = [f"10.{n // 250}.{n % 250}.1" for n in range(1000)]
    net.zone.update({"example.com": {"MX": [[10, "a.test"]]}, "a.test": {"A": addresses}})
    result = await net.deliver()
    assert (result.outcome, result.enhanced, net.dialled) == (PERMANENT, "5.4.4", [])


def forbidden() -> Iterator[str]:
    """Addresses that no stranger may have us connect, in each disguise that there is."""
    for inner in ("127.0.0.1", "169.254.169.254", "10.0.0.1", "0.0.0.0"):
        number = int.from_bytes(socket.inet_aton(inner), "big")
        high, low = number >> 16, number & 0xFFFF
        yield inner
        yield f"::ffff:{inner}"  # mapped (RFC 4291 2.5.5.2)
        yield f"64:ff9b::{inner}"  # NAT64 (RFC 6052)
        yield f"64:ff9b:1::{inner}"  # a local NAT64's (RFC 8215)
        yield f"2002:{high:x}:{low:x}::1"  # 6to4 (RFC 3056)
        yield f"2001:0:{high:x}:{low:x}::1"  # Teredo, as its server (RFC 4380)
        yield f"2001::{high ^ 0xFFFF:x}:{low ^ 0xFFFF:x}"  # Teredo, as its client
        yield f"::ffff:0:{inner}"  # translated (RFC 2765 2.1)
        if number:
            yield f"::{inner}"  # compatible (RFC 4291 2.5.5.1)
    yield from ("::1", "::", "fe80::1", "fd00::1", "fec0::1", "ff02::1", "255.255.255.255", "224.0.0.1", "100.64.0.1")


@pytest.mark.parametrize("address", list(forbidden()))
async def test_host_is_at_an_address_that_is_nobodys_business_then_nobody_is_connected(
    net: Internet, address: str
) -> None:
    kind = "AAAA" if ":" in address else "A"
    net.zone.update({"example.com": {"MX": [[10, "a.test"]]}, "a.test": {kind: [address]}})
    result = await net.deliver()
    assert (result.outcome, result.enhanced, net.dialled) == (PERMANENT, "5.4.4", [])


@pytest.mark.parametrize("own", ["127.0.2.1", "0.0.0.0", "::", "::ffff:127.0.2.1"])
async def test_host_is_ourselves_by_address_then_it_is_a_loop(net: Internet, own: str) -> None:
    result = await net.deliver(own={(own, net.good.port)})
    assert (result.outcome, result.enhanced, net.dialled) == (PERMANENT, "5.4.6", [])


@pytest.mark.parametrize("own", ["127.0.2.9", "::ffff:127.0.2.9"])
@pytest.mark.parametrize("address", ["127.0.2.9", "::ffff:127.0.2.9"])
async def test_host_is_ourselves_by_address_then_the_hosts_behind_are_not_asked(
    net: Internet, own: str, address: str
) -> None:
    net.zone["example.com"] = {"MX": [[10, "disguised.test"], [20, "good.example"]]}
    net.zone["disguised.test"] = {"AAAA" if ":" in address else "A": [address]}
    result = await net.deliver(own={(own, net.good.port)})
    assert (result.outcome, result.enhanced, net.dialled) == (PERMANENT, "5.4.6", [])


class Alternating(dict[str, Any]):
    """A zone whose host is elsewhere at each question, as a rebinding name server does."""

    def __init__(self, zone: Zone, name: str, turns: list[list[str]]) -> None:
        super().__init__(zone)
        self._name = name
        self._turns = itertools.cycle(turns)

    def get(self, key: str, default: Any = None) -> Any:
        if key == self._name:
            return {"A": next(self._turns), "AAAA": [], "TTL": 0}
        return super().get(key, default)


@pytest.mark.parametrize("turns", [[[PUBLIC], ["127.0.0.1"]], [["127.0.0.1"], [PUBLIC]]])
async def test_name_server_alternates_then_what_is_connected_is_what_was_judged(
    net: Internet, turns: list[list[str]]
) -> None:
    """Each delivery asks anew (TTL 0), on a new connection. No name is looked up between judging an address and connecting it."""
    net.dns.zone = Alternating(net.zone, "a.test", turns)
    net.dns.zone["example.com"] = {"MX": [[10, "a.test"]]}
    transport = net.transport()
    transport.pool = Pool(net.clock, idle=0.0)
    outcomes = set()
    for _ in range(8):
        (result,) = await transport.send(MAIL)
        outcomes.add(result.outcome)
        if result.outcome is SUCCESS:
            assert result.address == PUBLIC
    assert outcomes == {SUCCESS, PERMANENT}  # the test has seen both answers
    assert net.trap.connections == 0
    assert set(net.dialled) == {PUBLIC}


async def test_public_and_inner_address_side_by_side_then_only_the_public_one_is_connected(net: Internet) -> None:
    net.zone.update(
        {"example.com": {"MX": [[10, "a.test"]]}, "a.test": {"A": ["127.0.0.1", PUBLIC, "169.254.169.254"]}}
    )
    assert (await net.deliver()).outcome is SUCCESS
    assert net.dialled == [PUBLIC]


async def test_inner_name_as_host_then_a_connection_kept_for_the_operator_does_not_serve_it(net: Internet) -> None:
    """As a route it may be reached, and its connection stays open; as somebody's MX it may not, however it is called."""
    net.zone.update({"example.com": {"MX": [[10, "inner.test"]]}, "inner.test": {"A": ["127.0.0.1"]}})
    transport = net.transport()
    (result,) = await transport.send(replace(MAIL, route=f"inner.test:{net.good.port}"))
    assert (result.outcome, net.trap.connections, len(transport.pool)) == (SUCCESS, 1, 1)
    (result,) = await transport.send(MAIL)
    assert (result.outcome, result.enhanced) == (PERMANENT, "5.4.4")
    assert (net.trap.connections, len(net.trap.transactions)) == (1, 1)

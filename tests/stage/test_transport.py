"""The ways out: name server, hosts, addresses and sessions together."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from responder.clock import SystemClock
from responder.dns import Resolver
from responder.mail.status import Outcome
from responder.outbound.base import Envelope, Transport
from responder.outbound.dial import Timeouts
from responder.outbound.mx import MAX_HOSTS
from responder.outbound.transport import MAX_CONNECTIONS, MXTransport, Settings, SmarthostTransport
from tests.support.dns_server import DNSServer, Zone
from tests.support.smtp_sink import Script, SMTPSink

SHORT = Timeouts(connect=1, greeting=0.5, command=0.5, data=0.5, block=0.5, dot=0.5, tls=0.5, farewell=0.5)
SETTINGS = Settings("mx.example.org", timeouts=SHORT)
MAIL = Envelope("me@example.org", ("you@example.com",), b"Subject: hello\r\n\r\nhello\r\n")


class Net:
    """A name server and some hosts, each on a loopback address of its own, all on one port."""

    def __init__(self, stack: contextlib.AsyncExitStack) -> None:
        self._stack = stack
        self.zone: Zone = {}
        self.sinks: list[SMTPSink] = []
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.server = DNSServer(self.zone)
        self.clock = SystemClock()

    async def host(self, script: Script | None = None, *, address: str = "", tls: bool = False) -> SMTPSink:
        """The next host of example.com: mx1 on 127.0.1.1, mx2 on 127.0.1.2 ..."""
        number = len(self.sinks) + 1
        sink = SMTPSink(script, address=address or f"127.0.1.{number}", port=self.port, tls=tls)
        self.sinks.append(await self._stack.enter_async_context(sink))
        self.zone.setdefault("example.com", {"MX": []})["MX"].append([10 * number, f"mx{number}.example.com"])
        self.zone[f"mx{number}.example.com"] = {"A": [sink.address]}
        return sink

    def resolver(self) -> Resolver:
        return Resolver([self.server.nameserver], clock=self.clock, timeout=0.6)

    def mx(self, settings: Settings = SETTINGS, *, allow_private: bool = True) -> MXTransport:
        transport = MXTransport(settings, self.resolver(), self.clock, port=self.port, allow_private=allow_private)
        self._stack.push_async_callback(transport.close)
        return transport

    def smarthost(self, smarthost: str, settings: Settings = SETTINGS) -> SmarthostTransport:
        transport = SmarthostTransport(settings, self.resolver(), self.clock, smarthost=smarthost)
        self._stack.push_async_callback(transport.close)
        return transport


@pytest.fixture
async def net() -> AsyncIterator[Net]:
    async with contextlib.AsyncExitStack() as stack:
        net = Net(stack)
        await stack.enter_async_context(net.server)
        yield net


async def test_mail_goes_to_the_best_host(net: Net) -> None:
    first, second = await net.host(tls=True), await net.host()
    transport: Transport = net.mx()
    (result,) = await transport.send(MAIL)
    assert (result.outcome, result.code, result.text) == (Outcome.SUCCESS, 250, "2.0.0 stored")
    assert (result.host, result.address, result.tls) == ("mx1.example.com", "127.0.1.1", "TLSv1.3")
    assert (len(first.transactions), second.connections) == (1, 0)


@pytest.mark.parametrize(
    "script",
    [
        {"BANNER": "554 5.7.1 go away"},
        {"BANNER": "421 busy"},
        {"BANNER": "drop"},
        {"EHLO": "550 no", "HELO": "550 no"},
        {"MAIL": "451 4.3.0 later"},
        {"MAIL": "421 later"},
        {"RCPT": "450 4.2.1 later"},
        {"RCPT": "drop"},
        {"DATA": "451 4.3.0 later"},
        {"DATA": "hang"},
        {"CONTENT": "drop"},
        {"DOT": "451 4.3.0 later"},
    ],
)
async def test_mx_defers_then_next_host_is_tried(net: Net, script: dict[str, str]) -> None:
    await net.host(script)
    second = await net.host()
    (result,) = await net.mx().send(MAIL)
    if script == {"CONTENT": "drop"}:  # a mail of one block: the dot is on its way before the host hangs up
        assert (result.outcome, result.after_dot, second.connections) == (Outcome.TRANSIENT, True, 0)
    else:
        assert (result.outcome, result.host) == (Outcome.SUCCESS, "mx2.example.com")


@pytest.mark.parametrize("verb", ["MAIL", "RCPT", "DATA", "DOT"])
async def test_host_refuses_for_good_then_no_other_is_asked(net: Net, verb: str) -> None:
    await net.host({verb: "550 5.1.1 no"})
    second = await net.host()
    (result,) = await net.mx().send(MAIL)
    assert (result.outcome, result.enhanced, result.host) == (Outcome.PERMANENT, "5.1.1", "mx1.example.com")
    assert second.connections == 0


@pytest.mark.parametrize("action", ["accept-drop", "accept-hang"])
async def test_mail_that_may_have_arrived_is_not_offered_to_another_host(net: Net, action: str) -> None:
    await net.host({"DOT": action})
    second = await net.host()
    (result,) = await net.mx().send(MAIL)
    assert (result.outcome, result.after_dot, second.connections) == (Outcome.TRANSIENT, True, 0)


async def test_every_host_defers_then_the_mail_is_deferred_with_a_hosts_words(net: Net) -> None:
    await net.host({"RCPT": "450 4.2.1 later"})
    await net.host({"BANNER": "drop"})
    (result,) = await net.mx().send(MAIL)
    assert (result.outcome, result.code, result.host) == (Outcome.TRANSIENT, 450, "mx1.example.com")


async def test_every_host_refuses_the_greeting_for_good_then_it_is_permanent(net: Net) -> None:
    for _ in range(2):
        await net.host({"EHLO": "550 5.7.1 no", "HELO": "550 5.7.1 no"})
    (result,) = await net.mx().send(MAIL)
    assert (result.outcome, result.enhanced) == (Outcome.PERMANENT, "5.7.1")


async def test_host_is_down_then_the_mail_is_deferred(net: Net) -> None:
    net.zone["example.com"] = {"MX": [[10, "down.example.com"]]}
    net.zone["down.example.com"] = {"A": ["127.0.1.99"]}
    (result,) = await net.mx().send(MAIL)
    assert (result.outcome, result.enhanced) == (Outcome.TRANSIENT, "4.4.1")
    assert (result.host, result.address) == ("down.example.com", "127.0.1.99")


async def test_first_address_is_down_then_the_next_is_tried(net: Net) -> None:
    await net.host(address="127.0.1.2")
    net.zone["mx1.example.com"] = {"A": ["127.0.1.1", "127.0.1.2"]}
    (result,) = await net.mx().send(MAIL)
    assert (result.outcome, result.address) == (Outcome.SUCCESS, "127.0.1.2")


async def test_ipv6_host_is_reached(net: Net) -> None:
    await net.host(address="::1")
    net.zone["mx1.example.com"] = {"AAAA": ["::1"]}
    (result,) = await net.mx().send(MAIL)
    assert (result.outcome, result.address) == (Outcome.SUCCESS, "::1")


@pytest.mark.parametrize("lookup", ["NXDOMAIN", "SERVFAIL", "TIMEOUT"])
async def test_host_can_not_be_looked_up_then_the_next_is_tried(net: Net, lookup: str) -> None:
    await net.host()
    await net.host()
    net.zone["mx1.example.com"] = lookup
    (result,) = await net.mx().send(MAIL)
    assert (result.outcome, result.host) == (Outcome.SUCCESS, "mx2.example.com")


async def test_no_host_exists_then_it_is_permanent_but_one_unknown_makes_it_transient(net: Net) -> None:
    net.zone["example.com"] = {"MX": [[10, "a.example.com"], [20, "b.example.com"]]}
    (result,) = await net.mx().send(MAIL)
    assert (result.outcome, result.enhanced) == (Outcome.PERMANENT, "5.4.4")
    net.zone["b.example.com"] = "SERVFAIL"
    (result,) = await net.mx().send(MAIL)
    assert (result.outcome, result.enhanced) == (Outcome.TRANSIENT, "4.4.3")


@pytest.mark.parametrize(
    ("entry", "outcome", "enhanced"),
    [
        ({"MX": [[0, "."]]}, Outcome.PERMANENT, "5.1.10"),
        ("NXDOMAIN", Outcome.PERMANENT, "5.1.2"),
        ("SERVFAIL", Outcome.TRANSIENT, "4.4.3"),
        ({"TXT": ["no host"]}, Outcome.PERMANENT, "5.4.4"),
        ({"MX": [[5, "mx.example.org"]]}, Outcome.PERMANENT, "5.4.6"),
    ],
)
async def test_domain_decides_before_any_host(net: Net, entry: object, outcome: Outcome, enhanced: str) -> None:
    net.zone["example.com"] = entry
    (result,) = await net.mx().send(MAIL)
    assert (result.outcome, result.enhanced) == (outcome, enhanced)


async def test_private_address_is_not_connected_unless_allowed(net: Net) -> None:
    sink = await net.host()
    (result,) = await net.mx(allow_private=False).send(MAIL)
    assert (result.outcome, result.enhanced, result.address) == (Outcome.PERMANENT, "5.4.4", "127.0.1.1")
    assert sink.connections == 0


async def test_literal_in_the_address_is_judged_like_any_other(net: Net) -> None:
    sink = await net.host()
    mail = replace(MAIL, recipients=("you@[127.0.1.1]", "you@[IPv6:::ffff:127.0.1.1]"))
    results = await net.mx(allow_private=False).send(mail)
    assert [result.enhanced for result in results] == ["5.4.4", "5.4.4"]
    assert sink.connections == 0
    (result, _) = await net.mx().send(mail)
    assert result.outcome is Outcome.SUCCESS


@pytest.mark.parametrize("own", ["127.0.1.1", "0.0.0.0", "::"])
async def test_host_is_our_own_socket_then_it_is_a_loop_and_worse_hosts_are_not_tried(net: Net, own: str) -> None:
    first, second = await net.host(), await net.host()
    (result,) = await net.mx(replace(SETTINGS, own={(own, net.port)})).send(MAIL)
    assert (result.outcome, result.enhanced) == (Outcome.PERMANENT, "5.4.6")
    assert first.connections == second.connections == 0


async def test_better_host_defers_and_the_next_is_ourselves_then_the_mail_waits(net: Net) -> None:
    await net.host({"RCPT": "450 4.2.1 later"})
    second = await net.host()
    (result,) = await net.mx(replace(SETTINGS, own={("127.0.1.2", net.port)})).send(MAIL)
    assert (result.outcome, result.enhanced) == (Outcome.TRANSIENT, "4.2.1")
    assert second.connections == 0


async def test_connection_is_kept_for_the_next_mail(net: Net) -> None:
    sink = await net.host()
    transport = net.mx()
    for _ in range(3):
        (result,) = await transport.send(MAIL)
        assert result.outcome is Outcome.SUCCESS
    await transport.close()
    assert (sink.connections, len(sink.transactions), sink.verbs()[-1]) == (1, 3, "QUIT")


@pytest.mark.parametrize("verb", ["MAIL", "RCPT", "DATA"])
@pytest.mark.parametrize("action", ["drop", "421 4.4.2 idle for too long"])
async def test_kept_connection_breaks_before_the_dot_then_the_same_host_is_asked_anew(
    net: Net, verb: str, action: str
) -> None:
    first, second = await net.host({verb: [None, action]}), await net.host()
    transport = net.mx()
    await transport.send(MAIL)
    (result,) = await transport.send(MAIL)
    assert (result.outcome, result.host) == (Outcome.SUCCESS, "mx1.example.com")
    assert (first.connections, len(first.transactions), second.connections) == (2, 2, 0)


async def test_kept_connection_breaks_behind_the_dot_then_nobody_is_asked_anew(net: Net) -> None:
    first, second = await net.host({"DOT": [None, "accept-drop"]}), await net.host()
    transport = net.mx()
    await transport.send(MAIL)
    (result,) = await transport.send(MAIL)
    assert (result.outcome, result.after_dot) == (Outcome.TRANSIENT, True)
    assert (first.connections, second.connections) == (1, 0)


async def test_kept_connection_defers_then_its_address_is_not_asked_twice(net: Net) -> None:
    first, second = await net.host({"RCPT": [None, "450 4.2.1 later"]}), await net.host()
    transport = net.mx()
    await transport.send(MAIL)
    (result,) = await transport.send(MAIL)
    assert (result.outcome, result.host) == (Outcome.SUCCESS, "mx2.example.com")
    assert (first.connections, second.connections) == (1, 1)


async def test_host_breaks_every_connection_then_the_mail_is_deferred(net: Net) -> None:
    sink = await net.host({"MAIL": [None, "drop", "drop"]})
    transport = net.mx()
    await transport.send(MAIL)
    (result,) = await transport.send(MAIL)
    assert (result.outcome, result.enhanced, sink.connections) == (Outcome.TRANSIENT, "4.4.2", 2)


async def test_kept_connection_breaks_then_only_what_the_new_one_says_counts(net: Net) -> None:
    await net.host({"MAIL": [None, "drop"], "EHLO": [None, "550 5.7.1 no"], "HELO": "550 5.7.1 no"})
    transport = net.mx()
    await transport.send(MAIL)
    (result,) = await transport.send(MAIL)
    assert (result.outcome, result.enhanced) == (Outcome.PERMANENT, "5.7.1")


async def test_recipients_end_each_on_their_own_over_hosts(net: Net) -> None:
    await net.host({"RCPT": [None, "450 4.2.1 later", "550 5.1.1 who"]})
    second = await net.host()
    results = await net.mx().send(replace(MAIL, recipients=("a@example.com", "b@example.com", "c@EXAMPLE.com")))
    assert [(result.outcome, result.host) for result in results] == [
        (Outcome.SUCCESS, "mx1.example.com"),
        (Outcome.SUCCESS, "mx2.example.com"),
        (Outcome.PERMANENT, "mx1.example.com"),
    ]
    assert second.transactions[0].recipients == ["b@example.com"]


async def test_recipients_of_several_domains_each_go_their_way(net: Net) -> None:
    await net.host()
    net.zone["null.test"] = {"MX": [[0, "."]]}
    results = await net.mx().send(replace(MAIL, recipients=("x@null.test", "a@example.com", "nobody", "x@null.test")))
    assert [result.enhanced for result in results] == ["5.1.10", "2.0.0", "5.1.3", "5.1.10"]


async def test_many_hosts_and_addresses_are_cut_off(net: Net) -> None:
    sink = await net.host({"RCPT": "450 4.2.1 later"}, address="127.0.2.1")
    for n in range(2, 40):
        net.zone[f"mx{n}.example.com"] = {"A": [f"127.0.{3 + n}.{m}" for m in range(1, 9)]}
        net.zone["example.com"]["MX"].append([10 * n, f"mx{n}.example.com"])
    (result,) = await net.mx().send(MAIL)
    assert (result.code, sink.connections) == (450, 1)
    assert sum(1 for _, rdtype in net.server.queries if rdtype == "A") <= min(MAX_HOSTS, MAX_CONNECTIONS)


async def test_host_with_fifty_dead_addresses_costs_a_few_connections(
    net: Net, monkeypatch: pytest.MonkeyPatch
) -> None:
    dialled: list[str] = []

    async def dial(address: str, port: int, source_address: str, limit: float) -> socket.socket:
        dialled.append(address)
        raise TimeoutError

    monkeypatch.setattr("responder.outbound.dial.dial", dial)
    net.zone["example.com"] = {"MX": [[10, "mx1.example.com"], [20, "mx2.example.com"]]}
    net.zone["mx1.example.com"] = net.zone["mx2.example.com"] = {"A": [f"127.0.3.{n}" for n in range(1, 51)]}
    (result,) = await net.mx().send(MAIL)
    assert (result.enhanced, len(dialled)) == ("4.4.1", MAX_CONNECTIONS)


async def test_two_names_of_one_address_are_asked_once(net: Net) -> None:
    sink = await net.host({"RCPT": "450 4.2.1 later"})
    net.zone["example.com"] = {"MX": [[10, "mx1.example.com"], [20, "mx2.example.com"]]}
    net.zone["mx2.example.com"] = {"A": ["127.0.1.1"]}
    (result,) = await net.mx().send(MAIL)
    assert (result.code, sink.connections) == (450, 1)


async def test_source_address_of_the_other_family_is_never_left_out(net: Net) -> None:
    await net.host(address="::1")
    net.zone["mx1.example.com"] = {"AAAA": ["::1"]}
    (result,) = await net.mx(replace(SETTINGS, source_address="127.0.0.1")).send(MAIL)
    assert (result.outcome, result.enhanced) == (Outcome.TRANSIENT, "4.4.1")


@pytest.mark.parametrize("name", ["127.0.1.1", "relay.test", "mx1.example.com"])
async def test_smarthost_takes_all_without_an_mx_lookup(net: Net, name: str) -> None:
    sink = await net.host()
    net.zone["relay.test"] = {"A": ["127.0.1.1"], "MX": [[1, "elsewhere.test"]]}
    transport = net.smarthost(f"{name}:{net.port}")
    (result,) = await transport.send(replace(MAIL, recipients=("you@nowhere.test",)))
    assert (result.outcome, len(sink.transactions)) == (Outcome.SUCCESS, 1)
    assert not [query for query in net.server.queries if query[1] == "MX"]


async def test_smarthost_may_be_an_ipv6_address_or_a_name_of_the_hosts_file(net: Net) -> None:
    sink = await net.host(address="::1")
    (result,) = await net.smarthost(f"[::1]:{sink.port}").send(MAIL)
    assert result.outcome is Outcome.SUCCESS
    local = await net.host(address="127.0.0.1")
    (result,) = await net.smarthost(f"localhost:{local.port}").send(MAIL)
    assert result.outcome is Outcome.SUCCESS


@pytest.mark.parametrize(
    "script", [{"BANNER": "521 never"}, {"EHLO": "550 no", "HELO": "550 no"}, {"MAIL": "530 log in"}]
)
async def test_smarthost_fails_for_good_then_the_mail_waits_for_the_operator(net: Net, script: dict[str, str]) -> None:
    await net.host(script)
    (result,) = await net.smarthost(f"127.0.1.1:{net.port}").send(MAIL)
    assert (result.outcome, result.enhanced[0]) == (Outcome.TRANSIENT, "4")


async def test_smarthost_is_unknown_then_the_mail_waits(net: Net) -> None:
    (result,) = await net.smarthost("relay.invalid:25").send(MAIL)
    assert (result.outcome, result.enhanced) == (Outcome.TRANSIENT, "4.4.4")


async def test_smarthost_is_our_own_socket_then_nothing_is_sent(net: Net) -> None:
    sink = await net.host()
    transport = net.smarthost(f"127.0.1.1:{net.port}", replace(SETTINGS, own={("127.0.1.1", net.port)}))
    (result,) = await transport.send(MAIL)
    assert (result.outcome, result.enhanced, sink.connections) == (Outcome.TRANSIENT, "4.4.6", 0)


async def test_smarthost_refuses_the_recipient_then_it_is_permanent(net: Net) -> None:
    await net.host({"RCPT": "550 5.1.1 who"})
    (result,) = await net.smarthost(f"127.0.1.1:{net.port}").send(MAIL)
    assert (result.outcome, result.enhanced) == (Outcome.PERMANENT, "5.1.1")


@pytest.mark.parametrize("smarthost", ["", "relay", "relay:", ":25", "relay:0", "relay:99999", "relay:smtp"])
async def test_what_is_no_smarthost_is_refused(net: Net, smarthost: str) -> None:
    with pytest.raises(ValueError, match="host:port"):
        net.smarthost(smarthost)

"""One host that the operator named for an inbox, in place of the recipient's own: by whatever way the rest leaves."""

from __future__ import annotations

import contextlib
import io
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from responder.clock import SystemClock
from responder.dns import Resolver
from responder.mail.status import Outcome
from responder.outbound.base import Envelope, Transport
from responder.outbound.dial import Timeouts
from responder.outbound.print import PrintTransport
from responder.outbound.transport import MXTransport, Settings, SmarthostTransport
from tests.support.dns_server import DNSServer, Zone
from tests.support.smtp_sink import Script, SMTPSink

SHORT = Timeouts(connect=1, greeting=0.5, command=0.5, data=0.5, block=0.5, dot=0.5, tls=0.5, farewell=0.5)
MAIL = Envelope("me@example.org", ("you@example.com",), b"Subject: hello\r\n\r\nhello\r\n")


class Net:
    """A name server and hosts on loopback addresses of their own, all on one port."""

    def __init__(self, stack: contextlib.AsyncExitStack) -> None:
        self._stack = stack
        self.zone: Zone = {}
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.dns = DNSServer(self.zone)
        self.clock = SystemClock()

    async def host(self, address: str, script: Script | None = None) -> SMTPSink:
        return await self._stack.enter_async_context(SMTPSink(script, address=address, port=self.port))

    def mx(self, *, allow_private: bool = False, own: frozenset[tuple[str, int]] = frozenset()) -> Transport:
        settings = Settings("mx.example.org", timeouts=SHORT, own=own)
        return self._closed(
            MXTransport(settings, self.resolver(), self.clock, port=self.port, allow_private=allow_private)
        )

    def smarthost(self, *, own: frozenset[tuple[str, int]] = frozenset()) -> Transport:
        settings = Settings("mx.example.org", timeouts=SHORT, own=own)
        smarthost = f"127.0.1.9:{self.port}"
        return self._closed(SmarthostTransport(settings, self.resolver(), self.clock, smarthost=smarthost))

    def resolver(self) -> Resolver:
        return Resolver([self.dns.nameserver], clock=self.clock, timeout=0.6)

    def _closed(self, transport: Transport) -> Transport:
        self._stack.push_async_callback(transport.close)
        return transport


WAYS: list[Callable[..., Transport]] = [Net.mx, Net.smarthost]
both = pytest.mark.parametrize("way", WAYS, ids=["mx", "smarthost"])


@pytest.fixture
async def net() -> AsyncIterator[Net]:
    async with contextlib.AsyncExitStack() as stack:
        net = Net(stack)
        await stack.enter_async_context(net.dns)
        yield net


@both
async def test_route_is_taken_instead_of_any_other_host(net: Net, way: Callable[..., Transport]) -> None:
    """A private address, though the MX transport allows none; nobody's MX is asked for."""
    routed, other = await net.host("127.0.1.1"), await net.host("127.0.1.9")
    net.zone["example.com"] = {"MX": [[10, "mx.example.com"]]}
    net.zone["mx.example.com"] = {"A": ["127.0.1.9"]}
    transport = way(net)
    for number in (1, 2):
        mail = replace(MAIL, recipients=("you@example.com", "me@example.net"), route=f"127.0.1.1:{net.port}")
        results = await transport.send(mail)
        assert [(result.outcome, result.host) for result in results] == [(Outcome.SUCCESS, "127.0.1.1")] * 2
        assert [sent.recipients for sent in routed.transactions] == [["you@example.com", "me@example.net"]] * number
    assert routed.connections == 1  # kept for the second mail
    assert other.connections == 0
    assert not net.dns.queries


@both
async def test_route_may_be_a_name(net: Net, way: Callable[..., Transport]) -> None:
    routed = await net.host("127.0.1.1")
    net.zone["up.example.org"] = {"A": ["127.0.1.1"], "MX": [[1, "elsewhere.example"]]}
    (result,) = await way(net).send(replace(MAIL, route=f"up.example.org:{net.port}"))
    assert (result.outcome, len(routed.transactions)) == (Outcome.SUCCESS, 1)


@both
async def test_route_may_be_an_ipv6_address(net: Net, way: Callable[..., Transport]) -> None:
    await net.host("::1")
    (result,) = await way(net).send(replace(MAIL, route=f"[::1]:{net.port}"))
    assert (result.outcome, result.address) == (Outcome.SUCCESS, "::1")


@both
@pytest.mark.parametrize(
    "script", [None, {"BANNER": "521 never"}, {"EHLO": "550 no", "HELO": "550 no"}, {"MAIL": "530 log in first"}]
)
async def test_route_can_not_be_used_then_the_mail_waits(
    net: Net, way: Callable[..., Transport], script: Script | None
) -> None:
    if script is not None:
        await net.host("127.0.1.1", script)
    (result,) = await way(net).send(replace(MAIL, route=f"127.0.1.1:{net.port}"))
    assert (result.outcome, result.enhanced[0]) == (Outcome.TRANSIENT, "4")


@both
async def test_route_is_unknown_then_the_mail_waits(net: Net, way: Callable[..., Transport]) -> None:
    (result,) = await way(net).send(replace(MAIL, route="up.invalid:25"))
    assert (result.outcome, result.enhanced) == (Outcome.TRANSIENT, "4.4.4")


@both
@pytest.mark.parametrize("verb", ["MAIL", "RCPT", "DATA", "DOT"])
async def test_route_refuses_for_good_then_that_is_final(net: Net, way: Callable[..., Transport], verb: str) -> None:
    await net.host("127.0.1.1", {verb: "550 5.1.1 no"})
    (result,) = await way(net).send(replace(MAIL, route=f"127.0.1.1:{net.port}"))
    assert (result.outcome, result.enhanced) == (Outcome.PERMANENT, "5.1.1")


@both
async def test_route_is_our_own_socket_then_nothing_is_sent(net: Net, way: Callable[..., Transport]) -> None:
    sink = await net.host("127.0.1.1")
    transport = way(net, own=frozenset({("127.0.1.1", net.port)}))
    (result,) = await transport.send(replace(MAIL, route=f"127.0.1.1:{net.port}"))
    assert (result.outcome, result.enhanced, sink.connections) == (Outcome.TRANSIENT, "4.4.6", 0)


@both
@pytest.mark.parametrize("route", ["up", "up:", ":25", "up:0", "up:99999"])
async def test_what_is_no_route_fails_in_time(net: Net, way: Callable[..., Transport], route: str) -> None:
    (result,) = await way(net).send(replace(MAIL, route=route))
    assert (result.outcome, result.enhanced) == (Outcome.TRANSIENT, "4.3.0")


async def test_connection_to_a_private_route_serves_no_stranger(net: Net) -> None:
    """Anybody may name the operator's inner host as their MX: its kept connection is not for them."""
    inner = await net.host("127.0.1.1")
    net.zone["inner.example.org"] = {"A": ["127.0.1.1"]}
    net.zone["hostile.example"] = {"MX": [[1, "inner.example.org"]]}
    transport = net.mx()
    (result,) = await transport.send(replace(MAIL, route=f"inner.example.org:{net.port}"))
    assert result.outcome is Outcome.SUCCESS
    (result,) = await transport.send(replace(MAIL, recipients=("you@hostile.example",)))
    assert (result.outcome, result.enhanced) == (Outcome.PERMANENT, "5.4.4")
    assert len(inner.transactions) == 1


async def test_route_is_shown_where_all_is_printed(tmp_path: Path) -> None:
    screen = io.StringIO()
    (result,) = await PrintTransport(tmp_path, screen).send(replace(MAIL, route="up.example.org:25", id="x1"))
    assert result.outcome is Outcome.SUCCESS
    assert "to <you@example.com> by up.example.org:25 " in screen.getvalue()
    assert (tmp_path / "x1.eml").read_bytes() == MAIL.content

"""Several hosts of one preference, over real sockets: mail goes to the fastest, leaves it when slow or dead, and returns."""

from __future__ import annotations

import contextlib
import socket
from collections import Counter
from collections.abc import AsyncIterator

import pytest

from responder.clock import SystemClock
from responder.dns import Resolver
from responder.mail.status import Outcome
from responder.outbound import dial as dial_module
from responder.outbound.base import Envelope, RecipientResult
from responder.outbound.dial import Timeouts
from responder.outbound.hosts import HostMemory, Rests
from responder.outbound.pool import Pool
from responder.outbound.transport import MXTransport, Settings, SmarthostTransport
from tests.support.dns_server import DNSServer, Zone
from tests.support.smtp_sink import SMTPSink

SHORT = Timeouts(connect=0.5, greeting=1, command=1, data=1, block=1, dot=1, tls=1, farewell=1)
SETTINGS = Settings("mx.example.org", timeouts=SHORT, rests=Rests(60.0, 600.0))
MAIL = Envelope("me@example.org", ("you@example.com",), b"Subject: hello\r\n\r\nhello\r\n")
WITHIN = 20  # deliveries


class Clock(SystemClock):
    """The system's, put forward by hand; chance does not change the order of equals."""

    ahead = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.ahead

    def jitter(self, low: float, high: float) -> float:
        return (low + high) / 2


class Farm:
    """Hosts of one preference, all on one port, each of which may be made slow or be stopped."""

    def __init__(self, stack: contextlib.AsyncExitStack) -> None:
        self._stack = stack
        self.clock = Clock()
        self.zone: Zone = {"example.com": {"MX": []}}
        self.dns = DNSServer(self.zone)
        self.sinks: dict[str, SMTPSink] = {}
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]

    async def host(self, name: str, seconds: float = 0.0, preference: int = 10) -> SMTPSink:
        """One more host, whose banner takes so long."""
        address = f"127.0.4.{len(self.sinks) + 1}"
        sink = await self._stack.enter_async_context(SMTPSink(address=address, port=self.port))
        self.sinks[name] = sink
        self.zone["example.com"]["MX"].append([preference, f"{name}.test"])
        self.zone[f"{name}.test"] = {"A": [address]}
        self.delay(name, seconds)
        return sink

    def delay(self, name: str, seconds: float) -> None:
        """From now on its banner takes so long."""
        self.sinks[name].script = {"BANNER": f"slow {seconds}"} if seconds else {}

    def transport(self, memory: HostMemory | None = None) -> MXTransport:
        resolver = Resolver([self.dns.nameserver], clock=self.clock, timeout=0.6)
        transport = MXTransport(
            SETTINGS,
            resolver,
            self.clock,
            port=self.port,
            allow_private=True,
            pool=Pool(self.clock, idle=0.0),  # each mail connects
            memory=memory,
        )
        self._stack.push_async_callback(transport.close)
        return transport


@pytest.fixture
async def farm() -> AsyncIterator[Farm]:
    async with contextlib.AsyncExitStack() as stack:
        farm = Farm(stack)
        await stack.enter_async_context(farm.dns)
        yield farm


class Sender:
    """Mails one after the other, so many seconds apart."""

    def __init__(self, farm: Farm, transport: MXTransport) -> None:
        self._farm = farm
        self._transport = transport
        self.hosts: list[str] = []

    async def one(self, apart: float = 2.0) -> RecipientResult:
        self._farm.clock.ahead += apart
        (result,) = await self._transport.send(MAIL)
        self.hosts.append(result.host.removesuffix(".test"))
        return result

    async def until_settled(self, host: str, *, most: int = WITHIN) -> int:
        """Deliveries until four in a row have gone to that host."""
        for number in range(1, most + 5):
            result = await self.one()
            assert result.outcome is Outcome.SUCCESS
            if number >= 4 and self.hosts[-4:] == [host] * 4:
                return number - 4
        raise AssertionError(f"not settled on {host}: {self.hosts}")


async def test_three_delays_then_mail_moves_to_the_fastest_and_returns_after_a_slow_phase_and_a_death(
    farm: Farm,
) -> None:
    await farm.host("slow", 0.30)
    await farm.host("middle", 0.12)
    await farm.host("fast", 0.02)
    sender = Sender(farm, farm.transport())
    first = await sender.until_settled("fast")

    farm.delay("fast", 0.7)
    left = await sender.until_settled("middle")
    farm.delay("fast", 0.02)
    back = await sender.until_settled("fast", most=2 * WITHIN)

    address = farm.sinks["fast"].address
    await farm.sinks["fast"].__aexit__(None, None, None)
    died = await sender.until_settled("middle")
    farm.sinks["fast"].connections = 0
    await farm.sinks["fast"].__aenter__()
    assert farm.sinks["fast"].address == address
    alive = await sender.until_settled("fast", most=60)  # a rest of 60 seconds, two seconds a mail
    figures = {"first": first, "left": left, "back": back, "died": died, "alive": alive}
    print("deliveries until mail has moved:", figures)
    assert first <= WITHIN and left <= WITHIN and back <= 2 * WITHIN and died <= 2 and alive <= 40


async def test_equals_are_as_fast_then_all_of_them_get_mail(farm: Farm) -> None:
    for name in ("a", "b", "c"):
        await farm.host(name)
    farm.clock = SystemClock()  # type: ignore[assignment]  # real chance
    transport = farm.transport()
    for _ in range(60):
        (result,) = await transport.send(MAIL)
        assert result.outcome is Outcome.SUCCESS
    shares = Counter({name: len(sink.transactions) for name, sink in farm.sinks.items()})
    assert min(shares.values()) >= 3, shares


async def test_better_preference_is_slow_then_it_is_asked_all_the_same(farm: Farm) -> None:
    await farm.host("best", 0.1, preference=5)
    await farm.host("fast", preference=10)
    sender = Sender(farm, farm.transport())
    for _ in range(10):
        await sender.one()
    assert set(sender.hosts) == {"best"}


async def test_best_host_is_dead_then_one_mail_finds_out_and_the_next_ones_do_not_wait(
    farm: Farm, monkeypatch: pytest.MonkeyPatch
) -> None:
    farm.zone["example.com"]["MX"].append([5, "dead.test"])
    farm.zone["dead.test"] = {"A": ["127.0.4.99"]}
    await farm.host("backup")
    transport = farm.transport()
    dialled: list[str] = []
    honest = dial_module.dial

    async def dial(address: str, port: int, source: str, limit: float) -> socket.socket:
        dialled.append(address)
        return await honest(address, port, source, limit)

    monkeypatch.setattr(dial_module, "dial", dial)
    for rest in (0, 0, 0, 0, 0, 60, 0, 0, 0, 0):
        farm.clock.ahead += rest
        (result,) = await transport.send(MAIL)
        assert (result.outcome, result.host) == (Outcome.SUCCESS, "backup.test")
    # The first mail, and the one that asks again after the rest.
    assert [number for number, address in enumerate(dialled) if address == "127.0.4.99"] == [0, 6]


async def test_all_hosts_are_dead_then_mail_is_put_off_at_once_with_what_was_found_out_and_a_pause(farm: Farm) -> None:
    farm.zone["example.com"]["MX"] = [[5, "dead.test"], [10, "gone.test"]]
    farm.zone["dead.test"] = {"A": ["127.0.4.98", "127.0.4.99"]}
    farm.zone["gone.test"] = {"A": ["127.0.4.97"]}
    transport = farm.transport()
    (first,) = await transport.send(MAIL)
    assert (first.outcome, first.enhanced, first.host) == (Outcome.TRANSIENT, "4.4.1", "dead.test")
    assert first.text == "connect to dead.test: Connection refused"
    assert first.pause == pytest.approx(60, abs=1)
    farm.clock.ahead += 20
    (second,) = await transport.send(MAIL)
    assert (second.outcome, second.enhanced, second.host) == (Outcome.TRANSIENT, "4.4.1", "dead.test")
    assert second.text == "connect to dead.test: Connection refused (lately; it is left alone for 40 s)"
    assert second.pause == pytest.approx(40, abs=1)
    farm.zone["other.example"] = {"MX": [[1, "alias.test"]]}
    farm.zone["alias.test"] = {"A": ["127.0.4.98"]}
    (third,) = await transport.send(Envelope("me@example.org", ("you@other.example",), MAIL.content))
    assert third.text.startswith("connect to alias.test: Connection refused (lately")
    # Nothing of it is for ever.
    sink = SMTPSink(address="127.0.4.97", port=farm.port)
    async with sink:
        farm.clock.ahead += 41
        (fourth,) = await transport.send(MAIL)
    assert (fourth.outcome, fourth.host, fourth.pause) == (Outcome.SUCCESS, "gone.test", 0.0)


async def test_transport_is_made_anew_then_it_knows_what_the_old_one_knew(farm: Farm) -> None:
    """As at a reload, or where mail has two ways out. Nothing is remembered yet when the first one is made."""
    farm.zone["example.com"]["MX"] = [[5, "dead.test"]]
    farm.zone["dead.test"] = {"A": ["127.0.4.99"]}
    memory = HostMemory(farm.clock)
    texts = []
    for _ in range(2):
        (result,) = await farm.transport(memory).send(MAIL)
        texts.append(result.text)
    assert ["lately" in text for text in texts] == [False, True]


@pytest.mark.parametrize("banner", ["421 4.3.2 busy", "450 4.7.1 later", "554 5.7.1 no"])
async def test_host_refuses_in_its_banner_then_it_is_busy_and_not_dead(farm: Farm, banner: str) -> None:
    sink = await farm.host("busy")
    sink.script = lambda step, _: banner if step == "BANNER" else None
    transport = farm.transport()
    for number in range(1, 4):
        (result,) = await transport.send(MAIL)
        assert (result.outcome, result.code, result.pause) == (Outcome.TRANSIENT, int(banner[:3]), 0.0)
        assert sink.connections == number  # asked each time


@pytest.mark.parametrize("banner", ["drop", "garbage"])
async def test_banner_is_no_banner_then_the_host_is_dead(farm: Farm, banner: str) -> None:
    sink = await farm.host("dead")
    sink.script = lambda step, _: banner if step == "BANNER" else None
    transport = farm.transport()
    for _ in range(3):
        (result,) = await transport.send(MAIL)
        assert (result.outcome, sink.connections) == (Outcome.TRANSIENT, 1)
        assert result.pause > 0


async def test_our_own_trouble_then_no_host_is_held_to_be_dead(farm: Farm) -> None:
    """A source address that is none of this machine's says nothing about anybody else."""
    sink = await farm.host("fine")
    broken = MXTransport(
        Settings("mx.example.org", timeouts=SHORT, source_address="192.0.2.1"),
        Resolver([farm.dns.nameserver], clock=farm.clock, timeout=0.6),
        farm.clock,
        port=farm.port,
        allow_private=True,
    )
    (result,) = await broken.send(MAIL)
    assert (result.outcome, result.enhanced, result.pause, sink.connections) == (Outcome.TRANSIENT, "4.4.1", 0.0, 0)
    assert len(broken._memory) == 0
    await broken.close()


async def test_operators_host_is_dead_then_it_is_asked_again_within_seconds(farm: Farm) -> None:
    memory = HostMemory(farm.clock)
    farm.zone["example.com"] = {"MX": [[1, "stranger.test"]]}  # what a stranger's mail finds out is not held against it
    farm.zone["stranger.test"] = {"A": ["127.0.4.50"]}
    (result,) = await farm.transport(memory).send(MAIL)
    assert result.pause == pytest.approx(60, abs=1)
    resolver = Resolver([farm.dns.nameserver], clock=farm.clock, timeout=0.6)
    transport = SmarthostTransport(SETTINGS, resolver, farm.clock, smarthost=f"127.0.4.50:{farm.port}", memory=memory)
    (result,) = await transport.send(MAIL)
    assert result.outcome is Outcome.TRANSIENT
    assert result.pause == pytest.approx(5, abs=1)
    async with SMTPSink(address="127.0.4.50", port=farm.port):
        farm.clock.ahead += 5
        (result,) = await transport.send(MAIL)
        await transport.close()
    assert result.outcome is Outcome.SUCCESS


async def test_mail_goes_on_over_a_connection_that_is_kept_whatever_is_remembered_of_the_address(farm: Farm) -> None:
    sink = await farm.host("fine")
    resolver = Resolver([farm.dns.nameserver], clock=farm.clock, timeout=0.6)
    transport = MXTransport(SETTINGS, resolver, farm.clock, port=farm.port, allow_private=True)
    await transport.send(MAIL)
    assert sink._server is not None
    sink._server.close()  # no new connection any more
    (result,) = await transport.send(MAIL)
    assert (result.outcome, sink.connections) == (Outcome.SUCCESS, 1)
    await transport.close()

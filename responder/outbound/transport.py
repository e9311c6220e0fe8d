"""The ways out: to the hosts of each recipient's domain, or to one host that the operator named.

    hosts by preference -> addresses of each -> may it be reached? -> kept connection or a new one -> one transaction

The first final word about a recipient counts: taken, or refused for good by a host that knows. What is transient is asked of
the next address, then of the next host; the best of these failures is the result. A mail that may have arrived (`after_dot`)
is not offered to another host: it waits for the next attempt, and the fewer there are, the fewer duplicates.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from ipaddress import ip_address

from responder.clock import Clock
from responder.dns import Resolver
from responder.mail.address import AddressError, parse
from responder.mail.status import Failure, FailureError, Outcome, Scope, Trouble, soften, verdict
from responder.outbound.base import Envelope, RecipientResult
from responder.outbound.dial import TIMEOUTS, Timeouts
from responder.outbound.mx import Host, find_hosts, host_addresses
from responder.outbound.pool import Key, Pool
from responder.outbound.reach import refusal
from responder.outbound.session import ClientSession

MAX_CONNECTIONS = 10
"""Addresses that are connected for one mail, over all hosts: each may cost a time-out."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What both transports need to know. `own` may be a live set: it is read at each connection."""

    hostname: str
    own: AbstractSet[tuple[str, int]] = frozenset()  # what this server listens on
    source_address: str = ""
    timeouts: Timeouts = TIMEOUTS


@dataclass(frozen=True, slots=True)
class _Way:
    """The hosts of one destination, in the order they are tried, and what holds for all of them."""

    hosts: Sequence[Host]
    port: int
    allow_private: bool
    named: bool = False  # by the operator, not by anybody's DNS

    def key(self, host: str) -> Key:
        """Where the pool keeps connections to one of these hosts."""
        return host, self.port, self.named


class _HostTransport:
    """Tries hosts in their order. Subclasses say which hosts there are."""

    def __init__(self, settings: Settings, resolver: Resolver, clock: Clock, pool: Pool | None) -> None:
        self._settings = settings
        self._resolver = resolver
        self._clock = clock
        self.pool = pool or Pool(clock)

    async def close(self) -> None:
        """Say goodbye to every host that is still connected."""
        await self.pool.close_all()

    async def _deliver_to(self, endpoint: str, envelope: Envelope) -> list[RecipientResult]:
        """To the host that the operator named, and to no other; private addresses too.

        One that can't be found or reached is the operator's trouble, never the mail's: such a failure is transient.
        """
        try:
            name, port = split_endpoint(endpoint)
        except ValueError as error:
            failure = Trouble.INTERNAL.failure(str(error))
            return [RecipientResult.failed(recipient, failure) for recipient in envelope.recipients]
        results = await self._deliver(envelope, _Way([Host(name)], port, allow_private=True, named=True))
        return [
            replace(result, outcome=(softened := soften(result.failure)).outcome, enhanced=softened.enhanced)
            if result.outcome is Outcome.PERMANENT and result.scope in (Scope.HOST, Scope.DOMAIN)
            else result
            for result in results
        ]

    async def _deliver(self, envelope: Envelope, way: _Way) -> list[RecipientResult]:
        """One result per recipient of one destination, in their order."""
        attempt = _Attempt(envelope)
        for host in way.hosts:
            session = self.pool.take(way.key(host.name))
            if session is not None:
                await self._transact(attempt, session, way, kept=True)
                if session.reusable:
                    attempt.connected.add(session.address)
            if attempt.pending and len(attempt.connected) < MAX_CONNECTIONS:
                await self._try_host(attempt, host, way)
            if attempt.over or not attempt.pending:
                break
        return attempt.results()

    async def _try_host(self, attempt: _Attempt, host: Host, way: _Way) -> None:
        """One address of the host after the other, until nobody is pending."""
        try:
            addresses = await self._addresses(host, way)
        except FailureError as error:
            attempt.note(error.failure, host.name)
            return
        for address in addresses:
            if not attempt.pending or len(attempt.connected) >= MAX_CONNECTIONS:
                return
            if address in attempt.connected:
                continue
            refused = self._refusal(address, way)
            if refused is not None:
                # Permanent only where no better host gave hope: hence the scope.
                attempt.note(replace(refused, scope=Scope.HOST), host.name, address)
                if refused.scope is Scope.DOMAIN:
                    # RFC 5321 5.1: this is ourselves, and the hosts behind would send the mail back.
                    attempt.over = True
                    return
                continue
            attempt.connected.add(address)
            try:
                session = await ClientSession.connect(
                    host.name,
                    address,
                    way.port,
                    local_hostname=self._settings.hostname,
                    source_address=self._settings.source_address,
                    timeouts=self._settings.timeouts,
                )
            except FailureError as error:
                attempt.note(error.failure, host.name, address)
            else:
                await self._transact(attempt, session, way)

    async def _addresses(self, host: Host, way: _Way) -> list[str]:
        """The IP addresses of a host, in the order they are to be tried. Raises `FailureError`."""
        if not way.named:
            return await host_addresses(host.name, self._resolver)
        try:
            return [str(ip_address(host.name))]
        except ValueError:
            pass
        try:
            return await host_addresses(host.name, self._resolver)
        except FailureError as error:
            # Names of a closed network often stand in the hosts file only.
            try:
                found = await asyncio.get_running_loop().getaddrinfo(host.name, way.port, type=socket.SOCK_STREAM)
            except (OSError, UnicodeError):
                raise error from None
            return list(dict.fromkeys([str(sockaddr[0]) for *_, sockaddr in found]))

    async def _transact(self, attempt: _Attempt, session: ClientSession, way: _Way, *, kept: bool = False) -> None:
        results = await session.send(replace(attempt.envelope, recipients=attempt.recipients()))
        self.pool.give(way.key(session.host), session)
        attempt.take(results, kept=kept)

    def _refusal(self, address: str, way: _Way) -> Failure | None:
        source = self._settings.source_address
        if source and ip_address(source).version != ip_address(address).version:
            return Trouble.UNREACHABLE.failure(f"{address} can't be reached from {source}")
        return refusal(address, way.port, allow_private=way.allow_private, own=self._settings.own)


class _Attempt:
    """What is known so far about each recipient of one envelope."""

    def __init__(self, envelope: Envelope) -> None:
        self.envelope = envelope
        self.pending = list(range(len(envelope.recipients)))  # positions without a final word
        self.connected: set[str] = set()  # addresses that were asked: two names of one host are one host
        self.over = False  # no other host may be tried
        self._final: dict[int, RecipientResult] = {}
        self._failed: dict[int, list[RecipientResult]] = {n: [] for n in self.pending}

    def recipients(self) -> tuple[str, ...]:
        return tuple([self.envelope.recipients[n] for n in self.pending])

    def note(self, failure: Failure, host: str, address: str = "") -> None:
        """A failure of the host for all who are pending."""
        for n in self.pending:
            recipient = self.envelope.recipients[n]
            self._failed[n].append(RecipientResult.failed(recipient, failure, host=host, address=address))

    def take(self, results: list[RecipientResult], *, kept: bool) -> None:
        """The results of one transaction with those who were pending."""
        pending = []
        for n, result in zip(self.pending, results, strict=True):
            if result.outcome is Outcome.SUCCESS or result.after_dot or result.failure.final:
                self._final[n] = result
                continue
            pending.append(n)
            # A kept connection that breaks was most likely idle for too long: the same host is asked again on a new one.
            if not (kept and result.scope is Scope.HOST):
                self._failed[n].append(result)
        self.pending = pending

    def results(self) -> list[RecipientResult]:
        return [self._final.get(n) or self._spokesman(failed) for n, failed in self._failed.items()]

    def _spokesman(self, failed: list[RecipientResult]) -> RecipientResult:
        failures = [result.failure for result in failed]
        return failed[failures.index(verdict(failures))]


class MXTransport(_HostTransport):
    """To the hosts that the recipient's domain names, unless the envelope has a route."""

    def __init__(
        self,
        settings: Settings,
        resolver: Resolver,
        clock: Clock,
        *,
        port: int = 25,
        allow_private: bool = False,
        pool: Pool | None = None,
    ) -> None:
        super().__init__(settings, resolver, clock, pool)
        self._port = port
        self._allow_private = allow_private
        self._own_names = frozenset({settings.hostname.lower()})

    async def provider(self, domain: str) -> str:
        """The registered domain of the best host."""
        return domain

    async def send(self, envelope: Envelope) -> list[RecipientResult]:
        """One result per recipient, in their order; domain after domain."""
        if envelope.route:
            return await self._deliver_to(envelope.route, envelope)
        results: dict[int, RecipientResult] = {}
        domains: dict[str, list[int]] = {}
        for n, recipient in enumerate(envelope.recipients):
            try:
                domains.setdefault(parse(recipient).domain, []).append(n)
            except AddressError as error:
                results[n] = RecipientResult.failed(recipient, Trouble.BAD_ADDRESS.failure(str(error)))
        for domain, positions in domains.items():
            recipients = tuple([envelope.recipients[n] for n in positions])
            try:
                hosts = await find_hosts(domain, self._resolver, self._clock, own_names=self._own_names)
            except FailureError as error:
                found = [RecipientResult.failed(recipient, error.failure) for recipient in recipients]
            else:
                way = _Way(hosts, self._port, self._allow_private)
                found = await self._deliver(replace(envelope, recipients=recipients), way)
            results.update(zip(positions, found, strict=True))
        return [results[n] for n in range(len(envelope.recipients))]


class SmarthostTransport(_HostTransport):
    """All to the host that the operator named, a name or an IP address, without an MX lookup, unless the envelope has a route.

    `smarthost` is `host:port` or `[v6]:port`. Raises `ValueError` where it is neither.
    """

    def __init__(
        self, settings: Settings, resolver: Resolver, clock: Clock, *, smarthost: str, pool: Pool | None = None
    ) -> None:
        super().__init__(settings, resolver, clock, pool)
        split_endpoint(smarthost)
        self._smarthost = smarthost

    async def provider(self, domain: str) -> str:
        """There is one way out."""
        return ""

    async def send(self, envelope: Envelope) -> list[RecipientResult]:
        """One result per recipient, in their order."""
        return await self._deliver_to(envelope.route or self._smarthost, envelope)


def split_endpoint(text: str) -> tuple[str, int]:
    """Host (without brackets) and port of `host:port` or `[v6]:port`. Raises `ValueError` where it is neither."""
    name, colon, port = text.rpartition(":")
    if not (name and colon and port.isascii() and port.isdigit() and 0 < int(port[:6]) < 65536):
        raise ValueError(f"{text!r} is not host:port")
    return name.removeprefix("[").removesuffix("]"), int(port)

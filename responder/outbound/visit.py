"""Hosts asked in their turn, until each recipient has a final word: what every transport does once it knows the hosts.

policy -> kept connection, or addresses -> may they be reached? -> the first that answers -> session -> one transaction
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from typing import Final

from responder.clock import Clock
from responder.dns import Resolver
from responder.mail.address import AddressError, parse
from responder.mail.status import Failure, FailureError, Outcome, Scope, Trouble, soften
from responder.outbound.attempt import Attempt, Way
from responder.outbound.base import Envelope, RecipientResult
from responder.outbound.dial import TIMEOUTS, Candidate, Timeouts, race
from responder.outbound.hosts import RESTS, HostMemory, Place, Rests
from responder.outbound.mx import Host, host_addresses
from responder.outbound.pool import Key, Pool
from responder.outbound.reach import refusal
from responder.outbound.smtp.session import ClientSession
from responder.outbound.sources import Source
from responder.outbound.tls.policy import NoPolicy, Policies, SessionNote
from responder.outbound.tls.security import Insecure, InsecureError

OPERATORS_REST: Final = 5.0
"""Seconds that a dead host of the operator's rests at the most: there is no other, and it is watched."""

_REMOTE: Final = {errno.ECONNREFUSED, errno.ECONNRESET, errno.ECONNABORTED, errno.ETIMEDOUT, errno.EHOSTUNREACH}
"""What says something about the host. All else (no route, no such source address, no descriptors) is trouble of our own."""

_INTERNAL: Final = Trouble.INTERNAL.failure()


@dataclass(frozen=True, slots=True)
class Settings:
    """What all transports need to know. `own` may be a live set: it is read at each connection."""

    hostname: str
    own: AbstractSet[tuple[str, int]] = frozenset()  # what this server listens on
    source_address: str = ""
    timeouts: Timeouts = TIMEOUTS
    sources: Mapping[str, Source] = field(default_factory=dict)  # by domain of ours
    rests: Rests = RESTS  # of hosts that are dead
    providers: Mapping[str, str] = field(default_factory=dict)  # what one is called, by domains that its hosts are in


class HostTransport:
    """Asks hosts in their order. Subclasses say which hosts there are. `memory` and `policies` may be shared."""

    def __init__(
        self,
        settings: Settings,
        resolver: Resolver,
        clock: Clock,
        *,
        pool: Pool | None = None,
        memory: HostMemory | None = None,
        policies: Policies | None = None,
    ) -> None:
        self._settings = settings
        self._resolver = resolver
        self._clock = clock
        # By identity: what is empty is false.
        self.pool = Pool(clock) if pool is None else pool
        self._memory = HostMemory(clock) if memory is None else memory
        self._policies: Policies = NoPolicy() if policies is None else policies
        self._source = Source.of(settings.hostname, [settings.source_address])

    async def close(self) -> None:
        """Say goodbye to every host that is still connected."""
        await self.pool.close_all()

    def source(self, envelope: Envelope) -> Source:
        """Where this mail comes from: by the domain whose mail it is."""
        if not self._settings.sources:
            return self._source
        domain = envelope.domain
        if not domain and envelope.reverse_path:
            with contextlib.suppress(AddressError):
                domain = parse(envelope.reverse_path).domain
        return self._settings.sources.get(domain.lower(), self._source)

    async def deliver_to(self, endpoint: str, envelope: Envelope) -> list[RecipientResult]:
        """To the host that the operator named, and to no other; private addresses too.

        One that can't be found or reached is the operator's trouble, never the mail's: such a failure is transient.
        """
        try:
            name, port = split_endpoint(endpoint)
        except ValueError as error:
            return _all_failed(envelope, Trouble.INTERNAL.failure(str(error)))
        try:
            policy = await self._policies.find(
                "", [name], secure=False, requiretls=envelope.requiretls, optional=envelope.tls_optional
            )
        except FailureError as error:
            return _all_failed(envelope, soften(error.failure))
        way = Way([Host(name)], port, self.source(envelope), policy, allow_private=True, named=True)
        return [
            replace(result, outcome=(softened := soften(result.failure)).outcome, enhanced=softened.enhanced)
            if result.outcome is Outcome.PERMANENT and result.scope in (Scope.HOST, Scope.DOMAIN)
            else result
            for result in await self.deliver(envelope, way)
        ]

    async def deliver(self, envelope: Envelope, way: Way) -> list[RecipientResult]:
        """One result per recipient of one destination, in their order."""
        attempt = Attempt(envelope)
        for host in self._memory.rank(way.hosts, way.port):
            await self._visit(attempt, host, way)
            if attempt.over or not attempt.pending:
                break
        return attempt.results()

    async def _visit(self, attempt: Attempt, host: Host, way: Way) -> None:
        """Ask one host: on a kept connection, else on a new one."""
        try:
            security = await way.policy.of(host.name)
        except FailureError as error:
            if isinstance(error, InsecureError):
                self._report(way, host, "", error.why)
            attempt.note(error.failure, host.name)
            return
        key = Key(host.name, way.port, way.named, way.source, security)
        session = self.pool.take(key)
        if session is not None:
            await self._transact(attempt, session, key, kept=True)
            if session.reusable:
                attempt.asked.add(session.address)
        if attempt.pending and attempt.room:
            await self._connect(attempt, host, way, key)

    async def _connect(self, attempt: Attempt, host: Host, way: Way, key: Key) -> None:
        """One address of the host after the other, until nobody is pending."""
        try:
            candidates = self._judge(attempt, host, way, await self._addresses(host, way))
        except FailureError as error:
            attempt.note(error.failure, host.name)
            return
        if candidates and attempt.envelope.berth is not None:
            await self.pool.make_way(attempt.envelope.berth)
        while candidates and attempt.pending and attempt.room:
            ran = await race(candidates[: attempt.room], way.port, self._settings.timeouts.connect, self._clock)
            attempt.dialled += ran.begun
            for candidate, why in ran.failed:
                self._fail(attempt, host, way, candidate, *_unreachable(why))
            for candidate in ran.outrun:
                self._memory.outrun(_place(candidate, way))
            if ran.winner is None or ran.sock is None:
                candidates = [one for one in candidates if one.address not in attempt.asked]
                continue
            attempt.asked.add(ran.winner.address)
            if not await self._greet(attempt, host, way, key, ran.winner, ran.sock, ran.seconds):
                return
            candidates = [one for one in candidates if one.address not in attempt.asked]

    async def _greet(
        self, attempt: Attempt, host: Host, way: Way, key: Key, at: Candidate, sock: socket.socket, seconds: float
    ) -> bool:
        """A session on a socket that is connected, and one transaction. Whether another address of the host may be asked."""
        began = self._clock.monotonic()
        place = _place(at, way)
        try:
            session = await ClientSession.connect(
                host.name,
                at.address,
                way.port,
                local_hostname=way.source.hostname,
                source_address=at.source,
                timeouts=self._settings.timeouts,
                security=key.security,
                sock=sock,
            )
        except InsecureError as error:
            self._memory.answered(place)
            self._report(way, host, at.address, error.why, at.source)
            attempt.note(replace(error.failure, scope=Scope.HOST), host.name, at.address)
            return False
        except FailureError as error:
            failure = error.failure
            if failure.code // 100 in (4, 5):  # somebody is there, and busy or not fond of us
                self._memory.answered(place)
                self._memory.refused(host.name, way.port)
                attempt.note(failure, host.name, at.address)
            else:
                self._fail(attempt, host, way, at, failure, failure.enhanced != _INTERNAL.enhanced)
            return True
        self._memory.answered(place)
        self._memory.connected(host.name, way.port, seconds + self._clock.monotonic() - began)
        self._report(way, host, at.address, session.insecure, at.source)
        await self._transact(attempt, session, key)
        return True

    async def _addresses(self, host: Host, way: Way) -> list[str]:
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

    def _judge(self, attempt: Attempt, host: Host, way: Way, addresses: list[str]) -> list[Candidate]:
        """The addresses that may be connected, those that were slow lately behind the others. What may not is noted."""
        candidates = []
        for address in addresses[: 4 * attempt.room]:  # a thousand of them are not judged for one mail
            if address in attempt.asked:
                continue
            refused = refusal(address, way.port, allow_private=way.allow_private, own=self._settings.own)
            if refused is not None:
                # Permanent only where no better host gave hope: hence the scope.
                attempt.note(replace(refused, scope=Scope.HOST), host.name, address)
                if refused.scope is Scope.DOMAIN:
                    # RFC 5321 5.1: this is ourselves, and the hosts behind would send the mail back.
                    attempt.over = True
                    return []
                continue
            source = way.source.towards(address)
            if source is None:
                failure = Trouble.UNREACHABLE.failure(f"{address} can't be reached from {way.source}")
                attempt.note(failure, host.name, address)
                continue
            candidate = Candidate(address, source)
            place = _place(candidate, way)
            remembered = self._memory.admit(place)
            if remembered is not None:
                rest = self._memory.rest(place)
                attempt.rests.append(rest)
                text = f"connect to {host.name}: {remembered.text} (lately; it is left alone for {rest:.0f} s)"
                attempt.note(replace(remembered, text=text), host.name, address)
                continue
            candidates.append(candidate)
        if len(candidates) > 1:
            candidates.sort(key=lambda one: self._memory.is_slow(_place(one, way)))
        return candidates

    def _fail(self, attempt: Attempt, host: Host, way: Way, candidate: Candidate, failure: Failure, dead: bool) -> None:
        """The address gave no session."""
        attempt.asked.add(candidate.address)
        if dead:
            place = _place(candidate, way)
            rests = self._settings.rests
            if way.named:
                rests = Rests(min(rests.first, OPERATORS_REST), min(rests.longest, OPERATORS_REST))
            self._memory.failed(place, failure, rests)
            attempt.rests.append(self._memory.rest(place))
        if failure.enhanced == Trouble.UNREACHABLE.failure().enhanced:
            failure = replace(failure, text=f"connect to {host.name}: {failure.text}")
        attempt.note(failure, host.name, candidate.address)

    def _report(self, way: Way, host: Host, address: str, why: Insecure | None, source: str = "") -> None:
        self._policies.note(SessionNote(way.policy.used, host.name, address, source, why))

    async def _transact(self, attempt: Attempt, session: ClientSession, key: Key, *, kept: bool = False) -> None:
        results = await session.send(replace(attempt.envelope, recipients=attempt.recipients()))
        self.pool.give(key, session, attempt.envelope.berth)
        attempt.take(results, kept=kept)


def split_endpoint(text: str) -> tuple[str, int]:
    """Host (without brackets) and port of `host:port` or `[v6]:port`. Raises `ValueError` where it is neither."""
    name, colon, port = text.rpartition(":")
    if not (name and colon and port.isascii() and port.isdigit() and 0 < int(port[:6]) < 65536):
        raise ValueError(f"{text!r} is not host:port")
    return name.removeprefix("[").removesuffix("]"), int(port)


def _place(candidate: Candidate, way: Way) -> Place:
    return Place(candidate.address, way.port, candidate.source, way.named)


def _unreachable(error: OSError | ValueError) -> tuple[Failure, bool]:
    """What a failed connection comes to, and whether the host is to blame."""
    number = error.errno if isinstance(error, OSError) else None
    timed_out = isinstance(error, TimeoutError)
    text = "timed out" if timed_out else os.strerror(number) if number else str(error)
    return Trouble.UNREACHABLE.failure(text), timed_out or number in _REMOTE


def _all_failed(envelope: Envelope, failure: Failure) -> list[RecipientResult]:
    return [RecipientResult.failed(recipient, failure) for recipient in envelope.recipients]

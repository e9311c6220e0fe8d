"""The ways out: to the hosts of each recipient's domain, or to one host that the operator named.

    hosts by preference -> policy -> addresses of each -> may it be reached? -> kept connection or a new one -> one transaction

The first final word about a recipient counts: taken, or refused for good by a host that knows. What is transient is asked of
the next address, then of the next host; the best of these failures is the result. A mail that may have arrived (`after_dot`)
is not offered to another host: it waits for the next attempt, and the fewer there are, the fewer duplicates.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from responder.aside import aside
from responder.clock import Clock
from responder.dns import LookupFailedError, Resolver
from responder.mail.address import AddressError, parse
from responder.mail.status import FailureError, Trouble
from responder.mail.suffix import organisational, provider_of
from responder.outbound.attempt import MAX_CONNECTIONS, Way
from responder.outbound.base import Envelope, RecipientResult
from responder.outbound.hosts import HostMemory
from responder.outbound.mx import find_hosts
from responder.outbound.pool import Pool
from responder.outbound.tls.policy import Policies
from responder.outbound.visit import HostTransport, Settings, split_endpoint

__all__ = ["MAX_CONNECTIONS", "MXTransport", "Settings", "SmarthostTransport", "split_endpoint"]


class MXTransport(HostTransport):
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
        memory: HostMemory | None = None,
        policies: Policies | None = None,
    ) -> None:
        super().__init__(settings, resolver, clock, pool=pool, memory=memory, policies=policies)
        self._port = port
        self._allow_private = allow_private
        self._own_names = frozenset(
            [settings.hostname.lower(), *[source.hostname.lower() for source in settings.sources.values()]]
        )
        self._suffixes_read = False

    async def provider(self, domain: str) -> str:
        """The registered domain of the hosts, or the provider's name. Asks for no more than a delivery asks anyway, and is cached
        for as long. Anybody can name anybody's hosts beside their own: then it is the registered domain of the domain."""
        if domain.startswith("["):
            return domain
        try:
            hosts = [host for _, host in await self._resolver.mx(domain)]
        except LookupFailedError:
            hosts = []
        found = await self._providers([host for host in hosts if host] or [domain])
        return found.pop() if len(found) == 1 else (await self._providers([domain])).pop()

    async def _providers(self, hosts: Iterable[str]) -> set[str]:
        if not self._suffixes_read:
            await aside(organisational, "")
            self._suffixes_read = True
        return {provider_of(host, self._settings.providers) for host in hosts}

    async def send(self, envelope: Envelope) -> list[RecipientResult]:
        """One result per recipient, in their order; domain after domain."""
        if envelope.route:
            return await self.deliver_to(envelope.route, envelope)
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
                way = await self._way(domain, envelope)
            except FailureError as error:
                found = [RecipientResult.failed(recipient, error.failure) for recipient in recipients]
            else:
                found = await self.deliver(replace(envelope, recipients=recipients), way)
            results.update(zip(positions, found, strict=True))
        return [results[n] for n in range(len(envelope.recipients))]

    async def _way(self, domain: str, envelope: Envelope) -> Way:
        """Raises `FailureError`."""
        hosts, secure = await find_hosts(domain, self._resolver, self._clock, own_names=self._own_names)
        if (
            envelope.provider
            and await self._providers([domain]) != {envelope.provider}
            and await self._providers([host.name for host in hosts]) != {envelope.provider}
        ):
            raise FailureError(Trouble.MOVED.failure())  # a stranger's host must not have a provider's room
        policy = await self._policies.find(
            domain,
            [host.name for host in hosts],
            secure=secure,
            requiretls=envelope.requiretls,
            optional=envelope.tls_optional,
        )
        return Way(hosts, self._port, self.source(envelope), policy, self._allow_private)


class SmarthostTransport(HostTransport):
    """All to the host that the operator named, a name or an IP address, without an MX lookup, unless the envelope has a route.

    `smarthost` is `host:port` or `[v6]:port`. Raises `ValueError` where it is neither.
    """

    def __init__(
        self,
        settings: Settings,
        resolver: Resolver,
        clock: Clock,
        *,
        smarthost: str,
        pool: Pool | None = None,
        memory: HostMemory | None = None,
        policies: Policies | None = None,
    ) -> None:
        super().__init__(settings, resolver, clock, pool=pool, memory=memory, policies=policies)
        split_endpoint(smarthost)
        self._smarthost = smarthost

    async def provider(self, domain: str) -> str:
        """There is one way out."""
        return ""

    async def send(self, envelope: Envelope) -> list[RecipientResult]:
        """One result per recipient, in their order."""
        return await self.deliver_to(envelope.route or self._smarthost, envelope)

"""The outbound side of a server, put together: the way out, and what runs beside deliveries."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Mapping
from typing import Final

from responder.clock import Clock
from responder.config import Config
from responder.delivery.providers import providers
from responder.dns import Resolver
from responder.mail.status import Failure
from responder.observe import event
from responder.outbound.base import Transport
from responder.outbound.hosts import RESTS, HostMemory, Rests
from responder.outbound.pool import Pool
from responder.outbound.print import PrintTransport
from responder.outbound.reach import refusal
from responder.outbound.sources import Source
from responder.outbound.tls import contexts
from responder.outbound.tls.https import Web
from responder.outbound.tls.policy import LEVELS, Rules, SessionNote, TLSPolicies
from responder.outbound.tls.sts_cache import KeeperError, StsCache
from responder.outbound.transport import MXTransport, Settings, SmarthostTransport, split_endpoint
from responder.store.base import Store, StoreError
from responder.store.records import Memory, Value
from responder.tlsreports import TLSReports

POLICIES: Final = ".mta-sts"  # no inbox has such a name: a local part does not begin with a dot (RFC 5321 4.1.2)
NAMES: Final = 40_000
"""Answers of name servers that are kept: some 20 MB. Each destination has four, and a queue for some thousands of them goes round
and round: with a smaller cache each mail would ask for all of them again."""
ROUND: Final = 3600.0  # seconds between two looks for policies that have to be fetched anew
_OURS: Final = ("hostname", "delivery", "providers", "sources", "tls_policy")  # the tables that the way out is made of


class Departure:
    """Everything between the delivery stage and the network. `follow` takes a new configuration."""

    def __init__(self, config: Config, store: Store, clock: Clock) -> None:
        self.own: set[tuple[str, int]] = set()  # what this server listens on: mail for it would be a loop
        self.reports = TLSReports(store, clock)
        self._store = store
        self._clock = clock
        self._memory = HostMemory(clock)
        self._sts: StsCache | None = None
        self.transport = self._make(config, None)

    def follow(self, config: Config, old: Config) -> Transport | None:
        """Take a new configuration. The transport that nobody uses from now on, where there is one: its owner closes it."""
        contexts.forget()  # authorities may have changed as files do
        if all(getattr(config, key) == getattr(old, key) for key in _OURS):
            self.reports.configure(config)
            return None
        before, self.transport = self.transport, self._make(config, old)
        return before

    async def run(self) -> None:
        """What goes on beside deliveries, until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self.reports.run(), name="tls reports")
                group.create_task(self._refresh(), name="mta-sts")
        finally:
            if self._sts is not None:
                await self._sts.close()

    async def _refresh(self) -> None:
        """Keep the MTA-STS policies that are in use from running out."""
        while True:
            await self._clock.sleep(self._clock.jitter(ROUND / 2, ROUND))
            if self._sts is not None:
                try:
                    await self._sts.refresh()
                except Exception as error:  # nothing of this is a reason to stop serving
                    cause = str(error) if isinstance(error, KeeperError) else f"{type(error).__name__}: {error}"
                    event("mta-sts policies not refreshed", level=logging.WARNING, cause=cause)

    def _make(self, config: Config, old: Config | None) -> Transport:
        """The way out that a configuration names."""
        delivery = config.delivery
        if delivery.transport == "print":
            self._sts = None
            self.reports.configure(config)
            return PrintTransport(config.state_folder / "printed")
        settings = Settings(
            hostname=config.hostname,
            own=self.own,
            source_address=delivery.source_address,
            sources=sources(config),
            providers={suffix: name for name, table in providers(config).items() for suffix in table.suffixes},
            # A dead host may be asked again before the first mail that it made wait comes back.
            rests=Rests(min(RESTS.first, 0.75 * delivery.retry[0]), min(RESTS.longest, max(delivery.retry))),
        )
        believe = {"auto": None, "on": True, "off": False}[config.tls_policy.dane]
        resolver = Resolver(delivery.nameservers, clock=self._clock, believe_ad=believe, max_entries=NAMES)
        policies = self._make_policies(config, old, resolver)
        counted = {
            suffix: table.messages_per_connection
            for table in providers(config).values()
            if table.messages_per_connection is not None
            for suffix in table.suffixes
        }
        pool = Pool(self._clock, max_messages=delivery.messages_per_connection, by_suffix=counted)
        if delivery.transport == "smarthost":
            return SmarthostTransport(
                settings,
                resolver,
                self._clock,
                smarthost=delivery.smarthost,
                pool=pool,
                memory=self._memory,
                policies=policies,
            )
        return MXTransport(
            settings,
            resolver,
            self._clock,
            port=delivery.port,
            allow_private=delivery.allow_private_addresses,
            pool=pool,
            memory=self._memory,
            policies=policies,
        )

    def _make_policies(self, config: Config, old: Config | None, resolver: Resolver) -> TLSPolicies:
        """What connections must have. What is known of MTA-STS lasts while its tables do."""
        table = config.tls_policy
        allow_private = config.delivery.allow_private_addresses

        def refused(address: str, port: int) -> Failure | None:
            return refusal(address, port, allow_private=allow_private, own=self.own)

        authorities = str(table.authorities or "")
        web = Web(resolver, refused, authorities)
        same = old is not None and (config.delivery, table) == (old.delivery, old.tls_policy)
        if not table.mta_sts or config.delivery.transport != "mx":
            self._sts = None
        elif self._sts is None or not same:
            self._sts = StsCache(resolver, web, Shelf(self._store), self._clock)
        self.reports.configure(config, resolver, web)
        domains = {domain: LEVELS[mode] for domain, mode in table.domains.items()}
        if config.delivery.transport == "smarthost":
            # It is all destinations in one; a route of an inbox is none.
            host, _ = split_endpoint(config.delivery.smarthost)
            domains.setdefault(host.lower(), LEVELS[table.mode])
        rules = Rules(LEVELS[table.mode], domains, table.dane != "off", authorities, config.delivery.port)
        return TLSPolicies(rules, resolver, self._sts, self._note if table.reports else None)

    def _note(self, note: SessionNote) -> None:
        self.reports.note(note)


class Shelf:
    """MTA-STS policies in the store: `outbound.tls.sts_cache.Keeper`."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def load(self) -> dict[str, str]:
        """All of them, JSON by domain. Raises `KeeperError`."""
        try:
            found = await self._store.values_below(POLICIES, "")
        except StoreError as error:
            raise KeeperError(str(error)) from error
        return {domain: str(json.loads(text)) for domain, text in found.items()}

    async def keep(self, changes: Mapping[str, tuple[str | None, float]]) -> None:
        """By domain: JSON and until when it holds, or None to forget it."""
        values = [Value(k, None if text is None else json.dumps(text), until) for k, (text, until) in changes.items()]
        try:
            await self._store.remember(Memory(POLICIES, {}, tuple(values)))
        except StoreError as error:
            event("mta-sts policy not stored", level=logging.WARNING, cause=str(error))


def sources(config: Config) -> dict[str, Source]:
    """Where mail comes from whose domain has a place of its own."""
    return {
        domain: Source.of(source.hostname or config.hostname, source.addresses or [config.delivery.source_address])
        for domain, source in config.sources.items()
    }

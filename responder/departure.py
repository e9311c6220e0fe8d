"""The outbound side of a server, put together: the way out, and what runs beside deliveries."""

from __future__ import annotations

from responder.clock import Clock
from responder.config import Config
from responder.dns import Resolver
from responder.outbound.base import Transport
from responder.outbound.print import PrintTransport
from responder.outbound.transport import MXTransport, Settings, SmarthostTransport
from responder.store.base import Store


class Departure:
    """Everything between the delivery stage and the network. `follow` takes a new configuration."""

    def __init__(self, config: Config, store: Store, clock: Clock) -> None:
        self.own: set[tuple[str, int]] = set()  # what this server listens on: mail for it would be a loop
        self._store = store
        self._clock = clock
        self.transport = self._make(config)

    def follow(self, config: Config, old: Config) -> Transport | None:
        """Take a new configuration. The transport that nobody uses from now on, where there is one: its owner closes it."""
        if config.delivery == old.delivery and config.hostname == old.hostname:
            return None
        before, self.transport = self.transport, self._make(config)
        return before

    async def run(self) -> None:
        """What goes on beside deliveries, until cancelled."""

    def _make(self, config: Config) -> Transport:
        """The way out that a configuration names."""
        delivery = config.delivery
        if delivery.transport == "print":
            return PrintTransport(config.state_folder / "printed")
        settings = Settings(hostname=config.hostname, own=self.own, source_address=delivery.source_address)
        resolver = Resolver(delivery.nameservers, clock=self._clock)
        if delivery.transport == "smarthost":
            return SmarthostTransport(settings, resolver, self._clock, smarthost=delivery.smarthost)
        return MXTransport(
            settings, resolver, self._clock, port=delivery.port, allow_private=delivery.allow_private_addresses
        )

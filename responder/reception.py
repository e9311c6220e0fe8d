"""The inbound side of a server, put together: who listens, who is let in, who judges, and the stage that takes mail over."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from responder.agents.router import Router
from responder.authentication import Authenticator
from responder.clock import Clock
from responder.config import Config
from responder.dns import Resolver
from responder.inbound.limits import Gatekeeper
from responder.inbound.listener import Listener
from responder.inbound.sessions import Sessions
from responder.inbound.tls import Certificate, CertificateError
from responder.intake.stage import Intake
from responder.start import StartError
from responder.store.base import Store


@dataclass(frozen=True, slots=True)
class Furniture:
    """What a configuration's inbound side reads from files, or builds, before it is used."""

    certificate: Certificate | None = None


def furnish(config: Config, file: Path) -> Furniture:
    """Read it. Changes nothing yet: `check` and a reload ask whether it can be used. Raises `StartError`."""
    try:
        return Furniture(certificate=Certificate(config.tls) if config.tls else None)
    except CertificateError as error:
        raise StartError(f"{file}: tls: {error}") from error


class Reception:
    """Everything between the listening sockets and the store's `accept`. `follow` takes a new configuration."""

    def __init__(self, config: Config, furniture: Furniture, router: Router, store: Store, clock: Clock) -> None:
        self._clock = clock
        self._nameservers = config.delivery.nameservers
        self._resolver = Resolver(self._nameservers, clock=clock)
        self.gatekeeper = Gatekeeper(config.limits, clock)
        self.intake = Intake(config.hostname, config.limits.hops, router, self.gatekeeper, store, clock)
        self.sessions = Sessions(config.hostname, config.limits, self.gatekeeper, self.intake, clock)
        self.listener = Listener(self.sessions)
        self._tell(config, furniture)

    def follow(self, config: Config, furniture: Furniture, router: Router) -> None:
        """Take a new configuration; sessions that are open go on under it."""
        self.intake.hostname, self.intake.hops, self.intake.router = config.hostname, config.limits.hops, router
        if config.delivery.nameservers != self._nameservers:
            self._nameservers = config.delivery.nameservers
            self._resolver = Resolver(self._nameservers, clock=self._clock)
        self._tell(config, furniture)
        self.sessions.follow(config.hostname, config.limits)

    def _tell(self, config: Config, furniture: Furniture) -> None:
        """Hand out what a start and a reload both bring."""
        self.sessions.certificate = furniture.certificate
        judged = config.authentication.mode != "off"
        self.intake.authenticator = (
            Authenticator(config.hostname, config.authentication, self._resolver, self._clock) if judged else None
        )

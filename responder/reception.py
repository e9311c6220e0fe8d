"""The inbound side of a server, put together: who listens, who is let in, who judges, and the stage that takes mail over."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from responder.agents.guards import Guards
from responder.agents.router import Router
from responder.authentication import Authenticator
from responder.clock import Clock, SystemClock
from responder.config import Blocklists as BlocklistsTable
from responder.config import Config
from responder.decoy.transcript import place, trouble
from responder.decoy.trap import make_trap
from responder.dns import Resolver
from responder.inbound.dialects.dialect import GENERIC, Dialect
from responder.inbound.dialects.files import DialectError, chosen
from responder.inbound.followed import FileError, FollowedFiles
from responder.inbound.limits.addresses import Networks
from responder.inbound.limits.blocklists import Blocklists
from responder.inbound.limits.denied import DenyList
from responder.inbound.limits.gatekeeper import Gatekeeper
from responder.inbound.listening.descriptors import hold_spare, questions, raise_limit, remark, room
from responder.inbound.listening.listener import Listener
from responder.inbound.login.logins import Logins
from responder.inbound.login.users import Users
from responder.inbound.sessions import Sessions
from responder.inbound.tls import Certificate
from responder.intake.checking import Checking
from responder.intake.greylist import Greylist
from responder.intake.policy import Policy
from responder.intake.relay import Relay
from responder.intake.stage import Intake
from responder.observe import event
from responder.outbound.tls.contexts import trouble_with
from responder.sealing import SigningKeys, make_signing_keys
from responder.start import StartError
from responder.store.base import Store


@dataclass(frozen=True, slots=True)
class Furniture:
    """What a configuration's inbound side reads from files, or builds, before it is used."""

    certificate: Certificate | None = None
    users: Users | None = None
    denied: DenyList | None = None
    signing: SigningKeys | None = None
    dialects: Mapping[str, Dialect] = field(default_factory=lambda: {"": GENERIC})
    notices: tuple[tuple[str, str], ...] = ()

    @property
    def files(self) -> list[FollowedFiles]:
        """What is read again when it changes."""
        return [file for file in (self.certificate, self.users, self.denied, self.signing) if file is not None]

    def remarks(self) -> Iterator[tuple[str, str]]:
        """(key, reason) of what the operator may not have meant."""
        yield from self.notices
        for file in self.files:
            yield from file.remarks()


def furnish(config: Config, file: Path) -> Furniture:
    """Read it. Changes nothing yet: `check` and a reload ask whether it can be used. Raises `StartError`."""
    few = remark(config.limits.connections, config.delivery.concurrency)
    if any(listen.decoy for listen in config.listen) and (reason := _trouble(config)):
        raise StartError(f"{file}: decoy.transcript: {place(config)}: {reason}")
    trusted = config.tls_policy.authorities
    if trusted is not None and (reason := trouble_with(str(trusted))):
        raise StartError(f"{file}: tls_policy.authorities: {trusted}: {reason}")
    try:
        return Furniture(
            certificate=Certificate(config.tls, SystemClock()) if config.tls else None,
            users=Users(config.auth.users) if config.auth.users else None,
            denied=DenyList(config.limits.deny, config.limits.deny_file),
            signing=make_signing_keys(config),
            dialects=chosen(config),
            notices=(("limits.connections", few),) if few else (),
        )
    except (FileError, DialectError) as error:
        raise StartError(f"{file}: {error}") from error


def _trouble(config: Config) -> str:
    """Why the transcript of decoys can't be where it is to be; "" where it can."""
    store, path = config.sqlite_path, place(config)
    return "is the database" if store is not None and path.absolute() == store.absolute() else trouble(path)


class Reception:
    """Everything between the listening sockets and the store's `accept`. `follow` takes a new configuration."""

    def __init__(
        self, config: Config, furniture: Furniture, router: Router, checks: Guards, store: Store, clock: Clock
    ) -> None:
        self._clock = clock
        self._nameservers = config.delivery.nameservers
        self._resolver = Resolver(self._nameservers, clock=clock)
        self._greylist = Greylist(config.greylist, store, clock)
        self._blocklists: tuple[object, Blocklists | None] = (None, None)
        hold_spare()
        self.descriptors = raise_limit()
        self.gatekeeper = Gatekeeper(config.limits, clock)
        self.intake = Intake(config.hostname, config.limits.hops, router, self.gatekeeper, store, clock)
        self.intake.relay = Relay(config, clock)
        self.sessions = Sessions(config.hostname, config.limits, self.gatekeeper, self.intake, clock)
        self.logins: Logins | None = None
        self.trap = self.sessions.decoy = make_trap(config, clock)
        self.listener = Listener(self.sessions)
        self._tell(config, furniture, checks)

    def follow(self, config: Config, furniture: Furniture, router: Router, checks: Guards) -> None:
        """Take a new configuration; sessions that are open go on under it."""
        self.intake.hostname, self.intake.hops, self.intake.router = config.hostname, config.limits.hops, router
        if config.delivery.nameservers != self._nameservers:
            self._nameservers = config.delivery.nameservers
            self._resolver = Resolver(self._nameservers, clock=self._clock)
        self.sessions.follow(config.hostname, config.limits, config.listen)
        self._tell(config, furniture, checks)

    def _tell(self, config: Config, furniture: Furniture, checks: Guards) -> None:
        """Hand out what a start and a reload both bring."""
        self._limit(config, furniture)
        self.intake.checks = Checking(checks) if checks else None
        self.sessions.certificate = furniture.certificate
        self.sessions.login = self._login(config, furniture)
        self.sessions.followed = list(furniture.files)
        self.sessions.dialects = dict(furniture.dialects)
        if self.intake.relay is not None:
            self.intake.relay.follow(config)
        if self.trap is not None:
            self.trap.follow(config)
        self.sessions.tell()
        for key, reason in furniture.remarks():
            event("notice", key=key, reason=reason)
        self.intake.authenticator = self._authenticator(config)

    def _authenticator(self, config: Config) -> Authenticator | None:
        table = config.authentication
        if table.mode == "off":
            return None
        known = (*table.trusted_networks, *config.relay.networks)
        table = table.model_copy(update={"trusted_networks": known})
        return Authenticator(config.hostname, table, self._resolver, self._clock, questions(self.descriptors))

    def close(self) -> None:
        """Nobody is left: write down the rest of what decoys have heard."""
        if self.trap is not None:
            self.trap.transcript.close()

    def _limit(self, config: Config, furniture: Furniture) -> None:
        """What limits depend on besides their table."""
        self.gatekeeper.denied = furniture.denied if furniture.denied is not None else Networks(config.limits.deny)
        self.gatekeeper.room = room(self.descriptors, config.delivery.concurrency)
        self._greylist.follow(config.greylist)
        greylist = self._greylist if config.greylist.enabled else None
        blocklists = self._listing(config.blocklists)
        if greylist is None and blocklists is None and config.limits.message_rate is None:
            self.intake.policy = None
        else:
            known = (*config.authentication.trusted_networks, *config.relay.networks)
            self.intake.policy = Policy(self.gatekeeper, known, blocklists, greylist)

    def _listing(self, table: BlocklistsTable) -> Blocklists | None:
        """The blocklists. The same for as long as nothing of theirs changes: they know what is being asked."""
        made_of = table, self._resolver
        if self._blocklists[0] != made_of:
            asked = Blocklists(table.zones, table.timeout, self._resolver, self._clock) if table.zones else None
            self._blocklists = made_of, asked
        return self._blocklists[1]

    def _login(self, config: Config, furniture: Furniture) -> Logins | None:
        """Who lets users in. One for as long as there are users, as it knows who has failed."""
        if furniture.users is None:
            return None
        if self.logins is None:
            self.logins = Logins(furniture.users, config.auth.failures, self._clock)
        self.logins.follow(furniture.users, config.auth.failures)
        return self.logins

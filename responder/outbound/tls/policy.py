"""Which security each host of a destination must have: the operator's word, DANE, MTA-STS; else opportunistic.

The operator's word on a domain stands alone; his word on all is the least that each gets. DANE goes before MTA-STS (RFC 8461 2):
it is asked for host by host, where MX and addresses came signed. A message with REQUIRETLS gets nothing less than a certificate
that holds, at a host that came by a signed MX record or stands in an MTA-STS policy (RFC 8689 4.2.1).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Protocol

from responder.dns import NoData, NotFound, Resolver, TemporaryError
from responder.mail.status import FailureError, Scope, Trouble
from responder.outbound.tls.dane import usable
from responder.outbound.tls.mta_sts import StsPolicy, names_host
from responder.outbound.tls.security import OPPORTUNISTIC, TLSA, Insecure, InsecureError, Level, PolicyType, Security
from responder.outbound.tls.sts_cache import Found, KeeperError, StsCache

LEVELS: Final = {
    "off": Level.OFF,
    "opportunistic": Level.OPPORTUNISTIC,
    "encrypted": Level.ENCRYPTED,
    "verified": Level.VERIFIED,
}
"""What a configuration calls them."""


@dataclass(frozen=True, slots=True)
class PolicyUsed:
    """The policy that a session came under, as a report shows it (RFC 8460 4.4)."""

    type: PolicyType = "no-policy-found"
    domain: str = ""  # whose policy it is: for DANE the host's
    strings: tuple[str, ...] = ()
    mx_hosts: tuple[str, ...] = ()
    recipient: str = ""  # the destination, which gets the report; "" where nobody is told


@dataclass(frozen=True, slots=True)
class SessionNote:
    """One new connection, as reports count it."""

    policy: PolicyUsed
    host: str
    address: str = ""
    source: str = ""
    why: Insecure | None = None  # None: it had what was asked


class DomainPolicy(Protocol):
    """One destination's, for one attempt."""

    @property
    def used(self) -> PolicyUsed:
        """What the host comes under that `of` was asked about last."""
        ...

    async def of(self, host: str) -> Security:
        """What a connection to this host must have. Raises `FailureError`: no mail may go there (now); `InsecureError` is for
        `note`, as that of a session is."""
        ...


class Policies(Protocol):
    """What the transport asks."""

    async def find(
        self, domain: str, hosts: Sequence[str], *, secure: bool, requiretls: bool, optional: bool = False
    ) -> DomainPolicy:
        """The policy of a destination; the domain "" is the one host that the operator has named. `secure`: its MX records came
        with a valid DNSSEC signature (RFC 7672 2.2.1); `optional`: better in plain text than not at all (RFC 8689 3).
        Raises `FailureError` where it can't be known now."""
        ...

    def note(self, note: SessionNote) -> None:
        """A connection was made, or failed for want of security. Returns at once."""
        ...


class NoPolicy:
    """Opportunistic everywhere."""

    used = PolicyUsed()

    async def find(
        self, domain: str, hosts: Sequence[str], *, secure: bool, requiretls: bool, optional: bool = False
    ) -> DomainPolicy:
        return self

    async def of(self, host: str) -> Security:
        return OPPORTUNISTIC

    def note(self, note: SessionNote) -> None:
        pass


@dataclass(frozen=True, slots=True)
class Rules:
    """What the operator has said."""

    least: Level = Level.OPPORTUNISTIC
    domains: Mapping[str, Level] = field(default_factory=dict)
    dane: bool = True  # where the name servers are believed
    authorities: str = ""
    port: int = 25  # where the hosts listen: TLSA records are by port


class TLSPolicies:
    """All of it together. `sts` is None where MTA-STS is off; `report` takes the notes."""

    def __init__(
        self, rules: Rules, resolver: Resolver, sts: StsCache | None, report: Callable[[SessionNote], None] | None
    ) -> None:
        self._rules = rules
        self._resolver = resolver
        self._sts = sts
        self._report = report

    @property
    def authorities(self) -> str:
        """Who is trusted, as `Security` has it."""
        return self._rules.authorities

    async def find(
        self, domain: str, hosts: Sequence[str], *, secure: bool, requiretls: bool, optional: bool = False
    ) -> DomainPolicy:
        rules = self._rules
        domain = domain.lower()
        if not domain:
            return self._named(hosts[0].lower(), requiretls=requiretls)
        least = rules.domains.get(domain, rules.least)
        word = Security(least, authorities=rules.authorities if least is Level.VERIFIED else "")
        if requiretls and least is Level.OFF:
            raise FailureError(replace(Trouble.NO_REQUIRETLS.failure("tls_policy is off for it"), scope=Scope.DOMAIN))
        if optional and not requiretls:
            return _Fixed(word)
        if least is Level.OFF or (domain in rules.domains and not requiretls):
            return _Fixed(word, PolicyUsed(domain=domain, recipient=domain))
        found = Found(None)
        if self._sts is not None and not domain.startswith("["):
            try:
                found = await self._sts.find(domain)
            except KeeperError as error:
                raise FailureError(Trouble.INTERNAL.failure(f"MTA-STS: {error}")) from None
        if found.why is not None:
            self.note(SessionNote(PolicyUsed("sts", domain, recipient=domain), "", why=found.why))
        policy = None if found.policy is None or found.policy.mode == "none" else found.policy
        if requiretls:
            # RFC 8689 4.2.1: a host that anybody on the way could have named is none to insist on.
            if not (secure and self._resolver.validates) and (policy is None or policy.mode != "enforce"):
                text = "REQUIRETLS: neither DNSSEC nor MTA-STS vouch for the domain's hosts"
                raise FailureError(replace(Trouble.NO_REQUIRETLS.failure(text), scope=Scope.DOMAIN))
            word = Security(Level.VERIFIED, requiretls=True, authorities=rules.authorities)
        return _Searching(self, domain, word, policy, secure=secure and rules.dane and self._resolver.validates)

    def _named(self, host: str, *, requiretls: bool) -> DomainPolicy:
        """Of a host that the operator has named himself: his word on it alone."""
        level = self._rules.domains.get(host, Level.OPPORTUNISTIC)
        if requiretls:
            level = Level.VERIFIED
        authorities = self._rules.authorities if level is Level.VERIFIED else ""
        return _Fixed(Security(level, requiretls=requiretls, authorities=authorities))

    def note(self, note: SessionNote) -> None:
        if self._report is not None and note.policy.recipient:
            self._report(note)

    async def tlsa(self, host: str) -> tuple[str, list[TLSA]] | None:
        """The name that a host's TLSA records stand by, and they; None where there are none that are signed.

        Raises `InsecureError` where nobody can say: a host that may have some must not be used then (RFC 7672 2.1.2, 2.2).
        """
        try:
            base = await self._resolver.tlsa_base(host)
            if not base.secure:  # RFC 7672 2.2.2: then there is no use in asking, and old servers choke on the question
                return None
        except (NotFound, NoData):
            return None
        except TemporaryError as error:
            raise FailureError(Trouble.DNS_FAILED.failure(str(error))) from None
        for name in base.names:
            try:
                records, secure = await self._resolver.tlsa(f"_{self._rules.port}._tcp.{name}")
            except (NotFound, NoData):
                continue
            except TemporaryError as error:
                why = Insecure("dnssec-invalid", f"TLSA records can't be looked up: {error}")
                raise InsecureError(Trouble.INSECURE.failure(why.text), why) from None
            if secure and records:
                return name, [TLSA(*record) for record in records]
        return None


class _Fixed:
    """One word for all hosts."""

    def __init__(self, security: Security, used: PolicyUsed | None = None) -> None:
        self.used = used or PolicyUsed()
        self._security = security

    async def of(self, host: str) -> Security:
        return self._security


class _Searching:
    """DANE of each host, else the domain's MTA-STS policy, else the operator's word on all."""

    def __init__(
        self, policies: TLSPolicies, domain: str, word: Security, sts: StsPolicy | None, *, secure: bool
    ) -> None:
        self._policies = policies
        self._domain = domain
        self._word = word
        self._sts = sts
        self._secure = secure
        self.used = PolicyUsed(domain=domain, recipient=domain)

    async def of(self, host: str) -> Security:
        found = None
        if self._secure and not host.startswith("["):
            try:
                found = await self._policies.tlsa(host)
            except InsecureError:
                self.used = PolicyUsed("tlsa", host, recipient=self._domain)
                raise
        if found is not None:
            base, records = found
            if held := usable(records):
                strings = tuple([f"{t.usage} {t.selector} {t.matching} {t.data.hex()}"[:1000] for t in held])
                self.used = PolicyUsed("tlsa", base, strings, recipient=self._domain)
                names = tuple(dict.fromkeys((base, host, self._domain)))  # RFC 7672 3.2.2
                return Security(Level.DANE, names, held, requiretls=self._word.requiretls)
        # Records of which none can be used still say that there is TLS (RFC 7672 2.2); a certificate is MTA-STS's matter then.
        word = self._word
        if found is not None and word.level < Level.ENCRYPTED:
            word = Security(Level.ENCRYPTED)
        return self._by_sts(host, word)

    def _by_sts(self, host: str, word: Security) -> Security:
        sts = self._sts
        if sts is None:
            self.used = PolicyUsed(domain=self._domain, recipient=self._domain)
            return word
        self.used = PolicyUsed("sts", self._domain, sts.strings, sts.mx, self._domain)
        testing = sts.mode == "testing"
        if not names_host(sts.mx, host):
            why = Insecure("validation-failure", f"{host} is not among the mx of {self._domain}'s MTA-STS policy")
            if not testing:  # RFC 8461 5: as if the host could not be reached
                raise InsecureError(Trouble.INSECURE.failure(why.text), why)
            self._policies.note(SessionNote(self.used, host, why=why))
            self.used = PolicyUsed()  # its sessions have been counted
            return word
        if testing and word.level > Level.OPPORTUNISTIC:
            return word  # a test must not weaken what holds anyway
        return Security(
            Level.VERIFIED, testing=testing, requiretls=word.requiretls, authorities=self._policies.authorities
        )

"""Which security each host of a destination must have: the operator's word, DANE, MTA-STS; else opportunistic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from responder.outbound.tls.security import OPPORTUNISTIC, Insecure, PolicyType, Security


@dataclass(frozen=True, slots=True)
class PolicyUsed:
    """The policy that a session came under, as a report shows it (RFC 8460 4.4)."""

    type: PolicyType = "no-policy-found"
    domain: str = ""
    strings: tuple[str, ...] = ()
    mx_hosts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SessionNote:
    """One new connection, as reports count it."""

    policy: PolicyUsed
    host: str
    address: str = ""
    source: str = ""
    why: Insecure | None = None  # None: it had what was asked


class DomainPolicy(Protocol):
    """One destination's."""

    used: PolicyUsed

    async def of(self, host: str) -> Security:
        """What a connection to this host must have. Raises `FailureError`: no mail may go there (now)."""
        ...


class Policies(Protocol):
    """What the transport asks."""

    async def find(self, domain: str, hosts: Sequence[str], *, secure: bool, requiretls: bool) -> DomainPolicy:
        """The policy of a destination. `secure`: its MX records came with a valid DNSSEC signature (RFC 7672 2.2.1).
        Raises `FailureError` where it can't be known now."""
        ...

    def note(self, note: SessionNote) -> None:
        """A connection was made, or should have been. Returns at once."""
        ...


class NoPolicy:
    """Opportunistic everywhere."""

    used = PolicyUsed()

    async def find(self, domain: str, hosts: Sequence[str], *, secure: bool, requiretls: bool) -> DomainPolicy:
        return self

    async def of(self, host: str) -> Security:
        return OPPORTUNISTIC

    def note(self, note: SessionNote) -> None:
        pass

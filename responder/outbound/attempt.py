"""What is known so far about each recipient of one envelope, while one host after the other is asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from responder.mail.status import Failure, Outcome, Scope, verdict
from responder.outbound.base import Envelope, RecipientResult
from responder.outbound.mx import Host
from responder.outbound.sources import Source
from responder.outbound.tls.policy import DomainPolicy

MAX_CONNECTIONS = 10
"""Addresses that are dialled for one mail, over all hosts: each may cost a time-out."""


@dataclass(frozen=True, slots=True)
class Way:
    """The hosts of one destination, in the order they are tried, and what holds for all of them."""

    hosts: Sequence[Host]
    port: int
    source: Source
    policy: DomainPolicy
    allow_private: bool
    named: bool = False  # by the operator, not by anybody's DNS


class Attempt:
    """One envelope's recipients. The first final word about each counts; else the best of its failures."""

    def __init__(self, envelope: Envelope) -> None:
        self.envelope = envelope
        self.pending = list(range(len(envelope.recipients)))  # positions without a final word
        self.asked: set[str] = set()  # addresses: two names of one host are one host
        self.dialled = 0
        self.over = False  # no other host may be tried
        self.rests: list[float] = []  # seconds for which the dead ones among the addresses are left alone
        self._heard = False  # some host has answered
        self._final: dict[int, RecipientResult] = {}
        self._failed: dict[int, list[RecipientResult]] = {n: [] for n in self.pending}

    @property
    def room(self) -> int:
        """How many addresses may still be dialled."""
        return max(MAX_CONNECTIONS - self.dialled, 0)

    def recipients(self) -> tuple[str, ...]:
        """Those without a final word."""
        return tuple([self.envelope.recipients[n] for n in self.pending])

    def note(self, failure: Failure, host: str, address: str = "") -> None:
        """A failure of the host for all who are pending."""
        self._heard = self._heard or failure.code != 0
        for n in self.pending:
            recipient = self.envelope.recipients[n]
            self._failed[n].append(RecipientResult.failed(recipient, failure, host=host, address=address))

    def take(self, results: list[RecipientResult], *, kept: bool) -> None:
        """The results of one transaction with those who were pending."""
        self._heard = True
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
        """One for each recipient, in their order."""
        return [self._final.get(n) or self._spokesman(failed) for n, failed in self._failed.items()]

    def _spokesman(self, failed: list[RecipientResult]) -> RecipientResult:
        failures = [result.failure for result in failed]
        result = failed[failures.index(verdict(failures))]
        if self._heard or not self.rests or result.outcome is not Outcome.TRANSIENT:
            return result
        return replace(result, pause=min(self.rests))

"""One IP address of a host that is asked about addresses, and all the domains that are asked there: one connection at a time.

A turn is one session: MAIL, RCPT ..., RSET, over and over, at most `Plan.max_recipients` RCPT, then QUIT; never DATA. One
transaction has addresses of one domain (some hosts allow no other), `BATCH` at most. A host that cuts a session off is asked less
in the next one, after a longer pause; one that does so before it has said a word about anybody is soon left alone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from ipaddress import ip_address
from typing import Final

from responder.clock import Clock
from responder.mail.status import FailureError, Outcome, Scope
from responder.outbound.base import Envelope, RecipientResult
from responder.outbound.dial import dial
from responder.outbound.smtp.session import ClientSession
from responder.outbound.smtp.transaction import is_crowded
from responder.outbound.verifying.ledger import Domain, Ledger, Plan
from responder.outbound.verifying.verification import Finding, Result, of_connection, of_host, of_reply

BATCH: Final = 20
"""Recipients of one transaction: pipelined commands should not hide from us that a host has had enough."""

PATIENCE: Final = 2
"""How many sessions may break at an address before that is its result, and how many in a row may break without a word about
anybody before the host is left alone."""

DEAD: Final = 600.0
"""Seconds that a host which could not be asked is left alone."""

MAX_PAUSE: Final = 60.0


class Station:
    """What is known of one IP address. `leave` takes a domain that has to go to its next host."""

    def __init__(self, address: str, plan: Plan, clock: Clock, ledger: Ledger, leave: Callable[[Domain], None]) -> None:
        self.address = address
        self.queue: deque[Domain] = deque()
        self.idle = True
        self.pause = plan.pause
        self._plan = plan
        self._clock = clock
        self._ledger = ledger
        self._leave = leave
        self._batch = BATCH
        self._budget = plan.max_recipients
        self._barren = 0  # sessions in a row that brought no word about anybody
        self._spoke = False  # it has said something besides that it does not talk to us
        self._stopping = False
        self._dead: Finding | None = None
        self._dead_until = 0.0

    @property
    def dead(self) -> Finding | None:
        """Why it is left alone now; None where it may be asked."""
        return self._dead if self._dead is not None and self._clock.monotonic() < self._dead_until else None

    def stop(self) -> None:
        """End the session after the transaction that is under way."""
        self._stopping = True

    async def turn(self) -> None:
        """One session, with whoever waits here."""
        if (domain := self.next()) is None:
            return
        if (dead := self.dead) is not None:
            self._bury(dead)
            return
        try:
            session = await self._connect(domain.host)
        except _UnreachableError as error:
            self._bury(error.finding)
            return
        asked = words = 0
        try:
            while asked < self._budget and session.reusable and not self._stopping and (waiting := self.next()):
                batch = self._some(waiting, self._budget - asked)
                asked += len(batch)
                results = await session.send(Envelope(self._plan.sender, batch, b"", probe=True))
                told = await self._take(waiting, batch, results, words)
                words += told
                if told < len(batch):
                    break
        finally:
            await session.close()

    def next(self) -> Domain | None:
        """The domain whose turn it is. Those with nobody left to ask go."""
        while self.queue:
            if self.queue[0].has_work:
                return self.queue[0]
            self.queue.popleft().placed = False
        return None

    def _some(self, domain: Domain, room: int) -> tuple[str, ...]:
        if domain.wants_random:
            return (self._ledger.random_of(domain),)
        return tuple([domain.fresh.popleft() for _ in range(min(room, self._batch, len(domain.fresh)))])

    async def _connect(self, host: str) -> ClientSession:
        """Raises `_UnreachableError`."""
        plan = self._plan
        source = plan.source_address
        try:
            if source and ip_address(source).version != ip_address(self.address).version:
                raise ValueError(f"{self.address} can't be reached from {source}")
            sock = await dial(self.address, plan.port, source, plan.timeouts.connect)
        except (OSError, ValueError) as error:
            raise _UnreachableError(of_connection(error, host, self.address)) from None
        try:
            return await ClientSession.connect(
                host,
                self.address,
                plan.port,
                local_hostname=plan.hostname,
                source_address=source,
                timeouts=plan.timeouts,
                sock=sock,
            )
        except FailureError as error:
            raise _UnreachableError(of_host(error.failure, host, self.address)) from None

    async def _take(self, domain: Domain, batch: Sequence[str], results: Sequence[RecipientResult], words: int) -> int:
        """Note what was said about each; how many were spoken of. `words` is how many were before, in this session."""
        silent = [n for n, result in enumerate(results) if _is_silence(result)]
        heard = [(address, result) for address, result in zip(batch, results, strict=True) if not _is_silence(result)]
        accepted = sum([result.outcome is Outcome.SUCCESS for result in results])
        findings = [(address, result, self._finding(domain, address, result)) for address, result in heard]
        if findings and not self._spoke and all(one.result is Result.BLOCKED for *_, one in findings):
            domain.back(list(batch))
            await self._blocked(findings[0][2])
            return len(batch)
        for address, result, finding in findings:
            if accepted and result.outcome is not Outcome.SUCCESS and is_crowded(result.failure):
                domain.back([address])  # RFC 5321 4.5.3.1.10: too many for one transaction; the next one takes them
                self._batch = min(self._batch, accepted)
                continue
            self._spoke = self._spoke or finding.result is not Result.BLOCKED
            await self._ledger.note(domain, address, finding)
        if findings:
            self._barren = 0
        if silent:
            await self._broken(domain, [batch[n] for n in silent], results[silent[0]], words + len(findings))
        elif all(result.scope is Scope.MESSAGE and result.code for result in results):
            # The sender is not welcome: the next batch would hear the same.
            await self._ledger.finish(domain, replace(of_reply(results[0]), host=domain.host))
        return len(findings)

    def _finding(self, domain: Domain, address: str, result: RecipientResult) -> Finding:
        finding = replace(of_reply(result), host=domain.host)
        if address == domain.random and result.scope is not Scope.RECIPIENT:
            return replace(finding, result=Result.UNCLEAR)  # it is no word about that address
        return finding

    async def _broken(self, domain: Domain, silent: list[str], result: RecipientResult, words: int) -> None:
        """The session broke before the host had spoken of these."""
        finding = of_host(result.failure, domain.host, self.address)
        self.pause = min(max(2 * self.pause, self._plan.pause), MAX_PAUSE)
        if not words:
            self._barren += 1
            if finding.result is Result.TIMEOUT or self._barren >= PATIENCE:
                domain.back(silent)
                self._bury(finding)
                return
        else:
            self._budget = max(1, min(self._budget, words))
            if result.code == 421:  # it has heard enough for one session, whoever was next
                domain.back(silent)
                return
        self._batch = 1  # one by one, it will be seen who the reason is
        first, *others = silent
        domain.back(others)
        domain.breaks[first] = domain.breaks.get(first, 0) + 1
        if domain.breaks[first] >= PATIENCE:
            await self._ledger.note(domain, first, finding)
        elif first != domain.random:
            domain.fresh.append(first)  # behind all others, as it may be the reason

    async def _blocked(self, finding: Finding) -> None:
        """All that it has ever said is that our address is listed: so it would to all who wait here."""
        self._kill(finding)
        while (domain := self.next()) is not None:
            await self._ledger.finish(domain, replace(finding, host=domain.host))

    def _bury(self, finding: Finding) -> None:
        """It can't be asked: all who wait here go to their next host."""
        self._kill(finding)
        while (domain := self.next()) is not None:
            self.queue.popleft()
            domain.findings.append(replace(finding, host=domain.host))
            self._leave(domain)

    def _kill(self, finding: Finding) -> None:
        if self.dead is None:
            self._dead, self._dead_until = finding, self._clock.monotonic() + DEAD


class _UnreachableError(Exception):
    """There is no session with this address."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(finding.text)
        self.finding = finding


def _is_silence(result: RecipientResult) -> bool:
    """Whether the host did not come to speak of this recipient: nothing, or 421, or its last word about all."""
    return result.outcome is not Outcome.SUCCESS and result.scope in (Scope.HOST, Scope.DOMAIN)

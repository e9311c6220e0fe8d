"""The second stage: claim -> gate -> route -> agent -> compose -> one commit.

One run per (mail, recipient) comes to an end exactly once: the answer and its outbound rows are stored in the transaction that
ends the run, so whatever dies before it leaves nothing, and what dies behind it finds the answer stored.
"""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import replace

from responder.agents.answers import Distribute, TryLater
from responder.agents.base import Mail
from responder.agents.host import AgentError, Host
from responder.answering.memory import Turn
from responder.answering.outgoing import Outgoing, answer_to, silence
from responder.answering.receipt import with_receipt
from responder.answering.returns import Returns
from responder.answering.setup import Setup
from responder.answering.windows import FullWindows, windows_of
from responder.aside import aside
from responder.clock import Clock
from responder.mail import address as addresses
from responder.mail.address import Address, AddressError
from responder.mail.automatic import Stops, Verdicts, judge
from responder.mail.backoff import next_attempt
from responder.mail.headers import Headers
from responder.mail.lifecycle import Event, State
from responder.observe import event
from responder.sealing import Sealer, SealingError
from responder.store.base import Store
from responder.store.records import InboundItem, Settlement

LARGE = 500  # members of a list: from there on their copies are made in a thread (10,000 take 0.4 s)
SUSPICIOUS = 2  # workers that died with a mail: from then on its agent is run in a process of its own


class Answering:
    """The stage. `setup` and `sealer` follow a reload; without a sealer nothing is signed."""

    name = "answering"

    def __init__(self, setup: Setup, store: Store, host: Host, clock: Clock) -> None:
        self.setup = setup
        self.sealer: Sealer | None = None
        self._store = store
        self._host = host
        self._clock = clock
        self._full = FullWindows(store, clock)
        self._returns = Returns(store, host, clock)
        self._running: Counter[str] = Counter()  # claimed, by inbox

    async def claim(self, token: str, limit: int) -> tuple[list[InboundItem], float | None]:
        setup = self.setup
        usual = setup.config.answering.per_inbox
        items, due = await self._store.claim_inbound(token, limit, self._running, setup.rooms, usual)
        self._running.update([item.inbox for item in items])
        return items, due

    async def handle(self, item: InboundItem) -> Settlement:
        """What one inbound item comes to. Contains whatever the agent does."""
        setup = self.setup
        settlement = await self._judge(setup, item)
        if item.wish.success:
            content = await self._store.content(item.mail_id) if item.content is None else item.content
            settlement = with_receipt(settlement, setup, item, content, self._clock)
        if self.sealer is None or not (settlement.outbound or settlement.receipt):
            return settlement
        try:
            return await self.sealer.seal(settlement)
        except SealingError as error:  # the operator's to mend, not the agent's: the mail waits, it does not fail
            pause = next_attempt(item.claim.attempts, setup.config.answering.retry, self._clock.jitter(0.0, 1.0))
            return Settlement(Event.DEFER, f"not signed yet: {error}", due_at=self._clock.now() + pause)

    async def _judge(self, setup: Setup, item: InboundItem) -> Settlement:
        recipient = parse_recipient(item.recipient)
        served = not recipient.domain or setup.router.serves(
            recipient.domain
        )  # a reload may have taken its domain away
        route = setup.router.find(recipient) if served else None
        inbox = setup.inboxes.get(route.inbox) if route else None
        content = await self._store.content(item.mail_id) if item.content is None else item.content
        headers = Headers.parse(content)
        verdicts = Verdicts.from_json(item.authentication)
        suppressed = judge(
            reverse_path=item.reverse_path,
            recipient=recipient,
            headers=headers,
            personal=inbox is not None and inbox.kind != "service",
            policy=setup.policy if inbox is None else setup.policies.get(inbox.name, setup.policy),
            verdicts=verdicts,
        )
        if inbox is None:
            if route is not None and setup.policy.is_bounce(recipient):
                counted = await self._returns.judge(setup, item, recipient, content)
                if counted is not None:
                    return counted
            if suppressed is not None:
                return silence(suppressed)
            if route is None:
                return Settlement(Event.FAIL, "no-inbox: the configuration no longer has it")
            return Settlement(Event.SILENCE, f"{route.inbox}-kept: there is no inbox of that name, the mail is kept")
        if suppressed is not None and (suppressed.stops is Stops.ALL or not inbox.type.reads_automatic_mail):
            return silence(suppressed)
        if item.suppressed and not inbox.type.reads_automatic_mail and "targets" not in inbox.type.needs:
            return Settlement(Event.SILENCE, f"suppressed: its sender is not written to: {item.suppressed}")
        # What passes mail on has windows of its own: only its agent's answer tells which ones are meant.
        if not inbox.type.reads_automatic_mail and "targets" not in inbox.type.needs:
            to = answer_to(setup.config.inboxes[inbox.name], inbox.kind, item.reverse_path, headers, verdicts)
            windows = windows_of(setup.config.reply, inbox, item, recipient, headers, to)
            full = await self._full.look(inbox, windows)
            if full is not None:
                return Settlement(Event.SILENCE, full.reason)
        mail = Mail(
            content,
            id=item.id,
            inbox=inbox.name,
            recipient=recipient,
            sender=item.reverse_path,
            peer=item.peer,
            authentication=verdicts,
        )
        outgoing = Outgoing(setup, inbox, item, recipient, headers, self._clock)
        turn = Turn(inbox.name)
        try:
            with turn:
                # The second time that a worker dies with it, it may be its agent that kills them.
                answer = await self._host.run(inbox, mail, isolated=item.deaths >= SUSPICIOUS)
            if isinstance(answer, Distribute) and len(answer.to) > LARGE:
                settlement = await aside(outgoing.settle, answer, content, suppressed)
            else:
                settlement = outgoing.settle(answer, content, suppressed)
            return replace(settlement, memory=turn.memory)
        except TryLater as wish:
            return replace(self._again(item, str(wish), pause=wish.seconds), memory=turn.memory)
        except AgentError as error:
            if error.final:
                return Settlement(Event.FAIL, f"{error.reason}\n{error.detail}".strip())
            return self._again(item, error.reason, error.detail)

    def broken(self, item: InboundItem, error: Exception) -> Settlement:
        """Our own mistake: tried again like an agent's."""
        return self._again(item, f"internal error: {type(error).__name__}")

    async def settle(self, item: InboundItem, settlement: Settlement) -> None:
        ended = await self._store.settle_inbound(item, settlement)
        self._running[item.inbox] -= 1
        if not self._running[item.inbox]:
            del self._running[item.inbox]
        if ended is None:
            event("stale", level=logging.WARNING, id=item.id, inbox=item.inbox, reason="the lease had run out")
            return
        state, reason = ended
        if state is State.SILENT and settlement.event is Event.ANSWER:
            self._full.note(settlement.windows, reason, item)
        event(
            "postponed" if state is State.RECEIVED else state.lower(),
            level=logging.WARNING if state is State.FAILED else logging.INFO,
            id=item.id,
            inbox=item.inbox,
            attempt=item.claim.attempts,
            reason=reason.partition("\n")[0],
        )

    def _again(self, item: InboundItem, reason: str, detail: str = "", pause: float | None = None) -> Settlement:
        """Run it again later, unless it has had all its attempts."""
        limits = self.setup.config.answering
        tried = f"{reason}, attempt {item.claim.attempts} of {limits.attempts}"
        if item.claim.attempts >= limits.attempts:
            return Settlement(Event.FAIL, f"{tried}\n{detail}".strip())
        if pause is None:
            pause = next_attempt(item.claim.attempts, limits.retry, self._clock.jitter(0.0, 1.0))
        return Settlement(Event.DEFER, tried, due_at=self._clock.now() + pause)


def parse_recipient(text: str) -> Address:
    """A recipient as intake stored it."""
    try:
        return addresses.parse(text)
    except AddressError:  # `Postmaster`, where it came without a domain
        return Address(text, "")

"""The third stage: claim -> hosts -> session -> outcome -> delivered, later, or given up with a DSN.

The attempt is charged when the item is claimed, before anything is connected. A final failure and the DSN that tells of it are
stored in one transaction; who has no return address (`<>`, and every answer of ours) is told nothing (RFC 5321 6.1). The DSN
for one copy of a list's mail comes to ourselves: it is stored as a mail that has arrived at the copy's bounce address.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from responder.clock import Clock
from responder.config import Config
from responder.delivery.pace import Pace
from responder.delivery.reputation import Reputation
from responder.delivery.telling import Telling, describe
from responder.mail.address import AddressError, from_header, parse
from responder.mail.backoff import next_attempt
from responder.mail.envelope import Wish
from responder.mail.headers import Headers, split_section
from responder.mail.lifecycle import Event, State
from responder.mail.pacing import Sign
from responder.mail.status import Failure, Outcome, Scope, Trouble
from responder.mail.write import needs_smtputf8
from responder.observe import event
from responder.outbound.base import Envelope, RecipientResult, Transport
from responder.sealing import Sealer
from responder.store.base import Store
from responder.store.records import Note, OutboundItem, Parcel, Settlement
from responder.worker import Lease

MOVED = Trouble.MOVED.failure().enhanced

_TLS_OPTIONAL = re.compile(rb"^TLS-Required:[ \t]*No[ \t]*\r?$", re.IGNORECASE | re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Ended:
    """How a turn on a parcel ended: a settlement for each of its items, and what is learned of its place."""

    settlements: Sequence[Settlement]
    note: Note | None = None


class Delivery:
    """The stage. `config` and `transport` follow a reload."""

    name = "delivery"

    def __init__(self, config: Config, transport: Transport, store: Store, lease: Lease, clock: Clock) -> None:
        self._config = config
        self.sealer: Sealer | None = None  # without one notifications are not signed
        self.transport = transport
        self._store = store
        self._lease = lease
        self._clock = clock
        self._pace = Pace(config)
        self._telling = Telling(config, clock)
        self._reputation = Reputation(clock)

    @property
    def config(self) -> Config:
        """The configuration in use."""
        return self._config

    @config.setter
    def config(self, config: Config) -> None:
        self._config = config
        self._telling.follow(config)
        self._pace.follow(config)

    async def claim(self, token: str, limit: int) -> tuple[list[Parcel], float | None]:
        parcels, due = await self._store.claim_outbound(token, limit, self._pace.pacing)
        self._pace.claimed(parcels)
        return parcels, due

    async def handle(self, parcel: Parcel) -> Ended:
        """One attempt: each item's end, and what it tells of the place."""
        first = parcel.items[0]
        if parcel.late:
            async with self._pace.octets.held(parcel.octets):
                kept = await self._content(first) or b""
                return Ended([self._late(item, parcel.late, kept) for item in parcel.items])
        tried = [item for item in parcel.items if not item.suppressed]
        if not tried:
            async with self._pace.octets.held(parcel.octets):
                kept = await self._content(first) or b""
                return Ended([self._telling.suppressed(item, kept) for item in parcel.items])
        async with (room := self._pace.room(parcel)), self._pace.octets.held(parcel.octets):
            if not self._lease.valid:  # we were stopped for so long that another one may have it by now
                return Ended([Settlement(Event.YIELD, "the lease had run out")] * len(parcel.items))
            if parcel.place in room.down:
                due = self._clock.now()  # the store knows when the place is tried again
                return Ended([Settlement(Event.YIELD, "its place rests", due_at=due)] * len(parcel.items))
            if not parcel.known:
                provider = self._pace.provider(await self.transport.provider(first.domain))
                if (note := self._pace.elsewhere(parcel, provider)) is not None:
                    waits = Settlement(Event.YIELD, f"it waits for room at {provider}", due_at=self._clock.now())
                    return Ended([waits] * len(parcel.items), note)
            content = await self._content(first)  # no sooner: many may wait for long
            if content is None:
                return Ended([Settlement(Event.FAIL, "the message is gone: retention removed it")] * len(parcel.items))
            results = await self.transport.send(self._envelope(tried, content, parcel))
            note = self._pace.note(parcel, results, self._clock)
        moved = results[0].enhanced == MOVED
        # Where nobody spoke, DNS may not have either.
        if note is not None and (moved or (not parcel.known and note.sign is not Sign.DOWN)):
            provider = self._pace.provider(await self.transport.provider(first.domain))
            note = replace(note, provider=provider, known=True, limit=self._pace.pacing.of(provider).connections)
            if moved or not self._pace.speaks_for(provider, results):
                note = replace(note, sign=Sign.NONE)
        self._reputation.heard(results)
        ends = {item.id: self._end(item, result, content) for item, result in zip(tried, results, strict=True)}
        return Ended([ends.get(item.id) or self._telling.suppressed(item, content) for item in parcel.items], note)

    async def _content(self, item: OutboundItem) -> bytes | None:
        """The message as this recipient gets it; None where it is gone."""
        try:
            content = await self._store.content(item.content_id) if item.content is None else item.content
        except KeyError:
            return None
        return item.head.encode() + content if item.head else content

    def _envelope(self, items: Sequence[OutboundItem], content: bytes, parcel: Parcel) -> Envelope:
        first = items[0]
        return Envelope(
            reverse_path=first.reverse_path,
            recipients=tuple([item.recipient for item in items]),
            content=content,
            smtputf8=any(needs_utf8(item, content) for item in items),
            body8bit=not content.isascii(),
            id=first.id,
            route=first.route,
            wish=passed_on(first),
            ret=first.ret,
            envid=first.envid,
            requiretls=first.requiretls,
            domain="" if first.reverse_path or not self.config.sources else self._author(content),
            tls_optional=tls_optional(first, content),
            berth=self._pace.berth(parcel),
            provider=self._pace.bound(parcel),
        )

    def _author(self, content: bytes) -> str:
        """Whose mail it is where the null reverse-path does not tell: From's domain, where that has a place of its own."""
        found = {address.domain for _, address in from_header(Headers.parse(split_section(content)).get("From"))}
        return next((domain for domain in found if domain in self.config.sources), self.config.domains[0])

    def _end(self, item: OutboundItem, result: RecipientResult, content: bytes) -> Settlement:
        """What an attempt means for one recipient."""
        if result.outcome is Outcome.SUCCESS:
            # RFC 3461 5.2.1, 5.2.2: a host that tells of it tells the reverse-path, which is the sender only of what was handed
            # over; of a forward's success nobody else would.
            if item.wish.success and not (result.tells and item.kind in ("proxy", "relay")):
                return self._telling.relayed(item, result, content)
            return Settlement(Event.DELIVER, describe(result))
        if result.outcome is Outcome.TRANSIENT and self._clock.now() < item.expires_at:
            return self._warning(item, result, content, self._later(item, describe(result)))
        return self._telling.give_up(item, result, content)

    def _late(self, item: OutboundItem, reason: str, content: bytes) -> Settlement:
        """Its place has not come back, and it is not its turn to find out: its sender is told, or it is given up."""
        failure = Failure(Scope.HOST, Outcome.TRANSIENT, "4.4.1", 0, reason)
        result = RecipientResult.failed(item.recipient, failure)
        if self._clock.now() < item.expires_at:
            waits = Settlement(Event.YIELD, "its place rests", due_at=self._clock.now())
            return replace(self._warning(item, result, content, waits), warned=True)
        untried = replace(item, claim=replace(item.claim, attempts=item.claim.attempts - 1))
        return self._telling.give_up(untried, result, content)

    def _warning(self, item: OutboundItem, result: RecipientResult, content: bytes, waits: Settlement) -> Settlement:
        """It waits on; its sender is told so, once, where it has waited for long."""
        after = self.config.delivery.delay_warning
        if after is None or item.warned or self._clock.now() - item.created_at < after:
            return waits
        told = self._telling.delayed(item, result, content)
        return replace(waits, outbound=told.outbound, contents=told.contents, warned=True)

    def broken(self, parcel: Parcel, error: Exception) -> Ended:
        """Our own mistake: tried again by schedule, until the message expires."""
        reason = f"internal error: {type(error).__name__}"
        now = self._clock.now()
        return Ended(
            [
                self._later(item, reason)
                if now < item.expires_at
                else Settlement(Event.FAIL, f"{reason}, and its time is over")
                for item in parcel.items
            ]
        )

    async def settle(self, parcel: Parcel, ended: Ended) -> None:
        settlements = ended.settlements
        if self.sealer is not None and any(settlement.outbound for settlement in settlements):
            settlements = [await self.sealer.seal_or_tell(settlement) for settlement in settlements]
        ends = list(zip(parcel.items, settlements, strict=True))
        came_to, rests = await self._store.settle_parcel(ends, ended.note)
        self._pace.settled(parcel)
        for item, end in zip(parcel.items, came_to, strict=True):
            self._tell(item, end)
        if rests and ended.note is not None:
            event(
                "destination rests",
                level=logging.WARNING,
                domain=parcel.place or None,
                provider=ended.note.provider,
                seconds=round(rests - self._clock.now()),
                reason=ended.note.reason,
            )

    def _tell(self, item: OutboundItem, end: tuple[State, str] | None) -> None:
        if end is None:
            event("stale", level=logging.WARNING, id=item.id, inbox=item.inbox, reason="the lease had run out")
            return
        state, reason = end
        event(
            state.lower(),
            level=logging.WARNING if state in (State.BOUNCED, State.FAILED) else logging.INFO,
            id=item.id,
            inbox=item.inbox or None,
            kind=item.kind,
            cause=item.cause,
            to=item.recipient,
            attempt=item.claim.attempts,
            reason=reason,
        )

    def _later(self, item: OutboundItem, reason: str) -> Settlement:
        pause = next_attempt(item.claim.attempts, self.config.delivery.retry, self._clock.jitter(0.0, 1.0))
        # The last attempt is made when the time is over, not a whole pause later.
        due = min(self._clock.now() + pause, max(item.expires_at, self._clock.now() + 1))
        return Settlement(Event.DEFER, reason, due_at=due)


def passed_on(item: OutboundItem) -> Wish:
    """What the next host is asked to tell. Where the reverse-path is ours, a success would be told to nobody: we tell it."""
    wish = item.wish
    if item.kind != "forward" or not wish.success:
        return wish
    rest = [event for event in wish.notify.split(",") if event != "SUCCESS"]
    return Wish(",".join(rest) or "NEVER", wish.orcpt)


def tls_optional(item: OutboundItem, content: bytes) -> bool:
    """Whether it goes on in plain text rather than not at all: a report, which TLS that fails must not keep back (RFC 8460 3),
    and what we pass on for a sender who says so, unless he asked for the contrary as well (RFC 8689 3, 4.2)."""
    if item.kind == "report":
        return True
    if item.kind not in ("forward", "list", "proxy", "relay") or item.requiretls:
        return False
    return _TLS_OPTIONAL.search(split_section(content)) is not None


def needs_utf8(item: OutboundItem, content: bytes) -> bool:
    """Whether the message's own headers carry raw UTF-8 (RFC 6531 3.1).

    What we compose does only where an address has to. What we pass on does where its sender said so: it came with SMTPUTF8, as
    our own trace field tells, and its header is not ASCII. Stray octets of a sender who did not say so go on as they came.
    """
    addresses = []
    for text in (item.reverse_path, item.recipient):
        try:
            addresses.append(parse(text))
        except AddressError:
            continue
    if needs_smtputf8(*addresses):
        return True
    if content.isascii() or split_section(content).isascii():
        return False
    return " with UTF8SMTP" in Headers.parse(content).get("Received")

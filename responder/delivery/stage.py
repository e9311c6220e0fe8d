"""The third stage: claim -> hosts -> session -> outcome -> delivered, later, or given up with a DSN.

The attempt is charged when the item is claimed, before anything is connected. A final failure and the DSN that tells of it are
stored in one transaction; who has no return address (`<>`, and every answer of ours) is told nothing (RFC 5321 6.1). The DSN
for one copy of a list's mail comes to ourselves: it is stored as a mail that has arrived at the copy's bounce address.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter

from responder.clock import Clock
from responder.config import Config
from responder.config import Delivery as DeliveryTable
from responder.delivery.telling import Telling, describe
from responder.mail.address import AddressError, parse
from responder.mail.backoff import next_attempt
from responder.mail.envelope import Wish
from responder.mail.headers import Headers, split_section
from responder.mail.lifecycle import Event, State
from responder.mail.status import Outcome
from responder.mail.write import needs_smtputf8
from responder.observe import event
from responder.outbound.base import Envelope, Transport
from responder.store.base import Store
from responder.store.records import OutboundItem, Settlement
from responder.worker import Lease


class Delivery:
    """The stage. `config` and `transport` follow a reload."""

    name = "delivery"

    def __init__(self, config: Config, transport: Transport, store: Store, lease: Lease, clock: Clock) -> None:
        self._config = config
        self.transport = transport
        self._store = store
        self._lease = lease
        self._clock = clock
        self._sending: Counter[str] = Counter()  # claimed, by domain
        self._rooms: dict[str, asyncio.Semaphore] = {}  # connections that are free, by destination
        self._telling = Telling(config, clock)

    @property
    def config(self) -> Config:
        """The configuration in use."""
        return self._config

    @config.setter
    def config(self, config: Config) -> None:
        self._config = self._telling.config = config

    async def claim(self, token: str, limit: int) -> tuple[list[OutboundItem], float | None]:
        items, due = await self._store.claim_outbound(token, limit, self._sending, per_domain(self.config.delivery))
        self._sending.update([item.domain for item in items])
        return items, due

    async def handle(self, item: OutboundItem) -> Settlement:
        """One attempt."""
        try:
            content = await self._store.content(item.content_id) if item.content is None else item.content
        except KeyError:
            return Settlement(Event.FAIL, "the message is gone: retention removed it")
        content = item.head.encode() + content
        envelope = Envelope(
            reverse_path=item.reverse_path,
            recipients=(item.recipient,),
            content=content,
            smtputf8=needs_utf8(item, content),
            body8bit=not content.isascii(),
            id=item.id,
            route=item.route,
            wish=passed_on(item),
            ret=item.ret,
            envid=item.envid,
        )
        async with self._room(item):
            if not self._lease.valid:  # we were stopped for so long that another one may have it by now
                return Settlement(Event.YIELD, "the lease had run out")
            [result] = await self.transport.send(envelope)
        if result.outcome is Outcome.SUCCESS:
            # RFC 3461 5.2.1, 5.2.2: a host that tells of it tells the reverse-path, which is the sender only of what was handed
            # over; of a forward's success nobody else would.
            if item.wish.success and not (result.tells and item.kind == "proxy"):
                return self._telling.relayed(item, result, content)
            return Settlement(Event.DELIVER, describe(result))
        if result.outcome is Outcome.TRANSIENT and self._clock.now() < item.expires_at:
            return self._later(item, describe(result))
        return self._telling.give_up(item, result, content)

    def broken(self, item: OutboundItem, error: Exception) -> Settlement:
        """Our own mistake: tried again by schedule, until the message expires."""
        reason = f"internal error: {type(error).__name__}"
        if self._clock.now() < item.expires_at:
            return self._later(item, reason)
        return Settlement(Event.FAIL, f"{reason}, and its time is over")

    async def settle(self, item: OutboundItem, settlement: Settlement) -> None:
        ended = await self._store.settle_outbound(item, settlement)
        self._sending[item.domain] -= 1
        if not self._sending[item.domain]:
            del self._sending[item.domain]
            self._rooms.pop(item.domain, None)  # the one room of a smarthost stays
        if ended is None:
            event("stale", level=logging.WARNING, id=item.id, inbox=item.inbox, reason="the lease had run out")
            return
        state, reason = ended
        event(
            state.lower(),
            level=logging.WARNING if state in (State.BOUNCED, State.FAILED) else logging.INFO,
            id=item.id,
            inbox=item.inbox,
            kind=item.kind,
            cause=item.cause,
            to=item.recipient,
            attempt=item.claim.attempts,
            reason=reason,
        )

    def _room(self, item: OutboundItem) -> asyncio.Semaphore:
        """One connection's worth of the item's destination. More than that is claimed, so that none stands idle."""
        table = self.config.delivery
        destination = self._destination(item)
        room = self._rooms.get(destination)
        if room is None:
            limit = table.concurrency if table.transport == "print" else table.connections_per_host
            room = self._rooms[destination] = asyncio.Semaphore(limit)
        return room

    def _destination(self, item: OutboundItem) -> str:
        """Whose connections the item takes: its route's, its domain's, or those of the one way out that there is ("")."""
        transport = self.config.delivery.transport
        return "" if transport == "print" else item.route or (item.domain if transport == "mx" else "")

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


def per_domain(table: DeliveryTable) -> int:
    """How many messages to one domain may be claimed: as many as there may be connections, and as many that wait for one."""
    return 2 * table.connections_per_host if table.transport == "mx" else places(table)


def places(table: DeliveryTable) -> int:
    """How many messages may be claimed at a time, those that wait for a connection included."""
    return 2 * (table.connections_per_host if table.transport == "smarthost" else table.concurrency)


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

"""The notification that a mail has arrived, for a sender who asks for one (RFC 3461 5.2.3).

Final delivery is the commit that ends the mail's run: an agent has it, or it is kept unanswered. What was forwarded or handed
over has not arrived yet: `delivery` tells of that. What the agent failed on is not said to have arrived either.

It is asked for by parameter, so neither `Auto-Submitted` nor a list's header forbids it: it leaves with the null reverse-path,
as no automatic mail may be answered to. But senders are forged, so it counts among the answers of `reply.per_sender`, and there
is none for a mail that has been here before, whose sender's own domain disowns it, or that a scanner calls spam.
"""

from __future__ import annotations

from dataclasses import replace

from responder.answering.setup import Setup
from responder.clock import Clock
from responder.mail.address import Address, AddressError, parse
from responder.mail.automatic import Verdicts
from responder.mail.dsn import ReportedRecipient, compose_dsn
from responder.mail.lifecycle import Event
from responder.store.notification import notification
from responder.store.records import InboundItem, Receipt, Settlement, Window

UNTOLD = frozenset(
    {
        "bounce-address",
        "own-message-id",
        "loop-marker",
        "recipient-itself",
        "own-address",
        "null-reverse-path",
        "invalid-reverse-path",
        "dmarc-fail",
        "spam",
        "suppressed",
    }
)
"""Reasons of the gate that forbid even this."""

PASSED_ON = ("forward", "proxy")
ONCE = 30 * 86400.0  # seconds in which an operator's retry of the mail brings no second one


def with_receipt(settlement: Settlement, setup: Setup, item: InboundItem, content: bytes, clock: Clock) -> Settlement:
    """The settlement with the notification that it earns; as it was where it earns none."""
    arrived = settlement.event in (Event.ANSWER, Event.SILENCE)
    if not arrived or any(message.kind in PASSED_ON for message in settlement.outbound):
        return settlement
    if settlement.event is Event.SILENCE and settlement.reason.partition(":")[0] in UNTOLD:
        return settlement
    if Verdicts.from_json(item.authentication).spf == "fail":  # RFC 7208 2.6.4: the reverse-path is somebody else's
        return settlement
    try:
        to, recipient = parse(item.reverse_path), parse(item.recipient)
    except AddressError:  # the null reverse-path never earns one; `Postmaster` alone is no address to report
        return settlement
    now = clock.now()
    identifier = clock.new_id()
    config = setup.config
    message = compose_dsn(
        reporting_mta=config.hostname,
        postmaster=Address("postmaster", config.domains[0]),
        to=to,
        recipients=[ReportedRecipient(recipient, "2.1.5", action="delivered", orcpt=item.wish.orcpt)],
        original=content,
        arrival=item.received_at,
        now=now,
        message_id=f"<auto.{identifier}@{config.hostname}>",
        envid=item.envid,
    )
    outbound = notification(
        id=identifier,
        cause=item.id,
        inbox=item.inbox,
        to=to,
        now=now,
        expires_at=now + config.delivery.expire,
        requiretls=item.requiretls,
    )
    return replace(settlement, receipt=Receipt(outbound, message, _windows(setup, item, to)))


def _windows(setup: Setup, item: InboundItem, to: Address) -> tuple[Window, ...]:
    once = Window(f"receipt {item.id}", 1, ONCE, "told-already: its sender was told before")
    rate = setup.config.reply.per_sender
    if rate is None:
        return (once,)
    return (
        once,
        Window(f"sender {to.person}", rate.count, rate.seconds, f"breaker-per-sender: {rate} answers reached"),
    )

"""What an answer has to fit into: one per mail, the inbox's interval, and the breakers (RFC 3834 2, RFC 5230 4.1).

The store decides in the transaction that stores the answer; here the windows are named, and those that were full a moment ago
remembered, so that an agent need not work for nothing.
"""

from __future__ import annotations

import hashlib
import logging
from collections import OrderedDict
from collections.abc import Sequence

from responder.agents.host import Inbox
from responder.clock import Clock
from responder.config import Rate, Reply
from responder.mail import address as addresses
from responder.mail.address import Address, AddressError, split_tag
from responder.mail.headers import Headers
from responder.mail.thread import conversation_key
from responder.observe import event
from responder.store.base import Store
from responder.store.records import InboundItem, Window

DAY = 86400.0
REMEMBERED = 10_000  # full windows that are known without asking the store


def windows_of(
    reply: Reply,
    inbox: Inbox,
    item: InboundItem,
    recipient: Address,
    headers: Headers,
    to: Address,
    *,
    handle: str = "",
    pause: float | None = None,
) -> tuple[Window, ...]:
    """The windows of one answer. They count for whoever gets it: the reverse-path may name others (`answer_to = "from"`), and
    tags are made up at will. An answer with a `handle` is counted apart from others (RFC 5230 4.2), and `pause` (seconds)
    stands in place of the inbox's interval."""
    sender = to.person
    mailbox = recipient.key
    windows = []
    if item.message_id:
        key = f"message-id {mailbox} {sender_key(item.reverse_path)} {item.message_id}"
        windows.append(Window(key, 1, DAY, "duplicate-message-id: this mail was answered within a day"))
    seconds = inbox.interval if pause is None else pause
    if seconds > 0:
        reason = "interval: this sender was answered within the inbox's interval"
        # A person is one, whatever tag is written behind the name (RFC 5230 4.2).
        whom = mailbox if inbox.kind == "service" else Address(split_tag(recipient.local)[0], recipient.domain).key
        windows.append(Window(f"interval {whom} {sender} {handle}".rstrip(), 1, seconds, reason))
    # Without any id there is no conversation to count, so all such mails of one sender are one.
    conversation = conversation_key(headers) or sender
    rates: Sequence[tuple[str, str, Rate | None]] = (
        ("sender", sender, reply.per_sender),
        ("conversation", f"{mailbox} {conversation}", reply.per_conversation),
        ("inbox", inbox.name, reply.per_inbox),
    )
    for name, key, rate in rates:
        if rate is not None:
            reason = f"breaker-per-{name}: {rate} answers reached"
            windows.append(Window(f"{name} {key}", rate.count, rate.seconds, reason))
    return tuple(windows)


def windows_of_post(reply: Reply, item: InboundItem, recipient: Address) -> tuple[Window, ...]:
    """The windows of a mail that a list sends on: once, and nobody writes to a list as fast as a loop does. No others: a post
    that is not sent is lost to everyone. The breaker is the list's own: who writes elsewhere in a member's name mutes nobody."""
    sender = sender_key(item.reverse_path)
    windows = []
    if item.message_id:
        key = f"message-id {recipient.key} {sender} {item.message_id}"
        windows.append(Window(key, 1, DAY, "duplicate-message-id: this mail was answered within a day"))
    if (rate := reply.per_sender) is not None:
        whom = addresses.parse(item.reverse_path).person
        windows.append(
            Window(
                f"post {recipient.person} {whom}",
                rate.count,
                rate.seconds,
                f"breaker-per-sender: {rate} answers reached",
            )
        )
    return tuple(windows)


def window_of_forward(item: InboundItem, recipient: Address, targets: Sequence[Address], prefix: str | None) -> Window:
    """The window of a mail that is passed on: to the same targets once, however many tags of one inbox the mail is for."""
    same = hashlib.sha256("\0".join([*sorted(to.key for to in targets), repr(prefix)]).encode("utf-8", "replace"))
    key = f"forward {item.mail_id} {recipient.person} {same.hexdigest()[:32]}"
    return Window(key, 1, DAY, "forwarded-already: another tag of the inbox has passed this mail on")


def sender_key(reverse_path: str) -> str:
    """What two spellings of a sender share."""
    try:
        return addresses.parse(reverse_path).key
    except AddressError:
        return reverse_path.casefold()


class FullWindows:
    """The windows that the store found full, until their time is over."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._full: OrderedDict[str, float] = OrderedDict()

    async def look(self, inbox: Inbox, windows: Sequence[Window]) -> Window | None:
        """A window without room. The store is asked only where a no is likely: for inboxes with an interval, and where
        one of the windows was full a moment ago. Raises `StoreError`."""
        now = self._clock.monotonic()
        if inbox.interval > 0 or any(self._full.get(window.key, 0.0) > now for window in windows):
            return await self._store.exceeded(windows)
        return None

    def note(self, windows: Sequence[Window], reason: str, item: InboundItem) -> None:
        """The store found the window of this reason full. A breaker raises one alert per window and time."""
        now = self._clock.monotonic()
        for window in windows:
            if window.reason == reason and self._full.get(window.key, 0.0) <= now:
                self._full[window.key] = now + window.seconds
                self._full.move_to_end(window.key)
                if reason.startswith("breaker-"):
                    event("breaker open", level=logging.WARNING, id=item.id, inbox=item.inbox, reason=reason)
        while len(self._full) > REMEMBERED:
            self._full.popitem(last=False)

"""Who may connect, how often, and when enough is enough. Counters live in memory: they guard a process, not a promise."""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Container
from hashlib import blake2b

from responder.clock import Clock
from responder.config import Limits, Rate
from responder.config.names import Network
from responder.inbound import replies
from responder.inbound.limits.addresses import Networks, client_key, is_in
from responder.inbound.replies import Reply

__all__ = ["Gatekeeper", "Network", "RateCounter", "is_in"]

MAX_CONNECTIONS = 1_000_000  # as the configuration has it
MAX_KEYS = 65536  # keys of one counter: bounds its memory under a flood
SECOND_CHANCES = 8  # keys at their limit that are passed over, each once, when one has to be forgotten

FIRST_DELAY = 0.1  # seconds that an address's first unknown recipient is held back; each further one doubles it
PATIENCE = Rate(16, 120.0)  # what that is counted by where `unknown_recipients` is off


class RateCounter:
    """Events per key in a sliding window. A rate of None counts nothing and allows everything.

    At most `MAX_KEYS` keys are known. Past that the one whose last event is the oldest is forgotten; one that has reached its
    limit is passed over at first, so that a flood of newcomers does not free whom it was meant to hide.
    """

    def __init__(self, rate: Rate | None, clock: Clock) -> None:
        self._rate = rate
        self._clock = clock
        self._events: OrderedDict[str, array[float]] = OrderedDict()  # by the age of their last event

    def follow(self, rate: Rate | None) -> None:
        """Count by another rate from now on; what was counted before still is."""
        self._rate = rate
        if rate is None:
            self._events.clear()

    def full(self, key: str) -> bool:
        """Whether the window of `key` has no room for one more."""
        return self._rate is not None and self.count(key) >= self._rate.count

    def count(self, key: str) -> int:
        """How many events of `key` are in the window, as far as it counts."""
        if self._rate is None:
            return 0
        events = self._events.get(key)
        if events is None:
            return 0
        self._age(events)
        if not events:
            del self._events[key]
        return len(events)

    def add(self, key: str) -> None:
        """Count one event."""
        if self._rate is None:
            return
        events = self._events.get(key)
        if events is None:
            if len(self._events) >= MAX_KEYS:
                self._forget()
            events = self._events[key] = array("d")
        else:
            self._events.move_to_end(key)
        events.append(self._clock.monotonic())
        if len(events) > self._rate.count:
            del events[: len(events) - self._rate.count]

    def _age(self, events: array[float]) -> None:
        assert self._rate is not None
        since = self._clock.monotonic() - self._rate.seconds
        old = 0
        for at in events:
            if at > since:
                break
            old += 1
        if old:
            del events[:old]

    def _forget(self) -> None:
        """Make room for one key."""
        assert self._rate is not None
        since = self._clock.monotonic() - self._rate.seconds
        for _ in range(SECOND_CHANCES):
            key, events = next(iter(self._events.items()))
            if len(events) < self._rate.count or events[-1] <= since:
                break
            self._events.move_to_end(key)
        self._events.popitem(last=False)


class Gatekeeper:
    """The limits of one process over all its listeners. What is counted by address is counted by `client_key`; a client behind
    a Unix socket has no address, so no such limit."""

    def __init__(self, limits: Limits, clock: Clock) -> None:
        self.limits = limits
        self.denied: Container[str] = Networks(limits.deny)
        self.room = MAX_CONNECTIONS  # that the process has descriptors for
        self._open: dict[str, int] = {}
        self._total = 0
        self._connections = RateCounter(limits.connection_rate, clock)
        self._messages = RateCounter(limits.message_rate, clock)
        self._unknown = RateCounter(_patience(limits), clock)
        self._subjects = RateCounter(limits.same_subject, clock)

    def follow(self, limits: Limits, clock: Clock) -> None:
        """Take new limits without forgetting who is connected, nor what was counted."""
        self.limits = limits
        self._connections.follow(limits.connection_rate)
        self._messages.follow(limits.message_rate)
        self._unknown.follow(_patience(limits))
        self._subjects.follow(limits.same_subject)

    def connect(self, peer: str) -> Reply | None:
        """Count a new connection of an address; the reply to send where it is refused. Pair it with `disconnect`.

        A refused one is not counted as a new connection: who keeps trying gets in at the rate that is allowed.
        """
        key = client_key(peer)
        refusal = self._refusal(peer, key)
        self._total += 1
        self._open[key] = self._open.get(key, 0) + 1
        if refusal is None and key:
            self._connections.add(key)
        return refusal

    def _refusal(self, peer: str, key: str) -> Reply | None:
        if peer in self.denied:
            return replies.DENIED
        if self._total >= min(self.limits.connections, self.room):
            return replies.TOO_MANY_CONNECTIONS
        if not key:
            return None
        if self._open.get(key, 0) >= self.limits.connections_per_ip:
            return replies.TOO_MANY_CONNECTIONS
        if self._connections.full(key):
            return replies.TOO_FAST
        return replies.TOO_MANY_UNKNOWN if self._guesses_enough(key) else None

    def disconnect(self, peer: str) -> None:
        """The connection has ended."""
        key = client_key(peer)
        self._total -= 1
        self._open[key] -= 1
        if not self._open[key]:
            del self._open[key]

    @property
    def counts_messages(self) -> bool:
        """Whether there is such a limit."""
        return self.limits.message_rate is not None

    def message(self, peer: str) -> Reply | None:
        """Count a mail that an address begins; the refusal where there were too many."""
        key = client_key(peer)
        if self._messages.full(key):
            return replies.TOO_MANY_MESSAGES
        if key:
            self._messages.add(key)
        return None

    def unknown_recipient(self, peer: str) -> tuple[float, Reply | None]:
        """Count a recipient that does not exist, at once, however long its reply is held back: for how many seconds that is, and
        the reply that ends the session where there were too many."""
        key = client_key(peer)
        if not key:
            return 0.0, None
        self._unknown.add(key)
        delay = 0.0
        if self.limits.tarpit:
            delay = min(self.limits.tarpit, FIRST_DELAY * 2.0 ** min(self._unknown.count(key) - 1, 64))
        return delay, replies.TOO_MANY_UNKNOWN if self._guesses_enough(key) else None

    def _guesses_enough(self, key: str) -> bool:
        return self.limits.unknown_recipients is not None and self._unknown.full(key)

    @property
    def counts_subjects(self) -> bool:
        """Whether there is such a limit: a base subject costs something to find."""
        return self.limits.same_subject is not None

    def subject(self, base_subject: str) -> Reply | None:
        """Count a mail with this base subject, whoever sent it; the refusal where there were too many."""
        # A subject may be as long as a mail; its key is not.
        key = blake2b(base_subject.casefold().encode("utf-8", "replace"), digest_size=16).hexdigest()
        if self._subjects.full(key):
            return replies.SAME_SUBJECT
        self._subjects.add(key)
        return None


def _patience(limits: Limits) -> Rate | None:
    """What unknown recipients are counted by: the tarpit wants to know of them where they are not limited, too."""
    return limits.unknown_recipients or (PATIENCE if limits.tarpit else None)

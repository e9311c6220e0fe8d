"""Who may connect, how often, and when enough is enough. Counters live in memory: they guard a process, not a promise."""

from __future__ import annotations

import ipaddress
from collections import deque
from collections.abc import Sequence

from responder.clock import Clock
from responder.config import Limits, Rate
from responder.inbound import replies
from responder.inbound.replies import Reply

MAX_KEYS = 65536  # keys of one counter before it forgets the ones that have aged out: bounds its memory under a flood

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class RateCounter:
    """Events per key in a sliding window. A rate of None counts nothing and allows everything."""

    def __init__(self, rate: Rate | None, clock: Clock) -> None:
        self._rate = rate
        self._clock = clock
        self._events: dict[str, deque[float]] = {}

    def full(self, key: str) -> bool:
        """Whether the window of `key` has no room for one more."""
        if self._rate is None:
            return False
        events = self._events.get(key)
        if events is None:
            return False
        self._age(events)
        return len(events) >= self._rate.count

    def add(self, key: str) -> None:
        """Count one event."""
        if self._rate is None:
            return
        events = self._events.get(key)
        if events is None:
            if len(self._events) >= MAX_KEYS:
                self._forget()
            events = self._events[key] = deque(maxlen=self._rate.count)
        events.append(self._clock.monotonic())

    def _age(self, events: deque[float]) -> None:
        assert self._rate is not None
        since = self._clock.monotonic() - self._rate.seconds
        while events and events[0] <= since:
            events.popleft()

    def _forget(self) -> None:
        for key, events in list(self._events.items()):
            self._age(events)
            if not events:
                del self._events[key]
        while (
            len(self._events) > MAX_KEYS * 7 // 8
        ):  # all of them fresh: the oldest go, some at a time, as a look costs
            del self._events[next(iter(self._events))]


class Gatekeeper:
    """The limits of one process over all its listeners."""

    def __init__(self, limits: Limits, clock: Clock) -> None:
        self.limits = limits
        self._open: dict[str, int] = {}
        self._total = 0
        self._connections = RateCounter(limits.connection_rate, clock)
        self._unknown = RateCounter(limits.unknown_recipients, clock)
        self._subjects = RateCounter(limits.same_subject, clock)

    def follow(self, limits: Limits, clock: Clock) -> None:
        """Take new limits without forgetting who is connected."""
        self.limits = limits
        self._connections = RateCounter(limits.connection_rate, clock)
        self._unknown = RateCounter(limits.unknown_recipients, clock)
        self._subjects = RateCounter(limits.same_subject, clock)

    def connect(self, peer: str) -> Reply | None:
        """Count a new connection of an address; the reply to send where it is refused. Pair it with `disconnect`.

        A refused one is not counted as a new connection: who keeps trying gets in at the rate that is allowed.
        """
        refusal = self._refusal(peer)
        self._total += 1
        self._open[peer] = self._open.get(peer, 0) + 1
        if refusal is None:
            self._connections.add(peer)
        return refusal

    def _refusal(self, peer: str) -> Reply | None:
        if self.limits.deny and is_in(peer, self.limits.deny):
            return replies.DENIED
        if self._total >= self.limits.connections or self._open.get(peer, 0) >= self.limits.connections_per_ip:
            return replies.TOO_MANY_CONNECTIONS
        if self._connections.full(peer):
            return replies.TOO_FAST
        return replies.TOO_MANY_UNKNOWN if self._unknown.full(peer) else None

    def disconnect(self, peer: str) -> None:
        """The connection has ended."""
        self._total -= 1
        self._open[peer] -= 1
        if not self._open[peer]:
            del self._open[peer]

    def unknown_recipient(self, peer: str) -> Reply | None:
        """Count a refused recipient; the reply that ends the session where there were too many."""
        self._unknown.add(peer)
        return replies.TOO_MANY_UNKNOWN if self._unknown.full(peer) else None

    @property
    def counts_subjects(self) -> bool:
        """Whether there is such a limit: a base subject costs something to find."""
        return self.limits.same_subject is not None

    def subject(self, base_subject: str) -> Reply | None:
        """Count a mail with this base subject, whoever sent it; the refusal where there were too many."""
        if self._subjects.full(base_subject):
            return replies.SAME_SUBJECT
        self._subjects.add(base_subject)
        return None


def is_in(peer: str, networks: Sequence[Network]) -> bool:
    """Whether an address (text; IPv4-mapped IPv6 counts as IPv4) lies in one of the networks. Not an address: no."""
    try:
        address = ipaddress.ip_address(peer.partition("%")[0])
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return any(address in network for network in networks if network.version == address.version)

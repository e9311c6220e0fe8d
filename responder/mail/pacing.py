"""How many connections a provider gets, and how long who fails or refuses is left in peace. Pure arithmetic.

The room of a provider that nobody has spoken to is `START` connections. Each success widens it by one, up to the threshold; past
it, a whole round of successes does. A provider that throttles (421, "too many connections", "rate limited") has its room halved,
and the threshold with it: past that it goes on more slowly. Where no room is left to halve, the provider is given a pause.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from responder.mail.status import Failure, Outcome, Scope

START = 2.0  # connections to one that was never spoken to
PAUSE = 60.0  # seconds of the first pause; each further one is twice as long
LONGEST = 900.0  # seconds of a pause
SPREAD = 0.2  # part of a pause that chance takes or adds
WIDE = 1_000_000.0
FURTHEST = LONGEST * (1 + SPREAD)  # seconds that a pause may last


class Sign(StrEnum):
    """What one transaction says of the place it was held with."""

    GOOD = "good"  # somebody there answers and takes mail, or refuses this one
    THROTTLED = "throttled"  # too much, says the provider
    DOWN = "down"  # nobody there can be spoken to
    NONE = "none"  # it says nothing


@dataclass(frozen=True, slots=True)
class Room:
    """The connections that a provider gets. `limit` is not of it: that is the operator's, and may change."""

    size: float = START
    threshold: float = WIDE
    proven: bool = False
    failures: int = 0

    def places(self, limit: int) -> int:
        """Whole connections, one at the least."""
        return max(1, min(int(self.size), limit))

    def after(self, sign: Sign, limit: int) -> tuple[Room, bool]:
        """The room behind a transaction, and whether the provider needs a pause."""
        if sign is Sign.GOOD:
            size = min(self.size + (1.0 if self.size < self.threshold else 1.0 / self.size), float(limit))
            return Room(max(size, 1.0), self.threshold, True, 0), False
        if sign is not Sign.THROTTLED:
            return self, False
        size = min(self.size, float(limit))
        if size < 2:
            return replace(self, size=1.0, threshold=1.0, failures=self.failures + 1), True
        return replace(self, size=max(1.0, size / 2), threshold=max(1.0, size / 2)), False

    def settled(self, limit: int) -> bool:
        """Whether a further success would change nothing."""
        return self.proven and not self.failures and self.size >= limit


def pause(failures: int, chance: float, first: float = PAUSE, longest: float = LONGEST) -> float:
    """Seconds of the pause behind so many failures in a row (1 is the first). `chance` from 0 up to 1."""
    seconds = min(first * 2.0 ** min(max(failures, 1) - 1, 16), longest)
    return seconds * (1 - SPREAD + 2 * SPREAD * chance)


def believed(until: float, now: float, longest: float = FURTHEST) -> float:
    """A time before which nothing is done; 0.0 where it lies too far ahead to be meant: by a wrong clock, or a rate of old."""
    return until if until <= now + max(longest, FURTHEST) else 0.0


def read(outcomes: Sequence[Failure | None]) -> Sign:
    """What the outcomes of one transaction's recipients (None: taken) say of the place."""
    failures = [failure for failure in outcomes if failure is not None]
    if len(failures) < len(outcomes):
        # One of many may be refused for a limit of its own: what was taken counts.
        return Sign.GOOD
    if any(failure.throttles for failure in failures if failure.outcome is Outcome.TRANSIENT):
        return Sign.THROTTLED
    if any(failure.code for failure in failures):
        # Somebody is there. A 4xx to the greeting or to EHLO concerns all mail alike.
        whole = all(f.scope is Scope.HOST and f.outcome is Outcome.TRANSIENT for f in failures)
        return Sign.DOWN if whole else Sign.GOOD
    whole = all(f.scope in (Scope.HOST, Scope.DOMAIN) and f.outcome is Outcome.TRANSIENT for f in failures)
    # What broke behind the final dot, or by a mistake of ours, may be the mail's fault.
    blameless = any(f.after_dot or f.enhanced == "4.3.0" for f in failures)
    return Sign.DOWN if whole and not blameless else Sign.NONE

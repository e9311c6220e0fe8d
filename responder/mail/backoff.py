"""When a deferred mail is tried again, and when it has waited long enough (RFC 5321 4.5.4.1)."""

from __future__ import annotations

from collections.abc import Sequence

SPREAD = 0.2
"""Part of a pause that chance takes or adds, so that what failed together does not come back together."""


def next_attempt(attempt: int, schedule: Sequence[float], jitter: float) -> float:
    """Seconds to wait after that many failed attempts (1 is the first).

    The schedule's last pause is used again and again. `jitter` from 0 up to 1 moves the pause by `SPREAD` either way.
    Raises `ValueError` where the schedule is empty.
    """
    if not schedule:
        raise ValueError("empty retry schedule")
    pause = schedule[min(max(attempt, 1), len(schedule)) - 1]
    return pause * (1 - SPREAD + 2 * SPREAD * jitter)


def expired(created: float, now: float, expire: float) -> bool:
    """Whether a mail that was queued at `created` has been tried for `expire` seconds."""
    return now - created >= expire

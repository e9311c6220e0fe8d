"""Pauses between attempts."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from responder.mail.backoff import SPREAD, expired, next_attempt

SCHEDULE = [60.0, 300.0, 900.0]


@pytest.mark.parametrize(("attempt", "pause"), [(1, 60), (2, 300), (3, 900), (4, 900), (1000, 900), (0, 60)])
def test_pause_follows_the_schedule_and_stays_at_its_end(attempt: int, pause: float) -> None:
    assert next_attempt(attempt, SCHEDULE, 0.5) == pytest.approx(pause)


def test_jitter_moves_the_pause_both_ways() -> None:
    assert next_attempt(1, [100], 0.0) == pytest.approx(80)
    assert next_attempt(1, [100], 0.999) == pytest.approx(120, rel=0.01)


@given(
    st.integers(1, 10_000),
    st.lists(st.floats(0.1, 1e6), min_size=1, max_size=9),
    st.floats(0, 1, exclude_max=True),
)
@settings(max_examples=100)
def test_pause_is_near_its_entry(attempt: int, schedule: list[float], jitter: float) -> None:
    entry = schedule[min(attempt, len(schedule)) - 1]
    assert entry * (1 - SPREAD) * 0.999 <= next_attempt(attempt, schedule, jitter) <= entry * (1 + SPREAD) * 1.001


def test_empty_schedule_is_an_error() -> None:
    with pytest.raises(ValueError, match="empty"):
        next_attempt(1, [], 0.5)


def test_mail_expires_at_the_end_of_its_time() -> None:
    assert not expired(100, 199.9, 100)
    assert expired(100, 200, 100)

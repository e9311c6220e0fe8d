"""Durations and rates as an operator writes them: `"90s"`, `"4h"`, `"100/1m"`, `"off"`. Pure; seconds throughout."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date, time

MINUTE = 60.0
HOUR = 60 * MINUTE
DAY = 24 * HOUR

MAX_DURATION = 36_525 * DAY
"""A hundred years: past any purpose, and safe to add to any time."""

_UNITS = {"ms": 0.001, "s": 1.0, "m": MINUTE, "h": HOUR, "d": DAY, "w": 7 * DAY}
_DURATION = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,6})?)\s*(ms|s|m|h|d|w)")
_RATE = re.compile(r"([0-9]{1,12})\s*/\s*(\S.*)")
_DURATION_WANTED = 'wants a duration such as "90s", "5m", "4h" or "7d"'
_RATE_WANTED = 'wants a rate such as "100/1m", or "off"'
_SHOWN = 40


@dataclass(frozen=True, slots=True)
class Rate:
    """At most `count` in any `seconds`."""

    count: int
    seconds: float

    def __str__(self) -> str:
        return f"{self.count}/{format_duration(self.seconds)}"


def parse_duration(value: object) -> float:
    """Seconds from `"90s"`, `"1m"`, `"4h"`, `"7d"` (also `ms` and `w`), or from a plain number of seconds.

    Raises `ValueError` where it is no duration, is below zero or above `MAX_DURATION`.
    """
    if isinstance(value, str) and (match := _DURATION.fullmatch(value.strip())):
        seconds = float(match[1]) * _UNITS[match[2]]
    elif isinstance(value, int | float) and not isinstance(value, bool):
        if not 0 <= value <= MAX_DURATION:  # refuses NaN too
            raise ValueError(f"wants 0 to {MAX_DURATION:.0f} seconds, found {show(value)}")
        return float(value)
    else:
        raise ValueError(f"{_DURATION_WANTED}, found {show(value)}")
    if seconds > MAX_DURATION:
        raise ValueError(f"wants at most a hundred years, found {show(value)}")
    return seconds


def parse_span(value: object) -> float:
    """A duration above zero, in seconds. Raises `ValueError`."""
    seconds = parse_duration(value)
    if seconds <= 0:
        raise ValueError(f"wants a duration above zero, found {show(value)}")
    return seconds


def parse_rate(value: object) -> Rate | None:
    """A rate `"COUNT/DURATION"`; `"off"` is None. Raises `ValueError` where it is neither, or where either part is zero."""
    if value is None or isinstance(value, Rate):
        return value
    if not isinstance(value, str):
        raise ValueError(f"{_RATE_WANTED}, found {show(value)}")
    text = value.strip()
    if text == "off":
        return None
    match = _RATE.fullmatch(text)
    if not match:
        raise ValueError(f"{_RATE_WANTED}, found {show(value)}")
    count = int(match[1])
    try:
        seconds = parse_span(match[2])
    except ValueError:
        raise ValueError(f"{_RATE_WANTED}, found {show(value)}") from None
    if count < 1:
        raise ValueError(f'wants a count of 1 or more ("off" switches the limit off), found {show(value)}')
    return Rate(count, seconds)


def format_duration(seconds: float) -> str:
    """The shortest way to write it in one unit: 90.0 -> `90s`, 3600.0 -> `1h`, 0.5 -> `0.5s`; to the microsecond."""
    for unit in ("d", "h", "m", "s"):
        if seconds and seconds % _UNITS[unit] == 0:
            return f"{int(seconds // _UNITS[unit])}{unit}"
    return f"{seconds:.6f}".rstrip("0").rstrip(".") + "s"


def show(value: object) -> str:
    """What an error says it found. A string that is long, or looks like one that carries a password, isn't repeated."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value) if value.bit_length() <= 64 else "a huge number"
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, str):
        harmless = len(value) <= _SHOWN and value.isprintable() and "@" not in value and "://" not in value
        return f'the string "{value}"' if harmless else "a string"
    if isinstance(value, date | time):
        return "a date or time"
    if isinstance(value, dict):
        return "a table"
    return "a list" if isinstance(value, list | tuple) else "nothing" if value is None else "something else"

"""What the verbs print: tables for people, JSON for programs; nothing that a terminal would obey."""

from __future__ import annotations

import json
import os
import sys
import unicodedata
from collections.abc import Sequence
from dataclasses import asdict, is_dataclass
from datetime import UTC, datetime


def print_json(value: object) -> None:
    """One JSON document on standard output; what a terminal would obey is written as `\\uXXXX`."""
    text = json.dumps(_plain(value), ensure_ascii=False, indent=2, default=str)
    sys.stdout.write("\n".join([_escaped(line) for line in text.split("\n")]) + "\n")


def print_table(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Columns, as wide as they need; what a terminal would obey is made harmless."""
    texts = [[harmless(str(cell)) for cell in row] for row in rows]
    widths = [max(width(row[n]) for row in [list(headings), *texts]) for n in range(len(headings))]
    for number, row in enumerate([list(headings), *texts]):
        cells = [cell + " " * (widths[n] - width(cell)) for n, cell in enumerate(row)]
        line = "  ".join(cells).rstrip()
        sys.stdout.write((bold(line) if number == 0 else line) + "\n")


def width(text: str) -> int:
    """How many places of a terminal a text takes."""
    return sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text)


def harmless(text: str) -> str:
    """A text without what a terminal would obey."""
    return text if text.isprintable() else "".join([char if char.isprintable() else " " for char in text])


def bold(text: str) -> str:
    """Emphasis, on a terminal only."""
    return f"\x1b[1m{text}\x1b[0m" if sys.stdout.isatty() and not os.environ.get("NO_COLOR") else text


def when(seconds: float) -> str:
    """A time for people, in UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _escaped(line: str) -> str:
    return line if line.isprintable() else "".join([c if c.isprintable() else json.dumps(c)[1:-1] for c in line])


def _plain(value: object) -> object:
    if is_dataclass(value) and not isinstance(value, type):
        return _plain(asdict(value))
    if isinstance(value, dict):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value

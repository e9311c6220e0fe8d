"""Placeholder until the parser is there."""

from __future__ import annotations


def bounce_of(content: bytes, recipient: str) -> tuple[bool, str, str] | None:
    return None

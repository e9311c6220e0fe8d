"""The domain that somebody registered, by the public suffix list."""

from __future__ import annotations

from functools import cache

from publicsuffixlist import PublicSuffixList


def organisational(domain: str) -> str:
    """One label below a public suffix; a public suffix itself is its own (RFC 7489 3.2). The first call takes 30 ms."""
    return _suffixes().privatesuffix(domain) or domain


@cache
def _suffixes() -> PublicSuffixList:
    """The list that the library brings."""
    return PublicSuffixList()

"""The domain that somebody registered, by the public suffix list."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from publicsuffixlist import PublicSuffixList


def organisational(domain: str) -> str:
    """One label below a public suffix; a public suffix itself is its own (RFC 7489 3.2). The first call takes 30 ms."""
    return _suffixes().privatesuffix(domain) or domain


def provider_of(host: str, names: Mapping[str, str]) -> str:
    """Whose host it is: the name that `names` has for its registered domain or one above that; else that domain."""
    registered = domain = organisational(host)
    while domain:
        if domain in names:
            return names[domain]
        domain = domain.partition(".")[2]
    return registered


@cache
def _suffixes() -> PublicSuffixList:
    """The list that the library brings."""
    return PublicSuffixList()

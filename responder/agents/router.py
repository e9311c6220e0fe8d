"""Which inbox a recipient belongs to: exact name, then without `+tag`, then patterns, then `*` (CONTRACT: inboxes)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import translate

from responder.config import BOUNCES, is_pattern
from responder.mail.address import Address, split_tag, unquote

POSTMASTER = "postmaster"
"""Accepted at every domain of ours, whether or not there is such an inbox (RFC 5321 4.5.1)."""


@dataclass(frozen=True, slots=True)
class Route:
    """What a recipient came to: the name of the inbox, and the mailbox in our spelling (domain filled in)."""

    inbox: str
    mailbox: Address


class Router:
    """Finds inboxes. Names are compared without case; a name with `@domain` goes before one without."""

    def __init__(self, names: Iterable[str], domains: Iterable[str]) -> None:
        self._domains = tuple(domains)
        self._exact: dict[str, str] = {}
        self._patterns: list[tuple[re.Pattern[str], str]] = []
        for name in names:
            if is_pattern(name):
                pattern = name.casefold() if "@" in name else f"{name.casefold()}@*"
                self._patterns.append((re.compile(translate(pattern)), name))
            else:
                self._exact[name.casefold()] = name
        # The longest pattern is the most particular one; `*` alone comes last.
        self._patterns.sort(key=lambda entry: -len(entry[1]))

    def serves(self, domain: str) -> bool:
        """Whether a domain (A-labels, lower case) is ours."""
        return domain in self._domains

    def find(self, address: Address) -> Route | None:
        """The route of a recipient at a domain of ours; None where there is no such inbox."""
        if not address.domain and self._domains:
            address = Address(address.local, self._domains[0])
        local = unquote(address.local).casefold()
        name = split_tag(local)[0]
        for candidate in dict.fromkeys((local, name)):
            for key in (f"{candidate}@{address.domain}", candidate):
                if key in self._exact:
                    return Route(self._exact[key], address)
        if name in (BOUNCES, POSTMASTER):
            return Route(name, address)
        for candidate in dict.fromkeys((local, name)):
            for pattern, inbox in self._patterns:
                if pattern.match(f"{candidate}@{address.domain}"):
                    return Route(inbox, address)
        return None

    def is_ours(self, address: Address) -> bool:
        """Whether mail to an address would come back to one of our inboxes."""
        return self.serves(address.domain) and self.find(address) is not None

    def is_bounce(self, address: Address) -> bool:
        """Whether it is one of our bounce addresses."""
        return self.serves(address.domain) and split_tag(address.local.casefold())[0] == BOUNCES

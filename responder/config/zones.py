"""DNS blocklists as an operator names them: `zen.example.org`, or `zen.example.org=127.0.0.2,127.0.0.10-11`. Pure."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from responder.config.names import parse_domain, text
from responder.config.units import show

MAX_ZONE = 189  # characters: 64 of an IPv6 address stand before it, and a name has 253
_LISTED = ipaddress.IPv4Network("127.0.0.0/8")  # RFC 5782 2.1
_ERRORS = ipaddress.IPv4Network("127.255.255.0/24")  # how the operators of public lists say that they do not answer us


@dataclass(frozen=True, slots=True)
class BlocklistZone:
    """A zone, and the answers that count as a listing: (first, last) pairs of addresses as numbers; none: all that may."""

    name: str
    codes: tuple[tuple[int, int], ...] = ()

    def lists(self, answer: str) -> bool:
        """Whether an A record's address says that what was asked for is listed."""
        number = int(ipaddress.IPv4Address(answer))
        return not odd(answer) and (not self.codes or any(first <= number <= last for first, last in self.codes))

    def __str__(self) -> str:
        codes = [(str(ipaddress.IPv4Address(first)), f"-{last & 255}" * (last != first)) for first, last in self.codes]
        return self.name + ("=" + ",".join(map("".join, codes)) if codes else "")


def odd(answer: str) -> bool:
    """Whether an A record's address is none that a blocklist answers with: a domain that was sold, a resolver that lies, or a
    list that has had enough of us."""
    address = ipaddress.IPv4Address(answer)
    return address not in _LISTED or address in _ERRORS


def parse_zone(value: object) -> BlocklistZone:
    """Raises `ValueError` with one line that says what is wanted."""
    name, equals, codes = text(value).partition("=")
    wanted = f'wants a zone such as "zen.example.org" or "zen.example.org=127.0.0.2,127.0.0.10-11", found {show(value)}'
    try:
        zone = parse_domain(name.strip())
    except ValueError:
        raise ValueError(wanted) from None
    if len(zone) > MAX_ZONE or zone.startswith("["):
        raise ValueError(wanted)
    if not equals:
        return BlocklistZone(zone)
    try:
        return BlocklistZone(zone, tuple([_codes(part.strip()) for part in codes.split(",")]))
    except ValueError:
        raise ValueError(wanted) from None


def _codes(part: str) -> tuple[int, int]:
    """One answer, or several that differ in their last octet."""
    first, dash, last = part.partition("-")
    address = ipaddress.IPv4Address(first)
    if odd(first):
        raise ValueError("no blocklist answers that")
    number = int(address)
    if not dash:
        return number, number
    if not (last.isascii() and last.isdigit() and len(last) <= 3 and number & 255 <= int(last) <= 255):
        raise ValueError("no range of last octets")
    return number, number & ~255 | int(last)

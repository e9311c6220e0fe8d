"""Clients' addresses: which of them count as one, and which lie in a list of networks."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable, Sequence

from responder.config.names import Network

_MAPPED = b"\0" * 10 + b"\xff\xff"  # ::ffff:0:0/96, RFC 4291 2.5.5.2


def client_key(peer: str) -> str:
    """What all counters by address count by: an IPv4 address, or the /64 of an IPv6 one, as that is what one customer has
    (RFC 6177 2), and whoever has it may come from any of its addresses. IPv4 in IPv6 is the IPv4 address. "" (a Unix socket)
    stays ""."""
    if ":" not in peer:
        return peer
    try:
        packed = socket.inet_pton(socket.AF_INET6, peer.partition("%")[0])
    except (OSError, ValueError):
        return peer
    if packed.startswith(_MAPPED):
        return socket.inet_ntop(socket.AF_INET, packed[12:])
    return packed[:8].hex(":", 2) + "::/64"


def is_in(peer: str, networks: Sequence[Network]) -> bool:
    """Whether an address (text; IPv4-mapped IPv6 counts as IPv4) lies in one of the networks. Not an address: no."""
    try:
        address = ipaddress.ip_address(peer.partition("%")[0])
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return any(address in network for network in networks if network.version == address.version)


class Networks:
    """Many networks, asked often: a look-up costs one hash for each prefix length that occurs, however many there are."""

    def __init__(self, networks: Iterable[Network] = ()) -> None:
        self._v4: dict[int, set[int]] = {}  # by how many bits are not the network's, the networks' numbers
        self._v6: dict[int, set[int]] = {}
        for network in networks:
            self.add(network.network_address.packed, network.prefixlen)

    def add(self, packed: bytes, length: int) -> None:
        """One more: the octets of its address (4 or 16), and the length of its prefix in bits."""
        rest = 8 * len(packed) - length
        sets = self._v4 if len(packed) == 4 else self._v6
        sets.setdefault(rest, set()).add(int.from_bytes(packed, "big") >> rest)

    def __contains__(self, peer: object) -> bool:
        """Whether an address (text) lies in one of them; what is no address does not."""
        packed = packed_address(peer) if isinstance(peer, str) else None
        if packed is None:
            return False
        number = int.from_bytes(packed, "big")
        sets = self._v4 if len(packed) == 4 else self._v6
        return any(number >> rest in numbers for rest, numbers in sets.items())

    def __len__(self) -> int:
        return sum([len(numbers) for sets in (self._v4, self._v6) for numbers in sets.values()])


def packed_address(text: str) -> bytes | None:
    """The octets of an address: 4 of them for IPv4, also for IPv4 in IPv6, else 16. None: it is no address."""
    try:
        if ":" not in text:
            return socket.inet_pton(socket.AF_INET, text)
        packed = socket.inet_pton(socket.AF_INET6, text.partition("%")[0])
    except (OSError, ValueError):  # ValueError: a NUL in it
        return None
    return packed[12:] if packed.startswith(_MAPPED) else packed

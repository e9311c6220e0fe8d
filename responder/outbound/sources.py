"""Where mail of ours comes from: the local addresses to connect from, and the name that goes with them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Source:
    """One of this server's faces: a name for EHLO, and an address of each family; "" leaves the choice to the kernel."""

    hostname: str
    ipv4: str = ""
    ipv6: str = ""

    @classmethod
    def of(cls, hostname: str, addresses: Iterable[str]) -> Source:
        """With the last address of each family that is given."""
        texts = [text for text in addresses if text]
        return cls(
            hostname,
            next((text for text in reversed(texts) if ":" not in text), ""),
            next((text for text in reversed(texts) if ":" in text), ""),
        )

    def towards(self, address: str) -> str | None:
        """The local address to reach `address` from; "" is any. None where this source has none of its family, so that mail
        never leaves from an address that nobody named."""
        if not (self.ipv4 or self.ipv6):
            return ""
        return (self.ipv6 if ":" in address else self.ipv4) or None

    def __str__(self) -> str:
        return self.ipv4 or self.ipv6 or self.hostname

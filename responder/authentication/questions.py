"""What one mail may ask of the DNS: so many questions and no more, whatever its records and signatures lead to."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

from responder.dns import Resolver, TemporaryError

MAX_QUESTIONS: Final = 200
"""SPF alone may need 10 mechanisms of 10 hosts each (RFC 7208 4.6.4), an ARC chain 51 keys (RFC 8617 4.2.1)."""


class Questions:
    """A resolver that counts. Belongs to one mail."""

    def __init__(self, resolver: Resolver, limit: int = MAX_QUESTIONS) -> None:
        self.asked = 0
        self._limit = limit
        self._ways: dict[str, Callable[[str], Awaitable[list[Any]]]] = {
            "TXT": resolver.txt,
            "A": resolver.ipv4,
            "AAAA": resolver.ipv6,
            "MX": resolver.mx,
            "PTR": resolver.ptr,
        }

    async def ask(self, kind: str, name: str) -> list[Any]:
        """The records of that type (`TXT`, `A`, `AAAA`, `MX` or `PTR`), as `Resolver` gives them.

        Raises `NotFound`, `NoData` or `TemporaryError`; the last one too where the mail has asked enough.
        """
        self.asked += 1
        if self.asked > self._limit:
            raise TemporaryError(f"more than {self._limit} questions for one mail")
        return await self._ways[kind](name)

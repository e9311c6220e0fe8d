"""What one mail may ask of the DNS: so many questions and no more, whatever its records and signatures lead to."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

from responder.dns import Resolver, TemporaryError

MAX_QUESTIONS: Final = 200
"""Besides one for each signature. SPF alone may ask 128 (RFC 7208 4.6.4), an ARC chain 51 (RFC 8617 4.2.1), DMARC 20: all that a
mail may want fits, so nothing in it can keep another question of its own from being asked."""

AT_ONCE: Final = 3  # questions of one mail that wait for their answer together
MAX_OPEN: Final = 1000  # of all mails: each is a socket
EACH_TURN: Final = 16
"""Questions that are begun in one turn of the event loop: each costs a millisecond, and all that others want waits meanwhile."""


class Turns:
    """When a question may be asked, for all mails of an event loop. The newest comes first: where a flood of mails waits for
    name servers that are silent, the mail behind it should not."""

    def __init__(self, most: int = MAX_OPEN) -> None:
        """`most` may be asked at a time."""
        self._most = most
        self._waiting: list[asyncio.Future[None]] = []
        self._open = 0
        self._planned = False

    async def __aenter__(self) -> None:
        future = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        self._plan()
        try:
            await future
        except asyncio.CancelledError:
            if not future.cancelled():  # it was our turn already
                self._leave()
            raise

    async def __aexit__(self, *_: object) -> None:
        self._leave()

    def _leave(self) -> None:
        self._open -= 1
        self._plan()

    def _plan(self) -> None:
        if self._waiting and not self._planned and self._open < self._most:
            self._planned = True
            asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        self._planned = False
        begun = 0
        while self._waiting and begun < EACH_TURN and self._open < self._most:
            future = self._waiting.pop()
            if not future.done():  # else who waited has given up
                future.set_result(None)
                begun += 1
                self._open += 1
        self._plan()


class Questions:
    """A resolver that counts. Belongs to one mail."""

    def __init__(self, resolver: Resolver, turns: Turns, limit: int = MAX_QUESTIONS) -> None:
        self.asked = 0
        self._turns = turns
        self._own = asyncio.Semaphore(AT_ONCE)
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
        async with self._own, self._turns:
            return await self._ways[kind](name)

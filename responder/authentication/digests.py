"""The body hashes of one mail, each canonicalisation at most once; a big body is hashed in a thread."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Final

from responder.aside import aside
from responder.mail.bodyhash import BodyHash

INLINE: Final = 1 << 17  # octets that are hashed at once: half a millisecond
AT_ONCE: Final = 2  # threads that hash: more would only get in each other's way, and in the loop's


class Hasher:
    """Where bodies are hashed, for all mails of an event loop."""

    def __init__(self) -> None:
        self._free = asyncio.Semaphore(AT_ONCE)
        self._running: set[asyncio.Task[BodyHash]] = set()

    async def run(self, body: BodyHash, content: bytes, start: int) -> BodyHash:
        """The finished hash. Who waits may be cancelled."""
        if len(content) - start <= INLINE:
            return body.run(content, start)
        task = asyncio.create_task(self._aside(body, content, start))
        self._running.add(task)  # a thread that nobody waits for any more still takes its place until it has ended
        task.add_done_callback(self._running.discard)
        return await asyncio.shield(task)

    async def _aside(self, body: BodyHash, content: bytes, start: int) -> BodyHash:
        async with self._free:
            return await aside(body.run, content, start)


class Digests:
    """The body hashes of one mail."""

    def __init__(self, hasher: Hasher, content: bytes, start: int, seconds: float) -> None:
        self._hasher = hasher
        self._content = content
        self._start = start
        self._seconds = seconds
        self._found: dict[bool, BodyHash] = {}
        self._busy = asyncio.Lock()  # DKIM and ARC want the same

    async def want(self, wanted: Iterable[tuple[bool, int | None]]) -> None:
        """Hash for these (relaxed, length) pairs. What is not done in time is not there."""
        lengths: dict[bool, set[int]] = {}
        for relaxed, length in wanted:
            lengths.setdefault(relaxed, set())
            if length is not None:
                lengths[relaxed].add(length)
        try:
            async with asyncio.timeout(self._seconds), self._busy:
                for relaxed, limits in lengths.items():
                    known = self._found.get(relaxed)
                    if known is None or not limits <= known.asked:
                        body = BodyHash(relaxed, limits | (known.asked if known else set()))
                        self._found[relaxed] = await self._hasher.run(body, self._content, self._start)
        except TimeoutError:
            pass

    def found(self, relaxed: bool) -> BodyHash | None:
        """The hash, or None where there was no time for it."""
        return self._found.get(relaxed)

"""DNS blocklists (RFC 5782): whether others know a client's address for what it sends.

The zones are asked when a client connects, all at once and beside the session; what they say is wanted at its first MAIL. What
can't be asked, or does not answer in time, lists nobody: a list that is down must not stop the mail.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from responder.clock import Clock
from responder.config.zones import BlocklistZone, odd, parse_zone
from responder.dns import LookupFailedError, NoData, NotFound, Resolver
from responder.inbound.limits.addresses import packed_address
from responder.observe import event

AT_ONCE = 200  # questions that are asked at a time
WAITING = 2000  # addresses that are being looked up, or wait for it: past that nobody more is
SILENCE = 3600.0  # seconds between two log lines on trouble with one zone


class Blocklists:
    """The lists of one configuration. Belongs to one event loop."""

    def __init__(self, zones: Sequence[str], timeout: float, resolver: Resolver, clock: Clock) -> None:
        """`timeout` (seconds) is for all that is asked about one address."""
        self._zones: tuple[BlocklistZone, ...] = tuple(map(parse_zone, zones))
        self._timeout = timeout
        self._resolver = resolver
        self._clock = clock
        self._places = asyncio.Semaphore(AT_ONCE)
        self._asked: dict[str, asyncio.Task[str]] = {}
        self._told: dict[str, float] = {}

    def ask(self, peer: str) -> asyncio.Task[str] | None:
        """Begin to ask about an address: the name of the first zone, in the order of the configuration, that lists it, "" where
        none does. Never raises. None: nothing can be asked.

        Who waits for it should shield it: clients of one address share it, and it goes on when they leave, so that there are
        never more questions than places.
        """
        name = reversed_name(peer)
        if not name:
            return None
        task = self._asked.get(name)
        if task is None:
            if len(self._asked) >= WAITING:
                self._tell("", "too many addresses to ask about at once")
                return None
            task = self._asked[name] = asyncio.create_task(self._listed(name), name=f"blocklists {peer}")
            task.add_done_callback(lambda _: self._asked.pop(name, None))
        return task

    async def _listed(self, name: str) -> str:
        asking = [asyncio.create_task(self._says(zone, name)) for zone in self._zones]
        try:
            done, late = await asyncio.wait(asking, timeout=self._timeout)
        except asyncio.CancelledError:
            return ""
        finally:
            for task in asking:
                task.cancel()
        for task, zone in zip(asking, self._zones, strict=True):
            if task in late:
                self._tell(zone.name, "no answer in time")
        listing = [zone.name for task, zone in zip(asking, self._zones, strict=True) if task in done and task.result()]
        return listing[0] if listing else ""

    async def _says(self, zone: BlocklistZone, name: str) -> bool:
        """Whether a zone lists a name."""
        try:
            async with self._places:
                answers = await self._resolver.ipv4(f"{name}.{zone.name}")
        except (NotFound, NoData):
            return False
        except LookupFailedError as error:
            self._tell(zone.name, str(error).partition(": ")[2])
            return False
        strange = [answer for answer in answers if odd(answer)]
        if strange:
            self._tell(zone.name, f"answers {strange[0]}, which lists nobody")
        return any(zone.lists(answer) for answer in answers)

    def _tell(self, zone: str, reason: str) -> None:
        """Log trouble with a zone, once in a while."""
        now = self._clock.monotonic()
        if now >= self._told.get(zone, now):
            self._told[zone] = now + SILENCE
            event("blocklist failed", level=logging.WARNING, zone=zone or None, reason=reason)


def reversed_name(peer: str) -> str:
    """What stands before the zone: an IPv4 address's octets from the last to the first (RFC 5782 2.1), an IPv6 one's nibbles
    (2.4). "" where it is no address."""
    packed = packed_address(peer)
    if packed is None:
        return ""
    parts = [str(octet) for octet in packed] if len(packed) == 4 else list(packed.hex())
    return ".".join(reversed(parts))

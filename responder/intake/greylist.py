"""Greylisting (RFC 6647): the first mail of an unknown (network, sender, recipient) is put off, once; who tries again is no bot.

A triple that is new gets 451 4.7.1 at RCPT. It passes when it comes again after `delay` and within `window`, and is known for
`keep` from then on, anew with each mail. A network that has passed `TRUSTED` triples is known to queue: its others pass at
once. The null reverse-path is put off as all others are: a host that bounces queues what it sends, and those who only want to
see whether an address exists say it, too.

It is all kept in the store, so a restart and other processes know it. Its room is bounded: what is remembered has its place by
a keyed hash, and the newcomer takes the place over; at the worst somebody known is put off once more. A network may not bring
more than `NEWCOMERS` in; what comes past that is put off without being noted. Where the store does not work, mail passes: what
the store can't remember would be put off for ever.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from typing import Any

from responder.clock import Clock
from responder.config import Greylist as Settings
from responder.config import Rate
from responder.inbound.limits.addresses import packed_address
from responder.inbound.limits.gatekeeper import RateCounter
from responder.observe import event
from responder.store.base import Store, StoreError
from responder.store.records import Memory, Value

INBOX = ".greylist"  # no inbox has such a name: a local part does not begin with a dot (RFC 5321 4.1.2)
TRUSTED = 5  # triples that a network has passed before it is trusted
NEWCOMERS = Rate(100, 3600.0)  # new triples of one network that are noted
WAITING = 1 << 16  # places for triples that have not come again yet
KNOWN = 1 << 17  # places for those that have
NETWORKS = 1 << 16
DAY = 86_400.0
SILENCE = 60.0  # seconds between two log lines on trouble with the store

_BATV = re.compile(r"prvs=[^=]*=")  # a signature that changes with the days
_SRS = re.compile(r"(srs[01])[=+-][^=]*=[^=]*=")
_NUMBER = re.compile(r"[0-9]+")

Found = dict[str, tuple[str, str, float]]


class Greylist:
    """Who has to come again."""

    def __init__(self, settings: Settings, store: Store, clock: Clock) -> None:
        self._settings = settings
        self._store = store
        self._clock = clock
        self._newcomers = RateCounter(NEWCOMERS, clock)
        self._secret = b""
        self._silent_until = 0.0

    def follow(self, settings: Settings) -> None:
        """Take a new configuration."""
        self._settings = settings

    async def defers(self, peer: str, reverse_path: str, mailbox: str) -> bool:
        """Whether a mail from an address (text) to one of our mailboxes is put off; notes that it came. Never raises."""
        packed = packed_address(peer)
        if packed is None:
            return False
        try:
            return await self._judge(packed[: 3 if len(packed) == 4 else 8], stable(reverse_path), mailbox)
        except StoreError as error:
            now = self._clock.monotonic()
            if now >= self._silent_until:
                self._silent_until = now + SILENCE
                event("greylist failed", level=logging.ERROR, cause=str(error))
            return False

    async def _judge(self, network: bytes, sender: str, mailbox: str) -> bool:
        if not self._secret:
            self._secret = await self._agree()
        triple = self._hash(b"triple", network, sender.encode(), mailbox.encode())
        waiting = _Place("w", WAITING, triple)
        known = _Place("k", KNOWN, triple)
        trusted = _Place("n", NETWORKS, self._hash(b"network", network))
        found = await self._store.values(INBOX, [waiting.key, known.key, trusted.key])
        now = self._clock.now()
        keep = self._settings.keep
        passed = trusted.count(found)
        for place, holds in ((trusted, passed >= TRUSTED), (known, known.count(found) > 0)):
            if holds:
                if now - place.at(found) > min(DAY, keep / 4):  # not a write for each mail
                    await self._write(place.value(now, now + keep, place.count(found)))
                return False
        if not waiting.count(found):
            name = network.hex()
            if not self._newcomers.full(name):
                self._newcomers.add(name)
                await self._write(waiting.value(now, now + self._settings.window))
            return True
        if now - waiting.at(found) < self._settings.delay:
            return True
        await self._write(
            Value(waiting.key, None), known.value(now, now + keep), trusted.value(now, now + keep, passed + 1)
        )
        return False

    async def _write(self, *values: Value) -> None:
        await self._store.remember(Memory(INBOX, {}, values))

    async def _agree(self) -> bytes:
        """The key of the hashes, the same for all processes and after a restart: nobody may choose whose place he takes."""
        while True:
            found = await self._store.values(INBOX, ["secret"])
            if "secret" in found:
                return str(json.loads(found["secret"][0])).encode()
            secret = self._clock.new_id() + self._clock.new_id()
            await self._store.remember(Memory(INBOX, {"secret": ""}, (Value("secret", json.dumps(secret)),)))

    def _hash(self, kind: bytes, *parts: bytes) -> bytes:
        digest = hashlib.blake2b(digest_size=16, key=self._secret, person=kind)
        for part in parts:
            digest.update(len(part).to_bytes(4, "big") + part)
        return digest.digest()


class _Place:
    """Where one thing is remembered, if it is: others may have the place."""

    def __init__(self, kind: str, places: int, name: bytes) -> None:
        self.key = f"{kind}{int.from_bytes(name[:4], 'big') % places}"
        self._name = name[4:].hex()

    def value(self, at: float, expires_at: float, count: int = 1) -> Value:
        """What to store."""
        return Value(self.key, json.dumps([self._name, round(at), count]), expires_at)

    def at(self, found: Found) -> float:
        """When it was noted (Unix seconds); 0.0 where it was not."""
        return float(self._entry(found)[1])

    def count(self, found: Found) -> int:
        """How often; 0 where it was not."""
        return int(self._entry(found)[2])

    def _entry(self, found: Found) -> list[Any]:
        if self.key in found:
            entry = json.loads(found[self.key][0])
            if entry[0] == self._name:
                return list(entry)
        return ["", 0.0, 0]


def stable(reverse_path: str) -> str:
    """A reverse-path without what changes from mail to mail: the tag, numbers (VERP), signatures of BATV and SRS."""
    local, at, domain = reverse_path.lower().rpartition("@")
    local = _SRS.sub(r"\1=", _BATV.sub("", local, count=1), count=1)
    local = local[:1] + local[1:].partition("+")[0]
    return _NUMBER.sub("#", local) + at + domain

"""The MTA-STS policies that are known (RFC 8461 3, 5.1), in memory and in the store.

A policy is fetched when a domain's TXT record shows an id that is not the kept one's, and holds for its `max_age`, whatever
becomes of the record and the web server meanwhile: whoever can make both disappear must not be able to turn TLS off. It goes by
being replaced, by a policy of mode `none` above all (RFC 8461 8.3). A fetch that fails is not tried again for minutes. Once a day
what is still in use is fetched anew, so that it doesn't run out.
"""

from __future__ import annotations

import asyncio
import json
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final, NamedTuple, Protocol

from responder.clock import Clock
from responder.dns import LookupFailedError, Resolver
from responder.outbound.tls.https import HTTPSError, Web
from responder.outbound.tls.mta_sts import Mode, StsPolicy, parse_policy, policy_id
from responder.outbound.tls.security import Insecure

MAX_POLICIES: Final = 10_000
MAX_OCTETS: Final = 16 << 20  # of all that are kept, roughly
MAX_FAILURES: Final = 10_000
PATIENCE: Final = 300.0  # seconds behind a fetch that failed (RFC 8461 3.3: at least a minute)
FRESH: Final = 86_400.0  # seconds that a policy is not fetched anew
USED: Final = 90 * 86_400.0  # seconds behind the last mail that it still is


class KeeperError(Exception):
    """What is kept can't be read now."""


class Keeper(Protocol):
    """Where policies survive a restart."""

    async def load(self) -> dict[str, str]:
        """All of them, JSON by domain. Raises `KeeperError`."""
        ...

    async def keep(self, changes: Mapping[str, tuple[str | None, float]]) -> None:
        """By domain: JSON and until when it holds (Unix seconds), or None to forget it. Raises nothing: it logs."""
        ...


class Found(NamedTuple):
    """What is known of a domain: its policy, and why that can't be had or brought up to date, once for each attempt."""

    policy: StsPolicy | None
    why: Insecure | None = None


@dataclass(frozen=True, slots=True)
class _Kept:
    id: str
    policy: StsPolicy
    fetched_at: float  # Unix seconds
    used_at: float

    @property
    def until(self) -> float:
        return self.fetched_at + self.policy.max_age

    @property
    def size(self) -> int:
        return 200 + sum([60 + len(pattern) for pattern in self.policy.mx])


class StsCache:
    """Answers for domains. Belongs to one event loop."""

    def __init__(self, resolver: Resolver, web: Web, keeper: Keeper, clock: Clock) -> None:
        self._resolver = resolver
        self._web = web
        self._keeper = keeper
        self._clock = clock
        self._kept: OrderedDict[str, _Kept] = OrderedDict()  # the longest unused first
        self._octets = 0
        self._failed: OrderedDict[str, tuple[str, float]] = OrderedDict()  # id and monotonic time of the next try
        self._fetching: dict[str, asyncio.Task[Insecure | None]] = {}
        self._loaded = False
        self._loading = asyncio.Lock()

    async def find(self, domain: str) -> Found:
        """The policy that holds for a domain (lower case, A-labels). Raises `KeeperError`.

        A domain without a policy costs one question to the name server, which its cache answers from then on.
        """
        if not self._loaded:
            await self._load()
        try:
            seen = policy_id(await self._resolver.txt(f"_mta-sts.{domain}"))
        except LookupFailedError:
            seen = None
        kept = self._current(domain)
        if seen is None or (kept is not None and kept.id == seen) or self._gave_up(domain, seen):
            return Found(None if kept is None else kept.policy)
        why = await self._fetch(domain, seen)
        kept = self._current(domain)
        return Found(None if kept is None else kept.policy, why)

    async def refresh(self) -> None:
        """Fetch anew what is a day old and was used of late. Raises `KeeperError`."""
        if not self._loaded:
            await self._load()
        now = self._clock.now()
        for domain, kept in list(self._kept.items()):
            if kept.until <= now:
                self._drop(domain)
            elif now - kept.fetched_at >= FRESH and now - kept.used_at < USED:
                try:
                    seen = policy_id(await self._resolver.txt(f"_mta-sts.{domain}"))
                except LookupFailedError:
                    seen = None
                if not self._gave_up(domain, seen or kept.id):
                    await self._fetch(domain, seen or kept.id)

    async def close(self) -> None:
        """Stop what is being fetched."""
        tasks = list(self._fetching.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _current(self, domain: str) -> _Kept | None:
        kept = self._kept.get(domain)
        if kept is None:
            return None
        now = self._clock.now()
        if kept.until <= now:
            self._drop(domain)
            return None
        self._kept.move_to_end(domain)
        if now - kept.used_at > 3600.0:
            kept = self._kept[domain] = replace(kept, used_at=now)  # goes to the store with the next fetch
        return kept

    def _gave_up(self, domain: str, seen: str) -> bool:
        failed = self._failed.get(domain)
        return failed is not None and failed[0] == seen and failed[1] > self._clock.monotonic()

    async def _fetch(self, domain: str, seen: str) -> Insecure | None:
        """Get the policy, once for all who wait for it. Why that failed, for the first of them alone."""
        first = domain not in self._fetching
        if first:
            task = self._fetching[domain] = asyncio.create_task(self._get(domain, seen), name=f"mta-sts {domain}")
            task.add_done_callback(lambda _: self._fetching.pop(domain, None))
        task = self._fetching[domain]
        await asyncio.wait([task])  # one who gives up does not stop it
        if task.cancelled():
            return None
        return task.result() if first else None

    async def _get(self, domain: str, seen: str) -> Insecure | None:
        try:
            policy = parse_policy(await self._web.fetch(f"mta-sts.{domain}", "/.well-known/mta-sts.txt"))
        except HTTPSError as error:
            why = error.why
        except ValueError as error:
            why = Insecure("sts-policy-invalid", f"mta-sts.{domain}: {error}")
        else:
            self._failed.pop(domain, None)
            now = self._clock.now()
            await self._keep(domain, _Kept(seen, policy, now, now))
            return None
        self._failed[domain] = seen, self._clock.monotonic() + PATIENCE
        self._failed.move_to_end(domain)
        if len(self._failed) > MAX_FAILURES:
            self._failed.popitem(last=False)
        return why

    async def _keep(self, domain: str, kept: _Kept) -> None:
        before = self._kept.get(domain)
        if before is not None:
            kept = replace(kept, used_at=before.used_at)
            self._drop(domain)
        self._kept[domain] = kept
        self._octets += kept.size
        changes: dict[str, tuple[str | None, float]] = {domain: (_written(kept), kept.until)}
        while len(self._kept) > MAX_POLICIES or self._octets > MAX_OCTETS:
            oldest = next(iter(self._kept))
            self._drop(oldest)
            changes[oldest] = (None, 0.0)
        await self._keeper.keep(changes)

    def _drop(self, domain: str) -> None:
        self._octets -= self._kept.pop(domain).size

    async def _load(self) -> None:
        async with self._loading:
            if self._loaded:
                return
            for domain, text in (await self._keeper.load()).items():
                if domain not in self._kept and (kept := _read(text)) is not None:
                    self._kept[domain] = kept
                    self._octets += kept.size
            self._loaded = True


def _written(kept: _Kept) -> str:
    policy = kept.policy
    return json.dumps([kept.id, policy.mode, policy.max_age, policy.mx, kept.fetched_at, kept.used_at])


def _read(text: str) -> _Kept | None:
    try:
        name, mode, age, mx, fetched_at, used_at = json.loads(text)
        modes: dict[str, Mode] = {"enforce": "enforce", "testing": "testing", "none": "none"}
        policy = StsPolicy(modes[mode], int(age), tuple([str(pattern) for pattern in mx]))
        return _Kept(str(name), policy, float(fetched_at), float(used_at))
    except (ValueError, TypeError, KeyError):
        return None  # of another version: it is fetched again

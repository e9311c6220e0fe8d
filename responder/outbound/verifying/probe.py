"""Ask the hosts of addresses whether they take mail for them, and send nothing: MX, HELO, MAIL, RCPT, RSET, never DATA.

    addresses -> domains -> their hosts (`mx`, `reach`) -> a `station` for each IP address -> `ledger` -> Verification

Domains that share a host share its sessions. Each IP address has one connection at a time, however many domains wait there, and a
pause before the next one; `concurrency` of them are asked at once. A host that hangs costs one time-out, for all of its domains.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Iterable
from dataclasses import replace
from typing import Final

from responder.clock import Clock
from responder.dns import Resolver
from responder.mail.address import AddressError, parse
from responder.mail.headers import clean
from responder.mail.status import FailureError
from responder.outbound.mx import find_hosts, host_addresses
from responder.outbound.reach import refusal
from responder.outbound.verifying.ledger import Domain, Ledger, Plan
from responder.outbound.verifying.station import Station
from responder.outbound.verifying.verification import Finding, Result, Verification, of_host, spokesman

MAX_SHOWN: Final = 320
"""Characters that are kept of what is no address."""

MAX_ADDRESSES: Final = 10
"""IP addresses that are asked for one domain, over all its hosts."""

MAX_WAITING: Final = 1000
"""Verifications that wait for whoever reads them; then the asking waits."""

WAVE: Final = 60.0
"""Seconds that those who may be asked again wait for others, at the most: so that a host has them all in one session."""

FAREWELL: Final = 8.0
"""Seconds that sessions have to end in when asking is over before its time."""


def key_of(text: str) -> str:
    """What is the same address, and the same for what is none."""
    try:
        found = str(parse(text))
    except AddressError:
        return clean(text[:MAX_SHOWN])
    return text if found == text else found


class Probe:
    """One run. Belongs to one event loop."""

    def __init__(self, plan: Plan, resolver: Resolver, clock: Clock, concurrency: int = 50) -> None:
        if concurrency < 1:
            raise ValueError("concurrency must be above zero")
        self.total = 0  # addresses, repeated ones left out
        self.waiting = 0  # those without a final word
        self._plan = plan
        self._resolver = resolver
        self._clock = clock
        self._concurrency = concurrency
        self._ledger = Ledger(plan, clock, self._tell, self._defer)
        self._stations: dict[str, Station] = {}
        self._lost: asyncio.Queue[Domain] = asyncio.Queue()  # domains to be led to a host
        self._ready: asyncio.Queue[Station | None] = asyncio.Queue()
        self._deferred: dict[str, Domain] = {}
        self._deferral = asyncio.Event()
        self._told: asyncio.Queue[Verification | None] = asyncio.Queue()
        self._room = asyncio.Event()  # whoever reads keeps up
        self._over = asyncio.Event()  # all is told, or nobody wants to know any more
        self._tasks: set[asyncio.Task[None]] = set()
        self._failed: BaseException | None = None
        self._room.set()

    @property
    def postponed(self) -> int:
        """How many addresses wait to be asked again."""
        return sum([len(domain.later) for domain in self._deferred.values()])

    def stop(self) -> None:
        """Let sessions end politely, and ask nobody else. What is known by then is still told."""
        for station in self._stations.values():
            station.stop()
        self._over.set()

    async def run(self, addresses: Iterable[str]) -> AsyncGenerator[list[Verification], None]:
        """The verifications, as many at a time as there are. Whoever has not been asked when the caller goes is not asked."""
        invalid = await self._sort(addresses)
        for start in range(0, len(invalid), MAX_WAITING):
            yield invalid[start : start + MAX_WAITING]
        if not self.waiting:
            return
        several = range(min(self._concurrency, self._lost.qsize()))
        guides = [self._start(self._lead(), "lead") for _ in several]
        guides.append(self._start(self._wake(), "wake"))
        workers = [self._start(self._work(), "ask") for _ in several]
        end = asyncio.create_task(self._end(guides, workers), name="verify: end")
        try:
            last = False
            while not last:
                batch = [await self._told.get()]
                while not self._told.empty():
                    batch.append(self._told.get_nowait())
                self._room.set()
                last = batch[-1] is None
                if found := [one for one in batch if one is not None]:
                    yield found
        finally:
            self.stop()
            self._room.set()
            await end
        if self._failed is not None:
            raise self._failed

    # -- what is asked

    async def _sort(self, addresses: Iterable[str]) -> list[Verification]:
        """Put each address to its domain, once. Returns those that are none."""
        seen: set[str] = set()
        domains: dict[str, Domain] = {}
        invalid = []
        for number, given in enumerate(addresses):
            if number % 500 == 499:
                await asyncio.sleep(0)  # a hundred thousand take a second, and others want the loop
            text = given.strip()
            try:
                if "\ufffd" in text:
                    raise AddressError("octets that are no UTF-8")  # whoever read them could not say what they are
                address = parse(text)
                key, problem = str(address), ""
            except AddressError as error:
                key, problem = clean(text[:MAX_SHOWN]), str(error)
            if key in seen:
                continue
            self.total += 1
            if problem:
                seen.add(key)
                now = self._clock.now()
                invalid.append(Verification(key, Result.INVALID, enhanced="5.1.3", text=problem, time=now))
                continue
            seen.add(text if key == text else key)  # the same object, where it can be
            self.waiting += 1
            if (domain := domains.get(address.domain)) is None:
                domain = domains[address.domain] = Domain(address.domain)
                self._lost.put_nowait(domain)
            domain.fresh.append(text)
        return invalid

    # -- from domains to stations

    async def _lead(self) -> None:
        while True:
            domain = await self._lost.get()
            station = await self._station_of(domain)
            if station is None:
                domain.placed = False
                await self._ledger.finish(domain, spokesman(domain.findings))
                continue
            station.queue.append(domain)
            if station.idle:
                station.idle = False
                self._ready.put_nowait(station)

    async def _station_of(self, domain: Domain) -> Station | None:
        """Where the domain is to be asked next; None where no host is left: its findings say why."""
        if domain.hosts is None:
            try:
                hosts = (await find_hosts(domain.name, self._resolver, self._clock)).hosts
            except FailureError as error:
                domain.findings.append(of_host(error.failure))
                return None
            # Among equals by name: domains with the same hosts come to the same one, and share its sessions.
            domain.hosts = sorted(hosts, key=lambda host: (host.preference, host.name))
        while len(domain.tried) < MAX_ADDRESSES:
            if not domain.addresses:
                if domain.next_host == len(domain.hosts):
                    break
                domain.host = domain.hosts[domain.next_host].name
                domain.next_host += 1
                try:
                    domain.addresses.extend(await host_addresses(domain.host, self._resolver))
                except FailureError as error:
                    domain.findings.append(of_host(error.failure, domain.host))
                continue
            address = domain.addresses.popleft()
            if address in domain.tried:
                continue
            domain.tried.add(address)
            refused = refusal(address, self._plan.port, allow_private=self._plan.allow_private)
            if refused is not None:
                domain.findings.append(of_host(refused, domain.host))
                continue
            station = self._stations.get(address)
            if station is None:
                station = Station(address, self._plan, self._clock, self._ledger, self._lost.put_nowait)
                self._stations[address] = station
            if (dead := station.dead) is None:
                return station
            domain.findings.append(replace(dead, host=domain.host))
        return None

    # -- sessions

    async def _work(self) -> None:
        while (station := await self._ready.get()) is not None and not self._over.is_set():
            await station.turn()
            if station.next() is None:
                station.idle = True
            else:
                self._start(self._rest(station), f"rest {station.address}")

    async def _rest(self, station: Station) -> None:
        await self._clock.sleep(station.pause)
        self._ready.put_nowait(station)

    # -- those that were put off

    def _defer(self, domain: Domain) -> None:
        self._deferred[domain.name] = domain
        self._deferral.set()

    async def _wake(self) -> None:
        """Has those asked again that were put off: when the last of them has waited, or the first for long enough."""
        wait = self._plan.wait
        while True:
            await self._deferral.wait()
            limit = min([domain.later_since for domain in self._deferred.values()]) + wait + min(wait, WAVE)
            while (now := self._clock.monotonic()) < limit:
                due = max([domain.later_since for domain in self._deferred.values()]) + wait
                if due <= now:
                    break
                await self._clock.sleep(min(due, limit) - now)
            for domain in [one for one in self._deferred.values() if one.later_since + wait <= now]:
                del self._deferred[domain.name]
                domain.begin_anew()
                if not domain.placed:
                    domain.placed = True
                    self._lost.put_nowait(domain)
            if not self._deferred:
                self._deferral.clear()

    # -- what is told

    async def _tell(self, address: str, finding: Finding, tries: int, catch_all: bool | None) -> None:
        if self._told.qsize() >= MAX_WAITING:
            self._room.clear()
            await self._room.wait()
        word = Result.CATCH_ALL if catch_all else finding.result
        told = (word, finding.code, finding.enhanced, finding.text, finding.host, finding.ip, finding.tls)
        asked = tries if finding.ip else 0  # nobody, where no host was found
        self._told.put_nowait(Verification(address, *told, self._clock.now(), asked, catch_all))
        self.waiting -= 1
        if not self.waiting:
            self._over.set()

    # -- the tasks of a run

    def _start(self, work: Coroutine[object, object, None], name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=f"verify: {name}")
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failed = self._failed or error
            self._over.set()

    async def _end(self, guides: list[asyncio.Task[None]], workers: list[asyncio.Task[None]]) -> None:
        """When it is over: sessions end as politely as their hosts let us, then every task does."""
        await self._over.wait()
        for task in guides:
            task.cancel()
        for _ in workers:
            self._ready.put_nowait(None)
        await asyncio.wait(workers, timeout=FAREWELL)
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._resolver.close()
        self._told.put_nowait(None)

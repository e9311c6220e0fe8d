"""TLS reports, daily, to domains that ask for them (RFC 8460): sessions are counted in memory, added up in the store, and told.

Counting costs a session some additions. Every few minutes what was counted goes to the store, where other processes' counts are;
what a process that is killed had counted since is missing then. Some hours behind the end of a day, by UTC, a domain's counts
become a mail to whom its record names, in one transaction that removes them: so each report leaves once, whatever dies. Who wants
it by HTTPS gets it before that; a server killed in between hands it over again, under the same report id.

Sessions that carry reports are not counted, or two servers would tell each other of their reports for ever.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from responder.aside import aside
from responder.clock import Clock
from responder.config import Config
from responder.dns import LookupFailedError, Resolver, TemporaryError
from responder.mail.address import Address
from responder.mail.headers import clean
from responder.mail.suffix import organisational
from responder.mail.tlsrpt import DAY, MAX_TEXT, Detail, Policy, Report, Tally, Target, shown, targets
from responder.observe import event
from responder.outbound.tls.https import HTTPSError, Web
from responder.outbound.tls.policy import SessionNote
from responder.store.base import Store, StoreError
from responder.store.records import Memory, NewOutbound, Value

INBOX: Final = ".tlsrpt"  # no inbox has such a name: a local part does not begin with a dot (RFC 5321 4.1.2)
KIND: Final = "report"
FLUSH: Final = 300.0  # seconds between two writes of what was counted
MAX_DOMAINS: Final = 10_000  # that are counted between two writes; others are not
BATCH: Final = 100  # values of one transaction
TOGETHER: Final = 8  # domains that are looked up at a time
EARLIEST: Final = 1_800.0  # seconds behind midnight: others' clocks, and counts that are still on their way
LATEST: Final = 4 * 3_600.0  # RFC 8460 5.4: not all at once
KEPT: Final = 2 * DAY  # seconds behind its day that a report is tried
WAITS: Final = (
    FLUSH,
    4 * 3_600.0,
)  # seconds until one that nobody took is tried again: at first, doubled, and at the most
MAX_OF_ONE: Final = (
    20  # reports a day to the names below one registered domain: who has it makes up as many as he likes
)
TYPE: Final = "application/tlsrpt+gzip"
_FIRSTS: Final = "abcdefghijklmnopqrstuvwxyz0123456789_-"  # of domains: their counts are read a part at a time

Sign = Callable[[bytes, str], Awaitable[bytes]]


class TLSReports:
    """Counts, keeps and sends. `sign` gives the DKIM fields for a message and its author's domain; None: there are no keys."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self.sign: Sign | None = None
        self._store = store
        self._clock = clock
        self._config: Config | None = None
        self._resolver: Resolver | None = None
        self._web: Web | None = None
        self._counted: dict[tuple[int, str], Tally] = {}
        self._waits: dict[
            str, tuple[float, float]
        ] = {}  # reports that nobody took: when they are tried again, and the wait
        self._told: dict[tuple[int, str], set[str]] = {}  # the first ones by day and registered domain
        self._behind_midnight = clock.jitter(EARLIEST, LATEST)

    def configure(self, config: Config, resolver: Resolver | None = None, web: Web | None = None) -> None:
        """Take a configuration, and how the world is reached, where that has changed."""
        self._config = config
        self._resolver = resolver or self._resolver
        self._web = web or self._web

    def note(self, note: SessionNote) -> None:
        """Count a session."""
        used = note.policy
        if not used.recipient:
            return
        key = int(self._clock.now()) // DAY * DAY, used.recipient
        tally = self._counted.get(key)
        if tally is None:
            if len(self._counted) >= MAX_DOMAINS or used.recipient[:1] not in _FIRSTS:
                return
            tally = self._counted[key] = Tally()
        why = note.why
        detail = None
        if why is not None:
            detail = Detail(why.kind, note.source, note.host, note.address, clean(why.text)[:MAX_TEXT])
        tally.add(Policy(used.type, used.domain, shown(used.strings), shown(used.mx_hosts)), detail)

    async def run(self) -> None:
        """Until cancelled; then what was counted is stored."""
        try:
            while True:
                await self._clock.sleep(FLUSH)
                try:
                    await self.flush()
                    await self.send()
                except Exception as error:  # reports are no reason to stop serving
                    event("tls reports failed", level=logging.ERROR, cause=f"{type(error).__name__}: {error}")
        finally:
            await self.flush()

    async def flush(self) -> None:
        """Add what was counted to what is stored. What the store does not take now is kept for the next time."""
        counted, self._counted = self._counted, {}
        keys = list(counted)
        for start in range(0, len(keys), BATCH):
            portion = {key: counted[key] for key in keys[start : start + BATCH]}
            try:
                while not await self._add(portion):
                    pass  # another process was quicker: read again
            except StoreError as error:
                event("tls reports not stored", level=logging.WARNING, cause=str(error))
                for key in keys[start:]:
                    if key in self._counted:
                        self._counted[key].merge(counted[key])
                    else:
                        self._counted[key] = counted[key]
                return

    async def _add(self, portion: dict[tuple[int, str], Tally]) -> bool:
        names = {_key(day, domain): (day, tally) for (day, domain), tally in portion.items()}
        found = await self._store.values(INBOX, names)
        seen = {name: found[name][1] if name in found else "" for name in names}
        values = []
        for name, (day, counts) in names.items():
            whole = Tally()
            if name in found:
                whole = _read(found[name][0])
            whole.merge(counts)
            values.append(Value(name, json.dumps(str(whole)), float(day + DAY + KEPT)))
        return await self._store.remember(Memory(INBOX, seen, tuple(values)))

    async def send(self) -> None:
        """Send what is due of days that are over."""
        if self._config is None or not self._config.tls_policy.reports or self._config.delivery.transport != "mx":
            return
        now = self._clock.now()
        today = int(now) // DAY * DAY
        self._waits = {name: wait for name, wait in self._waits.items() if wait[0] > now - DAY}
        self._told = {key: names for key, names in self._told.items() if key[0] >= today - KEPT}
        for day in range(today - KEPT, today, DAY):
            if now < day + DAY + self._behind_midnight:
                continue
            for first in _FIRSTS:
                try:
                    waiting = await self._store.values_below(INBOX, _key(day, first))
                    names = [name for name in waiting if self._waits.get(name, (0.0, 0.0))[0] <= now]
                    for start in range(0, len(names), TOGETHER):
                        await asyncio.gather(*[self._tell(day, name) for name in names[start : start + TOGETHER]])
                except StoreError as error:
                    event("tls reports not sent", level=logging.WARNING, cause=str(error))
                    return

    async def _tell(self, day: int, name: str) -> None:
        """One domain's report, unless nobody wants it or nobody can say. Raises `StoreError`."""
        domain = name.partition(" ")[2]
        assert self._resolver is not None
        assert self._config is not None
        try:
            wanted = targets(await self._resolver.txt(f"_smtp._tls.{domain}"))
        except TemporaryError:
            self._put_off(name)
            return
        except LookupFailedError:
            wanted = []
        found = await self._store.values(INBOX, [name])
        if name not in found:
            return
        text, version, _ = found[name]
        done = Memory(INBOX, {name: version}, (Value(name, None),))
        registered = await aside(organisational, domain)
        told = self._told.setdefault((day, registered), set())
        if wanted and len(told) < MAX_OF_ONE:
            told.add(name)
        if not wanted or name not in told:
            await self._store.remember(done)
            return
        config = self._config
        postmaster = Address("postmaster", config.domains[0])
        identity = f"{day}.{domain}@{config.hostname}"
        report = Report(domain, day, config.hostname, str(postmaster), identity)
        body = report.body(_read(text))
        mailboxes = [target.mailbox for target in wanted if target.mailbox is not None]
        posted = [await self._post(target, body, domain) for target in wanted if target.mailbox is None]
        if not mailboxes and not any(posted):
            self._put_off(name)
            return
        messages, contents = [], []
        for to in mailboxes:
            try:
                message, content = await self._mail(report, body, to, postmaster)
            except Exception as error:  # it can't be signed now (RFC 8460 3: it must be)
                event("tls reports not sent", level=logging.WARNING, cause=str(error))
                return
            messages.append(message)
            contents.append((message.content_id, content))
        if await self._store.enqueue(messages, contents, done):
            event("tls report", domain=domain, to=", ".join([str(to) for to in mailboxes]) or "https")

    def _put_off(self, name: str) -> None:
        """It is tried again, while it is kept: soon at first, then ever later. Anybody's record may name anybody's server."""
        _, wait = self._waits.get(name, (0.0, 0.0))
        wait = min(2 * wait or WAITS[0], WAITS[1])
        self._waits[name] = self._clock.now() + wait, wait

    async def _post(self, target: Target, body: bytes, domain: str) -> bool:
        assert self._web is not None
        try:
            await self._web.post(target.host, target.path, body, TYPE)
        except HTTPSError as error:
            event("tls report not taken", level=logging.WARNING, domain=domain, reason=str(error))
            return False
        return True

    async def _mail(self, report: Report, body: bytes, to: Address, postmaster: Address) -> tuple[NewOutbound, bytes]:
        assert self._config is not None
        now, identifier = self._clock.now(), self._clock.new_id()
        content = report.compose(
            body, to=to, sender=postmaster, now=now, message_id=f"<auto.{identifier}@{self._config.hostname}>"
        )
        if self.sign is not None:
            content = await self.sign(content, postmaster.domain) + content
        message = NewOutbound(
            id=identifier,
            kind=KIND,
            cause=report.id,
            inbox="",
            content_id=identifier,
            reverse_path=f"bounces+{identifier}@{postmaster.domain}",
            recipient=str(to),
            domain=to.domain,
            return_to="",
            created_at=now,
            expires_at=now + min(self._config.delivery.expire, float(DAY)),
        )
        return message, content


def _key(day: int, domain: str) -> str:
    return f"{day} {domain}"


def _read(text: str) -> Tally:
    try:
        return Tally.read(json.loads(text))
    except ValueError:
        return Tally()  # of another version

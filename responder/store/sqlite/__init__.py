"""The store on one SQLite file: WAL, one writer thread per process, `synchronous=FULL`, group commit.

Several processes may share the file: every claim is taken in a transaction, and leases tell whose work is free.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar

from responder.aside import aside
from responder.clock import Clock
from responder.mail.lifecycle import Event, State
from responder.store.base import StoreUnavailableError, StoreUnusableError
from responder.store.records import (
    Account,
    DestinationView,
    InboundItem,
    ItemView,
    Memory,
    NewMail,
    NewOutbound,
    Note,
    OutboundItem,
    Pacing,
    Parcel,
    Settlement,
    Window,
)
from responder.store.returns import Selection, Sent, Suppression
from responder.store.sqlite import claims, memory, pace, parcels, steps, suppression, views, work
from responder.store.sqlite import selection as chosen
from responder.store.sqlite.database import connect, migrate, translate
from responder.store.sqlite.writer import Writer

T = TypeVar("T")

SCHEMA = Path(__file__).with_name("schema")


class SQLiteStore:
    """`responder.store.base.Store` on one file. See there for what each verb promises."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self.wake_inbound = asyncio.Event()
        self.wake_outbound = asyncio.Event()
        self._path = path
        self._clock = clock
        self._writer = Writer(path)
        self._reader: sqlite3.Connection | None = None
        self._reading: ThreadPoolExecutor | None = None

    async def open(self, *, create: bool = True) -> None:
        connection = await aside(self._prepare, create)
        self._path = self._path.absolute()  # a plugin may change the working folder
        self._reading = ThreadPoolExecutor(1, "responder-store-read")
        self._writer.start(connection)

    def _prepare(self, create: bool) -> sqlite3.Connection:
        if not create and not self._path.exists():
            raise StoreUnusableError(f"{self._path}: there is no such database yet; `responder serve` creates it")
        try:
            if not self._path.exists():
                _make(self._path)
            connection = connect(self._path, create=create)
            try:
                migrate(connection, SCHEMA)
                # What an earlier process left in the write-ahead log, perhaps behind a sync that failed, is on disk from here.
                connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            except BaseException:
                connection.close()
                raise
        except (FileExistsError, NotADirectoryError) as error:
            raise StoreUnusableError(f"{self._path}: there is a file where a folder is wanted") from error
        except OSError as error:
            raise StoreUnusableError(f"{self._path}: {error.strerror}") from error
        except StoreUnusableError as error:
            raise StoreUnusableError(f"{self._path}: {error}") from error
        except sqlite3.DatabaseError as error:
            raise StoreUnusableError(f"{self._path}: {error}") from error
        return connection

    async def close(self) -> None:
        await self._writer.stop()
        if self._reading is not None:
            await asyncio.get_running_loop().run_in_executor(self._reading, self._close_reader)
            self._reading.shutdown()
            self._reading = None

    async def accept(self, mail: NewMail) -> None:
        accepted = self._writer.submit(work.accept, mail)
        accepted.add_done_callback(lambda _: self.wake_inbound.set())  # even where nobody waits for it any more
        if mail.relayed:
            accepted.add_done_callback(lambda _: self.wake_outbound.set())
        # Who waits may be cancelled: what was submitted is committed all the same.
        await accepted

    async def enqueue(
        self, messages: Sequence[NewOutbound], contents: Sequence[tuple[str, bytes]], memory: Memory | None = None
    ) -> bool:
        request = work.Request(tuple(messages), tuple(contents), memory, self._clock.new_id())
        stored = await self._writer.submit(self._enqueue, request)
        if stored and messages:
            self.wake_outbound.set()
        return stored

    def _enqueue(self, connection: sqlite3.Connection, requests: list[work.Request]) -> list[bool]:
        return work.enqueue(connection, requests, self._clock.now())

    async def beat(self, token: str, lease: float) -> bool:
        return await self._writer.run(lambda c: work.beat(c, token, self._clock.now() + lease))

    async def leave(self, token: str) -> None:
        await self._writer.run(lambda c: work.leave(c, token, self._clock.now()))

    async def sweep(self, attempts: int) -> int:
        touched = await self._writer.run(lambda c: work.sweep(c, attempts, self._clock.now()))
        if touched:
            self.wake_inbound.set()
            self.wake_outbound.set()
        return touched

    async def claim_inbound(
        self,
        token: str,
        limit: int,
        running: Mapping[str, int] | None = None,
        rooms: Mapping[str, int] | None = None,
        per_inbox: int | None = None,
    ) -> tuple[list[InboundItem], float | None]:
        held = dict(running or {})
        return await self._writer.run(
            lambda c: claims.claim_inbound(c, token, limit, held, rooms or {}, per_inbox, self._clock.now())
        )

    async def claim_outbound(self, token: str, limit: int, pacing: Pacing) -> tuple[list[Parcel], float | None]:
        return await self._writer.run(lambda c: parcels.claim_outbound(c, token, limit, pacing, self._clock.now()))

    async def settle_inbound(self, item: InboundItem, settlement: Settlement) -> tuple[State, str] | None:
        result = await self._writer.submit(self._settle_inbound, (item, settlement))
        self._wake(settlement)
        if result is not None and result[1] == work.CHANGED:
            self.wake_inbound.set()
        return result

    async def settle_outbound(self, item: OutboundItem, settlement: Settlement) -> tuple[State, str] | None:
        [end], _ = await self.settle_parcel([(item, settlement)])
        return end

    async def settle_parcel(
        self, ends: Sequence[tuple[OutboundItem, Settlement]], note: Note | None = None
    ) -> tuple[list[tuple[State, str] | None], float]:
        result = await self._writer.submit(self._settle_outbound, work.Turn(tuple(ends), note))
        for _, settlement in ends:
            self._wake(settlement)
        return result

    def _wake(self, settlement: Settlement) -> None:
        if settlement.outbound:
            self.wake_outbound.set()
        if settlement.arrivals:
            self.wake_inbound.set()

    def _settle_inbound(
        self, connection: sqlite3.Connection, settlements: list[tuple[InboundItem, Settlement]]
    ) -> list[work.End]:
        return work.settle_inbound(connection, settlements, self._clock.now())

    def _settle_outbound(
        self, connection: sqlite3.Connection, turns: list[work.Turn]
    ) -> list[tuple[list[work.End], float]]:
        return work.settle_outbound(connection, turns, self._clock.now())

    async def exceeded(self, windows: Sequence[Window]) -> Window | None:
        return await self._read(lambda c: steps.Counters(c, windows, self._clock.now()).full(windows))

    async def values(self, inbox: str, keys: Collection[str]) -> dict[str, tuple[str, str, float]]:
        return await self._read(lambda c: memory.values(c, inbox, keys, self._clock.now()))

    async def values_below(self, inbox: str, prefix: str) -> dict[str, str]:
        return await self._read(lambda c: memory.values_below(c, inbox, prefix, self._clock.now()))

    async def remember(self, what: Memory) -> bool:
        return await self._writer.submit(self._remember, (what, self._clock.new_id()))

    def _remember(self, connection: sqlite3.Connection, requests: list[tuple[Memory, str]]) -> list[bool]:
        return memory.remember(connection, requests, self._clock.now())

    async def sent(self, item_id: str) -> Sent | None:
        return await self._read(lambda c: views.sent(c, item_id))

    async def suppress(self, entry: Suppression) -> None:
        await self._writer.run(lambda c: suppression.add(c, [entry]))

    async def unsuppress(self, address: str, inbox: str | None) -> int:
        return await self._writer.run(lambda c: suppression.remove(c, address, inbox))

    async def suppressions(self, inbox: str | None = None, limit: int = 1000) -> list[Suppression]:
        return await self._read(lambda c: suppression.entries(c, inbox, limit, self._clock.now()))

    async def content(self, content_id: str) -> bytes:
        def find(connection: sqlite3.Connection) -> bytes:
            row = connection.execute("SELECT data FROM content WHERE id = ?", (content_id,)).fetchone()
            if row is None:
                raise KeyError(content_id)
            return bytes(row[0])

        return await self._read(find)

    async def content_of(self, item_id: str) -> str:
        def find(connection: sqlite3.Connection) -> str:
            row = connection.execute(
                "SELECT mail FROM inbound WHERE id = :id UNION ALL SELECT content FROM outbound WHERE id = :id",
                {"id": item_id},
            ).fetchone()
            if row is None:
                raise KeyError(item_id)
            return str(row[0])

        return await self._read(find)

    async def act(self, item_id: str, event: Event, reason: str) -> State:
        table, state = await self._writer.run(lambda c: steps.act(c, item_id, event, reason, self._clock.now()))
        (self.wake_inbound if table == "inbound" else self.wake_outbound).set()
        return state

    async def act_on(self, selection: Selection, event: Event, reason: str) -> dict[State, int]:
        came_to: Counter[State] = Counter()
        for table in chosen.tables(selection, event):
            after: str | None = ""
            while after is not None:
                step = partial(chosen.act_on, table=table, selection=selection, event=event, reason=reason, after=after)
                states, after = await self._writer.run(partial(step, now=self._clock.now()))
                came_to.update(states)
        self.wake_inbound.set()
        self.wake_outbound.set()
        return dict(came_to)

    async def count(self, selection: Selection, event: Event) -> dict[str, int]:
        return await self._read(lambda c: chosen.count(c, selection, event))

    async def items(
        self, states: Collection[State] = (), limit: int = 1000, selection: Selection | None = None
    ) -> list[ItemView]:
        return await self._read(lambda c: views.items(c, states, limit, selection))

    async def crowds(self, column: Literal["domain", "inbox"], limit: int = 20) -> list[tuple[str, str, int]]:
        return await self._read(lambda c: chosen.crowds(c, column, limit))

    async def destinations(self, limit: int = 1000) -> list[DestinationView]:
        return await self._read(lambda c: pace.destinations(c, limit))

    async def stats(self) -> dict[str, dict[str, int]]:
        return await self._read(views.stats)

    async def account(self, key: str) -> list[Account]:
        return await self._read(lambda c: views.account(c, key))

    async def purge(self, done_before: float, failed_before: float, limit: int = 500) -> int:
        now = self._clock.now()
        return await self._writer.run(lambda c: views.purge(c, done_before, failed_before, limit, now))

    async def _read(self, query: Callable[[sqlite3.Connection], T]) -> T:
        """Run a query on the reading connection, in its thread: readers never wait for the writer (WAL)."""
        if self._reading is None:
            raise StoreUnavailableError("the store is closed")
        return await asyncio.get_running_loop().run_in_executor(self._reading, self._query, query)

    def _query(self, query: Callable[[sqlite3.Connection], T]) -> T:
        try:
            if self._reader is None:
                self._reader = connect(self._path)
                self._reader.execute("PRAGMA query_only = ON")
            self._reader.execute("BEGIN")  # one snapshot for all that the query reads
            try:
                return query(self._reader)
            finally:
                self._reader.execute("COMMIT")
        except sqlite3.Error as error:
            self._close_reader()
            raise translate(error) from error

    def _close_reader(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None


def _make(path: Path) -> None:
    """An empty file that is nobody else's to read, never for an instant, in a folder that a power cut does not take away."""
    folder = path.absolute().parent
    missing = [one for one in (folder, *folder.parents) if not one.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for one in reversed(missing):  # SQLite syncs the folder of its file, but not that folder's name in the one above
        above = os.open(one.parent, os.O_RDONLY)
        try:
            os.fsync(above)
        finally:
            os.close(above)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))

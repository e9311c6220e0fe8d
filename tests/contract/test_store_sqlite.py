"""The SQLite store in trouble: disks that fail or fill, locks that others keep, files that vanish."""

from __future__ import annotations

import asyncio
import resource
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from responder.mail.lifecycle import State
from responder.store.base import StoreFullError, StoreUnavailableError
from responder.store.sqlite import SQLiteStore, database
from tests.support.clock import ManualClock
from tests.support.stores import accept, new_mail


@pytest.fixture
async def opened(tmp_path: Path) -> AsyncIterator[SQLiteStore]:
    store = SQLiteStore(tmp_path / "responder.db", ManualClock())
    await store.open()
    yield store
    await store.close()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


async def count(store: SQLiteStore) -> int:
    return len(await store.items(list(State)))


# -- trouble -----------------------------------------------------------------------------------------------------------


async def test_full_disk_is_said_and_the_next_mail_is_taken(opened: SQLiteStore, clock: ManualClock) -> None:
    await accept(opened, clock)
    await opened._writer.run(lambda c: c.execute("PRAGMA max_page_count = 1").fetchone())  # no page more
    with pytest.raises(StoreFullError):
        await opened.accept(new_mail(clock, content=b"x" * 100_000))
    assert await count(opened) == 1
    await accept(opened, clock)  # on a connection of its own, without that limit
    assert await count(opened) == 2


async def test_write_that_fails_leaves_nothing_and_the_store_usable(opened: SQLiteStore, clock: ManualClock) -> None:
    """RLIMIT_FSIZE: the kernel refuses to let the write-ahead log grow, in the middle of a transaction."""
    await accept(opened, clock)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, limits[1]))
    try:
        ends = await asyncio.gather(
            *(opened.accept(new_mail(clock, content=b"x" * 200_000)) for _ in range(4)), return_exceptions=True
        )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    failed = [end for end in ends if end is not None]
    assert failed
    assert all(isinstance(end, StoreUnavailableError | StoreFullError) for end in failed)
    assert await count(opened) == 1 + len(ends) - len(failed)
    await accept(opened, clock)
    assert await count(opened) == 2 + len(ends) - len(failed)


@pytest.mark.parametrize("statement", ["BEGIN", "INSERT INTO content", "INSERT INTO history", "COMMIT"])
@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (sqlite3.SQLITE_IOERR_FSYNC, StoreUnavailableError),
        (sqlite3.SQLITE_READONLY, StoreUnavailableError),
        (sqlite3.SQLITE_CORRUPT, StoreUnavailableError),
        (sqlite3.SQLITE_BUSY, StoreUnavailableError),
        (sqlite3.SQLITE_FULL, StoreFullError),
        (sqlite3.SQLITE_TOOBIG, StoreFullError),
    ],
)
async def test_error_of_the_database_is_told_in_the_stores_terms(
    opened: SQLiteStore, clock: ManualClock, statement: str, code: int, kind: type[Exception]
) -> None:
    await accept(opened, clock)
    broken = Broken.into(opened, statement, code)
    ends = await asyncio.gather(*(opened.accept(new_mail(clock)) for _ in range(3)), return_exceptions=True)
    assert [type(end) for end in ends] == [kind] * 3
    assert await count(opened) == 1
    await accept(opened, clock)
    assert broken.closed
    assert await count(opened) == 2


class Broken:
    """A connection that fails at one statement, as sqlite3 does: with an error code."""

    def __init__(self, connection: sqlite3.Connection, statement: str, code: int) -> None:
        self._connection = connection
        self._statement = statement
        self._code = code
        self.closed = False

    @classmethod
    def into(cls, store: SQLiteStore, statement: str, code: int = sqlite3.SQLITE_IOERR) -> Broken:
        """In the place of the store's writing connection."""
        connection = store._writer._connection
        assert connection is not None
        broken = cls(connection, statement, code)
        store._writer._connection = broken  # type: ignore[assignment]
        return broken

    def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
        if sql.startswith(self._statement):
            error = sqlite3.OperationalError("it broke")
            error.sqlite_errorcode = self._code
            raise error
        return self._connection.execute(sql, *values)

    @property
    def in_transaction(self) -> bool:
        return self._connection.in_transaction

    def close(self) -> None:
        self.closed = True
        self._connection.close()


async def test_lock_that_another_process_keeps_is_unavailable(
    tmp_path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "BUSY", 0.05)
    store = SQLiteStore(tmp_path / "responder.db", clock)
    await store.open()
    try:
        other = sqlite3.connect(tmp_path / "responder.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailableError, match="locked"):
            await accept(store, clock)
        assert await count(store) == 0  # readers do not wait for writers
        other.execute("ROLLBACK")
        other.close()
        await accept(store, clock)
        assert await count(store) == 1
    finally:
        await store.close()


async def test_database_that_vanished_is_not_replaced_by_an_empty_one(
    tmp_path: Path, opened: SQLiteStore, clock: ManualClock
) -> None:
    Broken.into(opened, "BEGIN")
    with pytest.raises(StoreUnavailableError):
        await accept(opened, clock)
    for path in tmp_path.glob("responder.db*"):
        path.unlink()
    with pytest.raises(StoreUnavailableError):
        await accept(opened, clock)
    assert not (tmp_path / "responder.db").exists()


async def test_closed_store_says_so(tmp_path: Path, clock: ManualClock) -> None:
    store = SQLiteStore(tmp_path / "responder.db", clock)
    for _ in range(2):  # never opened, and closed again
        with pytest.raises(StoreUnavailableError):
            await accept(store, clock)
        with pytest.raises(StoreUnavailableError):
            await store.items()
        await store.open()
        await store.close()


async def test_close_finishes_what_was_asked_for(tmp_path: Path, clock: ManualClock) -> None:
    store = SQLiteStore(tmp_path / "responder.db", clock)
    await store.open()
    tasks = [asyncio.ensure_future(store.accept(new_mail(clock))) for _ in range(50)]
    await asyncio.sleep(0)
    closing = asyncio.ensure_future(store.close())
    await asyncio.sleep(0)
    with pytest.raises(StoreUnavailableError):  # and what is asked for from now on is refused, not forgotten
        await asyncio.wait_for(store.accept(new_mail(clock)), 10)
    await closing
    await asyncio.gather(*tasks)
    again = SQLiteStore(tmp_path / "responder.db", clock)
    await again.open()
    assert await count(again) == 50
    await again.close()

"""The SQLite store's file: made, recognised, brought to the newest version; never somebody else's."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import stat
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from responder.mail.lifecycle import State
from responder.store import sqlite
from responder.store.base import StoreUnusableError
from responder.store.sqlite import SQLiteStore, database
from tests.support.clock import ManualClock
from tests.support.server import ROOT
from tests.support.stores import accept, answer, claim

NEWEST = max(int(path.stem) for path in sqlite.SCHEMA.glob("*.sql"))


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


# -- the file ----------------------------------------------------------------------------------------------------------


async def test_new_database_is_ours_alone_and_synced_at_each_commit(tmp_path: Path, clock: ManualClock) -> None:
    store = SQLiteStore(tmp_path / "state" / "deep" / "responder.db", clock)
    await store.open()
    path = tmp_path / "state" / "deep" / "responder.db"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    found = await store._writer.run(
        lambda connection: [
            connection.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("journal_mode", "synchronous", "user_version", "application_id")
        ]
    )
    assert found == ["wal", 2, NEWEST, database.APPLICATION_ID]
    await accept(store, clock)
    for sidecar in path.parent.glob("*-wal"):
        assert stat.S_IMODE(sidecar.stat().st_mode) == 0o600  # it holds mail as well
    await store.close()


async def unusable(path: Path, *, create: bool = True) -> str:
    """Why the database can't be used: one line."""
    store = SQLiteStore(path, ManualClock())
    with pytest.raises(StoreUnusableError) as error:
        await store.open(create=create)
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)
    return str(error.value)


async def test_missing_database_is_not_created_for_a_look(tmp_path: Path) -> None:
    assert "no such database" in await unusable(tmp_path / "responder.db", create=False)
    assert list(tmp_path.iterdir()) == []


def foreign_table(connection: sqlite3.Connection) -> None:
    connection.execute("CREATE TABLE bookmarks (url TEXT)")


def foreign_version(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA user_version = 1")


def foreign_owner(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA application_id = 7")
    connection.execute("CREATE TABLE mail (id TEXT)")


@pytest.mark.parametrize("make", [foreign_table, foreign_version, foreign_owner])
async def test_database_of_another_program_is_refused_and_left_alone(
    tmp_path: Path, make: Callable[[sqlite3.Connection], None]
) -> None:
    path = tmp_path / "other.db"
    with sqlite3.connect(path) as connection:
        make(connection)
        before = connection.execute("SELECT sql FROM sqlite_master").fetchall()
    assert "belongs to another program" in await unusable(path)
    assert connection.execute("SELECT sql FROM sqlite_master").fetchall() == before
    connection.close()


async def test_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "letter.txt"
    path.write_bytes(b"Dear Sir, this is a letter. " * 100)
    assert "not a database" in await unusable(path)
    assert path.read_bytes() == b"Dear Sir, this is a letter. " * 100


async def test_path_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    await unusable(tmp_path / "file" / "responder.db")
    await unusable(tmp_path)


# -- versions ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def schema(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The schema's folder as a copy that a test may add to."""
    folder = tmp_path / "schema"
    shutil.copytree(sqlite.SCHEMA, folder)
    monkeypatch.setattr(sqlite, "SCHEMA", folder)
    return folder


async def test_older_database_is_brought_to_the_newest_version(
    tmp_path: Path, opened: SQLiteStore, clock: ManualClock, schema: Path
) -> None:
    [identifier] = await accept(opened, clock)
    await opened.close()
    (schema / f"{NEWEST + 1:04}.sql").write_text(
        "-- a column; with a semicolon in a comment\nALTER TABLE mail ADD COLUMN note TEXT NOT NULL DEFAULT 'a;b';\n"
    )
    (schema / f"{NEWEST + 2:04}.sql").write_text("CREATE TABLE extra (id INTEGER);\nINSERT INTO extra VALUES (1);\n")
    store = SQLiteStore(tmp_path / "responder.db", clock)
    await store.open()
    [account] = await store.account(identifier)
    assert account.mail is not None
    assert account.mail["note"] == "a;b"
    [item] = await claim(store)
    assert await store.settle_inbound(item, answer(clock, item)) is not None
    await store.close()
    await store.open()  # and once only
    assert await store._writer.run(lambda c: c.execute("SELECT count(*) FROM extra").fetchone()[0]) == 1
    await store.close()


async def test_migration_that_fails_changes_nothing(tmp_path: Path, opened: SQLiteStore, schema: Path) -> None:
    await opened.close()
    broken = schema / f"{NEWEST + 1:04}.sql"
    broken.write_text("CREATE TABLE half (id INTEGER);\nCREATE TABLE half (id INTEGER);\n")
    await unusable(tmp_path / "responder.db")
    broken.unlink()
    store = SQLiteStore(tmp_path / "responder.db", ManualClock())
    await store.open()
    tables = await store._writer.run(lambda c: c.execute("SELECT name FROM sqlite_master").fetchall())
    assert ("half",) not in tables
    await store.close()


async def test_newer_database_is_refused(tmp_path: Path, opened: SQLiteStore) -> None:
    await opened.close()
    with sqlite3.connect(tmp_path / "responder.db") as connection:
        connection.execute(f"PRAGMA user_version = {NEWEST + 1}")
    connection.close()
    reason = await unusable(tmp_path / "responder.db")
    assert f"version {NEWEST + 1}, this program knows {NEWEST}" in reason


OPEN_AND_ACCEPT = """
import asyncio, sys
from pathlib import Path
from responder.clock import SystemClock
from responder.store.sqlite import SQLiteStore, database
from tests.support.stores import accept

async def main() -> None:
    store = SQLiteStore(Path(sys.argv[1]), SystemClock())
    sys.stdin.readline()
    await store.open()
    await accept(store, SystemClock())
    await store.close()

asyncio.run(main())
"""


async def test_processes_that_open_a_new_database_together_share_it(tmp_path: Path, clock: ManualClock) -> None:
    path = tmp_path / "responder.db"
    processes = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-c", OPEN_AND_ACCEPT, str(path), cwd=ROOT, stdin=-1, stdout=-1, stderr=-1
        )
        for _ in range(4)
    ]
    try:
        async with asyncio.timeout(60):
            ends = await asyncio.gather(*(process.communicate(b"go\n") for process in processes))
    finally:
        for process in processes:
            if process.returncode is None:
                process.kill()
    assert [(process.returncode, end[1].decode()) for process, end in zip(processes, ends, strict=True)] == [
        (0, "")
    ] * 4
    store = SQLiteStore(path, clock)
    await store.open()
    assert await count(store) == 4
    await store.close()


async def test_new_database_that_another_process_looks_at_is_waited_for(
    tmp_path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader of the new, still empty file keeps it from becoming a WAL one, and SQLite does not wait for that lock."""
    path = tmp_path / "responder.db"
    path.touch()
    reader = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM sqlite_master").fetchone()
    pauses = []

    class Pause:
        def wait(self, seconds: float) -> None:
            pauses.append(seconds)
            if len(pauses) == 2:
                reader.execute("ROLLBACK")

    monkeypatch.setattr(database, "Pause", Pause)
    store = SQLiteStore(path, clock)
    await store.open()
    await accept(store, clock)
    await store.close()
    reader.close()
    assert len(pauses) == 2

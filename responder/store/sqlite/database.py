"""The database file: connections, schema versions, and errors in the store's own terms."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from threading import Event as Pause

from responder.store.base import StoreError, StoreFullError, StoreUnavailableError, StoreUnusableError

APPLICATION_ID = 0x52535044  # "RSPD" in the file's header: a database of somebody else's is refused, not migrated
ATTEMPTS = 200  # to get a lock that SQLite does not wait for, within `BUSY`
BUSY = 10.0  # seconds that another process may hold the write lock before we say 451
CHECKPOINT_PAGES = 1000  # pages of write-ahead log after which SQLite itself would copy them into the database

MOVED = "the database or its -wal was removed or replaced while it is in use: put it back, or stop the server"

Files = list[tuple[int, int] | None]


def connect(path: Path, *, create: bool = False) -> sqlite3.Connection:
    """A connection whose commits are on disk when they return; `migrate` sees to the rest. Raises `sqlite3.Error`, also where
    the file is missing and `create` was not asked for: a database that vanishes must not be replaced by an empty one."""
    mode = "rwc" if create else "rw"
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode={mode}",
        uri=True,
        timeout=BUSY,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=256,
    )
    try:
        # FULL: the WAL is synced at each commit. NORMAL would lose the last commits, and so acknowledged mail, at a power cut.
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA journal_size_limit = 67108864")
        # The checkpointer does it; this is for when it can't keep up.
        connection.execute(f"PRAGMA wal_autocheckpoint = {16 * CHECKPOINT_PAGES}")
        connection.execute("PRAGMA temp_store = MEMORY")
    except BaseException:
        connection.close()
        raise
    return connection


def identities(path: Path) -> Files:
    """Which files the database and its write-ahead log are now; None for one that is missing. A microsecond or two."""
    found: Files = []
    for name in (path, f"{path}-wal"):
        try:
            status = os.stat(name)
        except OSError:
            found.append(None)
        else:
            found.append((status.st_dev, status.st_ino))
    return found


def migrate(connection: sqlite3.Connection, folder: Path) -> None:
    """Bring the database to the newest version: one numbered script of `folder` after the other, in one transaction.

    Raises `StoreUnusableError` where the file is not ours or of a version this program does not know, and `sqlite3.Error`.
    """
    scripts = {int(path.stem): path for path in folder.glob("*.sql")}
    newest = newest_version(folder)
    connection.execute("BEGIN")  # one snapshot: another process may be migrating
    try:
        examine(connection, newest)  # before the next pragma changes the file of another program
    finally:
        connection.execute("ROLLBACK")
    _use_wal(connection)
    connection.execute("BEGIN IMMEDIATE")  # two processes that start together: one migrates, the other finds it done
    try:
        version = examine(connection, newest)
        for number in range(version + 1, newest + 1):
            for statement in split_script(scripts[number].read_text(encoding="utf-8")):
                connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {newest}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _use_wal(connection: sqlite3.Connection) -> None:
    """Switch to the write-ahead log. Two processes that start together on a new file both want it, and SQLite lets neither
    wait for that lock (its busy handler is not asked where waiting could deadlock), so it is asked for again.

    Raises `sqlite3.OperationalError` where another process keeps the lock for longer than `BUSY`.
    """
    pause = Pause()
    connection.execute("PRAGMA busy_timeout = 0")  # the waiting is done here
    for attempt in range(ATTEMPTS):
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            break
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or attempt == ATTEMPTS - 1:
                raise
            pause.wait(BUSY / ATTEMPTS)
    connection.execute(f"PRAGMA busy_timeout = {int(BUSY * 1000)}")


def examine(connection: sqlite3.Connection, newest: int) -> int:
    """The version of a database; 0 where it is empty. Raises `StoreUnusableError` where it is not ours or newer than `newest`."""
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    owner = connection.execute("PRAGMA application_id").fetchone()[0]
    tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    if owner != APPLICATION_ID and (version or tables):
        raise StoreUnusableError("the database belongs to another program")
    if version > newest:
        raise StoreUnusableError(
            f"the database has schema version {version}, this program knows {newest}: run the newer program"
        )
    return version


def newest_version(folder: Path) -> int:
    """The version that the scripts in `folder` lead to."""
    return max(int(path.stem) for path in folder.glob("*.sql"))


def split_script(script: str) -> list[str]:
    """The statements of a script: `executescript` would commit the transaction that they belong to."""
    statements, current = [], ""
    for line in script.splitlines(keepends=True):
        current += line
        if sqlite3.complete_statement(current):
            statements.append(current)
            current = ""
    return statements


def translate(error: sqlite3.Error) -> StoreError:
    """A database error in the store's own terms. The original stays attached as the cause, for the log."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    kind = StoreFullError if code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_TOOBIG) else StoreUnavailableError
    translated = kind(str(error))
    translated.__cause__ = error
    return translated

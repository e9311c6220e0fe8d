"""The one thread that writes: it commits whatever is waiting as one transaction (group commit).

Many connections wait for their mails to become durable at the same time. One `fdatasync` serves them all: the thread takes
every operation that has queued up while the last commit was under way, runs them in one transaction and completes all
their futures with one wake-up of the event loop.

An operation is a function of the connection and of a list of arguments: all of one kind that are waiting run as one call.
One that raises must not take its neighbours down: the batch is rolled back and run again one by one, with a savepoint around
each, so operations have no effect but on the database.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from responder.aside import aside
from responder.observe import event
from responder.store.base import StoreUnavailableError
from responder.store.sqlite.database import MOVED, Files, connect, identities, translate

T = TypeVar("T")
A = TypeVar("A")
Operation = Callable[[sqlite3.Connection, list[Any]], list[Any]]

BATCH = 500  # operations in one transaction: bounds how long the first one waits for its neighbours
CHECKPOINT = 1000  # operations between two checkpoints


class Checkpointer:
    """Copies the write-ahead log into the database, beside the writer: a commit that had to do it would keep every client
    waiting for some 50 ms (accepts a second, measured with and without: 5,700 and 9,000)."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._due = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="responder-store-checkpoint", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def nudge(self) -> None:
        """There is enough to copy."""
        self._due.set()

    def stop(self) -> None:
        """End, and wait for it."""
        self._stopping = True
        self._due.set()
        self._thread.join()

    def _run(self) -> None:
        while True:
            self._due.wait()
            self._due.clear()
            if self._stopping:
                return
            try:
                connection = connect(self._path)
                try:
                    # PASSIVE: as far as it goes without keeping anybody waiting (sqlite.org/wal.html, "Checkpointing")
                    connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
                finally:
                    connection.close()
            except sqlite3.Error as error:
                event("checkpoint failed", level=logging.WARNING, cause=str(error))


class Writer:
    """The thread and its connection. After a failure the connection is opened afresh, so a mended disk needs no restart."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._queue: queue.SimpleQueue[tuple[Operation, Any, asyncio.Future[Any]] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._connection: sqlite3.Connection | None = None
        self._files: Files = []
        self._failed = False  # the last transaction did, so the connection is replaced
        self._loop: asyncio.AbstractEventLoop | None = None
        self._checkpointer: Checkpointer | None = None
        self._since = 0  # operations since the last checkpoint

    def start(self, connection: sqlite3.Connection) -> None:
        """Begin to write, over a connection that has been migrated."""
        self._connection = connection
        self._path = self._path.absolute()  # a plugin may change the working folder
        self._files = identities(self._path)
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run, name="responder-store", daemon=True)
        self._thread.start()
        self._checkpointer = Checkpointer(self._path)
        self._checkpointer.start()

    async def stop(self) -> None:
        """Finish what was asked for, then close."""
        thread, self._thread = self._thread, None  # first: what is submitted from now on would never be run
        if thread is not None:
            self._queue.put(None)
            await aside(thread.join)
        if self._checkpointer is not None:
            await aside(self._checkpointer.stop)
            self._checkpointer = None

    def submit(self, operation: Callable[[sqlite3.Connection, list[A]], list[T]], argument: A) -> asyncio.Future[T]:
        """Run `operation` with `argument` (and those of its kind that wait with it) in the next transaction; the future
        completes when it is durable.

        Raises `StoreUnavailableError` where the writer is not running. A future that is cancelled does not undo the work.
        """
        if self._thread is None or self._loop is None:
            raise StoreUnavailableError("the store is closed")
        future: asyncio.Future[T] = self._loop.create_future()
        self._queue.put((operation, argument, future))
        return future

    def run(self, function: Callable[[sqlite3.Connection], T]) -> asyncio.Future[T]:
        """Run one function in the next transaction: for what is rare."""
        return self.submit(lambda connection, _: [function(connection)], None)

    def _run(self) -> None:
        stopping = False
        while not stopping:
            first = self._queue.get()
            batch = [] if first is None else [first]
            stopping = first is None
            while not stopping and len(batch) < BATCH:
                try:
                    entry = self._queue.get_nowait()
                except queue.Empty:
                    break
                if entry is None:
                    stopping = True
                else:
                    batch.append(entry)
            if batch:
                outcomes = self._commit([(operation, argument) for operation, argument, _ in batch])
                self._finish([future for _, _, future in batch], outcomes)
                self._since += len(batch)
                if self._since >= CHECKPOINT and self._checkpointer is not None:
                    self._since = 0
                    self._checkpointer.nudge()
        if self._connection is not None:
            self._connection.close()

    def _commit(self, operations: list[tuple[Operation, Any]]) -> list[Any]:
        """The operations' results, or the exceptions in their place."""
        try:
            connection = self._usable()
            try:
                return self._transaction(connection, operations)
            except Exception as error:
                if len(operations) == 1 or isinstance(
                    error, sqlite3.OperationalError
                ):  # the disk's fault, not one operation's
                    raise
                return self._transaction(connection, operations, savepoints=True)
        except sqlite3.Error as error:
            self._failed = True
            failure = translate(error)
            event("store failed", level=logging.ERROR, cause=str(error), operations=len(operations))
            return [failure] * len(operations)
        except Exception as error:  # an operation's own: a programming error or a plain answer such as KeyError
            return [error] * len(operations)

    def _transaction(
        self, connection: sqlite3.Connection, operations: list[tuple[Operation, Any]], savepoints: bool = False
    ) -> list[Any]:
        connection.execute("BEGIN IMMEDIATE")
        try:
            results = self._one_by_one(connection, operations) if savepoints else self._by_kind(connection, operations)
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        return results

    @staticmethod
    def _by_kind(connection: sqlite3.Connection, operations: list[tuple[Operation, Any]]) -> list[Any]:
        """One call for all operations of a kind. They waited together, so none may rely on coming before another."""
        kinds: dict[Operation, list[int]] = {}
        for number, (operation, _) in enumerate(operations):
            kinds.setdefault(operation, []).append(number)
        results: list[Any] = [None] * len(operations)
        for operation, numbers in kinds.items():
            outcomes = operation(connection, [operations[number][1] for number in numbers])
            for number, outcome in zip(numbers, outcomes, strict=True):
                results[number] = outcome
        return results

    @staticmethod
    def _one_by_one(connection: sqlite3.Connection, operations: list[tuple[Operation, Any]]) -> list[Any]:
        results: list[Any] = []
        for operation, argument in operations:
            connection.execute("SAVEPOINT one")
            try:
                results += operation(connection, [argument])
            except Exception as error:
                if not connection.in_transaction:  # SQLite gave up the whole transaction: disk full, I/O error
                    raise
                connection.execute("ROLLBACK TO one")
                results.append(translate(error) if isinstance(error, sqlite3.Error) else error)
            connection.execute("RELEASE one")
        return results

    def _usable(self) -> sqlite3.Connection:
        """The connection, or a fresh one in place of one that failed: its caches may hold what never reached the disk.

        The old one is let go of only then. Without any connection to the file, the next one would take what a failed commit
        left in the WAL for good: a claim that its worker knows nothing of, a mail that the client was told to keep.

        Files that were removed or replaced under us take nothing more: SQLite would go on writing to what has no name.
        """
        if identities(self._path) != self._files:
            raise sqlite3.OperationalError(MOVED)
        if self._failed:
            fresh = connect(self._path)
            fresh.execute("SELECT count(*) FROM sqlite_master").fetchone()  # only now it has the WAL open
            failed, self._connection, self._failed = self._connection, fresh, False
            assert failed is not None
            try:
                failed.close()
            except sqlite3.Error as error:
                event("store not closed", level=logging.ERROR, cause=str(error))
        assert self._connection is not None
        return self._connection

    def _finish(self, futures: list[asyncio.Future[Any]], outcomes: list[Any]) -> None:
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(_complete, futures, outcomes)
        except RuntimeError:
            event("committed for nobody", level=logging.WARNING, operations=len(futures), reason="the loop has ended")


def _complete(futures: list[asyncio.Future[Any]], outcomes: list[Any]) -> None:
    for future, outcome in zip(futures, outcomes, strict=True):
        if future.cancelled():
            continue
        if isinstance(outcome, Exception):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)

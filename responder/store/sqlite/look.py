"""Whether a database could be used, without making or changing anything: for `responder check`."""

from __future__ import annotations

import errno
import os
import sqlite3
from pathlib import Path

from responder.store.base import StoreUnusableError
from responder.store.sqlite.writer import examine, newest_version

SCHEMA = Path(__file__).with_name("schema")


def look(path: Path) -> None:
    """Raises `StoreUnusableError`: one line."""
    path = path.absolute()
    try:
        there = path.exists()
        if there:
            with path.open("rb"):
                pass
        _writable(path if there else path.parent)
        _writable(path.parent)  # the write-ahead log stands beside the database
    except OSError as error:
        raise StoreUnusableError(f"{path}: {error.strerror}") from error
    if not there or not path.stat().st_size:
        return
    # Where there is no write-ahead log, all is in the file, and SQLite need not make one to read it.
    log = path.with_name(f"{path.name}-wal")
    mode = "mode=ro" if log.exists() else "immutable=1"
    try:
        connection = sqlite3.connect(f"{path.as_uri()}?{mode}", uri=True)
        try:
            examine(connection, newest_version(SCHEMA))
        finally:
            connection.close()
    except (StoreUnusableError, sqlite3.Error) as error:
        raise StoreUnusableError(f"{path}: {error}") from error


def _writable(path: Path) -> None:
    """Raises `OSError` where it can't be written, or can't be made."""
    while not path.exists():
        path = path.parent
        if path.exists() and not path.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    if not os.access(path, os.W_OK | (os.X_OK if path.is_dir() else 0)):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

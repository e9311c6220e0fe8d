"""Whether a database could be used, without making or changing anything: for `responder check`."""

from __future__ import annotations

import errno
import os
import sqlite3
from pathlib import Path

from responder.store.base import StoreUnusableError
from responder.store.sqlite.database import examine, newest_version

SCHEMA = Path(__file__).with_name("schema")


def look(path: Path) -> None:
    """Raises `StoreUnusableError`: one line."""
    try:
        there = path.exists()
        if path.is_dir():
            raise StoreUnusableError(f"{path}: is a folder, wants a file")
        folder = next(one for one in path.absolute().parents if one.exists())
        if not folder.is_dir():
            raise StoreUnusableError(f"{path}: there is a file where a folder is wanted")
        # The write-ahead log stands beside the database.
        if not os.access(folder, os.W_OK | os.X_OK) or (there and not os.access(path, os.R_OK | os.W_OK)):
            raise StoreUnusableError(f"{path}: {os.strerror(errno.EACCES)}")
    except OSError as error:
        raise StoreUnusableError(f"{path}: {error.strerror}") from error
    if not there or not path.stat().st_size:
        return
    # Where there is no write-ahead log, all is in the file, and SQLite need not make one to read it.
    log = path.with_name(f"{path.name}-wal")
    mode = "mode=ro" if log.exists() else "immutable=1"
    try:
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?{mode}", uri=True)
        try:
            examine(connection, newest_version(SCHEMA))
        finally:
            connection.close()
    except (StoreUnusableError, sqlite3.Error) as error:
        raise StoreUnusableError(f"{path}: {error}") from error

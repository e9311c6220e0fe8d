"""Files that are read again when they change. What is wrong with a new one leaves the old content in use."""

from __future__ import annotations

import errno
import logging
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from responder.observe import event

Mark = tuple[tuple[int, ...], ...]


class FileError(Exception):
    """A file can't be used: one line, `KEY: FILE: REASON`."""

    def __init__(self, key: str, path: Path, reason: str) -> None:
        super().__init__(f"{key}: {path}: {reason}")


class FollowedFiles:
    """What was read from some files; a subclass says how."""

    def __init__(self, *paths: Path) -> None:
        """Read them. Raises `FileError`."""
        self._paths = tuple([path.absolute() for path in paths])  # an agent may leave the folder
        self._mark = self._look()  # before they are read: what is written meanwhile is read at the next look
        self._read()

    def refresh(self) -> bool:
        """Read them again where they have changed: whether something new is in use. It may block, so it is for a thread; it
        never raises. A file that can't be used is logged once, and looked at again when it changes again."""
        found = self._look()
        if found == self._mark:
            return False
        self._mark = found
        try:
            self._read()
        except FileError as error:
            event("not read again", level=logging.WARNING, reason=str(error))
            return False
        event("read again", files=", ".join(map(str, self._paths)))
        for key, reason in self.remarks():
            event("notice", key=key, reason=reason)
        return True

    def remarks(self) -> Iterator[tuple[str, str]]:
        """(key, reason) of what the operator may not have meant."""
        yield from ()

    def _read(self) -> None:
        """Read them, and put what they say in use all at once. Raises `FileError`."""
        raise NotImplementedError

    def _look(self) -> Mark:
        """What shows that a file is another one. With the time of its status: rights may be what kept it from being read."""
        return tuple([mark(path) for path in self._paths])


def read_file(key: str, path: Path, most: int) -> bytes:
    """A file's octets, `most` at the most. Raises `FileError`."""
    try:
        with open_regular(path) as file:
            content = file.read(most + 1)
    except FileNotFoundError as error:
        raise FileError(key, path, "no such file") from error
    except PermissionError as error:
        raise FileError(key, path, "no permission to read it") from error
    except OSError as error:
        raise FileError(key, path, error.strerror or type(error).__name__) from error
    if len(content) > most:
        raise FileError(key, path, f"is larger than {most} octets")
    return content


def open_regular(path: Path) -> BinaryIO:
    """A file, open for reading; what is none (a pipe) is not waited for. Raises `OSError`."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    raise OSError(errno.EINVAL, os.strerror(errno.EISDIR) if stat.S_ISDIR(mode) else "is no regular file")


def open_to_all(path: Path) -> bool:
    """Whether everybody on this machine may read it."""
    try:
        return bool(path.stat().st_mode & stat.S_IROTH)
    except OSError:
        return False


def mark(path: Path) -> tuple[int, ...]:
    """What shows that a file is another one than before; () where there is none."""
    try:
        found = path.stat()
    except OSError:
        return ()
    return found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_size

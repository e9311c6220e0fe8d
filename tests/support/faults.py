"""What happens to a disk under a running server: each a context, and the fault is over when the block ends."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FILES = ("", "-wal", "-shm")  # what belongs to one SQLite database


@contextmanager
def small_disk(folder: Path, octets: int) -> Iterator[None]:
    """A file system of its own at `folder`, with so much room. Needs root."""
    folder.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={octets}", "none", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextmanager
def full(folder: Path) -> Iterator[None]:
    """No room left where `folder` is."""
    filler = folder / "filler"
    try:
        with filler.open("wb", buffering=0) as file:
            for size in (1 << 16, 1 << 12, 1):
                with contextlib.suppress(OSError):
                    while True:
                        file.write(b"x" * size)
        yield
    finally:
        filler.unlink()


@contextmanager
def immutable(database: Path) -> Iterator[None]:
    """The files can't be changed, whoever has them open: as on a file system that went read-only. Needs root.

    Not `-shm`: it is mapped memory, and the kernel ends who writes to such a page.
    """
    files = [str(database), f"{database}-wal"]
    subprocess.run(["chattr", "+i", *files], check=True)
    try:
        yield
    finally:
        subprocess.run(["chattr", "-i", *files], check=True)


@contextmanager
def file_size_limit(pid: int) -> Iterator[None]:
    """The process may write to no regular file at all (EFBIG), its log included."""
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, before)


@contextmanager
def failing(pid: int, database: Path, calls: str, error: int) -> Iterator[None]:
    """These system calls of the process fail on the files of its database."""
    paths = [word for suffix in FILES for word in ("-P", f"{database}{suffix}")]
    inject = f"inject={calls}:error={errno.errorcode[error]}"
    process = subprocess.Popen(
        ["strace", "-f", "-p", str(pid), "-o", os.devnull, *paths, "-e", f"trace={calls}", "-e", inject],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    try:
        attached = process.stderr.readline()
        assert re.search(r"Process \d+ attached", attached), attached
        yield
    finally:
        process.terminate()
        process.wait()
        process.stderr.close()

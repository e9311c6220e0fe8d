"""What a power cut leaves of a database: its files rebuilt from the system calls that made them.

A write reaches the disk when a sync of its file, begun after it, returns; a file is found under its name when its folder has
been synced since (POSIX promises no more; many file systems do). Whatever else was written may be there, wholly, in part, or
not at all, in any order.
"""

from __future__ import annotations

import random
from collections import defaultdict
from pathlib import Path
from typing import Final, NamedTuple

from tests.support.trace import FILE_WRITES, SYNCS, Call

SECTOR: Final = 512  # what a disk writes in one piece


class _Change(NamedTuple):
    done: int
    offset: int
    octets: bytes | None  # None: the file ends at `offset`


class Disk:
    """The files of one database in `folder`, and that folder's name in the one above. `feed` it calls in their order."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._names: set[str] = set()  # durable
        self._renamed: list[tuple[int, str, bool]] = []  # (done, path, is there), not durable yet
        self._files: dict[str, bytearray] = defaultdict(bytearray)  # durable content
        self._changes: dict[str, list[_Change]] = defaultdict(list)  # not durable yet
        self._offsets: dict[tuple[str, bytes], int] = {}  # by file and descriptor, where there is no pwrite

    def feed(self, call: Call) -> None:
        """Take in one call that returned."""
        if call.result < 0:
            return
        if call.name.startswith(("mkdir", "unlink")):
            path = str(self._folder.parent / call.arguments.split(b'"')[1].decode())
            if path.startswith(str(self._folder)):
                self._renamed.append((call.done, path, call.name.startswith("mkdir")))
            return
        if call.name == "openat":
            self._open(call)
            return
        path = call.target
        if call.name in SYNCS:
            self._sync(call, path)
        elif path.startswith(f"{self._folder}/") and not path.endswith("-shm"):
            if call.name == "ftruncate":
                self._changes[path].append(_Change(call.done, call.number, None))
            elif call.name == "lseek":
                self._offsets[path, call.arguments.partition(b"<")[0]] = call.result
            elif call.name in FILE_WRITES:
                self._write(call, path)

    def image(self, folder: Path, chance: random.Random | None = None) -> bool:
        """Write what a power cut would leave into `folder`; of what was not synced nothing, or, by `chance`, some sectors.
        Whether the folder would be there at all."""
        names = set(self._names)
        for _, path, there in self._renamed:
            if chance is not None and chance.random() < 0.5:
                (names.add if there else names.discard)(path)
        if str(self._folder) not in names:
            return False
        folder.mkdir()
        for path in sorted(names - {str(self._folder)}):
            content = bytearray(self._files[path])
            for change in self._changes[path] if chance is not None else ():
                for part in _sectors(change):
                    if chance is not None and chance.random() < 0.5:
                        _apply(content, part)
            (folder / Path(path).name).write_bytes(content)
        return True

    def _open(self, call: Call) -> None:
        path = call.arguments.split(b'"')[1].decode()
        if not path.startswith(f"{self._folder}/") or path.endswith("-shm"):
            return
        if b"O_CREAT" in call.arguments:
            self._renamed.append((call.done, path, True))
        if b"O_TRUNC" in call.arguments:
            self._changes[path].append(_Change(call.done, 0, None))

    def _write(self, call: Call, path: str) -> None:
        descriptor = call.arguments.partition(b"<")[0]
        offset = call.number if call.name.startswith("pwrite") else self._offsets.get((path, descriptor), 0)
        self._offsets[path, descriptor] = offset + call.result
        self._changes[path].append(_Change(call.done, offset, call.octets))

    def _sync(self, call: Call, path: str) -> None:
        changes = self._changes[path]
        while changes and changes[0].done < call.begun:
            _apply(self._files[path], changes.pop(0))
        waiting = []
        for done, name, there in self._renamed:
            if str(Path(name).parent) == path and done < call.begun:
                (self._names.add if there else self._names.discard)(name)
            else:
                waiting.append((done, name, there))
        self._renamed = waiting


def _apply(content: bytearray, change: _Change) -> None:
    if change.octets is None:
        del content[change.offset :]
        content.extend(bytes(change.offset - len(content)))
        return
    content.extend(bytes(max(change.offset - len(content), 0)))
    content[change.offset : change.offset + len(change.octets)] = change.octets


def _sectors(change: _Change) -> list[_Change]:
    """The pieces that a disk would write a change in."""
    if change.octets is None:
        return [change]
    ends = [*range(SECTOR - change.offset % SECTOR, len(change.octets), SECTOR), len(change.octets)]
    return [
        _Change(change.done, change.offset + begin, change.octets[begin:end])
        for begin, end in zip([0, *ends], ends, strict=False)
    ]

"""The transcript of the decoys: JSON lines in a file that rotates, written by a thread of its own.

    {"time": "2026-11-21T08:35:11.123Z", "session": ID, "peer": "192.0.2.1", "port": 40000, "event": "client", "line": "QUIT\\n"}

`event` is begin, client, server, login, tls, message, end, dropped. Octets stand in `line`; in `base64` where they are no UTF-8.
All `client` lines of a session together are what the client sent, all `server` lines what it was told; of a message only the
first `decoy.message` octets are kept, and `cut` says how many are missing. A line is ASCII, and nothing in it moves a terminal.
"""

from __future__ import annotations

import base64
import contextlib
import json
import logging
import os
import threading
from collections import deque
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from responder.config import Config
from responder.observe import event

WAITING = 10_000  # records that wait for the disk
WAITING_OCTETS = 32 << 20  # and what they hold


class Transcript:
    """Takes records from sessions, at once, and writes them as fast as the disk lets it. What there is no room for is dropped,
    and counted in the file. `follow` gives it another place."""

    def __init__(self, path: Path, rotate: int, keep: int) -> None:
        self._path = path.absolute()  # an agent may leave the folder
        self._rotate = rotate
        self._keep = keep
        self._waiting: deque[tuple[int, Mapping[str, Any]]] = deque()
        self._octets = 0
        self._dropped = 0
        self._busy = False
        self._closed = False
        self._failed = False
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._file: int | None = None
        self._opened: Path | None = None
        self._size = 0

    @property
    def path(self) -> Path:
        """The file that is written to."""
        return self._path

    def follow(self, path: Path, rotate: int, keep: int) -> None:
        """Take a new configuration: what waits goes to the new place."""
        with self._changed:
            self._path, self._rotate, self._keep = path.absolute(), rotate, keep

    def put(self, record: Mapping[str, Any], octets: bytes = b"") -> None:
        """Write a record, soon; `octets` go into it as `line` or `base64`."""
        size = len(octets) + 300
        with self._changed:
            if (
                self._closed
                or len(self._waiting) >= WAITING
                or (self._waiting and self._octets + size > WAITING_OCTETS)
            ):
                self._dropped += 1
                return
            if octets:
                record = {**record, "octets": octets}
            self._waiting.append((size, record))
            self._octets += size
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="responder-transcript", daemon=True)
                self._thread.start()
            if not self._busy:
                self._changed.notify_all()

    def close(self, patience: float = 5.0) -> None:
        """Take no more; write what waits, for `patience` seconds at the most."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            thread = self._thread
        if thread is not None:
            thread.join(patience)

    def settle(self, patience: float = 10.0) -> bool:
        """Wait until all of it is in the file: whether it is."""
        with self._changed:
            return self._changed.wait_for(lambda: not (self._waiting or self._busy), patience)

    # -- the thread ----------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        while True:
            with self._changed:
                self._busy = False
                self._changed.notify_all()
                while not (self._waiting or self._closed):
                    self._changed.wait()
                if not self._waiting:
                    break
                self._busy = True
                batch = []
                size = 0
                while self._waiting and size < 1 << 20:
                    one, record = self._waiting.popleft()
                    batch.append(record)
                    size += one
                self._octets -= size
                dropped, self._dropped = self._dropped, 0
                held = len(batch) + dropped
                place = self._path, self._rotate, self._keep
            if dropped:
                batch.append({"time": batch[-1].get("time"), "event": "dropped", "count": dropped})
            try:
                for record in batch:
                    self._write(encode(record), *place)
                self._failed = False
            except OSError as error:  # the trap goes on; the log says once that nobody writes down what it catches
                self._shut()
                with self._changed:
                    self._dropped += held
                if not self._failed:
                    self._failed = True
                    event(
                        "transcript failed", level=logging.ERROR, file=str(place[0]), cause=error.strerror or str(error)
                    )
        self._shut()

    def _write(self, line: bytes, path: Path, rotate: int, keep: int) -> None:
        if self._file is None or self._opened != path:
            self._open(path)
        if self._size and self._size + len(line) > rotate:
            self._shut()
            turn(path, keep)
            self._open(path)
        assert self._file is not None
        view = memoryview(line)
        while view:
            written = os.write(self._file, view)
            self._size += written
            view = view[written:]

    def _open(self, path: Path) -> None:
        self._shut()
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        # What clients say may hold passwords: nobody else reads it. No link is followed, nobody else's pipe waited for.
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        self._file = os.open(path, flags, 0o600)
        os.fchmod(self._file, 0o600)
        self._opened = path
        self._size = os.fstat(self._file).st_size
        if self._size and os.pread(self._file, 1, self._size - 1) != b"\n":  # the last process broke off in a line
            self._size += os.write(self._file, b"\n")

    def _shut(self) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):
                os.close(self._file)
            self._file = None


def turn(path: Path, keep: int) -> None:
    """Rotate: `path` becomes `path.1`, that `path.2`, and so on; `keep` of them stay, the oldest goes."""
    for number in range(keep, 0, -1):
        older = numbered(path, number)
        with contextlib.suppress(FileNotFoundError):
            if number == keep:
                older.unlink()
            else:
                older.rename(numbered(path, number + 1))
    path.rename(numbered(path, 1))


def numbered(path: Path, number: int) -> Path:
    """The name of an older file."""
    return path.with_name(f"{path.name}.{number}")


def place(config: Config) -> Path:
    """Where the transcript of a configuration lies."""
    return config.decoy.transcript or config.state_folder / "decoy.jsonl"


def trouble(path: Path) -> str:
    """Why a transcript can't be written there, as far as that shows without making anything; "" where it can."""
    try:
        return _trouble(path)
    except OSError as error:  # a folder that nobody may look into
        return error.strerror or type(error).__name__


def _trouble(path: Path) -> str:
    if path.is_symlink():
        return "is a symbolic link, wants a file"
    if path.is_dir():
        return "is a folder, wants a file"
    if path.exists():
        if not path.is_file() or not os.access(path, os.R_OK | os.W_OK):
            return "can't be written"
        with path.open("rb") as file:  # a database, or a key: what is told there would spoil it
            return "" if file.read(1) in (b"", b"{") else "is there already, and is no transcript"
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    fine = folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)
    return "" if fine else f"no permission to write in {folder}"


def stamp(now: float) -> str:
    """A moment as records have it: UTC, in milliseconds."""
    return datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{int(now * 1000) % 1000:03d}Z"


def encode(record: Mapping[str, Any]) -> bytes:
    """A record as its line of the file."""
    record = dict(record)
    octets = record.pop("octets", None)
    if octets is not None:
        try:
            record["line"] = octets.decode()
        except UnicodeDecodeError:
            record["base64"] = base64.b64encode(octets).decode()
    return json.dumps(record, default=str).replace("\x7f", "\\u007f").encode() + b"\n"


def octets_of(record: Mapping[str, Any]) -> bytes:
    """What was sent or told, as it was; raises `ValueError` for what is no record of ours."""
    if "line" in record:
        return str(record["line"]).encode("utf-8", "surrogatepass")
    return base64.b64decode(str(record.get("base64", "")))

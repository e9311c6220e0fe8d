"""Sessions of decoys, read back from the transcript: by the session's id, or by the queue id that a client was told."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from responder.decoy.transcript import numbered

MAX_LINE = 64 << 20  # octets of a line: more than any message that is kept, escaped
OLDEST = 10_000  # rotated files that are looked for


def files(path: Path) -> list[Path]:
    """The transcript's files, newest first."""
    found = [path] if path.exists() else []
    for number in range(1, OLDEST):
        older = numbered(path, number)
        if not older.exists():
            break
        found.append(older)
    return found


def find(path: Path, key: str) -> str | None:
    """The id of the session that has this id, or in which a mail got it; None where no file knows it. Raises `OSError`."""
    sought = json.dumps(key).encode()
    for file in files(path):
        for record in _records(file, sought):
            if key in (record.get("session"), record.get("id")):
                return str(record.get("session"))
    return None


def replay(path: Path, session: str) -> Iterator[Mapping[str, Any]]:
    """All records of a session in their order, one at a time. Raises `OSError`."""
    sought = json.dumps(session).encode()
    for file in reversed(files(path)):
        for record in _records(file, sought):
            if record.get("session") == session:
                yield record


def _records(file: Path, sought: bytes) -> Iterator[dict[str, Any]]:
    """The records of a file that have these octets in their line. What is broken is passed over."""
    try:
        stream = file.open("rb")
    except FileNotFoundError:  # rotated away meanwhile
        return
    with stream:
        while line := stream.readline(MAX_LINE):
            if sought not in line:
                continue
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(record, dict):
                yield record

"""Where verifications go: standard output, or a file that is appended to, line by line, so that a run can go on where one ended.

A file is CSV (its name ends in `.csv`) or JSON lines. Each batch is on the disk before the next one is taken. What a remote host
said stands in it: nothing of that moves a terminal, and no cell is a formula to a spreadsheet.
"""

from __future__ import annotations

import asyncio
import csv
import fcntl
import io
import json
import os
import re
import stat
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, Final, Literal, Protocol

from responder.cli.output import bold, harmless, width
from responder.outbound.verifying.verification import Verification

Format = Literal["table", "csv", "jsonl", "json"]

COLUMNS: Final = tuple([field.name for field in fields(Verification)])
MAX_LINE: Final = 1 << 16  # characters of a line that may be one of ours

# A spreadsheet takes what begins so for a formula; with a quote before it, for text. The quote is not lost on reading.
_FORMULA: Final = re.compile(r"'*[=+\-@\t\r]")


class OutputError(Exception):
    """The file can't be used; one line says why."""


class Sink(Protocol):
    """Takes what is known."""

    async def write(self, batch: Sequence[Verification]) -> None:
        """Write these; a file has them when this returns. Raises `OSError`."""
        ...

    def close(self) -> None:
        """Write what ends a document."""
        ...


class Terminal:
    """Standard output: a table for people, or CSV, JSON lines, one JSON list for programs."""

    def __init__(self, form: Format) -> None:
        self._form = form
        self._written = 0
        if form == "csv":
            sys.stdout.write(_row(COLUMNS))
        elif form == "json":
            sys.stdout.write("[")

    async def write(self, batch: Sequence[Verification]) -> None:
        for one in batch:
            if self._form == "table":
                if not self._written:
                    sys.stdout.write(bold(_columns("address", "result", "code", "text")) + "\n")
                sys.stdout.write(_columns(one.address, one.result, one.code or "-", told(one)) + "\n")
            elif self._form == "csv":
                sys.stdout.write(csv_line(one))
            elif self._form == "jsonl":
                sys.stdout.write(json_line(one))
            else:
                sys.stdout.write(("," if self._written else "") + f"\n  {json_line(one).rstrip()}")
            self._written += 1
        sys.stdout.flush()

    def close(self) -> None:
        if self._form == "json":
            sys.stdout.write("\n]\n" if self._written else "]\n")
            sys.stdout.flush()


class File:
    """A file of verifications. `done` holds the addresses that it had when it was opened. Raises `OutputError`."""

    def __init__(self, path: Path, form: Literal["csv", "jsonl"]) -> None:
        self.path = path
        self.done: set[str] = set()
        self._line = csv_line if form == "csv" else json_line
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise OutputError(f"{path}: can't be written: {error.strerror}") from None
        try:
            self._take_over(form)
        except BaseException:
            os.close(self._fd)
            raise

    async def write(self, batch: Sequence[Verification]) -> None:
        """One write for all, so that a kill leaves whole lines but for the last; then on the disk."""
        data = "".join([self._line(one) for one in batch]).encode()
        await asyncio.to_thread(self._append, data)

    def close(self) -> None:
        os.close(self._fd)

    def _append(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]
        self._sync()

    def _sync(self) -> None:
        try:
            os.fsync(self._fd)
        except OSError:
            if stat.S_ISREG(os.fstat(self._fd).st_mode):  # a pipe or a terminal has no disk
                raise

    def _take_over(self, form: Literal["csv", "jsonl"]) -> None:
        """Read what an earlier run has left, its torn last line cut off."""
        if not stat.S_ISREG(os.fstat(self._fd).st_mode):
            return
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise OutputError(f"{self.path}: another run writes it") from None
        size = os.fstat(self._fd).st_size
        whole = self._whole(size)
        read = _read_csv if form == "csv" else _read_json
        with open(self.path, encoding="utf-8", errors="replace", newline="") as file:
            try:
                self.done.update(read(_lines(file, whole)))
            except (ValueError, KeyError, TypeError, csv.Error):
                kind = "CSV" if form == "csv" else "JSON lines"
                raise OutputError(f"{self.path}: holds something else than verifications as {kind}") from None
        if whole < size:
            os.ftruncate(self._fd, whole)
        if not whole and form == "csv":
            self._append(_row(COLUMNS).encode())

    def _whole(self, size: int) -> int:
        """How many octets the whole lines take."""
        end = size
        while end > 0:
            start = max(0, end - (1 << 16))
            found = os.pread(self._fd, end - start, start).rfind(b"\n")
            if found >= 0:
                return start + found + 1
            end = start
        return 0


def told(one: Verification) -> str:
    """What stands in the last column of a table."""
    place = f" [{one.host}]" if one.host else ""
    again = f" (asked {one.tries} times)" if one.tries > 1 else ""
    return f"{one.text}{place}{again}"


def json_line(one: Verification) -> str:
    """One JSON object, in ASCII."""
    return json.dumps(asdict(one)).replace("\x7f", "\\u007f") + "\n"


def csv_line(one: Verification) -> str:
    """One row, a line for certain."""
    return _row(["" if value is None else value for value in asdict(one).values()])


def _row(cells: Sequence[object]) -> str:
    buffer = io.StringIO()
    texts = [harmless(str(cell)) for cell in cells]
    csv.writer(buffer, lineterminator="\n").writerow([f"'{text}" if _FORMULA.match(text) else text for text in texts])
    return buffer.getvalue()


def _columns(address: object, result: object, code: object, text: object) -> str:
    first, second = harmless(str(address)), str(result)
    pads = " " * max(40 - width(first), 0), " " * max(10 - width(second), 0)
    return f"{first}{pads[0]}  {second}{pads[1]}  {code!s:>4}  {harmless(str(text))}".rstrip()


def _lines(file: Any, octets: int) -> Iterator[str]:
    """The lines within so many octets of the file. Raises `ValueError` where one is too long to be ours."""
    while octets > 0 and (line := file.readline(MAX_LINE)):
        if len(line) == MAX_LINE:
            raise ValueError("a line is too long")
        octets -= len(line.encode())
        yield line


def _read_json(lines: Iterator[str]) -> Iterator[str]:
    for line in lines:
        address = json.loads(line)["address"]
        if not isinstance(address, str):
            raise TypeError("an address is a text")
        yield address


def _read_csv(lines: Iterator[str]) -> Iterator[str]:
    rows = csv.reader(lines, strict=True)
    if (head := next(rows, None)) is not None and head[0] != COLUMNS[0]:
        raise ValueError("no heading")
    for row in rows:
        if len(row) != len(COLUMNS):
            raise ValueError("another number of columns")
        yield row[0][1:] if _FORMULA.match(row[0]) and row[0].startswith("'") else row[0]

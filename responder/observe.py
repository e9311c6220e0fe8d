"""Log lines: one per event, `key=value` or JSON, on standard error. No body and no secret of a mail goes into one.

Three events a mail make the log a part of the hot path: lines are put together here rather than by `logging` (a third of its
cost), and those of one turn of the event loop are written with one call. What other libraries log comes out in the same style.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from types import MappingProxyType
from typing import Literal, TextIO

WAITING = 10_000  # events that wait for observers; further ones are left out

_PLAIN = re.compile(r"[!#-<>-\[\]-~\u00a1-\ud7ff\ue000-\ufffc]+")  # no space, quote, equals sign, backslash or control

Formatter = Callable[[float, int, str, Mapping[str, object], BaseException | None], str]


def event(name: str, *, level: int = logging.INFO, error: BaseException | None = None, **fields: object) -> None:
    """Log that something happened. `fields` are what it happened to; None ones are left out; a name that is a Python word
    takes an underscore (`from_`). With `error`, its traceback goes along: for our own mistakes only."""
    if level >= _log.level:
        _log.write(_log.format(time.time(), level, name, fields, error), level)  # the one clock that no test may turn
    if (watch := _watch) is not None:
        watch.tell(name, fields)


@dataclass(frozen=True, slots=True)
class Observer:
    """Who is told of events: `origin` is where it comes from, `call(name, fields)` tells it."""

    origin: str
    call: Callable[[str, Mapping[str, object]], None]


def follow(observers: Sequence[Observer], patience: float = 0.0) -> None:
    """Tell these of every event from now on, and no longer those of before; they get what happened until now, which is waited
    for `patience` seconds."""
    global _watch
    before, _watch = _watch, _Watch(observers) if observers else None
    if before is not None:
        before.close(patience)


def set_up(style: Literal["text", "json"], level: str, stream: TextIO | None = None) -> None:
    """Send the log of the whole program to `stream` (standard error) in one style."""
    _log.stream = stream or sys.stderr
    _log.format = format_json if style == "json" else format_text
    _log.level = logging.getLevelNamesMapping()[level.upper()]
    root = logging.getLogger()
    root.handlers[:] = [_Library()]
    root.setLevel(logging.WARNING)  # libraries speak up for trouble only


def flush() -> None:
    """Write what is waiting."""
    _log.flush()


def format_text(at: float, level: int, name: str, fields: Mapping[str, object], error: BaseException | None) -> str:
    """`2026-11-21T02:00:00.123Z info accepted id=... inbox=echo`: values that need it stand in JSON quotes."""
    words = [_time(at), logging.getLevelName(level).lower(), name]
    words += [f"{key.rstrip('_')}={_value(value)}" for key, value in fields.items() if value is not None]
    line = " ".join(words) + "\n"
    if error is None:
        return line
    # What an exception says may hold line ends: each of its lines is indented, so that none passes for a line of the log.
    told = "".join(traceback.format_exception(error)).splitlines()
    return line + "".join([f"    {_visible(part)}\n" for part in told])


def format_json(at: float, level: int, name: str, fields: Mapping[str, object], error: BaseException | None) -> str:
    """The same as one JSON object a line."""
    entry: dict[str, object] = {"time": _time(at), "level": logging.getLevelName(level).lower(), "event": name}
    entry |= {key.rstrip("_"): value for key, value in fields.items() if value is not None}
    if error is not None:
        entry["traceback"] = "".join(traceback.format_exception(error))
    return _json(entry) + "\n"


class _Log:
    """Where lines go. Those that an event loop's turn brings wait for its end; a warning does not wait."""

    def __init__(self) -> None:
        self.stream: TextIO = sys.stderr
        self.format: Formatter = format_text
        self.level = logging.WARNING  # until `set_up`: a program that only uses a part of us is not flooded
        self._lines: list[str] = []
        self._lock = threading.Lock()

    def write(self, line: str, level: int) -> None:
        with self._lock:
            self._lines.append(line)
            waits = len(self._lines) > 1
        if level < logging.WARNING:
            if waits:
                return
            with contextlib.suppress(RuntimeError):  # no event loop in this thread
                asyncio.get_running_loop().call_soon(self.flush)
                return
        self.flush()

    def flush(self) -> None:
        with self._lock:
            text, self._lines = "".join(self._lines), []
        if text:
            with contextlib.suppress(OSError, ValueError):  # a log that nobody reads any more must not stop the mail
                self.stream.write(text.encode("utf-8", "replace").decode("utf-8"))
                self.stream.flush()


class _Watch:
    """The observers of one configuration, in a daemon thread: what they do, and how long it takes, is nothing to the mail."""

    def __init__(self, observers: Sequence[Observer]) -> None:
        self._observers = tuple(observers)
        self._failed: set[int] = set()
        self._full = False
        self._waiting: SimpleQueue[tuple[str, Mapping[str, object]] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="responder-observers", daemon=True)
        self._thread.start()

    def tell(self, name: str, fields: Mapping[str, object]) -> None:
        if self._waiting.qsize() < WAITING:
            self._waiting.put((name, fields))
        elif not self._full:
            self._full = True
            event("observers too slow", level=logging.WARNING, waiting=WAITING)

    def close(self, patience: float) -> None:
        self._waiting.put(None)
        self._thread.join(patience)

    def _work(self) -> None:
        while (waiting := self._waiting.get()) is not None:
            name, given = waiting
            fields = MappingProxyType({key.rstrip("_"): value for key, value in given.items() if value is not None})
            for number, observer in enumerate(self._observers):
                try:
                    observer.call(name, fields)
                except BaseException as error:  # a `SystemExit` would end the thread without a word
                    if number not in self._failed:
                        self._failed.add(number)
                        _report(observer, error)


def _report(observer: Observer, error: BaseException) -> None:
    event("observer failed", level=logging.WARNING, origin=observer.origin, reason=type(error).__name__, error=error)


class _Library(logging.Handler):
    """What comes through `logging`: the lines of libraries, and those of agents (`Context.log`) as `agent` events."""

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        agent: Mapping[str, object] | None = getattr(record, "fields", None)
        text = _message(record)
        if agent is not None:
            event("agent", level=record.levelno, error=error, **agent, text=text)
            return
        fields = {"logger": record.name}
        _log.write(_log.format(record.created, record.levelno, _visible(text), fields, error), record.levelno)


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception:  # its arguments do not fit: no reason to fail whoever logs
        return f"{record.msg} {record.args!r}"


def _time(at: float) -> str:
    seconds = int(at)
    if _second[0] != seconds:
        _second[:] = [seconds, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))]
    return f"{_second[1]}.{int((at - seconds) * 1000):03d}Z"


_second: list[object] = [0, "1970-01-01T00:00:00"]


def _value(value: object) -> str:
    text = f"{value:.3f}" if isinstance(value, float) else str(value)
    return text if _PLAIN.fullmatch(text) and text.isprintable() else _json(text)


def _json(value: object) -> str:
    """JSON that no terminal obeys and no reader takes for several lines: what is not printable (U+2028, C1 controls) escaped."""
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if text.isprintable() else json.dumps(value, default=str)


def _visible(text: str) -> str:
    return text if text.isprintable() else "".join([c if c.isprintable() else ascii(c)[1:-1] for c in text])


_log = _Log()
_watch: _Watch | None = None

"""Log lines: one per event, `key=value` or JSON, on standard error. No body and no secret of a mail goes into one."""

from __future__ import annotations

import json
import logging
import re
import sys
import traceback
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

_log = logging.getLogger("responder")
_PLAIN = re.compile(r"[!#-<>-\[\]-~\u00a1-\ud7ff\ue000-\ufffc]+")  # no space, quote, equals sign, backslash or control


def event(name: str, *, level: int = logging.INFO, error: BaseException | None = None, **fields: object) -> None:
    """Log that something happened. `fields` are what it happened to; None ones are left out; a name that is a Python word
    takes an underscore (`from_`). With `error`, its traceback goes along: for our own mistakes only."""
    if _log.isEnabledFor(level):
        _log.log(level, name, extra={"fields": fields}, exc_info=error)


def set_up(style: Literal["text", "json"], level: str, stream: TextIO | None = None) -> None:
    """Send the log of the whole program to `stream` (standard error) in one style."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JSONFormatter() if style == "json" else TextFormatter())
    _log.handlers[:] = [handler]
    _log.propagate = False
    _log.setLevel(level.upper())
    # Libraries speak up for trouble only, and in our style.
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)


class TextFormatter(logging.Formatter):
    """`2026-11-21T02:00:00.123Z info accepted id=... inbox=echo`: values that need it stand in JSON quotes."""

    def format(self, record: logging.LogRecord) -> str:
        words = [_time(record), record.levelname.lower(), record.getMessage()]
        words += [f"{key}={_value(value)}" for key, value in _fields(record).items() if value is not None]
        if record.name.partition(".")[0] != "responder":
            words.append(f"logger={record.name}")
        if record.exc_info and record.exc_info[1] is not None:
            words.append("\n" + "".join(traceback.format_exception(record.exc_info[1])).rstrip())
        return " ".join(words)


class JSONFormatter(logging.Formatter):
    """The same as one JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {"time": _time(record), "level": record.levelname.lower(), "event": record.getMessage()}
        entry |= {key: value for key, value in _fields(record).items() if value is not None}
        if record.name.partition(".")[0] != "responder":
            entry["logger"] = record.name
        if record.exc_info and record.exc_info[1] is not None:
            entry["traceback"] = "".join(traceback.format_exception(record.exc_info[1]))
        return json.dumps(entry, default=str, ensure_ascii=False)


def _fields(record: logging.LogRecord) -> dict[str, object]:
    return {key.rstrip("_"): value for key, value in getattr(record, "fields", {}).items()}


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _value(value: object) -> str:
    text = f"{value:.3f}" if isinstance(value, float) else str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text, ensure_ascii=False)

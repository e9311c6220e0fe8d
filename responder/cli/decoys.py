"""`responder explain` for what a decoy has heard: a session, from its transcript."""

from __future__ import annotations

import errno
import json
import sys
from collections.abc import Mapping
from typing import Any

from responder.cli.output import bold, harmless
from responder.config import Config
from responder.decoy.replay import find, replay
from responder.decoy.transcript import octets_of, place
from responder.start import StartError

FACTS = {"time", "session", "peer", "port", "event", "line", "base64"}


def explain(config: Config, key: str, *, as_json: bool) -> bool:
    """Print the session with that id, or with a mail that was told that queue id; whether there is one. Raises `StartError`."""
    path = place(config)
    try:
        session = find(path, key)
        if session is None:
            return False
        if as_json:
            _print_json(replay(path, session))
        else:
            for record in replay(path, session):
                _print(record)
    except OSError as error:
        if error.errno in (errno.EPIPE, errno.ENOSPC):  # of standard output: `responder explain ID | head`
            raise
        raise StartError(f"{path}: can't be read: {error.strerror or error}") from error
    return True


def _print_json(records: Any) -> None:
    """A JSON list, one record at a time: a session may be longer than memory is."""
    sys.stdout.write("[")
    for number, record in enumerate(records):
        text = json.dumps(record).replace("\x7f", "\\u007f")
        sys.stdout.write(("," if number else "") + f"\n  {text}")
    sys.stdout.write("\n]\n")


def _print(record: Mapping[str, Any]) -> None:
    time = harmless(str(record.get("time", "")))
    match record.get("event"):
        case "client" | "server" as side:
            try:
                text = octets_of(record).decode("utf-8", "backslashreplace")
            except ValueError:
                text = "(unreadable)"
            for line in text.removesuffix("\n").split("\n"):
                sys.stdout.write(f"  {time}  {side[0].upper()}: {harmless(line.removesuffix(chr(13)))}\n")
            if "cut" in record:
                sys.stdout.write(f"  {time}  C: ({harmless(str(record['cut']))} octets more were not kept)\n")
        case "begin":
            sys.stdout.write(
                f"{bold('decoy')} {harmless(str(record.get('session')))}"
                f"  {harmless(str(record.get('peer')))} port {harmless(str(record.get('port')))}\n"
            )
            _print_facts(time, "begin", record)
        case other:
            _print_facts(time, str(other), record)


def _print_facts(time: str, kind: str, record: Mapping[str, Any]) -> None:
    facts = " ".join(
        [f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in record.items() if key not in FACTS]
    )
    sys.stdout.write(f"  {time}  {harmless(kind)} {harmless(facts)}".rstrip() + "\n")

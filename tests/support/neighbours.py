"""What a server needs around it to deliver: a name server and an SMTP sink as processes of their own, for a test's length.

The sink writes every mail to its ledger, and syncs it, before it says 250: what is in the ledger has left the server.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from email.parser import BytesHeaderParser
from email.utils import parseaddr
from pathlib import Path
from typing import Any

from tests.support.load import DOMAIN
from tests.support.server import ROOT

MX = "mx.client.example"


@dataclass(frozen=True, slots=True)
class Arrival:
    """One answer that the sink took."""

    message_id: str
    in_reply_to: str
    inbox: str  # the address that it is from
    recipients: tuple[str, ...]
    content: bytes


@contextmanager
def module(name: str, *arguments: str, log: Path) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """A program of `tests.support` that runs for the length of the block: its process and the words of its `ready` line."""
    with log.open("ab") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", f"tests.support.{name}", *arguments],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    try:
        assert process.stdout is not None
        words = process.stdout.readline().split()
        assert words[:1] == ["ready"], log.read_text()
        yield process, words[1:]
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


class Neighbours:
    """The sink and the name server of one test. `delivery` is the configuration table that leads a server to them."""

    def __init__(self, ledger: Path, port: int, nameserver: str) -> None:
        self.ledger = ledger
        self.delivery: dict[str, Any] = {
            "transport": "mx",
            "port": port,
            "nameservers": [nameserver],
            "allow_private_addresses": True,
            "retry": ["1s"],
        }

    def arrivals(self) -> list[Arrival]:
        """Every mail that arrived so far, in its order; a line that is being written is left for later."""
        if not self.ledger.exists():
            return []
        text = self.ledger.read_text(encoding="ascii")
        return [_arrival(json.loads(line)) for line in text[: text.rfind("\n") + 1].splitlines()]


@contextmanager
def neighbours(folder: Path, script: Mapping[str, Any] | None = None) -> Iterator[Neighbours]:
    """A sink that follows `script` and is the MX of every sender of `tests.support.load`."""
    folder.mkdir(parents=True, exist_ok=True)
    zone = folder / "zone.json"
    zone.write_text(json.dumps({DOMAIN: {"MX": [[10, MX]]}, MX: {"A": ["127.0.0.1"]}}))
    ledger = folder / "arrived.jsonl"
    options = ("--port", "0", "--ledger", str(ledger), "--script", json.dumps(script or {}))
    with (
        module("smtp_sink", *options, log=folder / "sink.log") as (_, where),
        module("dns_server", str(zone), "0", log=folder / "dns.log") as (_, nameserver),
    ):
        yield Neighbours(ledger, int(where[1]), nameserver[0])


def _arrival(line: Mapping[str, Any]) -> Arrival:
    content = base64.b64decode(line["content"])
    headers = BytesHeaderParser().parsebytes(content)
    return Arrival(
        message_id=str(headers["Message-ID"]),
        in_reply_to=str(headers["In-Reply-To"]),
        inbox=parseaddr(str(headers["From"]))[1],
        recipients=tuple(line["recipients"]),
        content=content,
    )

"""Two servers that answer each other through a relay that takes away what they know each other by.

    forged: echo@a.example --> echo@b.example
                                    |
        Responder A (a.example) <-- relay that strips and rewrites --> Responder B (b.example)

As long as anything is left of an automatic mail's marks, one exchange is all: B answers once, A is silent. Where nothing is
left, the breakers end it, at their default limits.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.server import ServerProcess, configuration, running
from tests.support.smtp_sink import SMTPSink, Transaction
from tests.support.submission import WAITING, message, queue, submit
from tests.support.waiting import Background, until

CARRIED = 150  # mails that the relay carries at most: a test that fails must end too

AUTO = ("Auto-Submitted",)
MARKS = ("Auto-Submitted", "X-Auto-Response-Suppress", "X-Responder-Loop", "Precedence")
THREAD = ("In-Reply-To", "References")


@dataclass(frozen=True)
class Variant:
    """What the relay does to each mail, and what comes of it."""

    name: str
    strips: tuple[str, ...] = ()
    path: bool = False  # the envelope sender becomes the author, so that an answer goes back to the inbox
    new_id: bool = False  # the Message-ID becomes one of the relay's own
    b: int = 1  # answers of B
    a: int = 0
    end: tuple[str, str] = ("a", "bounce-sender")  # who falls silent, and why


VARIANTS = [
    Variant("nothing", end=("a", "automatic-message-id")),
    Variant("Auto-Submitted", AUTO, end=("a", "automatic-message-id")),
    Variant("all marks", MARKS, end=("a", "automatic-message-id")),
    Variant("all marks, envelope", MARKS, path=True, end=("a", "automatic-message-id")),
    Variant("all marks, Message-ID replaced", MARKS, new_id=True, end=("a", "bounce-sender")),
    # From here on nothing says that a mail is automatic: the default breakers, 20 a conversation and 30 a sender, end it.
    Variant("all, Message-ID replaced", MARKS, True, True, b=20, a=20, end=("b", "breaker-per-conversation")),
    # The first mail of each side still belongs to the conversation that began it; the others have none but their sender.
    Variant("all, Message-ID removed", (*MARKS, "Message-ID"), True, b=21, a=21, end=("b", "breaker-per-conversation")),
    Variant("all, threads too", (*MARKS, *THREAD), True, True, b=30, a=30, end=("b", "breaker-per-sender")),
]


class Relay(SMTPSink):
    """Takes mail, changes it, and passes it on to the server of its recipient's domain."""

    def __init__(self, change: Callable[[Transaction, int], tuple[str, bytes]]) -> None:
        super().__init__()
        self.ports: dict[str, int] = {}
        self.passed = 0  # taken over by the next server
        self._change = change
        self._pool = ThreadPoolExecutor(4)

    def record(self, transaction: Transaction) -> None:
        super().record(transaction)
        if len(self.transactions) <= CARRIED:
            asyncio.get_running_loop().run_in_executor(self._pool, self._pass, transaction, len(self.transactions))

    async def __aexit__(self, *error: Any) -> None:
        await super().__aexit__(*error)
        self._pool.shutdown(cancel_futures=True)

    def _pass(self, transaction: Transaction, number: int) -> None:
        [recipient] = transaction.recipients
        path, content = self._change(transaction, number)
        code, text = submit(self.ports[recipient.partition("@")[2]], path, [recipient], content)
        assert code == 250, text
        self.passed += 1

    @property
    def idle(self) -> bool:
        return self.passed == min(len(self.transactions), CARRIED)


@pytest.mark.parametrize("variant", VARIANTS, ids=[variant.name for variant in VARIANTS])
def test_two_servers_fall_silent_behind_a_relay_that_strips(tmp_path: Path, variant: Variant) -> None:
    def change(transaction: Transaction, number: int) -> tuple[str, bytes]:
        content = transaction.content
        author = re.search(rb"^From: (?:.*<)?([^<>\s]+@[^<>\s]+?)>?\r\n", content, re.MULTILINE)
        assert author is not None
        for name in variant.strips + (("Message-ID",) if variant.new_id else ()):
            content = re.sub(rb"(?mi)^%s:[^\n]*\n(?:[ \t][^\n]*\n)*" % name.encode(), b"", content, count=0)
        if variant.new_id:
            content = b"Message-ID: <%d@relay.example>\r\n" % number + content
        return author[1].decode() if variant.path else transaction.reverse_path, content

    with Background() as background, ExitStack() as stack:
        relay = Relay(change)
        background.enter(relay)
        servers = {
            name: stack.enter_context(running(tmp_path / name, _configuration(name, relay.port))) for name in "ab"
        }
        relay.ports = {f"{name}.example": server.port for name, server in servers.items()}
        forged = message("echo@a.example", "echo@b.example", "Hello", "Who is there?", "Message-ID: <start@a.example>")
        assert submit(servers["b"].port, "echo@a.example", ["echo@b.example"], forged)[0] == 250

        stats = _quiet(servers, relay)
        inbound = {name: stats[name]["inbound"] for name in servers}
        silent, reason = variant.end
        other = "b" if silent == "a" else "a"
        assert inbound[other] == {"ANSWERED": getattr(variant, other)}
        assert inbound[silent].pop("SILENT") == 1
        assert inbound[silent].get("ANSWERED", 0) == getattr(variant, silent)
        assert len(relay.transactions) == variant.a + variant.b
        [last] = queue(servers[silent], "list", "--state", "SILENT")
        assert last["reason"].startswith(f"{reason}:")
        alerts = servers[silent].log.read_text().count(" breaker open ")
        assert alerts == (1 if reason.startswith("breaker") else 0)


def _configuration(name: str, relay: int) -> dict[str, Any]:
    """A server with the default breakers."""
    config = configuration(
        hostname=f"mx.{name}.example",
        domains=[f"{name}.example"],
        inboxes={"echo": {"agent": "echo"}},
        delivery={"transport": "smarthost", "smarthost": f"127.0.0.1:{relay}"},
    )
    del config["reply"]
    return config


def _quiet(servers: dict[str, ServerProcess], relay: Relay) -> dict[str, Any]:
    """What both have counted, once nothing moves anywhere: two looks in a row that are the same."""
    seen = [""]

    def look() -> dict[str, Any] | None:
        before = relay.passed
        stats = {name: queue(server, "stats") for name, server in servers.items()}
        moving = any(WAITING & set(states) for sides in stats.values() for states in sides.values())
        state = json.dumps([stats, before, relay.passed])
        same, seen[0] = state == seen[0], state
        return None if moving or not relay.idle or not same else stats

    return until(look, 60, lambda: f"no end in sight: {len(relay.transactions)} mails carried, {seen[0]}")

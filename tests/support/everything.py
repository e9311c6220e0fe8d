"""A server with all of the inbound side switched on, for the crash tests, and the books of what senders asked to be told."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tests.support.accounting import Books
from tests.support.crash import crash_configuration
from tests.support.load import INBOXES
from tests.support.logins import certificate, users_file
from tests.support.mixed_load import wants_receipt
from tests.support.neighbours import Arrival, Neighbours
from tests.support.server import ROOT, free_port

DOORS = ("smtp", "bdat", "starttls", "smtps", "login", "lmtp", "proxy")
RECEIPT = re.compile(rb"^Action: (delivered|relayed|failed)\r?$", re.MULTILINE)
TOLD_OF = re.compile(rb"^\tby mx\.test\.example with \w+(?: \([^)]*\))? id ([0-9a-z]{18})\r?$", re.MULTILINE)
WHO = re.compile(rb"^Final-Recipient: rfc822; *(\S+?)\r?$", re.MULTILINE)
PASSED = {f"away@{INBOXES}": "keeper@client.example", f"nowhere@{INBOXES}": "nobody@nowhere.example"}
"""Inboxes that pass mail on, and to whom: the second name does not exist."""

CHECKS = '''
import asyncio
from typing import Any

from responder import Check, Client, Mail, Mark, check, hookimpl


class Waits(Check):
    """Takes its time at each step, and remembers every connection."""

    async def connect(self, client: Client) -> None:
        client.state["steps"] = 1
        await asyncio.sleep(0.002)

    async def helo(self, client: Client, name: str) -> None:
        await self.context.state.set(f"hello {client.id}", name, expires=60)

    async def mail(self, client: Client, sender: str, parameters: dict[str, Any]) -> None:
        await asyncio.sleep(0.002)

    def rcpt(self, client: Client, recipient: str) -> None:
        client.state["steps"] = client.state.get("steps", 0) + 1

    async def data(self, client: Client, mail: Mail) -> Mark:
        count = await self.context.state.get("count", 0)
        await self.context.state.set("count", count + 1)
        return Mark({"X-Steps": str(client.state.get("steps", 0))})


@hookimpl
def responder_checks() -> dict[str, type[Check]]:
    return {"waits": Waits}
'''


def everything(folder: Path, around: Neighbours, **changes: Any) -> tuple[dict[str, Any], str]:
    """A configuration, and the doors of it as `tests.support.mixed_load` takes them."""
    folder.mkdir(parents=True, exist_ok=True)
    tls = certificate(folder)
    users = users_file(folder)
    (folder / "checks").mkdir(exist_ok=True)
    (folder / "checks" / "waits.py").write_text(CHECKS)
    ports = {kind: free_port() for kind in ("smtp", "smtps", "login", "lmtp", "proxy", "decoy")}

    def listen(kind: str, **more: Any) -> dict[str, Any]:
        return {"address": f"127.0.0.1:{ports[kind]}", **more}

    table: dict[str, Any] = {
        "listen": [
            listen("smtp"),
            listen("smtps", protocol="smtps"),
            listen("login", protocol="submission"),
            listen("lmtp", protocol="lmtp"),
            listen("proxy", proxy_protocol=True),
            listen("decoy", decoy=True, dialect="postfix"),
        ],
        "plugins": [str(ROOT / "plugins"), str(folder / "checks")],
        "tls": {"certificate": str(tls.certificate), "key": str(tls.key)},
        "auth": {"users": str(users), "failures": "off"},
        "inboxes": {
            "echo": {"agent": "echo"},
            "current-time": {"agent": "current-time"},
            "away": {"agent": "forward", "targets": [PASSED[f"away@{INBOXES}"]]},
            "nowhere": {"agent": "forward", "targets": [PASSED[f"nowhere@{INBOXES}"]]},
        },
        "limits": {"in_flight": 67108864, "junk_commands": 100000, "session": "1h"},
        "greylist": {"enabled": True, "delay": "1s"},
        "blocklists": {"zones": ["list.example"], "timeout": "2s"},
        "authentication": {"mode": "record", "trusted_networks": ["198.51.100.0/24"], "timeout": "3s"},
        "checks": {"waits": {"timeout": "5s"}},
        "decoy": {"auth": "accept"},
    }
    ports |= {"bdat": ports["smtp"], "starttls": ports["smtp"]}
    return crash_configuration(around, **{**table, **changes}), ",".join(f"{kind}:{ports[kind]}" for kind in DOORS)


def receipts(arrivals: Iterable[Arrival]) -> tuple[list[Arrival], list[Arrival], list[Arrival]]:
    """Answers, notifications, and what was forwarded."""
    found: tuple[list[Arrival], list[Arrival], list[Arrival]] = [], [], []
    for arrival in arrivals:
        if arrival.recipients == (PASSED[f"away@{INBOXES}"],):
            found[2].append(arrival)
        else:
            found[1 if RECEIPT.search(arrival.content) else 0].append(arrival)
    return found


def judge_receipts(books: Books, told: Iterable[Arrival]) -> tuple[list[str], int]:
    """What is wrong, and how many notifications there are: whoever asked has one, and no step of a mail is told of twice, or in
    two texts. A mail that its client has sent again is two mails."""
    problems: list[str] = []
    found: dict[tuple[str, str, bytes], dict[str, bytes]] = defaultdict(dict)
    for arrival in told:
        action, who, of = (pattern.search(arrival.content) for pattern in (RECEIPT, WHO, TOLD_OF))
        mail = books.mails.get(arrival.in_reply_to)
        if mail is None or action is None or who is None or of is None or arrival.recipients != (mail["sender"],):
            problems.append(f"tells of nothing that was offered: {arrival.message_id} to {arrival.recipients}")
            continue
        if action[1] != b"failed" and not wants_receipt(mail["number"]):
            problems.append(f"was not asked for: {arrival.message_id}")
        texts = found[arrival.in_reply_to, who[1].decode(), of[1]]
        if texts.setdefault(arrival.message_id, arrival.content) != arrival.content:
            problems.append(f"told twice with different words: {arrival.message_id}")
    problems += [f"told {len(texts)} times: {key}: {sorted(texts)}" for key, texts in found.items() if len(texts) > 1]
    wanted = {
        (key, PASSED.get(to, to))
        for key in books.acknowledged
        for to in books.mails[key]["recipients"]
        if wants_receipt(books.mails[key]["number"])
    }
    problems += [f"not told: {pair}" for pair in sorted(wanted - {key[:2] for key in found})]
    return problems, sum(len(texts) for texts in found.values())


def answered(books: Books) -> Books:
    """The books of the mail that is answered, rather than passed on."""
    mails = {key: mail for key, mail in books.mails.items() if not PASSED.keys() & set(mail["recipients"])}
    return Books(mails, {key: reply for key, reply in books.acknowledged.items() if key in mails}, books.refusals)

"""The books of a crash test: what the client was promised against what arrived at the sink."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.neighbours import Arrival

ANSWER_ID = re.compile(r"<auto\.[0-9a-z]{18}\.\d+\.\d+@mx\.test\.example>")


@dataclass(slots=True)
class Books:
    """`mails` are those that were offered, by Message-ID; `acknowledged` those that got 250 to the dot."""

    mails: dict[str, dict[str, Any]] = field(default_factory=dict)
    acknowledged: dict[str, str] = field(default_factory=dict)  # and with which reply first
    refusals: list[str] = field(default_factory=list)

    @property
    def promised(self) -> set[tuple[str, str]]:
        """The (mail, recipient) pairs that the server took responsibility for."""
        return {(mail, to) for mail in self.acknowledged for to in self.mails[mail]["recipients"]}


@dataclass(slots=True)
class Verdict:
    """What is wrong, one line each, and how many answers arrived more than once with the same words."""

    problems: list[str]
    duplicates: int
    answers: int


def read_books(*ledgers: Path) -> Books:
    """The books of one or more clients."""
    books = Books()
    for ledger in ledgers:
        for line in ledger.read_text(encoding="ascii").splitlines(keepends=True):
            if not line.endswith("\n"):  # being written
                break
            entry = json.loads(line)
            if "offer" in entry:
                books.mails[entry["offer"]["message_id"]] = entry["offer"]
            elif "ack" in entry:
                books.acknowledged.setdefault(entry["ack"], entry["reply"])
            else:
                books.refusals.append(entry["reply"])
    return books


def judge(books: Books, arrivals: Iterable[Arrival]) -> Verdict:
    """Every promised pair has one answer of one Message-ID; what arrives twice is the same to the byte; nothing is strange."""
    problems: list[str] = []
    answers: dict[tuple[str, str], dict[str, bytes]] = defaultdict(dict)
    owners: dict[str, tuple[str, str]] = {}
    times: Counter[str] = Counter()
    for arrival in arrivals:
        pair = (arrival.in_reply_to, arrival.inbox)
        name = f"{arrival.message_id} for {pair}"
        times[arrival.message_id] += 1
        mail = books.mails.get(arrival.in_reply_to)
        if mail is None or arrival.inbox not in mail["recipients"]:
            problems.append(f"answers what was never offered: {name}")
            continue
        if arrival.recipients != (mail["sender"],):
            problems.append(f"sent to {arrival.recipients}: {name}")
        if ANSWER_ID.fullmatch(arrival.message_id) is None:
            problems.append(f"no answer's Message-ID: {name}")
        if owners.setdefault(arrival.message_id, pair) != pair:
            problems.append(f"one Message-ID for two mails: {name}, {owners[arrival.message_id]}")
        if arrival.inbox.startswith("echo") and mail["body"].split()[0].encode() not in arrival.content:
            problems.append(f"the answer to another mail: {name}")
        if answers[pair].setdefault(arrival.message_id, arrival.content) != arrival.content:
            problems.append(f"twice with different words: {name}")
    problems += [f"answered {len(ids)} times: {pair}: {sorted(ids)}" for pair, ids in answers.items() if len(ids) > 1]
    problems += [f"lost: {pair}" for pair in sorted(books.promised - answers.keys())]
    return Verdict(problems, sum(times.values()) - len(times), sum(len(ids) for ids in answers.values()))

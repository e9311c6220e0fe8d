"""The order of things, seen from outside the program: a mail's last byte is read, its row is written to the WAL, the WAL is
synced, and only then its 250 is written. For each of 1,000 mails on 20 connections."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support.crash import crash_configuration, ended, load, mutation
from tests.support.server import ServerProcess
from tests.support.trace import (
    FILE_WRITES,
    READS,
    SYNCS,
    WRITES,
    Call,
    Dialogue,
    calls,
    dialogues,
    start_traced,
    wait_for_end,
)

pytestmark = pytest.mark.peer("strace")

ID = 18  # characters of a mail's id


@dataclass(slots=True)
class Account:
    """What a trace says of every mail, by its id."""

    dialogues: list[Dialogue] = field(default_factory=list)
    written: dict[bytes, int] = field(default_factory=dict)  # where the first write of its id to the WAL had returned
    syncs: list[tuple[int, int]] = field(default_factory=list)  # where a sync of the WAL began and had returned

    def verdicts(self) -> dict[bytes, str]:
        """Each mail that got its 250: "" or what was wrong."""
        verdicts = {}
        for dialogue in self.dialogues:
            assert len(dialogue.dots) == len(dialogue.replies)
            for dot, (replied, line) in zip(dialogue.dots, dialogue.replies, strict=True):
                verdicts[line[-ID:]] = self._judge(line[-ID:], dot, replied)
        return verdicts

    def _judge(self, mail: bytes, dot: int, replied: int) -> str:
        written = self.written.get(mail)
        if written is None or not dot < written < replied:
            return "not written between its dot and its 250"
        if not any(written < begun and done < replied for begun, done in self.syncs):
            return "not synced between its write and its 250"
        return ""


def observe(trace: Path) -> Account:
    """Go through a trace once."""
    account = Account()
    writes: list[tuple[int, bytes]] = []
    spoken: list[Call] = []
    for call in calls(trace):
        if call.peer and (call.name in READS or call.name in WRITES):
            spoken.append(call)
        elif call.target.endswith(".db-wal"):
            if call.name in SYNCS and call.result == 0:
                account.syncs.append((call.begun, call.done))
            elif call.name in FILE_WRITES and call.result > 0:
                writes.append((call.done, call.arguments))
    account.dialogues = dialogues(spoken)
    known = {line[-ID:] for dialogue in account.dialogues for _, line in dialogue.replies}
    starts = b"|".join(sorted({mail[:5] for mail in known}))
    pattern = re.compile(rb"(?=((?:%s)[0-9a-z]{13}))" % starts)
    for done, text in writes:
        for mail in pattern.findall(text):
            account.written.setdefault(mail, done)
    return account


def run(folder: Path, mails: int, environment: Mapping[str, str] | None = None) -> dict[bytes, str]:
    """So many mails over 20 connections into a traced server: the verdict on each."""
    silent = {"echo": {"agent": "debug"}, "current-time": {"agent": "debug"}}  # what follows the 250 is not looked at
    server = ServerProcess(folder, crash_configuration(inboxes=silent))
    trace = folder / "trace"
    with ended(server):
        start_traced(server, trace, dict(environment or {}))
        assert server.process is not None
        pid = server.process.pid
        with load(folder, server.port, mails=mails, connections=20) as client:
            client.finish(120)
        assert server.stop() == 0
        wait_for_end(trace, pid)
    verdicts = observe(trace).verdicts()
    trace.unlink()  # a hundred megabytes
    return verdicts


def test_mail_gets_its_250_then_its_row_was_written_and_synced_before(tmp_path: Path) -> None:
    verdicts = run(tmp_path, 1000)
    wrong = {mail: verdict for mail, verdict in verdicts.items() if verdict}
    assert len(verdicts) == 1000
    assert not wrong, f"{len(wrong)} of {len(verdicts)}: {list(wrong.items())[:5]}"


@pytest.mark.parametrize(
    ("safety", "finding"),
    [
        ("commit-after-250", "not written between its dot and its 250"),
        ("synchronous-normal", "not synced between its write and its 250"),
        ("synchronous-off", "not synced between its write and its 250"),
    ],
)
def test_server_lacks_a_safety_then_the_trace_shows_it(tmp_path: Path, safety: str, finding: str) -> None:
    verdicts = run(tmp_path, 100, mutation(safety))
    wrong = [verdict for verdict in verdicts.values() if verdict]
    print(f"\n{safety}: {len(wrong)} of {len(verdicts)} mails acknowledged too early")
    assert len(verdicts) == 100
    assert len(wrong) > 90
    assert set(wrong) == {finding}

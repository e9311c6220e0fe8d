"""A power cut, which a SIGKILL is not: what was written but not synced is gone, or half there.

A traced server works under load until it is killed. From the trace its database is rebuilt as the disk would have had it at
random instants, once with nothing that was not synced and once with some sectors of it. Every mail whose 250 had begun to be
written by then must be in it, and every answer that had begun to leave.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import re
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from responder.clock import SystemClock
from responder.store.sqlite import SQLiteStore
from tests.support.accounting import judge, read_books
from tests.support.crash import crash_configuration, ended, load, mutation, wait_for, wait_until_quiet
from tests.support.disk import Disk
from tests.support.neighbours import Neighbours, neighbours
from tests.support.server import ServerProcess
from tests.support.trace import SYNCS, WRITES, calls, start_traced, wait_for_end

pytestmark = pytest.mark.peer("strace")

SEED = int(os.environ.get("RESPONDER_SEED") or random.SystemRandom().randrange(1 << 31))
INSTANTS = 20
QUEUED = re.compile(rb"250 2\.0\.0 Queued as ([0-9a-z]{18})")
ANSWER = re.compile(rb"Message-ID: <auto\.([0-9a-z]{18}\.\d+)\.0@")


def work(folder: Path, around: Neighbours, mails: int, environment: dict[str, str] | None = None) -> ServerProcess:
    """Let a traced server work until so many mails are acknowledged, then kill it: its trace is `folder/trace`."""
    server = ServerProcess(folder / "server", crash_configuration(around))
    trace = folder / "trace"
    with ended(server), load(folder, server.port, seed=SEED, connections=10) as client:
        start_traced(server, trace, environment)
        assert server.process is not None
        pid = server.process.pid
        wait_for(lambda: len(read_books(client.ledger).acknowledged) >= mails, f"{mails} mails")
        server.kill()
        client.stop()
        wait_for_end(trace, pid)
    return server


@dataclass(frozen=True, slots=True)
class Cut:
    """A power cut: the database as it left it (None where its folder is gone), and what had begun to be written by then."""

    database: Path | None
    mails: set[str]  # whose 250
    answers: set[str]  # the inbound items that were answered


def cuts(folder: Path, database: Path, instants: int) -> Iterator[Cut]:
    """So many power cuts, each as a clean one and as one that leaves some of what was not synced. The last is the last 250."""
    chance = random.Random(SEED)
    promises: list[tuple[int, set[str], set[str]]] = []
    for call in calls(folder / "trace"):
        if call.name in WRITES and call.peer:
            mails = {found.decode() for found in QUEUED.findall(call.arguments)}
            answers = {found.decode() for found in ANSWER.findall(call.arguments)}
            if mails or answers:
                promises.append((call.begun, mails, answers))
    promises.sort()
    last = max(begun for begun, mails, _ in promises if mails)
    chosen = sorted({begun for begun, _, _ in chance.sample(promises, instants)} | {last})
    disk = Disk(database.parent)
    found = calls(folder / "trace")
    call = next(found)
    for instant in chosen:
        while call.done < instant:  # what had not returned by then counts as not written
            disk.feed(call)
            call = next(found)
        before = [promise for promise in promises if promise[0] <= instant]
        mails = set().union(*[mails for _, mails, _ in before])
        answers = set().union(*[answers for _, _, answers in before])
        for name, by in (("clean", None), ("torn", chance)):
            image = folder / f"{instant}-{name}"
            yield Cut(image / database.name if disk.image(image, by) else None, mails, answers)


def lost(cut: Cut) -> set[str]:
    """Which of the promised mails and answers the store does not have any more when it opens the database."""
    if cut.database is None or not cut.database.exists():
        return cut.mails | cut.answers
    asyncio.run(recover(cut.database))
    with contextlib.closing(sqlite3.connect(cut.database)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        whole = "SELECT mail FROM inbound JOIN mail ON mail = mail.id JOIN content ON mail = content.id"
        sent = "SELECT cause FROM outbound JOIN content ON content = content.id"
        kept = {item for query in (whole, sent) for (item,) in connection.execute(query)}
    return (cut.mails | cut.answers) - kept


async def recover(database: Path) -> None:
    """What a server does at its start."""
    store = SQLiteStore(database, SystemClock())
    await store.open(create=False)
    await store.close()


def test_power_cut_at_any_instant_then_every_acknowledged_mail_and_every_answer_sent_is_on_the_disk(
    tmp_path: Path,
) -> None:
    print(f"\nRESPONDER_SEED={SEED}")
    with neighbours(tmp_path) as around:
        server = work(tmp_path, around, 1000, mutation("checkpoint-often"))
        looked = 0
        for cut in cuts(tmp_path, server.database, INSTANTS):
            gone = lost(cut)
            assert not gone, f"{len(gone)} of {len(cut.mails)} mails and {len(cut.answers)} answers: {cut.database}"
            looked += 1
        checkpoints = [
            call for call in calls(tmp_path / "trace") if call.name in SYNCS and call.target == str(server.database)
        ]
        assert len(checkpoints) > 1, "only the creation of the database was looked at, no checkpoint"
        print(f"{looked} power cuts, the last with {len(cut.mails)} mails and {len(cut.answers)} answers")
        assert looked >= 2 * INSTANTS
        assert len(cut.mails) >= 1000
        assert len(cut.answers) >= 100

        # The server that starts on what the last cut left keeps its promises.
        assert cut.database is not None
        for file in server.database.parent.iterdir():
            file.unlink()
        for file in cut.database.parent.iterdir():
            file.rename(server.database.parent / file.name)
        with ended(server):
            server.start()
            wait_until_quiet(server)
            assert server.stop() == 0
        verdict = judge(read_books(tmp_path / "load.jsonl"), around.arrivals())
        assert not verdict.problems, "\n".join(verdict.problems[:20])


@pytest.mark.parametrize("safety", ["synchronous-normal", "synchronous-off"])
def test_power_cut_on_a_server_that_does_not_sync_each_commit_then_acknowledged_mails_are_gone(
    tmp_path: Path, safety: str
) -> None:
    with neighbours(tmp_path) as around:
        server = work(tmp_path, around, 100, mutation(safety))
        *_, clean, _ = cuts(tmp_path, server.database, 2)
        gone = lost(clean) & clean.mails
        print(f"\n{safety}: {len(gone)} of {len(clean.mails)} acknowledged mails are gone")
        assert len(gone) > len(clean.mails) / 2

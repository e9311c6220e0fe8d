"""A disk that is full, read-only or broken for a while: the client is asked to come again, nothing is lost, nothing leaves twice,
and when the fault is over the same process goes on by itself.

The fault begins while answers are on their way (they have left, and it can't be noted), while agents work, and between mails.
"""

from __future__ import annotations

import asyncio
import errno
import os
import random
import re
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.support import faults
from tests.support.accounting import judge, read_books
from tests.support.crash import crash_configuration, ended, wait_for, wait_until_quiet
from tests.support.load import INBOXES, Connection, Ledger, Mail, Refused, make_mail
from tests.support.neighbours import Neighbours, neighbours
from tests.support.server import ROOT, ServerProcess

Fault = Callable[[ServerProcess], AbstractContextManager[None]]

ROOM = 96 << 20  # octets: the WAL alone may come to 64 MB
LASTS = 4.0  # seconds: longer than the lease, and than all that is under way when it begins
QUICK = 6  # answers before those: a host that has taken some gets the connections that all the slow ones need
SLOW = 6  # answers that have arrived while the host's 250 is still to come
INTERNALS = re.compile(r"/|sqlite|database|disk|errno|error|exception|\bI/O\b|read-?only|wal\b|lock", re.IGNORECASE)
AGENT = """
import asyncio

from responder import Mail, agent


@agent("slow")
async def slow(mail: Mail) -> str:
    await asyncio.sleep(1.0)
    return mail.text
"""

root = pytest.mark.skipif(
    os.geteuid() != 0 and os.environ.get("RESPONDER_REQUIRE_PEERS") != "1",
    reason="not root, who alone may do this to a disk",
)


class Story:
    """One client, one server, one fault."""

    def __init__(self, folder: Path, server: ServerProcess, around: Neighbours) -> None:
        self.folder = folder
        self.server = server
        self.around = around
        self.ledger = Ledger(folder / "load.jsonl")
        self.refusals: list[str] = []
        self._chance = random.Random(1)
        self._made = 0

    def mail(self, inbox: str = "echo") -> Mail:
        self._made += 1
        made = make_mail("story", self._made * 10, self._chance)
        return Mail(made.number, made.message_id, made.sender, (f"{inbox}@{INBOXES}",), made.body)

    async def offer(self, connection: Connection, mail: Mail) -> bool:
        """Whether it was taken."""
        self.ledger.offer(mail)
        try:
            self.ledger.acknowledged(mail, await connection.send(mail))
        except Refused as refusal:
            self.refusals.append(refusal.reply)
            await asyncio.sleep(0.05)  # a polite client
            assert await connection.command("NOOP") == "250 2.0.0 Ok", "the connection is not usable any more"
            return False
        return True

    async def run(self, fault: Fault, codes: set[str], *, logged: bool) -> None:
        server = self.server
        server.start()
        assert server.process is not None
        pid = server.process.pid
        connection = await Connection.open(server.port)
        for _ in range(QUICK):
            assert await self.offer(connection, self.mail())
            wait_until_quiet(server)
        for _ in range(SLOW):
            assert await self.offer(connection, self.mail())
        for _ in range(3):
            assert await self.offer(connection, self.mail("slow"))
        wait_for(lambda: len(self.around.arrivals()) == QUICK + SLOW, "the answers whose 250 is slow")

        refused = []
        with fault(server):
            ends = time.monotonic() + LASTS
            while time.monotonic() < ends or len(self.refusals) < 5:
                mail = self.mail()
                if not await self.offer(connection, mail):
                    refused.append(mail)
                assert time.monotonic() < ends + 20, "the fault is none"
            another = await Connection.open(server.port)
            assert await another.command("NOOP") == "250 2.0.0 Ok"
            another.close()

        for stage in ("answering", "delivery") if logged else ():
            assert f"not settled yet stage={stage}" in server.log.read_text(), f"it missed what {stage} had to note"
        assert {reply.partition(" ")[0] for reply in self.refusals} <= codes, set(self.refusals)
        assert not [reply for reply in self.refusals if INTERNALS.search(reply)]
        over = time.monotonic()
        for mail in refused:  # the same connection, the same process, nobody's hand
            while not await self.offer(connection, mail):
                assert time.monotonic() < over + 15, self.refusals[-1]
        print(
            f"\n{len(self.refusals)} refusals ({self.refusals[0]}), taken again after {time.monotonic() - over:.2f} s"
        )
        connection.close()
        counts = wait_until_quiet(server)
        assert server.process.pid == pid
        assert "FAILED" not in {**counts["inbound"], **counts["outbound"]}
        assert server.stop() == 0
        books = read_books(self.folder / "load.jsonl")
        verdict = judge(books, self.around.arrivals())
        assert books.acknowledged.keys() == books.mails.keys()
        assert not verdict.problems, "\n".join(verdict.problems)
        assert verdict.duplicates == 0


async def tell(folder: Path, fault: Fault, codes: set[str], *, room: int = 0, logged: bool = True) -> None:
    """The story on a server of its own; with `room`, on a small disk of its own. Not `logged`: its log fails as well."""
    (folder / "agents").mkdir()
    (folder / "agents" / "slow.py").write_text(AGENT)
    script = {"DOT": [None] * QUICK + [f"slow {LASTS / 2}"] * SLOW}
    with neighbours(folder / "around", script) as around:
        inboxes = {"echo": {"agent": "echo"}, "slow": {"agent": "slow"}}
        plugins = [str(ROOT / "plugins"), str(folder / "agents")]
        config = crash_configuration(around, inboxes=inboxes, plugins=plugins)
        server = ServerProcess(folder / "server", config)
        with ended(server):
            if room:
                with faults.small_disk(server.database.parent, room), ended(server):
                    await Story(folder, server, around).run(fault, codes, logged=logged)
            else:
                await Story(folder, server, around).run(fault, codes, logged=logged)


@root
@pytest.mark.peer("mount")
async def test_disk_is_full_for_a_while_then_clients_are_put_off_with_452_and_nothing_is_lost(tmp_path: Path) -> None:
    await tell(tmp_path, lambda server: faults.full(server.database.parent), {"452"}, room=ROOM)


@root
@pytest.mark.peer("chattr")
async def test_files_are_read_only_for_a_while_then_clients_are_put_off_and_nothing_is_lost(tmp_path: Path) -> None:
    await tell(tmp_path, lambda server: faults.immutable(server.database), {"451", "452"})


async def test_no_file_may_grow_for_a_while_then_clients_are_put_off_and_nothing_is_lost(tmp_path: Path) -> None:
    await tell(tmp_path, lambda server: faults.file_size_limit(server_pid(server)), {"451", "452"}, logged=False)


@pytest.mark.peer("strace")
@pytest.mark.parametrize(
    ("calls", "error"),
    [
        ("pwrite64,write", errno.EIO),
        ("fdatasync,fsync", errno.EIO),
        ("pwrite64,write,fdatasync,fsync,ftruncate", errno.EIO),
        ("pwrite64,write", errno.ENOSPC),
        ("pwrite64,write", errno.EDQUOT),
        ("pwrite64,write,fdatasync,fsync,openat,unlink", errno.EROFS),
        ("pread64,read", errno.EIO),
    ],
    ids=lambda value: errno.errorcode[value] if isinstance(value, int) else value,
)
async def test_disk_fails_for_a_while_then_clients_are_put_off_and_nothing_is_lost(
    tmp_path: Path, calls: str, error: int
) -> None:
    codes = {"452"} if error == errno.ENOSPC else {"451", "452"}
    await tell(tmp_path, lambda server: faults.failing(server_pid(server), server.database, calls, error), codes)


def server_pid(server: ServerProcess) -> int:
    assert server.process is not None
    return server.process.pid

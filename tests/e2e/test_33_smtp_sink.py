"""Postfix's smtp-sink as the host, with its own fault switches: what becomes of a mail under each of them.

The codes of the ends are those of `tests/stage/test_hostile_mx.py`.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from responder.mail.status import FailureError
from responder.outbound.base import Envelope, RecipientResult
from responder.outbound.dial import Timeouts
from responder.outbound.smtp.session import ClientSession
from tests.conftest import find_peer
from tests.stage.test_hostile_mx import end
from tests.support.server import free_port
from tests.support.waiting import until

pytestmark = pytest.mark.peer("smtp-sink")

PATIENT = replace(Timeouts(*[20.0] * 8), farewell=1.0)
QUICK = replace(PATIENT, command=0.5, data=0.5)
MAIL = Envelope("me@example.org", ("a@example.com", "b@example.com"), b"Subject: hello\r\n\r\nhello\r\n.\r\nend\r\n")
BIG = replace(MAIL, content=b"Subject: big\r\n\r\n" + (b"y" * 70 + b"\r\n") * 100_000)

COMMANDS = """
      CONNECT EHLO EHLO,HELO MAIL RCPT DATA .   RCPT,RSET QUIT
-r    Th-     Th-  Th-       Tm+  Tr+  Tm+  Tm+ Tr-       ok+
-f    Th-     ok+  Ph-       Pm+  Pr+  Pm+  Pm+ Pr-       ok+
-q    Th-     Th-  Th-       Th-  Th-  Th-  ?-  Th-       ok+
-Q    Th-     Th-  Th-       Th-  Th-  Th-  Th- Th-       ok+
"""

SWITCHES = {
    "": "ok+",
    "-8": "ok+",
    "-p": "ok+",
    "-e": "ok+",
    "-E": "ok+",
    "-N": "ok+",
    "-a -C -F": "ok+",
    "-P": "ok+",  # a Cisco PIX stands between
    "-h mx.test": "ok+",
    "-A 0": "Pm-",  # refuses at once behind 354, and reads no more
    "-w 1": "ok+",
    "-H 1": "ok+",
    "-W RCPT:1 -p": "ok+",
    "-W RCPT:1": "Th-",  # says the replies to later commands before this one's
    "-W MAIL:1": "Th-",
    "-H 1 -T 4096": "ok+",
    "-L": "Ph-",  # speaks LMTP
    "-r . -b 452": "Tm+",
    "-f RCPT -B 550": "Pr+",
    "-r RCPT -b 421": "Th-",  # and does not hang up
}


@pytest.fixture
def folder() -> Iterator[Path]:
    """Where smtp-sink may write as the user that it becomes."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o777)
        yield Path(name)


@contextmanager
def sink(folder: Path, *switches: str) -> Iterator[int]:
    """An smtp-sink that keeps what it takes in `folder`. Its port."""
    program = find_peer("smtp-sink")
    assert program is not None
    port = free_port()
    user = ["-u", "nobody"] if os.geteuid() == 0 else []
    where = str(folder / "taken.%M.")
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [program, *user, *switches, "-v", "-d", where, f"127.0.0.1:{port}", "100"],
            stdout=log,
            stderr=log,
            cwd=folder,
        )
    try:
        until(lambda: b"trying" in (folder / "log").read_bytes() and listens(port), 20, "smtp-sink does not listen")
        yield port
    finally:
        process.terminate()
        process.wait()


def listens(port: int) -> bool:
    """Whether somebody listens there; nobody is connected for that."""
    wanted = f"0100007F:{port:04X} 00000000:0000 0A"
    return wanted in Path("/proc/net/tcp").read_text()


async def send(port: int, mail: Envelope = MAIL, timeouts: Timeouts = PATIENT) -> str:
    """How it ends, as the tables have it."""
    try:
        session = await ClientSession.connect(
            "mx.test", "127.0.0.1", port, local_hostname="mx.example.org", timeouts=timeouts
        )
    except FailureError as error:
        return end(RecipientResult.failed("", error.failure)) + "-"
    results = await session.send(mail)
    found = "/".join(dict.fromkeys([end(result) for result in results])) + ("+" if session.reusable else "-")
    await session.close()
    return found


@pytest.mark.parametrize("switch", ["-r", "-f", "-q", "-Q"])
@pytest.mark.parametrize("pipelined", [True, False])
async def test_command_fails_then_the_mail_ends_as_the_table_says(folder: Path, switch: str, pipelined: bool) -> None:
    head, *lines = COMMANDS.strip("\n").splitlines()
    expected = next(dict(zip(head.split(), line.split()[1:], strict=True)) for line in lines if line.startswith(switch))
    found = {}
    for command in expected:
        with sink(folder, switch, command, *([] if pipelined else ["-p"])) as port:
            found[command] = await send(port)
    assert found == expected


@pytest.mark.parametrize("switches", SWITCHES)
async def test_host_behaves_oddly_then_the_mail_ends_as_the_table_says(folder: Path, switches: str) -> None:
    with sink(folder, *switches.split()) as port:
        assert await send(port) == SWITCHES[switches]
        taken = list(folder.glob("taken.*"))
    if SWITCHES[switches] == "ok+":
        assert len(taken) == 1  # of the others it keeps what it has
        assert taken[0].read_bytes().replace(b"\r\n", b"\n").endswith(b"\n\nhello\n.\nend\n\n")


@pytest.mark.parametrize(
    ("switches", "timeouts", "mail", "expected"),
    [
        ("-w 30", QUICK, MAIL, "Th-"),
        ("-w 30 -p", replace(PATIENT, data=0.5), MAIL, "Th-"),
        ("-W MAIL:30 -p", QUICK, MAIL, "Th-"),
        ("-W .:30", replace(PATIENT, dot=0.5), MAIL, "?-"),
        ("-H 30 -T 4096", replace(PATIENT, block=0.5), BIG, "Th-"),
        ("-W CONNECT:30", replace(PATIENT, greeting=0.5), MAIL, "Th-"),
    ],
)
async def test_host_is_too_slow_then_it_is_left(
    folder: Path, switches: str, timeouts: Timeouts, mail: Envelope, expected: str
) -> None:
    with sink(folder, *switches.split()) as port:
        assert await send(port, mail, timeouts) == expected


async def test_mails_follow_each_other_on_one_connection(folder: Path) -> None:
    with sink(folder) as port:
        session = await ClientSession.connect("mx.test", "127.0.0.1", port, local_hostname="mx.example.org")
        for _ in range(200):
            assert {end(result) for result in await session.send(MAIL)} == {"ok"}
        await session.close()
        log = (folder / "log").read_text(errors="replace")
    assert (log.count("MAIL FROM"), log.count("smtp-sink: QUIT")) == (200, 1)

"""Scenario 11: agents that do what no agent may.

client ──SMTP──> responder: exit, interrupt, cancel, hang, go on when cancelled, flood ──> FAILED, and why
                             beside them an echo ──> answered; SIGTERM ──> stopped
"""

from __future__ import annotations

import json
import time
from pathlib import Path

from tests.support.server import ServerProcess, configuration
from tests.support.submission import message, settled, submit

AGENTS = """
import asyncio, os, sys, threading
from responder import Reply, TryLater, agent

class Forever(TryLater):
    def __init__(self):
        self.seconds = float("nan")

@agent("exits")
async def exits(mail):
    sys.exit(3)

@agent("exits-in-thread")
def exits_in_thread(mail):
    sys.exit(3)

@agent("interrupts")
def interrupts(mail):
    raise KeyboardInterrupt

@agent("stops")
def stops(mail):
    raise StopIteration

@agent("cancels")
async def cancels(mail):
    raise asyncio.CancelledError

@agent("cancels-itself")
async def cancels_itself(mail):
    asyncio.current_task().cancel()

@agent("hangs")
def hangs(mail):
    threading.Event().wait()

@agent("stubborn")
async def stubborn(mail):
    while True:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            pass

@agent("floods")
def floods(mail):
    return "x" * 11_000_000

@agent("never")
async def never(mail):
    raise Forever
"""

REASONS = {
    "exits": "the agent raised SystemExit: 3",
    "exits-in-thread": "the agent raised SystemExit: 3",
    "interrupts": "the agent raised KeyboardInterrupt: ",
    "stops": "the agent raised RuntimeError: coroutine raised StopIteration",
    "cancels": "the agent raised CancelledError: ",
    "cancels-itself": "the agent cancelled its own task",
    "hangs": "the agent took longer than 0.5 s",
    "stubborn": "the agent took longer than 0.5 s",
    "floods": "the agent's answer is too large: 11000000 octets",
    "never": "the agent's TryLater names no time: ValueError",
}


def test_agents_when_they_misbehave_then_each_mail_fails_with_its_reason_and_the_server_goes_on_and_stops(
    tmp_path: Path,
) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "bad.py").write_text(AGENTS)
    config = configuration(
        inboxes={"echo": {"agent": "echo"}, **{name: {"agent": name, "timeout": "0.5s"} for name in REASONS}},
        answering={"attempts": 1},
    )
    server = ServerProcess(tmp_path, {**config, "plugins": [*config["plugins"], "own"]})
    server.start()
    try:
        sender = "ann@client.example"
        for name in [*REASONS, "echo"]:
            to = f"{name}@test.example"
            assert submit(server.port, sender, [to], message(sender, to, "Hi", "Hello"))[0] == 250
        counts = settled(server, 60, mails=len(REASONS) + 1)
        assert counts["inbound"] == {"FAILED": len(REASONS), "ANSWERED": 1}
        listed = json.loads(server.command("queue", "list", "--json").stdout)
        told = {item["kind"]: item["reason"].partition("\n")[0] for item in listed}
        assert told.keys() == REASONS.keys()
        for name, reason in REASONS.items():
            assert told[name].startswith(reason), told[name]
            assert told[name].endswith(", attempt 1 of 1")
        began = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - began < 10  # agents that never end are not waited for
        log = server.log.read_text()
        assert "Traceback" not in log
        assert " warning agents left behind agents=2" in log
        assert not Path(f"{server.database}-wal").exists()  # the store was closed before
    finally:
        if server.process is not None:
            server.kill()

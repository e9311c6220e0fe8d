"""Agents that take the whole server down: it starts again, and the mail that did it retires itself."""

from __future__ import annotations

import contextlib
import smtplib
from pathlib import Path

import pytest

from tests.support.server import ServerProcess, configuration
from tests.support.waiting import until

PLUGIN = """
import asyncio

from responder import agent


@agent("canceller")
async def canceller(mail):
    for task in asyncio.all_tasks():
        task.cancel()


@agent("exiter")
async def exiter(mail):
    async def leave():
        raise SystemExit(5)

    asyncio.create_task(leave())
    await asyncio.sleep(60)


@agent("polite")
async def polite(mail):
    return "hello"


@agent("mover")
def mover(mail):
    import os

    os.chdir("/")
    return "moved"
"""
MAIL = "From: ann@remote.example\r\nSubject: hello\r\n\r\nhello\r\n"


def prepared(folder: Path) -> ServerProcess:
    (folder / "own").mkdir()
    (folder / "own" / "wild.py").write_text(PLUGIN)
    inboxes = {name: {"agent": name} for name in ("canceller", "exiter", "polite", "mover")}
    answering = {"attempts": 2, "retry": ["1s"]}
    return ServerProcess(folder, configuration(plugins=["own"], inboxes=inboxes, answering=answering))


def submit(server: ServerProcess, inbox: str) -> None:
    with smtplib.SMTP("127.0.0.1", server.port, timeout=10) as client:
        client.sendmail("ann@remote.example", [f"{inbox}@test.example"], MAIL)


@pytest.mark.parametrize("inbox", ["canceller", "exiter"])
def test_an_agent_ends_the_server_then_its_mail_fails_after_its_attempts(tmp_path: Path, inbox: str) -> None:
    server = prepared(tmp_path)
    crashes = 0

    def retired() -> bool:
        nonlocal crashes
        if server.process is not None and server.process.poll() is not None:
            crashes += 1
            server.process = None
            server.spawn()  # as a supervisor would
        return " FAILED " in server.command("queue", "list", "--state", "failed").stdout

    try:
        server.start()
        with contextlib.suppress(smtplib.SMTPException, OSError):  # it may end before it says 250 to QUIT
            submit(server, inbox)
        until(retired, 45, lambda: f"{crashes} crashes:\n{server.log.read_text()[-3000:]}")
        assert crashes == 2
        server.wait_for_log(" ready ")
        until(lambda: server.process is not None and server.process.poll() is None, 5, "it serves")
        submit(server, "polite")
        until(lambda: " DELIVERED " in server.command("queue", "list", "--state", "delivered").stdout, 30, "answered")
        assert server.stop() == 0
    finally:
        if server.process is not None:
            server.kill()


def test_an_agent_changes_the_working_folder_then_mail_is_taken_and_the_queue_shows_it(tmp_path: Path) -> None:
    server = prepared(tmp_path)
    try:
        server.start()
        submit(server, "mover")
        until(lambda: "ANSWERED" in server.command("queue", "stats").stdout, 30, "answered")
        for _ in range(3):
            submit(server, "polite")
        until(
            lambda: server.command("queue", "list", "--state", "answered").stdout.count(" ANSWERED ") == 4,
            30,
            "all are answered",
        )
        assert server.stop() == 0
    finally:
        if server.process is not None:
            server.kill()

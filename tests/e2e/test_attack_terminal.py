"""Terminals that go away or stop: the mail goes on, and the server still ends when it is told to."""

from __future__ import annotations

import os
import smtplib
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.server import ServerProcess, configuration, environment
from tests.support.waiting import greeting, until

MAIL = "From: ann@remote.example\r\nSubject: hello\r\n\r\n" + "0123456789\r\n" * 400
MAILS = 40  # of 5 KB: more than a pipe holds (64 KB)


class Terminal(ServerProcess):
    """A server whose standard output is the write end of `pipe`, or whatever the shell makes of `redirection`."""

    pipe: int | None = None
    redirection = ""

    def spawn(self, **_: object) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    "sh",
                    "-c",
                    f'exec "$0" -m responder serve --config "$1" {self.redirection}',
                    sys.executable,
                    self.file,
                ],
                cwd=self.folder,
                env=environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL if self.pipe is None else self.pipe,
                stderr=log,
                start_new_session=True,
            )


@contextmanager
def serving(folder: Path, pipe: int | None = None, redirection: str = "") -> Iterator[Terminal]:
    server = Terminal(folder, configuration())
    server.pipe, server.redirection = pipe, redirection
    try:
        server.spawn()
        until(lambda: greeting(server.port), 30, "the server accepts connections")
        yield server
        assert server.stop() == 0
    finally:
        if server.process is not None:
            server.kill()


def submit(server: ServerProcess, inbox: str, number: int) -> None:
    for _ in range(number):
        with smtplib.SMTP("127.0.0.1", server.port, timeout=10) as client:
            client.sendmail("ann@remote.example", [f"{inbox}@test.example"], MAIL)


def delivered(server: ServerProcess) -> int:
    return server.command("queue", "list", "--state", "delivered").stdout.count(" DELIVERED ")


@pytest.fixture
def unread() -> Iterator[int]:
    """A pipe that nobody reads from."""
    reading, writing = os.pipe()
    yield writing
    os.close(reading)
    os.close(writing)


def test_nobody_reads_the_terminal_then_mail_is_accepted_and_delivered(tmp_path: Path, unread: int) -> None:
    with serving(tmp_path, pipe=unread) as server:
        submit(server, "echo", MAILS)
        until(lambda: delivered(server) == MAILS, 30, "all answers are delivered")
    assert len(list((tmp_path / "state" / "printed").glob("*.eml"))) == MAILS


def test_the_debug_agent_writes_to_a_terminal_that_nobody_reads_then_others_are_answered(
    tmp_path: Path, unread: int
) -> None:
    with serving(tmp_path, unread) as server:
        submit(server, "debug", MAILS)
        submit(server, "echo", 1)
        until(lambda: delivered(server) == 1, 30, "the answer is delivered")
        server.kill()  # a clean stop would wait 20 s for the agents
        server.pipe = None
        server.spawn()
        until(lambda: greeting(server.port), 30, "the server accepts connections")


def test_the_reader_of_the_terminal_is_gone_then_mail_is_delivered_once(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        with serving(tmp_path, writing) as server:
            submit(server, "echo", 3)
            until(lambda: delivered(server) == 3, 30, "all answers are delivered")
    finally:
        os.close(writing)
    assert "internal error" not in server.log.read_text()


@pytest.mark.parametrize("redirection", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_standard_streams_are_closed_then_it_serves_and_stops_all_the_same(tmp_path: Path, redirection: str) -> None:
    with serving(tmp_path, redirection=redirection) as server:
        submit(server, "echo", 1)
        submit(server, "debug", 1)
        until(lambda: delivered(server) == 1, 30, "the answer is delivered")
        stats = server.command("queue", "stats").stdout
        assert "SILENT" in stats

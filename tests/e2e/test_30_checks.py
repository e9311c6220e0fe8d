"""Checks in a real server: what they say reaches the client, SIGHUP changes them, and what they break breaks nothing else.

client ──SMTP──> Responder ──> checks (plugin files, rspamd, clamd)
"""

from __future__ import annotations

import os
import re
import signal
import time
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from tests.support.scanners import ADDED, MARKER, REJECTED, Clamd, Rspamd
from tests.support.server import ROOT, ServerProcess, configuration, running
from tests.support.submission import Client, ended, message, queued_as, submit, verb
from tests.support.waiting import until

SENDER = "ann@client.example"
ECHO = "echo@test.example"

PLUGIN = '''
import asyncio
import pathlib
import time

from responder import Check, Defer, Mark, Refuse, check, hookimpl


class Life(Check):
    """Writes down when it starts and stops."""

    async def start(self):
        if pathlib.Path("broken").exists():
            raise OSError("it is broken")
        note(f"start {VERSION}")

    async def stop(self):
        note(f"stop {VERSION}")

    async def mail(self, client, sender, parameters):
        if sender.startswith("refused"):
            return Refuse(f"No from {VERSION}", 553, "5.7.8")
        if sender.startswith("blocking"):
            time.sleep(60)
        if sender.startswith("raising"):
            raise ValueError("a mistake")
        if sender.startswith("counted"):
            return Refuse(str(await self.context.state.increment("count")))

    async def data(self, client, mail):
        if "slow" in mail.subject:
            await asyncio.sleep(600)
        return Mark({"X-Seen": f"{VERSION} {client.helo}"})


def note(text):
    with open("notes", "a") as file:
        file.write(text + "\\n")


@check("plain", "rcpt")
def plain(client, recipient):
    if client.sender.startswith("hanging"):
        time.sleep(600)


@hookimpl
def responder_checks():
    return {"life": Life}
'''


def checking(folder: Path, version: str = "one", checks: Any = None) -> dict[str, Any]:
    (folder / "own").mkdir(parents=True, exist_ok=True)
    (folder / "own" / "life.py").write_text(f"VERSION = {version!r}\n{PLUGIN}")
    plugins = [str(ROOT / "plugins"), str(folder / "own")]
    return configuration(plugins=plugins, checks=checks or {"life": {"timeout": "2s"}, "plain": {"timeout": "1s"}})


def reply_to(server: ServerProcess, sender: str, text: str = "Hello", subject: str = "x") -> tuple[int, str]:
    return submit(server.port, sender, [ECHO], message(SENDER, ECHO, subject, text))


def reload(server: ServerProcess, says: str = " reloaded ") -> str:
    at = server.log.stat().st_size
    server.signal(signal.SIGHUP)
    return server.wait_for_log(says, at)


def notes(server: ServerProcess) -> list[str]:
    return (server.folder / "notes").read_text().split("\n")[:-1]


def test_checks_when_they_run_then_clients_history_and_log_know_of_them(tmp_path: Path) -> None:
    with running(tmp_path, checking(tmp_path)) as server:
        assert reply_to(server, "refused@x.example") == (553, "5.7.8 No from one")
        log = server.wait_for_log("refused")
        assert re.search(r'refused peer=127\.0\.0\.1 code=553 reason="No from one" check=life step=mail', log)
        identifier = queued_as(reply_to(server, SENDER))
        assert [item["state"] for item in ended(server, identifier)] == ["ANSWERED", "DELIVERED"]
        assert ", life says X-Seen: one " in verb(server, "explain", identifier)
        assert "X-Seen: one client.test" in verb(server, "queue", "show", f"{identifier}.0")
        # What it remembers outlives a restart.
        assert reply_to(server, "counted@x.example")[1].endswith(" 1")
        server.stop()
        server.start()
        assert reply_to(server, "counted@x.example")[1].endswith(" 2")
        assert notes(server) == ["start one", "stop one", "start one"]
        assert "life" in verb(server, "check") and "check at mail, data" in verb(server, "plugins")


def test_reload_when_checks_change_then_the_new_ones_start_before_the_old_ones_stop(tmp_path: Path) -> None:
    with running(tmp_path, checking(tmp_path)) as server:
        with Client(server.port) as client:
            server.write({**checking(tmp_path, "two"), "listen": server.config["listen"]})
            reload(server)
            assert client.say("EHLO client.example")[0] == 250
            assert client.say("MAIL FROM:<refused@x.example>") == (553, "5.7.8 No from two")
        server.wait_for_log("reloaded")
        until(lambda: len(notes(server)) >= 3, 20, "the old check was not stopped")
        assert notes(server) == ["start one", "start two", "stop one"]
        # A bad one is refused, and the old one stays.
        (tmp_path / "broken").touch()
        said = reload(server, "reload refused")
        assert 'checks.life: the check \\"life\\" does not start: the check raised OSError: it is broken' in said
        assert reply_to(server, "refused@x.example") == (553, "5.7.8 No from two")
        bad: Any = deepcopy(server.config)
        bad["checks"]["life"]["settings"] = {"nonsense": 1}
        server.write(bad)
        assert "checks.life.settings.nonsense: unknown key" in reload(server, "reload refused")
        # Without any the way is free.
        (tmp_path / "broken").unlink()
        free: Any = deepcopy(server.config)
        del free["checks"]
        server.write(free)
        reload(server)
        assert reply_to(server, "refused@x.example")[0] == 250


def test_start_when_a_check_does_not_start_then_it_is_one_line(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path, checking(tmp_path))
    (tmp_path / "broken").touch()
    server.spawn()
    assert server.process is not None
    assert server.process.wait(60) == 2
    server.process = None
    said = server.log.read_text()
    assert 'checks.life: the check "life" does not start: the check raised OSError: it is broken' in said
    assert "Traceback" not in said


def test_check_when_it_goes_wrong_then_the_client_may_come_again_and_the_server_goes_on(tmp_path: Path) -> None:
    again = (451, "4.3.0 Cannot do that now, try again later")
    with running(tmp_path, checking(tmp_path)) as server:
        assert reply_to(server, "raising@x.example") == again
        assert "ValueError: a mistake" in server.wait_for_log("raise ValueError")
        assert reply_to(server, SENDER, subject="slow") == again
        assert reply_to(server, "hanging@x.example") == again
        began = time.monotonic()
        assert reply_to(server, "blocking@x.example") == again
        assert time.monotonic() - began < 10
        log = server.wait_for_log("blocked the server")
        reasons = re.findall(r"check failed check=(\w+) step=(\w+) .*?reason=\"(.*?)\" then=deferred", log)
        assert reasons == [
            ("life", "mail", "the check raised ValueError: a mistake"),
            ("life", "data", "the check took longer than 2 s"),
            ("plain", "rcpt", "the check took longer than 1 s"),
            ("life", "mail", "the check blocked the server for longer than 0.5 s: make it a plain def"),
        ]
        assert reply_to(server, SENDER)[0] == 250


@pytest.mark.peer("rspamd", "clamd")
def test_scanners_when_they_are_real_then_spam_and_viruses_are_refused_and_suspects_kept_silent(tmp_path: Path) -> None:
    with Rspamd() as rspamd, Clamd() as clamd:
        checks = {
            "rspamd": {"settings": {"url": rspamd.url}},
            "clamav": {"settings": {"address": f"unix:{clamd.socket}"}},
        }
        config = checking(tmp_path, checks=checks)
        config["reply"] |= {"trusted_spam_headers": ["X-Spam"]}
        with running(tmp_path, config) as server:
            assert reply_to(server, SENDER, REJECTED) == (554, "5.7.1 Gtube pattern")
            assert reply_to(server, SENDER, MARKER) == (554, "5.7.1 Virus found: Test.Marker.UNOFFICIAL")
            suspect = queued_as(reply_to(server, SENDER, ADDED))
            assert [item["state"] for item in ended(server, suspect)] == ["SILENT"]
            assert "spam: X-Spam: Yes" in verb(server, "explain", suspect)
            fine = queued_as(reply_to(server, SENDER))
            assert [item["state"] for item in ended(server, fine)] == ["ANSWERED", "DELIVERED"]
            told = verb(server, "explain", fine)
            assert "rspamd says no action, score 0.00 of 15.00, clamav says no virus" in told
            # One of them goes away: its table says what follows.
            os.kill(clamd._process.pid, signal.SIGSTOP)
            try:
                changed: Any = deepcopy(server.config)
                changed["checks"]["clamav"] |= {"timeout": "500ms", "failure": "ignore"}
                server.write(changed)
                reload(server)
                assert reply_to(server, SENDER)[0] == 250
            finally:
                os.kill(clamd._process.pid, signal.SIGCONT)

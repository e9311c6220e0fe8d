"""Signals: SIGHUP and SIGTERM while mail comes in.

    clients ==load==> Responder --> scripted sink (smarthost)
                          ^
                   SIGHUP, SIGTERM

A reload loses nothing, whatever the new configuration is worth; a stop takes leave of each client by the protocol, and the next
start answers all that was taken.
"""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from tests.support.server import ROOT, ServerProcess, configuration, running, to_toml
from tests.support.smtp_sink import SMTPSink
from tests.support.submission import Client, Load, ended, message, queued_as, settled, submit
from tests.support.waiting import Background, until

ECHO = "echo@test.example"


@contextmanager
def serving(folder: Path) -> Iterator[tuple[ServerProcess, SMTPSink]]:
    with Background() as background:
        sink = background.enter(SMTPSink())
        delivery = {"transport": "smarthost", "smarthost": f"127.0.0.1:{sink.port}"}
        with running(folder, configuration(delivery=delivery)) as server:
            yield server, sink


def test_reload_under_load_takes_a_new_inbox_and_refuses_a_bad_configuration(tmp_path: Path) -> None:
    with serving(tmp_path) as (server, sink):
        _reload_under_load(server, sink)


def _reload_under_load(server: ServerProcess, sink: SMTPSink) -> None:
    sender = "someone@away.example"
    mail = message(sender, "late@test.example", "Hello", "x")
    assert submit(server.port, sender, ["late@test.example"], mail)[0] == 550
    good = deepcopy(dict(server.config))
    good["inboxes"]["late"] = {"agent": "echo", "settings": {"prefix": "Late:"}}

    with Load(server.port) as load:
        load.goes_on()
        at = server.log.stat().st_size
        server.write(good)
        server.signal(signal.SIGHUP)
        server.wait_for_log(" reloaded ", at)
        items = ended(server, queued_as(submit(server.port, sender, ["late@test.example"], mail)))
        assert [item["state"] for item in items] == ["ANSWERED", "DELIVERED"]

        bad = {
            "an unknown key": good | {"hostnme": "mx.test.example"},
            "an agent that does not exist": good | {"inboxes": {"echo": {"agent": "ecco"}}},
            "settings that the agent refuses": good
            | {"inboxes": {"echo": {"agent": "echo", "settings": {"prefix": ["a", "list"]}}}},
        }
        for name, config in bad.items():
            at = server.log.stat().st_size
            server.file.write_text(to_toml(config))
            server.signal(signal.SIGHUP)
            line = server.wait_for_log("reload refused", at)
            assert "responder.toml" in line and "Traceback" not in line, (name, line)
            load.goes_on()
            assert submit(server.port, sender, ["late@test.example"], mail)[0] == 250, name
        at = server.log.stat().st_size
        server.write(configuration(**{**good, "hostname": "new.test.example"}))
        server.signal(signal.SIGHUP)
        server.wait_for_log(" reloaded ", at)
        load.goes_on()
    with Client(server.port) as client:
        assert client.banner[1].startswith("new.test.example ")

    assert not load.refused
    settled(server, 60, mails=len(load.accepted) + 1 + len(bad))
    answered = sorted(to for one in sink.transactions for to in one.recipients if to != sender)
    assert answered == sorted(load.accepted)


def test_sigterm_drains_then_exit_status_is_0_and_nothing_is_lost(tmp_path: Path) -> None:
    with serving(tmp_path) as (server, sink):
        with Client(server.port) as writing, Client(server.port) as waiting, Client(server.port) as begun:
            for command in ("MAIL FROM:<slow@away.example>", f"RCPT TO:<{ECHO}>", "DATA"):
                assert writing.say(command)[0] in (250, 354)
            writing.send(b"From: slow@away.example\r\nSubject: half\r\n")
            assert begun.say("MAIL FROM:<begun@away.example>")[0] == 250

            at = server.log.stat().st_size
            server.signal(signal.SIGTERM)
            server.wait_for_log(" stopping", at)
            assert waiting.reply()[0] == 421
            assert begun.reply()[0] == 421
            until(lambda: _refuses(server.port), 10, "new connections are still taken")

            writing.send(b"\r\nand the other half\r\n.\r\n")
            mail_id = queued_as(writing.reply())
            assert writing.reply()[0] == 421
        assert server.process is not None
        assert server.process.wait(60) == 0
        server.process = None
        log = server.log.read_text()[at:]
        assert " stopped" in log and "Traceback" not in log

        server.start()
        items = ended(server, mail_id)
        assert [item["state"] for item in items] == ["ANSWERED", "DELIVERED"]
        [answer] = [one for one in sink.transactions if one.recipients == ["slow@away.example"]]
        assert b"and the other half" in answer.content


def test_sigterm_under_load_then_each_mail_that_was_taken_is_answered_once(tmp_path: Path) -> None:
    with serving(tmp_path) as (server, sink):
        with Load(server.port) as load:
            load.goes_on()
            assert server.stop() == 0
            until(lambda: len(load.refused) == load.clients, 30, "clients still find a server")
        server.start()
        settled(server, 60, mails=len(load.accepted))
        answered = sorted(to for one in sink.transactions for to in one.recipients)
        assert answered == sorted(load.accepted)


AGENTS = """
import asyncio, threading, time
from pathlib import Path
from responder import Agent, agent, hookimpl

class Slow(Agent):
    async def start(self):
        Path("starting").touch()
        while not Path("go").exists():
            await asyncio.sleep(0.01)

    async def answer(self, mail):
        return "slowly"

@agent("waits")
async def waits(mail):
    await asyncio.to_thread(time.sleep, 600)

@agent("leaves")
async def leaves(mail):
    threading.Thread(target=time.sleep, args=(600,)).start()
    return "left"

@hookimpl
def responder_agents():
    return {"slow": Slow}
"""


def own_agents(folder: Path, **inboxes: Any) -> ServerProcess:
    (folder / "own").mkdir()
    (folder / "own" / "agents.py").write_text(AGENTS)
    plugins = [str(ROOT / "plugins"), str(folder / "own")]
    limits = {"attempts": 1, "timeout": "1s"}
    return ServerProcess(folder, configuration(plugins=plugins, answering=limits, inboxes=inboxes))


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM], ids=lambda number: number.name)
def test_signal_when_agents_are_starting_then_it_is_followed(tmp_path: Path, number: signal.Signals) -> None:
    server = own_agents(tmp_path, slow={"agent": "slow", "timeout": "60s"})
    server.spawn()
    try:
        assert server.process is not None
        until((tmp_path / "starting").exists, 30, "no agent starts")
        server.signal(number)
        if number is signal.SIGTERM:
            assert server.process.wait(20) == 0
            server.process = None
            return
        (tmp_path / "go").touch()
        server.wait_for_log(" ready ")
        server.wait_for_log(" reloaded ")
        assert server.stop() == 0
    finally:
        if server.process is not None:
            server.kill()


def test_threads_that_an_agent_leaves_hanging_then_others_work_and_the_server_reloads_and_ends(tmp_path: Path) -> None:
    server = own_agents(tmp_path, waits={"agent": "waits"}, leaves={"agent": "leaves"}, echo={"agent": "echo"})
    server.start()
    try:
        for number in range(40):
            sender = f"s{number}@away.example"
            assert submit(server.port, sender, ["waits@test.example"], message(sender, "waits", "x", "x"))[0] == 250
        submit(server.port, "a@away.example", ["leaves@test.example"], message("a@away.example", "leaves", "x", "x"))
        settled(server, 30, mails=41)
        at = server.log.stat().st_size
        server.signal(signal.SIGHUP)
        server.wait_for_log(" reloaded ", at)
        mail_id = queued_as(submit(server.port, "b@away.example", [ECHO], message("b@away.example", ECHO, "x", "x")))
        assert [item["state"] for item in ended(server, mail_id)] == ["ANSWERED", "DELIVERED"]
        assert server.stop(20) == 0
        assert "agents left behind" in server.log.read_text()
    finally:
        if server.process is not None:
            server.kill()


def _refuses(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except ConnectionRefusedError:
        return True
    return False

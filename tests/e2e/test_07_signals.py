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

from tests.support.server import ServerProcess, configuration, running, to_toml
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


def _refuses(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except ConnectionRefusedError:
        return True
    return False

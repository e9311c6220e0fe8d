"""New code for a running server: a plugin file dropped into a folder answers mail after SIGHUP, and nothing is lost meanwhile.

clients ==load==> Responder --> scripted sink (smarthost)
                      ^
          plugins/*.py, SIGHUP
"""

from __future__ import annotations

import re
import signal
from copy import deepcopy
from pathlib import Path
from typing import Any

from tests.support.server import ROOT, ServerProcess, configuration, running
from tests.support.smtp_sink import SMTPSink
from tests.support.submission import Load, message, queued_as, settled, submit
from tests.support.waiting import Background, until

SENDER = "someone@away.example"

PLUGIN = """
import asyncio, pathlib
from responder import Agent, Context, Mail, hookimpl

class Greeter(Agent):
    async def start(self):
        self.context.log.info("VERSION started")

    async def stop(self):
        self.context.log.info("VERSION stopped")

    async def answer(self, mail: Mail):
        if "wait" in mail.subject:
            pathlib.Path("working").touch()
            while not pathlib.Path("go").exists():
                await asyncio.sleep(0.02)
        return f"this is VERSION, mail {await self.context.state.increment('mails')}"

@hookimpl
def responder_agents():
    return {"greeter": Greeter}
"""


def test_plugin_file_dropped_into_a_folder_answers_after_a_reload_and_no_mail_is_lost(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    with Background() as background:
        sink = background.enter(SMTPSink())
        delivery = {"transport": "smarthost", "smarthost": f"127.0.0.1:{sink.port}"}
        config = configuration(delivery=delivery, plugins=[str(ROOT / "plugins"), str(folder)])
        with running(tmp_path / "server", config) as server:
            with Load(server.port) as load:
                load.goes_on()
                answers = exchange(server, sink, folder, config, load)
                load.goes_on()
            assert not load.refused
            settled(server, 60, mails=len(load.accepted) + len(answers))
        log = server.log.read_text()
    assert answers == ["this is v1, mail 1", "this is v2, mail 2", "this is v1, mail 3", "this is v2, mail 4"]
    # The old agent stopped once, behind the mail that was in flight; the new one at the server's end.
    says = re.findall(r'inbox=late text="(v\d \w+)"', log)
    assert says == ["v1 started", "v2 started", "v1 stopped", "v2 stopped"]
    answered = sorted(to for one in sink.transactions for to in one.recipients if to != SENDER)
    assert answered == sorted(load.accepted)


def exchange(server: ServerProcess, sink: SMTPSink, folder: Path, config: dict[str, Any], load: Load) -> list[str]:
    """Bring one version after the other in; the answers in the order in which they were sent."""
    (folder / "greeter.py").write_text(PLUGIN.replace("VERSION", "v1"))
    changed = deepcopy(config)
    changed["inboxes"]["late"] = {"agent": "greeter"}
    reload(server, changed)
    load.goes_on()
    answers = [told(server, sink, "one")]
    # A mail that is in flight when the new code comes ends on the old
    waiting = queued_as(submit(server.port, SENDER, ["late@test.example"], mail("wait")))
    until((server.folder / "working").exists, 20, "the agent does not begin")
    (folder / "greeter.py").write_text(PLUGIN.replace("VERSION", "v2"))
    reload(server, changed)
    answers.append(told(server, sink, "two"))
    assert "v1 stopped" not in server.log.read_text()
    (server.folder / "go").touch()
    answers.append(text_for(sink, waiting))
    server.wait_for_log("v1 stopped")
    answers.append(told(server, sink, "three"))
    # What does not load is refused, and the code of before goes on
    (folder / "greeter.py").write_text("this is no Python")
    at = server.log.stat().st_size
    server.signal(signal.SIGHUP)
    assert "Traceback" not in server.wait_for_log("reload refused", at)
    return answers


def reload(server: ServerProcess, config: dict[str, Any]) -> None:
    at = server.log.stat().st_size
    server.write(config)
    server.signal(signal.SIGHUP)
    server.wait_for_log(" reloaded ", at)


def mail(subject: str) -> bytes:
    return message(SENDER, "late@test.example", subject, "x")


def told(server: ServerProcess, sink: SMTPSink, subject: str) -> str:
    """What the new inbox answers."""
    return text_for(sink, queued_as(submit(server.port, SENDER, ["late@test.example"], mail(subject))))


def text_for(sink: SMTPSink, mail_id: str) -> str:
    """The text of the answer to a mail, once it has arrived."""

    def look() -> str | None:
        for one in list(sink.transactions):
            if f"<auto.{mail_id}.0.0@".encode() in one.content:
                return one.content.partition(b"\r\n\r\n")[2].decode().strip()
        return None

    return until(look, 30, f"no answer to {mail_id}")

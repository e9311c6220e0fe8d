"""An agent that ends the server's own process (`os._exit`), not isolated: nothing can contain that, so it must end by itself.

The supervisor starts the server again, as systemd would. A mail whose worker has died twice is run in a process of its own: it
takes the server down twice and no more, and nothing else is lost.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from subprocess import Popen

from tests.support.server import ROOT, ServerProcess, configuration
from tests.support.submission import ended, message, queued_as, submit, verb
from tests.support.waiting import until

SENDER = "someone@away.example"

PLUGIN = """
import os
from responder import Mail, agent

@agent("deadly")
async def deadly(mail: Mail) -> str:
    os._exit(41)
"""


def over(server: ServerProcess, process: Popen[bytes]) -> bool:
    return process.poll() is not None or " failed " in server.log.read_text()


def test_server_is_ended_by_an_agent_then_no_more_than_twice_and_other_mail_is_answered(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "deadly.py").write_text(PLUGIN)
    config = configuration(
        plugins=[str(ROOT / "plugins"), str(tmp_path / "mine")],
        queue={"lease": "1s"},
        answering={"attempts": 4, "retry": ["100ms"]},
    )
    config["inboxes"]["deadly"] = {"agent": "deadly"}
    server = ServerProcess(tmp_path / "server", config)
    deaths = 0
    try:
        server.start()
        mail = queued_as(submit(server.port, SENDER, ["deadly@test.example"], message(SENDER, "x", "s", "x")))
        while deaths < 10:
            process = server.process
            assert process is not None
            # Until it dies again, or the mail has come to its end
            until(partial(over, server, process), 30, "neither nor")
            if process.poll() is None:
                break
            assert process.returncode == 41
            deaths += 1
            server.process = None
            server.start()
        assert deaths == 2
        [item] = ended(server, mail)
        assert item["state"] == "FAILED"
        assert "exit status 41" in item["reason"]
        told = verb(server, "explain", mail)
        assert told.count("the worker that had it died") == 2
        other = queued_as(submit(server.port, SENDER, ["echo@test.example"], message(SENDER, "x", "s", "x")))
        assert [one["state"] for one in ended(server, other)] == ["ANSWERED", "DELIVERED"]
        assert server.stop() == 0
    finally:
        if server.process is not None:
            server.kill()

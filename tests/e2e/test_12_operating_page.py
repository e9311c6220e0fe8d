"""Scenario 12: what `docs/operating.md` shows is what an operator sees.

client ──SMTP──> responder (echo, an agent that fails) ──> answered, silent, failed
operator: every command of the page, its output compared but for ids, times and paths
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.support.server import ROOT, ServerProcess, configuration, environment
from tests.support.submission import message, settled, submit

FLAKY = """from responder import agent


@agent("flaky")
def flaky(mail):
    raise ConnectionError("the backend is down")
"""


def plain(text: str) -> str:
    """Without what differs from run to run; what stands in columns keeps its width."""
    text = re.sub(r"\b1[0-9a-z]{17}\b", "I" * 18, text)
    text = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "T" * 19, text)
    return re.sub(r'File "[^"]*(own/flaky\.py)"', r'File "\1"', text)


def test_page_when_its_commands_are_run_then_they_say_what_it_shows(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "flaky.py").write_text(FLAKY)
    config = configuration(
        hostname="mx.example.org",
        domains=["example.org"],
        inboxes={"echo": {"agent": "echo"}, "flaky": {"agent": "flaky"}},
        answering={"attempts": 1},
    )
    server = ServerProcess(tmp_path, {**config, "plugins": [*config["plugins"], "own"]})
    server.start()
    try:
        for name, *fields in (["echo"], ["echo", "List-Id: <friends.list.example>"], ["flaky"]):
            to, identifier = f"{name}@example.org", f"Message-ID: <{len(fields)}{name}@client.example>"
            content = message("Ann <ann@client.example>", to, "Hello", "How are you?", identifier, *fields)
            assert submit(server.port, "ann@client.example", [to], content)[0] == 250
        settled(server, 30, mails=3)
        page = (ROOT / "docs" / "operating.md").read_text(encoding="utf-8")
        shown = re.findall(r"^\$ responder (.+)\n((?:(?!\$ |```).*\n)*)", page, re.MULTILINE)
        assert len(shown) == 5
        for arguments, expected in shown:
            done = subprocess.run(
                [sys.executable, "-m", "responder", *arguments.split()],
                cwd=tmp_path,
                env={**environment(), "RESPONDER_CONFIG": str(server.file)},
                capture_output=True,
                text=True,
                timeout=60,
                check=True,
            )
            assert plain(done.stdout) == plain(expected)
        assert server.stop() == 0
    finally:
        if server.process is not None:
            server.kill()

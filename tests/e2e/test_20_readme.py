"""README's commands, as a newcomer runs them, in a copy of the project that has nothing but its own files.

README: make serve ──> environment of its own ──> server on the default configuration
README: python3 snippet ──SMTP──> server ──> answer in the terminal
README: `new plugin`, an edit ──> the server that watches reloads ──> the own agent answers
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.server import ROOT, free_port
from tests.support.waiting import until

NEWCOMER = 120.0  # seconds to the first answer: what was promised
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def block(language: str, holding: str) -> str:
    """The code block of README that holds these words."""
    found = [text for text in re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.M | re.S) if holding in text]
    assert len(found) == 1, f"README has {len(found)} {language} blocks with {holding!r}"
    return str(found[0])


def copy_project(folder: Path) -> None:
    """The files that git knows, as they are now."""
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    for name in names.decode().split("\0"):
        if name and (ROOT / name).is_file():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((ROOT / name).read_bytes())


@pytest.mark.peer("make", "git")
def test_readme_when_followed_then_the_first_answer_and_the_own_agent_come(tmp_path: Path) -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("no git checkout: nothing tells which files belong to the project")
    copy_project(tmp_path)
    port = free_port()
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("RESPONDER_", "PYTHON"))}
    environment |= {"RESPONDER_LISTEN": f'[{{address = "127.0.0.1:{port}"}}]', "MAKEFLAGS": ""}
    commands = [line.partition("#")[0].split() for line in block("sh", "make serve").splitlines()]
    assert commands == [["make", "serve"], ["make", "test"]]  # the second one is what runs this test
    began = time.monotonic()
    output = tmp_path / "terminal.txt"
    with output.open("wb") as terminal:
        server = subprocess.Popen(
            [*commands[0], f"PYTHON={sys.executable}"],
            cwd=tmp_path,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=terminal,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        until(lambda: " ready " in output.read_text(errors="replace"), NEWCOMER, lambda: output.read_text()[-3000:])
        snippet = block("sh", "smtplib").replace("8025", str(port))
        subprocess.run(["sh", "-c", snippet], check=True, env=environment, timeout=30)
        until(
            lambda: "kept as state/printed/" in output.read_text(errors="replace"),
            30,
            lambda: output.read_text()[-3000:],
        )
        assert time.monotonic() - began < NEWCOMER
        shown = output.read_text()
        for line in (
            "To: you@example.com",
            "Subject: Re: Is anybody there?",
            "In-Reply-To: <first@example.com>",
            "You wrote:",
        ):
            assert f"\n{line}\n" in shown
            assert f"\n{line}\n" in TEXT  # README shows what is really seen

        words = block("sh", "new plugin").split()
        assert words[0] == ".venv/bin/responder"
        own = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
        assert own.returncode == 0, own.stderr
        until(lambda: " reloaded inboxes=4" in output.read_text(), 30, lambda: output.read_text()[-3000:])
        plugin = tmp_path / "plugins" / "shout.py"
        method = re.compile(r"^    async def answer.*?(?=\n\n\n)", re.M | re.S)
        edited, edits = method.subn(lambda _: block("python", "async def answer").rstrip(), plugin.read_text())
        assert edits == 1
        reloads = output.read_text().count(" reloaded ")
        plugin.write_text(edited)
        until(lambda: output.read_text().count(" reloaded ") > reloads, 30, lambda: output.read_text()[-3000:])
        assert "reload refused" not in output.read_text()

        mail = tmp_path / "mail.eml"
        mail.write_text("From: you@example.com\nTo: shout@localhost\nSubject: quiet\n\nhello there\n")
        tried = subprocess.run(
            [".venv/bin/responder", "try", "shout", str(mail)],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert tried.returncode == 0, tried.stderr
        assert "HELLO THERE" in tried.stdout

        snippet = snippet.replace("echo@localhost", "shout@localhost").replace("first@", "second@")
        subprocess.run(["sh", "-c", snippet], check=True, env=environment, timeout=30)
        until(lambda: "\nHELLO!\n" in output.read_text(), 30, lambda: output.read_text()[-3000:])
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(60)

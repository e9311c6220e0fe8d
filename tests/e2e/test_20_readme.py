"""README's commands, as a newcomer runs them, in a copy of the project that has nothing but its own files.

README: make serve ──> environment of its own ──> server on the default configuration
README: python3 snippet ──SMTP──> server ──> answer in the terminal
README: own agent, own inbox, `try`, SIGHUP ──> the new agent answers
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

        (tmp_path / "plugins" / "shout.py").write_text(block("python", '@agent("shout")'))
        (tmp_path / "config" / "responder.local.toml").write_text(block("toml", "[inboxes.shout]"))
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

        os.kill(responder_below(server.pid), signal.SIGHUP)
        until(lambda: " reloaded " in output.read_text(), 30, lambda: output.read_text()[-3000:])
        snippet = snippet.replace("echo@localhost", "shout@localhost").replace("first@", "second@")
        subprocess.run(["sh", "-c", snippet], check=True, env=environment, timeout=30)
        until(lambda: "\nHELLO!\n" in output.read_text(), 30, lambda: output.read_text()[-3000:])
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(60)


def responder_below(pid: int) -> int:
    """The server's own process: `make` runs it in a child."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    for child in children:
        command = Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
        if any(word.endswith(b"/responder") for word in command):
            return int(child)
        try:
            return responder_below(int(child))
        except LookupError:
            continue
    raise LookupError(pid)

"""An author's day: a new plugin, its test, a server that follows each save, a plugin that breaks, one that watches.

responder new plugin ──> file, test ──pytest──> passes ──SIGHUP──> the running server answers with it
editor ──saves──> serve --watch ──> new code, or the old one where the new is broken
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.server import ROOT, ServerProcess, configuration, environment, running
from tests.support.submission import ended, message, queued_as, submit, verb
from tests.support.waiting import until

SENDER = "ann@client.example"


def ask(server: ServerProcess, inbox: str) -> str:
    """Mail to an inbox; its id."""
    to = f"{inbox}@test.example"
    return queued_as(submit(server.port, SENDER, [to], message(SENDER, to, "Hello", "hello there")))


def answer(server: ServerProcess, inbox: str) -> str:
    """Mail to an inbox, and the text of what was answered."""
    items = ended(server, ask(server, inbox))
    assert [item["state"] for item in items] == ["ANSWERED", "DELIVERED"], items
    text = (server.folder / "state" / "printed" / f"{items[1]['id']}.eml").read_text()
    return text.replace("\r", "").partition("\n\n")[2].strip()


@contextmanager
def watching(folder: Path, config: Mapping[str, Any]) -> Iterator[ServerProcess]:
    server = ServerProcess(folder, config)
    server.options = ("--watch",)
    server.start()
    try:
        yield server
        assert server.stop() == 0
    finally:
        if server.process is not None:
            server.kill()


def test_new_plugin_when_written_then_its_test_passes_and_a_running_server_answers_with_it(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    with running(tmp_path, configuration(plugins=["own", str(ROOT / "plugins")])) as server:
        out = verb(server, "new", "plugin", "greet", "--add-inbox")
        assert "own/greet.py" in out and "own/test_greet.py" in out
        tested = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "responder.testing", "-p", "no:cacheprovider", "own"],
            cwd=tmp_path,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert tested.returncode == 0, tested.stdout + tested.stderr
        at = server.log.stat().st_size
        server.signal(signal.SIGHUP)
        server.wait_for_log(" reloaded ", at)
        assert answer(server, "greet") == f"Hello, {SENDER}!\n\nYou wrote:\n\nhello there"


SHOUT = "from responder import agent\n\n\n@agent('shout')\ndef shout(mail):\n    return {0!r}\n"


def test_file_when_saved_under_watch_then_new_code_answers_and_broken_code_does_not_take_its_place(
    tmp_path: Path,
) -> None:
    own = tmp_path / "own"
    own.mkdir()
    plugin = own / "shout.py"
    plugin.write_text(SHOUT.format("one"))
    config = configuration(plugins=["own", str(ROOT / "plugins")], inboxes={"shout": {"agent": "shout"}})
    with watching(tmp_path, config) as server:
        assert answer(server, "shout") == "one"

        at = server.log.stat().st_size
        new = own / ".shout.py.tmp"  # as editors save: another file, put in its place
        new.write_text(SHOUT.format("two"))
        os.replace(new, plugin)
        log = server.wait_for_log(" reloaded ", at)
        assert "changed files=own/shout.py" in log
        assert answer(server, "shout") == "two"

        at = server.log.stat().st_size
        plugin.write_text("def shout(:\n")
        log = server.wait_for_log(" reload refused ", at)
        assert "own/shout.py: SyntaxError" in log
        assert answer(server, "shout") == "two"

        at = server.log.stat().st_size
        plugin.write_text(SHOUT.format("three"))
        server.wait_for_log(" reloaded ", at)
        assert answer(server, "shout") == "three"

        at = server.log.stat().st_size
        server.write(config | {"inboxes": config["inboxes"] | {"late": {"agent": "echo"}}})
        server.wait_for_log(" reloaded inboxes=2", at)
        assert "hello there" in answer(server, "late")
        assert server.log.read_text().count(" changed ") == 4  # one reload for each save, and no more


def test_inbox_when_its_plugin_is_skipped_then_its_mail_waits_until_the_file_is_mended(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    plugin = own / "shop.py"
    plugin.write_text("import nothing_of_that_name\n")
    config = configuration(
        plugins=["own", str(ROOT / "plugins")],
        inboxes={"shop": {"agent": "shop", "isolated": True}, "echo": {"agent": "echo"}},
        answering={"attempts": 2, "retry": ["100ms"]},
    ) | {"broken_plugins": "skip"}
    with running(tmp_path, config) as server:
        log = server.log.read_text()
        assert "plugin skipped reason=" in log and "own/shop.py: ModuleNotFoundError" in log
        assert "hello there" in answer(server, "echo")
        mail = ask(server, "shop")
        [item] = ended(server, mail)
        assert item["state"] == "FAILED"
        told = verb(server, "explain", mail)
        assert told.count("its plugin is broken: own/shop.py: ModuleNotFoundError") >= 2  # tried again before it failed

        server.write(config | {"inboxes": {"shop": {"agent": "shop"}, "echo": {"agent": "echo"}}})
        plugin.write_text(SHOUT.format("mended").replace("shout", "shop"))
        at = server.log.stat().st_size
        server.signal(signal.SIGHUP)
        assert "plugin skipped" not in server.wait_for_log(" reloaded ", at)
        verb(server, "queue", "retry", item["id"])
        assert [one["state"] for one in ended(server, mail)] == ["ANSWERED", "DELIVERED"]


WATCHES = """
import json
import time
from responder import Command, hookimpl


@hookimpl
def responder_event(name, fields):
    with open({file!r}, "a") as file:
        file.write(json.dumps([name, dict(fields)]) + "\\n")
    {does}


@hookimpl
def responder_commands():
    return [Command("where", "Say where.", lambda options, config: print(config.hostname))]
"""


def test_observer_when_a_plugin_brings_one_then_it_sees_each_step_follows_a_reload_and_holds_up_nobody(
    tmp_path: Path,
) -> None:
    own = tmp_path / "own"
    own.mkdir()
    plugin = own / "watches.py"
    plugin.write_text(WATCHES.format(file="one.jsonl", does=""))
    config = configuration(plugins=["own", str(ROOT / "plugins")], log={"level": "error"})

    def seen(name: str) -> list[str]:
        path = tmp_path / name
        return [json.loads(line)[0] for line in path.read_text().splitlines()] if path.exists() else []

    server = ServerProcess(tmp_path, config)
    server.spawn()
    try:
        until(lambda: "ready" in seen("one.jsonl"), 30, lambda: server.log.read_text())
        assert "hello there" in answer(server, "echo")
        until(
            lambda: {"accepted", "answered", "delivered"} <= set(seen("one.jsonl")), 10, lambda: str(seen("one.jsonl"))
        )
        assert verb(server, "where") == "mx.test.example\n"

        plugin.write_text(WATCHES.format(file="two.jsonl", does="time.sleep(60)"))
        server.signal(signal.SIGHUP)
        until(lambda: seen("two.jsonl"), 30, lambda: server.log.read_text())  # the first event; there it sleeps
        before = len(seen("one.jsonl"))
        assert "hello there" in answer(server, "echo")  # it sleeps, and the mail does not wait
        assert len(seen("one.jsonl")) == before

        plugin.write_text(WATCHES.format(file="three.jsonl", does="raise ValueError('so')"))
        server.signal(signal.SIGHUP)
        until(lambda: "reloaded" in seen("three.jsonl"), 30, lambda: server.log.read_text())
        assert "hello there" in answer(server, "echo")
        assert server.stop() == 0
        assert "stopped" in seen("three.jsonl")
        assert seen("three.jsonl").count("observer failed") == 1
        assert server.log.read_text() == ""  # nothing of the level `error`
    finally:
        if server.process is not None:
            server.kill()

"""What reaches a terminal: nothing that it would obey, no colour where none is wanted, no traceback where a pipe breaks."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from responder.mail.lifecycle import Event
from responder.store.records import NewMail, Settlement
from responder.store.sqlite import SQLiteStore
from tests.support.clock import ManualClock
from tests.support.operator import Operator
from tests.support.scene import EVIL, LETTER, SAFE, Scene, new_mail, with_store
from tests.support.server import configuration, environment


@pytest.fixture
def operator(operator: Operator) -> Operator:
    operator.write(configuration(store="sqlite:state/responder.db", reply={"per_sender": "30/10m"}))
    return operator


@pytest.fixture
def scene(operator: Operator) -> Scene:
    scene = Scene()
    with_store(operator, scene.build)
    return scene


@pytest.fixture
def letter(operator: Operator) -> Path:
    path = operator.folder / "mail.eml"
    path.write_bytes(LETTER)
    return path


# -- the terminal ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def hostile(operator: Operator) -> NewMail:
    evil = EVIL.encode()
    content = b"From: %s <ann@client.example>\r\nSubject: %s =?utf-8?q?=1B[2J?=\r\n\r\n%s\r\n" % (evil, evil, evil)
    made: list[NewMail] = []

    async def accept(store: SQLiteStore, clock: ManualClock) -> None:
        mail = new_mail(clock, sender=f"a{EVIL}@x", message_id=f"<{EVIL}@x>", content=content)
        made.append(mail)
        await store.accept(mail)
        await store.beat("worker", 60)
        [item], _ = await store.claim_inbound("worker", 1)
        await store.settle_inbound(item, Settlement(Event.FAIL, f"said {EVIL}\nand {EVIL}"))

    with_store(operator, accept)
    return made[0]


@pytest.mark.parametrize("json_too", [False, True])
@pytest.mark.parametrize(
    "verb", ["queue list", "queue show ID", "explain ID", f"explain <{EVIL}@x>", f"explain {EVIL}", "queue drop EVIL"]
)
def test_verbs_when_a_mail_is_hostile_then_no_escape_sequence_reaches_the_terminal(
    operator: Operator, hostile: NewMail, verb: str, json_too: bool
) -> None:
    arguments = [{"ID": hostile.id, "EVIL": EVIL}.get(word, word) for word in verb.split(" ")]
    result = operator(*arguments, *(["--json"] if json_too else []))
    assert result.out or result.err
    assert SAFE.fullmatch(result.out), result.out
    assert SAFE.fullmatch(result.err), result.err
    if json_too and result.out:
        assert any(EVIL in text for text in texts(result.json))  # escaped, not lost


def texts(value: Any) -> Iterator[str]:
    """Every text in a JSON document."""
    if isinstance(value, str):
        yield value
    for one in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from texts(one)


def test_try_when_the_mail_is_hostile_then_no_escape_sequence_reaches_the_terminal(operator: Operator) -> None:
    path = operator.folder / "evil.eml"
    evil = EVIL.encode()
    path.write_bytes(
        b"Return-Path: <a%s@x>\nFrom: %s <ann@client.example>\nSubject: =?utf-8?q?=1B[2J?= %s\n\n%s\n" % ((evil,) * 4)
    )
    for options in ((), ("--from", "ann@client.example"), ("--from", f"{EVIL}@x")):
        for inbox in ("echo", "debug"):
            result = operator("try", inbox, str(path), *options)
            assert result.status == 0
            assert SAFE.fullmatch(result.out + result.err), result


def test_error_when_a_file_name_is_hostile_then_no_escape_sequence_reaches_the_terminal(operator: Operator) -> None:
    result = operator.run("check", "--config", f"{EVIL}.toml")
    assert result.status == 2
    assert SAFE.fullmatch(result.err)


@pytest.mark.parametrize(
    ("tty", "no_color", "bold"), [(True, None, True), (True, "1", False), (False, None, False), (False, "1", False)]
)
def test_output_when_it_is_no_terminal_or_no_color_is_set_then_it_is_plain(
    operator: Operator, scene: Scene, monkeypatch: pytest.MonkeyPatch, tty: bool, no_color: str | None, bold: bool
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    if no_color is not None:
        monkeypatch.setenv("NO_COLOR", no_color)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: tty)
    for verb in ("queue list", f"explain {scene.mails['silent'].id}", "check", "plugins"):
        assert ("\x1b[1m" in operator(*verb.split()).out) is bold


# -- as processes ---------------------------------------------------------------------------------------------------------


def test_pipe_when_its_reader_has_gone_then_there_is_no_traceback(operator: Operator) -> None:
    async def many(store: SQLiteStore, clock: ManualClock) -> None:
        for _ in range(2000):
            await store.accept(new_mail(clock))

    with_store(operator, many)
    command = [sys.executable, "-m", "responder", "queue", "list", "--limit", "2000", "--config", str(operator.file)]
    pipe: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": environment()}
    for read in (True, False):
        with subprocess.Popen(command, cwd=operator.folder, **pipe) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            if read:
                assert process.stdout.readline().startswith(b"id ")
            process.stdout.close()
            assert process.stderr.read() == b""
            assert process.wait(30) == 0


@pytest.mark.parametrize("name", ["hangs", "stubborn"])
def test_try_when_the_agent_never_ends_then_the_verb_does(operator: Operator, letter: Path, name: str) -> None:
    own = operator.folder / "own"
    own.mkdir()
    (own / "bad.py").write_text(
        "import asyncio, threading\nfrom responder import agent\n"
        "@agent('hangs')\ndef hangs(mail):\n    threading.Event().wait()\n"
        "@agent('stubborn')\nasync def stubborn(mail):\n    while True:\n        try:\n"
        "            await asyncio.Event().wait()\n        except asyncio.CancelledError:\n            pass\n"
    )
    operator.write(configuration(plugins=["own"], inboxes={name: {"agent": name, "timeout": "0.2s"}}))
    done = subprocess.run(
        [sys.executable, "-m", "responder", "try", name, str(letter), "--json", "--config", str(operator.file)],
        cwd=operator.folder,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
    )
    assert done.returncode == 1
    assert json.loads(done.stdout)["reason"].startswith("the agent took longer than 0.2 s")


@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
def test_terminal_when_it_is_not_utf_8_then_all_is_shown_still(operator: Operator, scene: Scene, encoding: str) -> None:
    arguments = ["queue", "show", scene.answers["deferred"], "--config", str(operator.file)]
    done = subprocess.run(
        [sys.executable, "-m", "responder", *arguments],
        cwd=operator.folder,
        env={**environment(), "PYTHONIOENCODING": encoding},
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"You wrote:" in done.stdout and b"\\u2500" in done.stdout


# -- what no terminal sends ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("suppress", "list", "--limit", "many"), "--limit: wants a number from 1"),
        (("queue", "list", "--limit", "0"), "--limit: wants a number from 1"),
        (("queue", "stats", "--by", "domain", "--top", "9" * 5000), "--top: wants a number from 1"),
    ],
)
def test_number_is_none_then_it_says_what_is_wanted(operator: Operator, words: tuple[str, ...], reason: str) -> None:
    done = verb_as_typed(operator, *words)
    assert done.returncode == 2 and reason in done.stderr and "_count" not in done.stderr


def test_octets_are_no_utf8_then_they_name_nothing_and_are_kept_as_marks(operator: Operator, scene: Scene) -> None:
    odd = "b\udcff"
    for words in (
        ("suppress", "add", f"{odd}@x.example", "--reason", odd, "--inbox", odd),
        ("suppress", "list", "--inbox", odd),
        ("suppress", "remove", f"{odd}@x.example", "--inbox", odd),
        ("send", "--from", "echo@test.example", "--to", f"{odd}@x.example", "--text", odd),
    ):
        done = verb_as_typed(operator, *words)
        assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr


def test_standard_input_is_closed_then_the_mail_has_no_text(operator: Operator, scene: Scene) -> None:
    words = ("send", "--from", "echo@test.example", "--to", "ann@x.example", "--subject", "Hello")
    done = verb_as_typed(operator, *words, closed="<&-")
    assert done.returncode == 0 and done.stdout.startswith("Queued as "), done.stderr


def verb_as_typed(operator: Operator, *words: str, closed: str = "") -> subprocess.CompletedProcess[str]:
    """A verb in a shell, as its octets are typed."""
    program = [sys.executable, "-m", "responder", *words, "--config", str(operator.file)]
    return subprocess.run(
        ["sh", "-c", f'"$@" {closed}', "sh", *program],
        cwd=operator.folder,
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )

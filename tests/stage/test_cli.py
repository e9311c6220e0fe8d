"""The operator's verbs on a real store: what they print, what they change, and what of a hostile mail reaches the terminal."""

from __future__ import annotations

import asyncio
import io
import json
import re
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from responder.cli import parser
from responder.mail.lifecycle import Event, State
from responder.store.base import NewMail, NewOutbound, Settlement
from responder.store.sqlite import SQLiteStore
from tests.support.clock import ManualClock
from tests.support.operator import Operator, make_operator
from tests.support.server import configuration, environment

EVIL = "\x1b[2J\x1b]0;owned\x07\x9b31m\u202e"
"""Clears the screen, sets the title, colours (as 8-bit CSI too), turns the direction of reading."""

SAFE = re.compile(r"[^\x00-\x09\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]*")


@pytest.fixture
def operator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Operator:
    operator = make_operator(tmp_path, monkeypatch, capsys)
    operator.write(configuration(store="sqlite:state/responder.db", reply={"per_sender": "30/10m"}))
    return operator


def with_store(operator: Operator, work: Callable[[SQLiteStore, ManualClock], Awaitable[None]]) -> None:
    async def run() -> None:
        clock = ManualClock()
        store = SQLiteStore(operator.folder / "state" / "responder.db", clock)
        await store.open()
        try:
            await work(store, clock)
        finally:
            await store.close()

    asyncio.run(run())


def new_mail(clock: ManualClock, *recipients: str, sender: str = "ann@client.example", **facts: Any) -> NewMail:
    identifier = clock.new_id()
    return NewMail(
        id=identifier,
        received_at=clock.now(),
        reverse_path=sender,
        peer="192.0.2.7",
        helo="client.example",
        message_id=facts.get("message_id", f"<{identifier}@client.example>"),
        content=facts.get("content", b"From: Ann <ann@client.example>\r\nSubject: Hi\r\n\r\nHello\r\n"),
        recipients=tuple((one, one.partition("@")[0]) for one in recipients or ("echo@test.example",)),
        note="from client.example [192.0.2.7] by ESMTP, 53 octets",
    )


class Scene:
    """Some mails: one whose answer was delivered, one silent, one that failed, one whose answer is deferred, one that waits."""

    def __init__(self) -> None:
        self.mails: dict[str, NewMail] = {}
        self.answers: dict[str, str] = {}

    async def build(self, store: SQLiteStore, clock: ManualClock) -> None:
        await store.beat("worker", 60)
        for name in ("delivered", "silent", "failed", "deferred"):
            mail = self.mails[name] = new_mail(clock)
            await store.accept(mail)
            [item], _ = await store.claim_inbound("worker", 1)
            clock.advance(1)
            if name == "silent":
                await store.settle_inbound(item, Settlement(Event.SILENCE, "list-id: List-Id: <x.list.example>"))
                continue
            if name == "failed":
                reason = (
                    "the agent raised ValueError: boom, attempt 1 of 1\nTraceback (most recent call last):\n  File x"
                )
                await store.settle_inbound(item, Settlement(Event.FAIL, reason))
                continue
            identifier = self.answers[name] = clock.new_id()
            answer = NewOutbound(
                id=identifier,
                kind="answer",
                cause=item.id,
                inbox="echo",
                content_id=identifier,
                reverse_path=f"bounces+{identifier}@test.example",
                recipient="ann@client.example",
                domain="client.example",
                return_to="",
                created_at=clock.now(),
                expires_at=clock.now() + 1000,
            )
            content = b"From: echo@test.example\r\nTo: ann@client.example\r\nSubject: Re: Hi\r\n\r\nYou wrote:\r\n"
            settlement = Settlement(Event.ANSWER, "answered by echo", (answer,), ((identifier, content),))
            await store.settle_inbound(item, settlement)
            [sending], _ = await store.claim_outbound("worker", 1, {}, 10)
            if name == "delivered":
                end = Settlement(Event.DELIVER, "250 2.0.0 taken (mx.client.example)")
            else:
                end = Settlement(Event.DEFER, "451 4.3.0 later (mx.client.example)", due_at=clock.now() + 300)
            await store.settle_outbound(sending, end)
        self.mails["waiting"] = new_mail(clock, "echo@test.example", "debug@test.example")
        await store.accept(self.mails["waiting"])
        await store.leave("worker")


@pytest.fixture
def scene(operator: Operator) -> Scene:
    scene = Scene()
    with_store(operator, scene.build)
    return scene


# -- check, plugins -------------------------------------------------------------------------------------------------------


def test_check_when_good_then_it_says_what_would_run(operator: Operator) -> None:
    result = operator("check")
    assert (result.status, result.err) == (0, "")
    for words in (str(operator.file), "mx.test.example", "sqlite:state/responder.db", "print"):
        assert words in result.out
    assert re.search(r"^echo +echo +service +- +.*plugins/echo\.py$", result.out, re.MULTILINE)
    assert result.out.endswith("The configuration is good.\n")
    told = operator("check", "--json").json
    assert told["file"] == str(operator.file)
    assert told["inboxes"]["echo"]["agent"] == "echo"
    assert told["notices"] == []


def test_check_when_something_is_doubtful_then_it_is_remarked(operator: Operator) -> None:
    operator.write(configuration(inboxes={}))
    result = operator("check")
    assert result.status == 0
    assert "\nnotice: inboxes: there is none, so every recipient is refused" in result.out
    assert {"key": "inboxes", "reason": operator("check", "--json").json["notices"][0]["reason"]} in operator(
        "check", "--json"
    ).json["notices"]


def test_plugins_when_listed_then_each_has_origin_and_schema(operator: Operator) -> None:
    result = operator("plugins")
    assert (result.status, result.err) == (0, "")
    assert re.search(
        r"^echo  \(service, from .*plugins/echo\.py\)\n    Sends the text back\.$", result.out, re.MULTILINE
    )
    assert '    prefix: string, default "You wrote:"\n' in result.out
    assert "    subject_prefix: string or null, default null\n" in result.out
    told = operator("plugins", "--json").json
    assert list(told) == ["current-time", "debug", "echo", "forward"]
    assert told["echo"]["settings"]["properties"]["prefix"] == {
        "default": "You wrote:",
        "title": "Prefix",
        "type": "string",
    }
    assert told["debug"]["kind"] == "service"


def test_plugins_when_there_is_none_then_it_says_what_to_do(operator: Operator) -> None:
    operator.write(configuration(plugins=[], inboxes={}))
    result = operator("plugins")
    if "echo" not in result.out:  # where the package is installed, the stock agents are
        assert result.out == "There are no agents: set `plugins` to the folder that they are in.\n"


# -- try ------------------------------------------------------------------------------------------------------------------

LETTER = (
    b"From: Ann <ann@client.example>\nTo: echo@test.example\nSubject: Hi\nMessage-ID: <1@client.example>\n\nHello\n"
)


@pytest.fixture
def letter(operator: Operator) -> Path:
    path = operator.folder / "mail.eml"
    path.write_bytes(LETTER)
    return path


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_try_when_the_mail_may_be_answered_then_the_answer_is_shown_and_nothing_is_written(
    operator: Operator, letter: Path
) -> None:
    before = files(operator.folder)
    result = operator("try", "echo+tag", str(letter))
    assert (result.status, result.err) == (0, "")
    assert "inbox     echo (echo+tag@test.example)\n" in result.out
    assert "sender    <ann@client.example>\n" in result.out
    assert "decision  answer: answered by echo\n" in result.out
    assert "\nAuto-Submitted: auto-replied\n" in result.out
    assert "\nIn-Reply-To: <1@client.example>\n" in result.out
    assert "\nYou wrote:\n\nHello\n" in result.out
    told = operator("try", "echo@test.example", str(letter), "--json").json
    assert (told["event"], told["reason"], told["sender"]) == ("answer", "answered by echo", "ann@client.example")
    [message] = told["messages"]
    assert (message["kind"], message["recipient"]) == ("answer", "ann@client.example")
    assert message["content"].endswith("You wrote:\r\n\r\nHello\r\n")
    assert files(operator.folder) == before


@pytest.mark.parametrize(
    ("change", "options", "code"),
    [
        (b"Auto-Submitted: auto-generated\n", (), "auto-submitted"),
        (b"List-Id: <x.y>\n", (), "list-id"),
        (b"Return-Path: <>\n", (), "null-reverse-path"),
        (b"", ("--from", ""), "null-reverse-path"),
        (b"", ("--from", "echo@test.example"), "recipient-itself"),
        (b"", ("--from", "debug@test.example"), "own-address"),
        (b"", ("--from", "no address"), "invalid-reverse-path"),
        (b"Message-ID: <auto.000000000000000000.0@mx.test.example>\n", (), "own-message-id"),
    ],
)
def test_try_when_the_gate_forbids_an_answer_then_its_code_is_shown(
    operator: Operator, letter: Path, change: bytes, options: tuple[str, ...], code: str
) -> None:
    letter.write_bytes(change + LETTER)
    result = operator("try", "echo", str(letter), *options)
    assert (result.status, result.err) == (0, "")
    assert f"decision  silence: {code}: " in result.out
    assert "Auto-Submitted: auto-replied" not in result.out


def test_try_when_the_mail_has_no_headers_then_it_is_silent(operator: Operator, letter: Path) -> None:
    for content in (b"", b"\n", b"just text\n", b"\xff\xfe\x00"):
        letter.write_bytes(content)
        result = operator("try", "echo", str(letter), "--from", "ann@client.example")
        assert result.status == 0
        assert "decision  silence: no-from: " in result.out


def test_try_when_a_dash_is_given_then_the_mail_comes_from_standard_input(
    operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(LETTER)))
    assert "answered by echo" in operator("try", "echo", "-").out


def test_try_when_the_agent_is_silent_or_forwards_then_that_is_shown(operator: Operator, letter: Path) -> None:
    inboxes = {
        "debug": {"agent": "debug"},
        "support": {"agent": "forward", "targets": ["bob@far.example", "eve@far.example"]},
    }
    operator.write(configuration(inboxes=inboxes))
    result = operator("try", "debug", str(letter))
    assert "decision  silence: agent-silent: the agent had no answer\n" in result.out
    assert operator("try", "debug", str(letter), "--json").json["reason"].startswith("agent-silent: ")
    result = operator("try", "support", str(letter))
    assert result.status == 0
    assert "decision  answer: forwarded by forward\n" in result.out
    assert len(re.findall(r"^forward from <bounces\+[0-9a-z]{18}@test.example> to <(bob|eve)@", result.out, re.M)) == 2
    letter.write_bytes(b"List-Id: <x.y>\n" + LETTER)
    assert len(operator("try", "support", str(letter), "--json").json["messages"]) == 2


def test_try_when_the_agent_fails_then_the_traceback_is_shown_and_the_status_is_1(
    operator: Operator, letter: Path
) -> None:
    own = operator.folder / "own"
    own.mkdir()
    (own / "bad.py").write_text(
        "from responder import TryLater, agent\n"
        f"@agent('bad')\ndef bad(mail):\n    raise ValueError({EVIL!r})\n"
        "@agent('later')\ndef later(mail):\n    raise TryLater(90)\n"
    )
    operator.write(configuration(plugins=["own"], inboxes={"bad": {"agent": "bad"}, "later": {"agent": "later"}}))
    result = operator("try", "bad", str(letter))
    assert (result.status, result.err) == (1, "")
    assert "decision  fail: the agent raised ValueError: " in result.out
    assert "    Traceback (most recent call last):\n" in result.out
    assert "bad.py" in result.out
    assert SAFE.fullmatch(result.out)
    assert operator("try", "bad", str(letter), "--json").status == 1
    result = operator("try", "later", str(letter))
    assert result.status == 1
    assert "decision  fail: the agent asked to be run again in 90 s" in result.out


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("nobody", "mail.eml"), r"inboxes: there is none for nobody@test.example \(there are: echo, "),
        (("echo@far.example", "mail.eml"), r"domains: far.example is not among them \(test.example\)"),
        (("echo echo", "mail.eml"), "echo echo: "),
        (("echo", "missing.eml"), "missing.eml: No such file or directory"),
        (("echo", "."), r"\.: Is a directory"),
    ],
)
def test_try_when_misused_then_one_line_and_status_2(
    operator: Operator, letter: Path, arguments: tuple[str, ...], reason: str
) -> None:
    result = operator("try", *arguments)
    assert (result.status, result.out) == (2, "")
    assert result.err.count("\n") == 1
    assert re.search(reason, result.err)


# -- queue ----------------------------------------------------------------------------------------------------------------


def test_queue_list_when_asked_then_what_waits_and_what_failed_is_there(operator: Operator, scene: Scene) -> None:
    result = operator("queue", "list")
    assert (result.status, result.err) == (0, "")
    rows = [line.split() for line in result.out.splitlines()]
    assert rows[0] == ["id", "direction", "state", "kind", "from", "to", "attempts", "received", "due", "reason"]
    assert [(row[0], row[2]) for row in rows[1:]] == [
        (f"{scene.mails['failed'].id}.0", "FAILED"),
        (scene.answers["deferred"], "DEFERRED"),
        (f"{scene.mails['waiting'].id}.0", "RECEIVED"),
        (f"{scene.mails['waiting'].id}.1", "RECEIVED"),
    ]
    assert "Traceback" not in result.out  # the first line of a reason
    told = operator("queue", "list", "--json").json
    assert [item["id"] for item in told] == [row[0] for row in rows[1:]]
    assert told[1]["reason"] == "451 4.3.0 later (mx.client.example)"


def test_queue_list_when_narrowed_then_only_that_is_there(operator: Operator, scene: Scene) -> None:
    told = operator("queue", "list", "--state", "failed", "--state", "SILENT", "--json").json
    assert [item["state"] for item in told] == ["SILENT", "FAILED"]
    assert len(operator("queue", "list", "--limit", "2", "--json").json) == 2
    assert operator("queue", "list", "--state", "HELD").out == "Nothing is in that state.\n"
    assert operator("queue", "list", "--state", "HELD", "--json").json == []


def test_queue_show_when_asked_then_state_history_and_message_are_there(operator: Operator, scene: Scene) -> None:
    result = operator("queue", "show", scene.answers["deferred"])
    assert (result.status, result.err) == (0, "")
    assert result.out.startswith(f"DEFERRED  outbound {scene.answers['deferred']}  answer  <bounces+")
    assert "defer        DEFERRED   451 4.3.0 later (mx.client.example)" in result.out
    assert "Subject: Re: Hi" in result.out and "You wrote:" in result.out
    mail = scene.mails["failed"].id
    by_mail, by_item = (operator("queue", "show", key, "--json").json for key in (mail, f"{mail}.0"))
    assert by_mail == by_item
    assert [entry["event"] for entry in by_item["history"]] == ["accept", "claim", "fail"]
    assert by_item["content"].endswith("Hello\r\n")
    result = operator("queue", "show", f"{mail}.7")
    assert (result.status, result.out) == (1, "")
    assert "no such mail" in result.err


def test_queue_when_acted_on_then_states_follow_and_history_tells(operator: Operator, scene: Scene) -> None:
    answer, failed = scene.answers["deferred"], f"{scene.mails['failed'].id}.0"
    assert operator("queue", "hold", answer).out == f"{answer} is now HELD\n"
    assert operator("queue", "list", "--state", "HELD", "--json").json[0]["id"] == answer
    assert operator("queue", "release", answer).out == f"{answer} is now QUEUED\n"
    assert operator("queue", "retry", failed, answer, "--json").json == [
        {"id": failed, "state": "RECEIVED", "error": None},
        {"id": answer, "state": "QUEUED", "error": None},
    ]
    assert operator("queue", "drop", answer).out == f"{answer} is now DROPPED\n"
    [account] = operator("explain", answer, "--json").json
    told = [(entry["event"], entry["reason"]) for entry in account["history"] if entry["item"] == answer][-4:]
    assert told == [(event, "by the operator") for event in ("hold", "release", "retry", "drop")]


def test_queue_when_an_act_is_not_possible_then_it_is_said_and_the_others_are_done(
    operator: Operator, scene: Scene
) -> None:
    delivered, deferred = scene.answers["delivered"], scene.answers["deferred"]
    result = operator("queue", "hold", delivered, "nothing", deferred)
    assert result.status == 1
    assert result.out == f"{deferred} is now HELD\n"
    assert result.err.splitlines() == [
        f"responder: {delivered}: a mail that is DELIVERED can't hold",
        "responder: nothing: no such item",
    ]
    result = operator("queue", "hold", delivered, "--json")
    assert result.status == 1
    assert result.json == [{"id": delivered, "state": None, "error": "a mail that is DELIVERED can't hold"}]


def test_queue_stats_when_asked_then_states_are_counted(operator: Operator, scene: Scene) -> None:
    counts = operator("queue", "stats", "--json").json
    assert counts == {
        "inbound": {"ANSWERED": 2, "SILENT": 1, "FAILED": 1, "RECEIVED": 2},
        "outbound": {"DELIVERED": 1, "DEFERRED": 1},
    }
    assert re.search(r"^inbound +RECEIVED +2$", operator("queue", "stats").out, re.MULTILINE)


def test_queue_when_there_is_no_mail_then_it_says_so(operator: Operator) -> None:
    async def nothing(store: SQLiteStore, clock: ManualClock) -> None:
        pass

    with_store(operator, nothing)
    assert operator("queue", "list").out == "Nothing waits, nothing has failed.\n"
    assert operator("queue", "stats").out == "No mail yet.\n"


@pytest.mark.parametrize("verb", ["queue list", "queue show x", "queue retry x", "queue stats", "explain x"])
def test_queue_when_there_is_no_store_then_it_says_what_makes_one_and_makes_none(operator: Operator, verb: str) -> None:
    result = operator(*verb.split())
    assert (result.status, result.out) == (2, "")
    assert re.fullmatch(
        r"responder: .*responder\.toml: store: state/responder\.db: there is no such database yet; "
        r"`responder serve` creates it\n",
        result.err,
    )
    assert files(operator.folder) == ["responder.toml"]


# -- explain --------------------------------------------------------------------------------------------------------------


def test_explain_when_asked_by_any_id_then_it_is_the_same_account(operator: Operator, scene: Scene) -> None:
    mail = scene.mails["delivered"]
    keys = (mail.id, f"{mail.id}.0", scene.answers["delivered"], mail.message_id, mail.message_id.strip("<>"))
    told = {operator("explain", key).out for key in keys}
    assert len(told) == 1
    [text] = told
    assert text.startswith(f"mail {mail.id}  {mail.message_id}\n  from <ann@client.example>, ")
    steps = re.findall(r"^  2027-01-15 08:00:0\d  (\S+) +([A-Z]+)", text, re.MULTILINE)
    assert steps == [
        ("accept", "RECEIVED"),
        ("claim", "ANSWERING"),
        ("answer", "ANSWERED"),
        ("queue", "QUEUED"),
        ("claim", "SENDING"),
        ("deliver", "DELIVERED"),
    ]
    assert "250 2.0.0 taken (mx.client.example)" in text
    assert "from client.example [192.0.2.7] by ESMTP, 53 octets" in text
    [account] = operator("explain", mail.id, "--json").json
    assert account["mail"]["id"] == mail.id
    assert [item["state"] for item in account["items"]] == ["ANSWERED", "DELIVERED"]


def test_explain_when_the_mail_is_silent_or_failed_then_the_reason_is_there(operator: Operator, scene: Scene) -> None:
    assert (
        "silence      SILENT     list-id: List-Id: <x.list.example>"
        in operator("explain", scene.mails["silent"].id).out
    )
    text = operator("explain", scene.mails["failed"].id).out
    assert "fail         FAILED     the agent raised ValueError: boom, attempt 1 of 1\n" in text
    assert "\n      Traceback (most recent call last):\n" in text


def test_explain_when_two_mails_share_a_message_id_then_both_are_told(operator: Operator) -> None:
    async def twins(store: SQLiteStore, clock: ManualClock) -> None:
        for _ in range(2):
            await store.accept(new_mail(clock, message_id="<same@client.example>"))

    with_store(operator, twins)
    assert len(operator("explain", "same@client.example", "--json").json) == 2
    assert operator("explain", "<same@client.example>").out.count("mail ") == 2


@pytest.mark.parametrize("key", ["nothing", "0" * 18, "<no@where>", "", "%", "*", "' OR 1=1 --", "x" * 5000])
def test_explain_when_the_id_is_unknown_then_status_1_and_one_line(operator: Operator, scene: Scene, key: str) -> None:
    result = operator("explain", key)
    assert (result.status, result.out) == (1, "")
    assert result.err.endswith("no such mail (retention may have removed it)\n")
    assert result.err.count("\n") == 1


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


def test_version_when_asked_then_one_line(operator: Operator) -> None:
    result = operator.run("--version")
    assert (result.status, result.err) == (0, "")
    assert re.fullmatch(r"responder \S.*\n", result.out)


VERBS = ["serve", "check", "plugins", "try", "queue", "explain"] + [
    f"queue {what}" for what in ("list", "show", "retry", "hold", "release", "drop", "stats")
]


def test_verbs_when_counted_then_no_other_is_there() -> None:
    help_text = parser().format_help()
    assert set(re.findall(r"^    ([a-z]+) ", help_text, re.MULTILINE)) == {verb.split()[0] for verb in VERBS}


@pytest.mark.parametrize("verb", ["", *VERBS])
def test_help_when_asked_then_it_says_what_the_verb_does_and_what_each_option_means(
    operator: Operator, verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    result = operator.run(*verb.split(), "--help")
    assert (result.status, result.err) == (0, "")
    usage, description, rest = result.out.split("\n\n", 2)
    assert usage.startswith(f"usage: responder {verb}".strip())
    assert len(description) > 10 and description.rstrip().endswith(".")
    for line in rest.splitlines():
        if re.match(r"  -?[a-zA-Z]", line):
            assert re.match(r"  \S.*?(  +\S|$)", line)
            assert re.search(r"\S  +\S", line.strip()) or line.strip().startswith(("{", "WHAT", "VERB")), line


def test_states_when_listed_in_help_then_all_are_there(operator: Operator) -> None:
    text = operator.run("queue", "list", "--help").out
    assert all(re.search(rf"\b{state}\b", text) for state in State)

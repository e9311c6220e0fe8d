"""The verbs that need no store: what `check`, `plugins`, `try` and the helps print."""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path

import pytest

from responder.cli import parser
from responder.mail.lifecycle import State
from tests.support.operator import Operator, complains
from tests.support.scene import EVIL, LETTER, SAFE, files
from tests.support.server import configuration


@pytest.fixture
def operator(operator: Operator) -> Operator:
    operator.write(configuration(store="sqlite:state/responder.db", reply={"per_sender": "30/10m"}))
    return operator


@pytest.fixture
def letter(operator: Operator) -> Path:
    path = operator.folder / "mail.eml"
    path.write_bytes(LETTER)
    return path


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


def test_check_when_asked_for_dns_then_what_does_not_fit_is_remarked(operator: Operator) -> None:
    delivery = {"transport": "mx", "nameservers": ["127.0.0.1:1"], "source_address": "192.0.2.1"}
    operator.write(configuration(delivery=delivery))
    assert "no address of this machine" not in operator("check").out
    result = operator("check", "--dns")
    assert result.status == 0
    assert "notice: delivery.source_address: 192.0.2.1 is no address of this machine" in result.out


def test_check_when_something_is_doubtful_then_it_is_remarked(operator: Operator) -> None:
    operator.write(configuration(inboxes={}))
    result = operator("check")
    assert result.status == 0
    assert "\nnotice: inboxes: there is none, so every recipient is refused" in result.out
    assert {"key": "inboxes", "reason": operator("check", "--json").json["notices"][0]["reason"]} in operator(
        "check", "--json"
    ).json["notices"]


@pytest.mark.parametrize(("agent", "key"), [("forward", "targets"), ("proxy", "upstream"), ("list", "targets")])
def test_check_when_an_inbox_lacks_what_its_agent_needs_then_one_line_and_status_2(
    operator: Operator, agent: str, key: str
) -> None:
    table = {"agent": agent} | ({"settings": {"name": "News"}} if agent == "list" else {})
    operator.write(configuration(inboxes={"x": table}))
    complains(operator("check"), operator.file, f"inboxes.x.{key}", f'is required by the agent "{agent}"')


def test_plugins_when_listed_then_each_has_origin_and_schema(operator: Operator) -> None:
    result = operator("plugins")
    assert (result.status, result.err) == (0, "")
    assert re.search(
        r"^echo  \(service, from .*plugins/echo\.py\)\n    Sends the text back\.$", result.out, re.MULTILINE
    )
    assert '    prefix: string, default "You wrote:"\n' in result.out
    assert "    subject_prefix: string or null, default null\n" in result.out
    told = operator("plugins", "--json").json
    assert {"current-time", "debug", "echo", "forward"} <= set(told)
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


# -- help ------------------------------------------------------------------------------------------------------------------


def test_version_when_asked_then_one_line(operator: Operator) -> None:
    result = operator.run("--version")
    assert (result.status, result.err) == (0, "")
    assert re.fullmatch(r"responder \S.*\n", result.out)


VERBS = ["serve", "check", "plugins", "new", "new plugin", "new check", "password", "try", "queue", "explain"] + [
    f"queue {what}" for what in ("list", "show", "retry", "hold", "release", "drop", "expire", "stats")
]
VERBS += ["dialect", *(f"dialect {what}" for what in ("list", "show", "check", "schema", "generate"))]
VERBS += ["suppress", *(f"suppress {what}" for what in ("list", "add", "remove"))]
VERBS += ["send", "verify"]
VERBS += ["dkim", *(f"dkim {what}" for what in ("new", "rotate", "activate", "records", "check", "list", "remove"))]


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

"""`docs/plugins.md` and `docs/operating.md` say what is so: their plugins load and answer, their configurations load, their lists
of names, hooks, reason codes, states and log events are those of the code."""

from __future__ import annotations

import ast
import inspect
import logging
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

import responder
from responder import (
    Agent,
    Attachment,
    Authentication,
    Bounce,
    Command,
    Context,
    Distribute,
    Forward,
    HandOver,
    Mail,
    Reply,
    Thread,
)
from responder.agents import hookspecs
from responder.agents.context import State
from responder.agents.host import Inbox as Running
from responder.agents.host import build
from responder.agents.load import load, load_plugins
from responder.answering.windows import window_of_forward, windows_of
from responder.config import Config, Rate
from responder.config import Reply as ReplyTable
from responder.mail import automatic, marks
from responder.mail.address import Address
from responder.mail.compose import ALLOWED_EXTRA_HEADERS
from responder.mail.headers import Headers
from responder.mail.lifecycle import TRANSITIONS, states
from responder.observe import event, follow
from responder.store.records import Claim, InboundItem
from responder.store.sqlite.work import CHANGED
from responder.testing import Inbox, Outcome
from tests.support.http_server import HTTPServer, Route, Said, said_json
from tests.support.operator import make_operator
from tests.support.server import environment

ROOT = Path(__file__).parents[2]
PLUGINS = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")
OPERATING = (ROOT / "docs" / "operating.md").read_text(encoding="utf-8")
RAW = (
    b"From: ann@client.example\r\nTo: shout@example.org\r\nSubject: Hello\r\nMessage-ID: <1@client.example>\r\n\r\n"
    b"How are you?\r\n"
)


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def files(text: str) -> dict[str, str]:
    """The code blocks that begin with the name of a file."""
    found = {}
    for language in ("python", "toml", "ini"):
        for block in blocks(text, language):
            if name := re.match(r"# (\S+\.\w+)\n", block):
                found[name[1]] = block
    return found


def rows(text: str, heading: str) -> list[list[str]]:
    """The rows of the tables below a heading, without their own headings."""
    section = re.split(rf"^##+ {re.escape(heading)}$", text, flags=re.MULTILINE)[1]
    section = re.split(r"^##", section, maxsplit=1, flags=re.MULTILINE)[0]
    lines = [line for line in section.splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def names(cells: list[list[str]]) -> list[str]:
    return [name for row in cells for name in re.findall(r"`([^`]+)`", row[0])]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the page's files in it, as a reader would make them."""
    for name, source in files(PLUGINS).items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(source, encoding="utf-8")
    return tmp_path


def configurations() -> list[dict[str, Any]]:
    found = [block for text in (PLUGINS, OPERATING) for block in blocks(text, "toml")]
    return [tomllib.loads(block) for block in found if not re.match(r"# pyproject\.toml", block)]


def test_pages_when_read_then_every_block_of_code_is_one_that_is_run() -> None:
    assert sorted(files(PLUGINS)) == [
        "plugins/_shared.py",
        "plugins/digest.py",
        "plugins/ledger.py",
        "plugins/polite.py",
        "plugins/quiz.py",
        "plugins/shout.py",
        "plugins/test_tides.py",
        "plugins/tides.py",
        "pyproject.toml",
    ]
    assert len(blocks(PLUGINS, "python")) == 8
    assert len(blocks(PLUGINS, "toml")) == 3
    assert set(re.findall(r"^```(\w+)$", PLUGINS, re.MULTILINE)) == {"python", "toml", "console"}
    assert set(re.findall(r"^```(\w+)$", OPERATING, re.MULTILINE)) == {"ini", "sh", "console"}


@pytest.mark.parametrize("table", configurations(), ids=lambda table: next(iter(table["inboxes"])))
def test_configuration_when_loaded_then_its_agents_are_built(folder: Path, table: dict[str, Any]) -> None:
    config = Config.model_validate(table)
    agents = load([folder / "plugins"])
    assert config.inboxes
    for name, inbox in config.inboxes.items():
        assert build(name, agents, inbox.agent, inbox.settings)[0].origin.startswith(str(folder))


def test_plugins_when_loaded_then_each_of_the_page_is_there(folder: Path) -> None:
    found = load_plugins([folder / "plugins"])
    agents = {name: agent for name, agent in found.agents.items() if str(folder) in agent.origin}
    assert list(agents) == ["digest", "polite", "quiz", "shout", "tides"]
    assert all(agent.summary for agent in agents.values())
    assert agents["tides"].interval == 60 and agents["digest"].isolated
    assert list(found.commands) == ["ledger"] and len(found.observers) == 1


def test_functions_when_written_to_then_they_answer_as_the_page_says(folder: Path) -> None:
    place = [folder / "plugins"]
    with Inbox("shout", plugins=place) as box:
        assert box.receive("How are you?").text == "HOW ARE YOU?\n"
    with Inbox("polite", plugins=place) as box:
        assert box.receive(sender="bob@example.com").text == "Good day, bob@example.com!\n"
    with Inbox("quiz", plugins=place) as box:
        question = box.receive("A question, please")
        assert question.headers.text("from") == "quiz+oslo@example.org"
        assert question.reply("Bergen").reply("Oslo").text == "Right! That makes 1.\n"
        assert question.reply("oslo").text == "Right! That makes 2.\n"
    with Inbox("digest", plugins=place) as box:
        assert box.receive(attachments=[("a.txt", "text/plain", b"")]).text.startswith(
            "e3b0c44298fc1c149afbf4c8996fb924"
        )


def test_tides_when_there_is_a_real_server_then_each_of_its_ends_is_as_the_page_says(folder: Path) -> None:
    routes: dict[str, Route] = {
        "/high": [said_json({"high": "05:12:30"}), Said(404), Said(500)],
        "/gone": Said(drop=-1),
    }
    with HTTPServer(routes) as server:
        with Inbox("tides", {"url": f"{server.url}/high", "key": "s3cret"}, plugins=[folder / "plugins"]) as box:
            assert box.receive(subject="Dover", sender="a@example.com").text == "Dover: 05:12\n"
            assert server.requests[0].headers["authorization"] == "Bearer s3cret"
            assert server.requests[0].query == {"at": ["Dover"]}
            assert box.receive(subject="Atlantis", sender="b@example.com").failed
            outcome = box.receive(subject="Rome", sender="c@example.com")
            assert outcome.postponed and "HTTPStatusError" in outcome.reason
        with Inbox("tides", {"url": f"{server.url}/gone", "key": "k"}, plugins=[folder / "plugins"]) as box:
            assert box.receive(subject="Dover").delay == 300


def test_example_test_when_run_then_it_passes(folder: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "responder.testing", "-p", "no:cacheprovider", "plugins"]
    run = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=120)
    assert run.returncode == 0 and "3 passed" in run.stdout, run.stdout + run.stderr


def test_ledger_when_run_then_the_verb_prints_what_the_observer_counted(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    operator = make_operator(folder, monkeypatch, capsys)
    operator.file.write_text(blocks(PLUGINS, "toml")[0])
    follow(load_plugins([folder / "plugins"]).observers)
    event("answered", level=logging.DEBUG, id="1")
    event("accepted", level=logging.DEBUG, id="2")
    event("answered", level=logging.DEBUG, id="3")
    follow((), 10)
    result = operator("ledger", "--days", "30")
    assert result.status == 0 and re.fullmatch(r"\d{4}-\d\d-\d\d 2\n", result.out)


def test_trial_when_run_as_shown_then_it_says_what_is_shown(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    [shown] = blocks(PLUGINS, "console")
    command, _, expected = shown.partition("\n")
    operator = make_operator(folder, monkeypatch, capsys)
    operator.file.write_text(blocks(PLUGINS, "toml")[0])
    (folder / "mail.eml").write_bytes(RAW)
    assert command.startswith("$ responder ")
    result = operator(*command.split()[2:])
    assert result.status == 0
    told = re.sub(r"[0-9a-z]{18}", "ID", re.sub(r"^Date: .*$", "Date: DATE", result.out, flags=re.MULTILINE))
    assert told == expected


def test_settings_error_when_shown_then_it_is_the_one_that_is_told(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    operator = make_operator(folder, monkeypatch, capsys)
    operator.file.write_text(blocks(PLUGINS, "toml")[1].replace('key = "s3cret"\n', ""))
    result = operator.run("check", "--config", "responder.toml")
    assert f"`{result.err.strip().removeprefix('responder: ')}`" in PLUGINS


def test_names_when_public_then_the_page_has_them_and_no_other() -> None:
    assert sorted(names(rows(PLUGINS, "Everything there is to import"))) == sorted(responder.__all__)
    assert all(hasattr(responder, name) for name in responder.__all__)


def test_hooks_when_there_are_any_then_the_page_has_them_with_their_arguments() -> None:
    specified = [
        f"{name}({', '.join(inspect.signature(member).parameters)})"
        for name, member in vars(hookspecs).items()
        if hasattr(member, "responder_spec") and callable(member)
    ]
    assert len(specified) == 4
    assert names(rows(PLUGINS, "The hooks")) == specified
    source = inspect.getsource(hookspecs)
    assert source.count("@hookspec\n") == len(specified)  # and each says what it is for
    assert all(inspect.getdoc(getattr(hookspecs, name.partition("(")[0])) for name in specified)


def members(kind: type) -> set[str]:
    """The public attributes of a class, those that `__init__` sets included."""
    source = inspect.getsource(kind)
    declared = {name for name in (*vars(kind), *vars(kind).get("__annotations__", {})) if not name.startswith("_")}
    return declared | set(re.findall(r"self\.([a-z]\w*)\b.* = ", source))


SERVERS = {"open", "close", "wait_for"}  # of a Context, for the server itself


def test_attributes_when_public_then_the_page_has_them_and_no_other() -> None:
    assert sorted(names(rows(PLUGINS, "`Agent`"))) == sorted(f"Agent.{name}" for name in members(Agent))
    assert sorted(names(rows(PLUGINS, "`Mail`"))) == sorted(f"Mail.{name}" for name in members(Mail))
    documented = names(rows(PLUGINS, "`Context`"))
    state = [name for name in documented if name.startswith("state.")]
    assert sorted(set(documented) - set(state)) == sorted(f"Context.{name}" for name in members(Context) - SERVERS)
    for call in state:
        name, arguments = re.fullmatch(r"state\.(\w+)\((.*)\)", call).groups()  # type: ignore[union-attr]
        real = [argument for argument in inspect.signature(getattr(State, name)).parameters if argument != "self"]
        assert [argument.partition("=")[0] for argument in arguments.split(", ")] == real
    assert {re.split(r"[.(]", call)[1] for call in state} == {
        name for name in vars(State) if name.islower() and name[0] != "_"
    }


def test_fields_when_public_then_the_page_has_them_and_no_other() -> None:
    sections: dict[str, tuple[Any, ...]] = {
        "`Thread`, `Authentication`": (Thread, Authentication),
        "`Reply`, `Attachment`": (Reply, Attachment),
        "`Forward`, `HandOver`, `Distribute`, `Bounce`": (Forward, HandOver, Distribute, Bounce),
        "`Command`": (Command,),
    }
    for heading, kinds in sections.items():
        assert names(rows(PLUGINS, heading)) == [
            f"{'Authentication' if kind is Authentication else kind.__name__}.{field.name}"
            for kind in kinds
            for field in fields(kind)
        ]


def test_fixture_when_its_parts_are_listed_then_they_are_there() -> None:
    listed = rows(PLUGINS, "Testing one")
    found: dict[str, set[str]] = {"box": set(), "outcome": set()}
    kind = ""
    for name in names(listed):
        before, _, attribute = name.partition("(")[0].rpartition(".")
        kind = before or kind
        found[kind].add(attribute)
    for box, attributes in ((Inbox, found["box"]), (Outcome, found["outcome"])):
        assert len(attributes) >= 6
        assert attributes <= members(box), attributes - members(box)
    parameters = set(inspect.signature(Inbox.receive).parameters) - {"self", "text"}
    assert set(re.findall(r"`([a-z]\w*)`", listed[0][1])) == parameters


def test_headers_when_allowed_then_the_page_has_them() -> None:
    [row] = [row for row in rows(PLUGINS, "`Reply`, `Attachment`") if row[0] == "`Reply.headers`"]
    assert {name.lower() for name in re.findall(r"`([^`]+)`", row[1])} == ALLOWED_EXTRA_HEADERS


# -- operating.md ---------------------------------------------------------------------------------------------------------


def calls(path: Path, *functions: str) -> Iterator[ast.Call]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in functions:
            yield node


def gate_codes() -> set[str]:
    """The codes of the gate: the tables', and those that its code names."""
    path = Path(inspect.getfile(automatic))
    named = {node.args[0].value for node in calls(path, "_reason", "Reason") if isinstance(node.args[0], ast.Constant)}
    tables = {code for _, _, code in marks.ROWS} | {code for _, code in marks.SENDERS}
    return {str(code) for code in named} | tables


def stage_codes() -> set[str]:
    """What the stage itself says: its settlements, and the reasons of its windows."""
    found = set()
    for path in (ROOT / "responder" / "answering").glob("*.py"):
        for call in calls(path, "Settlement"):
            reason = call.args[1] if len(call.args) > 1 else None
            begins = reason.values[0] if isinstance(reason, ast.JoinedStr) else reason
            if isinstance(begins, ast.Constant) and (code := re.match(r"([a-z-]+): ", str(begins.value))):
                found.add(code[1])
            if isinstance(reason, ast.JoinedStr) and "-kept: " in ast.unparse(reason):
                found.add("postmaster-kept")
    rates = ReplyTable(per_sender=Rate(1, 60), per_conversation=Rate(1, 60), per_inbox=Rate(1, 60))
    item = InboundItem("1.0", "1", "x@y.example", "x", Claim("", 1), 0.0, "a@b.example", "", "", "<1@b>", b"")
    kind: Any = None
    windows = windows_of(
        rates,
        Running("x", kind, kind, "service", 5.0, 1.0),
        item,
        Address("x", "y"),
        Headers.parse(b""),
        Address("a", "b"),
    )
    windows += (window_of_forward(item, Address("x", "y"), [], None),)
    return found | {reason.partition(":")[0] for reason in (CHANGED, *(window.reason for window in windows))}


def test_codes_when_listed_then_they_are_those_of_gate_and_stage() -> None:
    documented = names([row[:1] for row in rows(OPERATING, "Reason codes")])
    assert len(set(documented)) == len(documented)
    assert len(gate_codes()) > 25 and len(stage_codes()) == 18
    assert set(documented) == gate_codes() | stage_codes()


def events() -> set[str]:
    """Every event that is logged, but for those that are named by a state."""
    found = set()
    for path in (ROOT / "responder").rglob("*.py"):
        for call in calls(path, "event"):
            found |= {
                node.value
                for node in ast.walk(call.args[0])
                if isinstance(node, ast.Constant) and isinstance(node.value, str)
            }
    return found


def test_events_when_listed_then_they_are_those_that_are_logged() -> None:
    documented = names(rows(OPERATING, "The log"))
    documented += re.findall(r"`(failed)` as well", OPERATING)
    by_state = {"answered", "silent", "failed", "delivered", "deferred", "bounced"}
    assert events()
    assert set(documented) == events() | by_state


def test_states_when_listed_then_they_are_those_of_the_lifecycle() -> None:
    listed = names(rows(OPERATING, "What becomes of a mail"))
    inbound, outbound = (list(states(TRANSITIONS[side])) for side in ("inbound", "outbound"))
    assert set(listed[: len(inbound)]) == set(inbound)
    assert set(listed[len(inbound) :]) == set(outbound)


def test_defaults_when_named_then_they_are_the_model_s() -> None:
    config = Config()
    assert f"`queue.keep_answered` ({config.queue.keep_answered / 86400:.0f} days)" in OPERATING
    assert f"`queue.keep_failed` ({config.queue.keep_failed / 86400:.0f} days)" in OPERATING
    assert f"(`queue.lease`, {config.queue.lease:.0f} seconds)" in OPERATING


def test_unit_file_when_read_then_it_runs_verbs_that_there_are() -> None:
    unit, sockets, postfix = blocks(OPERATING, "ini")
    assert re.findall(r"^Exec\w+=/opt/responder/bin/responder (\w+) --config", unit, re.MULTILINE) == ["serve", "check"]
    assert "RestartPreventExitStatus=2\n" in unit
    assert "Type=notify\n" in unit
    assert f'"systemd:{re.findall("^FileDescriptorName=(.+)$", sockets, re.MULTILINE)[0]}"' in OPERATING
    assert "lmtp:unix:" in postfix


@pytest.mark.parametrize("text", [PLUGINS, OPERATING])
def test_links_when_followed_then_there_is_something(text: str) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert (ROOT / "docs" / target).exists(), target
    for name in re.findall(r"`(config/[\w.-]+)`", text):
        assert (ROOT / name).exists(), name

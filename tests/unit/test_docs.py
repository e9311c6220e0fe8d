"""`docs/plugins.md` and `docs/operating.md` say what is so: their plugins load and answer, their configurations load, their lists
of names, hooks, reason codes, states and log events are those of the code."""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

import responder
from responder import Agent, Attachment, Authentication, Forward, Mail, Reply, Thread
from responder.agents import hookspecs
from responder.agents.host import Host, Inbox, build
from responder.agents.load import load
from responder.answering.windows import windows_of
from responder.config import Config, Rate
from responder.config import Reply as ReplyTable
from responder.mail import automatic, marks
from responder.mail.address import Address
from responder.mail.compose import ALLOWED_EXTRA_HEADERS
from responder.mail.headers import Headers
from responder.mail.lifecycle import TRANSITIONS, states
from responder.store.base import Claim, InboundItem
from responder.store.sqlite.work import CHANGED
from tests.support.operator import make_operator

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
        "plugins/polite.py",
        "plugins/shout.py",
        "plugins/weather.py",
        "pyproject.toml",
        "test_weather.py",
    ]
    assert len(blocks(PLUGINS, "python")) == 5
    assert len(blocks(PLUGINS, "toml")) == 3
    assert set(re.findall(r"^```(\w+)$", PLUGINS, re.MULTILINE)) == {"python", "toml", "console"}
    assert set(re.findall(r"^```(\w+)$", OPERATING, re.MULTILINE)) == {"ini", "sh", "console"}


@pytest.mark.parametrize("table", configurations(), ids=lambda table: next(iter(table["inboxes"])))
def test_configuration_when_loaded_then_its_agents_are_built_and_answer(folder: Path, table: dict[str, Any]) -> None:
    config = Config.model_validate(table)
    agents = load([folder / "plugins"])
    for name, inbox in config.inboxes.items():
        kind, agent = build(name, agents, inbox.agent, inbox.settings)

        async def answer(kind: Any = kind, agent: Any = agent, name: str = name) -> Any:
            host = Host(1)
            mail = Mail(RAW, id="1", inbox=name, recipient=Address(name, "example.org"), sender="ann@client.example")
            try:
                return await host.run(Inbox(name, kind, agent, kind.kind, kind.interval, 10.0), mail)
            finally:
                host.close()

        told = asyncio.run(answer())
        assert isinstance(told, Reply)
        assert told.text in ("HOW ARE YOU?", "Hello: unknown\n")


def test_plugins_when_loaded_then_each_of_the_page_is_there(folder: Path) -> None:
    agents = {name: agent for name, agent in load([folder / "plugins"]).items() if str(folder) in agent.origin}
    assert list(agents) == ["polite", "shout", "weather"]
    assert all(agent.summary for agent in agents.values())
    assert agents["weather"].interval == 60


def test_example_test_when_run_then_it_passes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(folder))
    for name in [name for name in sys.modules if name == "plugins" or name.startswith("plugins.")]:
        monkeypatch.delitem(sys.modules, name)
    scope: dict[str, Any] = {}
    try:
        exec(compile((folder / "test_weather.py").read_text(), "test_weather.py", "exec"), scope)
        scope["test_weather_when_asked_then_it_is_told"]()
    finally:
        for name in [name for name in sys.modules if name == "plugins" or name.startswith("plugins.")]:
            del sys.modules[name]


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


def test_hooks_when_there_are_any_then_the_page_has_them() -> None:
    specified = [
        name for name, member in vars(hookspecs).items() if hasattr(member, "responder_spec") and callable(member)
    ]
    assert specified
    assert names(rows(PLUGINS, "The hook")) == specified


def members(kind: type) -> set[str]:
    """The public attributes of a class, those that `__init__` sets included."""
    source = inspect.getsource(kind)
    return {name for name in vars(kind) if not name.startswith("_")} | set(
        re.findall(r"self\.([a-z]\w*)\b.* = ", source)
    )


def test_attributes_when_public_then_the_page_has_them_and_no_other() -> None:
    assert sorted(names(rows(PLUGINS, "`Agent`"))) == sorted(f"Agent.{name}" for name in members(Agent))
    assert sorted(names(rows(PLUGINS, "`Mail`"))) == sorted(f"Mail.{name}" for name in members(Mail))
    documented = names(rows(PLUGINS, "`Thread`, `Authentication`")) + names(
        rows(PLUGINS, "`Reply`, `Attachment`, `Forward`")
    )
    kinds = (Thread, Authentication, Reply, Attachment, Forward)
    assert documented == [f"{kind.__name__}.{field.name}" for kind in kinds for field in fields(kind)]


def test_headers_when_allowed_then_the_page_has_them() -> None:
    [row] = [row for row in rows(PLUGINS, "`Reply`, `Attachment`, `Forward`") if row[0] == "`Reply.headers`"]
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
        rates, Inbox("x", kind, None, "service", 5.0, 1.0), item, Address("x", "y"), Headers.parse(b"")
    )
    return found | {reason.partition(":")[0] for reason in (CHANGED, *(window.reason for window in windows))}


def test_codes_when_listed_then_they_are_those_of_gate_and_stage() -> None:
    documented = names([row[:1] for row in rows(OPERATING, "Reason codes")])
    assert len(set(documented)) == len(documented)
    assert len(gate_codes()) > 25 and len(stage_codes()) == 12
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
    [unit] = blocks(OPERATING, "ini")
    assert re.findall(r"^Exec\w+=/opt/responder/bin/responder (\w+) --config", unit, re.MULTILINE) == ["serve", "check"]
    assert "RestartPreventExitStatus=2\n" in unit


@pytest.mark.parametrize("text", [PLUGINS, OPERATING])
def test_links_when_followed_then_there_is_something(text: str) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert (ROOT / "docs" / target).exists(), target
    for name in re.findall(r"`(config/[\w.-]+)`", text):
        assert (ROOT / name).exists(), name

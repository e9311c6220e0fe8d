"""`new plugin`: what it writes runs as it is, and nothing that is there is touched."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.support.operator import Operator
from tests.support.scene import files
from tests.support.server import ROOT, configuration, environment

BASIC = 'domains = ["example.org"]\nplugins = ["own"]\n[delivery]\ntransport = "print"\n'


@pytest.fixture
def operator(operator: Operator) -> Operator:
    operator.file.write_text(BASIC)
    return operator


@pytest.mark.parametrize("name", ["shout", "price-list-2", "mail", "agent"])
def test_plugin_when_new_then_its_test_passes_and_the_agent_answers(operator: Operator, name: str) -> None:
    result = operator("new", "plugin", name, "--add-inbox")
    assert (result.status, result.err) == (0, "")
    module = name.replace("-", "_")
    assert sorted(path.name for path in (operator.folder / "own").iterdir()) == [f"{module}.py", f"test_{module}.py"]
    run = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "responder.testing",
            "-p",
            "no:cacheprovider",
            f"own/test_{module}.py",
        ],
        cwd=operator.folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0 and "2 passed" in run.stdout, run.stdout + run.stderr
    letter = operator.folder / "mail.eml"
    letter.write_text("From: ann@client.example\nSubject: x\n\nHow are you?\n")
    tried = operator("try", name, str(letter))
    assert tried.status == 0 and "Hello, ann@client.example!\n\nYou wrote:\n\nHow are you?" in tried.out


def test_check_when_new_then_its_test_passes_and_the_table_that_is_told_has_it_asked(operator: Operator) -> None:
    result = operator("new", "check", "price-list")
    assert (result.status, result.err) == (0, "")
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "responder.testing", "-p", "no:cacheprovider", "own"],
        cwd=operator.folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0 and "2 passed" in run.stdout, run.stdout + run.stderr
    [table] = re.findall(r"^    (\[checks\..*\])$", result.out, re.MULTILINE)
    operator.file.write_text(f"{BASIC}{table}\n")
    assert re.search(r"^price-list  price-list  mail, data  10s ", operator("check").out, re.MULTILINE)
    assert "already there" in operator("new", "check", "price-list").err


@pytest.mark.parametrize("what", ["plugin", "check"])
def test_plugin_when_new_then_linter_and_type_checker_have_nothing_to_say(operator: Operator, what: str) -> None:
    operator("new", what, "price-list")
    paths = [str(path) for path in sorted((operator.folder / "own").glob("*.py"))]
    for command in (
        ["ruff", "check", "--isolated", "--no-cache"],
        ["ruff", "format", "--check", "--config", str(ROOT / "pyproject.toml"), "--no-cache"],
        ["mypy", "--strict", "--cache-dir", str(operator.folder / "cache")],
    ):
        run = subprocess.run(
            [sys.executable, "-m", *command, *paths],
            cwd=operator.folder,
            env={**environment(), "MYPYPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )
        assert run.returncode == 0, run.stdout + run.stderr


def test_plugin_when_new_in_a_clone_then_the_project_s_own_rules_have_nothing_to_say(operator: Operator) -> None:
    (operator.folder / "responder").mkdir()
    (operator.folder / "responder" / "__init__.py").touch()
    operator("new", "plugin", "price-list")
    for path in (operator.folder / "own").iterdir():
        run = subprocess.run(
            [sys.executable, "-m", "ruff", "check", "--no-cache", "--stdin-filename", f"plugins/{path.name}", "-"],
            input=path.read_text(),
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        assert run.returncode == 0 or (path.name.startswith("test_") and "S101" in run.stdout), run.stdout


def test_plugin_when_new_then_what_comes_next_is_told_and_true(operator: Operator) -> None:
    out = operator("new", "plugin", "shout").out
    assert out.startswith("own/shout.py       the agent: ")
    local = operator.folder / "responder.local.toml"
    assert f"Give it an inbox, in {local}:" in out and not local.exists()
    snippet = "\n".join(line[4:] for line in out.splitlines() if re.match(r"    (\[|agent)", line))
    assert tomllib.loads(snippet) == {"inboxes": {"shout": {"agent": "shout"}}}
    local.write_text(snippet)
    [shown] = [line.strip() for line in out.splitlines() if "responder try" in line]
    command = shown.replace("| responder", f"| {sys.executable} -m responder")
    tried = subprocess.run(
        command, shell=True, cwd=operator.folder, env=environment(), capture_output=True, text=True, timeout=60
    )
    assert tried.returncode == 0 and "Hello, you@example.com!" in tried.stdout, tried.stderr


def test_inbox_when_asked_for_then_it_is_added_to_the_local_file_and_the_rest_of_it_stays(operator: Operator) -> None:
    local = operator.folder / "responder.local.toml"
    assert "responder.local.toml: the inbox one was added" in operator("new", "plugin", "one", "--add-inbox").out
    before = local.read_text()
    assert operator("new", "plugin", "two", "--add-inbox").status == 0
    assert local.read_text() == before + '\n[inboxes.two]\nagent = "two"\n'
    assert re.search(r"^two +two +service", operator("check").out, re.MULTILINE)
    assert operator.file.read_text() == BASIC


def test_inbox_when_it_can_not_be_added_then_nothing_was_done(operator: Operator) -> None:
    local = operator.folder / "responder.local.toml"
    local.write_text('inboxes = {other = {agent = "other"}}\n')  # a table that can't be added to
    before = files(operator.folder)
    result = operator("new", "plugin", "one", "--add-inbox")
    assert result.status == 2 and "responder.local.toml" in result.err and result.err.count("\n") == 1
    assert files(operator.folder) == before
    assert local.read_text() == 'inboxes = {other = {agent = "other"}}\n'
    local.write_text('[inboxes.one]\nagent = "one"\n')
    result = operator("new", "plugin", "one", "--add-inbox")
    assert result.status == 2 and "inboxes.one: is already there" in result.err
    assert sorted(path.name for path in operator.folder.iterdir()) == ["responder.local.toml", "responder.toml"]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("Shout", "a name is of up to 40 lower-case letters, digits and hyphens"),
        ("2fast", "a name is of"),
        ("../evil", "a name is of"),
        ("a--b", "a name is of"),
        ("x" * 41, "a name is of"),
        ("", "a name is of"),
        ("shöut", "a name is of"),
        ("class", "means something to Python or pytest"),
        ("match", "means something"),
        ("conftest", "means something"),
        ("test-x", "means something"),
        ("email", 'there is a Python module "email"'),
        ("sys", 'there is a Python module "sys"'),
        ("responder", 'there is a Python module "responder"'),
        ("echo", 'the agent "echo" is already there, from .*echo.py'),
    ],
)
def test_name_when_it_can_not_be_used_then_one_line_and_nothing_is_written(
    operator: Operator, name: str, reason: str
) -> None:
    config = configuration()
    operator.write({**config, "plugins": ["own", *config["plugins"]]})
    (operator.folder / "own").mkdir()
    result = operator("new", "plugin", name)
    assert result.status == 2 and result.err.count("\n") == 1
    assert re.search(reason, result.err), result.err
    assert list((operator.folder / "own").iterdir()) == []


@pytest.mark.parametrize("there", ["shout.py", "test_shout.py"])
def test_file_when_it_is_already_there_then_it_stays_as_it_is_and_nothing_else_is_written(
    operator: Operator, there: str
) -> None:
    (operator.folder / "own").mkdir()
    path = operator.folder / "own" / there
    path.write_text("# mine\n")
    result = operator("new", "plugin", "shout")
    assert result.status == 2 and f"own/{there}: is already there: nothing was written" in result.err
    assert [(file.name, file.read_text()) for file in path.parent.iterdir()] == [(there, "# mine\n")]


def test_folder_when_named_then_it_is_made_and_no_configuration_is_needed(
    operator: Operator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "elsewhere"
    place.mkdir()
    monkeypatch.chdir(place)
    result = operator.run("new", "plugin", "shout", "--folder", "mine/agents")
    assert (result.status, result.err) == (0, "")
    assert (place / "mine" / "agents" / "test_shout.py").exists()
    result = operator.run("new", "plugin", "shout")
    assert result.status == 2 and "no such file" in result.err


def test_folder_when_the_server_does_not_know_it_then_that_is_told(operator: Operator) -> None:
    out = operator("new", "plugin", "shout", "--folder", "mine").out
    assert '    plugins = ["own", "mine"]\n' in out
    operator.write({**configuration(inboxes={}), "plugins": []})
    result = operator("new", "plugin", "other")
    assert result.status == 2 and "plugins: names no folder: name one with --folder DIR" in result.err

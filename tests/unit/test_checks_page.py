"""`docs/checks.md` says what is so: its plugins load and find what it says, its configurations load, its names are the code's."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from responder import Check, Client, Defer, Mark, Refuse
from responder.agents.checks import ARGUMENTS, MAX_FIELDS, MAX_TEXT, STEPS
from responder.agents.guards import THREADS, build
from responder.agents.load import load_plugins
from responder.config import Config
from responder.testing import Door
from tests.support.server import ROOT, environment
from tests.unit.test_docs import blocks, files, members

PAGE = (ROOT / "docs" / "checks.md").read_text(encoding="utf-8")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, source in files(PAGE).items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(source, encoding="utf-8")
    return tmp_path


def named(first: str) -> list[str]:
    """The names in the first column of the tables with that heading."""
    found: list[str] = []
    for table in re.findall(rf"^\| {re.escape(first)} \|.*\n\|[-| ]+\n((?:\|.*\n)*)", PAGE, re.MULTILINE):
        for row in table.splitlines():
            found += re.findall(r"`([^`]+)`", row.split(" | ")[0])
    return found


def test_page_when_read_then_every_block_is_one_that_is_run() -> None:
    plugins = ["plugins/no_friday.py", "plugins/short_names.py", "plugins/test_no_friday.py"]
    assert sorted(files(PAGE)) == ["clamav.toml", *plugins, "responder.toml", "rspamd.toml"]
    assert len(blocks(PAGE, "python")) == 3 and len(blocks(PAGE, "toml")) == 3
    assert set(re.findall(r"^```(\w+)$", PAGE, re.MULTILINE)) == {"python", "toml"}


@pytest.mark.parametrize("name", ["responder.toml", "rspamd.toml", "clamav.toml"])
def test_configuration_when_loaded_then_its_checks_are_built(folder: Path, name: str) -> None:
    config = Config.model_validate(tomllib.loads(files(PAGE)[name]))
    checks = load_plugins([folder / "plugins", ROOT / "plugins"]).checks
    assert config.checks
    for table, check in config.checks.items():
        build(table, check, checks)


def test_plugins_when_loaded_then_they_are_asked_where_the_page_says(folder: Path) -> None:
    found = load_plugins([folder / "plugins"]).checks
    steps = {name: one.steps for name, one in found.items() if str(folder) in one.origin}
    assert steps == {"has-a-name": ("connect",), "no-friday": ("helo", "rcpt", "data")}
    with Door("has-a-name", plugins=[folder / "plugins"], peer="127.0.0.1") as door:
        assert door.connect() in (None, Refuse("Your address has no name"))
    with Door("no-friday", {"day": 3}, plugins=[folder / "plugins"]) as door:
        assert door.rcpt() is None


def test_example_test_when_run_then_it_passes(folder: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "responder.testing", "-p", "no:cacheprovider", "plugins"]
    run = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=120)
    assert run.returncode == 0 and "2 passed" in run.stdout, run.stdout + run.stderr


@pytest.mark.parametrize("name", ["rspamd", "clamav"])
def test_settings_when_listed_then_they_are_the_check_s(name: str) -> None:
    kind = load_plugins([ROOT / "plugins"]).checks[name]
    assert named(f"setting of `{name}`") == list(kind.settings.model_fields)
    section = PAGE.partition(f"| setting of `{name}` |")[2]
    for key, field in kind.settings.model_fields.items():
        row = re.findall(rf"^\| `{key}` \| (.*) \|$", section, re.MULTILINE)[0]
        if isinstance(field.default, str) and field.default not in ("refuse", "pass"):
            assert f'`"{field.default}"`' in row


def test_keys_when_listed_then_they_are_those_of_the_table() -> None:
    assert named("key") == list(Config.model_fields["checks"].annotation.__args__[1].model_fields)  # type: ignore[union-attr]


def test_names_when_listed_then_they_are_the_code_s() -> None:
    expected: set[str] = {f"Check.{name}" for name in members(Check)}
    kinds: tuple[Any, ...] = (Client, Refuse, Defer, Mark)
    for kind in kinds:
        expected |= {f"{kind.__name__}.{field.name}" for field in fields(kind)}
    listed = [name for name in named("name") if re.match(r"(Check|Client|Refuse|Defer|Mark)\.", name)]
    assert sorted(listed) == sorted(expected)
    assert named("step") == list(STEPS)
    for step in STEPS:
        parameters = list(inspect.signature(getattr(Check, step)).parameters)[1:]
        assert len(parameters) == ARGUMENTS[step]
        assert f"`{step}({', '.join(parameters)})`" in PAGE


def test_door_when_its_parts_are_listed_then_they_are_there() -> None:
    listed = {
        re.sub(r"\(.*", "", name).rpartition(".")[2] for name in named("name")[-12:] if "door" in name or name[0] == "."
    }
    assert len(listed) >= 9 and listed <= members(Door)


def test_bounds_when_named_then_they_are_the_code_s() -> None:
    assert f"up to {MAX_TEXT} characters" in PAGE and f"up to {MAX_FIELDS} header fields" in PAGE
    assert f"runs in a thread, {THREADS} of them at a time" in PAGE


def test_links_when_followed_then_there_is_something() -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", PAGE):
        assert target.startswith("https://") or (ROOT / "docs" / target).exists(), target

"""`docs/agents/`: a page for each stock agent, whose settings are the agent's and whose configurations load."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from responder.agents.host import build
from responder.agents.load import load
from responder.config import Config

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "agents"
INDEX = (FOLDER / "README.md").read_text(encoding="utf-8")
STOCK = (
    "echo", "current-time", "weather", "vacation", "template", "faq", "forward", "list", "proxy", "debug", "webhook", "command",
    "confirm",
)  # fmt: skip
AGENTS = load([ROOT / "plugins"])


def page(name: str) -> str:
    return (FOLDER / f"{name}.md").read_text(encoding="utf-8")


def blocks(text: str) -> list[str]:
    return re.findall(r"^```toml\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def documented(text: str) -> list[str]:
    """The names in the first column of the table whose heading is `setting`."""
    found: list[str] = []
    for table in re.findall(r"^\| setting \|.*\n\|[-| ]+\n((?:\|.*\n)*)", text, re.MULTILINE):
        for row in table.splitlines():
            found += re.findall(r"`([^`]+)`", row.split(" | ")[0])
    return found


def settings(model: type[BaseModel], told: list[str]) -> Iterator[str]:
    """The keys of a model as they are written; those of a table within it as `table.key`, unless it is told as a whole."""
    for name, field in model.model_fields.items():
        key = field.alias or name
        kinds = (field.annotation, *get_args(field.annotation))
        inner = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
        if inner and key not in told:
            yield from (f"{key}.{below}" for below in settings(inner[0], told))
        else:
            yield key


def test_index_when_read_then_it_names_each_stock_agent_and_links_its_page() -> None:
    named = re.findall(r"^\| \[([a-z-]+)\]\(\1\.md\) \| \S", INDEX, re.MULTILINE)
    assert named == list(STOCK)
    assert {path.stem for path in FOLDER.glob("*.md")} == {*STOCK, "README"}


def test_agents_when_loaded_then_they_are_the_stock() -> None:
    here = {name for name, kind in AGENTS.items() if kind.origin.startswith(str(ROOT / "plugins"))}
    assert here == set(STOCK)


@pytest.mark.parametrize("name", STOCK)
def test_page_when_read_then_its_settings_are_those_of_the_agent(name: str) -> None:
    assert re.match(rf"# `?{name}\b", page(name))
    told = documented(page(name))
    assert sorted(told) == sorted(settings(AGENTS[name].settings, told))


@pytest.mark.parametrize("name", STOCK)
def test_page_when_read_then_its_configurations_load(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    configurations: list[dict[str, Any]] = []
    for block in blocks(page(name)):
        if file := re.match(r"# ([\w.-]+)\n", block):
            Path(file[1]).write_text(block, encoding="utf-8")
        else:
            configurations.append(tomllib.loads(block))
    assert configurations
    used = set()
    for table in configurations:
        config = Config.model_validate(table)
        assert config.inboxes
        for inbox, entry in config.inboxes.items():
            build(inbox, AGENTS, entry.agent, entry.settings)
            used.add(entry.agent)
    assert name in used


@pytest.mark.parametrize("name", [*STOCK, "README"])
def test_links_when_followed_then_there_is_something(name: str) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page(name)):
        assert target.startswith("https://") or (FOLDER / target).exists(), target

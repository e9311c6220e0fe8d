"""Where plugins come from: files and their helpers, a reload, installed packages (docs/plugins.md)."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Mapping
from textwrap import dedent

import pytest

from responder import Agent, Reply
from responder.agents import host as host_module
from responder.agents.host import Host, build
from responder.agents.load import AgentType, PluginError
from tests.support.agents import Plugins, loaded, mail

# -- where plugins come from ----------------------------------------------------------------------------------------------

ONE = """
    @agent({name!r})
    def f(mail):
        return {text!r}
"""


def own(agents: Mapping[str, AgentType]) -> list[str]:
    """The agents that came from files: the stock is there as well where the package is installed."""
    return [name for name, agent in agents.items() if not agent.origin.startswith("responder_plugins.")]


def test_folder_when_read_then_helpers_and_tests_are_no_plugins(plugins: Plugins) -> None:
    plugins.write("own/b.py", ONE.format(name="b", text="b"))
    plugins.write("own/a-dash.py", ONE.format(name="a", text="a"))
    for name in ("_helper.py", "__init__.py", "test_b.py", "conftest.py", ".hidden.py", "notes.txt", "sub/c.py"):
        plugins.write(f"own/{name}", "raise RuntimeError('read')")
    assert own(plugins.load()) == ["a", "b"]


def test_folders_when_two_hold_one_file_name_then_that_is_a_mistake(plugins: Plugins) -> None:
    plugins.write("one/same.py", ONE.format(name="a", text="a"))
    plugins.write("two/same.py", ONE.format(name="b", text="b"))
    with pytest.raises(PluginError, match=r"two/same\.py: there is already a plugin .*one/same\.py"):
        plugins.load("one", "two")
    assert own(plugins.load("one", "one")) == ["a"]


def test_load_when_done_then_no_byte_code_is_left(plugins: Plugins, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    plugins.write("own/_shared.py", "VALUE = 1")
    plugins.write("own/a.py", "from ._shared import VALUE\n" + dedent(ONE.format(name="a", text="a")))
    plugins.load()
    assert sorted(os.listdir(plugins.folder / "own")) == ["_shared.py", "a.py"]


def test_load_when_a_plugin_changes_the_working_folder_then_it_is_put_back(plugins: Plugins) -> None:
    plugins.write("own/a.py", "import os\nos.chdir('/')\n" + dedent(ONE.format(name="a", text="a")))
    before = os.getcwd()
    assert own(plugins.load()) == ["a"]
    assert os.getcwd() == before


async def test_reload_when_an_import_never_ends_then_it_is_given_up_and_the_next_one_works(
    plugins: Plugins, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host_module, "IMPORT", 0.2)
    plugins.write("own/a.py", "while True: pass\n")
    with pytest.raises(PluginError, match=r"plugins: their import takes longer than 0\.2 s"):
        await host.load(plugins.load)
    async with asyncio.timeout(20):
        while host.stuck:
            await asyncio.sleep(0.01)
    plugins.write("own/a.py", ONE.format(name="a", text="a").replace("\n    ", "\n"))
    assert own(await host.load(plugins.load)) == ["a"]


@pytest.mark.parametrize("error", ["SystemExit", "KeyboardInterrupt", "GeneratorExit"])
async def test_reload_when_an_import_ends_the_program_then_it_is_one_line(
    plugins: Plugins, host: Host, error: str
) -> None:
    plugins.write("own/a.py", f"raise {error}\n")
    with pytest.raises(PluginError, match=rf"own/a\.py: {error}: $"):
        await host.load(plugins.load)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (
            "def f(mail, context, more): ...",
            "is called with a mail, or a mail and a context: missing a required argument",
        ),
        ("def f(): ...", "is called with a mail, or a mail and a context: too many positional arguments"),
        ("def f(mail): yield 'x'", "has to `return` its answer"),
        ("async def f(mail): yield 'x'", "has to `return` its answer"),
    ],
)
def test_function_when_it_can_be_no_agent_then_that_is_a_mistake_at_once(
    plugins: Plugins, source: str, reason: str
) -> None:
    plugins.write("own/a.py", f"@agent('a')\n{source}\n")
    with pytest.raises(PluginError, match=reason):
        plugins.load()


async def test_load_when_done_again_then_new_code_is_seen_within_the_same_second(
    plugins: Plugins, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    plugins.write("own/_shared.py", "VALUE = 'old 1'")
    source = "from ._shared import VALUE\n@agent('a')\ndef f(mail):\n    return {0!r} + VALUE\n"
    path = plugins.write("own/a.py", source.format("old "))
    before = loaded(plugins.load(), "a")
    stat = path.stat()
    plugins.write("own/_shared.py", "VALUE = 'new 1'")
    plugins.write("own/a.py", source.format("new "))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # as a fast editor would leave it
    after = loaded(plugins.load(), "a")
    assert await host.run(before, mail()) == Reply(text="old old 1")
    assert await host.run(after, mail()) == Reply(text="new new 1")


def test_load_when_it_fails_then_the_modules_of_before_stay(plugins: Plugins) -> None:
    path = plugins.write("own/a.py", ONE.format(name="a", text="a"))
    module = sys.modules[plugins.load()["a"].build(Agent.Settings()).__module__]
    path.write_text("raise SystemExit")
    with pytest.raises(PluginError, match="SystemExit"):
        plugins.load()
    assert sys.modules[module.__name__] is module


async def test_plugins_when_their_helpers_share_a_name_then_each_gets_its_own(plugins: Plugins, host: Host) -> None:
    for name in ("one", "two"):
        plugins.write(f"{name}/_helper.py", f"WORD = {name!r}")
        plugins.write(f"{name}/util/__init__.py", f"OTHER = {name!r}")
        plugins.write(
            f"{name}/agent_{name}.py",
            f"""
            from . import _helper
            from .util import OTHER

            @agent({name!r})
            def f(mail):
                from ._helper import WORD  # at run time, too
                return f"{{WORD}} {{_helper.WORD}} {{OTHER}}"
            """,
        )
    agents = plugins.load("one", "two")
    assert await host.run(loaded(agents, "one"), mail()) == Reply(text="one one one")
    assert await host.run(loaded(agents, "two"), mail()) == Reply(text="two two two")
    assert "_helper" not in sys.modules and "util" not in sys.modules


async def test_plugin_when_it_defines_models_then_their_annotations_resolve(plugins: Plugins, host: Host) -> None:
    plugins.write(
        "own/typed.py",
        """
        from __future__ import annotations

        import pickle
        from dataclasses import KW_ONLY, dataclass, field, fields
        from typing import ClassVar, Literal, Optional, get_type_hints

        from pydantic import BaseModel

        from responder import Agent, Mail, Reply, hookimpl

        class Inner(BaseModel):
            next: Optional[Inner] = None
            mode: Literal["a", "b"] = "a"

        @dataclass
        class Note:
            kind: ClassVar[int] = 1
            _: KW_ONLY
            inner: Inner = field(default_factory=Inner)

        class Typed(Agent):
            class Settings(BaseModel):
                inner: Inner = Inner()
                notes: list[Note] = []

            async def answer(self, mail: Mail) -> Reply | None:
                hints = get_type_hints(Note)
                same = pickle.loads(pickle.dumps(Note())) == Note()
                return Reply(text=f"{self.settings.inner.next.mode} {hints['inner'] is Inner} {same} {len(fields(Note))}")

        @hookimpl
        def responder_agents() -> dict[str, type[Agent]]:
            return {"typed": Typed}
        """,
    )
    agents = plugins.load()
    assert await host.run(loaded(agents, "typed", inner={"next": {"mode": "b"}}), mail()) == Reply(text="b True True 1")
    with pytest.raises(PluginError, match=r"^inboxes\.x\.settings\.inner\.next\.mode: Input should be 'a' or 'b'$"):
        build("x", agents, "typed", {"inner": {"next": {"mode": "c"}}})
    json.dumps(agents["typed"].settings.model_json_schema())


DIST = """Metadata-Version: 2.1
Name: shelf
Version: 1.0
"""


async def test_installed_package_when_it_has_an_entry_point_then_it_is_a_plugin_and_a_file_takes_its_place(
    plugins: Plugins, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = plugins.folder / "site"
    plugins.write("site/shelf_for_tests/shelf.py", ONE.format(name="shelf", text="installed"))
    (site / "shelf_for_tests" / "__init__.py").touch()
    info = site / "shelf-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(DIST)
    (info / "entry_points.txt").write_text("[responder]\nshelf = shelf_for_tests.shelf\nalso = shelf_for_tests.shelf\n")
    monkeypatch.syspath_prepend(str(site))
    try:
        (plugins.folder / "own").mkdir()
        agents = plugins.load()
        assert agents["shelf"].origin == "shelf_for_tests.shelf (shelf)"
        assert await host.run(loaded(agents, "shelf"), mail()) == Reply(text="installed")
        plugins.write("own/shelf.py", ONE.format(name="shelf", text="own"))
        agents = plugins.load()
        assert agents["shelf"].origin == str(plugins.folder / "own" / "shelf.py")
        assert await host.run(loaded(agents, "shelf"), mail()) == Reply(text="own")
        (plugins.folder / "own" / "shelf.py").rename(plugins.folder / "own" / "other.py")
        with pytest.raises(PluginError, match=r'the agent "shelf" is already there, from .*own/other\.py'):
            plugins.load()
    finally:
        for name in ("shelf_for_tests", "shelf_for_tests.shelf"):
            sys.modules.pop(name, None)

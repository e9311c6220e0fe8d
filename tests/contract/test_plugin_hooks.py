"""The hooks besides `responder_agents`, and what becomes of plugins that can't be used (docs/plugins.md)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from responder.agents.hookspecs import VERBS
from responder.agents.host import AgentError, Host, build
from responder.agents.load import PluginError, load_plugins, stand_ins
from responder.cli import parser
from tests.support.agents import Plugins, loaded, mail

COMMAND = """
    from responder import Command

    @hookimpl
    def responder_commands():
        return {0}
"""
EVENT = """
    told = []

    @hookimpl
    def responder_event({0}):
        told.append(({0},))
"""
GOOD = "@agent('good')\ndef good(mail):\n    return 'good'\n"


def folder(plugins: Plugins) -> list[Path]:
    return [plugins.folder / "own"]


# -- commands -------------------------------------------------------------------------------------------------------------


def test_commands_when_registered_then_they_are_there_by_name_and_need_no_agent(plugins: Plugins) -> None:
    path = plugins.write("own/b.py", COMMAND.format("[Command('report', 'Say.', print), Command('a-2', 'X.', print)]"))
    found = load_plugins(folder(plugins))
    assert list(found.commands) == ["a-2", "report"]
    assert found.origins == {"a-2": str(path), "report": str(path)}
    assert found.commands["report"].run is print


@pytest.mark.parametrize(
    ("commands", "reason"),
    [
        ("[Command('check', 'Say.', print)]", '"check" is one of the server\'s own verbs$'),
        ("[Command('Report', 'Say.', print)]", "a verb is of lower-case letters, digits and hyphens, not 'Report'"),
        ("[Command('--x', 'Say.', print)]", "a verb is of lower-case"),
        ("[Command(5, 'Say.', print)]", "a verb is of lower-case"),
        ("[Command('report', None, print)]", 'the Command "report" needs a text as help, and functions'),
        ("[Command('report', 'Say.', None)]", 'the Command "report" needs a text as help, and functions'),
        ("['report']", "responder_commands must return a list of Command"),
        ("None", "responder_commands must return a list of Command"),
        ("[Command('report', 'a', print)] * 2", 'the command "report" is already there, from .*own/b.py'),
    ],
)
def test_commands_when_they_can_not_be_used_then_it_is_one_line(plugins: Plugins, commands: str, reason: str) -> None:
    plugins.write("own/b.py", COMMAND.format(commands))
    with pytest.raises(PluginError, match=rf"own/b\.py: .*{reason}" if "already" not in reason else reason) as raised:
        load_plugins(folder(plugins))
    assert "\n" not in str(raised.value)


def test_commands_when_two_plugins_take_one_name_then_both_are_told(plugins: Plugins) -> None:
    for name in ("a", "b"):
        plugins.write(f"own/{name}.py", COMMAND.format("[Command('report', 'Say.', print)]"))
    with pytest.raises(PluginError, match=r'own/b\.py: the command "report" is already there, from .*own/a\.py$'):
        load_plugins(folder(plugins))


def test_verbs_when_reserved_then_every_verb_of_the_server_is_among_them() -> None:
    [places] = [action for action in parser()._actions if action.dest == "==SUPPRESS=="]
    assert places.choices is not None
    assert set(places.choices) <= VERBS


# -- events ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "told"),
    [("name, fields", ("x", {"id": "1"})), ("fields, name", ({"id": "1"}, "x")), ("name", ("x",)), ("", None)],
)
def test_observer_when_it_takes_fewer_arguments_then_it_gets_those(
    plugins: Plugins, arguments: str, told: object
) -> None:
    source = EVENT.format(arguments) if arguments else EVENT.replace("({0},)", "None").format("")
    plugins.write("own/b.py", source)
    [observer] = load_plugins(folder(plugins)).observers
    assert observer.origin.endswith("own/b.py")
    observer.call("x", {"id": "1"})
    import sys

    module = next(module for name, module in sys.modules.items() if getattr(module, "__file__", "") == observer.origin)
    assert module.told == [told]


def test_observer_when_it_is_async_then_it_is_refused(plugins: Plugins) -> None:
    plugins.write("own/b.py", "@hookimpl\nasync def responder_event(name):\n    pass\n")
    with pytest.raises(PluginError, match=r"own/b\.py: responder_event must be a plain function"):
        load_plugins(folder(plugins))


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (
            "@hookimpl\ndef responder_event(name, level):\n    pass\n",
            "responder_event has no argument 'level' "
            r"\(it has: name, fields\)$",
        ),
        (
            "@hookimpl\ndef responder_agents(app):\n    return {}\n",
            r"responder_agents has no argument 'app' \(it has: none\)$",
        ),
        (
            "@hookimpl\ndef responder_evnt(name):\n    pass\n",
            r"unknown hook 'responder_evnt' \(there are: responder_agents, responder_checks, "
            r"responder_commands, responder_event\)$",
        ),
        ("@hookimpl(specname='nothing')\ndef f():\n    pass\n", "unknown hook 'nothing'"),
        (
            "@hookimpl(wrapper=True)\ndef responder_agents():\n    return (yield)\n",
            "responder_agents can't be a wrapper$",
        ),
    ],
)
def test_hook_when_unknown_or_with_unknown_arguments_then_it_is_one_line(
    plugins: Plugins, source: str, reason: str
) -> None:
    plugins.write("own/b.py", source)
    with pytest.raises(PluginError, match=rf"own/b\.py: {reason}") as raised:
        load_plugins(folder(plugins))
    assert "\n" not in str(raised.value)


def test_hook_when_it_has_another_name_then_its_specname_counts(plugins: Plugins) -> None:
    plugins.write(
        "own/b.py",
        "def f(mail):\n    pass\n@hookimpl(specname='responder_agents')\ndef other():\n    return {'x': f}\n",
    )
    assert "x" in load_plugins(folder(plugins)).agents


# -- plugins that can't be used -------------------------------------------------------------------------------------------

BROKEN = {
    "import": "import nothing_of_that_name\n",
    "syntax": "def f(:\n",
    "exits": "raise SystemExit\n",
    "unknown hook": "@hookimpl\ndef responder_agentz():\n    return {}\n",
    "name twice": "@agent('good')\ndef f(mail): ...\n@agent('fresh')\ndef g(mail): ...\n",
    "nothing": "x = 1\n",
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_plugin_when_skipped_then_it_is_named_and_the_rest_is_there(plugins: Plugins, name: str) -> None:
    plugins.write("own/a.py", GOOD)
    plugins.write("own/b.py", BROKEN[name])
    plugins.write("own/c.py", "@agent('other')\ndef other(mail): ...\n")
    with pytest.raises(PluginError, match=r"own/b\.py: "):
        load_plugins(folder(plugins))
    found = load_plugins(folder(plugins), skip_broken=True)
    assert {"good", "other"} <= set(found.agents) and "fresh" not in found.agents
    assert found.agents["good"].origin.endswith("own/a.py")
    [reason] = found.broken
    assert reason.startswith(f"{plugins.folder}/own/b.py: ") and "\n" not in reason


def test_folder_when_it_is_missing_then_nothing_is_skipped(plugins: Plugins) -> None:
    with pytest.raises(PluginError, match="no such plugin folder"):
        load_plugins([plugins.folder / "missing"], skip_broken=True)


async def test_inbox_when_its_plugin_is_skipped_then_a_stand_in_takes_any_settings_and_fails(
    plugins: Plugins, host: Host
) -> None:
    plugins.write("own/a.py", GOOD)
    plugins.write("own/b.py", BROKEN["import"])
    agents = stand_ins(load_plugins(folder(plugins), skip_broken=True), ["good", "shop"])
    assert (agents["shop"].origin, agents["shop"].source) == ("a broken plugin", "")
    assert agents["shop"].reads_automatic_mail  # else a forwarder's mail would fall silent
    with pytest.raises(AgentError) as raised:
        await host.run(loaded(agents, "shop", anything={"at": ["all"]}), mail())
    assert "PluginBroken: its plugin is broken: " in raised.value.reason
    assert "own/b.py: ModuleNotFoundError: No module named 'nothing_of_that_name'" in raised.value.reason
    assert not raised.value.final  # tried again: the file may be mended by then


def test_inbox_when_nothing_is_broken_then_an_unknown_agent_is_a_mistake(plugins: Plugins) -> None:
    plugins.write("own/a.py", GOOD)
    agents: dict[str, Any] = stand_ins(load_plugins(folder(plugins), skip_broken=True), ["good", "shop"])
    with pytest.raises(PluginError, match=r'inboxes\.x\.agent: there is no agent "shop"'):
        build("x", agents, "shop", {})

"""Scenario 10, plugins: files that can't be used, and settings that their agents refuse.

responder serve | check | plugins  ──>  exit status 2, one line: FILE: KEY: REASON
"""

from __future__ import annotations

import os
from typing import Any

import pytest

from tests.support.operator import Operator, complains
from tests.support.server import configuration

BOTH = ("check", "serve")
SECRET = "hunter2-hunter2"

AGENT = """
from typing import Literal
from pydantic import BaseModel, SecretStr, field_validator
from responder import Agent, hookimpl

class Inner(BaseModel):
    depth: int = 1
    mode: Literal["fast", "slow"] = "fast"

class Picky(Agent):
    class Settings(BaseModel):
        model_config = {"extra": "forbid"}
        key: SecretStr = SecretStr("")
        inner: Inner = Inner()
        @field_validator("inner")
        @classmethod
        def _odd(cls, inner):
            if inner.depth == 99:
                raise RuntimeError("a validator that breaks")
            return inner
    def __init__(self, settings):
        super().__init__(settings)
        if settings.inner.depth == 13:
            raise OSError("no such\\nbackend")
    async def answer(self, mail):
        return None

@hookimpl
def responder_agents():
    return {"picky": Picky}
"""


def with_settings(**settings: Any) -> dict[str, Any]:
    return {"plugins": ["own"], "inboxes": {"x": {"agent": "picky", "settings": settings}}}


SETTINGS: dict[str, tuple[dict[str, Any], str, str]] = {
    "wrong type": ({"inner": {"depth": "deep"}}, "inboxes.x.settings.inner.depth", "valid integer"),
    "not one of": ({"inner": {"mode": SECRET}}, "inboxes.x.settings.inner.mode", "'fast' or 'slow'"),
    "secret of the wrong type": ({"key": {"value": SECRET}}, "inboxes.x.settings.key", "valid string"),
    "several": ({"key": 1, "inner": {"depth": "x"}}, "inboxes.x.settings.key", r"\(and 1 more\)$"),
    "validator breaks": ({"inner": {"depth": 99}}, "inboxes.x.settings", "RuntimeError: a validator that breaks"),
    "agent does not start": ({"inner": {"depth": 13}}, "inboxes.x", "does not start: OSError: no such backend"),
}


@pytest.mark.parametrize("verb", BOTH)
@pytest.mark.parametrize("name", SETTINGS)
def test_settings_when_invalid_then_their_key_is_named_and_no_value_shown(
    operator: Operator, verb: str, name: str
) -> None:
    settings, key, reason = SETTINGS[name]
    (operator.folder / "own").mkdir()
    (operator.folder / "own" / "picky.py").write_text(AGENT)
    operator.write(configuration(**with_settings(**settings)))
    result = operator(verb)
    complains(result, operator.file, key, reason)
    assert SECRET not in result.err


HOOK = "from responder import Agent, agent, hookimpl\n"
PLUGINS: dict[str, tuple[str, str]] = {
    "syntax": ("def f(:\n", r"SyntaxError: invalid syntax \(bad.py, line 1\)"),
    "null byte": ("\0", "SyntaxError|ValueError"),
    "import": ("import nothing_of_that_name\n", "ModuleNotFoundError: No module named 'nothing_of_that_name'"),
    "raises": ("1 / 0\n", "ZeroDivisionError: division by zero"),
    "raises on several lines": ("raise ValueError('one\\ntwo\\x1b[31m')\n", r"ValueError: one two \[31m$"),
    "exits": ("import sys\nsys.exit(0)\n", "SystemExit: 0"),
    "cancels": ("import asyncio\nraise asyncio.CancelledError\n", "CancelledError"),
    "no agent": ("x = 1\n", "registers no agent"),
    "hook without hookimpl": ("def responder_agents():\n    return {}\n", "registers no agent"),
    "hook with arguments": (HOOK + "@hookimpl\ndef responder_agents(app):\n    return {}\n", "'app'|hook .*argument"),
    "unknown hook": (HOOK + "@hookimpl\ndef responder_agentz():\n    return {}\n", "unknown hook 'responder_agentz'"),
    "hook raises": (HOOK + "@hookimpl\ndef responder_agents():\n    raise KeyError('x')\n", "KeyError: 'x'"),
    "hook returns nothing": (HOOK + "@hookimpl\ndef responder_agents():\n    pass\n", "return a dict.*not NoneType"),
    "hook is async": (HOOK + "@hookimpl\nasync def responder_agents():\n    return {}\n", "return a dict.*coroutine"),
    "not an Agent": (HOOK + "@hookimpl\ndef responder_agents():\n    return {'x': 5}\n", '"x" must be a subclass'),
    "another class": (HOOK + "@hookimpl\ndef responder_agents():\n    return {'x': dict}\n", '"x" must be a subclass'),
    "an instance": (HOOK + "@hookimpl\ndef responder_agents():\n    return {'x': Agent(None)}\n", "subclass"),
    "no answer": (
        HOOK + "class A(Agent): pass\n@hookimpl\ndef responder_agents():\n    return {'x': A}\n",
        "no method",
    ),
    "settings no model": (
        HOOK + "class A(Agent):\n    Settings = dict\n    async def answer(self, mail): ...\n"
        "@hookimpl\ndef responder_agents():\n    return {'x': A}\n",
        "must be a pydantic model",
    ),
    "unknown kind": (
        HOOK + "class A(Agent):\n    kind = 'robot'\n    async def answer(self, mail): ...\n"
        "@hookimpl\ndef responder_agents():\n    return {'x': A}\n",
        "must be one of service, personal, group",
    ),
    "name no text": (HOOK + "@hookimpl\ndef responder_agents():\n    return {5: Agent}\n", "name must be a text"),
    "twice in one file": (
        HOOK + "@agent('x')\ndef f(mail): ...\n@agent('x')\ndef g(mail): ...\n",
        '"x" is already there',
    ),
    "name of a stock agent": (HOOK + "@agent('echo')\ndef f(mail): ...\n", '"echo" is already there, from .*echo.py'),
}


@pytest.mark.parametrize("verb", [*BOTH, "plugins"])
@pytest.mark.parametrize("name", PLUGINS)
def test_plugin_when_it_can_not_be_used_then_its_file_and_the_reason_are_told(
    operator: Operator, verb: str, name: str
) -> None:
    source, reason = PLUGINS[name]
    (operator.folder / "own").mkdir()
    (operator.folder / "own" / "bad.py").write_text(source)
    config = configuration()
    operator.write({**config, "plugins": [*config["plugins"], "own"]})
    result = operator(verb)
    complains(result, operator.file, "plugins: own/bad.py" if name != "name of a stock agent" else "plugins", reason)
    assert os.listdir(operator.folder / "own") == ["bad.py"]

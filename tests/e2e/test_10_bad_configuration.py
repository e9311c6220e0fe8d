"""Scenario 10: an operator's mistake.

    responder serve | check  ──>  exit status 2, one line: FILE: KEY: REASON

Whatever is wrong with the configuration, the plugins, the store or the sockets: no traceback, and nothing is left behind.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.operator import Operator, Result, make_operator
from tests.support.server import ServerProcess, configuration, environment, free_port, to_toml

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


@pytest.fixture
def operator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Operator:
    return make_operator(tmp_path, monkeypatch, capsys)


def with_settings(**settings: Any) -> dict[str, Any]:
    return {"plugins": ["own"], "inboxes": {"x": {"agent": "picky", "settings": settings}}}


def complains(result: Result, file: str | Path, key: str, reason: str) -> None:
    """Exit status 2, and one line: the file, the key, and words that `reason` matches."""
    assert result.status == 2, result
    assert result.out == ""
    lines = result.err.splitlines()
    assert len(lines) == 1, result.err
    assert lines[0].startswith(f"responder: {file}: {key}: " if key else f"responder: {file}: "), lines[0]
    assert re.search(reason, lines[0]), lines[0]
    assert result.err.endswith("\n")


def left(folder: Path) -> list[str]:
    """What stands in the folder, plugins aside."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if "own" not in path.parts)


MISTAKES: dict[str, tuple[dict[str, Any], str, str]] = {
    # name: changes to a good configuration, key, words of the reason
    "unknown key": ({"delivery": {"prot": 25}}, "delivery.prot", 'did you mean "port"'),
    "unknown table": ({"delivry": {"port": 25}}, "delivry", "did you mean \"delivery\""),
    "wrong type": ({"delivery": {"port": "25"}}, "delivery.port", "wants a whole number"),
    "no duration": ({"queue": {"lease": "soon"}}, "queue.lease", "wants a duration"),
    "no rate": ({"limits": {"connection_rate": "many"}}, "limits.connection_rate", "wants a rate"),
    "no address": ({"listen": [{"address": "here"}]}, "listen[0].address", "wants"),
    "no network": ({"limits": {"deny": ["10.0.0.1/8"]}}, "limits.deny[0]", "10.0.0.0/8"),
    "unknown agent": ({"inboxes": {"sales-*": {"agent": "ecko"}}}, 'inboxes."sales-*".agent', "there is no agent"),
    "inbox without agent": ({"inboxes": {"x": {}}}, "inboxes.x.agent", "is required"),
    "reserved inbox": ({"inboxes": {"bounces": {"agent": "echo"}}}, "inboxes.bounces", "is reserved"),
    "unknown setting": (
        {"inboxes": {"x": {"agent": "echo", "settings": {"prefx": "a"}}}},
        "inboxes.x.settings.prefx",
        "unknown key; known here: prefix",
    ),
    "setting of an agent without any": (with_settings(), "plugins", "no such plugin folder"),
    "time zone": (
        {"inboxes": {"x": {"agent": "current-time", "settings": {"timezone": "Mars/Olympus"}}}},
        "inboxes.x.settings.timezone",
        'there is no time zone "Mars/Olympus"$',
    ),
    "plugin folder missing": ({"plugins": ["nowhere"]}, "plugins", "nowhere: no such plugin folder"),
    "plugin folder is a file": ({"plugins": ["responder.toml"]}, "plugins", "responder.toml: Not a directory"),
    "smarthost missing": ({"delivery": {"transport": "smarthost"}}, "delivery.smarthost", 'wants "host:port"'),
    "PostgreSQL": ({"store": "postgresql://u:hunter2-hunter2@db/x"}, "store", "PostgreSQL is not supported yet"),
    "submission": ({"listen": [{"protocol": "submission"}]}, "listen[0].protocol", "not supported yet"),
    "smtps": ({"listen": [{"protocol": "smtps"}]}, "listen[0].protocol", "not supported yet"),
    "LMTP": ({"listen": [{"address": "127.0.0.1:0"}, {"protocol": "lmtp"}]}, "listen[1].protocol", "not supported"),
    "PROXY protocol": ({"listen": [{"proxy_protocol": True}]}, "listen[0].proxy_protocol", "not supported yet"),
    "TLS": ({"tls": {"certificate": "c.pem", "key": "k.pem"}}, "tls", "not supported yet"),
    "enforce": ({"authentication": {"mode": "enforce"}}, "authentication.mode", "not supported yet"),
    "store below a file": ({"store": "sqlite:responder.toml/x.db"}, "store", "x.db: there is a file where a folder is wanted"),
    "store is a folder": ({"store": "sqlite:folder"}, "store", "folder: "),
    "socket in a missing folder": ({"listen": [{"address": "unix:no/s"}]}, r"listen", "no"),
}  # fmt: skip


@pytest.mark.parametrize("verb", BOTH)
@pytest.mark.parametrize("name", MISTAKES)
def test_mistake_when_run_then_one_line_names_file_key_and_reason(operator: Operator, verb: str, name: str) -> None:
    changes, key, reason = MISTAKES[name]
    (operator.folder / "folder").mkdir()
    operator.write(configuration(**changes))
    before = left(operator.folder)
    result = operator(verb)
    if name == "socket in a missing folder":
        key = {"serve": "listen", "check": "listen[0].address"}[verb]
    complains(result, operator.file, key, reason)
    assert SECRET not in result.err
    if verb == "check" or key not in ("listen", "store"):
        assert left(operator.folder) == before


FILES: dict[str, tuple[bytes | None, str, str]] = {
    "missing": (None, "", "no such file"),
    "not TOML": (b"hostname = \n", "line 1, column 12", "is not TOML"),
    "cut off": (b'hostname = "x', "end of document", "is not TOML"),
    "key twice": (b'hostname = "a"\nhostname = "b"\n', "line 2, column 15", "is not TOML"),
    "not UTF-8": (b'hostname = "a"\ndomains = ["m\xfcnchen.de"]\n', "line 2", "is not UTF-8"),
    "binary": (bytes(range(256)), "line 1|line 2", "is not UTF-8"),
}


@pytest.mark.parametrize("verb", BOTH)
@pytest.mark.parametrize("name", FILES)
def test_file_when_it_is_none_of_ours_then_one_line_says_so(operator: Operator, verb: str, name: str) -> None:
    content, place, reason = FILES[name]
    if content is not None:
        operator.file.write_bytes(content)
    result = operator(verb)
    complains(result, operator.file, "", reason)
    assert re.search(place, result.err)
    assert left(operator.folder) == ([] if content is None else ["responder.toml"])


@pytest.mark.parametrize("verb", BOTH)
def test_file_when_it_is_a_folder_then_one_line_says_so(operator: Operator, verb: str) -> None:
    operator.file.mkdir()
    complains(operator(verb), operator.file, "", "is a folder")


@pytest.mark.parametrize("verb", BOTH)
def test_environment_when_it_holds_a_mistake_then_the_variable_is_named(
    operator: Operator, verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    operator.write(configuration())
    monkeypatch.setenv("RESPONDER_DELIVERY__PORT", "many")
    complains(operator(verb), "environment RESPONDER_DELIVERY__PORT", "delivery.port", "wants a whole number")


@pytest.mark.parametrize("verb", BOTH)
def test_local_file_when_it_holds_the_mistake_then_it_is_named(operator: Operator, verb: str) -> None:
    operator.write(configuration())
    local = operator.folder / "responder.local.toml"
    local.write_text("[delivery]\nport = 0\n")
    complains(operator(verb), local, "delivery.port", "wants 1 or more")


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


def foreign(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE songs (title TEXT)")
    connection.close()


def newer(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA application_id = {0x52535044}")
        connection.execute("PRAGMA user_version = 999")
    connection.close()


STORES: dict[str, tuple[Callable[[Path], object], str]] = {
    "another program's": (foreign, "belongs to another program"),
    "newer": (newer, "schema version 999, this program knows"),
    "garbage": (lambda path: path.write_bytes(b"no database at all " * 500), "not a database"),
}


@pytest.mark.parametrize("verb", [*BOTH, "queue list", "explain x"])
@pytest.mark.parametrize("name", STORES)
def test_store_when_it_is_not_ours_then_one_line_says_so_and_not_an_octet_changes(
    operator: Operator, verb: str, name: str
) -> None:
    make, reason = STORES[name]
    path = operator.folder / "mail.db"
    make(path)
    content = path.read_bytes()
    operator.write(configuration(store="sqlite:mail.db"))
    complains(operator(*verb.split()), operator.file, "store", f"mail.db: .*{reason}")
    assert path.read_bytes() == content
    assert left(operator.folder) == ["mail.db", "responder.toml"]


def test_check_when_the_configuration_is_good_then_nothing_is_made(operator: Operator) -> None:
    operator.write(configuration())
    result = operator("check")
    assert (result.status, result.err) == (0, "")
    assert left(operator.folder) == ["responder.toml"]


def test_port_when_in_use_then_serve_names_it(operator: Operator) -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        address = f"127.0.0.1:{sock.getsockname()[1]}"
        operator.write(configuration(listen=[{"address": address}]))
        complains(operator("serve"), operator.file, "listen", f"{address}: .*[Aa]ddress already in use")
        assert operator("check").status == 0  # it runs beside the server


def test_second_of_two_ports_when_in_use_then_the_first_socket_is_gone(operator: Operator) -> None:
    path = operator.folder / "s"
    with socket.create_server(("127.0.0.1", 0)) as sock:
        address = f"127.0.0.1:{sock.getsockname()[1]}"
        operator.write(configuration(listen=[{"address": f"unix:{path}"}, {"address": address}]))
        complains(operator("serve"), operator.file, "listen", f"{address}: .*[Aa]ddress already in use")
    assert not path.exists()


def test_address_when_it_is_not_ours_then_serve_names_it(operator: Operator) -> None:
    operator.write(configuration(listen=[{"address": "192.0.2.1:2525"}]))
    complains(operator("serve"), operator.file, "listen", "192.0.2.1:2525: .*[Cc]annot assign requested address")


def test_host_when_it_has_no_address_then_serve_names_it(operator: Operator) -> None:
    operator.write(configuration(listen=[{"address": "no-such-host.invalid:2525"}]))
    complains(operator("serve"), operator.file, "listen", "no-such-host.invalid:2525: ")


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["srve"],
        ["check", "--confg", "x"],
        ["check", "surplus"],
        ["serve", "--config"],
        ["explain"],
        ["try", "echo"],
        ["queue"],
        ["queue", "lst"],
        ["queue", "retry"],
        ["queue", "show"],
        ["queue", "list", "--state", "LOST"],
        ["queue", "list", "--limit", "many"],
    ],
    ids=" ".join,
)
def test_usage_when_bad_then_exit_status_2_and_the_usage_is_shown(operator: Operator, arguments: list[str]) -> None:
    result = operator.run(*arguments)
    assert (result.status, result.out) == (2, "")
    assert result.err.startswith("usage: responder")
    assert "Traceback" not in result.err


# -- as processes of their own -------------------------------------------------------------------------------------------


def process(folder: Path, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "responder", *arguments]
    options = {"env": environment(), "cwd": folder, "capture_output": True, "text": True, "timeout": 60, **options}
    return subprocess.run(command, check=False, **options)


@pytest.mark.parametrize("verb", BOTH)
def test_process_when_the_configuration_is_bad_then_one_line_and_status_2(tmp_path: Path, verb: str) -> None:
    file = tmp_path / "responder.toml"
    file.write_text(to_toml(configuration(plugins=["own"])))
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "bad.py").write_text("import sys\nsys.exit(3)\n")
    done = process(tmp_path, verb, "--config", str(file))
    complains(Result(done.returncode, done.stdout, done.stderr), file, "plugins: own/bad.py", "SystemExit: 3")
    assert left(tmp_path) == ["responder.toml"]


def test_process_when_the_port_is_in_use_then_one_line_and_status_2(tmp_path: Path) -> None:
    file = tmp_path / "responder.toml"
    with socket.create_server(("127.0.0.1", 0)) as sock:
        address = f"127.0.0.1:{sock.getsockname()[1]}"
        file.write_text(to_toml(configuration(listen=[{"address": address}])))
        done = process(tmp_path, "serve", "--config", str(file))
    complains(Result(done.returncode, done.stdout, done.stderr), file, "listen", "[Aa]ddress already in use")
    assert left(tmp_path) == ["responder.toml", "state", "state/responder.db"]


def may_bind_low_ports() -> bool:
    limit = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")
    return not limit.exists() or int(limit.read_text()) <= 25


LOW_PORT = """
import os, sys
import responder.app, responder.cli  # before the privilege is given up: whatever that user may read
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
sys.exit(responder.cli.main(["serve", "--config", "/dev/null"]))
"""


@pytest.mark.skipif(sys.platform != "linux" or may_bind_low_ports(), reason="any user may bind port 25 here")
def test_process_when_the_port_needs_a_privilege_then_one_line_and_status_2() -> None:
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o777)
        env = {
            **environment(),
            "RESPONDER_STORE": f"sqlite:{name}/x.db",
            "RESPONDER_PLUGINS": "",
            "RESPONDER_LISTEN__0__ADDRESS": "127.0.0.1:25",
        }
        command = [sys.executable, "-c", LOW_PORT]
        done = subprocess.run(command, env=env, cwd=name, capture_output=True, text=True, timeout=60, check=False)
    complains(
        Result(done.returncode, done.stdout, done.stderr), "/dev/null", "listen", "127.0.0.1:25: Permission denied"
    )


CRASH = """
import asyncio
import responder.app

async def retention(self):
    await asyncio.sleep(0)  # the log says `ready` first
    raise RuntimeError("our own mistake")

responder.app.Server._retention = retention
"""


def test_server_when_our_own_code_crashes_then_one_log_entry_and_status_1(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(CRASH)
    file = tmp_path / "responder.toml"
    file.write_text(to_toml(configuration(listen=[{"address": f"unix:{tmp_path}/s"}])))
    env = environment()
    env["PYTHONPATH"] = f"{tmp_path}{os.pathsep}{env['PYTHONPATH']}"
    done = process(tmp_path, "serve", "--config", str(file), env=env)
    assert done.returncode == 1, done.stderr
    entries = [line for line in done.stderr.splitlines() if re.match(r"\d{4}-", line)]
    assert [line.split()[2] for line in entries] == ["notice", "ready", "crashed"]
    assert "reason=RuntimeError" in entries[2]
    assert done.stderr.count("Traceback (most recent call last)") == 1
    assert "ExceptionGroup" not in done.stderr
    assert "RuntimeError: our own mistake" in done.stderr
    assert not (tmp_path / "s").exists()
    assert not (tmp_path / "state" / "responder.db-wal").exists()  # the store was closed


def test_reload_when_the_new_configuration_is_bad_then_the_old_one_goes_on(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    plugin = tmp_path / "own" / "mine.py"
    good = HOOK + "@agent('mine')\ndef f(mail):\n    return 'here'\n"
    plugin.write_text(good)
    config = configuration(plugins=["own"], inboxes={"mine": {"agent": "mine"}})
    server = ServerProcess(tmp_path, config)
    server.start()
    try:
        for text, source in (
            ("hostname = \n", good),
            (to_toml({**config, "inboxes": {"mine": {"agent": "other"}}}), good),
            (to_toml(config), "raise SystemExit(1)\n"),
            (to_toml(config), "import asyncio\nraise asyncio.CancelledError\n"),
        ):
            server.file.write_text(text)
            plugin.write_text(source)
            offset = server.log.stat().st_size
            server.signal(signal.SIGHUP)
            line = server.wait_for_log("\n", offset)
            assert " error reload refused reason=" in line and line.count("\n") == 1
            with socket.create_connection(("127.0.0.1", server.port), timeout=10) as sock:
                assert sock.recv(100).startswith(b"220 ")
        plugin.write_text(good.replace("'here'", "'seen'"))
        offset = server.log.stat().st_size
        server.signal(signal.SIGHUP)
        assert " info reloaded inboxes=1" in server.wait_for_log("\n", offset)
        assert server.stop() == 0
    finally:
        if server.process is not None:
            server.kill()


def test_free_port_when_the_configuration_is_good_then_it_serves(tmp_path: Path) -> None:
    """What all of the above differ from in one thing each."""
    server = ServerProcess(tmp_path, configuration(listen=[{"address": f"127.0.0.1:{free_port()}"}]))
    server.start()
    try:
        assert server.stop() == 0
    finally:
        if server.process is not None:
            server.kill()

"""Scenario 10, processes: what `responder serve` leaves when it can't start, when it crashes, when a reload is bad."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from tests.support.operator import Result, complains, left
from tests.support.server import ServerProcess, configuration, environment, free_port, to_toml

BOTH = ("check", "serve")

HOOK = "from responder import Agent, agent, hookimpl\n"


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
import encodings.utf_8_sig
from importlib.metadata import entry_points
import responder.app, responder.cli  # before the privilege is given up: whatever that user may read
installed = [entry.load() for entry in entry_points(group="responder")]
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

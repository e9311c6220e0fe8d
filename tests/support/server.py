"""A real server process for tests: `responder serve` in a folder of its own, on free loopback ports."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
START = 30.0  # seconds that a start may take on a busy machine


def free_port(host: str = "127.0.0.1") -> int:
    """A TCP port that nobody listens on now."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as sock:
        sock.bind((host, 0))
        port: int = sock.getsockname()[1]
        return port


def environment() -> dict[str, str]:
    """What a server of the tests inherits: no configuration from outside, whatever RESPONDER_... is set for the tests."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("RESPONDER_")}
    return {**inherited, "PYTHONPATH": str(ROOT)}


def to_toml(table: Mapping[str, Any], prefix: str = "") -> str:
    """A configuration as TOML: what the tests need of it."""
    plain = [f"{_key(key)} = {_value(value)}" for key, value in table.items() if not _is_table(value)]
    text = "\n".join(plain) + "\n"
    for key, value in table.items():
        if isinstance(value, Mapping):
            text += f"\n[{prefix}{_key(key)}]\n" + to_toml(value, f"{prefix}{_key(key)}.")
        elif _is_table(value):
            text += "".join(f"\n[[{prefix}{_key(key)}]]\n{to_toml(one)}" for one in value)
    return text


def _is_table(value: object) -> bool:
    return isinstance(value, Mapping) or (isinstance(value, list) and bool(value) and isinstance(value[0], Mapping))


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else '"' + key.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_value(one) for one in value) + "]"
    return '"' + str(value).replace("\\", "\\\\").replace('"', '\\"') + '"'


def configuration(**changes: Any) -> dict[str, Any]:
    """A configuration for tests: inboxes echo, current-time and debug at test.example, no limits by rate, nothing leaves."""
    base: dict[str, Any] = {
        "hostname": "mx.test.example",
        "domains": ["test.example"],
        "store": "sqlite:state/responder.db",
        "plugins": [str(ROOT / "plugins")],
        "listen": [{"address": f"127.0.0.1:{free_port()}"}],
        "limits": {
            "connection_rate": "off",
            "junk_commands": 1_000_000,
            "unknown_recipients": "off",
            "connections_per_ip": 1000,
            "tarpit": "0s",
        },
        "inboxes": {
            "echo": {"agent": "echo"},
            "current-time": {"agent": "current-time"},
            "debug": {"agent": "debug"},
        },
        "reply": {"per_sender": "off", "per_conversation": "off"},
        "authentication": {"mode": "off"},
        "delivery": {"transport": "print"},
        "queue": {"lease": "3s"},
    }
    return _merged(base, changes)


def _merged(base: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    for key, value in changes.items():
        if isinstance(value, Mapping) and isinstance(base.get(key), dict) and key != "inboxes":
            _merged(base[key], value)
        else:
            base[key] = value
    return base


class ServerProcess:
    """`responder serve` in `folder`. `start` returns when it logs `ready`; its log is in `folder/server.log`."""

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        self.folder = folder
        self.config = config
        self.file = folder / "responder.toml"
        self.log = folder / "server.log"
        self.output = folder / "server.out"
        self.process: subprocess.Popen[bytes] | None = None
        self.options: tuple[str, ...] = ()  # of `serve`
        folder.mkdir(parents=True, exist_ok=True)
        self.write(config)

    @property
    def port(self) -> int:
        """The port of the first listener."""
        return int(str(self.config["listen"][0]["address"]).rpartition(":")[2])

    @property
    def database(self) -> Path:
        return self.folder / "state" / "responder.db"

    def write(self, config: Mapping[str, Any]) -> None:
        """Write the configuration file; a running server follows at SIGHUP."""
        self.config = config
        self.file.write_text(to_toml(config), encoding="utf-8")

    def start(
        self, *, prefix: tuple[str, ...] = (), env: Mapping[str, str] | None = None, pass_fds: Sequence[int] = ()
    ) -> None:
        """Start it in a process group of its own and wait until it accepts mail. `prefix` goes before the command; `pass_fds`
        stay open in it."""
        offset = self.log.stat().st_size if self.log.exists() else 0
        self.spawn(prefix=prefix, env=env, pass_fds=pass_fds)
        self.wait_for_log(" ready ", offset)

    def spawn(
        self, *, prefix: tuple[str, ...] = (), env: Mapping[str, str] | None = None, pass_fds: Sequence[int] = ()
    ) -> None:
        """Start it, without waiting for anything."""
        assert self.process is None
        with self.output.open("ab") as out, self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*prefix, sys.executable, "-m", "responder", "serve", *self.options, "--config", str(self.file)],
                cwd=self.folder,
                env={**environment(), **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=log,
                start_new_session=True,
                pass_fds=tuple(pass_fds),
            )

    def wait_for_log(self, text: str, offset: int = 0, seconds: float = START) -> str:
        """The log from `offset` on, once it holds `text`. Fails where the process ends before or it takes too long."""
        ends = time.monotonic() + seconds
        while True:
            content = self.log.read_bytes()[offset:].decode("utf-8", "replace")
            if text in content:
                return content
            if self.process is None or self.process.poll() is not None:
                raise AssertionError(f"the server ended before it logged {text!r}:\n{content}")
            if time.monotonic() > ends:
                raise AssertionError(f"the server did not log {text!r}:\n{content[-4000:]}")
            time.sleep(0.01)

    def kill(self) -> None:
        """SIGKILL to the whole process group."""
        assert self.process is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.process = None

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def stop(self, seconds: float = 60.0) -> int:
        """SIGTERM, and the exit status."""
        assert self.process is not None
        self.process.terminate()
        try:
            status = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise
        self.process = None
        return status

    def command(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run another verb on the same configuration."""
        return subprocess.run(
            [sys.executable, "-m", "responder", *arguments, "--config", str(self.file)],
            cwd=self.folder,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=60,
            check=check,
        )


@contextmanager
def running(folder: Path, config: Mapping[str, Any]) -> Iterator[ServerProcess]:
    """A server for the length of a block; whatever happens, none is left behind."""
    server = ServerProcess(folder, config)
    server.start()
    try:
        yield server
        if server.process is not None:
            status = server.stop()
            assert status == 0, f"exit status {status}:\n{server.log.read_text()[-4000:]}"
    finally:
        if server.process is not None:
            server.kill()

"""A haproxy of its own for tests: it passes TCP connections on, and says for whom.

with HAProxy([Route("127.0.0.1:2525", "127.0.0.1:8025", "send-proxy-v2")], folder): ...
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from tests.conftest import find_peer
from tests.support.waiting import until

START = 30.0

_GLOBAL = """\
global
    stats socket {folder}/haproxy.sock mode 600
defaults
    mode tcp
    timeout connect 10s
    timeout client 60s
    timeout server 60s
"""

_ROUTE = """\
listen route{number}
    bind {front} {bind}
    {lines}
    server behind {back} {options}
"""


@dataclass(frozen=True)
class Route:
    """From where to where, with options of `server`, of `bind`, and further lines of the section."""

    front: str
    back: str
    options: str
    bind: str = ""
    lines: str = ""


class HAProxy:
    """One instance; `with` starts and stops it."""

    def __init__(self, routes: Sequence[Route], folder: Path) -> None:
        self._folder = folder
        self._log = folder / "haproxy.log"
        self._file = folder / "haproxy.cfg"
        text = _GLOBAL.format(folder=folder)
        text += "".join(_ROUTE.format(number=number, **vars(route)) for number, route in enumerate(routes))
        self._file.write_text(text)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> HAProxy:
        program = find_peer("haproxy")
        assert program is not None, "haproxy is not installed"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [program, "-db", "-f", str(self._file)], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        try:
            until(self._started, START, lambda: f"haproxy did not start:\n{self._log.read_text()}")
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            error.add_note(f"log of haproxy:\n{self._log.read_text()[-4000:]}")
        self._end()

    def _started(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"haproxy ended:\n{self._log.read_text()}"
        return (self._folder / "haproxy.sock").exists()

    def _end(self) -> None:
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(START)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

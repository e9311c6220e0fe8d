"""rspamd and ClamAV of a test's own: configuration, data and log in a temporary folder, loopback or Unix sockets only.

    with Rspamd() as rspamd: ... rspamd.url ...
    with Clamd() as clamd: ... f"unix:{clamd.socket}", f"127.0.0.1:{clamd.port}" ...

Neither asks the network for anything: rspamd has its built-in patterns only (GTUBE), ClamAV a database of two lines.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import socket
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType

from tests.conftest import find_peer
from tests.support.server import free_port
from tests.support.waiting import until

START = 60.0  # seconds that a start may take on a busy machine

GTUBE = "{}JS*C4JDBQADN1.NSBN3*2IDNEN*GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X"
REJECTED, ADDED, REWRITTEN, PASSED = (GTUBE.format(letter) for letter in "XYZA")
"""What rspamd's test patterns ask for: reject, add header, rewrite subject, no action."""

EICAR = b"X5O!P%@AP[4\\PZX54(P^)7CC)7}$" + b"EICAR-STANDARD-ANTIVIRUS-TEST-FILE!$H+H*"
MARKER = "a-marker-of-the-tests"

_RSPAMD = """\
options {{
  pidfile = "{folder}/rspamd.pid";
  filters = "";
  gtube_patterns = "all";
  enable_test_patterns = true;
  dns {{ nameserver = ["127.0.0.1:9"]; timeout = 0.1; retransmits = 0; }}
  control_socket = "{folder}/control.sock mode=0600";
  hs_cache_dir = "{folder}";
  local_addrs = [];
}}
logging {{ type = "file"; filename = "{folder}/rspamd.log"; level = "info"; }}
worker "normal" {{ bind_socket = "127.0.0.1:{port}"; count = 1; }}
actions {{ reject = 15; add_header = 6; greylist = 4; }}
"""

_CLAMD = """\
Foreground yes
DatabaseDirectory {folder}/db
TCPAddr 127.0.0.1
TCPSocket {port}
LocalSocket {folder}/clamd.sock
LogFile {folder}/clamd.log
StreamMaxLength 1M
SelfCheck 86400
"""


class _Daemon:
    """A program in the foreground, in a folder and a process group of its own."""

    folder: Path
    port: int

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def _start(self, *command: str) -> None:
        with (self.folder / "output").open("wb") as output:
            self._process = subprocess.Popen(
                command, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )

    def _make(self) -> None:
        self._temporary = tempfile.TemporaryDirectory(prefix="responder-scanner-")
        self.folder = Path(self._temporary.name)
        self.port = free_port()

    def _listens(self) -> bool:
        assert self._process.poll() is None, (self.folder / "output").read_text(errors="replace")
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=5).close()
        except OSError:
            return False
        return True

    def _end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGTERM)
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            pass
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._temporary.cleanup()


class Rspamd(_Daemon):
    """`log` is what it has said of each mail."""

    def __enter__(self) -> Rspamd:
        self._make()
        program = find_peer("rspamd")
        assert program is not None
        (self.folder / "rspamd.conf").write_text(_RSPAMD.format(folder=self.folder, port=self.port))
        root = ["-u", "root", "-g", "root", "--insecure"] if os.getuid() == 0 else []
        self._start(program, "--no-fork", *root, "-c", str(self.folder / "rspamd.conf"))
        try:
            until(self._listens, START, self.log)
        except BaseException:
            self._end()
            raise
        return self

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def log(self) -> str:
        path = self.folder / "rspamd.log"
        return path.read_text(errors="replace") if path.exists() else (self.folder / "output").read_text()


class Clamd(_Daemon):
    """`socket` is its Unix socket; it listens at `port` too."""

    def __enter__(self) -> Clamd:
        self._make()
        program = find_peer("clamd")
        assert program is not None
        (self.folder / "db").mkdir()
        digest = hashlib.md5(EICAR, usedforsecurity=False).hexdigest()
        (self.folder / "db" / "test.hdb").write_text(f"{digest}:{len(EICAR)}:Test.EICAR\n")
        (self.folder / "db" / "test.ndb").write_text(f"Test.Marker:0:*:{MARKER.encode().hex()}\n")
        user = "User root\n" if os.getuid() == 0 else ""
        (self.folder / "clamd.conf").write_text(_CLAMD.format(folder=self.folder, port=self.port) + user)
        self._start(program, "-c", str(self.folder / "clamd.conf"))
        try:
            until(self._listens, START, "clamd does not listen")
        except BaseException:
            self._end()
            raise
        return self

    @property
    def socket(self) -> str:
        return str(self.folder / "clamd.sock")

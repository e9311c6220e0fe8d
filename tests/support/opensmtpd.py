"""An OpenSMTPD of its own for tests: its spool and sockets, whose places are compiled in, in a mount namespace of its own.

    with OpenSMTPD("mx.far.example", ["far.example"]) as mx:  # takes mail for known@ and other@, refuses everybody else

It wants root, the program as `opensmtpd` on the path, its agents in /usr/local/libexec/opensmtpd, and the users opensmtpd and
opensmtpq. Debian's version does not finish a TLS handshake with OpenSSL 3 (its engine loses the private key): STARTTLS is offered
all the same, as it is what a sender meets at such a host.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import pytest
import trustme

from tests.conftest import REQUIRED, find_peer
from tests.support.server import free_port
from tests.support.waiting import greeting, until

START = 30.0  # seconds that a start may take on a busy machine
AGENTS = Path("/usr/local/libexec/opensmtpd")

_CONFIG = """\
pki itself cert "{folder}/cert.pem"
pki itself key "{folder}/key.pem"
listen on 127.0.0.1 port {port} hostname {hostname} tls pki itself
action "in" maildir "{folder}/mail" virtual {{ {users} }}
match from any for domain {{ {domains} }} action "in"
"""

# What it has compiled in is somewhere else for it alone; nothing of that is left when its last process ends.
_START = """\
set -e
mount --make-rprivate /
for place in /var/spool /var/lib /run /usr/libexec; do mkdir -p $place; mount -t tmpfs none $place; done
mkdir -m 711 /var/spool/smtpd
mkdir -p -m 711 /var/lib/opensmtpd/empty
mkdir -p /usr/libexec/opensmtpd
cp -r {agents}/. /usr/libexec/opensmtpd
exec {program} -d -v -f {folder}/smtpd.conf
"""


class OpenSMTPD:
    """One instance; `with` starts and stops it."""

    def __init__(self, hostname: str, domains: Sequence[str]) -> None:
        self.hostname = hostname
        self.port = free_port()
        self._domains = domains
        self.folder = Path(tempfile.mkdtemp(prefix="opensmtpd-"))
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> OpenSMTPD:
        if os.getuid() != 0 and not REQUIRED:
            self._end()
            pytest.skip("opensmtpd has to be started by root")
        try:
            self._configure()
            with (self.folder / "log").open("wb") as log:
                self._process = subprocess.Popen(
                    ["unshare", "-m", "sh", str(self.folder / "start")],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            until(
                lambda: greeting(self.port).startswith("220 "), START, lambda: f"OpenSMTPD did not start:\n{self.log}"
            )
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            error.add_note(f"log of {self.hostname}:\n{self.log[-4000:]}")
        self._end()

    @property
    def log(self) -> str:
        """What it has logged so far."""
        return (self.folder / "log").read_text("utf-8", "replace")

    def mails(self) -> list[bytes]:
        """The mails in its Maildir, in the order of their files' names."""
        new = self.folder / "mail" / "new"
        return [file.read_bytes() for file in sorted(new.iterdir())] if new.exists() else []

    def _configure(self) -> None:
        self.folder.chmod(0o755)
        (self.folder / "mail").mkdir()
        os.chown(self.folder / "mail", pwd.getpwnam("nobody").pw_uid, -1)
        issued = trustme.CA().issue_cert(self.hostname)
        issued.cert_chain_pems[0].write_to_path(self.folder / "cert.pem")
        issued.private_key_pem.write_to_path(self.folder / "key.pem")
        (self.folder / "key.pem").chmod(0o600)
        users = [f'"{name}@{domain}" = nobody' for domain in self._domains for name in ("known", "other")]
        text = _CONFIG.format(
            hostname=self.hostname,
            folder=self.folder,
            port=self.port,
            users=", ".join(users),
            domains=", ".join(f'"{domain}"' for domain in self._domains),
        )
        (self.folder / "smtpd.conf").write_text(text)
        (self.folder / "smtpd.conf").chmod(0o600)
        program = find_peer("opensmtpd")
        assert program is not None, "opensmtpd is not installed"
        (self.folder / "start").write_text(_START.format(folder=self.folder, program=program, agents=AGENTS))

    def _end(self) -> None:
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGTERM)
            try:
                self._process.wait(START)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()
            self._process = None
        shutil.rmtree(self.folder, ignore_errors=True)

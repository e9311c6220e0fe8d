"""A Postfix of its own for tests: configuration, queue, data and log in a temporary folder, loopback ports only.

    with Postfix("mx.sender.example", domains=["sender.example"]) as mx:        # takes mail for a domain into a Maildir
        with Postfix("mta.sender.example", routes={"*": 2525, "sender.example": mx.port}) as mta:      # sends mail on

`routes` say where mail for a domain goes: a port on 127.0.0.1, so that Postfix never asks a name server; "*" is the rest. What a
host has `domains` for it keeps in one Maildir: `mails()`. The `postfix` program wants root: another user needs `sudo -n`.
"""

from __future__ import annotations

import contextlib
import email
import email.policy
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from email.message import EmailMessage
from pathlib import Path
from types import TracebackType

import pytest
import trustme

from tests.conftest import REQUIRED, find_peer
from tests.support.server import free_port
from tests.support.waiting import greeting, until

START = 30.0  # seconds that a start or a stop may take on a busy machine

_MAIN = """\
compatibility_level = 3.6
myhostname = {hostname}
mydomain = {hostname}
myorigin = {hostname}
mydestination =
mynetworks = 127.0.0.0/8
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
queue_directory = {folder}/queue
data_directory = {folder}/data
maillog_file = {folder}/postfix.log
maillog_file_prefixes = {folder}
alias_maps =
alias_database =
local_recipient_maps =
smtp_dns_support_level = disabled
smtpd_peername_lookup = no
smtpd_recipient_restrictions = permit_mynetworks, reject
in_flow_delay = 0
relayhost = {relayhost}
transport_maps = {transport}
virtual_mailbox_domains = {domains}
virtual_mailbox_maps = static:inbox/
virtual_mailbox_base = {folder}/mail
virtual_uid_maps = static:{uid}
virtual_gid_maps = static:{gid}
virtual_minimum_uid = 1
smtpd_tls_security_level = may
smtpd_tls_chain_files = {folder}/chain.pem
smtpd_tls_received_header = yes
smtpd_tls_loglevel = 1
"""

_MASTER = """\
127.0.0.1:{port} inet n - n - - smtpd
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
smtp unix - - n - - smtp
relay unix - - n - - smtp
lmtp unix - - n - - lmtp
showq unix n - n - - showq
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
virtual unix - n n - - virtual
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
postlog unix-dgram n - n - 1 postlogd
"""


class Postfix:
    """One instance; `with` starts and stops it. `settings` are lines of main.cf that win over those above."""

    def __init__(
        self,
        hostname: str,
        *,
        domains: Sequence[str] = (),
        routes: Mapping[str, int] | None = None,
        port: int = 0,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.hostname = hostname
        self.port = port or free_port()
        self._domains = domains
        self._routes = dict(routes or {})
        self._settings = dict(settings or {})
        # Not in a test's own folder: Postfix's users have to get in, and a path of theirs must not be long.
        self.folder = Path(tempfile.mkdtemp(prefix="postfix-"))
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Postfix:
        if not (REQUIRED or _may_be_root()):
            self._end()
            pytest.skip("postfix has to be started by root, or by a user who may `sudo -n`")
        try:
            self._configure()
            self._process = subprocess.Popen(
                _as_root(_program("postfix"), "-c", str(self.folder), "start-fg"),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            until(lambda: greeting(self.port).startswith("220 "), START, lambda: f"Postfix did not start:\n{self.log}")
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
        file = self.folder / "postfix.log"
        done = subprocess.run(_as_root("cat", str(file)), capture_output=True, check=False)
        return done.stdout.decode("utf-8", "replace")

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits in its queue."""
        return "Mail queue is empty" in self._run("postqueue", "-p")

    def mails(self) -> list[EmailMessage]:
        """The mails in its Maildir, in the order of their files' names."""
        folder = self.folder / "mail" / "inbox" / "new"
        if not folder.exists():
            return []
        files = sorted(folder.iterdir())
        return [email.message_from_bytes(file.read_bytes(), policy=email.policy.default) for file in files]

    def sessions(self) -> list[int]:
        """How many mails each of the ended connections to it has brought, as its log counts them."""
        return [int(count) for count in re.findall(r"disconnect from \S+ .*?\bdata=(\d+)", self.log)]

    def _configure(self) -> None:
        self.folder.chmod(0o755)
        uid, gid = (os.getuid(), os.getgid()) if os.getuid() else (65534, 65534)  # virtual(8) never works for root
        rest = self._routes.pop("*", 0)
        pairs = ", ".join(f"{{{domain} = smtp:[127.0.0.1]:{port}}}" for domain, port in self._routes.items())
        text = _MAIN.format(
            hostname=self.hostname,
            folder=self.folder,
            relayhost=f"[127.0.0.1]:{rest}" if rest else "",
            transport=f"inline:{{ {pairs} }}" if pairs else "",
            domains=", ".join(self._domains),
            uid=uid,
            gid=gid,
        )
        text += "".join(f"{name} = {value}\n" for name, value in self._settings.items())
        (self.folder / "main.cf").write_text(text)
        (self.folder / "master.cf").write_text(_MASTER.format(port=self.port))
        trustme.CA().issue_cert(self.hostname).private_key_and_cert_chain_pem.write_to_path(self.folder / "chain.pem")
        self._sudo("install", "-d", "-o", "root", "-m", "755", str(self.folder / "queue"))
        self._sudo("install", "-d", "-o", "postfix", "-m", "700", str(self.folder / "data"))
        self._sudo("install", "-d", "-o", str(uid), "-g", str(gid), "-m", "755", str(self.folder / "mail"))
        self._sudo("chown", "root", str(self.folder / "main.cf"), str(self.folder / "master.cf"))

    def _run(self, program: str, *arguments: str) -> str:
        return self._sudo(_program(program), "-c", str(self.folder), *arguments)

    def _sudo(self, *command: str) -> str:
        done = subprocess.run(_as_root(*command), capture_output=True, timeout=START, check=False)
        text = (done.stdout + done.stderr).decode("utf-8", "replace")
        assert done.returncode == 0, f"{' '.join(command)}: {text}\n{self.log}"
        return text

    def _end(self) -> None:
        """Stop it, whatever state it is in, and remove all that it has written."""
        if self._process is not None:
            for how in ("stop", "abort"):
                with contextlib.suppress(AssertionError, subprocess.TimeoutExpired):
                    self._run("postfix", how)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(START)
                    break
            else:
                self._process.kill()
                self._process.wait()
            self._process = None
        shutil.rmtree(self.folder, ignore_errors=True)
        if self.folder.exists():  # what Postfix's own users wrote
            subprocess.run(_as_root("rm", "-rf", str(self.folder)), check=False)


def _program(name: str) -> str:
    found = find_peer(name)
    assert found is not None, f"{name} is not installed"
    return found


def _may_be_root() -> bool:
    if os.getuid() == 0:
        return True
    return shutil.which("sudo") is not None and subprocess.run(_as_root("true"), check=False).returncode == 0


def _as_root(*command: str) -> list[str]:
    return list(command) if os.getuid() == 0 else [shutil.which("sudo") or "sudo", "-n", *command]

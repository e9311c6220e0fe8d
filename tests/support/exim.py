"""An Exim of its own for tests: configuration, spool, log and mail in a temporary folder, a loopback port.

    with Exim("mx.far.example", ["far.example"]) as mx:     # takes mail for these into one Maildir; `nobody@` is refused

It offers STARTTLS, PIPELINING, CHUNKING, DSN and SIZE. What other domains' mail it gets from loopback goes to `port` of `relay`.
"""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import trustme

from tests.conftest import find_peer
from tests.support.server import free_port
from tests.support.waiting import greeting, until

START = 30.0  # seconds that a start may take on a busy machine

_CONFIG = """\
primary_hostname = {hostname}
exim_path = {exim}
exim_user = {user}
exim_group = {group}
spool_directory = {folder}/spool
log_file_path = {folder}/%slog
log_selector = +smtp_connection +received_recipients +tls_cipher +smtp_protocol_error +8bitmime +pipelining
pid_file_path = {folder}/exim.pid
daemon_smtp_ports = {port}
local_interfaces = 127.0.0.1
qualify_domain = {hostname}
domainlist local_domains = {domains}
never_users =
keep_environment =
add_environment = PATH=/usr/bin:/bin
trusted_users = {user}
tls_advertise_hosts = *
tls_certificate = {folder}/chain.pem
tls_privatekey = {folder}/chain.pem
dsn_advertise_hosts = *
chunking_advertise_hosts = {chunking}
pipelining_connect_advertise_hosts =
smtputf8_advertise_hosts = *
host_lookup =
rfc1413_query_timeout = 0s
message_size_limit = {size}
acl_smtp_rcpt = rcpt

begin acl

rcpt:
  deny local_parts = nobody
       message = no such user here
  accept domains = +local_domains
  deny message = relay not permitted

begin routers

bounces:
  driver = manualroute
  domains = ! +local_domains
  route_list = * 127.0.0.1
  self = send
  transport = out

all:
  driver = accept
  transport = keep

begin transports

keep:
  driver = appendfile
  directory = {folder}/mail
  maildir_format
  envelope_to_add
  return_path_add

out:
  driver = smtp
  port = {relay}
  hosts_avoid_tls = *

begin retry

* * F,1h,1s
"""


class Exim:
    """One instance; `with` starts and stops it."""

    def __init__(
        self,
        hostname: str,
        domains: Sequence[str],
        *,
        relay: int = 0,
        chunking: bool = True,
        size: int = 10_000_000,
        router: str = "",
    ) -> None:
        """`router` is put before all others."""
        self.hostname = hostname
        self.port = free_port()
        self._domains = domains
        self._relay = relay
        self._chunking = chunking
        self._size = size
        self._router = router
        self.folder = Path(tempfile.mkdtemp(prefix="exim-"))
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Exim:
        try:
            self._configure()
            exim = find_peer("exim4")
            assert exim is not None, "exim4 is not installed"
            command = [exim, "-C", str(self.folder / "exim.conf"), "-bdf", "-q1s"]
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=(self.folder / "stderr").open("wb"),
                start_new_session=True,
            )
            until(lambda: greeting(self.port).startswith("220 "), START, lambda: f"Exim did not start:\n{self.log}")
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
        files = [self.folder / name for name in ("mainlog", "rejectlog", "paniclog", "stderr")]
        return "".join(file.read_text("utf-8", "replace") for file in files if file.exists())

    def mails(self) -> list[bytes]:
        """The mails in its Maildir, in the order of their files' names."""
        new = self.folder / "mail" / "new"
        return [file.read_bytes() for file in sorted(new.iterdir())] if new.exists() else []

    def _configure(self) -> None:
        (self.folder / "mail").mkdir()
        owner = pwd.getpwnam("nobody") if os.getuid() == 0 else pwd.getpwuid(os.getuid())
        issued = trustme.CA(key_type=trustme.KeyType.RSA).issue_cert(self.hostname, key_type=trustme.KeyType.RSA)
        issued.private_key_and_cert_chain_pem.write_to_path(self.folder / "chain.pem")
        text = _CONFIG.format(
            hostname=self.hostname,
            exim=find_peer("exim4"),
            user=owner.pw_name,
            group=grp.getgrgid(owner.pw_gid).gr_name,
            folder=self.folder,
            port=self.port,
            domains=" : ".join(self._domains),
            relay=self._relay or 1,
            chunking="*" if self._chunking else "",
            size=self._size,
        )
        text = text.replace("begin routers\n", f"begin routers\n\n{self._router}", 1)
        (self.folder / "exim.conf").write_text(text)
        if os.getuid() == 0:  # it never delivers as root
            for path in (self.folder, *self.folder.rglob("*")):
                if path.name != "exim.conf":
                    os.chown(path, owner.pw_uid, owner.pw_gid)

    def _end(self) -> None:
        if self._process is not None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(START)
            if self._process.poll() is None:
                self._process.kill()
                self._process.wait()
            self._process = None
        shutil.rmtree(self.folder, ignore_errors=True)

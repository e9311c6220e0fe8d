"""Dovecot Pigeonhole asked what its vacation would do: `sieve-test` on a script and a mail, with no daemon and nothing sent.

    with Pigeonhole('require "vacation"; vacation "I am away.";', "bob@test.example") as peer:
        verdict = peer.ask(content, sender="ann@client.example", recipient="bob@test.example")

`sieve-test` asks its memory of earlier answers, but has none: each mail is the first one of its sender.
"""

from __future__ import annotations

import os
import pwd
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from tests.conftest import find_peer

_CONF = """\
protocols =
ssl = no
log_path = /dev/stderr
hostname = mx.test.example
postmaster_address = postmaster@test.example
mail_home = {folder}
mail_location = maildir:{folder}/mail
mail_uid = {user}
mail_gid = {group}
first_valid_uid = 1
first_valid_gid = 1
plugin {{
  sieve_user_email = {email}
  sieve_extensions = +vacation-seconds
  sieve_vacation_min_period = 1d
  sieve_vacation_default_period = 7d
  sieve_vacation_max_period = 365d
}}
"""

_REFUSED = re.compile(r"Invalid -f parameter: [^\n]*")  # no address by its reading: such a mail does not get that far
_SILENT = re.compile(r"vacation action: (discard\w*|not sending|refus\w*|skipp\w*)[^\n]*", re.IGNORECASE)
_SENT = re.compile(r"vacation action: sent vacation response to <([^\n]*)>")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What Pigeonhole did with one mail: the answer and whom it goes to, or the reason why there is none."""

    answer: bytes | None
    to: str
    reason: str


class Pigeonhole:
    """One script of one user with that address, in a folder of its own; `with` makes and removes it."""

    def __init__(self, script: str, email: str) -> None:
        self._script = script
        self._email = email
        # Dovecot opens no mail for root: there it is somebody else.
        self._as_root = os.geteuid() == 0
        self._user = pwd.getpwnam("nobody") if self._as_root else pwd.getpwuid(os.geteuid())
        self._folder = Path()

    def __enter__(self) -> Pigeonhole:
        self._folder = Path(tempfile.mkdtemp(prefix="sieve-"))
        conf = _CONF.format(folder=self._folder, user=self._user.pw_uid, group=self._user.pw_gid, email=self._email)
        (self._folder / "dovecot.conf").write_text(conf, encoding="utf-8")
        (self._folder / "away.sieve").write_text(self._script, encoding="utf-8")
        if self._as_root:
            for path in (self._folder, *self._folder.iterdir()):
                os.chown(path, self._user.pw_uid, self._user.pw_gid)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        shutil.rmtree(self._folder)

    def ask(self, content: bytes, *, sender: str, recipient: str) -> Verdict:
        """What it does with that mail from that reverse-path ("" for the null one). Fails where it does not come to an end."""
        mail = self._folder / "mail.eml"
        mail.write_bytes(content)
        mail.chmod(0o644)
        command = [
            find_peer("sieve-test") or "sieve-test",
            *("-c", str(self._folder / "dovecot.conf"), "-e"),
            *("-r", recipient, "-a", recipient, "-f", sender),
            *(str(self._folder / "away.sieve"), str(mail)),
        ]
        done = subprocess.run(
            command,
            cwd=self._folder,
            env={"HOME": str(self._folder), "PATH": os.environ.get("PATH", ""), "LC_ALL": "C.UTF-8"},
            capture_output=True,
            timeout=30,
            check=False,
            user=self._user.pw_uid if self._as_root else None,
            group=self._user.pw_gid if self._as_root else None,
            extra_groups=[] if self._as_root else None,
        )
        said = done.stderr.decode("utf-8", "replace")
        if done.returncode and (refused := _REFUSED.search(said)):
            return Verdict(None, "", refused[0])
        assert done.returncode == 0 and "final result: success" in said, f"sieve-test failed:\n{said}"
        if sent := _SENT.search(said):
            return Verdict(done.stdout.partition(b"\n\nRECIPIENT: ")[0], sent[1], "")
        silent = _SILENT.search(said)
        assert silent is not None, f"sieve-test neither answers nor says why:\n{said}"
        return Verdict(None, "", " ".join(silent[0].removeprefix("vacation action: ").split()))

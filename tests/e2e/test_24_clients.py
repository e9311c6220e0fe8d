"""Scenario 24: the programs that people send mail with, each in the clear, with STARTTLS and with implicit TLS, logged in where
they can be.

Postfix, Exim, msmtp, swaks, curl, nodemailer, smtplib ──SMTP, SMTPS, submission──> responder: 250, and the mail is in the store

Each checks the certificate against the authority of the tests.
"""

from __future__ import annotations

import grp
import os
import pwd
import re
import shutil
import signal
import smtplib
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import find_peer
from tests.support import logins
from tests.support.postfix import Postfix
from tests.support.server import ServerProcess, configuration, free_port, running
from tests.support.waiting import until

WAYS = ["plain", "starttls", "smtps"]
USER, PASSWORD = "ann", "secret"
SENDER, RECIPIENT = "client@sender.example", "echo@test.example"
NODE_MODULES = ("/usr/share/nodejs", "/usr/lib/nodejs")


@dataclass
class World:
    """A server with a listener for each way, and what a client has to be told."""

    folder: Path
    server: ServerProcess
    ports: dict[str, int]
    authority: Path
    mails: int = 0

    def mail(self) -> bytes:
        self.mails += 1
        fields = f"From: <{SENDER}>\r\nTo: <{RECIPIENT}>\r\nSubject: number {self.mails}\r\n"
        return f"{fields}Message-ID: <{self.mails}@sender.example>\r\n\r\nhello\r\n.stuffed\r\n".encode()

    def run(self, *command: str, stdin: bytes = b"", env: dict[str, str] | None = None) -> str:
        """A client's program, to its end; it must say that all went well."""
        done = subprocess.run(command, input=stdin, capture_output=True, timeout=60, check=False, env=env)
        text = (done.stdout + done.stderr).decode("utf-8", "replace")
        assert done.returncode == 0, f"{' '.join(command)}: {text}\n{self.server.log.read_text()[-2000:]}"
        return text

    def check(self, way: str, mechanism: str, offset: int) -> None:
        """The mail has come, by that way, and whoever logged in has."""
        log = self.server.wait_for_log(" accepted ", offset)
        found = re.search(r" accepted .*?id=([0-9a-z]+)", log)
        assert found
        if mechanism:
            assert re.search(rf" login .*user={USER} mechanism={mechanism}", log), log
        shown = self.server.command("queue", "show", f"{found[1]}.0").stdout
        expected = "ESMTP" + ("" if way == "plain" else "S") + ("A" if mechanism else "")
        assert re.search(rf"\bby {expected},", " ".join(shown.split())), shown

    @property
    def offset(self) -> int:
        return self.server.log.stat().st_size


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("clients")
    logins.certificate(folder, logins.NAME, "localhost")
    users = logins.users_file(folder)
    authority = folder / "authority.pem"
    logins.authority().cert_pem.write_to_path(authority)
    ports = {"plain": free_port(), "smtps": free_port(), "submission": free_port()}
    protocols = {"plain": "smtp", "smtps": "smtps", "submission": "submission"}
    config = configuration(
        listen=[
            {"address": f"127.0.0.1:{ports[name]}", "protocol": protocol, "auth": "offered"}
            if name != "submission"
            else {"address": f"127.0.0.1:{ports[name]}", "protocol": protocol}
            for name, protocol in protocols.items()
        ],
        tls={"certificate": str(folder / "cert.pem"), "key": str(folder / "key.pem")},
        auth={"users": str(users)},
    )
    ports["starttls"] = ports["plain"]
    with running(folder / "server", config) as server:
        yield World(folder, server, ports, authority)


def combinations(*mechanisms: str) -> pytest.MarkDecorator:
    """Each way without a login, and with one by each mechanism that the client knows, where it is encrypted."""
    pairs = [(way, mechanism) for way in WAYS for mechanism in ("", *mechanisms) if way != "plain" or not mechanism]
    return pytest.mark.parametrize(("way", "mechanism"), [*pairs, *[("submission", one) for one in mechanisms]])


@combinations("PLAIN", "LOGIN")
def test_smtplib_sends_then_it_is_here(way: str, mechanism: str, world: World) -> None:
    offset, context = world.offset, ssl.create_default_context(cafile=str(world.authority))
    port = world.ports[way]
    client = smtplib.SMTP_SSL("127.0.0.1", port, context=context) if way == "smtps" else smtplib.SMTP("127.0.0.1", port)
    with client:
        if way in ("starttls", "submission"):
            client.starttls(context=context)
        client.ehlo()
        if mechanism:
            client.user, client.password = USER, PASSWORD
            client.auth(mechanism, getattr(client, f"auth_{mechanism.lower()}"))
        assert client.sendmail(SENDER, [RECIPIENT], world.mail()) == {}
    world.check(way, mechanism, offset)


@pytest.mark.peer("curl")
@combinations("PLAIN", "LOGIN")
def test_curl_sends_then_it_is_here(way: str, mechanism: str, world: World) -> None:
    offset, mail = world.offset, world.folder / "mail.eml"
    mail.write_bytes(world.mail())
    scheme = "smtps" if way == "smtps" else "smtp"
    login = ["--user", f"{USER}:{PASSWORD}", "--login-options", f"AUTH={mechanism}"] if mechanism else []
    tls = [] if way == "plain" else ["--ssl-reqd", "--cacert", str(world.authority)]
    url = f"{scheme}://127.0.0.1:{world.ports[way]}/client.example"
    sent = ["--mail-from", SENDER, "--mail-rcpt", RECIPIENT, "--upload-file", str(mail)]
    world.run("curl", "-sS", "--url", url, *tls, *login, *sent)
    world.check(way, mechanism, offset)


@pytest.mark.peer("swaks")
@combinations("PLAIN", "LOGIN")
def test_swaks_sends_then_it_is_here(way: str, mechanism: str, world: World) -> None:
    offset = world.offset
    tls = {"plain": [], "smtps": ["--tls-on-connect"]}.get(way, ["--tls"])
    if tls:
        tls = [*tls, "--tls-verify", "--tls-ca-path", str(world.authority)]
    login = ["--auth", mechanism, "--auth-user", USER, "--auth-password", PASSWORD] if mechanism else []
    place = ["--server", "127.0.0.1", "--port", str(world.ports[way]), "--ehlo", "client.example"]
    said = world.run(
        "swaks", *place, *tls, *login, "--from", SENDER, "--to", RECIPIENT, "--data", "-", stdin=world.mail()
    )
    assert " 250 2.0.0 Queued as " in said
    world.check(way, mechanism, offset)


@pytest.mark.peer("msmtp")
@combinations("PLAIN", "LOGIN", "SCRAM-SHA-256")
def test_msmtp_sends_then_it_is_here(way: str, mechanism: str, world: World) -> None:
    offset = world.offset
    tls = ["--tls=off"] if way == "plain" else ["--tls=on", f"--tls-trust-file={world.authority}"]
    tls.append(f"--tls-starttls={'off' if way == 'smtps' else 'on'}")
    login = ["--auth=off"]
    if mechanism:
        login = [f"--auth={mechanism.lower()}", f"--user={USER}", f"--passwordeval=echo {PASSWORD}"]
    place = ["--host=127.0.0.1", f"--port={world.ports[way]}", f"--from={SENDER}"]
    world.run("msmtp", "--file=/dev/null", *place, *tls, *login, RECIPIENT, stdin=world.mail())
    world.check(way, mechanism, offset)


NODEMAILER = """
const nodemailer = require(process.argv[1]);
const [port, way, mechanism, ca, user, pass, from, to] = process.argv.slice(2);
const transport = nodemailer.createTransport({
  host: "127.0.0.1", port: Number(port), secure: way === "smtps", ignoreTLS: way === "plain", requireTLS: way !== "plain",
  tls: { ca: require("fs").readFileSync(ca), servername: "mx.test.example" },
  auth: mechanism ? { user, pass } : undefined, authMethod: mechanism || undefined,
});
const raw = require("fs").readFileSync(0);
transport.sendMail({ envelope: { from, to: [to] }, raw })
  .then((info) => console.log(info.response))
  .catch((error) => { console.error(error); process.exit(1); });
"""


@pytest.mark.peer("node")
@combinations("PLAIN", "LOGIN")
def test_nodemailer_sends_then_it_is_here(way: str, mechanism: str, world: World) -> None:
    module = next((path for path in NODE_MODULES if Path(path, "nodemailer").is_dir()), None)
    if module is None:
        missing = pytest.fail if os.environ.get("RESPONDER_REQUIRE_PEERS") == "1" else pytest.skip
        missing("peer not installed: nodemailer")
    offset = world.offset
    words = [str(world.ports[way]), way, mechanism, str(world.authority), USER, PASSWORD, SENDER, RECIPIENT]
    said = world.run("node", "-e", NODEMAILER, f"{module}/nodemailer", *words, stdin=world.mail())
    assert "250 2.0.0 Queued as" in said
    world.check(way, mechanism, offset)


@pytest.mark.peer("postfix")
@combinations("PLAIN", "LOGIN")
def test_postfix_sends_then_it_is_here(way: str, mechanism: str, world: World) -> None:
    offset = world.offset
    settings = {"smtp_tls_security_level": "none"}
    if way != "plain":
        settings = {
            "smtp_tls_security_level": "verify",
            "smtp_tls_loglevel": "1",
            "smtp_tls_verify_cert_match": logins.NAME,
            "smtp_tls_CAfile": str(world.authority),
            "smtp_tls_wrappermode": "yes" if way == "smtps" else "no",
        }
    if mechanism:
        settings |= {
            "smtp_sasl_auth_enable": "yes",
            "smtp_sasl_password_maps": f"static:{USER}:{PASSWORD}",
            "smtp_sasl_security_options": "noanonymous",
            "smtp_sasl_mechanism_filter": mechanism,
        }
    with Postfix("mta.sender.example", routes={"*": world.ports[way]}, settings=settings) as mta:
        with smtplib.SMTP("127.0.0.1", mta.port) as client:
            client.sendmail(SENDER, [RECIPIENT], world.mail())
        until(lambda: "status=sent" in mta.log or "status=deferred" in mta.log, 60, lambda: mta.log)
        assert "status=sent (250 2.0.0 Queued as" in mta.log, mta.log
        if way != "plain":
            assert "Verified TLS connection" in mta.log, mta.log
    world.check(way, mechanism, offset)


EXIM = """\
primary_hostname = mta.sender.example
exim_path = {exim}
exim_user = {user}
exim_group = {group}
spool_directory = {folder}/spool
log_file_path = {folder}/%slog
qualify_domain = sender.example
domainlist local_domains =
never_users =
keep_environment =
add_environment = PATH=/usr/bin:/bin
trusted_users = {user}

begin routers

all:
  driver = manualroute
  route_list = * 127.0.0.1
  self = send
  transport = out

begin transports

out:
  driver = smtp
  port = {port}
  protocol = {protocol}
  helo_data = client.example
{tls}{login}

begin retry

* * F,1h,1h

begin authenticators

{authenticator}
"""
AUTHENTICATORS = {
    "PLAIN": f"plain:\n  driver = plaintext\n  public_name = PLAIN\n  client_send = ^{USER}^{PASSWORD}\n",
    "LOGIN": f"login:\n  driver = plaintext\n  public_name = LOGIN\n  client_send = : {USER} : {PASSWORD}\n",
    "": "",
}


@pytest.fixture
def exim_folder() -> Iterator[Path]:
    """A folder that Exim may use as the user that it runs as: it never delivers as root."""
    folder = Path(tempfile.mkdtemp(prefix="exim-"))
    try:
        if os.getuid() == 0:
            nobody = pwd.getpwnam("nobody")
            os.chown(folder, nobody.pw_uid, nobody.pw_gid)
        yield folder
    finally:
        shutil.rmtree(folder)


@pytest.mark.peer("exim4")
@combinations("PLAIN", "LOGIN")
def test_exim_sends_then_it_is_here(way: str, mechanism: str, world: World, exim_folder: Path) -> None:
    offset, exim = world.offset, find_peer("exim4")
    assert exim is not None
    owner = exim_folder.stat()
    authority = exim_folder / "authority.pem"
    authority.write_bytes(world.authority.read_bytes())
    tls = "  hosts_avoid_tls = *\n"
    if way != "plain":
        tls = f"  hosts_require_tls = *\n  tls_verify_certificates = {authority}\n  tls_verify_hosts = *\n"
        tls += "  tls_verify_cert_hostnames =\n"
    text = EXIM.format(
        exim=exim,
        user=pwd.getpwuid(owner.st_uid).pw_name,
        group=grp.getgrgid(owner.st_gid).gr_name,
        folder=exim_folder,
        port=world.ports[way],
        protocol="smtps" if way == "smtps" else "smtp",
        tls=tls,
        login="  hosts_require_auth = *\n" if mechanism else "",
        authenticator=AUTHENTICATORS[mechanism],
    )
    (exim_folder / "exim.conf").write_text(text)
    command = [exim, "-C", str(exim_folder / "exim.conf"), "-odf", "-oi", "-f", SENDER, RECIPIENT]
    said = world.run(
        *command, stdin=world.mail().replace(b"\r\n", b"\n")
    )  # it logs there what it may not log as `-C` is given
    assert f"=> {RECIPIENT}" in said and "250 2.0.0 Queued as" in said, said
    world.check(way, mechanism, offset)


def test_users_and_certificate_are_followed_at_a_hangup_signal(tmp_path: Path) -> None:
    logins.certificate(tmp_path, logins.NAME)
    users = logins.users_file(tmp_path)
    config = configuration(
        listen=[{"address": f"127.0.0.1:{free_port()}", "protocol": "smtps", "auth": "required"}],
        tls={"certificate": str(tmp_path / "cert.pem"), "key": str(tmp_path / "key.pem")},
        auth={"users": str(users)},
    )

    def log_in(server: ServerProcess, name: str, password: str) -> int:
        context = ssl.create_default_context(cadata=logins.authority().cert_pem.bytes().decode())
        with smtplib.SMTP_SSL("127.0.0.1", server.port, context=context) as client:
            client.ehlo()
            return client.docmd("AUTH", f"PLAIN {logins.plain(name, password)}")[0]

    with running(tmp_path / "server", config) as server:
        assert (log_in(server, "ann", "secret"), log_in(server, "new", "password")) == (235, 535)
        line = subprocess.run(
            [sys.executable, "-m", "responder", "password", "new"], input=b"password\n", capture_output=True, check=True
        ).stdout
        other = tmp_path / "others"
        other.write_bytes(line)
        server.write({**config, "auth": {"users": str(other)}})
        offset = server.log.stat().st_size
        server.signal(signal.SIGHUP)
        server.wait_for_log(" reloaded ", offset)
        assert (log_in(server, "ann", "secret"), log_in(server, "new", "password")) == (535, 235)
        other.write_bytes(b"half a line")
        offset = server.log.stat().st_size
        assert "auth.users" in server.wait_for_log(" not read again ", offset)  # looked at every 5 seconds
        assert log_in(server, "new", "password") == 235

"""Old programs: three that were written for the standard library's `smtpd` run on ours, with only the import changed.

    smtplib, swaks --> old_programs/debugging.py    stdout
    smtplib, swaks --> old_programs/relay.py    --> SMTP sink
    smtplib, swaks --> old_programs/keeper.py       files, a database

Each runs as it is, under Python 3.11 on the standard library's modules; then on ours, under the Python that runs the tests and
under Python 3.13. What the clients hear, what the program prints and keeps, and what arrives behind the relay is
the same, octet for octet.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import smtplib
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import REQUIRED, SEARCH, find_peer
from tests.support.server import ROOT, environment, free_port
from tests.support.smtp_sink import SMTPSink
from tests.support.waiting import Background, greeting, until

PROGRAMS = Path(__file__).parent / "old_programs"

# All that is changed: two lines at the most. (What is on the left was written in 2017.)
CHANGES = {
    "debugging": [
        ("import asyncore\nimport smtpd\n", "from responder.compat import smtpd\n"),
        ("asyncore.loop()", "smtpd.serve_forever()"),
    ],
    "relay": [
        (
            "import asyncore, sys\nfrom smtpd import PureProxy\n",
            "import sys\nfrom responder.compat import asyncore\nfrom responder.compat.smtpd import PureProxy\n",
        ),
    ],
    "keeper": [
        ("import asyncore as loop, smtpd\n", "from responder.compat import asyncore as loop, smtpd\n"),
    ],
}

MAIL = "From: a@b.example\r\nSubject: {subject}\r\nMessage-ID: <{number}@b.example>\r\n\r\n{text}\r\n"
TEXT = "Hello,\r\n.a dot\r\n..two\r\n.\r\n\r\n  spaces  \r\nEnd"


@dataclass
class Seen:
    """What there is to see of a run."""

    heard: list[Any] = field(default_factory=list)
    printed: str = ""
    status: int = 0
    kept: dict[str, Any] = field(default_factory=dict)


def mail(number: int, subject: str = "Hello", text: str = TEXT) -> bytes:
    return MAIL.format(number=number, subject=subject, text=text).encode()


def by_smtplib(port: int, dialogs: list[list[Any]]) -> list[Any]:
    """One connection for each dialog; a text is a command, (sender, recipients, content, options) a mail."""
    heard: list[Any] = []
    for dialog in dialogs:
        try:
            with smtplib.SMTP("127.0.0.1", port, local_hostname="client.test", timeout=30) as client:
                client.ehlo()
                heard.append((client.ehlo_resp, sorted(client.esmtp_features.items())))
                heard.extend(_step(client, step) for step in dialog)
        except smtplib.SMTPServerDisconnected:
            heard.append("hung up")
    return heard


def _step(client: smtplib.SMTP, step: Any) -> Any:
    if isinstance(step, str):
        return client.docmd(step)
    sender, recipients, content, options = step
    try:
        return client.sendmail(sender, recipients, content, options)
    except smtplib.SMTPResponseException as error:
        return type(error).__name__, error.smtp_code, error.smtp_error
    except smtplib.SMTPRecipientsRefused as error:
        return "SMTPRecipientsRefused", error.recipients


def by_swaks(port: int, sender: str, recipients: str, content: bytes) -> tuple[int, list[str]]:
    """The exit status, and both sides of the conversation."""
    command = [find_peer("swaks") or "swaks", "--server", f"127.0.0.1:{port}", "--ehlo", "client.test"]
    command += ["--from", sender, "--to", recipients, "--data", "-", "--timeout", "30"]
    done = subprocess.run(command, input=content, capture_output=True, timeout=60, check=False)
    lines = done.stdout.decode("utf-8", "replace").splitlines()
    return done.returncode, [line for line in lines if not line.startswith("===")]  # that names the port


def serve(
    python: str, source: str, folder: Path, arguments: list[str], talk: Callable[[int], list[Any]], end: bool
) -> Seen:
    """Run a program, talk to it, end it by Ctrl-C (or wait for its own end)."""
    folder.mkdir()
    file = folder / "program.py"
    file.write_text(source, encoding="utf-8")
    port = free_port()
    output, errors = folder / "output", folder / "errors"
    with output.open("wb") as out, errors.open("wb") as err:
        process = subprocess.Popen(
            [python, "-W", "ignore", str(file), str(port), *arguments],
            env=environment(),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
        )
    try:
        until(lambda: greeting(port) or process.poll() is not None, 30, "the program does not serve")
        seen = Seen(talk(port))
        if end:
            process.send_signal(signal.SIGINT)
        seen.status = process.wait(30)
    finally:
        process.kill()
        process.wait()
    seen.printed = output.read_text(encoding="utf-8")
    assert "Traceback" not in errors.read_text(), errors.read_text()
    return seen


def debugging(python: str, source: str, folder: Path) -> Seen:
    def talk(port: int) -> list[Any]:
        return [
            *by_smtplib(
                port,
                [
                    ["HELP", "VRFY ann", "EXPN x", "NOOP", "NONSENSE", "MAIL x", "RCPT TO:<a@b.example>", "RSET"],
                    [
                        ("a@b.example", ["C@D.example", "e@f.example"], mail(1), ["BODY=8BITMIME"]),
                        ("", ["c@d.example"], mail(2, "Grün €", "schöne Grüße"), ["BODY=8BITMIME", "SMTPUTF8"]),
                        ("a@b.example", ["c@d.example"], b"", []),
                        ("a@b.example", ["c@d.example"], b"\r\n\r\nno header\r\n", []),
                        ("a@b.example", ["c@d.example"], b"x" * 100_000, []),
                    ],
                ],
            ),
            by_swaks(port, "a@b.example", "c@d.example,e@f.example", mail(3)),
            by_swaks(port, "<>", "root", mail(4)),
        ]

    return serve(python, source, folder, [], talk, end=True)


def relay(python: str, source: str, folder: Path) -> Seen:
    with Background() as background:
        sink = background.enter(
            SMTPSink(lambda step, text: "550 5.1.1 no" if step == "RCPT" and "gone" in text else None)
        )

        def talk(port: int) -> list[Any]:
            return [
                *by_smtplib(
                    port,
                    [
                        [
                            ("a@b.example", ["c@d.example", "x@OLD.example"], mail(1), []),
                            ("a@b.example", ["gone@d.example", "c@d.example"], mail(2), []),
                            ("a@b.example", ["c@d.example", "gone@d.example"], mail(3), []),
                            ("a@b.example", ["x@old.example"], mail(4), []),
                        ]
                    ],
                ),
                by_swaks(port, "a@b.example", "c@d.example", mail(5)),
            ]

        seen = serve(python, source, folder, [str(sink.port)], talk, end=True)
    seen.kept = {"sink": [(one.reverse_path, one.recipients, one.content) for one in sink.transactions]}
    return seen


def keeper(python: str, source: str, folder: Path) -> Seen:
    def talk(port: int) -> list[Any]:
        return [
            *by_smtplib(
                port,
                [
                    ["AUTH PLAIN AGFubgBzZWNyZXQ=", "AUTH PLAIN nonsense", "XCOUNT", "EHLO", "EHLO again.test"],
                    [
                        ("a@b.example", ["ann@d.example", "nobody@d.example"], mail(1), ["BODY=8BITMIME"]),
                        ("a@b.example", ["nobody@d.example"], mail(2), []),
                        ("a@b.example", ["Bob@d.example"], mail(3, "SPAM"), []),
                        ("a@b.example", ["Bob@d.example"], mail(4, "Later"), []),
                        "XCOUNT",
                        ("a@b.example", ["Bob@d.example", "ann@d.example"], mail(5), []),
                        ("a@b.example", ["Bob@d.example"], mail(6, text="x" * 2000), []),
                        "XCOUNT",
                    ],
                ],
            ),
            by_swaks(port, "a@b.example", "ann@d.example", mail(7)),
            by_swaks(port, "a@b.example", "nobody@d.example", mail(8)),
            by_swaks(port, "a@b.example", "ann@d.example", mail(9, "spam again")),
            crash(port),
        ]

    def crash(port: int) -> bool:
        """Whether a mail that ended the program was acknowledged. How it is not is a difference: see docs/compat.md."""
        return 250 in [
            one[1]
            for one in by_smtplib(port, [[("a@b.example", ["ann@d.example"], mail(9, "crash"), [])]])[1:]
            if isinstance(one, tuple)
        ]

    files = folder.with_name(f"{folder.name}-files")
    files.mkdir()
    seen = serve(python, source, folder, [str(files)], talk, end=False)
    seen.kept = {one.name: one.read_bytes() for one in sorted(files.glob("*.eml"))}
    with sqlite3.connect(files / "index.db") as base:
        seen.kept["index"] = base.execute("select * from mail order by id").fetchall()
    base.close()
    return seen


RUNS = {"debugging": debugging, "relay": relay, "keeper": keeper}


def original(name: str) -> str:
    return (PROGRAMS / f"{name}.py").read_text(encoding="utf-8")


def moved(name: str) -> str:
    """The program as docs/compat.md says that it has to be changed."""
    source = original(name)
    for old, new in CHANGES[name]:
        assert source.count(old) == 1
        source = source.replace(old, new)
    assert not re.search(r"^(import|from) (smtpd|asyncore)\b", source, re.MULTILINE)
    return source


def working(name: str) -> str | None:
    """Where a Python is, if it is one that runs (a version switcher's stand-in may not)."""
    path = shutil.which(name, path=SEARCH)
    if path is None:
        return None
    done = subprocess.run(
        [path, "-c", "import sys; print(sys.executable)"], capture_output=True, text=True, check=False
    )
    return done.stdout.strip() if done.returncode == 0 else None


def missing(reason: str) -> Any:
    if REQUIRED:
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="module")
def stdlib() -> str:
    """A Python that still has `smtpd`."""
    python = sys.executable if sys.version_info < (3, 12) else working("python3.11")
    return python or missing("no Python 3.11, whose smtpd is the reference")


@pytest.fixture(scope="module")
def python313(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Python 3.13 that has what Responder needs: that of `make test-versions`, else one made for this."""
    if sys.version_info[:2] == (3, 13):
        return sys.executable
    made = ROOT / ".venv-3.13" / "bin" / "python"
    if (
        made.exists()
        and subprocess.run([made, "-c", "import responder.compat.smtpd"], cwd=ROOT, check=False).returncode == 0
    ):
        return str(made)
    base = working("python3.13")
    if base is None:
        missing("no Python 3.13 here")
    folder = tmp_path_factory.mktemp("python") / "3.13"
    subprocess.run([str(base), "-m", "venv", str(folder)], check=True, capture_output=True)
    install = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    done = subprocess.run(
        [*install, "--require-hashes", "--retries", "1", "-r", str(ROOT / "constraints.txt")],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": ""},
    )
    if done.returncode != 0:
        missing(f"the dependencies for Python 3.13 cannot be installed: {done.stderr[-500:]}")
    return str(folder / "bin" / "python")


@pytest.fixture(scope="module")
def references(stdlib: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Seen]:
    """What each program did before it moved."""
    folder = tmp_path_factory.mktemp("before")
    return {name: run(stdlib, original(name), folder / name) for name, run in RUNS.items()}


@pytest.mark.peer("swaks")
def test_programs_when_run_unchanged_on_the_old_module_then_they_do_what_they_are_for(
    references: dict[str, Seen],
) -> None:
    """The reference itself is worth comparing with."""
    printed = references["debugging"].printed
    assert printed.count("---------- MESSAGE FOLLOWS ----------") == 7
    assert printed.endswith("7 mails\n")
    assert references["relay"].printed == (
        "dropped x@OLD.example\nrefused gone@d.example 550 b'5.1.1 no'\nrefused gone@d.example 550 b'5.1.1 no'\n"
        "dropped x@old.example\nclosed\n"
    )
    assert len(references["relay"].kept["sink"]) == 4
    assert [row[2] for row in references["keeper"].kept["index"]] == [
        "ann@d.example",
        "Bob@d.example",
        "ann@d.example",
        "ann@d.example",
    ]
    assert [one.status for one in references.values()] == [0, 0, 7]


@pytest.mark.peer("swaks")
@pytest.mark.parametrize("name", RUNS)
def test_program_when_only_its_import_is_changed_then_all_is_as_before(
    name: str, references: dict[str, Seen], tmp_path: Path
) -> None:
    assert RUNS[name](sys.executable, moved(name), tmp_path / name) == references[name]


@pytest.mark.peer("swaks", "python3.13")
def test_programs_when_moved_to_python_3_13_then_all_is_as_before(
    python313: str, references: dict[str, Seen], tmp_path: Path
) -> None:
    for name, run in RUNS.items():
        assert run(python313, moved(name), tmp_path / name) == references[name], name


@pytest.mark.peer("python3.13")
def test_programs_when_not_moved_then_python_3_13_refuses_them(python313: str) -> None:
    """Or nothing would be shown by the rest."""
    for name in RUNS:
        done = subprocess.run(
            [python313, str(PROGRAMS / f"{name}.py"), "0", "0"], capture_output=True, text=True, check=False
        )
        assert done.returncode == 1
        assert re.search(r"ModuleNotFoundError: No module named '(asyncore|smtpd)'", done.stderr)

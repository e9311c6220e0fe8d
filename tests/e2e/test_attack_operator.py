"""A careless operator: pipes where files should be, one socket under two names, a transcript over the database, a check
that never ends. `check` and `serve` say it in one line, a reload that waits for a file keeps nobody waiting, and a stop ends.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from responder import Mark
from responder.agents.guards import Found
from responder.cli.decoys import explain
from responder.config import Config, ConfigError, load
from responder.decoy.transcript import Transcript, trouble
from responder.inbound.followed import FileError
from responder.inbound.login.users import Users
from responder.intake.checking import MAX_NOTE, _note
from responder.reception import furnish
from responder.start import StartError, look_around
from tests.support.logins import certificate, scrypt_line
from tests.support.operator import Operator, Result, complains
from tests.support.server import ServerProcess, configuration, environment, running, to_toml
from tests.support.submission import message, submit

BOTH = ("check", "serve")
SENDER, ECHO = "ann@client.example", "echo@test.example"
LASTS = '''
import asyncio

from responder import Check, hookimpl


class Lasts(Check):
    """Does not end when it is told to."""

    async def mail(self, client, sender, parameters):
        while True:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                pass


@hookimpl
def responder_checks():
    return {"lasts": Lasts}
'''


def run(folder: Path, verb: str, **changes: Any) -> tuple[ServerProcess, Result]:
    server = ServerProcess(folder, configuration(**changes))
    done = server.command(verb, check=False)
    return server, Result(done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize("verb", BOTH)
@pytest.mark.parametrize("key", ["tls.certificate", "tls.key", "auth.users", "limits.deny_file", "dialect"])
def test_file_when_it_is_a_pipe_then_nobody_waits_for_what_comes_out_of_it(tmp_path: Path, key: str, verb: str) -> None:
    tls = certificate(tmp_path)
    pipe = tmp_path / "pipe.toml"
    os.mkfifo(pipe)
    table, _, name = key.rpartition(".")
    changes: dict[str, Any] = {"tls": {"certificate": str(tls.certificate), "key": str(tls.key)}}
    changes |= {table: {**changes.get(table, {}), name: str(pipe)}} if table else {name: str(pipe)}
    server, result = run(tmp_path, verb, **changes)
    complains(result, server.file, key, "pipe.toml: .*is no regular file")


def test_reload_when_a_file_takes_its_time_then_clients_are_served_meanwhile(tmp_path: Path) -> None:
    with running(tmp_path, configuration()) as server:
        content = server.file.read_bytes()
        server.file.unlink()
        os.mkfifo(server.file)
        at = server.log.stat().st_size
        server.signal(signal.SIGHUP)
        with server.file.open("wb") as pipe:  # from here on the server reads
            assert submit(server.port, SENDER, [ECHO], message(SENDER, ECHO, "x", "Hello"))[0] == 250
            pipe.write(content)
        server.wait_for_log(" reloaded ", at)


@pytest.mark.parametrize("reloaded", [False, True])
def test_stop_when_a_check_goes_on_behind_its_time_then_it_is_left(tmp_path: Path, reloaded: bool) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "lasts.py").write_text(LASTS)
    config = configuration(plugins=[str(tmp_path / "own")], inboxes={}, checks={"lasts": {"timeout": "100ms"}})
    with running(tmp_path, config) as server:
        assert submit(server.port, SENDER, [ECHO], message(SENDER, ECHO, "x", "Hello"))[0] == 451
        for _ in range(2 if reloaded else 0):
            at = server.log.stat().st_size
            server.signal(signal.SIGHUP)
            server.wait_for_log(" reloaded ", at)
        assert server.stop() == 0
        assert "agents left behind agents=1" in server.log.read_text()


def test_socket_when_two_listeners_spell_it_differently_then_it_is_still_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    listen = [{"address": "unix:smtp"}, {"address": f"unix:{tmp_path / 'smtp'}", "protocol": "lmtp"}]
    Path("responder.toml").write_text(to_toml(configuration(listen=listen)))
    with pytest.raises(ConfigError, match=r'^responder\.toml: listen\[1\]\.address: .*smtp" is listened on twice$'):
        load(Path("responder.toml"), {})


def test_transcript_when_the_file_is_something_else_then_it_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for content in (b"SQLite format 3\0", b"-----BEGIN PRIVATE KEY-----\n", b'hostname = "x"\n'):
        path.write_bytes(content)
        assert trouble(path) == "is there already, and is no transcript"
    for content in (b"", b'{"event": "begin"}\n'):
        path.write_bytes(content)
        assert trouble(path) == ""
    link = tmp_path / "link"
    link.symlink_to(path)  # which the transcript does not follow
    assert trouble(link) == "is a symbolic link, wants a file"
    os.mkfifo(tmp_path / "pipe")
    assert trouble(tmp_path / "pipe") == "can't be written"
    config = Config.model_validate(
        {"store": f"sqlite:{tmp_path}/x.db", "listen": [{"decoy": True}], "decoy": {"transcript": f"{tmp_path}/x.db"}}
    )
    with pytest.raises(StartError, match=r"decoy\.transcript: .*x\.db: is the database"):
        furnish(config, path)


def test_transcript_when_nobody_reads_what_is_explained_then_that_is_no_mistake(
    operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: object) -> None:
        raise BrokenPipeError(32, "Broken pipe")

    (operator.folder / "decoy.jsonl").write_text('{"event": "begin", "session": "x"}\n')
    config = Config.model_validate({"decoy": {"transcript": operator.folder / "decoy.jsonl"}})
    monkeypatch.setattr("responder.cli.decoys._print", broken)
    with pytest.raises(BrokenPipeError):  # with which every verb ends at once, exit status 0
        explain(config, "x", as_json=False)


def test_transcript_when_an_agent_leaves_the_folder_then_it_stays_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    transcript = Transcript(Path("decoy.jsonl"), 1 << 20, 1)
    monkeypatch.chdir(tmp_path / "elsewhere")
    transcript.put({"event": "begin"})
    transcript.close()
    assert (tmp_path / "decoy.jsonl").read_text() == '{"event": "begin"}\n'


def test_folder_when_nobody_may_look_into_it_then_it_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(path: Path, **_: object) -> os.stat_result:
        raise PermissionError(13, "Permission denied", str(path))

    listen = [{"address": f"unix:{tmp_path}/shut/a/s"}]
    config = Config.model_validate({"store": f"sqlite:{tmp_path}/x.db", "listen": listen})
    monkeypatch.setattr("responder.start.look", lambda _: None)
    monkeypatch.setattr(Path, "stat", refuses)  # root may look everywhere
    assert trouble(tmp_path / "shut" / "a" / "decoy.jsonl") == "Permission denied"
    with pytest.raises(StartError, match=r"^x: listen\[0\]\.address: .*shut/a/s: Permission denied$"):
        look_around(config, Path("x"))


def test_certificate_when_its_chain_is_cut_off_then_it_is_that_file_that_is_named(tmp_path: Path) -> None:
    tls = certificate(tmp_path)
    content = tls.certificate.read_bytes()
    tls.certificate.write_bytes(content + content[: len(content) // 2])
    config = Config.model_validate({"tls": {"certificate": tls.certificate, "key": tls.key}})
    with pytest.raises(StartError, match=r"tls\.certificate: .*, or not a whole one"):
        furnish(config, Path("x"))


def test_lists_when_an_editor_has_put_a_mark_before_them_then_they_are_read(tmp_path: Path) -> None:
    (tmp_path / "users").write_text(f"# ours\nann:{scrypt_line('secret')}\n", encoding="utf-8-sig")
    assert Users(tmp_path / "users").find("ann").known
    (tmp_path / "deny").write_text("192.0.2.1\n", encoding="utf-8-sig")
    config = Config.model_validate({"limits": {"deny_file": tmp_path / "deny"}})
    denied = furnish(config, Path("x")).denied
    assert denied is not None and "192.0.2.1" in denied
    (tmp_path / "users").write_bytes(b"m\xfcller:x\n")
    with pytest.raises(FileError, match="is not UTF-8"):
        Users(tmp_path / "users")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no full device here")
def test_output_when_there_is_no_room_for_it_then_one_line_says_so(tmp_path: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "responder", "password", "ann", "--no-scram"],
            cwd=tmp_path,
            env=environment(),
            input=b"secret\n",
            stdout=full,
            stderr=subprocess.PIPE,
            timeout=60,
            check=False,
        )
    said = (done.returncode, done.stderr.decode())
    assert said == (1, "responder: standard output can't be written: No space left on device\n")


def test_note_when_marks_are_huge_then_it_costs_what_is_kept_of_them() -> None:
    found = Found(marks=(("x", Mark({f"X-{number}": "v" * 5_000_000 for number in range(20)})),))
    tracemalloc.start()
    try:
        assert len(_note(found)) == MAX_NOTE
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()

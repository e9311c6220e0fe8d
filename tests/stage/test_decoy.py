"""A decoy: it takes everything and delivers nothing, and its transcript has every octet of both sides."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import json
import os
import struct
import tempfile
import threading
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from responder.config import Config, Limits, Listen
from responder.decoy import transcript as writing
from responder.decoy.credentials import MECHANISMS, challenge_message, field_at
from responder.decoy.replay import files, find, replay
from responder.decoy.session import DecoySession
from responder.decoy.transcript import Transcript, encode, numbered, octets_of, place, stamp, trouble
from responder.decoy.trap import make_trap, queue_id
from responder.inbound.limits.gatekeeper import Gatekeeper
from responder.inbound.profile import Profile
from responder.inbound.replies import SENDER_OK
from responder.inbound.roles import Handler, Recipient
from responder.inbound.sessions import Sessions
from responder.mail.lifecycle import State
from tests.support.clock import ManualClock
from tests.support.dialog import Front, listening
from tests.support.operator import Operator
from tests.support.scene import EVIL, SAFE

PERSONA = {"decoy": True, "dialect": "postfix"}
MAIL = b"MAIL FROM:<spam@bad.example>\r\nRCPT TO:<echo@test.example>\r\nDATA\r\n"


@contextlib.asynccontextmanager
async def trapped(
    folder: Path, **changes: Any
) -> AsyncIterator[tuple[Front, asyncio.StreamReader, asyncio.StreamWriter]]:
    """A client of a decoy. Its connection is closed at the end of the block."""
    async with listening(folder, changes, PERSONA) as front:
        reader, writer = await asyncio.open_connection("127.0.0.1", front.port)
        try:
            yield front, reader, writer
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
            async with asyncio.timeout(20):
                while front.service.open:
                    await asyncio.sleep(0.001)


async def converse(folder: Path, *writes: bytes, **changes: Any) -> tuple[bytes, bytes, list[dict[str, Any]]]:
    """What a client sent in these writes, what it was told, and what the transcript has."""
    async with trapped(folder, **changes) as (_, reader, writer):
        told = b""
        for octets in writes:
            writer.write(octets)
            with contextlib.suppress(OSError):
                await writer.drain()
            await asyncio.sleep(0)
        with contextlib.suppress(OSError):
            writer.write_eof()
            told = await asyncio.wait_for(reader.read(), 20)
    return b"".join(writes), told, records(folder)


def records(folder: Path) -> list[dict[str, Any]]:
    path = folder / "decoy.jsonl"
    return [json.loads(line) for file in reversed(files(path)) for line in file.read_bytes().splitlines()]


def side(found: list[dict[str, Any]], kind: str) -> bytes:
    return b"".join([octets_of(record) for record in found if record["event"] == kind])


def of(found: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [record for record in found if record["event"] == kind]


# -- what is written down -------------------------------------------------------------------------------------------------


async def test_session_is_over_then_the_transcript_has_all_of_it(tmp_path: Path) -> None:
    body = b"Subject: x\r\n\r\n..dots\r\n.one\r\n\xff\x00 gr\xc3\xbc\xc3\x9fe\r\n.\r\n"
    sent, told, found = await converse(tmp_path, b"EHLO me\r\n" + MAIL + body, b"NOOP\nQUIT\r\n")
    assert side(found, "client") == sent
    assert side(found, "server") == told
    [message] = of(found, "message")
    content = b"Subject: x\r\n\r\n.dots\r\none\r\n\xff\x00 gr\xc3\xbc\xc3\x9fe\r\n"
    assert (message["size"], message["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())
    assert (message["from"], message["to"]) == ("spam@bad.example", ["echo@test.example"])
    assert f"queued as {message['id']}\r\n".encode() in told
    kinds = [record["event"] for record in found]
    assert (kinds[0], kinds[-1]) == ("begin", "end")
    assert kinds.index("message") < next(n for n, r in enumerate(found) if b"queued as" in octets_of(r))
    assert {(record["session"], record["peer"]) for record in found} == {(found[0]["session"], "127.0.0.1")}
    assert found[0]["dialect"] == "postfix" and found[-1]["mails"] == 1
    assert all(record["port"] > 0 and record["time"] == "2027-01-15T08:00:00.000Z" for record in found)
    raw = (tmp_path / "decoy.jsonl").read_text(encoding="ascii")
    assert SAFE.fullmatch(raw)


CHUNK = st.sampled_from(
    [
        *(
            b"EHLO x\r\n",
            b"MAIL FROM:<a@b>\r\n",
            b"RCPT TO:<c@d>\r\n",
            b"DATA\r\n",
            b"RSET\r\n",
            b"NOOP\n",
            b"BDAT 3\r\n",
        ),
        *(
            b"hello\r\n",
            b".\r\n",
            b"\r\n",
            b"\r\n.\r\n",
            b"AUTH LOGIN\r\n",
            b"AUTH PLAIN AGEAYg==\r\n",
            b"*\r\n",
            b"WIZ\r\n",
        ),
        *(
            b"BDAT 0 LAST\r\n",
            b"VRFY root\r\n",
            b"\x00\xff\x1b\r\n",
            b"x" * 2047,
            b"x" * 5000,
            b"\r",
            b"\n",
            b"STARTTLS\r\n",
        ),
    ]
)


@given(st.lists(st.lists(CHUNK, min_size=1, max_size=12).map(b"".join), min_size=1, max_size=4))
@settings(max_examples=60, deadline=None)
def test_client_sends_anything_then_every_octet_of_both_sides_is_there(writes: list[bytes]) -> None:

    with tempfile.TemporaryDirectory() as folder:
        sent, told, found = asyncio.run(
            converse(Path(folder), *writes, limits={"errors": 100_000, "junk_commands": 100_000})
        )
    heard = side(found, "client")
    assert side(found, "server") == told
    assert heard == sent or (b"421 " in told and sent.startswith(heard))


async def test_line_is_longer_than_any_command_then_all_of_it_is_there(tmp_path: Path) -> None:
    sent, told, found = await converse(tmp_path, b"NOOP " + b"x" * 9000 + b"\r\nNOOP\r\n", b"y" * 5000, b"\r\nQUIT\r\n")
    assert side(found, "client") == sent
    assert side(found, "server") == told
    assert told.count(b"line too long") == 2


async def test_message_is_larger_than_is_kept_then_the_rest_is_counted(tmp_path: Path) -> None:
    body = b"x" * 70 + b"\r\n"
    sent, told, found = await converse(
        tmp_path, b"EHLO me\r\n" + MAIL, body * 3000 + b".\r\nQUIT\r\n", decoy={"message": 1000}
    )
    client = of(found, "client")
    [cut] = [record for record in client if "cut" in record]
    kept = side(found, "client")
    assert len(kept) + cut["cut"] == len(sent)
    assert kept == sent[: len(b"EHLO me\r\n" + MAIL) + 1000] + b"QUIT\r\n"
    [message] = of(found, "message")
    assert (message["size"], message["sha256"]) == (216_000, hashlib.sha256(body * 3000).hexdigest())
    assert b"queued as" in told


async def test_message_is_larger_than_is_taken_then_it_is_refused_and_written_all_the_same(tmp_path: Path) -> None:
    sent, told, found = await converse(
        tmp_path, b"EHLO me\r\n" + MAIL, b"y" * 300_000 + b"\r\n.\r\nQUIT\r\n", limits={"message_size": 1000}
    )
    assert b"552 5.3.4 Message size exceeds fixed limit\r\n" in told
    assert side(found, "client") == sent
    assert of(found, "message") == []
    refusal = next(number for number, one in enumerate(found) if octets_of(one).startswith(b"552"))
    assert b"\r\n.\r\n" in side(found[:refusal], "client")  # what it answers stands before it


async def test_client_leaves_within_a_message_then_what_it_sent_is_there(tmp_path: Path) -> None:
    async with trapped(tmp_path) as (_, reader, writer):
        writer.write(b"EHLO me\r\n" + MAIL + b"half of it\r\nand th")
        await asyncio.wait_for(reader.readuntil(b"354 End data with <CR><LF>.<CR><LF>\r\n"), 20)
        writer.transport.abort()
    found = records(tmp_path)
    assert side(found, "client") == b"EHLO me\r\n" + MAIL + b"half of it\r\nand th"
    assert found[-1]["event"] == "end"


async def test_connection_is_refused_then_that_is_there_and_no_more(tmp_path: Path) -> None:
    _, told, found = await converse(tmp_path, b"EHLO me\r\n", limits={"deny": ["127.0.0.1"]})
    assert side(found, "server") == b"554 5.7.1 <127.0.0.1>: Client host rejected: Access denied\r\n"
    assert told in (b"", side(found, "server"))  # octets that nobody reads make the kernel reset the connection
    assert [record["event"] for record in found] in (["begin", "server", "end"], ["begin", "server", "client", "end"])


async def test_credentials_are_tried_then_they_are_there_decoded(tmp_path: Path) -> None:
    plain = b64encode(b"\0root\0hunter2 \xc3\xbc").decode()
    lines = f"AUTH PLAIN {plain}\r\nAUTH PLAIN\r\n{plain}\r\nAUTH LOGIN YWRtaW4=\r\nc2VjcmV0\r\nAUTH LOGIN\r\n/w==\r\nGw==\r\n"
    _, told, found = await converse(tmp_path, lines.encode())
    tried = [(r["mechanism"], r["user"], r["password"], r["accepted"]) for r in of(found, "login")]
    assert tried == [
        ("PLAIN", "root", "hunter2 ü", False),
        ("PLAIN", "root", "hunter2 ü", False),
        ("LOGIN", "admin", "secret", False),
        ("LOGIN", "\\xff", "\x1b", False),
    ]
    assert told.count(b"535 5.7.8") == 4
    assert found[-1]["logins"] == 4


async def test_session_when_it_is_over_then_the_log_has_two_lines_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    for module in ("trap", "session"):
        monkeypatch.setattr(f"responder.decoy.{module}.event", lambda name, **_: said.append(name))
    await converse(tmp_path, b"EHLO me\r\n" + MAIL + b"x\r\n.\r\nAUTH PLAIN AGEAYg==\r\nNOOP\r\nQUIT\r\n")
    assert said == ["decoy connected", "decoy left"]


# -- nothing comes of it ---------------------------------------------------------------------------------------------------


async def test_mail_is_taken_then_no_inbox_and_no_store_has_it(tmp_path: Path) -> None:
    async with trapped(tmp_path) as (front, reader, writer):
        writer.write(b"EHLO me\r\n" + MAIL + b"Subject: x\r\n\r\nhello\r\n.\r\n")
        await asyncio.wait_for(reader.readuntil(b"queued as "), 20)
        assert await front.store.items(list(State), 100) == []
        [session] = front.service.open
        assert isinstance(session, DecoySession)
        assert session._handler is front.service.decoy
        assert session._handler is not front.service.handler


def test_trap_when_looked_at_then_it_knows_no_inbox_store_or_way_out(tmp_path: Path) -> None:
    trap = make_trap(decoy_config(tmp_path), ManualClock())
    assert trap is not None
    assert set(vars(trap)) == {"settings", "transcript", "_clock", "session"}


def test_listener_is_a_decoy_and_none_was_furnished_then_it_does_not_open(tmp_path: Path) -> None:
    sessions = make_sessions()
    with pytest.raises(ValueError, match="no decoy was furnished"):
        sessions.profile(Listen(decoy=True))


async def test_session_of_a_decoy_when_its_mail_would_go_elsewhere_then_there_is_none(tmp_path: Path) -> None:
    sessions = make_sessions()
    trap = sessions.decoy = make_trap(decoy_config(tmp_path), ManualClock())
    profile = sessions.profile(Listen(decoy=True))
    assert profile.handler is trap
    profile.handler = sessions.handler
    with pytest.raises(AssertionError, match="never hands mail"):
        DecoySession(sessions, profile)


def test_listener_is_real_then_it_is_none(tmp_path: Path) -> None:
    sessions = make_sessions()
    sessions.decoy = make_trap(decoy_config(tmp_path), ManualClock())
    profile = sessions.profile(Listen())
    assert (profile.handler, profile.decoy, profile.session) == (sessions.handler, None, None)


def decoy_config(folder: Path, **changes: Any) -> Config:
    table = {"listen": [{"decoy": True}], "decoy": {"transcript": str(folder / "decoy.jsonl"), **changes}}
    return Config.model_validate(table)


class Inboxes:
    """A handler that is no decoy's."""

    def connected(self, session: object) -> None: ...

    def hello(self, session: object, name: str) -> None: ...

    def sender(self, session: object, path: object) -> Any:
        return SENDER_OK

    def recipient(self, session: object, path: object) -> Any:
        return Recipient(SENDER_OK)

    async def message(self, session: object, content: bytes) -> Any:
        raise AssertionError("a real inbox got it")


def make_sessions() -> Sessions:
    clock = ManualClock()
    handler: Handler = Inboxes()
    return Sessions("mx.test.example", Limits(), Gatekeeper(Limits(), clock), handler, clock)


# -- the persona -----------------------------------------------------------------------------------------------------------


def test_offer_when_there_is_a_certificate_then_starttls_is_in_it_until_it_is_on(tmp_path: Path) -> None:
    sessions = make_sessions()
    trap = sessions.decoy = make_trap(decoy_config(tmp_path), ManualClock())
    assert trap is not None
    profile: Profile = sessions.profile(Listen(decoy=True))
    assert trap.offer(profile, secure=False, known=False) == [
        "PIPELINING",
        "SIZE 26214400",
        "8BITMIME",
        "AUTH PLAIN LOGIN",
    ]
    profile.certificate = object()  # type: ignore[assignment]
    assert "STARTTLS" in trap.offer(profile, secure=False, known=False)
    assert "STARTTLS" not in trap.offer(profile, secure=True, known=False)
    assert trap.offer(profile, secure=True, known=True) == ["PIPELINING", "SIZE 26214400", "8BITMIME"]


async def test_reload_says_otherwise_then_auth_and_words_follow(tmp_path: Path) -> None:
    async with listening(tmp_path, {}, PERSONA) as front:
        trap = front.service.decoy
        assert trap is not None
        [profile] = front.service._profiles
        assert "AUTH PLAIN LOGIN" in trap.offer(profile, secure=False, known=False)
        trap.follow(decoy_config(tmp_path / "new", auth="off", keep=3))  # type: ignore[attr-defined]
        front.service.dialects = {}
        assert "AUTH PLAIN LOGIN" not in trap.offer(profile, secure=False, known=False)
        trap.transcript.put({"event": "x"})  # type: ignore[attr-defined]
        assert trap.transcript.settle()  # type: ignore[attr-defined]
        assert (tmp_path / "new" / "decoy.jsonl").exists()


def test_queue_id_when_told_then_it_is_of_the_server_s_kind() -> None:
    assert [
        queue_id(style, "1m7y1y92y09sr2mysw", 1_800_000_000.0) for style in ("ours", "hex", "sendmail", "guid")
    ] == [
        "1m7y1y92y09sr2mysw",
        queue_id("hex", "1m7y1y92y09sr2mysw", 0.0),
        queue_id("sendmail", "1m7y1y92y09sr2mysw", 1_800_000_000.0),
        hashlib.sha256(b"1m7y1y92y09sr2mysw").digest()[:16].hex(),
    ]
    assert queue_id("sendmail", "a", 1_800_000_000.0).startswith("70F800")
    ids = {queue_id("hex", f"a{n}", 0.0) for n in range(2000)}
    assert len(ids) == 2000
    assert all(set(one) <= set("0123456789ABCDEF") and 10 <= len(one) <= 11 for one in ids)


def test_cram_md5_is_answered_then_what_is_kept_tells_the_password() -> None:
    dialog = MECHANISMS["CRAM-MD5"]("mx.test.example", "seed", 1.0)
    challenge = next(dialog)
    response = b"ann " + hmac.new(b"secret", challenge, hashlib.md5).hexdigest().encode()
    with pytest.raises(StopIteration) as end:
        dialog.send(response)
    found = end.value.value
    assert found["user"] == "ann"
    assert hmac.new(b"secret", found["challenge"].encode(), hashlib.md5).hexdigest() == found["response"]


def ntlm_answer(domain: str, user: str, response: bytes) -> bytes:
    fields = [b"", response, domain.encode("utf-16-le"), user.encode("utf-16-le"), "PC".encode("utf-16-le"), b""]
    head, offset, body = b"", 64, b""
    for field in fields:
        head += struct.pack("<HHI", len(field), len(field), offset + len(body))
        body += field
    return b"NTLMSSP\0" + struct.pack("<I", 3) + head + bytes(4) + body


def test_ntlm_is_answered_then_who_and_what_is_kept() -> None:
    dialog = MECHANISMS["NTLM"]("mail.corp.example", "seed", 1_800_000_000.0)
    assert next(dialog) == b""
    challenge = dialog.send(b"NTLMSSP\0" + struct.pack("<II", 1, 0xE2088297) + bytes(16))
    assert challenge[:12] == b"NTLMSSP\0\x02\0\0\0"
    assert field_at(challenge, 12).decode("utf-16-le") == "CORP"
    told = field_at(challenge, 40)
    assert "mail.corp.example".encode("utf-16-le") in told
    with pytest.raises(StopIteration) as end:
        dialog.send(ntlm_answer("CORP", "ann", b"\x01" * 24))
    assert end.value.value == {
        "user": "ann",
        "domain": "CORP",
        "workstation": "PC",
        "challenge": challenge[24:32].hex(),
        "response": "01" * 24,
    }
    assert challenge == challenge_message("mail.corp.example", challenge[24:32], 1_800_000_000.0)


@given(
    st.sampled_from(sorted(MECHANISMS)),
    st.lists(
        st.binary(max_size=80)
        | st.just(b"NTLMSSP\0\x01\0\0\0")
        | st.builds(lambda tail: b"NTLMSSP\0\x03\0\0\0" + tail, st.binary(max_size=80)),
        min_size=4,
        max_size=4,
    ),
)
def test_login_is_answered_with_anything_then_it_ends_with_a_finding_or_a_value_error(
    name: str, answers: list[bytes]
) -> None:
    dialog = MECHANISMS[name]("mx", "seed", 0.0)
    next(dialog)
    try:
        for answer in answers:
            dialog.send(answer)
    except ValueError:
        return
    except StopIteration as end:
        found = end.value
    else:
        pytest.fail("it goes on for ever")
    assert all(isinstance(value, str) for value in found.values())
    assert len(json.dumps(found)) < 40_000


# -- the file --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Transcript]:
    transcript = Transcript(tmp_path / "state" / "decoy.jsonl", 1 << 20, 3)
    yield transcript
    transcript.close()


def test_transcript_when_made_then_nobody_else_reads_it(log: Transcript) -> None:
    old = os.umask(0)
    try:
        log.put({"event": "x"})
        assert log.settle()
    finally:
        os.umask(old)
    assert log.path.stat().st_mode & 0o777 == 0o600


def test_file_was_there_and_others_could_read_it_then_they_no_longer_can(log: Transcript) -> None:
    log.path.parent.mkdir()
    log.path.touch(0o644)
    log.put({"event": "x"})
    assert log.settle()
    assert log.path.stat().st_mode & 0o777 == 0o600


def test_transcript_is_large_then_it_rotates_and_old_files_go(log: Transcript, tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    log.follow(path, 1000, 2)
    for number in range(100):
        log.put({"event": "x", "number": number}, b"y" * 80)
    assert log.settle()
    assert sorted(one.name for one in tmp_path.glob("d.*")) == ["d.jsonl", "d.jsonl.1", "d.jsonl.2"]
    assert all(one.stat().st_size <= 1000 and one.stat().st_mode & 0o777 == 0o600 for one in files(path))
    kept = [json.loads(line)["number"] for file in reversed(files(path)) for line in file.read_bytes().splitlines()]
    assert kept == list(range(kept[0], 100))
    assert len(kept) > 15


@pytest.mark.parametrize("keep", [1, 3])
def test_transcript_when_it_turns_then_so_many_old_files_stay(keep: int, tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    for number in range(6):
        path.write_text(str(number))
        writing.turn(path, keep)
    assert [numbered(path, n).read_text() for n in range(1, keep + 1)] == [str(5 - n) for n in range(keep)]
    assert len(list(tmp_path.iterdir())) == keep


def test_server_broke_off_in_a_line_then_the_next_one_begins_anew(log: Transcript) -> None:
    log.path.parent.mkdir()
    log.path.write_bytes(b'{"event": "whole"}\n{"event": "brok')
    log.put({"event": "new"})
    assert log.settle()
    assert log.path.read_bytes().splitlines()[-1] == b'{"event": "new"}'
    log.path.write_bytes(b"")


def test_restart_then_the_file_goes_on_and_its_size_counts(log: Transcript, tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    for number in range(3):
        one = Transcript(path, 400, 3)
        one.put({"event": str(number)}, b"x" * 150)
        one.close()
    assert len(files(path)) == 2
    assert [json.loads(line)["event"] for file in reversed(files(path)) for line in file.read_bytes().splitlines()] == [
        *"012"
    ]


def test_disk_is_slow_then_records_are_dropped_and_counted(log: Transcript, monkeypatch: pytest.MonkeyPatch) -> None:

    gate, reached = threading.Event(), threading.Event()
    write = Transcript._write

    def slow(self: Transcript, *arguments: Any) -> None:
        reached.set()
        assert gate.wait(20)
        write(self, *arguments)

    monkeypatch.setattr(Transcript, "_write", slow)
    monkeypatch.setattr(writing, "WAITING", 10)
    log.put({"event": "first"})
    assert reached.wait(20)
    for number in range(100):
        log.put({"event": "x", "number": number})
    gate.set()
    assert log.settle()
    log.put({"event": "last"})
    assert log.settle()
    found = [json.loads(line) for line in log.path.read_bytes().splitlines()]
    [dropped] = [record for record in found if record["event"] == "dropped"]
    assert dropped["count"] == 90
    assert [record.get("number") for record in found if record["event"] == "x"] == list(range(10))
    assert found[-1]["event"] == "last"


def test_records_hold_much_then_only_so_many_octets_wait(log: Transcript, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Transcript, "_work", lambda self: None)
    for _ in range(100):
        log.put({"event": "x"}, b"x" * (1 << 20))
    assert log._octets <= writing.WAITING_OCTETS
    assert log._dropped >= 68


def test_disk_is_full_then_the_log_says_so_once_and_it_goes_on_afterwards(
    log: Transcript, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(writing, "event", lambda name, **_: said.append(name))
    log.path.parent.parent.joinpath("state").write_text("in the way")
    for _ in range(3):
        log.put({"event": "lost"})
        assert log.settle()
    assert said == ["transcript failed"]
    log.path.parent.unlink()
    log.put({"event": "kept"})
    assert log.settle()
    found = [json.loads(line) for line in log.path.read_bytes().splitlines()]
    assert [record["event"] for record in found] == ["kept", "dropped"]
    assert found[1]["count"] == 3


def test_name_is_a_link_then_it_is_not_followed(
    log: Transcript, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "event", lambda name, **_: None)
    (tmp_path / "secret").write_text("s")
    log.path.parent.mkdir()
    log.path.symlink_to(tmp_path / "secret")
    log.put({"event": "x"})
    assert log.settle()
    assert (tmp_path / "secret").read_text() == "s"


@given(st.binary(max_size=300))
def test_octets_when_encoded_then_they_come_back_and_no_terminal_obeys(octets: bytes) -> None:
    line = encode({"event": "client", "octets": octets})
    assert line.isascii() and line.count(b"\n") == 1
    assert SAFE.fullmatch(line.decode())
    assert octets_of(json.loads(line)) == octets


def test_evil_text_when_encoded_then_no_terminal_obeys() -> None:
    assert SAFE.fullmatch(encode({"user": EVIL, "octets": EVIL.encode()}).decode())
    assert stamp(1_800_000_000.25) == "2027-01-15T08:00:00.250Z"


def test_place_when_it_can_not_be_written_then_that_is_told_before(tmp_path: Path) -> None:
    assert trouble(tmp_path / "a" / "b" / "decoy.jsonl") == ""
    assert trouble(tmp_path) == "is a folder, wants a file"
    (tmp_path / "file").write_text("")
    assert "no permission" in trouble(tmp_path / "file" / "decoy.jsonl")
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]
    assert place(Config.model_validate({"store": "sqlite:there/x.db"})) == Path("there/decoy.jsonl")


# -- explain ---------------------------------------------------------------------------------------------------------------


async def one_session(folder: Path) -> list[dict[str, Any]]:
    _, _, found = await converse(
        folder,
        b"EHLO me\r\nWIZ \xe2\x80\xae\xff\r\n" + MAIL + b"Subject: \x1b[2J\r\n\r\nhi\r\n.\r\n",
        b"AUTH PLAIN AGFubgBzM2NyZXQ=\r\nQUIT\r\n",
    )
    return found


def test_session_is_explained_then_all_of_it_is_shown(operator: Operator, tmp_path: Path) -> None:
    operator.write({"store": "sqlite:responder.db", "listen": [{"address": "127.0.0.1:0", "decoy": True}]})
    found = asyncio.run(one_session(tmp_path))
    session = found[0]["session"]
    [message] = of(found, "message")
    for key in (session, message["id"]):
        result = operator("explain", key)
        assert (result.status, result.err) == (0, ""), result
        assert f"decoy {session}  127.0.0.1 port" in result.out
        assert "C: MAIL FROM:<spam@bad.example>\n" in result.out
        assert f"S: 250 2.0.0 Ok: queued as {message['id']}\n" in result.out
        assert 'login mechanism="PLAIN" user="ann" password="s3cret" accepted=false' in result.out
        assert SAFE.fullmatch(result.out)
    assert operator("explain", session, "--json").json == found
    assert operator("explain", "1m7y1y92y09sr2mysx").status == 1


def test_session_lies_in_several_files_then_it_is_put_together(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    numbered(path, 2).write_bytes(b'{"session": "a", "n": 1}\n{"session": "b", "n": 1}\n')
    numbered(path, 1).write_bytes(
        b'{"session": "a", "n": 2, "id": "Q1"}\nno json "a"\n[["a"]]\n{"session": "b", "id": "a"}\n'
    )
    path.write_bytes(b'{"session": "a", "n": 3}\n{"session": "a", "n": 4')
    assert find(path, "Q1") == "a"
    assert [record["n"] for record in replay(path, "a")] == [1, 2, 3]
    assert find(path, "Q2") is None
    assert b64decode("") == b""

"""AUTH: who is let in, how slowly who is not, and what a flood of logins may cost."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import os
import pty
import sys
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from responder.config.units import MINUTE, Rate
from responder.inbound import replies
from responder.inbound.login import logins as login
from responder.inbound.login.logins import AT_A_TIME, OF_AN_ADDRESS, Logins
from responder.inbound.login.passwords import Scrypt, parse_hash
from responder.inbound.login.sasl import Claim
from responder.inbound.login.users import Users
from responder.mail.lifecycle import State
from responder.observe import Observer, follow
from tests.support import logins
from tests.support.clock import ManualClock
from tests.support.dialog import Front, listening
from tests.support.logins import USERS, ScramClient, plain
from tests.support.operator import Operator
from tests.support.server import configuration

WAIT = 20.0


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(WAIT):
        while not condition():
            await asyncio.sleep(0.002)


class Caller:
    """What a login asks of a session."""

    def __init__(self, peer: str = "192.0.2.1") -> None:
        self.peer = self.counted = peer
        self.idle = True

    def overdue(self, now: float) -> None: ...

    def hang_up(self, reply: object) -> None: ...


class Slow:
    """A hash that takes as long as the test likes."""

    def __init__(self) -> None:
        self.end = threading.Event()
        self.working = self.most = self.looks = 0
        self._lock = threading.Lock()

    def matches(self, password: str) -> bool:
        with self._lock:
            self.working += 1
            self.looks += 1
            self.most = max(self.most, self.working)
        self.end.wait(WAIT)
        with self._lock:
            self.working -= 1
        return password == "secret"


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def heard() -> Any:
    """What observers are told: (name, fields)."""
    told: list[tuple[str, dict[str, object]]] = []
    follow([Observer("test", lambda name, fields: told.append((name, dict(fields))))])
    yield told
    follow([])


@contextlib.asynccontextmanager
async def front(folder: Path, **settings: Any) -> AsyncIterator[Front]:
    async with listening(folder, settings, {"auth": "offered"}, {"certificate", "users"}) as found:
        yield found


class Client:
    """A client that speaks TLS."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def connect(cls, server: Front) -> Client:
        client = cls(*await asyncio.open_connection("127.0.0.1", server.port))
        await client.read()
        await client.say("EHLO client.example")
        assert (await client.say("STARTTLS")).startswith("220")
        await client.writer.start_tls(logins.trusting(), server_hostname=logins.NAME)
        await client.say("EHLO client.example")
        return client

    async def say(self, line: str) -> str:
        self.writer.write(line.encode() + b"\r\n")
        return await self.read()

    async def read(self) -> str:
        text = ""
        while not text or text.splitlines()[-1][3:4] == "-":
            text += (await asyncio.wait_for(self.reader.readline(), WAIT)).decode()
        return text

    async def scram(self, name: str, password: str) -> tuple[str, ScramClient]:
        """The last reply of a login by SCRAM."""
        dialog = ScramClient(name, password)
        reply = await self.say("AUTH SCRAM-SHA-256 " + base64.b64encode(dialog.first()).decode())
        assert reply.startswith("334 ")
        question = base64.b64decode(reply[4:])
        self.writer.write(base64.b64encode(dialog.final(question)) + b"\r\n")
        return await self.read(), dialog

    def close(self) -> None:
        self.writer.close()


async def tick(server: Front, seconds: float) -> None:
    """Let time pass once somebody waits for it, beside the sweep."""
    await until(lambda: server.clock.sleeping >= 2)
    server.clock.advance(seconds)


# -- who is let in -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ann", "ann@test.example", "grüße"])
async def test_scram_when_the_password_is_right_then_both_sides_know_it(
    name: str, tmp_path: Path, heard: list[tuple[str, dict[str, object]]]
) -> None:
    async with front(tmp_path) as server:
        client = await Client.connect(server)
        reply, dialog = await client.scram(name, USERS[name])
        assert base64.b64decode(reply[4:]) == f"v={dialog.signature}".encode()
        assert await client.say("") == "235 2.7.0 Authentication succeeded\r\n"
        client.close()
    await until(lambda: heard)
    assert ("login", {"peer": "127.0.0.1", "user": name, "mechanism": "SCRAM-SHA-256"}) in heard


@pytest.mark.parametrize(("name", "password"), [("ann", "Secret"), ("nobody", "secret"), ("bob", "only plain")])
async def test_scram_when_password_or_name_are_wrong_then_the_dialog_looks_the_same(
    name: str, password: str, tmp_path: Path
) -> None:
    async with front(tmp_path) as server:
        client = await Client.connect(server)
        reading = asyncio.ensure_future(client.scram(name, password))
        await tick(server, 1.0)
        reply, _ = await reading
        assert reply == "535 5.7.8 Authentication credentials invalid\r\n"
        client.close()


async def test_scram_when_asked_twice_for_an_unknown_name_then_its_salt_is_the_same(tmp_path: Path) -> None:
    async with front(tmp_path) as server:
        asked = set()
        for _ in range(2):
            client = await Client.connect(server)
            first = base64.b64encode(ScramClient("nobody", "x").first()).decode()
            question = base64.b64decode((await client.say(f"AUTH SCRAM-SHA-256 {first}"))[4:]).decode()
            asked.add(question.split(",", 1)[1])
            client.close()
        assert len(asked) == 1


async def test_login_when_nobody_has_a_scram_verifier_then_it_is_not_offered(
    tmp_path: Path, clock: ManualClock
) -> None:
    (tmp_path / "users").write_text(f"ann:{logins.scrypt_line('secret')}\n")
    found = Logins(Users(tmp_path / "users"), None, clock)
    assert found.mechanisms == ("PLAIN", "LOGIN")
    assert found.begin(Caller(), "SCRAM-SHA-256") is replies.LOGIN_UNKNOWN


async def test_users_when_the_file_changes_then_ehlo_and_logins_follow(tmp_path: Path) -> None:
    async with front(tmp_path) as server:
        assert isinstance(server.service.login, Logins)
        server.service.followed = [server.service.login.users]
        (tmp_path / "users").write_text(f"carl:{logins.scrypt_line('new')}\n")
        await until(lambda: server.clock.sleeping)
        server.clock.advance(5.0)
        await until(lambda: isinstance(server.service.login, Logins) and not server.service.login.users.know_scram)
        await until(lambda: server.service._looking is None or server.service._looking.done())
        client = await Client.connect(server)
        assert "AUTH PLAIN LOGIN" in await client.say("EHLO client.example")
        assert (await client.say(f"AUTH PLAIN {plain('carl', 'new')}")).startswith("235")
        client.close()


async def test_mail_when_its_sender_has_logged_in_then_other_domains_are_refused_all_the_same(tmp_path: Path) -> None:
    async with front(tmp_path) as server:
        client = await Client.connect(server)
        assert (await client.say(f"AUTH PLAIN {plain('ann', 'secret')}")).startswith("235")
        assert (await client.say("MAIL FROM:<ann@test.example>")).startswith("250")
        assert (await client.say("RCPT TO:<you@elsewhere.example>")).startswith("550 5.7.1")
        client.close()
        assert await server.store.items([State.RECEIVED]) == []


# -- who is not --------------------------------------------------------------------------------------------------------------


async def test_login_when_it_fails_then_each_reply_takes_twice_as_long_up_to_a_bound(tmp_path: Path) -> None:
    async with front(tmp_path, auth={"failures": "off"}) as server:
        client = await Client.connect(server)
        for seconds in (1, 2, 4, 8, 16, 16):
            reading = asyncio.ensure_future(client.say(f"AUTH PLAIN {plain('ann', 'wrong')}"))
            await until(lambda: server.clock.sleeping >= 2)
            server.clock.advance(seconds - 0.01)
            await asyncio.sleep(0.02)
            assert not reading.done()
            server.clock.advance(0.01)
            assert (await reading).startswith("535 5.7.8")
        client.close()


async def test_login_when_an_address_fails_too_often_then_it_is_put_off_and_others_are_not(
    tmp_path: Path, clock: ManualClock
) -> None:
    found = logins.logins(tmp_path, clock, Rate(3, 10 * MINUTE))
    caller, other = Caller(), Caller("192.0.2.2")
    for _ in range(3):
        assert await found.judge(caller, "PLAIN", Claim("ann", "secret")) is replies.LOGIN_OK  # gives nothing back
        assert found.refusal(caller) is None
        assert await found.judge(caller, "PLAIN", Claim("ann", "wrong")) is replies.LOGIN_FAILED
    assert await found.judge(caller, "PLAIN", Claim("ann", "secret")) is replies.LOGIN_FAILED
    assert found.begin(caller, "PLAIN") is replies.TOO_MANY_LOGINS
    assert found.refusal(other) is None
    assert await found.judge(other, "PLAIN", Claim("ann", "secret")) is replies.LOGIN_OK
    clock.advance(10 * MINUTE)
    assert found.refusal(caller) is None


async def test_login_when_an_address_fails_by_its_neighbours_then_they_count_as_one(
    tmp_path: Path, clock: ManualClock
) -> None:
    found = logins.logins(tmp_path, clock, Rate(2, MINUTE))
    for last in (1, 2):
        await found.judge(Caller(f"2001:db8::{last}"), "PLAIN", None)
    assert found.refusal(Caller("2001:db8::3")) is replies.TOO_MANY_LOGINS
    assert found.refusal(Caller("2001:db8:0:1::3")) is None


async def test_login_when_a_reload_comes_then_who_has_failed_stays_known(tmp_path: Path, clock: ManualClock) -> None:
    found = logins.logins(tmp_path, clock, Rate(1, MINUTE))
    await found.judge(Caller(), "PLAIN", None)
    found.follow(Users(tmp_path / "users"), Rate(1, MINUTE))
    assert found.refusal(Caller()) is replies.TOO_MANY_LOGINS


async def test_login_when_it_fails_then_the_log_has_no_password_and_no_unknown_name(
    tmp_path: Path, clock: ManualClock, heard: list[tuple[str, dict[str, object]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = logins.logins(tmp_path, clock)
    for claim in (Claim("ann", "wr0ng"), Claim("typed-too-early", "wr0ng"), None):
        await found.judge(Caller(), "PLAIN", claim)
    await until(lambda: len(heard) == 3)
    assert [(fields.get("user"), fields["reason"]) for _, fields in heard] == [
        ("ann", "wrong password"),
        (None, "unknown user"),
        (None, "malformed"),
    ]
    assert "wr0ng" not in str(heard) and "typed-too-early" not in str(heard)


async def test_login_when_the_user_is_unknown_then_a_hash_of_the_same_cost_is_looked_at(
    tmp_path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[tuple[int, int, int]] = []
    real = Scrypt.matches

    def matches(self: Scrypt, password: str) -> bool:
        looked.append((self.ln, self.r, self.p))
        return real(self, password)

    monkeypatch.setattr(Scrypt, "matches", matches)
    found = logins.logins(tmp_path, clock)
    for name in ("ann", "nobody", "mallory"):
        assert await found.judge(Caller(), "PLAIN", Claim(name, "wrong")) is replies.LOGIN_FAILED
    assert looked == [(4, 8, 1)] * 3


@pytest.mark.parametrize("password", [*USERS.values(), ""])
async def test_login_when_the_user_is_unknown_then_no_password_lets_them_in(
    password: str, tmp_path: Path, clock: ManualClock
) -> None:
    found = logins.logins(tmp_path, clock)
    for number in range(20):  # whatever user's hash stands in
        assert await found.judge(Caller(), "PLAIN", Claim(f"nobody{number}", password)) is replies.LOGIN_FAILED


# -- a flood -------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def slow(tmp_path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> Any:
    """(logins, their one hash)."""
    found, kept = logins.logins(tmp_path, clock, Rate(100, MINUTE)), Slow()
    users = dict.fromkeys(USERS, kept)
    real = found.users.find
    monkeypatch.setattr(
        found.users, "find", lambda name: type(real(name))(name, users.get(name, kept), None, name in users)
    )
    yield found, kept
    kept.end.set()


async def test_logins_when_they_come_in_a_flood_then_few_are_worked_on_and_the_rest_is_put_off(
    slow: tuple[Logins, Slow], monkeypatch: pytest.MonkeyPatch
) -> None:
    found, kept = slow
    monkeypatch.setattr(login, "QUEUE", 20)
    claim = Claim("ann", "secret")
    tasks = [asyncio.ensure_future(found.judge(Caller(f"192.0.2.{n}"), "PLAIN", claim)) for n in range(60)]
    await until(lambda: sum(task.done() for task in tasks) == 60 - 20 - AT_A_TIME)
    assert {task.result() for task in tasks if task.done()} == {replies.LOGIN_NOT_NOW}
    kept.end.set()
    assert sum(reply is replies.LOGIN_OK for reply in await asyncio.gather(*tasks)) == 20 + AT_A_TIME
    assert kept.most == AT_A_TIME
    assert not found._waiting


async def test_logins_when_one_address_floods_then_others_have_their_turn(slow: tuple[Logins, Slow]) -> None:
    found, kept = slow
    claim = Claim("ann", "secret")
    flood = [asyncio.ensure_future(found.judge(Caller(), "PLAIN", claim)) for _ in range(50)]
    await until(lambda: sum(task.done() for task in flood) == 50 - OF_AN_ADDRESS - AT_A_TIME)
    honest = asyncio.ensure_future(found.judge(Caller("192.0.2.99"), "PLAIN", claim))
    await asyncio.sleep(0.01)
    kept.end.set()
    assert await honest is replies.LOGIN_OK
    await asyncio.gather(*flood)


async def test_logins_when_their_clients_leave_then_no_more_hashes_are_worked_on(slow: tuple[Logins, Slow]) -> None:
    found, kept = slow
    for _ in range(20):
        task = asyncio.ensure_future(found.judge(Caller(), "PLAIN", Claim("ann", "secret")))
        await asyncio.sleep(0.005)
        task.cancel()
        await asyncio.wait([task])
    assert kept.most == AT_A_TIME
    assert not found._waiting
    kept.end.set()
    async with asyncio.timeout(WAIT):
        assert await found.judge(Caller(), "PLAIN", Claim("ann", "secret")) is replies.LOGIN_OK


async def test_logins_when_others_of_the_address_fail_meanwhile_then_no_further_hash_is_looked_at(
    tmp_path: Path, clock: ManualClock, slow: tuple[Logins, Slow]
) -> None:
    found, kept = slow
    found.follow(found.users, Rate(2, MINUTE))
    claim = Claim("ann", "wrong")
    tasks = [asyncio.ensure_future(found.judge(Caller(), "PLAIN", claim)) for _ in range(6)]
    await until(lambda: kept.working == AT_A_TIME)
    kept.end.set()
    await asyncio.gather(*tasks)
    assert found.refusal(Caller()) is replies.TOO_MANY_LOGINS
    assert kept.looks <= AT_A_TIME + 1


# -- `responder password` ------------------------------------------------------------------------------------------------------


def test_password_when_it_comes_on_standard_input_then_the_line_lets_the_user_in(
    operator: Operator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("paßwort\n"))
    result = operator.run("password", "ann@test.example")
    assert (result.status, result.err, result.out.count("\n")) == (0, "", 1)
    (tmp_path / "users").write_text(result.out)
    user = Users(tmp_path / "users").find("ann@test.example")
    assert user.known and user.verifier is not None and user.hash.matches("paßwort")
    monkeypatch.setattr("sys.stdin", io.StringIO("x\n"))
    assert "SCRAM" not in operator.run("password", "ann", "--no-scram").out


@pytest.mark.parametrize(
    ("name", "given", "status"),
    [
        ("a:b", "x\n", 2),
        ("#a", "x\n", 2),
        ("a\tb", "x\n", 2),
        ("ann", "", 1),
        ("ann", "\n", 1),
        ("ann", "a\tb\n", 1),
        ("ann", "x" * 2000, 1),
    ],
)
def test_password_when_name_or_password_can_not_be_used_then_one_line_says_so(
    name: str, given: str, status: int, operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(given))
    result = operator.run("password", name)
    assert (result.status, result.out, result.err.count("\n")) == (status, "", 1)


@pytest.mark.parametrize(("again", "status"), [(b"secret\n", 0), (b"other\n", 1)])
def test_password_when_it_is_typed_then_it_is_asked_twice_and_not_shown(again: bytes, status: int) -> None:
    pid, terminal = pty.fork()
    if pid == 0:  # the program, at a terminal of its own
        os.execv(sys.executable, [sys.executable, "-m", "responder", "password", "ann"])
    shown = b""
    for answer in (b"secret\n", again):
        while not shown.endswith(b": "):
            shown += os.read(terminal, 1024)
        os.write(terminal, answer)
        shown += b"\0"
    with contextlib.suppress(OSError):  # the terminal's end
        while piece := os.read(terminal, 1024):
            shown += piece
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == status
    assert b"secret" not in shown and b"other" not in shown
    if status == 0:
        line = shown.decode().split("\n")[-2].strip()
        assert parse_hash(line.split(":")[1]).matches("secret")


def test_check_when_the_users_file_is_bad_then_one_line_names_file_line_and_reason(operator: Operator) -> None:
    logins.certificate(operator.folder)
    (operator.folder / "users").write_text("ann:secret\n")
    operator.write(
        configuration(
            listen=[{"address": "127.0.0.1:0", "protocol": "submission"}],
            tls={"certificate": "cert.pem", "key": "key.pem"},
            auth={"users": "users"},
        )
    )
    result = operator("check")
    assert (result.status, result.err.count("\n")) == (2, 1)
    assert "auth.users" in result.err and "line 1: wants a $scrypt$" in result.err and "secret" not in result.err
    logins.users_file(operator.folder).chmod(0o644)
    result = operator("check")
    assert result.status == 0 and "notice: auth.users: everybody on this machine can read it" in result.out

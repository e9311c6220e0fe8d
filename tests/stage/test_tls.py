"""TLS: the certificate and its files, handshakes that come to nothing, and what may not be carried over from the clear."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import re
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Callable, Coroutine
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trustme
import uvloop
from cryptography.hazmat.primitives import serialization

from responder.config.reception import TLS
from responder.inbound import followed, tls
from responder.inbound.followed import FileError
from responder.inbound.session import Session
from responder.inbound.tls import Certificate, start_tls
from responder.mail.lifecycle import State
from tests.support import logins
from tests.support.clock import ManualClock
from tests.support.dialog import Front, listening
from tests.support.operator import Operator
from tests.support.server import configuration

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}
WAIT = 20.0
HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"  # the beginning of a ClientHello
MAIL = b"MAIL FROM:<a@client.example>\r\nRCPT TO:<echo@test.example>\r\nDATA\r\nSubject: x\r\n\r\nhello\r\n"

both = pytest.mark.parametrize("loop", LOOPS)
ways = pytest.mark.parametrize("implicit", [False, True], ids=["starttls", "implicit"])


def run(loop: str, work: Coroutine[Any, Any, None]) -> None:
    """Run it on one of the loops. What that complains of fails the test: no task and no exception is left to it."""
    complaints: list[dict[str, Any]] = []

    async def watched() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        async with asyncio.timeout(60):
            await work
        gc.collect()
        await asyncio.sleep(0)

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(watched())
    gc.collect()
    assert not complaints


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(WAIT):
        while not condition():
            await asyncio.sleep(0.002)


@contextlib.asynccontextmanager
async def front(folder: Path, implicit: bool = False) -> AsyncIterator[Front]:
    async with listening(folder, {}, {"protocol": "smtps"} if implicit else {}, {"certificate"}) as found:
        yield found


class Client:
    """A client in the clear, and from `handshake` on under TLS."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def connect(cls, port: int, *, hello: bool) -> Client:
        """Where `hello`, up to the reply to STARTTLS."""
        client = cls(*await asyncio.open_connection("127.0.0.1", port))
        if hello:
            await client.read()
            await client.say(b"EHLO client.example\r\n")
            await client.say(b"STARTTLS\r\n")
        return client

    async def handshake(self, context: ssl.SSLContext | None = None) -> None:
        await self.writer.start_tls(context or logins.trusting(), server_hostname=logins.NAME)

    async def say(self, octets: bytes) -> str:
        self.writer.write(octets)
        return await self.read()

    async def read(self) -> str:
        """One reply."""
        text = ""
        while not text or text.splitlines()[-1][3:4] == "-":
            line = (await asyncio.wait_for(self.reader.readline(), WAIT)).decode()
            if not line:
                return text
            text += line
        return text

    async def rest(self) -> bytes:
        with contextlib.suppress(OSError):
            return await asyncio.wait_for(self.reader.read(), WAIT)
        return b""

    def reset(self) -> None:
        """End it by RST."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(OSError, ssl.SSLError):
            await self.writer.wait_closed()


# -- handshakes that come to nothing -----------------------------------------------------------------------------------------


@both
@ways
@pytest.mark.parametrize("beginning", [b"", HELLO], ids=["nothing", "half"])
@pytest.mark.parametrize("end", ["close", "half-close", "reset", "deadline", "server"])
def test_handshake_when_it_never_ends_then_the_session_does_and_nothing_of_it_is_left(
    end: str, beginning: bytes, implicit: bool, loop: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls, "HANDSHAKE", 0.3 if end == "deadline" else 60.0)

    async def go() -> None:
        async with front(tmp_path, implicit) as server:
            client = await Client.connect(server.port, hello=not implicit)
            await until(lambda: len(server.service.open) == 1)
            (session,) = server.service.open
            assert isinstance(session, Session)
            before = asyncio.all_tasks()
            client.writer.write(beginning)
            await until(lambda: session._waiting)
            if end == "close":
                client.writer.close()
            elif end == "half-close":
                client.writer.write_eof()
            elif end == "reset":
                client.reset()
            elif end == "server":
                draining = asyncio.ensure_future(server.listener.drain(1.0))
                while not draining.done():
                    server.clock.advance(0.1)
                    await asyncio.sleep(0.002)
            await until(lambda: not server.service.open)
            assert server.service.gatekeeper._total == 0 and not server.service.gatekeeper._open
            await until(lambda: not session._waiting)
            await client.close()
            await until(lambda: len(asyncio.all_tasks() - before) == 0)

    run(loop, go())


@both
@ways
@pytest.mark.parametrize(
    "octets", [b"EHLO evil.example\r\n" * 20, b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03" + b"\xff" * 99]
)
def test_handshake_when_it_is_none_then_the_connection_ends_and_the_log_says_so(
    octets: bytes, implicit: bool, loop: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[tuple[str, dict[str, Any]]] = []
    monkeypatch.setattr("responder.inbound.connection.event", lambda name, **fields: said.append((name, fields)))

    async def go() -> None:
        async with front(tmp_path, implicit) as server:
            client = await Client.connect(server.port, hello=not implicit)
            client.writer.write(octets)
            assert b"250" not in await client.rest()
            await until(lambda: not server.service.open)
            await client.close()
            assert await server.store.items([State.RECEIVED]) == []

    run(loop, go())
    ((name, fields),) = said
    assert (name, fields["peer"]) == ("tls failed", "127.0.0.1") and fields["reason"]


@both
def test_handshakes_when_a_thousand_are_left_half_done_then_nothing_of_them_is_left(loop: str, tmp_path: Path) -> None:
    def held() -> int:
        gc.collect()
        return sum(isinstance(thing, Session | ssl.SSLObject) for thing in gc.get_objects())

    async def go() -> None:
        settings = {"limits": {"connections_per_ip": 1000, "connection_rate": "off"}}
        async with listening(tmp_path, settings, {"protocol": "smtps"}, {"certificate"}) as server:
            before, tasks = held(), len(asyncio.all_tasks())
            for _ in range(10):
                clients = [await Client.connect(server.port, hello=False) for _ in range(100)]
                for number, client in enumerate(clients):
                    client.writer.write(HELLO)
                    if number % 2:
                        client.reset()
                    else:
                        client.writer.close()
                await until(lambda: not server.service.open)
            del clients, client
            await until(lambda: held() <= before)
            await until(lambda: len(asyncio.all_tasks()) <= tasks)

    run(loop, go())


async def test_handshake_when_the_client_has_left_in_its_first_moment_then_that_is_what_is_told() -> None:
    """uvloop then has no protocol any more that what had come early could be given to."""

    class Gone(asyncio.Transport):
        def get_protocol(self) -> asyncio.BaseProtocol:
            return None  # type: ignore[return-value]

    async def starting(*arguments: object, **options: object) -> None:
        for _ in range(5):
            await asyncio.sleep(0)
        raise ConnectionResetError

    loop: Any = SimpleNamespace(start_tls=starting)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with pytest.raises(ConnectionResetError):
        await start_tls(loop, Gone(), asyncio.Protocol(), context, lambda: HELLO)


# -- what may not be carried over --------------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("behind", [b"", b"EHLO evil.example\r\n", b"MAIL FROM:<evil@client.example>"])
def test_input_when_it_came_behind_starttls_in_the_clear_then_it_is_never_run(
    behind: bytes, loop: str, tmp_path: Path
) -> None:
    async def go() -> None:
        async with front(tmp_path) as server:
            client = Client(*await asyncio.open_connection("127.0.0.1", server.port))
            await client.read()
            await client.say(b"EHLO client.example\r\n")
            assert (await client.say(b"STARTTLS\r\n" + behind)).startswith("220")
            await client.handshake()
            assert (await client.say(b"\r\n")).startswith("500")  # nothing stands before it
            assert (await client.say(b"RCPT TO:<echo@test.example>\r\n")).startswith("503 5.5.1 Say EHLO")
            await client.close()

    run(loop, go())


@both
def test_starttls_when_split_at_any_place_then_it_works(loop: str, tmp_path: Path) -> None:
    async def go() -> None:
        async with front(tmp_path) as server:
            for at in range(1, 10):
                client = Client(*await asyncio.open_connection("127.0.0.1", server.port))
                await client.read()
                await client.say(b"EHLO client.example\r\n")
                client.writer.write(b"STARTTLS\r\n"[:at])
                await asyncio.sleep(0.005)
                assert (await client.say(b"STARTTLS\r\n"[at:])).startswith("220")
                await client.handshake()
                assert (await client.say(b"EHLO client.example\r\n")).startswith("250")
                await client.close()

    run(loop, go())


@both
@ways
def test_connection_when_cut_in_the_middle_of_a_mail_then_nothing_is_accepted(
    implicit: bool, loop: str, tmp_path: Path
) -> None:
    async def go() -> None:
        async with front(tmp_path, implicit) as server:
            client = await secure(server, implicit)
            client.writer.write(MAIL)
            assert [(await client.read())[:3] for _ in range(3)] == ["250", "250", "354"]
            raw = client.writer.get_extra_info("socket")
            raw = socket.socket(fileno=os.dup(raw.fileno()))
            raw.shutdown(socket.SHUT_WR)  # TCP's end comes without TLS's
            await until(lambda: not server.service.open)
            assert await server.store.items([State.RECEIVED]) == []
            raw.close()
            await client.close()

    run(loop, go())


@both
@ways
def test_client_when_it_says_all_and_ends_the_tls_session_then_its_mail_is_stored(
    implicit: bool, loop: str, tmp_path: Path
) -> None:
    async def go() -> None:
        async with front(tmp_path, implicit) as server:
            client = await secure(server, implicit)
            client.writer.write(MAIL + b".\r\n")
            client.writer.close()
            await until(lambda: not server.service.open and not server.service.busy)
            assert len(await server.store.items([State.RECEIVED])) == 1

    run(loop, go())


async def secure(server: Front, implicit: bool) -> Client:
    client = await Client.connect(server.port, hello=not implicit)
    await client.handshake()
    if implicit:
        await client.read()
    await client.say(b"EHLO client.example\r\n")
    return client


# -- versions and ciphers ----------------------------------------------------------------------------------------------------


def asking(ciphers: str = "", version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_2) -> ssl.SSLContext:
    context = logins.trusting()
    context.minimum_version = context.maximum_version = version
    if ciphers:
        context.set_ciphers(ciphers + ":@SECLEVEL=0")
    return context


@pytest.mark.parametrize("ciphers", ["ECDHE+AESGCM", "ECDHE+CHACHA20"])
async def test_cipher_when_it_is_good_then_it_is_spoken(ciphers: str, tmp_path: Path) -> None:
    async with front(tmp_path, implicit=True) as server:
        client = await Client.connect(server.port, hello=False)
        await client.handshake(asking(ciphers))
        assert (await client.read()).startswith("220")
        assert client.writer.get_extra_info("cipher")[0].startswith("ECDHE-")
        await client.close()


@pytest.mark.parametrize(
    "context",
    [
        asking("AES128-GCM-SHA256"),
        asking("ECDHE-RSA-AES128-SHA256:ECDHE-ECDSA-AES128-SHA256"),
        asking("ECDHE-RSA-AES256-SHA:ECDHE-ECDSA-AES256-SHA"),
        asking("DHE+AESGCM"),
        asking("ECDHE+AESCCM"),
        asking("ALL:!ECDHE"),
    ],
    ids=["static-rsa", "cbc", "sha1", "dhe", "ccm", "no-ecdhe"],
)
async def test_cipher_when_it_is_weak_then_there_is_no_handshake(context: ssl.SSLContext, tmp_path: Path) -> None:
    async with front(tmp_path, implicit=True) as server:
        client = await Client.connect(server.port, hello=False)
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await client.handshake(context)
        await until(lambda: not server.service.open)


def test_context_when_made_then_versions_and_options_are_safe(tmp_path: Path) -> None:
    context = logins.shown(tmp_path, ManualClock()).context
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert context.options & ssl.OP_NO_COMPRESSION and context.options & ssl.OP_NO_RENEGOTIATION
    strict = logins.certificate(tmp_path).model_copy(update={"minimum": "1.3"})
    assert Certificate(strict, ManualClock()).context.minimum_version == ssl.TLSVersion.TLSv1_3


# -- the files ---------------------------------------------------------------------------------------------------------------


def encrypted(key: bytes) -> bytes:
    found = serialization.load_pem_private_key(key, None)
    return found.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"x")
    )


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda c, k: c.unlink(), r"tls\.certificate: .*cert\.pem: no such file"),
        (lambda c, k: k.unlink(), r"tls\.key: .*key\.pem: no such file"),
        (lambda c, k: c.write_text("hello"), r"tls\.certificate: .*cert\.pem: is no certificate in PEM"),
        (lambda c, k: c.write_bytes(c.read_bytes()[:300]), r"tls\.certificate: .*cert\.pem: is no certificate in PEM"),
        (lambda c, k: k.write_text("hello"), r"tls\.key: .*key\.pem: is no private key in PEM"),
        (lambda c, k: k.write_bytes(k.read_bytes()[:100]), r"tls\.key: .*key\.pem: is no private key in PEM"),
        (lambda c, k: k.write_bytes(encrypted(k.read_bytes())), r"tls\.key: .*key\.pem: is encrypted"),
        (
            lambda c, k: k.write_bytes(trustme.CA().issue_cert("x.example").private_key_pem.bytes()),
            r"tls\.key: .*key\.pem: does not belong to the certificate",
        ),
        (lambda c, k: (c.unlink(), c.mkdir()), r"tls\.certificate: .*cert\.pem: Is a directory"),
        (lambda c, k: c.write_bytes(b"x" * (2 << 20)), r"tls\.certificate: .*cert\.pem: is larger than"),
    ],
)
def test_certificate_when_a_file_is_bad_then_one_line_names_it_and_its_key(
    change: Callable[[Path, Path], object], reason: str, tmp_path: Path, operator: Operator
) -> None:
    settings = logins.certificate(tmp_path)
    change(settings.certificate, settings.key)
    with pytest.raises(FileError, match=reason) as caught:
        Certificate(settings, ManualClock())
    assert "\n" not in str(caught.value)
    operator.write(configuration(tls={"certificate": "cert.pem", "key": "key.pem"}))
    for verb in ("check", "serve"):
        result = operator(verb)
        assert (result.status, result.err.count("\n")) == (2, 1), result.err
        assert f"{operator.file}: tls." in result.err


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of what was logged of followed files."""
    names: list[str] = []
    monkeypatch.setattr(followed, "event", lambda name, **_: names.append(name))
    return names


async def test_certificate_when_its_files_change_then_new_clients_see_the_new_one(
    tmp_path: Path, heard: list[str]
) -> None:
    async with front(tmp_path, implicit=True) as server:
        certificate = server.service.certificate
        assert certificate is not None
        server.service.followed = [certificate]
        before = await shown_to_client(server)
        assert await shown_to_client(server) == before
        logins.certificate(tmp_path)
        server.clock.advance(5.0)
        await until(lambda: heard)
        after = await shown_to_client(server)
        assert heard == ["read again"]
        assert after != before


async def shown_to_client(server: Front) -> object:
    client = await Client.connect(server.port, hello=False)
    await client.handshake()
    found = client.writer.get_extra_info("peercert")["serialNumber"]
    await client.close()
    return found


async def test_certificate_when_a_new_file_is_bad_then_the_old_one_stays_and_one_warning_is_logged(
    tmp_path: Path, heard: list[str]
) -> None:
    certificate = logins.shown(tmp_path, ManualClock())
    old, key = certificate.context, (tmp_path / "key.pem").read_bytes()
    assert not certificate.refresh()
    (tmp_path / "key.pem").write_bytes(key[:100])  # half-written
    for _ in range(3):
        assert not certificate.refresh()
    assert certificate.context is old and heard == ["not read again"]
    logins.certificate(tmp_path / "new")
    os.replace(tmp_path / "new" / "key.pem", tmp_path / "key.pem")  # the key first, its certificate later
    assert not certificate.refresh() and certificate.context is old
    os.replace(tmp_path / "new" / "cert.pem", tmp_path / "cert.pem")
    assert certificate.refresh()
    assert certificate.context is not old and heard == ["not read again", "not read again", "read again"]


def test_certificate_when_it_ends_soon_or_has_ended_then_it_is_remarked(tmp_path: Path, operator: Operator) -> None:
    clock = ManualClock(datetime.now(UTC).timestamp())
    issued = trustme.CA().issue_cert("mx.test.example", not_after=datetime.now(UTC) + timedelta(days=15))
    issued.private_key_and_cert_chain_pem.write_to_path(tmp_path / "both.pem")
    (tmp_path / "both.pem").chmod(0o600)
    both_in_one = TLS(certificate=tmp_path / "both.pem", key=tmp_path / "both.pem")
    certificate = Certificate(both_in_one, clock)
    assert list(certificate.remarks()) == []
    clock.advance(2 * 86400)
    assert [key for key, reason in certificate.remarks() if "expires on" in reason] == ["tls.certificate"]
    clock.advance(20 * 86400)
    assert [key for key, reason in certificate.remarks() if "has expired on" in reason] == ["tls.certificate"]
    issued = trustme.CA().issue_cert("mx.test.example", not_after=datetime.now(UTC) + timedelta(days=5))
    issued.private_key_and_cert_chain_pem.write_to_path(tmp_path / "both.pem")
    operator.write(configuration(tls={"certificate": "both.pem", "key": "both.pem"}))
    result = operator("check")
    assert result.status == 0
    assert "notice: tls.certificate: expires on" in result.out


def test_key_when_everybody_can_read_it_then_it_is_remarked(tmp_path: Path) -> None:
    certificate = logins.shown(tmp_path, ManualClock())
    (tmp_path / "key.pem").chmod(0o644)
    assert ("tls.key", "everybody on this machine can read it: chmod 640") in list(certificate.remarks())


@pytest.mark.parametrize(
    ("listen", "reason"),
    [
        ({"protocol": "smtps"}, r"listen\[0\]\.protocol: .*set \[tls\]"),
        ({"protocol": "submission"}, r"listen\[0\]\.protocol: .*set \[tls\]"),
        ({"auth": "offered"}, r"listen\[0\]\.auth: .*set \[tls\]"),
    ],
)
def test_listener_when_it_needs_what_is_not_there_then_one_line_says_so(
    listen: dict[str, str], reason: str, operator: Operator
) -> None:
    operator.write(configuration(listen=[{"address": "127.0.0.1:0", **listen}]))
    result = operator("check")
    assert result.status == 2 and result.err.count("\n") == 1
    assert re.search(reason, result.err), result.err

"""Taking mail over: 250 to the final dot means that it is on disk; anything else means that the client keeps it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from responder.inbound.replies import Reply
from responder.inbound.session import Session
from responder.mail.lifecycle import State
from responder.store.base import StoreFullError, StoreUnavailableError
from responder.store.records import NewMail
from responder.store.sqlite import SQLiteStore
from tests.support.dialog import Front, listening

WAIT = 20.0
ENVELOPE = b"HELO client.example\r\nMAIL FROM:<a@example.org>\r\nRCPT TO:<echo@test.example>\r\nDATA\r\n"
PATIENT = {"limits": {"junk_commands": 1_000_000}}  # where what is meant is how much is kept, not how much is said
MESSAGE = b"Subject: hello\r\n\r\nhello\r\n.\r\n"


class Client:
    """One connection; the replies are asked for one by one."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def say(self, octets: bytes) -> None:
        self.writer.write(octets)

    async def reply(self) -> str:
        return (await asyncio.wait_for(self.reader.readline(), WAIT)).decode().rstrip("\r\n")

    async def begin(self) -> None:
        """As far as the message: behind 354."""
        self.say(ENVELOPE)
        codes = [(await self.reply())[:3] for _ in range(5)]
        assert codes == ["220", "250", "250", "250", "354"]

    def reset(self) -> None:
        """Vanish as a machine does that loses its power supply: with a RST."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


@contextlib.asynccontextmanager
async def connected(front: Front) -> AsyncIterator[Client]:
    reader, writer = await asyncio.open_connection("127.0.0.1", front.port)
    try:
        yield Client(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


@pytest.fixture
async def front(tmp_path: Path) -> AsyncIterator[Front]:
    async with listening(tmp_path, {}) as front:
        yield front


async def stored(front: Front) -> int:
    return len(await front.store.items([State.RECEIVED]))


class Gate:
    """Holds every `accept` of a store up until it is opened, before or behind the commit."""

    def __init__(self, front: Front, monkeypatch: pytest.MonkeyPatch, *, committed: bool) -> None:
        self.reached = asyncio.Event()
        self.opened = asyncio.Event()
        accept = front.store.accept

        async def held(mail: NewMail) -> None:
            if committed:
                await accept(mail)
            self.reached.set()
            await self.opened.wait()
            if not committed:
                await accept(mail)

        monkeypatch.setattr(front.store, "accept", held)


async def test_250_is_said_when_the_mail_is_durable_and_not_before(
    front: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(front, monkeypatch, committed=False)
    async with connected(front) as client:
        await client.begin()
        client.say(MESSAGE + b"NOOP\r\n")
        await asyncio.wait_for(gate.reached.wait(), WAIT)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(client.reader.readexactly(1), 0.05)
        gate.opened.set()
        identifier = (await client.reply()).removeprefix("250 2.0.0 Queued as ")
        # Another connection to the file sees it at that moment.
        other = SQLiteStore(front.store._path, front.clock)
        await other.open()
        assert [item.id for item in await other.items([State.RECEIVED])] == [f"{identifier}.0"]
        await other.close()
        assert await client.reply() == "250 2.0.0 Ok"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (StoreFullError("/secret/path: disk full"), "452 4.3.1 No room now, try again later"),
        (StoreUnavailableError("/secret/path: I/O error"), "451 4.3.0 Cannot take mail now, try again later"),
        (ValueError("secret"), "451 4.3.0 Cannot take mail now, try again later"),
        (asyncio.CancelledError(), "451 4.3.0 Cannot take mail now, try again later"),
    ],
)
async def test_store_in_trouble_is_a_transient_reply_that_tells_nothing(
    front: Front, monkeypatch: pytest.MonkeyPatch, error: BaseException, said: str
) -> None:
    async def fail(mail: NewMail) -> None:
        raise error

    async with connected(front) as client:
        await client.begin()
        with monkeypatch.context() as patch:
            patch.setattr(front.store, "accept", fail)
            client.say(MESSAGE)
            assert await client.reply() == said
        assert await stored(front) == 0
        # The session is as good as before, and so is the next mail.
        client.say(ENVELOPE)
        assert [(await client.reply())[:3] for _ in range(4)] == ["250", "250", "250", "354"]
        client.say(MESSAGE)
        assert (await client.reply()).startswith("250 2.0.0 Queued as ")
        assert await stored(front) == 1


@pytest.mark.parametrize("how", ["half-close", "close", "reset"])
@pytest.mark.parametrize("committed", [False, True])
async def test_client_that_leaves_behind_the_dot_undoes_nothing(
    front: Front, monkeypatch: pytest.MonkeyPatch, how: str, committed: bool
) -> None:
    gate = Gate(front, monkeypatch, committed=committed)
    async with connected(front) as client:
        await client.begin()
        client.say(MESSAGE)
        await asyncio.wait_for(gate.reached.wait(), WAIT)
        if how == "half-close":
            client.writer.write_eof()
        elif how == "close":
            client.writer.close()
        else:
            client.reset()
        for _ in range(5):
            await asyncio.sleep(0)
        gate.opened.set()
        if how == "half-close":
            assert (await client.reply()).startswith("250 2.0.0 Queued as ")
            assert await client.reader.read() == b""
    async with asyncio.timeout(WAIT):
        while front.service.busy or front.service.open:
            await asyncio.sleep(0.001)
    assert await stored(front) == 1


@pytest.mark.parametrize("how", ["half-close", "close", "reset"])
async def test_client_that_leaves_before_the_dot_leaves_nothing(front: Front, how: str) -> None:
    async with connected(front) as client:
        await client.begin()
        client.say(MESSAGE[:-1])
        await asyncio.sleep(0)
        if how == "half-close":
            client.writer.write_eof()
        elif how == "close":
            client.writer.close()
        else:
            client.reset()
        async with asyncio.timeout(WAIT):
            while front.service.open:
                await asyncio.sleep(0.001)
    assert await stored(front) == 0


async def test_many_clients_at_once_each_get_their_mail_stored(front: Front) -> None:
    async def one(number: int) -> str:
        async with connected(front) as client:
            await client.begin()
            client.say(b"Subject: %d\r\n\r\nhello\r\n.\r\nQUIT\r\n" % number)
            said = await client.reply()
            assert await client.reply() == "221 2.0.0 Bye"
            return said.removeprefix("250 2.0.0 Queued as ")

    ids = await asyncio.gather(*(one(number) for number in range(40)))
    assert len(set(ids)) == 40
    assert {item.id for item in await front.store.items([State.RECEIVED])} == {f"{identifier}.0" for identifier in ids}
    for number, identifier in enumerate(ids):
        assert b"Subject: %d\r\n" % number in await front.store.content(identifier)


async def test_pipelined_input_waits_while_a_mail_is_stored_and_memory_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Megabytes of further commands behind the dot: reading is paused, and all is answered when the store is done."""
    async with listening(tmp_path, PATIENT) as front, connected(front) as client:
        gate = Gate(front, monkeypatch, committed=False)
        await client.begin()
        noops = 300_000
        client.say(MESSAGE + b"NOOP\r\n" * noops)
        await asyncio.wait_for(gate.reached.wait(), WAIT)
        for _ in range(200):
            await asyncio.sleep(0)
        [session] = front.service.open
        assert isinstance(session, Session)
        assert len(session._buffer) < 1_000_000
        gate.opened.set()
        assert (await client.reply()).startswith("250 2.0.0 Queued as ")
        expected = len(b"250 2.0.0 Ok\r\n") * noops
        assert len(await asyncio.wait_for(client.reader.readexactly(expected), WAIT)) == expected


async def test_client_that_does_not_read_is_not_run_for(tmp_path: Path) -> None:
    """Commands whose replies nobody takes: the session stops, instead of keeping replies without end."""
    async with listening(tmp_path, PATIENT) as front, connected(front) as client:
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        flood = b"HELP\r\n" * 50_000
        for _ in range(20):
            client.say(flood)
            for _ in range(20):
                await asyncio.sleep(0)
        [session] = front.service.open
        assert isinstance(session, Session)
        assert session.transport is not None
        assert session.transport.get_write_buffer_size() < 20_000_000
        assert session._write_paused
        client.reset()


@pytest.mark.parametrize("helo", ["client.example", "a(b)<c>;d", '"quoted"', "[192.0.2.1]", "x" * 255])
async def test_trace_field_holds_whatever_a_client_calls_itself(front: Front, helo: str) -> None:
    async with connected(front) as client:
        client.say(ENVELOPE.replace(b"client.example", helo.encode()))
        for _ in range(5):
            await client.reply()
        client.say(MESSAGE)
        identifier = (await client.reply()).removeprefix("250 2.0.0 Queued as ")
    content = await front.store.content(identifier)
    assert content.startswith(b"Received: from ")
    assert content.endswith(MESSAGE[:-3])
    head = content.split(b"\r\nSubject:")[0]
    assert all(line.startswith(b"\t") for line in head.split(b"\r\n")[1:])
    assert b"by mx.test.example with SMTP id " + identifier.encode() in head.replace(b"\r\n\t", b" ")


async def test_recipients_do_not_learn_of_each_other(front: Front) -> None:
    """RFC 5321 7.6: `for` stands in the trace field only where there is one recipient."""
    async with connected(front) as client:
        client.say(ENVELOPE.replace(b"DATA\r\n", b"RCPT TO:<bob@test.example>\r\nDATA\r\n"))
        for _ in range(6):
            await client.reply()
        client.say(MESSAGE)
        identifier = (await client.reply()).removeprefix("250 2.0.0 Queued as ")
    content = await front.store.content(identifier)
    assert b"echo@" not in content
    assert b"bob@" not in content


async def test_what_is_stored_is_what_the_client_said(front: Front) -> None:
    async with connected(front) as client:
        await client.begin()
        client.say(b"Message-ID:\r\n <1@example.org>\r\n" + MESSAGE)
        identifier = (await client.reply()).removeprefix("250 2.0.0 Queued as ")
    [account] = await front.store.account("<1@example.org>")
    expected: dict[str, Any] = {
        "id": identifier,
        "reverse_path": "a@example.org",
        "peer": "127.0.0.1",
        "helo": "client.example",
        "message_id": "<1@example.org>",
        "received_at": front.clock.now(),
    }
    assert account.mail is not None
    assert {key: account.mail[key] for key in expected} == expected
    assert (await front.store.items([State.RECEIVED]))[0].kind == "echo"


@pytest.mark.parametrize("later", [False, True])
async def test_mistake_of_ours_in_a_command_is_451_and_the_session_goes_on(
    front: Front, monkeypatch: pytest.MonkeyPatch, later: bool
) -> None:
    def fail(session: object, path: object) -> Reply:
        raise RuntimeError("secret insides")

    async def fail_later(session: object, path: object) -> Reply:
        return fail(session, path)

    async with connected(front) as client:
        with monkeypatch.context() as patch:
            patch.setattr(front.service.handler, "sender", fail_later if later else fail)
            client.say(b"HELO client.example\r\nMAIL FROM:<a@example.org>\r\n")
            assert [(await client.reply())[:3] for _ in range(2)] == ["220", "250"]
            assert await client.reply() == "451 4.3.0 Cannot do that now, try again later"
        client.say(b"MAIL FROM:<a@example.org>\r\n")
        assert (await client.reply())[:3] == "250"

"""Commands in one write, replies in their order: pipelining, chunks, many recipients, and hosts whose replies don't fit."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace

import pytest

from responder.mail.status import FailureError, Outcome, Scope
from responder.outbound.base import Envelope, RecipientResult
from responder.outbound.dial import Timeouts
from responder.outbound.smtp.greeting import extensions
from responder.outbound.smtp.session import MAX_RECIPIENTS, ClientSession
from responder.outbound.smtp.wire import BLOCK
from tests.support.smtp_sink import EXTENSIONS, SMTPSink

PATIENT = Timeouts(*[20.0] * 8)
MAIL = Envelope("me@example.org", ("a@x.com", "b@x.com"), b"Subject: hello\r\n\r\nhello\r\n")
Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def connect(port: int, timeouts: Timeouts = PATIENT) -> ClientSession:
    return await ClientSession.connect("mx.test", "127.0.0.1", port, local_hostname="mx.example.org", timeouts=timeouts)


@contextlib.asynccontextmanager
async def host(talk: Talk, offers: bytes = b"250-mx.test\r\n250 PIPELINING\r\n") -> AsyncIterator[int]:
    """A host that is polite until EHLO is answered, and then does as `talk` says. Its port."""
    tasks: set[asyncio.Task[None]] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            writer.write(b"220 mx.test ESMTP\r\n")
            await reader.readline()
            writer.write(offers)
            await talk(reader, writer)
            while await reader.read(1 << 16):
                pass
        writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def says(*replies: bytes, heard: bytearray | None = None) -> Talk:
    """Waits for the whole group up to DATA, and answers it so."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"DATA\r\n")
        writer.write(b"".join([reply + b"\r\n" for reply in replies]))
        while data := await reader.read(1 << 16):
            if heard is not None:
                heard.extend(data)

    return talk


def ends(results: list[RecipientResult]) -> list[tuple[Outcome, Scope]]:
    return [(result.outcome, result.scope) for result in results]


IN_DOUBT = [(Outcome.TRANSIENT, Scope.HOST)] * 2


async def test_host_pipelines_then_a_mail_is_two_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    async with SMTPSink() as sink:
        session = await connect(sink.port)
        writes: list[bytes] = []
        send = session._channel.send

        def write(data: bytes, replies: int) -> bool:
            writes.append(data)
            return send(data, replies)

        monkeypatch.setattr(session._channel, "send", write)
        await session.send(MAIL)
        assert [write.split(b" ")[0].split(b"\r\n")[0] for write in writes] == [b"MAIL", b"Subject:"]
        assert writes[0].count(b"\r\n") == 4
        await session.close()


async def test_host_does_not_pipeline_then_each_command_waits_for_its_reply() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for reply in (b"250 ok", b"250 ok", b"250 ok", b"354 go"):
            data = await reader.read(1 << 16)
            assert data.count(b"\r\n") == 1, data
            writer.write(reply + b"\r\n")
        await reader.readuntil(b"\r\n.\r\n")
        writer.write(b"250 stored\r\n")

    async with host(talk, b"250 mx.test\r\n") as port:
        session = await connect(port)
        assert [result.text for result in await session.send(MAIL)] == ["stored", "stored"]
        session.abort()


async def test_nobody_is_accepted_but_the_host_waits_for_content_then_it_gets_a_lone_dot() -> None:
    async with SMTPSink({"RCPT": ["550 5.1.1 who"] * 2, "NOBODY": ["354 go ahead"]}) as sink:
        session = await connect(sink.port)
        results = await session.send(MAIL)
        assert [result.enhanced for result in results] == ["5.1.1", "5.1.1"]
        assert session.reusable
        assert (await session.send(MAIL))[0].outcome is Outcome.SUCCESS
        await session.close()
    assert sink.verbs()[:6] == ["EHLO", "MAIL", "RCPT", "RCPT", "DATA", "RSET"]
    assert [mail.content for mail in sink.transactions] == [MAIL.content]


async def test_sender_is_refused_but_a_recipient_and_data_are_not_then_no_dot_is_said() -> None:
    heard = bytearray()
    async with host(says(b"550 5.7.1 not you", b"250 ok", b"550 who", b"354 go", heard=heard)) as port:
        session = await connect(port)
        results = await session.send(MAIL)
        assert [(result.outcome, result.code, result.enhanced) for result in results] == [
            (Outcome.PERMANENT, 550, "5.7.1")
        ] * 2
        assert not session.reusable
    assert heard == b""


async def test_sender_is_refused_and_so_is_all_behind_it_then_the_first_word_counts() -> None:
    async with SMTPSink({"MAIL": ["451 4.7.1 later"]}) as sink:
        session = await connect(sink.port)
        results = await session.send(MAIL)
        assert [(result.code, result.scope) for result in results] == [(451, Scope.MESSAGE)] * 2
        assert (await session.send(MAIL))[1].outcome is Outcome.SUCCESS
        await session.close()
    assert sink.connections == 1


@pytest.mark.parametrize(
    "replies",
    [
        (b"250 ok", b"250 a", b"354 go"),  # one too few
        (b"250 ok", b"550 a", b"354 go"),
        (b"250 ok", b"354 go"),
        (b"250 ok", b"550 a", b"550 what?", b"250 b", b"354 go"),  # one too many
        (b"250 ok", b"250 ok", b"550 a", b"250 b", b"354 go"),
        (b"250 ok", b"250 a", b"250 b", b"354 go", b"250 stored"),
        (b"250 ok", b"250 a", b"250 b", b"354 go", b"25"),
        (b"250 ok", b"550 a", b"550 b", b"554 nobody", b"250 ok"),
        (b"250 ok", b"550 a", b"550 b", b"250 nobody"),  # codes that can't be to their commands
        (b"250 ok", b"550 a", b"354 b", b"354 go"),
        (b"250 ok", b"503 5.5.1 need RCPT", b"250 a", b"250 b"),  # in another order
        (b"503 need MAIL", b"250 ok", b"250 a", b"354 go"),
        (b"250 ok", b"250 a", b"250 b", b"503 need RCPT"),
        (b"250 ok", b"550 a", b"no smtp", b"354 go"),
        (b"250 ok", b"550 a", b"299-b\r\n250 b", b"354 go"),
        (b"250 ok", b"550 a", b"600 b", b"354 go"),
        (b"250 ok", b"550 a", b"", b"250 b", b"354 go"),
    ],
)
async def test_replies_do_not_fit_the_commands_then_none_counts_and_nothing_is_sent(replies: tuple[bytes, ...]) -> None:
    heard = bytearray()
    async with host(says(*replies, heard=heard)) as port:
        session = await connect(port)
        results = await session.send(MAIL)
        assert not session.reusable
        assert not any(result.after_dot for result in results)
    assert ends(results) == IN_DOUBT
    assert heard == b""


async def test_host_says_goodbye_in_the_middle_then_those_refused_stay_refused() -> None:
    async with host(says(b"250 ok", b"550 5.1.1 a", b"421 4.3.2 bye")) as port:
        session = await connect(port)
        first, second = await session.send(MAIL)
        assert not session.reusable
    assert (first.outcome, first.enhanced) == (Outcome.PERMANENT, "5.1.1")
    assert (second.outcome, second.scope, second.code) == (Outcome.TRANSIENT, Scope.HOST, 421)


async def test_host_says_goodbye_behind_354_then_the_mail_was_not_sent() -> None:
    heard = bytearray()
    async with host(says(b"250 ok", b"250 a", b"550 5.1.1 b", b"354 go\r\n421 4.3.2 bye", heard=heard)) as port:
        session = await connect(port)
        first, second = await session.send(MAIL)
    assert (first.code, first.after_dot, second.enhanced) == (421, False, "5.1.1")
    assert heard == b""


class Crowded:
    """Takes so many recipients in a transaction, and refuses the rest so."""

    def __init__(self, limit: int, reply: str) -> None:
        self.limit, self.reply, self.count = limit, reply, 0

    def __call__(self, step: str, argument: str) -> str | None:
        if step == "MAIL":
            self.count = 0
        self.count += step == "RCPT"
        return self.reply if step == "RCPT" and self.count > self.limit else None


@pytest.mark.parametrize("offers", [EXTENSIONS, ["ENHANCEDSTATUSCODES"], ["CHUNKING"]])
@pytest.mark.parametrize(
    "reply",
    [
        "452 4.5.3 too many recipients",
        "452 too many",
        "552 5.5.3 too many",
        "552 no more",
        "452-4.5.3 try\n452 4.5.3 again",
    ],
)
async def test_too_many_recipients_then_the_rest_goes_at_once_on_the_same_connection(
    reply: str, offers: list[str]
) -> None:
    mail = replace(MAIL, recipients=tuple([f"r{n}@x.com" for n in range(7)]))
    async with SMTPSink(Crowded(3, reply), extensions=offers) as sink:
        session = await connect(sink.port)
        results = await session.send(mail)
        assert session.reusable
        await session.close()
    assert {result.outcome for result in results} == {Outcome.SUCCESS}
    assert [result.recipient for result in results] == list(mail.recipients)
    assert [transaction.recipients for transaction in sink.transactions] == [
        list(mail.recipients[:3]),
        list(mail.recipients[3:6]),
        list(mail.recipients[6:]),
    ]
    assert (sink.connections, session.messages_sent) == (1, 3)


@pytest.mark.parametrize("reply", ["452 4.2.2 mailbox full", "452 4.3.1 out of storage", "450 4.2.1 later"])
async def test_recipient_is_put_off_for_itself_then_it_is_not_asked_again(reply: str) -> None:
    async with SMTPSink({"RCPT": [None, reply]}) as sink:
        session = await connect(sink.port)
        first, second = await session.send(MAIL)
        await session.close()
    assert (first.outcome, second.outcome, len(sink.transactions)) == (Outcome.SUCCESS, Outcome.TRANSIENT, 1)


async def test_first_recipient_is_too_many_then_it_waits() -> None:
    async with SMTPSink(Crowded(0, "452 4.5.3 too many recipients")) as sink:
        session = await connect(sink.port)
        results = await session.send(MAIL)
        await session.close()
    assert ends(results) == [(Outcome.TRANSIENT, Scope.RECIPIENT)] * 2
    assert sink.verbs().count("MAIL") == 1


@pytest.mark.parametrize(("action", "unknown"), [("drop", True), ("421 4.3.2 bye", False)])
async def test_connection_ends_with_recipients_left_then_they_never_had_the_mail(action: str, unknown: bool) -> None:
    crowded = Crowded(1, "452 4.5.3 too many recipients")
    async with SMTPSink(lambda step, argument: action if step == "DOT" else crowded(step, argument)) as sink:
        session = await connect(sink.port)
        first, second = await session.send(MAIL)
    assert (first.after_dot, second.after_dot) == (unknown, False)
    assert (second.outcome, second.scope) == (Outcome.TRANSIENT, Scope.HOST)


@pytest.mark.parametrize("offers", [EXTENSIONS, ["SIZE"]])
async def test_more_recipients_than_any_host_must_take_go_in_several_transactions(offers: list[str]) -> None:
    mail = replace(MAIL, recipients=tuple([f"r{n}@x.com" for n in range(2 * MAX_RECIPIENTS + 5)]))
    async with SMTPSink({"RCPT": [None, "550 5.1.1 who"]}, extensions=offers) as sink:
        session = await connect(sink.port)
        results = await session.send(mail)
        await session.close()
    assert [n for n, result in enumerate(results) if result.outcome is not Outcome.SUCCESS] == [1]
    assert [len(transaction.recipients) for transaction in sink.transactions] == [99, 100, 5]


async def test_connection_ends_before_the_second_transaction_then_those_of_it_never_had_the_mail() -> None:
    mail = replace(MAIL, recipients=tuple([f"r{n}@x.com" for n in range(MAX_RECIPIENTS + 5)]))
    async with SMTPSink({"DOT": "drop"}) as sink:
        session = await connect(sink.port)
        results = await session.send(mail)
    assert [result.after_dot for result in results] == [True] * MAX_RECIPIENTS + [False] * 5
    assert {result.scope for result in results} == {Scope.HOST}


async def test_half_a_reply_too_many_comes_before_the_next_command_then_none_counts() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(b"250 ok\r\n550 wh")
        await reader.readline()
        writer.write(b"o\r\n")

    async with host(talk, b"250 mx.test\r\n") as port:
        session = await connect(port)
        results = await session.send(MAIL)
    assert ends(results) == IN_DOUBT


async def test_host_answers_at_length_before_it_reads_on_then_nobody_waits_for_ever() -> None:
    """A group larger than what the kernel takes for a host that is deaf while it talks."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            code = b"354" if line == b"DATA\r\n" else b"250"
            writer.write(code + b" " + b"x" * 2000 + b"\r\n")
            await writer.drain()
            if code == b"354":
                await reader.readuntil(b"\r\n.\r\n")
                writer.write(b"250 stored\r\n")

    mail = replace(MAIL, recipients=tuple([f"{'r' * 60}{n}@{'d' * 60}.{'e' * 60}.com" for n in range(100)]))
    async with host(talk) as port:
        session = await connect(port)
        results = await asyncio.wait_for(session.send(mail), 20)
        session.abort()
    assert {result.text for result in results} == {"stored"}


@pytest.mark.parametrize(
    ("offers", "size", "verb"),
    [
        (["CHUNKING"], 10, "BDAT"),
        (["CHUNKING", "PIPELINING"], 10, "DATA"),
        (["CHUNKING", "PIPELINING"], BLOCK, "BDAT"),
        (["CHUNKING", "PIPELINING"], 5 * BLOCK, "BDAT"),
        (["PIPELINING"], 5 * BLOCK, "DATA"),
    ],
)
async def test_content_goes_as_a_chunk_where_that_is_of_use(offers: list[str], size: int, verb: str) -> None:
    content = b"Subject: x\r\n\r\n.\r\n..\r\n.x\r\n" + b"y" * size + b"\r\n.\r\n"
    async with SMTPSink(extensions=offers) as sink:
        session = await connect(sink.port)
        for _ in range(2):
            assert {result.outcome for result in await session.send(replace(MAIL, content=content))} == {
                Outcome.SUCCESS
            }
        await session.close()
    assert [transaction.content for transaction in sink.transactions] == [content] * 2
    assert ("BDAT" in sink.verbs(), "DATA" in sink.verbs()) == (verb == "BDAT", verb == "DATA")


async def test_chunk_of_nothing_is_a_mail() -> None:
    async with SMTPSink(extensions=["CHUNKING"]) as sink:
        session = await connect(sink.port)
        assert (await session.send(replace(MAIL, content=b"")))[0].outcome is Outcome.SUCCESS
        await session.close()
    assert sink.transactions[0].content == b""


async def test_nobody_is_accepted_then_no_octet_of_a_chunk_is_sent() -> None:
    async with SMTPSink({"RCPT": "550 5.1.1 who"}, extensions=["CHUNKING", "PIPELINING"]) as sink:
        session = await connect(sink.port)
        await session.send(replace(MAIL, content=b"x" * 2 * BLOCK))
        assert session.reusable
        await session.close()
    assert "BDAT" not in sink.verbs()


@pytest.mark.parametrize("step", ["MAIL", "RCPT", "DATA", "DOT"])
async def test_host_takes_its_time_at_each_step_then_the_mail_has_one_for_all(step: str) -> None:
    slow = {"MAIL": "slow 0.3", "RCPT": "slow 0.3", "DATA": "slow 0.3", "DOT": "slow 30"}
    script = {step: slow[step]} if step == "DOT" else slow
    async with SMTPSink(script) as sink:
        session = await connect(sink.port, replace(PATIENT, whole=0.5))
        results = await asyncio.wait_for(session.send(MAIL), 10)
        assert not session.reusable
    assert {result.after_dot for result in results} == {step == "DOT"}
    assert "took too long over one mail at" in results[0].text
    assert ends(results) == IN_DOUBT


@pytest.mark.parametrize("said", [b"250 what?\r\n", b"2", b"250-", b"garbage\r\n", b"421 4.4.2 idle\r\n", b""])
async def test_host_speaks_or_leaves_while_idle_then_the_connection_is_not_used_again(said: bytes) -> None:
    speak = asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await speak.wait()
        if said:
            writer.write(said)
        else:
            writer.close()

    async with host(talk) as port:
        session = await connect(port)
        before = session.reusable
        speak.set()
        async with asyncio.timeout(5):
            while session.reusable:
                await asyncio.sleep(0.01)
        assert before
        results = await session.send(MAIL)
        assert ends(results) == IN_DOUBT
        assert not any(result.after_dot for result in results)


@pytest.mark.parametrize("reply", [b"250", b"250 \xff\x00\x07 ok", b"250-\r\n250", b"250 ok\n", b"250 ", b"299 ok"])
async def test_reply_is_odd_but_one_then_it_is_taken(reply: bytes) -> None:
    async with host(
        says(reply.removesuffix(b"\n") if reply[-1:] == b"\n" else reply, b"250 a", b"550 5.1.1 b", b"354 go")
    ) as port:
        session = await connect(port, replace(PATIENT, dot=0.2))
        first, second = await session.send(MAIL)
    assert (first.after_dot, second.enhanced) == (True, "5.1.1")


@pytest.mark.parametrize(
    "reply",
    [
        b"25",
        b"2500 ok",
        b"250_ok",
        b"\x00250 ok",
        b" 250 ok",
        b"-250 ok",
        b"150 ok",
        b"650 ok",
        b"2\xb25 ok",
        b"250-a\r\n251 b",
    ],
)
async def test_reply_is_no_smtp_then_it_is_not_taken(reply: bytes) -> None:
    async with host(says(reply, b"250 a", b"250 b", b"354 go")) as port:
        session = await connect(port)
        results = await session.send(MAIL)
    assert ends(results) == IN_DOUBT
    assert {result.enhanced for result in results} == {"4.5.0"}


def test_what_a_host_offers_is_believed_by_its_syntax() -> None:
    lines = [
        "mx.test hello",
        "SIZE 100",
        "8bitmime",
        "PIPE LINING",
        "-CHUNKING",
        "DSN\x07",
        "SMTPUTF8 \x80",
        "X" * 65,
        "AUTH=LOGIN",
        "",
    ]
    assert extensions("\n".join(lines)) == {"size": "100", "8bitmime": "", "pipe": "LINING", "auth": "LOGIN"}
    assert extensions("PIPELINING") == {}


async def test_many_extensions_are_refused_in_bounded_memory() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None: ...

    offers = b"".join([b"250-X%d\r\n" % n for n in range(10_000)]) + b"250 PIPELINING\r\n"
    async with host(talk, offers) as port:
        with pytest.raises(FailureError) as caught:
            await connect(port)
    assert "too long" in caught.value.failure.text

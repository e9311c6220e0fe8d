"""Replies in any pieces: what is read does not depend on the cuts, nothing crashes, and memory is bounded. No sockets."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from responder.mail.status import Failure, FailureError, Outcome, RemoteReply, Verb
from responder.outbound.dial import Timeouts
from responder.outbound.smtp.channel import MAX_LINE, MAX_REPLY, MAX_UNREAD, Channel
from responder.outbound.smtp.transaction import Transaction

TIMEOUTS = Timeouts(*[5.0] * 8)
CUTS = st.lists(st.integers(1, 40), max_size=12)
TEXT = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=20).map(str.strip)


class Wire(asyncio.Transport):
    """A transport that goes nowhere: keeps what is written, and says it to `hears`."""

    def __init__(self, channel: Channel) -> None:
        super().__init__()
        self.channel = channel
        self.written = bytearray()
        self.closed = False
        self.host: Host | None = None
        channel.connection_made(self)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.closed
        self.written += data
        if self.host is not None:
            self.host.hear(bytes(data))

    def is_closing(self) -> bool:
        return self.closed

    def abort(self) -> None:
        if not self.closed:
            self.closed = True
            asyncio.get_running_loop().call_soon(self.channel.connection_lost, None)

    close = abort

    def feed(self, data: bytes, cuts: list[int]) -> None:
        """What comes in, in pieces of these sizes and one with the rest."""
        for size in [*cuts, len(data)]:
            if self.closed:
                return
            if data:
                self.channel.data_received(data[:size])
            data = data[size:]
            check_bounds(self.channel)


def check_bounds(channel: Channel) -> None:
    assert len(channel._buffer) <= MAX_LINE
    assert sum(map(len, channel._lines)) <= MAX_REPLY
    assert sum(len(reply.message) for reply in channel._replies) <= MAX_UNREAD + MAX_REPLY


@dataclass
class Host:
    """Answers commands by a list, in pieces."""

    wire: Wire
    replies: list[bytes]
    cuts: list[int]
    content: bool = False  # comes next
    heard: list[bytes] = field(default_factory=list)

    def hear(self, data: bytes) -> None:
        due = 0
        for line in data.split(b"\r\n")[:-1]:
            if self.content:
                self.content = line != b"."
                due += not self.content
                continue
            self.heard.append(line)
            reply = self.replies[due] if due < len(self.replies) else b""
            due += 1
            self.content = line == b"DATA" and reply.startswith(b"3")
        said = b"".join(self.replies[:due])
        del self.replies[:due]
        asyncio.get_running_loop().call_soon(self.wire.feed, said, self.cuts)


async def read_all(data: bytes, cuts: list[int], commands: int) -> list[tuple[int, str]]:
    """What is read of `data` as the replies to so many commands, the banner among them."""
    channel = Channel()
    wire = Wire(channel)
    channel.send(b"NOOP\r\n" * (commands - 1), commands - 1)
    wire.feed(data, cuts)
    if not wire.closed:
        channel.eof_received()
    found = []
    try:
        for _ in range(commands):
            reply = await channel.reply(Verb.RCPT, 0.0)
            found.append((reply.code, reply.text))
        await channel.reply(Verb.RCPT, 0.0)
    except FailureError as error:
        found.append((-1, error.failure.text))
    assert not channel.quiet
    return found


REPLY = st.tuples(st.integers(200, 599), st.lists(TEXT, min_size=1, max_size=3))


def spelled(reply: tuple[int, list[str]]) -> bytes:
    code, lines = reply
    marks = ["-"] * (len(lines) - 1) + [" "]
    return "".join([f"{code}{mark}{text}\r\n" for mark, text in zip(marks, lines, strict=True)]).encode()


@given(st.lists(REPLY, min_size=1, max_size=6), CUTS)
@settings(max_examples=150, deadline=None)
def test_replies_are_cut_anywhere_then_each_is_read_in_its_turn(
    replies: list[tuple[int, list[str]]], cuts: list[int]
) -> None:
    data = b"".join([spelled(reply) for reply in replies])
    found = asyncio.run(read_all(data, cuts, len(replies)))
    assert found[:-1] == [(code, RemoteReply(code, "\n".join(lines)).text) for code, lines in replies]
    assert found[-1][0] == -1


TOKENS = st.sampled_from(
    [
        b"250 ok\r\n",
        b"250-",
        b"250",
        b"550 no\n",
        b"421 bye\r\n",
        b"354 go\r\n",
        b"\r\n",
        b"\n",
        b"\r",
        b"\x00",
        b"\xff\xfe",
        b"2",
        b" ",
        b"-",
        b"999 x\r\n",
        b"x" * 600,
        b"250-a\r\n251 b\r\n",
        b"y" * MAX_LINE,
        b"250-" + b"z" * 5000 + b"\r\n",
    ]
)


@given(st.lists(TOKENS | st.binary(max_size=20), max_size=25).map(b"".join), CUTS, st.integers(1, 8))
@settings(max_examples=300, deadline=None)
def test_any_octets_come_then_the_cuts_change_nothing_and_memory_is_bounded(
    data: bytes, cuts: list[int], commands: int
) -> None:
    whole, cut = asyncio.run(read_all(data, [], commands)), asyncio.run(read_all(data, cuts, commands))
    # A line that is too long may be refused before its end is here, with other words.
    assert [code for code, _ in whole] == [code for code, _ in cut] or len(data) > MAX_LINE


CODES = st.sampled_from([250, 250, 250, 354, 354, 450, 452, 550, 552, 421, 220, 600])


async def transact(codes: list[int], recipients: int, cuts: list[int], pipelined: bool) -> tuple[Transaction, Host]:
    channel = Channel()
    wire = Wire(channel)
    wire.feed(b"220 mx.test\r\n", [])
    await channel.expect(Verb.BANNER, 1.0, 220)
    wire.host = Host(wire, [b"%d reply %d\r\n" % (code, n) for n, code in enumerate(codes)], cuts)
    transaction = Transaction(
        channel,
        TIMEOUTS,
        b"MAIL FROM:<>",
        {n: b"RCPT TO:<r%d@x.com>" % n for n in range(recipients)},
        b"Subject: x\r\n",
        {"pipelining": ""} if pipelined else {},
    )
    await asyncio.wait_for(transaction.run(), 10)
    return transaction, wire.host


@given(st.lists(CODES, min_size=12, max_size=12), st.integers(1, 4), CUTS, st.booleans())
@settings(max_examples=400, deadline=None)
def test_each_recipient_ends_by_the_replies_to_its_own_commands(
    codes: list[int], recipients: int, cuts: list[int], pipelined: bool
) -> None:
    transaction, host = asyncio.run(transact(codes, recipients, cuts, pipelined))
    said = dict(zip(host.heard, codes, strict=False))  # in lockstep not all commands are said
    mail, data = said[b"MAIL FROM:<>"], said.get(b"DATA", 0)
    rcpt = {n: said.get(b"RCPT TO:<r%d@x.com>" % n, 0) for n in range(recipients)}
    accepted = [n for n, code in rcpt.items() if code // 100 == 2]
    sent = b"Subject: x\r\n.\r\n" in host.wire.written
    assert set(transaction.ends) | set(transaction.left) == set(rcpt)
    assert not set(transaction.ends) & set(transaction.left)
    if sent:
        assert mail // 100 == 2 and accepted and data // 100 == 3
    dot = codes[len(host.heard)]
    for n, end in transaction.ends.items():
        if not isinstance(end, Failure):
            assert sent and n in accepted and dot // 100 == 2
        elif end.outcome is Outcome.PERMANENT:
            assert end.code in {mail, rcpt[n]} | ({data, dot} if n in accepted else set())
        elif end.after_dot:
            assert sent and n in accepted
        if isinstance(end, RemoteReply) or end.code:
            assert end.text.startswith("reply ")
    for n in transaction.left:
        assert rcpt[n] in (0, 452, 552) and accepted and min(accepted) < n
    assert transaction.taken == (sent and dot // 100 == 2)
    if transaction.taken:
        assert transaction.channel.quiet


async def test_one_deadline_is_for_the_whole_reply() -> None:
    channel = Channel()
    wire = Wire(channel)
    reading = asyncio.create_task(channel.reply(Verb.BANNER, 0.2))
    loop = asyncio.get_running_loop()
    for n, octet in enumerate(b"220 " + b"x" * 100):
        loop.call_later(n * 0.02, wire.feed, bytes([octet]), [])
    with pytest.raises(FailureError) as caught:
        await asyncio.wait_for(reading, 1)
    assert "timed out at banner" in caught.value.failure.text
    wire.abort()


async def test_host_floods_then_it_is_cut_off() -> None:
    for flood in (b"x" * (1 << 20), b"250-x\r\n" * (1 << 17), b"\n" * (1 << 20), b"250 " + b"x" * (1 << 20)):
        wire = Wire(Channel())
        wire.feed(flood, [1000] * 1000)
        assert wire.closed


async def test_unread_replies_are_bounded_together() -> None:
    channel = Channel()
    wire = Wire(channel)
    channel.send(b"NOOP\r\n" * 1000, 1000)
    reply = b"".join([b"250-" + b"x" * 8000 + b"\r\n"] * 3) + b"250 end\r\n"
    for _ in range(100):
        wire.feed(reply, [])
    assert wire.closed
    assert sum(len(reply.message) for reply in channel._replies) <= MAX_UNREAD + MAX_REPLY

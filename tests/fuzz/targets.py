"""What reads octets of strangers, each as one function that takes any input.

An exception that it isn't expected to raise, or a promise that isn't kept, is a find."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import random
import tempfile
import tomllib
import zlib
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

from responder.authentication.forged import strip_forged
from responder.authentication.verifier import Authenticator
from responder.config import Authentication, Limits, Listen
from responder.config.zones import parse_zone
from responder.dns import NoData, NotFound, Resolver, TemporaryError
from responder.inbound.chunks import ChunkReceiver, parse_chunk
from responder.inbound.data import DataReceiver, has_bare_line_end
from responder.inbound.dialects import files as dialect_file
from responder.inbound.followed import FileError
from responder.inbound.limits.denied import DenyList
from responder.inbound.listening.proxy import ProxyError, parse_header
from responder.inbound.login.passwords import Verifier
from responder.inbound.login.sasl import Claim, Login, Mechanism, Plain, SASLError, Scram, decode64
from responder.inbound.parameters import mail_parameters
from responder.mail import address, automatic, binary, envelope, html, mailboxes, quoting, report, thread
from responder.mail.edit import SplitMail
from responder.mail.headers import Headers, decode_text
from responder.mail.message import Message
from tests.fuzz.wire import Talk, pieces
from tests.support.clock import ManualClock

Target = Callable[[bytes], Awaitable[None] | None]

LIMITS = Limits.model_validate(
    {
        "message_size": 20_000,
        "in_flight": 60_000,
        "connection_rate": "off",
        "unknown_recipients": "off",
        "same_subject": "off",
    }
)
LATE = LIMITS.model_copy(update={"bare_line_ends": "normalise"})


POLICY = automatic.Policy("mx.test.example", lambda one: one.domain == "test.example")


def dice(octets: bytes) -> random.Random:
    """Chance that depends on the input alone."""
    return random.Random(zlib.crc32(octets))


async def session(octets: bytes) -> None:
    """A whole conversation, cut anywhere."""
    chance = dice(octets)
    late, lmtp = chance.random() < 0.3, chance.random() < 0.2
    limits = LATE if late else LIMITS
    talk = Talk(limits, Listen(protocol="lmtp") if lmtp else Listen(), late=late)
    cuts = [chance.randrange(len(octets) + 1) for _ in range(chance.choice([0, 1, 3, 10]))]
    for piece in pieces(octets, cuts):
        await talk.bring(piece)
        if talk.wire.closed:
            break
    await talk.leave(politely=chance.random() < 0.7)
    talk.replies()
    for sender, recipients, content in talk.judge.mails:
        assert recipients
        assert not any(char in sender for char in "\r\n\0")
        assert len(content) <= limits.message_size + 2
        assert not content or content.endswith(b"\r\n")
        # The promise that keeps a second message out of what is sent on (RFC 5321 4.5.2), but for binary mail.
        assert not has_bare_line_end(content) or b"BINARYMIME" in octets.upper()


def data(octets: bytes) -> None:
    """The end of a message is the same wherever it was cut, and nothing but CRLF.CRLF ends it."""
    stream = octets + b"\r\n.\r\nQUIT\r\n"
    chance = dice(octets)
    receiver = DataReceiver(1 << 20)
    rest: bytes | bytearray | None = None
    read = 0
    for piece in pieces(stream, [chance.randrange(len(stream)) for _ in range(5)]):
        read += len(piece)
        rest = receiver.feed(piece)
        if rest is not None:
            break
    assert rest is not None
    end = read - len(rest)
    sent = b"\r\n" + stream[:end]
    assert sent.endswith(b"\r\n.\r\n")
    assert sent.find(b"\r\n.\r\n") == len(sent) - 5
    assert receiver.take() == sent[:-3].replace(b"\r\n.", b"\r\n")[2:]


def chunk(octets: bytes) -> None:
    """Sizes as they are written, and chunks that take exactly what they said."""
    found = parse_chunk(octets[:100].decode("latin-1"))
    assert found is None or found[0] >= 0
    chance = dice(octets)
    receiver = ChunkReceiver(1 << 20)
    size = chance.randrange(len(octets) + 1)
    receiver.begin(size, last=True)
    read = 0
    for piece in pieces(octets, [chance.randrange(len(octets) + 1) for _ in range(3)]):
        rest = receiver.feed(piece)
        read += len(piece)
        if rest is not None:
            assert read - len(rest) == size
            break
    content = receiver.take()
    assert content.startswith(octets[:size])
    assert len(content) <= size + 2


def paths(octets: bytes) -> None:
    """MAIL and RCPT with their parameters."""
    text = octets.decode("utf-8", "replace")
    for line in [text, *text.splitlines()[:20]]:
        for keyword in ("FROM", "TO"):
            argument = line.partition(f"{keyword}:")[2]
            argument = f"{keyword}:{argument or line}"
            with contextlib.suppress(envelope.EnvelopeError):
                path = envelope.parse_path(keyword, argument)
                assert len(path.text) <= 1000
                mail_parameters(path.parameters, 1000, login=True)
                envelope.parse_wish(path.parameters, utf8=True)


def xtext(octets: bytes) -> None:
    text = octets.decode("utf-8", "replace")
    with contextlib.suppress(envelope.EnvelopeError):
        envelope.parse_envid(text)
    if envelope.is_xtext(text):
        envelope.from_xtext(text)
    assert "\n" not in envelope.embed(text[:500])


def addresses(octets: bytes) -> None:
    text = octets.decode("utf-8", "replace")
    for one in [text, *text.split()[:20]]:
        with contextlib.suppress(address.AddressError):
            found = address.parse(one)
            assert address.parse(str(found)).key == found.key
        address.from_header(one)
    list(mailboxes.mailboxes(text))


def proxy(octets: bytes) -> None:
    with contextlib.suppress(ProxyError):
        header = parse_header(octets)
        assert header is None or header.size <= len(octets)


def _mechanisms() -> Iterator[Mechanism]:
    yield Plain()
    yield Login()
    yield Scram(lambda _: Verifier(4096, b"salt", bytes(32), bytes(32)), "nonce")


def sasl(octets: bytes) -> None:
    with contextlib.suppress(SASLError):
        decode64(octets)
    for mechanism in _mechanisms():
        with contextlib.suppress(SASLError):
            found = mechanism.step(None)
            for line in octets.split(b"\n")[:4]:
                if isinstance(found, Claim):
                    assert not found.proved, "nobody knew the password"
                    break
                found = mechanism.step(line)


def headers(octets: bytes) -> None:
    """The fields of a message, and all that is read of them."""
    found = Headers.parse(octets)
    for name in ("subject", "from", "received", "message-id"):
        assert "\n" not in found.text(name)
    automatic.count_received(found)
    thread.base_subject(found.text("subject"))
    thread.message_id(found)
    thread.reply_references(found)
    thread.conversation_key(found)
    decode_text(octets[:5000].decode("utf-8", "replace"))
    recipient = address.parse("echo@test.example")
    for personal in (False, True):
        automatic.judge(
            reverse_path="a@b.example", recipient=recipient, headers=found, personal=personal, policy=POLICY
        )


def message(octets: bytes) -> None:
    """A whole mail, as agents see it."""
    mail = Message(octets)
    mail.subject, mail.message_id, mail.date, mail.html  # noqa: B018 - reading them is the test
    quoting.reply_text(mail.text)
    quoting.quote(mail.text)
    for attachment in mail.attachments:
        assert "/" not in attachment.name
    report.parse_report(octets)
    report.bounce_of(octets, "a@b.example")
    split = SplitMail(octets)
    split.mailboxes("from")


def pages(octets: bytes) -> None:
    html.to_text(octets.decode("utf-8", "replace"))


def binaries(octets: bytes) -> None:
    assert not has_bare_line_end(binary.with_line_ends(octets))
    with contextlib.suppress(binary.MIMEError):
        converted = binary.without_binary(octets)
        assert binary.without_binary(converted) == converted, "converted once, there is nothing more to convert"


def forged(octets: bytes) -> None:
    """What claims our verdict is gone, and gone at once."""
    cleaned = strip_forged(octets, "mx.test.example")
    assert strip_forged(cleaned, "mx.test.example") == cleaned


class Zone(Resolver):
    """A resolver whose every answer is made of the input."""

    def __init__(self, octets: bytes) -> None:
        self._input = octets
        self._chance = dice(octets)

    async def txt(self, name: str) -> list[bytes]:
        self._fail()
        lines = self._input.splitlines() or [b""]
        prefix = b"v=DMARC1; p=reject; " if name.startswith("_dmarc") else b"v=spf1 "
        if "_domainkey" in name:
            prefix = b"v=DKIM1; k=rsa; p="
        line = self._chance.choice(lines)[:2000]
        return [line if self._chance.random() < 0.5 else prefix + line]

    async def ipv4(self, host: str) -> list[str]:
        self._fail()
        return ["192.0.2.1"]

    async def ipv6(self, host: str) -> list[str]:
        self._fail()
        return ["2001:db8::1"]

    async def mx(self, domain: str) -> list[tuple[int, str]]:
        self._fail()
        return [(10, "mx.b.example")]

    async def ptr(self, name: str) -> list[str]:
        self._fail()
        return ["b.example"]

    def _fail(self) -> None:
        kind = self._chance.randrange(12)
        if kind < 3:
            raise (NotFound, NoData, TemporaryError)[kind]("as it happens")


SETTINGS = Authentication(trusted_networks=(), mode="enforce")


async def judge(octets: bytes) -> None:
    """SPF, DKIM, DMARC and ARC, over a message and a zone that are both hostile."""
    authenticator = Authenticator("mx.test.example", SETTINGS, Zone(octets), ManualClock())
    first = octets.split(b"\n", 1)[0][:200].decode("utf-8", "replace")
    content = octets
    if b"DKIM" in octets and not octets.startswith(b"DKIM"):
        content = (
            b"From: a@b.example\r\nDKIM-Signature: v=1; a=rsa-sha256; d=b.example; s=s; h=from; bh=AA==; b=AA==\r\n"
            + octets
        )
    found = await authenticator.judge(
        peer=str(ipaddress.ip_address(zlib.crc32(octets))),
        helo="client.example",
        reverse_path="a@b.example" if len(first) % 2 else first,
        headers=Headers.parse(content),
        content=content,
    )
    assert found.fields.endswith(b"\r\n")
    assert b"\r\n\r\n" not in found.fields
    assert not has_bare_line_end(found.fields)
    found.cleaned(content)


_FOLDER = tempfile.TemporaryDirectory(prefix="responder-fuzz-")
FILE = Path(_FOLDER.name) / "input"


def files(octets: bytes) -> None:
    """What operators write: a mistake is one line, and no other exception."""
    text = octets.decode("utf-8", "replace")
    with contextlib.suppress(tomllib.TOMLDecodeError, dialect_file.DialectError, RecursionError):
        dialect_file.parse(tomllib.loads(text), "fuzz", "fuzz.toml")
    for line in text.splitlines()[:5]:
        with contextlib.suppress(dialect_file.DialectError):
            dialect_file.parse({"replies": {line[:20]: line[20:]}}, "fuzz", "fuzz.toml")
        with contextlib.suppress(ValueError):
            parse_zone(line)
    FILE.write_bytes(octets)
    with contextlib.suppress(FileError):
        DenyList((), FILE)


TARGETS: dict[str, tuple[int, Target]] = {
    "session": (6, session),
    "data": (3, data),
    "chunk": (1, chunk),
    "paths": (2, paths),
    "xtext": (1, xtext),
    "addresses": (2, addresses),
    "proxy": (2, proxy),
    "sasl": (1, sasl),
    "headers": (2, headers),
    "message": (1, message),
    "pages": (1, pages),
    "binaries": (1, binaries),
    "forged": (1, forged),
    "judge": (1, judge),
    "files": (1, files),
}
"""By name: how many inputs of a round it gets, and what it is."""


async def feed(name: str, octets: bytes) -> None:
    """One input to one target."""
    found = TARGETS[name][1](octets)
    if found is not None:
        await found


def warm_up() -> None:
    """What is read once, before time and memory are measured."""
    asyncio.run(feed("judge", b"From: a@b.example\r\n\r\n"))

"""Relaying: who may send to other domains, in whose name and how much, and that nobody else may, whatever is said."""

from __future__ import annotations

import asyncio
import contextlib
import email
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from responder.authentication import Judgement
from responder.config import Config, unsupported
from responder.intake.relay import Relay
from responder.mail.automatic import Verdicts
from responder.mail.headers import Headers
from responder.mail.lifecycle import Event, State
from responder.mail.mailboxes import authors
from responder.sealing import SealingError
from responder.store.records import ItemView, OutboundItem
from tests.support import logins
from tests.support.dialog import Front, listening
from tests.support.proxy_header import text_header
from tests.support.stores import claim_out

WAIT = 20.0
NETWORKS = ["192.0.2.0/24", "2001:db8:1::/48"]
PROXIED = {"proxy_protocol": True, "auth": "offered"}
ON = {"relay": {"networks": NETWORKS, "users": True}}

NOT_OURS = "550 5.7.1 We do not relay: this domain is not served here"
UNKNOWN = "550 5.1.1 No such inbox here"
NO_DOMAIN = "550 5.1.2 We send to domains of the DNS only"
BAD = "553 5.1.3 Malformed recipient address"
OK = "250 2.1.5 Recipient ok"


class Client:
    """One connection, by way of a proxy where `header` is one."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def reply(self) -> str:
        while True:
            line = (await asyncio.wait_for(self.reader.readline(), WAIT)).decode().rstrip("\r\n")
            if line[3:4] != "-":
                return line

    async def say(self, *lines: str) -> str:
        """Say them in one write; the last reply."""
        self.writer.write("".join(f"{line}\r\n" for line in lines).encode())
        reply = ""
        for _ in lines:
            reply = await self.reply()
        return reply

    async def mail(self, sender: str, *to: str, content: str = "") -> list[str]:
        """One transaction: the replies to each RCPT and to the message."""
        await self.say(f"MAIL FROM:<{sender}> SMTPUTF8")
        said = [await self.say(f"RCPT TO:<{recipient}>") for recipient in to]
        content = content or f"From: <{sender}>\r\nSubject: x\r\n\r\nhello\r\n"
        await self.say("DATA")
        return [*said, await self.say(content + ".")]

    async def log_in(self, name: str = "ann") -> None:
        await self.say("STARTTLS")
        await self.writer.start_tls(logins.trusting(), server_hostname=logins.NAME, ssl_handshake_timeout=WAIT)
        await self.say("EHLO client.example")
        assert (await self.say(f"AUTH PLAIN {logins.plain(name, logins.USERS[name])}")).startswith("235 ")


@contextlib.asynccontextmanager
async def calling(front: Front, header: bytes, hello: str = "EHLO") -> AsyncIterator[Client]:
    path = front.listener.addresses[0]
    reader, writer = await asyncio.open_connection("127.0.0.1", path[1])
    client = Client(reader, writer)
    try:
        writer.write(header)
        assert (await client.reply()).startswith("220 ")
        await client.say(f"{hello} client.example")
        yield client
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


@contextlib.asynccontextmanager
async def world(folder: Path, settings: dict[str, Any] | None = None, **listen: Any) -> AsyncIterator[Front]:
    has = ("certificate", "users")
    async with listening(folder, ON if settings is None else settings, {**PROXIED, **listen}, has) as front:
        yield front


async def waiting(front: Front) -> list[ItemView]:
    """What leaves."""
    return [item for item in await front.store.items(list(State)) if item.direction == "outbound"]


async def claimed(front: Front) -> list[OutboundItem]:
    return await claim_out(front.store, "post")


IN, OUT = text_header("192.0.2.7"), text_header("198.51.100.9")

# Who comes from where, and whether such a one may send to other domains.
CLIENTS: dict[str, tuple[bytes, str, bool]] = {
    "stranger": (OUT, "", False),
    "stranger, IPv6": (text_header("2001:db8:2::7"), "", False),
    "stranger, next to the network": (text_header("192.0.3.0"), "", False),
    "stranger, IPv4 in IPv6": (text_header("::ffff:198.51.100.9"), "", False),
    "in the network": (IN, "", True),
    "in the network, IPv6": (text_header("2001:db8:1:f::7"), "", True),
    "in the network, IPv4 in IPv6": (text_header("::ffff:192.0.2.7"), "", True),
    "a proxy that names nobody": (b"PROXY UNKNOWN\r\n", "", False),
    "a user": (OUT, "ann", True),
}

# What is said behind TO:, and the reply to who may, and to who may not.
FORMS: dict[str, tuple[str, str]] = {
    "far@far.example": (OK, NOT_OURS),
    "FAR@FAR.Example": (OK, NOT_OURS),
    '"far away"@far.example': (OK, NOT_OURS),
    "far@xn--fr-via.example": (OK, NOT_OURS),
    "far@fär.example": (OK, NOT_OURS),
    "@test.example:far@far.example": (OK, NOT_OURS),
    "@test.example,@other.example:far@far.example": (OK, NOT_OURS),
    "echo%test.example@far.example": (OK, NOT_OURS),
    "far@sub.test.example": (OK, NOT_OURS),
    "far@test.example.far.example": (OK, NOT_OURS),
    "far@[192.0.2.9]": (NO_DOMAIN, NOT_OURS),
    "far@[127.0.0.1]": (NO_DOMAIN, NOT_OURS),
    "far@[IPv6:2001:db8::1]": (NO_DOMAIN, NOT_OURS),
    "echo%test.example@[127.0.0.1]": (NO_DOMAIN, NOT_OURS),
    '"far@far.example"@[127.0.0.1]': (NO_DOMAIN, NOT_OURS),
    "far@192.0.2.9": (NO_DOMAIN, NOT_OURS),
    "far@localhost": (NO_DOMAIN, NOT_OURS),
    "far@mx.test.example": (NO_DOMAIN, NOT_OURS),
    "far%far.example@test.example": (UNKNOWN, UNKNOWN),
    "far%far.example%test.example@test.example": (UNKNOWN, UNKNOWN),
    "far.example!far@test.example": (UNKNOWN, UNKNOWN),
    '"far@far.example"@test.example': (UNKNOWN, UNKNOWN),
    '"far%far.example"@test.example': (UNKNOWN, UNKNOWN),
    "nobody@test.example": (UNKNOWN, UNKNOWN),
    "nobody@BÜCHER.example": (UNKNOWN, UNKNOWN),
    "nobody@test。example": (UNKNOWN, UNKNOWN),
    "@far.example:echo@test.example": (OK, OK),
    "echo@TEST.example": (OK, OK),
    "bounces+1@test.example": (OK, OK),
    "Postmaster": (OK, OK),
    "far@far.example.": (BAD, BAD),
    "far@test.example@far.example": (BAD, BAD),
    "far@far.example,echo@test.example": (BAD, BAD),
    "far@far.example:echo@test.example": (BAD, BAD),
    "@far.example": (BAD, BAD),
    "far.example!far": (BAD, BAD),
    "far%far.example": (BAD, BAD),
}


LEAVING = {
    *("far@far.example", "FAR@far.example", '"far away"@far.example', "far@xn--fr-via.example"),
    *("echo%test.example@far.example", "far@sub.test.example", "far@test.example.far.example"),
}


@pytest.mark.parametrize("who", CLIENTS)
async def test_recipient_in_whatever_form_then_only_who_may_reaches_other_domains(who: str, tmp_path: Path) -> None:
    header, user, may = CLIENTS[who]
    # The proxy's own address is in the networks: that must not let in those whom it does not name.
    networks = [*NETWORKS, "127.0.0.0/8"]
    settings = {"relay": {"networks": networks, "users": True}, "limits": {"errors": 1000}}
    async with world(tmp_path, settings) as front, calling(front, header) as client:
        if user:
            await client.log_in(user)
        await client.say("MAIL FROM:<ann@test.example> SMTPUTF8")
        said = {form: await client.say(f"RCPT TO:<{form}>") for form in FORMS}
        assert said == {form: replies[0 if may else 1] for form, replies in FORMS.items()}
        await client.say("DATA")
        assert (await client.say("From: <ann@test.example>\r\n\r\nx\r\n.")).startswith("250 ")
        left = {item.recipient for item in await waiting(front)}
        assert left == (LEAVING if may else set())


@pytest.mark.parametrize(
    ("settings", "listen", "header", "user", "hello"),
    [
        ({}, {}, IN, "", "EHLO"),
        ({}, {}, IN, "ann", "EHLO"),
        ({"relay": {"networks": NETWORKS}}, {}, OUT, "ann", "EHLO"),
        ({"relay": {"users": True}}, {}, IN, "", "EHLO"),
        (ON, {"protocol": "lmtp", "auth": "offered"}, IN, "", "LHLO"),
    ],
    ids=["off", "off, a user", "users may not", "networks may not", "LMTP"],
)
async def test_relay_when_not_for_such_then_nothing_leaves(
    settings: dict[str, Any], listen: dict[str, Any], header: bytes, user: str, hello: str, tmp_path: Path
) -> None:
    async with world(tmp_path, settings, **listen) as front, calling(front, header, hello) as client:
        if user:
            await client.log_in(user)
        said = await client.mail("ann@test.example", "far@far.example", "echo@test.example")
        assert said[:2] == [NOT_OURS, OK]
        assert await waiting(front) == []


async def test_relay_behind_a_unix_socket_then_nobody_has_an_address(tmp_path: Path) -> None:
    settings = {"relay": {"networks": ["127.0.0.0/8", "::1"]}}
    listen = {"address": f"unix:{tmp_path}/s", "proxy_protocol": False, "auth": "off"}
    async with world(tmp_path, settings, **listen):
        reader, writer = await asyncio.open_unix_connection(f"{tmp_path}/s")
        client = Client(reader, writer)
        await client.reply()
        await client.say("EHLO client.example")
        assert (await client.mail("ann@test.example", "far@far.example"))[0] == NOT_OURS
        writer.close()


async def test_relay_to_a_decoy_then_all_is_accepted_and_nothing_leaves(tmp_path: Path) -> None:
    async with world(tmp_path, ON, decoy=True, auth="off") as front, calling(front, IN) as client:
        assert (await client.mail("ann@test.example", "far@far.example"))[0].startswith("250 ")
        assert await waiting(front) == []


# -- in whose name ----------------------------------------------------------------------------------------------------------

NOT_SENDER = "550 5.7.1 You may not send to other domains from this address"
NOT_AUTHOR = "550 5.7.1 You may not write to other domains as the address in From"


@pytest.mark.parametrize("sender", ["ann@far.example", "ann@mx.test.example", "ann@sub.test.example", "x@[127.0.0.1]"])
async def test_sender_of_another_domain_then_nothing_leaves_but_mail_to_us_is_taken(
    sender: str, tmp_path: Path
) -> None:
    async with world(tmp_path) as front, calling(front, IN) as client:
        said = await client.mail(sender, "far@far.example", "echo@test.example")
        assert said[:2] == [NOT_SENDER, OK] and said[2].startswith("250 ")
        assert await waiting(front) == []


@pytest.mark.parametrize(
    ("fields", "may"),
    [
        ("From: ann@test.example", True),
        ("From: Ann <ann@OTHER.example>", True),
        ('From: "ann@home" <ann@test.example>', True),
        ("From: ann@test.example, bob@other.example", True),
        ("From: Grüße <ann@bücher.example>", True),
        ("From: us: ann@test.example, bob@test.example;", True),
        ("From: boss@far.example", False),
        ("From: ann@test.example, boss@far.example", False),
        ("From: ann@test.example\r\nFrom: boss@far.example", False),
        ("From: boss@far.example\r\nFrom: ann@test.example", False),
        ("From: us: ann@test.example, boss@far.example;", False),
        ("From: ann@test.example <boss@far.example>", False),
        ("From: <boss@far.example> ann@test.example", False),
        ("From: boss@far.example (ann@test.example)", False),
        ("From: ann@test.example (boss@far.example)", False),
        ("From: ann@test.example,\r\n boss@far.example", False),
        ('From: "ann <boss@far.example>, x@test.example', False),
        ("FROM : boss@far.example", False),
        ("\0From: boss@far.example\r\nFrom: ann@test.example", False),  # it leaves without NUL
        ("F\0rom: boss@far.example\r\nFrom: ann@test.example", False),
        ("\0From: ann@test.example", True),
        ("From: ann@test.example@far.example", False),
        ("From: ann", False),
        ("From: ", False),
        ("Sender: ann@test.example", False),
        ("From: ann@test.example, boss@far..example", False),
        ("From: " + ", ".join(["ann@test.example"] * 3000), False),
    ],
)
async def test_author_of_another_domain_then_the_message_is_refused(fields: str, may: bool, tmp_path: Path) -> None:
    async with world(tmp_path) as front, calling(front, IN) as client:
        content = f"{fields}\r\nSubject: x\r\n\r\nhello\r\n"
        said = await client.mail("ann@test.example", "far@far.example", content=content)
        assert said[0] == OK
        assert said[1].startswith("250 ") if may else said[1] == NOT_AUTHOR
        assert len(await waiting(front)) == may


async def test_author_hidden_in_a_line_that_is_mended_then_it_is_seen(tmp_path: Path) -> None:
    settings = {**ON, "limits": {"bare_line_ends": "normalise"}}
    async with world(tmp_path, settings) as front, calling(front, IN) as client:
        content = b"From: ann@test.example\r\nX: y\rFrom: boss@far.example\r\n\r\nhello\r\n"
        for body, data in (("8BITMIME", b"DATA\r\n"), ("BINARYMIME", b"")):
            await client.say(f"MAIL FROM:<ann@test.example> BODY={body}", "RCPT TO:<far@far.example>")
            if data:
                assert (await client.say("DATA")).startswith("354 ")
                client.writer.write(content + b".\r\n")
            else:
                client.writer.write(b"BDAT %d LAST\r\n%s" % (len(content), content))
            assert await client.reply() == NOT_AUTHOR
        assert await waiting(front) == []


def test_authors_of_a_huge_hostile_field_then_it_takes_no_time() -> None:
    field = 'x <a@test.example> "' + '\\"' * 16000
    headers = Headers([("From", field)])
    assert authors(headers) == []
    assert authors(Headers([("From", "a@test.example")] * 10_000)) == ["test.example"]


async def test_senders_any_when_configured_then_a_mail_server_may_forward(tmp_path: Path) -> None:
    settings = {"relay": {"networks": NETWORKS, "senders": ["*"]}}
    async with world(tmp_path, settings) as front, calling(front, IN) as client:
        assert (await client.mail("x@away.example", "far@far.example"))[1].startswith("250 ")
        assert (await client.mail("", "far@far.example", content="From: MAILER-DAEMON\r\n\r\nx\r\n"))[1][:3] == "250"
        items = await claimed(front)
        assert [(item.reverse_path, item.return_to) for item in items] == [("x@away.example",) * 2, ("", "")]


# -- how much ---------------------------------------------------------------------------------------------------------------

TOO_MANY = "450 4.7.1 Too many recipients at other domains, try again later"


async def test_rate_when_reached_then_others_and_our_own_recipients_are_not_affected(tmp_path: Path) -> None:
    settings = {"relay": {"networks": NETWORKS, "users": True, "per_user": "2/1m", "per_address": "3/1m"}}
    async with world(tmp_path, settings) as front:
        async with calling(front, IN) as client:
            far = [f"{number}@far.example" for number in range(4)]
            said = await client.mail("ann@test.example", *far, "echo@test.example")
            assert said[:5] == [OK, OK, OK, TOO_MANY, OK] and said[5].startswith("250 ")
            await client.log_in()  # the same address, but a user
            assert (await client.mail("ann@test.example", *far))[:3] == [OK, OK, TOO_MANY]
        async with calling(front, OUT) as client:  # the same user, from elsewhere
            await client.log_in()
            assert (await client.mail("ann@test.example", *far))[0] == TOO_MANY
        async with calling(front, text_header("192.0.2.8")) as client:
            assert (await client.mail("ann@test.example", *far))[:4] == [OK, OK, OK, TOO_MANY]
            front.clock.advance(61)
            assert (await client.mail("ann@test.example", *far))[:4] == [OK, OK, OK, TOO_MANY]


# -- what leaves ------------------------------------------------------------------------------------------------------------


async def test_mail_to_both_then_it_is_one_commit_one_content_and_one_account(tmp_path: Path) -> None:
    async with world(tmp_path) as front, calling(front, OUT) as client:
        await client.log_in()
        await client.say("MAIL FROM:<ann@test.example> RET=HDRS ENVID=QQ314")
        assert await client.say("RCPT TO:<Far@far.example> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;Bob@far.example") == OK
        assert await client.say("RCPT TO:<echo@test.example> NOTIFY=NEVER") == OK
        assert await client.say("RCPT TO:<far@far.example>") == OK  # another mailbox: that host decides
        assert await client.say("RCPT TO:<far@far.example>") == OK
        await client.say("DATA")
        said = await client.say("From: Ann <ann@test.example>\r\nMessage-ID: <1@test.example>\r\n\r\nhello\r\n.")
        mail = said.removeprefix("250 2.0.0 Queued as ")
        first, second = await claimed(front)
        assert (first.recipient, second.recipient) == ("Far@far.example", "far@far.example")
        assert (first.kind, first.cause, first.inbox, first.content_id) == ("relay", f"{mail}.1", "", mail)
        assert (second.cause, second.domain) == (f"{mail}.2", "far.example")
        assert (first.wish.notify, first.wish.orcpt) == ("SUCCESS,DELAY", "rfc822;Bob@far.example")
        assert (first.ret, first.envid, first.return_to) == ("HDRS", "QQ314", "ann@test.example")
        assert not any(second.wish)
        [local], _ = await front.store.claim_inbound("w", 10)
        assert (local.recipient, local.wish.notify, local.id) == ("echo@test.example", "NEVER", f"{mail}.0")
        assert local.content == first.content
        for key in (mail, first.id, "<1@test.example>"):
            [account] = await front.store.account(key)
            assert sorted(item.id for item in account.items) == sorted([local.id, first.id, second.id])
            told = next(entry.reason for entry in account.history if entry.item == first.id)
            assert told.startswith("relay, from client.example [198.51.100.9] by ESMTPSA, ") and "user ann" in told
        content = email.message_from_bytes(first.content or b"")
        assert content.keys() == ["Received", "Date", "From", "Message-ID"]
        assert "ann" not in content["Received"] and "with ESMTPSA" in content["Received"]


async def test_mail_with_requiretls_then_it_goes_on_with_it(tmp_path: Path) -> None:
    async with world(tmp_path) as front, calling(front, OUT) as client:
        await client.log_in()
        assert (await client.say("MAIL FROM:<ann@test.example> REQUIRETLS")).startswith("250 ")
        await client.say("RCPT TO:<far@far.example>", "DATA")
        assert (await client.say("From: ann@test.example\r\n\r\nhello\r\n.")).startswith("250 ")
        [item] = await claimed(front)
        assert item.requiretls


async def test_mail_without_date_and_message_id_then_it_gets_them_once(tmp_path: Path) -> None:
    async with world(tmp_path) as front, calling(front, IN) as client:
        said = await client.mail("ann@test.example", "far@far.example")
        mail = said[1].removeprefix("250 2.0.0 Queued as ")
        fields = "From: ann@test.example\r\nDate: then\r\nMessage-ID: <1@x.example>"
        await client.mail("ann@test.example", "far@far.example", content=f"{fields}\r\n\r\nhello\r\n")
        made, kept = [email.message_from_bytes(item.content or b"") for item in await claimed(front)]
        assert made["Message-ID"] == f"<{mail}@mx.test.example>"
        assert made.keys() == ["Received", "Date", "Message-ID", "From", "Subject"]
        assert kept.keys() == ["Received", "From", "Date", "Message-ID"]
        [account] = await front.store.account(f"{mail}@mx.test.example")
        assert account.mail is not None and account.mail["id"] == mail


async def test_retention_when_all_is_done_then_nothing_of_a_relayed_mail_is_left(tmp_path: Path) -> None:
    async with world(tmp_path) as front, calling(front, IN) as client:
        said = await client.mail("ann@test.example", "a@far.example", "b@far.example")
        mail = said[2].removeprefix("250 2.0.0 Queued as ")
        first, second = await waiting(front)
        await front.store.act(first.id, Event.DROP, "")
        front.clock.advance(10)
        assert await front.store.purge(front.clock.now(), front.clock.now()) == 1
        assert await front.store.account(mail)
        assert await front.store.content(mail)
        await front.store.act(second.id, Event.DROP, "")
        front.clock.advance(10)
        assert await front.store.purge(front.clock.now(), front.clock.now()) == 1
        assert await front.store.account(mail) == []
        with pytest.raises(KeyError):
            await front.store.content(mail)


async def test_signing_when_the_author_is_of_ours_then_his_domain_signs_and_no_other(tmp_path: Path) -> None:
    settings = {"relay": {"networks": NETWORKS, "senders": ["*"]}}
    async with world(tmp_path, settings) as front, calling(front, IN) as client:
        signed = []

        class Sealer:
            async def sign(self, content: bytes, domain: str) -> bytes:
                signed.append(domain)
                assert content.startswith((b"Date: ", b"Message-ID: "))
                return b"DKIM-Signature: x\r\n"

        front.service.handler.sealer = Sealer()  # type: ignore[attr-defined]
        for author in ("ann@other.example", "x@far.example", "ann@test.example, x@far.example"):
            content = f"From: {author}\r\n\r\nhello\r\n"
            assert (await client.mail("ann@test.example", "far@far.example", content=content))[1].startswith("250 ")
        assert signed == ["other.example"]
        contents = [email.message_from_bytes(item.content or b"") for item in await claimed(front)]
        assert [content["DKIM-Signature"] for content in contents] == ["x", None, None]
        assert contents[0].keys()[:2] == ["Received", "DKIM-Signature"]
        # What only stays here is nobody's submission.
        await client.mail("ann@test.example", "echo@test.example")
        assert len(signed) == 1
        # Somebody else's server passes on what has our name in From: who wrote it nobody knows.
        await client.mail("list@far.example", "far@far.example", content="From: ann@other.example\r\n\r\nhello\r\n")
        assert len(signed) == 1


async def test_signing_when_it_fails_then_the_client_keeps_the_mail(tmp_path: Path) -> None:
    class Sealer:
        async def sign(self, content: bytes, domain: str) -> bytes:
            raise SealingError("no entropy")

    async with world(tmp_path) as front, calling(front, IN) as client:
        front.service.handler.sealer = Sealer()  # type: ignore[attr-defined]
        said = await client.mail("ann@test.example", "far@far.example", "echo@test.example")
        assert said[2].startswith("451 4.3.0 ")
        assert await front.store.items(list(State)) == []


async def test_verdicts_when_a_mail_leaves_then_they_stay_here_and_so_does_the_user_s_name(tmp_path: Path) -> None:
    field = b"Authentication-Results: mx.test.example; auth=pass smtp.auth=ann\r\n"

    class Judge:
        async def judge(self, **_: Any) -> Judgement:
            return Judgement("mx.test.example", Verdicts(), field)

    async with world(tmp_path) as front, calling(front, OUT) as client:
        front.service.handler.authenticator = Judge()  # type: ignore[attr-defined]
        await client.log_in()
        await client.mail("ann@test.example", "far@far.example")
        await client.mail("ann@test.example", "echo@test.example")
        [left] = await claimed(front)
        [stayed], _ = await front.store.claim_inbound("w", 10)
        assert left.content is not None and b"smtp.auth" not in left.content
        assert stayed.content is not None and field in stayed.content


async def test_reload_when_it_takes_the_right_away_then_the_message_is_refused(tmp_path: Path) -> None:
    async with world(tmp_path) as front, calling(front, IN) as client:
        await client.say("MAIL FROM:<ann@test.example>", "RCPT TO:<far@far.example>")
        relay = front.service.handler.relay  # type: ignore[attr-defined]
        assert isinstance(relay, Relay)
        relay.follow(Config(domains=("test.example",)))
        await client.say("DATA")
        assert await client.say("From: ann@test.example\r\n\r\nx\r\n.") == NOT_OURS
        assert await waiting(front) == []


async def test_pipelined_session_of_ten_mails_then_each_is_durable_at_its_own_250(tmp_path: Path) -> None:
    async with world(tmp_path) as front, calling(front, IN) as client:
        for number in range(10):
            envelope = f"MAIL FROM:<ann@test.example>\r\nRCPT TO:<{number}@far.example>\r\n"
            client.writer.write(envelope.encode() + b"DATA\r\nFrom: ann@test.example\r\n\r\nx\r\n.\r\n")
        for number in range(10):
            replies = [await client.reply() for _ in range(4)]
            mail = replies[3].removeprefix("250 2.0.0 Queued as ")
            [account] = await front.store.account(mail)
            assert [item.recipient for item in account.items] == [f"{number}@far.example"]


async def test_loop_when_there_are_too_many_hops_then_it_is_refused(tmp_path: Path) -> None:
    settings = {**ON, "limits": {"hops": 3}}
    async with world(tmp_path, settings) as front, calling(front, IN) as client:
        content = "Received: x\r\n" * 4 + "From: ann@test.example\r\n\r\nx\r\n"
        said = await client.mail("ann@test.example", "far@far.example", content=content)
        assert said == [OK, "554 5.4.6 Too many hops: this mail is in a loop"]
        assert await waiting(front) == []


# -- what an operator says --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("network", ["0.0.0.0/0", "::/0", "::ffff:0.0.0.0/96"])
def test_networks_of_all_addresses_then_the_configuration_is_refused(network: str) -> None:
    with pytest.raises(ValueError, match="open relay"):
        Config.model_validate({"relay": {"networks": ["192.0.2.0/24", network]}})


@pytest.mark.parametrize("networks", [["0.0.0.0/1", "10.0.0.0/8", "128.0.0.0/1"], ["::/1", "8000::/2", "c000::/2"]])
def test_networks_of_all_addresses_in_pieces_then_the_configuration_is_refused(networks: list[str]) -> None:
    with pytest.raises(ValueError, match="open relay"):
        Config.model_validate({"relay": {"networks": networks}})


@pytest.mark.parametrize(
    ("table", "key"),
    [
        ({"networks": ["128.0.0.0/1"]}, "relay.networks"),
        ({"networks": ["2000::/3"]}, "relay.networks"),
        ({"users": True}, "relay.users"),
    ],
)
def test_relay_that_is_hardly_meant_then_it_is_remarked(table: dict[str, Any], key: str) -> None:
    assert key in [notice.key for notice in unsupported(Config.model_validate({"relay": table}))]
    fine = {"networks": ["10.0.0.0/8", "fd00::/16"]}
    assert not [one for one in unsupported(Config.model_validate({"relay": fine})) if one.key.startswith("relay")]

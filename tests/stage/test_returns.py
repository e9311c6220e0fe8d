"""What comes back, weighed: reports, forged ones and complaints at the bounce addresses of what has left."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from responder.mail.address import parse
from responder.mail.dsn import ReportedRecipient, compose_dsn
from responder.mail.envelope import Wish
from responder.mail.lifecycle import Event, State
from responder.mail.report import parse_report
from responder.store.records import NewMail, OutboundItem, Settlement
from responder.store.returns import Suppression
from tests.support.server import ROOT
from tests.support.stages import PLUGINS, Desk, configured, desk
from tests.support.stores import claim_out, history

ANN = "ann@far.example"


CONFIG = configured(
    {"echo": "answer", "fwd": {"agent": "forward", "targets": [ANN]}}, plugins=[str(PLUGINS), str(ROOT / "plugins")]
)


async def sent(it: Desk, inbox: str = "echo", sender: str = ANN, *, deliver: bool = True) -> OutboundItem:
    """What left of a mail from `sender`, delivered."""
    await it.put(inbox, sender)
    await it.turn()
    [item] = await it.leaving()
    if deliver:
        await it.store.settle_outbound(item, Settlement(Event.DELIVER, "250 taken"))
    return item


def report(
    item: OutboundItem, recipient: str = "", *, status: str = "5.1.1", text: str = "550 5.1.1 no such user"
) -> bytes:
    """A report of another host on it."""
    return compose_dsn(
        reporting_mta="mx.far.example",
        postmaster=parse("postmaster@far.example"),
        to=parse(item.reverse_path),
        recipients=[
            ReportedRecipient(
                parse(recipient or item.recipient),
                status,
                text,
                remote_mta="mx.behind.example",
                action="failed" if status[0] == "5" else "delayed",
            )
        ],
        original=b"Subject: Re: hello\r\n\r\n",
        arrival=1.7e9,
        now=1.7e9,
        message_id="<r1@mx.far.example>",
    )


async def come_back(
    it: Desk, to: str, content: bytes, *, sender: str = "", authentication: str = ""
) -> tuple[State, str]:
    """A mail to a bounce address, and what it comes to."""
    mail = NewMail(
        id=it.clock.new_id(),
        received_at=it.clock.now(),
        reverse_path=sender,
        peer="192.0.2.7",
        helo="mx.far.example",
        message_id="<r1@mx.far.example>",
        content=content,
        recipients=((to, "bounces"),),
        authentication=authentication,
    )
    await it.store.accept(mail)
    await it.turn()
    return await it.end(f"{mail.id}.0")


# -- what counts -------------------------------------------------------------------------------------------------------


async def test_report_when_it_names_the_recipient_then_the_delivery_is_bounced_and_nobody_is_written_to(
    tmp_path: Path,
) -> None:
    async with desk(tmp_path, CONFIG) as it:
        item = await sent(it)
        end = await come_back(it, item.reverse_path, report(item))
        assert end == (State.SILENT, f"bounce-counted: {item.id} came back from {ANN}")
        assert (await history(it.store, item.id))[-1] == (
            "return",
            "BOUNCED",
            "[no-such-user] reported: 5.1.1 550 5.1.1 no such user",
        )
        [entry] = await it.store.suppressions()
        assert (entry.address, entry.inbox, entry.reason) == (ANN, "echo", "hard-bounce")
        assert entry.expires_at == it.clock.now() + 30 * 86400
        assert await it.leaving() == []  # an answer's failure is told to nobody

        silent = await it.put("echo", "Ann@FAR.example")
        await it.turn()
        assert await it.end(silent) == (
            State.SILENT,
            "suppressed: its sender is not written to: hard-bounce, 550 5.1.1 no such user",
        )
        it.clock.advance(31 * 86400)
        later = await it.put("echo", ANN)
        await it.turn()
        assert (await it.end(later))[0] is State.ANSWERED


async def test_report_when_it_shows_our_header_then_it_counts_but_nobody_unnamed_is_suppressed(tmp_path: Path) -> None:
    async with desk(tmp_path, CONFIG) as it:
        item = await sent(it)
        original = await it.store.content(item.content_id)
        shown = report(item, "behind@other.example").replace(
            b"Subject: Re: hello\r\n", original.partition(b"\r\n\r\n")[0] + b"\r\n"
        )
        assert (await come_back(it, item.reverse_path, shown))[1].startswith("bounce-counted")
        assert (await it.end(item.id))[0] is State.BOUNCED
        assert await it.store.suppressions() == []


async def test_report_when_it_is_of_a_delay_then_history_tells_and_no_more(tmp_path: Path) -> None:
    async with desk(tmp_path, CONFIG) as it:
        item = await sent(it)
        delayed = report(item, status="4.4.1", text="451 4.4.1 no answer")
        assert (await come_back(it, item.reverse_path, delayed))[1].startswith("bounce-counted")
        assert (await history(it.store, item.id))[-1] == ("report", "DELIVERED", "reported: 4.4.1 451 4.4.1 no answer")
        assert (await come_back(it, item.reverse_path, report(item)))[1].startswith("bounce-counted")
        assert (await it.end(item.id))[0] is State.BOUNCED


@pytest.mark.parametrize("text", ["552 5.2.2 mailbox full", "550 5.7.1 blocked using zen.spamhaus.org"])
async def test_report_when_it_does_not_blame_the_recipient_then_nobody_is_suppressed(tmp_path: Path, text: str) -> None:
    async with desk(tmp_path, CONFIG) as it:
        item = await sent(it)
        await come_back(it, item.reverse_path, report(item, status=text.split()[1], text=text))
        assert (await it.end(item.id))[0] is State.BOUNCED
        assert await it.store.suppressions() == []


async def test_forward_when_it_comes_back_then_its_sender_is_told_once(tmp_path: Path) -> None:
    async with desk(tmp_path, CONFIG) as it:
        item = await sent(it, "fwd", "carl@client.example")
        await come_back(it, item.reverse_path, report(item))
        [told] = await it.leaving()
        assert (told.kind, told.recipient, told.reverse_path, told.cause) == ("dsn", "carl@client.example", "", item.id)
        assert told.content is not None
        [said] = parse_report(told.content)
        assert (said.recipient, said.action, said.status) == (ANN, "failed", "5.1.1")
        assert b"There is no mailbox of that name." in told.content
        assert b"hello\r\n" in told.content  # the header of what was forwarded
        assert await it.store.suppressions() == []  # somebody is told of each
        assert (await come_back(it, item.reverse_path, report(item)))[1].startswith("bounce-known")
        assert await it.leaving() == []


async def test_forward_when_its_sender_is_forged_then_nobody_is_told(tmp_path: Path) -> None:
    async with desk(tmp_path, CONFIG) as it:
        for verdicts, told in (
            ('{"spf":"fail"}', ""),
            ('{"spf":"none","dmarc":"fail"}', ""),
            ('{"spf":"pass","dmarc":"fail"}', "carl@client.example"),
            ("", "carl@client.example"),
        ):
            mail = NewMail(
                it.clock.new_id(), it.clock.now(), "carl@client.example", "192.0.2.1", "x", "",
                f"From: carl@client.example\r\nSubject: {verdicts}\r\n\r\nx\r\n".encode(),
                (("fwd@test.example", "fwd"),), authentication=verdicts,
            )  # fmt: skip
            await it.store.accept(mail)
            await it.turn()
            assert [one.return_to for one in await it.leaving()] == [told], verdicts


# -- what does not -----------------------------------------------------------------------------------------------------


FORGED: dict[str, tuple[dict[str, Any], str]] = {
    "a sender": ({"sender": "mallory@evil.example"}, "bounce-doubted: no report comes from such a sender"),
    "forged": ({"authentication": '{"spf":"fail"}'}, "bounce-doubted: its sender is forged"),
    "disowned": ({"authentication": '{"dmarc":"fail"}'}, "bounce-doubted: its sender is forged"),
}


@pytest.mark.parametrize("how", FORGED)
async def test_report_when_it_is_forged_then_nothing_follows(tmp_path: Path, how: str) -> None:
    fields, reason = FORGED[how]
    async with desk(tmp_path, CONFIG) as it:
        item = await sent(it)
        assert await come_back(it, item.reverse_path, report(item), **fields) == (State.SILENT, reason)
        assert (await it.end(item.id))[0] is State.DELIVERED
        assert await it.store.suppressions() == []


async def test_report_when_its_id_is_guessed_then_nothing_follows(tmp_path: Path) -> None:
    async with desk(tmp_path, CONFIG) as it:
        item = await sent(it)
        near = item.id[:-1] + ("0" if item.id[-1] != "0" else "1")
        for local in (f"bounces+{near}", "bounces", "bounces+", f"bounces+{item.id}x", "bounces+' OR 1=1"):
            state, reason = await come_back(
                it, f'"{local}"@test.example' if " " in local else f"{local}@test.example", report(item)
            )
            assert state is State.SILENT and reason.partition(":")[0] in ("bounce-address", "null-reverse-path"), local
        assert (await it.end(item.id))[0] is State.DELIVERED


async def test_report_when_it_shows_nothing_of_what_was_sent_then_nothing_follows(tmp_path: Path) -> None:
    async with desk(tmp_path, CONFIG) as it:
        item = await sent(it)
        end = await come_back(it, item.reverse_path, report(item, "somebody@else.example"))
        assert end == (State.SILENT, "bounce-doubted: it shows nothing of what was sent")
        assert (await it.end(item.id))[0] is State.DELIVERED


async def test_report_when_its_case_was_changed_on_the_way_then_it_counts(tmp_path: Path) -> None:
    async with desk(tmp_path, CONFIG) as it:
        item = await sent(it)
        assert (await come_back(it, item.reverse_path.upper(), report(item)))[1].startswith("bounce-counted")


async def test_report_when_it_is_too_late_then_nothing_follows(tmp_path: Path) -> None:
    async with desk(tmp_path, CONFIG) as it:
        item = await sent(it)
        it.clock.advance(31 * 86400)
        assert (await come_back(it, item.reverse_path, report(item)))[
            1
        ] == "bounce-doubted: what it speaks of left too long ago"


async def test_report_when_it_is_earlier_than_the_250_then_it_waits_for_it(tmp_path: Path) -> None:
    async with desk(tmp_path, CONFIG) as it:
        item = await sent(it, deliver=False)
        state, reason = await come_back(it, item.reverse_path, report(item))
        assert (state, reason) == (State.RECEIVED, "bounce-early: its delivery is not noted yet")
        await it.store.settle_outbound(item, Settlement(Event.DELIVER, "250 taken"))
        it.clock.advance(11)
        await it.turn()
        assert (await it.end(item.id))[0] is State.BOUNCED


@pytest.mark.parametrize("event", [Event.DEFER, Event.FAIL])
async def test_report_when_no_host_has_taken_it_then_nothing_follows(tmp_path: Path, event: Event) -> None:
    async with desk(tmp_path, CONFIG) as it:
        item = await sent(it, deliver=False)
        await it.store.settle_outbound(item, Settlement(event, "so", due_at=it.clock.now() + 1e6))
        assert (await come_back(it, item.reverse_path, report(item)))[1].startswith("bounce-doubted: no host has taken")
        assert await it.store.suppressions() == []


async def test_report_when_two_workers_have_one_each_then_it_counts_once(tmp_path: Path) -> None:
    async with desk(tmp_path, CONFIG) as it:
        item = await sent(it, "fwd", "carl@client.example")
        for _ in range(2):
            mail = NewMail(
                it.clock.new_id(),
                it.clock.now(),
                "",
                "192.0.2.7",
                "x",
                "",
                report(item),
                ((item.reverse_path, "bounces"),),
            )
            await it.store.accept(mail)
        await it.turn_together()
        assert len(await it.leaving()) == 1
        assert [event for event, _, _ in await history(it.store, item.id)].count("return") == 1


# -- complaints --------------------------------------------------------------------------------------------------------


def complaint(item: OutboundItem, kind: str = "abuse") -> bytes:
    return (
        f"From: feedback@far.example\r\nTo: {item.reverse_path}\r\nSubject: complaint\r\nMIME-Version: 1.0\r\n"
        "Content-Type: multipart/report; report-type=feedback-report; boundary=b\r\n\r\n"
        "--b\r\n\r\nThis is an email abuse report.\r\n"
        f"--b\r\nContent-Type: message/feedback-report\r\n\r\nFeedback-Type: {kind}\r\nUser-Agent: x/1\r\nVersion: 1\r\n"
        f"Original-Rcpt-To: <{item.recipient}>\r\n\r\n"
        f"--b\r\nContent-Type: message/rfc822\r\n\r\nReturn-Path: <{item.reverse_path}>\r\nSubject: x\r\n\r\nx\r\n--b--\r\n"
    ).encode()


async def test_complaint_when_it_comes_then_its_sender_is_not_written_to_for_a_year(tmp_path: Path) -> None:
    async with desk(tmp_path, CONFIG) as it:
        item = await sent(it)
        end = await come_back(it, item.reverse_path, complaint(item), sender="feedback@far.example")
        assert end == (State.SILENT, f"bounce-complaint: {ANN} calls {item.id} abuse")
        [entry] = await it.store.suppressions()
        assert (entry.address, entry.reason, entry.expires_at) == (ANN, "complaint", it.clock.now() + 365 * 86400)
        assert (await it.end(item.id)) == (State.DELIVERED, "complaint: abuse")


async def test_complaint_when_it_says_not_spam_or_is_forged_then_nothing_follows(tmp_path: Path) -> None:
    async with desk(tmp_path, CONFIG) as it:
        item = await sent(it)
        await come_back(it, item.reverse_path, complaint(item, "not-spam"), sender="feedback@far.example")
        await come_back(it, item.reverse_path, complaint(item), sender="f@x.example", authentication='{"spf":"fail"}')
        assert await it.store.suppressions() == []


async def test_suppression_when_it_is_of_another_inbox_then_this_one_answers(tmp_path: Path) -> None:
    async with desk(tmp_path, CONFIG) as it:
        entry = Suppression(ANN, "news", "operator", "", it.clock.now(), 0.0)
        await it.store.suppress(entry)
        item = await it.put("echo", ANN)
        await it.turn()
        assert (await it.end(item))[0] is State.ANSWERED
        await it.store.suppress(replace(entry, inbox=""))
        item = await it.put("echo", ANN, message_id="<2@far.example>")
        await it.turn()
        assert await it.end(item) == (State.SILENT, "suppressed: its sender is not written to: operator")
        passed = await it.put("fwd", ANN)
        await it.turn()
        assert (await it.end(passed))[0] is State.ANSWERED  # what is passed on is not written to its sender
        assert [one.suppressed for one in await claim_out(it.store)] == ["operator", "operator"]


async def test_report_when_it_comes_to_another_domain_of_ours_then_nothing_follows(tmp_path: Path) -> None:
    async with desk(tmp_path, CONFIG.model_copy(update={"domains": ("test.example", "other.example")})) as it:
        item = await sent(it)
        end = await come_back(it, item.reverse_path.replace("@test.", "@other."), report(item))
        assert end == (State.SILENT, "bounce-doubted: what has that id left with another reverse-path")
        assert (await it.end(item.id))[0] is State.DELIVERED


async def test_report_when_what_has_that_id_left_from_nobody_then_nothing_follows(tmp_path: Path) -> None:
    config = configured({"echo": "answer"}, reply={"reverse_path": "null"})
    async with desk(tmp_path, config) as it:
        item = await sent(it)
        assert item.reverse_path == ""
        made = replace(item, reverse_path=f"bounces+{item.id}@test.example")
        end = await come_back(it, made.reverse_path, report(made))
        assert end == (State.SILENT, "bounce-doubted: what has that id left without a reverse-path")


async def test_forward_when_its_sender_asked_not_to_be_told_then_it_is_not(tmp_path: Path) -> None:
    async with desk(tmp_path, CONFIG) as it:
        mail = NewMail(
            it.clock.new_id(), it.clock.now(), "carl@client.example", "192.0.2.1", "x", "",
            b"From: carl@client.example\r\nSubject: x\r\n\r\nx\r\n", (("fwd@test.example", "fwd"),),
            wishes=(Wish("NEVER", ""),),
        )  # fmt: skip
        await it.store.accept(mail)
        await it.turn()
        [item] = await it.leaving()
        await it.store.settle_outbound(item, Settlement(Event.DELIVER, "250 taken"))
        assert (await come_back(it, item.reverse_path, report(item)))[1].startswith("bounce-counted")
        assert (await it.end(item.id))[0] is State.BOUNCED
        assert await it.leaving() == []

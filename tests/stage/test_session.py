"""One SMTP session against a scripted sink."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from responder.mail.status import FailureError, Outcome, Scope
from responder.outbound.base import Envelope, RecipientResult
from responder.outbound.dial import Timeouts
from responder.outbound.smtp.session import ClientSession
from responder.outbound.smtp.wire import BLOCK, blocks, canonical
from tests.support.smtp_sink import SMTPSink

SHORT = Timeouts(connect=1, greeting=0.5, command=0.5, data=0.5, block=0.5, dot=0.5, tls=0.5, farewell=0.5)
MAIL = Envelope("me@example.org", ("you@example.com",), b"Subject: hello\r\n\r\nhello\r\n")
BIG = replace(MAIL, content=b"Subject: big\r\n\r\n" + b"x" * 70 + b"\r\n" * 1000 + (b"y" * 70 + b"\r\n") * 200_000)


async def connect(sink: SMTPSink, host: str = "sink.test", source_address: str = "") -> ClientSession:
    return await ClientSession.connect(
        host, sink.address, sink.port, local_hostname="mx.example.org", source_address=source_address, timeouts=SHORT
    )


async def send(sink: SMTPSink, envelope: Envelope = MAIL) -> RecipientResult:
    session = await connect(sink)
    (result,) = await session.send(envelope)
    await session.close()
    return result


async def connect_failure(sink: SMTPSink) -> tuple[Scope, Outcome, str, int]:
    with pytest.raises(FailureError) as caught:
        await connect(sink)
    failure = caught.value.failure
    return failure.scope, failure.outcome, failure.enhanced, failure.code


async def test_mail_is_handed_over_as_it_is() -> None:
    async with SMTPSink() as sink:
        result = await send(sink)
    assert result == RecipientResult(
        "you@example.com", Outcome.SUCCESS, "2.0.0", 250, "2.0.0 stored", host="sink.test", address="127.0.0.1"
    )
    (mail,) = sink.transactions
    assert (mail.reverse_path, mail.recipients, mail.helo) == ("me@example.org", ["you@example.com"], "mx.example.org")
    assert mail.content == MAIL.content
    assert sink.verbs() == ["EHLO", "MAIL", "RCPT", "DATA", "QUIT"]


async def test_null_reverse_path_is_empty_brackets() -> None:
    async with SMTPSink() as sink:
        await send(sink, replace(MAIL, reverse_path=""))
    assert sink.commands[1][1].startswith("MAIL FROM:<>")


async def test_ipv6_host_is_spoken_to() -> None:
    async with SMTPSink(address="::1") as sink:
        result = await send(sink)
    assert (result.outcome, result.address) == (Outcome.SUCCESS, "::1")


async def test_source_address_is_where_the_connection_comes_from() -> None:
    async with SMTPSink(address="127.0.0.1") as sink:
        session = await connect(sink, source_address="127.0.0.7")
        assert session._channel.known("sockname")[0] == "127.0.0.7"
        await session.close()


@pytest.mark.parametrize("source", ["192.0.2.1", "::1", "nonsense"])
async def test_source_address_that_cannot_be_bound_is_transient(source: str) -> None:
    async with SMTPSink() as sink:
        with pytest.raises(FailureError) as caught:
            await connect(sink, source_address=source)
    assert caught.value.failure.enhanced == "4.4.1"


@pytest.mark.parametrize(
    "content",
    [b"", b".", b".\r\n", b"..\r\n.\r\n\r\n..", b"a\r\n.\r\nMAIL FROM:<x@y>\r\n", b"no end", b"\xff\x80\r\n"],
)
async def test_dots_and_odd_octets_arrive_as_they_were(content: bytes) -> None:
    async with SMTPSink() as sink:
        result = await send(sink, replace(MAIL, content=content))
    assert result.outcome is Outcome.SUCCESS
    assert sink.transactions[0].content == (content if content.endswith(b"\r\n") or not content else content + b"\r\n")


async def test_nul_is_left_out_as_a_host_may_do_it_behind_the_stuffing_of_dots() -> None:
    async with SMTPSink() as sink:
        await send(sink, replace(MAIL, content=b"a\r\n\0.\r\nMAIL FROM:<x@y>\r\n\0"))
    (mail,) = sink.transactions
    assert mail.content == b"a\r\n.\r\nMAIL FROM:<x@y>\r\n"


@pytest.mark.parametrize("end", [b"\n.\n", b"\r.\r", b"\n.\r\n", b"\r\n.\n", b"\r.\r\n"])
async def test_false_end_of_data_smuggles_no_second_mail(end: bytes) -> None:
    async with SMTPSink() as sink:
        await send(sink, replace(MAIL, content=b"Subject: a\r\n\r\nb" + end + b"MAIL FROM:<evil@example.net>\r\n"))
    assert len(sink.transactions) == 1
    assert b"\n.MAIL" not in sink.transactions[0].content
    assert sink.verbs().count("MAIL") == 1


@given(st.lists(st.sampled_from([b".", b"\r", b"\n", b"\r\n", b"a", b"." * 9, b"b" * 5]), max_size=30).map(b"".join))
@settings(max_examples=200)
def test_wire_form_has_one_end_and_loses_nothing(content: bytes) -> None:
    lines = canonical(content)
    assert lines.replace(b"\r\n", b"").count(b"\r") == lines.replace(b"\r\n", b"").count(b"\n") == 0
    wire = b"".join([block for block, _ in blocks(lines)])
    assert (b"\r\n" + wire).endswith(b"\r\n.\r\n")
    assert (b"\r\n" + wire).count(b"\r\n.\r\n") == 1
    received = [line.removeprefix(b".") for line in wire[:-3].split(b"\r\n")]
    assert b"\r\n".join(received) == lines


@pytest.mark.parametrize("size", [0, 1, BLOCK - 2, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK])
def test_only_the_last_block_has_the_dot(size: int) -> None:
    parts = list(blocks(b"x" * size + b"\r\n"))
    assert [last for _, last in parts] == [False] * (len(parts) - 1) + [True]
    assert b"".join([block for block, _ in parts]) == b"x" * size + b"\r\n.\r\n"


async def test_big_mail_arrives_whole() -> None:
    async with SMTPSink() as sink:
        result = await send(sink, BIG)
    assert result.outcome is Outcome.SUCCESS
    assert sink.transactions[0].content == BIG.content


async def test_parameters_are_sent_where_they_are_offered_and_needed() -> None:
    async with SMTPSink() as sink:
        session = await connect(sink)
        await session.send(replace(MAIL, body8bit=True))
        await session.send(replace(MAIL, smtputf8=True))
        await session.send(replace(MAIL, recipients=("jösé@example.com",)))
        await session.close()
    size = f"SIZE={len(MAIL.content)}"
    assert [mail.parameters for mail in sink.transactions] == [
        f"{size} BODY=8BITMIME",
        f"{size} BODY=8BITMIME SMTPUTF8",
        f"{size} BODY=8BITMIME SMTPUTF8",
    ]
    assert sink.transactions[2].recipients == ["jösé@example.com"]


async def test_no_parameter_is_sent_where_none_is_offered() -> None:
    async with SMTPSink(extensions=[]) as sink:
        result = await send(sink, replace(MAIL, body8bit=True, content=b"\xff\r\n"))
    assert result.outcome is Outcome.SUCCESS
    assert (sink.transactions[0].parameters, sink.transactions[0].content) == ("", b"\xff\r\n")


async def test_smtputf8_is_needed_but_not_offered_then_only_those_who_need_it_fail() -> None:
    async with SMTPSink(extensions=["8BITMIME"]) as sink:
        session = await connect(sink)
        first, second = await session.send(replace(MAIL, recipients=("jösé@example.com", "you@example.com")))
        (header,) = await session.send(replace(MAIL, smtputf8=True))
        (sender,) = await session.send(replace(MAIL, reverse_path="jösé@example.org"))
        assert session.reusable
        await session.close()
    assert (first.outcome, first.enhanced, second.outcome) == (Outcome.PERMANENT, "5.6.7", Outcome.SUCCESS)
    assert header.enhanced == sender.enhanced == "5.6.7"
    assert sink.transactions[0].recipients == ["you@example.com"]


async def test_mail_larger_than_the_host_takes_is_not_sent() -> None:
    async with SMTPSink(extensions=["SIZE 20"]) as sink:
        result = await send(sink)
    assert (result.outcome, result.enhanced, result.scope) == (Outcome.PERMANENT, "5.3.4", Scope.MESSAGE)
    assert "MAIL" not in sink.verbs()


@pytest.mark.parametrize("extension", ["SIZE", "SIZE 0", "SIZE much", "SIZE " + "9" * 5000])
async def test_size_without_a_usable_limit_limits_nothing(extension: str) -> None:
    async with SMTPSink(extensions=[extension]) as sink:
        assert (await send(sink)).outcome is Outcome.SUCCESS


@pytest.mark.parametrize(
    ("recipient", "enhanced"),
    [
        ("you@example.com> SIZE=1", "5.1.3"),
        ("you@example.com\r\nRSET", "5.1.3"),
        ("nobody", "5.1.3"),
        ("\ud800@example.com", "5.1.3"),
        ('"a b>"@example.com', "2.0.0"),
    ],
)
async def test_address_can_not_carry_commands(recipient: str, enhanced: str) -> None:
    async with SMTPSink() as sink:
        result = await send(sink, replace(MAIL, recipients=(recipient,)))
    assert result.enhanced == enhanced
    assert all(line.count("TO:") <= 1 and "RSET" not in line for _, line in sink.commands)


async def test_malformed_sender_is_permanent_and_unsaid() -> None:
    async with SMTPSink() as sink:
        result = await send(sink, replace(MAIL, reverse_path="a@b>\r\nX"))
    assert (result.outcome, result.enhanced) == (Outcome.PERMANENT, "5.1.7")
    assert sink.verbs() == ["EHLO", "QUIT"]


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ({"BANNER": "554 5.7.1 go away"}, (Scope.HOST, Outcome.TRANSIENT, "4.7.1", 554)),
        ({"BANNER": "521 never"}, (Scope.HOST, Outcome.PERMANENT, "5.0.0", 521)),
        ({"BANNER": "421 4.3.2 busy"}, (Scope.HOST, Outcome.TRANSIENT, "4.3.2", 421)),
        ({"BANNER": "250 what"}, (Scope.HOST, Outcome.TRANSIENT, "4.5.0", 0)),
        ({"BANNER": "drop"}, (Scope.HOST, Outcome.TRANSIENT, "4.4.2", 0)),
        ({"BANNER": "hang"}, (Scope.HOST, Outcome.TRANSIENT, "4.4.2", 0)),
        ({"BANNER": "garbage"}, (Scope.HOST, Outcome.TRANSIENT, "4.5.0", 0)),
        ({"EHLO": "450 4.0.1 later"}, (Scope.HOST, Outcome.TRANSIENT, "4.0.1", 450)),
        ({"EHLO": "550 5.7.2 no"}, None),
        ({"EHLO": "550 5.7.2 no", "HELO": "550 5.7.3 no"}, (Scope.HOST, Outcome.PERMANENT, "5.7.3", 550)),
        ({"EHLO": "550 5.7.2 no !drop"}, (Scope.HOST, Outcome.PERMANENT, "5.7.2", 550)),
        ({"EHLO": "550 5.7.2 no", "HELO": "drop"}, (Scope.HOST, Outcome.PERMANENT, "5.7.2", 550)),
        ({"EHLO": "421 bye"}, (Scope.HOST, Outcome.TRANSIENT, "4.0.0", 421)),
        ({"EHLO": "drop"}, (Scope.HOST, Outcome.TRANSIENT, "4.4.2", 0)),
        ({"EHLO": "hang"}, (Scope.HOST, Outcome.TRANSIENT, "4.4.2", 0)),
        ({"EHLO": "garbage"}, (Scope.HOST, Outcome.TRANSIENT, "4.5.0", 0)),
    ],
)
async def test_greeting_fails_then_it_is_the_hosts_failure(
    script: dict[str, str], expected: tuple[Scope, Outcome, str, int] | None
) -> None:
    async with SMTPSink(script) as sink:
        if expected is None:
            assert (await send(sink)).outcome is Outcome.SUCCESS
            assert sink.verbs()[:3] == ["EHLO", "HELO", "MAIL"]
        else:
            assert await connect_failure(sink) == expected


async def test_nobody_listens_then_there_is_no_answer_from_the_host() -> None:
    async with SMTPSink() as sink:
        pass
    assert await connect_failure(sink) == (Scope.HOST, Outcome.TRANSIENT, "4.4.1", 0)


async def test_connection_is_not_accepted_in_time_then_there_is_no_answer() -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        port = full.getsockname()[1]
        fillers = [socket.socket() for _ in range(3)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
        with pytest.raises(FailureError) as caught:
            await ClientSession.connect(
                "full.test", "127.0.0.1", port, local_hostname="mx.example.org", timeouts=replace(SHORT, connect=0.2)
            )
        assert (caught.value.failure.enhanced, "timed out" in caught.value.failure.text) == ("4.4.1", True)
        for filler in fillers:
            filler.close()


@pytest.mark.parametrize("verb", ["MAIL", "RCPT", "DATA", "DOT"])
@pytest.mark.parametrize(
    ("action", "outcome", "host_scope"),
    [
        ("450 4.2.1 later", Outcome.TRANSIENT, False),
        ("550 5.2.1 never", Outcome.PERMANENT, False),
        ("421 4.3.2 bye", Outcome.TRANSIENT, True),
        ("drop", Outcome.TRANSIENT, True),
        ("hang", Outcome.TRANSIENT, True),
        ("garbage", Outcome.TRANSIENT, True),
        ("999 what", Outcome.TRANSIENT, True),
        ("199 what", Outcome.TRANSIENT, True),
    ],
)
async def test_step_fails_then_the_result_says_how(verb: str, action: str, outcome: Outcome, host_scope: bool) -> None:
    async with SMTPSink({verb: [action]}) as sink:
        session = await connect(sink)
        (result,) = await session.send(MAIL)
        assert result.outcome is outcome
        assert (result.scope is Scope.HOST) is host_scope
        assert session.reusable is not host_scope
        assert sink.transactions == []
        assert result.after_dot is (verb == "DOT" and action in ("drop", "hang", "garbage", "999 what", "199 what"))
        if not host_scope:  # the same connection goes on
            assert (result.code, result.enhanced) == (int(action[:3]), action[4:9])
            assert (await session.send(MAIL))[0].outcome is Outcome.SUCCESS
            assert sink.connections == 1
        await session.close()


@pytest.mark.parametrize("action", ["accept-drop", "accept-hang"])
async def test_taken_without_a_reply_is_unknown(action: str) -> None:
    async with SMTPSink({"DOT": action}) as sink:
        result = await send(sink)
    assert len(sink.transactions) == 1
    assert (result.outcome, result.enhanced, result.after_dot) == (Outcome.TRANSIENT, "4.4.2", True)


async def test_connection_breaks_in_the_middle_of_the_content_then_it_did_not_arrive() -> None:
    async with SMTPSink({"CONTENT": "drop"}) as sink:
        result = await send(sink, BIG)
    assert (result.outcome, result.scope, result.after_dot) == (Outcome.TRANSIENT, Scope.HOST, False)


async def test_host_stops_reading_then_the_block_times_out_before_the_dot() -> None:
    async with SMTPSink(lambda step, _: "slow 5" if step == "CONTENT" else None) as sink:
        result = await send(sink, BIG)
    assert (result.outcome, result.enhanced, result.after_dot) == (Outcome.TRANSIENT, "4.4.2", False)


async def test_host_refuses_before_the_end_then_its_word_counts() -> None:
    async with SMTPSink({"CONTENT": ["552 5.3.4 too big"]}) as sink:
        session = await connect(sink)
        (result,) = await session.send(BIG)
        assert not session.reusable
        await session.close()
    assert (result.outcome, result.enhanced, result.code) == (Outcome.PERMANENT, "5.3.4", 552)


async def test_host_accepts_before_the_end_then_it_is_not_believed() -> None:
    async with SMTPSink({"CONTENT": "250 2.0.0 stored"}) as sink:
        result = await send(sink, BIG)
    assert (result.outcome, result.after_dot) == (Outcome.TRANSIENT, False)


async def test_recipients_end_each_on_their_own() -> None:
    async with SMTPSink({"RCPT": [None, "550 5.1.1 who", "450 4.2.1 later", None]}) as sink:
        session = await connect(sink)
        results = await session.send(replace(MAIL, recipients=("a@x.com", "b@x.com", "c@x.com", "a@x.com")))
        await session.close()
    assert [result.recipient for result in results] == ["a@x.com", "b@x.com", "c@x.com", "a@x.com"]
    assert [result.enhanced for result in results] == ["2.0.0", "5.1.1", "4.2.1", "2.0.0"]
    assert sink.transactions[0].recipients == ["a@x.com", "a@x.com"]


async def test_connection_breaks_among_recipients_then_those_refused_stay_refused() -> None:
    async with SMTPSink({"RCPT": ["550 5.1.1 who", None, "421 4.3.2 bye"]}) as sink:
        session = await connect(sink)
        results = await session.send(replace(MAIL, recipients=("a@x.com", "b@x.com", "c@x.com")))
    assert [(result.outcome, result.code) for result in results] == [
        (Outcome.PERMANENT, 550),
        (Outcome.TRANSIENT, 421),
        (Outcome.TRANSIENT, 421),
    ]


async def test_probe_sends_nothing_and_keeps_the_connection() -> None:
    async with SMTPSink({"RCPT": [None, "550 5.1.1 who"]}) as sink:
        session = await connect(sink)
        results = await session.send(replace(MAIL, recipients=("a@x.com", "b@x.com"), content=b"", probe=True))
        assert session.reusable
        await session.close()
    assert [result.enhanced for result in results] == ["2.1.5", "5.1.1"]
    assert sink.verbs() == ["EHLO", "MAIL", "RCPT", "RCPT", "RSET", "QUIT"]


async def test_reset_is_refused_then_the_connection_is_not_used_again() -> None:
    async with SMTPSink({"RCPT": "550 no", "RSET": "550 no"}) as sink:
        session = await connect(sink)
        await session.send(MAIL)
        assert not session.reusable


async def test_mails_follow_each_other_on_one_connection() -> None:
    async with SMTPSink() as sink:
        session = await connect(sink)
        for _ in range(5):
            assert (await session.send(MAIL))[0].outcome is Outcome.SUCCESS
        await session.close()
    assert (sink.connections, session.messages_sent, len(sink.transactions)) == (1, 5, 5)


@pytest.mark.parametrize("action", ["drop", "hang", "500 no", "garbage"])
async def test_close_never_raises_and_hangs_up(action: str) -> None:
    async with SMTPSink({"QUIT": action}) as sink:
        session = await connect(sink)
        await asyncio.wait_for(session.close(), 2)
        await session.close()
        assert not session.reusable


async def test_sending_is_cancelled_then_the_connection_is_gone() -> None:
    async with SMTPSink({"MAIL": "hang"}) as sink:
        session = await connect(sink)
        sending = asyncio.create_task(session.send(MAIL))
        while "MAIL" not in sink.verbs():
            await asyncio.sleep(0.01)
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        assert not session.reusable
        async with asyncio.timeout(1):
            while sink.open:
                await asyncio.sleep(0.01)


async def test_connecting_is_cancelled_then_the_connection_is_gone() -> None:
    async with SMTPSink({"EHLO": "hang"}) as sink:
        connecting = asyncio.create_task(connect(sink))
        while "EHLO" not in sink.verbs():
            await asyncio.sleep(0.01)
        connecting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await connecting
        async with asyncio.timeout(1):
            while sink.open:
                await asyncio.sleep(0.01)


async def test_tls_is_used_where_it_is_offered_whoever_signed() -> None:
    async with SMTPSink(tls=True) as sink:
        result = await send(sink, BIG)
    assert result.tls == sink.transactions[0].tls == "TLSv1.3"
    assert sink.verbs()[:3] == ["EHLO", "STARTTLS", "EHLO"]
    assert sink.transactions[0].content == BIG.content


@pytest.mark.parametrize("host", ["[127.0.0.1]", "127.0.0.1", ".", "x" * 70 + ".test", "a_b.test", "\\000.test"])
async def test_name_unfit_for_sni_does_not_stop_the_mail(host: str) -> None:
    async with SMTPSink(tls=True) as sink:
        session = await connect(sink, host)
        assert (await session.send(MAIL))[0].outcome is Outcome.SUCCESS
        await session.close()


@pytest.mark.parametrize(
    "script",
    [
        {"STARTTLS": "454 4.7.0 not now"},
        {"STARTTLS": "554 5.7.0 never"},
        {"STARTTLS": "drop"},
        {"STARTTLS": "hang"},
        {"HANDSHAKE": "drop"},
        {"HANDSHAKE": "hang"},
        {"HANDSHAKE": "garbage"},
        {"EHLO": [None, "drop"]},
    ],
)
async def test_tls_fails_then_a_new_connection_goes_in_plain_text(script: dict[str, str]) -> None:
    async with SMTPSink(script, tls=True) as sink:
        result = await send(sink)
    assert (result.outcome, result.tls) == (Outcome.SUCCESS, "")
    assert result.tls_failure
    assert sink.connections == 2
    assert sink.verbs(2) == ["EHLO", "MAIL", "RCPT", "DATA", "QUIT"]


async def test_plain_text_injected_behind_starttls_is_not_heard() -> None:
    async with SMTPSink({"STARTTLS": "220 ready\n554 5.7.0 injected"}, tls=True) as sink:
        result = await send(sink)
    assert (result.outcome, result.tls) == (Outcome.SUCCESS, "TLSv1.3")


async def test_tls_failed_and_the_host_insists_on_it_then_it_is_transient() -> None:
    async with SMTPSink(
        {"HANDSHAKE": "drop", "MAIL": "530 5.7.0 Must issue a STARTTLS command first"}, tls=True
    ) as sink:
        result = await send(sink)
    assert (result.outcome, result.enhanced, result.code) == (Outcome.TRANSIENT, "4.7.0", 530)


async def test_reply_that_comes_before_anybody_reads_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    """uvloop may look at its sockets before whoever wrote comes to read."""
    async with SMTPSink({"DOT": "accept-hang"}) as sink:
        session = await connect(sink)
        channel = session._channel
        send = channel.send

        def send_and_hear_at_once(data: bytes, replies: int) -> bool:
            written = send(data, replies)
            if data.endswith(b"\r\n.\r\n"):
                channel.data_received(b"250 2.0.0 at once\r\n")
            return written

        monkeypatch.setattr(channel, "send", send_and_hear_at_once)
        (result,) = await session.send(MAIL)
        session.abort()
    assert (result.outcome, result.text) == (Outcome.SUCCESS, "2.0.0 at once")

"""What a connection must have before a mail may pass: every level of security against hosts that have it, lose it, or pretend."""

from __future__ import annotations

import pytest

from responder.mail.status import FailureError, Outcome, Scope
from responder.outbound.base import Envelope
from responder.outbound.dial import Timeouts
from responder.outbound.smtp.session import ClientSession
from responder.outbound.tls.security import Insecure, InsecureError, Level, Security
from tests.support.smtp_sink import EXTENSIONS, Script, SMTPSink

SHORT = Timeouts(connect=1, greeting=1, command=1, data=1, block=1, dot=1, tls=1, farewell=1)
MAIL = Envelope("me@example.org", ("you@example.com",), b"Subject: hello\r\n\r\nhello\r\n")
REQUIRED = Envelope("me@example.org", ("you@example.com",), MAIL.content, requiretls=True)
ENCRYPTED = Security(Level.ENCRYPTED)
VERIFIED = Security(Level.VERIFIED)  # nobody trusts the sink's certificate
TESTING = Security(Level.VERIFIED, testing=True)
WITH_REQUIRETLS = (*EXTENSIONS, "REQUIRETLS")

BROKEN_TLS: list[Script] = [
    {"STARTTLS": "454 4.7.0 not now"},
    {"STARTTLS": "554 5.7.0 never"},
    {"STARTTLS": "drop"},
    {"STARTTLS": "hang"},
    {"STARTTLS": "garbage"},
    {"STARTTLS": "1mb"},
    {"HANDSHAKE": "drop"},
    {"HANDSHAKE": "hang"},
    {"HANDSHAKE": "garbage"},
    {"EHLO": [None, "drop"]},
    {"EHLO": [None, "garbage"]},
]


async def connect(sink: SMTPSink, security: Security) -> ClientSession:
    return await ClientSession.connect(
        "sink.test", sink.address, sink.port, local_hostname="mx.example.org", timeouts=SHORT, security=security
    )


def nothing_said(sink: SMTPSink) -> bool:
    """Whether the host was told nothing of a mail."""
    return not {"MAIL", "RCPT", "DATA", "BDAT", "VRFY"} & set(sink.verbs())


@pytest.mark.parametrize(
    "security", [ENCRYPTED, VERIFIED, Security(requiretls=True), Security(Level.OFF, requiretls=True)]
)
async def test_tls_is_asked_for_and_not_offered_then_no_mail_passes(security: Security) -> None:
    async with SMTPSink() as sink:
        with pytest.raises(InsecureError) as caught:
            await connect(sink, security)
    assert caught.value.why.kind == "starttls-not-supported"
    assert (caught.value.failure.scope, caught.value.failure.outcome) == (Scope.HOST, Outcome.TRANSIENT)
    assert (sink.connections, nothing_said(sink)) == (1, True)


@pytest.mark.parametrize("script", BROKEN_TLS)
@pytest.mark.parametrize("security", [ENCRYPTED, VERIFIED, Security(requiretls=True)])
async def test_tls_is_asked_for_and_fails_then_there_is_no_second_connection(
    script: Script, security: Security
) -> None:
    async with SMTPSink(script, tls=True) as sink:
        with pytest.raises(FailureError) as caught:
            await connect(sink, security)
    assert (caught.value.failure.scope, caught.value.failure.outcome) == (Scope.HOST, Outcome.TRANSIENT)
    assert (sink.connections, nothing_said(sink)) == (1, True)


@pytest.mark.parametrize("script", BROKEN_TLS)
async def test_policy_is_tested_and_tls_fails_then_it_is_plain_text_once(script: Script) -> None:
    async with SMTPSink(script, tls=True) as sink:
        session = await connect(sink, TESTING)
        (result,) = await session.send(MAIL)
        await session.close()
    assert (result.outcome, result.tls, bool(result.tls_failure)) == (Outcome.SUCCESS, "", True)
    assert (sink.connections, session.insecure is not None) == (2, True)


async def test_certificate_does_not_hold_then_no_mail_passes() -> None:
    async with SMTPSink(tls=True) as sink:
        with pytest.raises(InsecureError) as caught:
            await connect(sink, VERIFIED)
    assert caught.value.why.kind == "certificate-not-trusted"
    assert (sink.connections, sink.verbs()) == (1, ["EHLO", "STARTTLS"])


async def test_certificate_does_not_hold_under_a_tested_policy_then_the_same_connection_stays_encrypted() -> None:
    async with SMTPSink(tls=True) as sink:
        session = await connect(sink, TESTING)
        (result,) = await session.send(MAIL)
        await session.close()
    assert (result.outcome, result.tls, result.tls_failure) == (Outcome.SUCCESS, "TLSv1.3", "")
    assert session.insecure is not None
    assert session.insecure.kind == "certificate-not-trusted"
    assert (sink.connections, sink.transactions[0].tls) == (1, "TLSv1.3")


async def test_encryption_is_asked_for_then_any_certificate_will_do() -> None:
    async with SMTPSink(tls=True) as sink:
        session = await connect(sink, ENCRYPTED)
        await session.send(MAIL)
        await session.close()
    assert (session.insecure, sink.transactions[0].tls) == (None, "TLSv1.3")


async def test_tls_is_off_then_it_is_not_begun() -> None:
    async with SMTPSink(tls=True) as sink:
        session = await connect(sink, Security(Level.OFF))
        (result,) = await session.send(MAIL)
        await session.close()
    assert (result.outcome, result.tls_failure, "STARTTLS" in sink.verbs()) == (Outcome.SUCCESS, "", False)


@pytest.mark.parametrize("level", Level)
async def test_requiretls_is_not_offered_then_the_host_is_no_way(level: Level, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("responder.outbound.smtp.greeting.examine", lambda *_: None)
    testing = level > Level.ENCRYPTED  # so that the handshake passes
    async with SMTPSink(tls=True) as sink:
        with pytest.raises(InsecureError) as caught:
            await connect(sink, Security(level, testing=testing, requiretls=True))
    failure = caught.value.failure
    assert (failure.enhanced, failure.outcome, failure.scope) == ("5.7.30", Outcome.PERMANENT, Scope.HOST)
    assert (sink.connections, nothing_said(sink)) == (1, True)


async def test_requiretls_is_offered_in_plain_text_only_then_it_is_not_believed() -> None:
    """Whoever sits between can write what he likes into the first reply to EHLO."""
    forged = "250-sink.test\n250-STARTTLS\n250 REQUIRETLS"
    async with SMTPSink({"EHLO": [forged]}, tls=True) as sink:
        with pytest.raises(InsecureError) as caught:
            await connect(sink, Security(Level.ENCRYPTED, requiretls=True))
    assert (caught.value.failure.enhanced, nothing_said(sink)) == ("5.7.30", True)


async def test_requiretls_is_offered_then_mail_says_so_for_those_who_ask() -> None:
    async with SMTPSink(tls=True, extensions=WITH_REQUIRETLS) as sink:
        session = await connect(sink, Security(Level.ENCRYPTED, requiretls=True))
        await session.send(REQUIRED)
        await session.send(MAIL)
        await session.close()
    assert ["REQUIRETLS" in mail.parameters for mail in sink.transactions] == [True, False]


@pytest.mark.parametrize("tls", [True, False])
async def test_mail_requires_tls_on_a_connection_that_has_it_not_then_nothing_is_said(tls: bool) -> None:
    """The pool keeps connections by their security, so this can't be; it is seen all the same."""
    async with SMTPSink(tls=tls, extensions=EXTENSIONS if tls else WITH_REQUIRETLS) as sink:
        session = await connect(sink, Security())
        (result,) = await session.send(REQUIRED)
        assert (result.enhanced, result.scope, session.reusable) == ("5.7.30", Scope.HOST, True)
        await session.close()
    assert nothing_said(sink)


async def test_certificate_is_judged_before_the_host_is_greeted_again(monkeypatch: pytest.MonkeyPatch) -> None:
    why = Insecure("validation-failure", "no")
    monkeypatch.setattr("responder.outbound.smtp.greeting.examine", lambda *_: why)
    async with SMTPSink(tls=True) as sink:
        with pytest.raises(InsecureError) as caught:
            await connect(sink, ENCRYPTED)
    assert caught.value.why is why
    assert sink.verbs() == ["EHLO", "STARTTLS"]


@pytest.mark.parametrize("behind", ["554 5.7.0 injected", "250 injected", "250-injected", "what?", "x" * 100_000])
async def test_octets_behind_the_reply_to_starttls_are_never_heard(behind: str) -> None:
    async with SMTPSink({"STARTTLS": f"220 ready\n{behind}"}, tls=True) as sink:
        session = await connect(sink, Security())
        results = [await session.send(MAIL) for _ in range(2)]
        await session.close()
    assert {result[0].outcome for result in results} == {Outcome.SUCCESS}
    assert {result[0].text for result in results} == {"2.0.0 stored"}

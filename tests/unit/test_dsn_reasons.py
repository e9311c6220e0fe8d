"""Notifications in plain words: a delay, a reason for each, and all of it read back whatever a remote host says."""

from __future__ import annotations

from email import message_from_bytes
from email.policy import default

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from responder.mail.address import parse
from responder.mail.dsn import ReportedRecipient, compose_dsn
from responder.mail.replies import Reason
from responder.mail.report import parse_report
from responder.mail.wording import MEANS

ANN = parse("ann@far.example")
TEXTS = st.text(st.characters(codec=None), max_size=600)


def composed(*recipients: ReportedRecipient, original: bytes = b"Subject: x\r\n\r\ny\r\n", ret: str = "") -> bytes:
    return compose_dsn(
        reporting_mta="mx.test.example",
        postmaster=parse("postmaster@test.example"),
        to=parse("carl@client.example"),
        recipients=recipients,
        original=original,
        arrival=1.7e9,
        now=1.7e9 + 3600,
        message_id="<auto.0123456789abcdefgh@mx.test.example>",
        ret=ret,
    )


@pytest.mark.parametrize("reason", Reason)
def test_failure_is_told_in_words_that_anybody_understands(reason: Reason) -> None:
    message = message_from_bytes(composed(ReportedRecipient(ANN, "5.1.1", "550 no", reason=reason)), policy=default)
    told = " ".join(message.get_payload(0).get_content().split())  # type: ignore[union-attr]
    assert MEANS[reason] in told and "550 no" in told
    assert "It will not be tried again." in told
    assert not any(word in MEANS[reason] for word in ("SMTP", "MX", "DNS", "SPF", "TLS", "RFC"))


def test_delay_is_told_with_the_time_until_which_it_is_tried() -> None:
    late = ReportedRecipient(
        ANN, "4.4.1", "no answer", action="delayed", reason=Reason.UNREACHABLE, retry_until=1.7e9 + 432000
    )
    whole = composed(late, ret="FULL")
    message = message_from_bytes(whole, policy=default)
    assert message["Subject"] == "Delayed mail (still being tried)"
    told = " ".join(message.get_payload(0).get_content().split())  # type: ignore[union-attr]
    assert "could not be delivered yet to: <ann@far.example> The receiving server does not answer." in told
    assert "It is tried on until Sun, 19 Nov 2023 22:13:20 +0000. You need not send it again." in told
    assert "The header of the message follows." in told  # RFC 3461 4.3: whole for failures alone
    status = message.get_payload(1).as_bytes()  # type: ignore[union-attr]
    assert b"Action: delayed\nStatus: 4.4.1\n" in status
    assert b"Will-Retry-Until: Sun, 19 Nov 2023 22:13:20 +0000\n" in status
    assert [(one.recipient, one.action, one.status) for one in parse_report(whole)] == [(str(ANN), "delayed", "4.4.1")]


def test_delay_with_a_failures_code_is_still_a_delay() -> None:
    whole = composed(ReportedRecipient(ANN, "5.1.1", "x", action="delayed"))
    assert b"Action: delayed\r\nStatus: 4.0.0\r\n" in whole
    assert b"Will-Retry-Until" not in whole


def test_one_failure_among_delays_makes_it_a_failure() -> None:
    whole = composed(ReportedRecipient(ANN, action="delayed"), ReportedRecipient(parse("bob@far.example"), "5.1.1"))
    message = message_from_bytes(whole, policy=default)
    assert message["Subject"] == "Undelivered mail returned to sender"
    assert [one.action for one in parse_report(whole)] == ["delayed", "failed"]


@given(TEXTS, st.binary(max_size=2000), st.sampled_from(Reason), st.sampled_from(["failed", "delayed"]), TEXTS)
@settings(max_examples=150, deadline=None)
def test_report_is_read_back_whatever_was_said_of_whatever_mail(
    diagnostic: str, original: bytes, reason: Reason, action: str, host: str
) -> None:
    one = ReportedRecipient(
        ANN, "5.7.1", diagnostic, remote_mta=host, last_attempt=1.7e9, action=action, reason=reason, retry_until=1.8e9  # type: ignore[arg-type]
    )  # fmt: skip
    whole = composed(one, original=original, ret="FULL")
    message = message_from_bytes(whole, policy=default)
    parts = list(message.iter_parts())
    assert [part.get_content_type() for part in parts[:2]] == ["text/plain", "message/delivery-status"]
    assert len(parts) == 3
    assert not message.defects
    [read] = parse_report(whole)
    assert (read.recipient, read.action) == (str(ANN), action)
    assert whole.count(b"\nFinal-Recipient:") >= 1
    status = whole.partition(b"message/delivery-status")[2].partition(b"\r\n--")[0]
    assert status.count(b"\nFinal-Recipient:") == status.count(b"\nAction:") == status.count(b"\nStatus:") == 1

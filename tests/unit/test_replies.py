"""The table of replies: what the large providers and mail systems really say, and what it comes to."""

from __future__ import annotations

import time
import tomllib
from collections import Counter

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from responder.mail.replies import BLAMES_RECIPIENT, BLAMES_US, CODES, RULES, SOFT, STATUS, Reason, classify
from responder.mail.status import MAX_TEXT, Failure, Outcome, RemoteReply, Trouble, Verb, judge
from responder.mail.wording import MEANS
from tests.support.server import ROOT

REPLIES = tomllib.loads((ROOT / "tests" / "data" / "replies.toml").read_text(encoding="utf-8"))["reply"]


def said(reply: str, verb: Verb = Verb.RCPT) -> Failure:
    code, _, text = reply.partition(" ")
    failure = judge(verb, RemoteReply(int(code), text))
    assert failure is not None
    return failure


@pytest.mark.parametrize("row", REPLIES, ids=lambda row: f"{row['from']}: {row['said'][:60]}")
def test_reply_comes_to_its_outcome_and_reason(row: dict[str, str]) -> None:
    failure = said(row["said"])
    assert (failure.outcome, failure.reason) == (row["outcome"], row["reason"])
    assert failure.enhanced[0] == ("5" if failure.outcome is Outcome.PERMANENT else "4")


def test_replies_are_many_and_of_many() -> None:
    assert len(REPLIES) >= 300
    assert len({row["from"] for row in REPLIES}) >= 40
    said_of = Counter(row["reason"] for row in REPLIES)
    alone = {Reason.NO_ROUTE, Reason.DNS, Reason.UNREACHABLE, Reason.EXPIRED, Reason.SUPPRESSED}  # nobody's reply
    assert set(said_of) == {str(reason) for reason in Reason} - alone


def test_reply_stays_what_it_is_when_it_is_softened() -> None:
    for row in REPLIES:
        failure = said(row["said"])
        assert classify(failure.code, failure.enhanced, failure.text) is failure.reason


def test_reason_when_it_is_soft_then_the_outcome_is_transient_and_of_no_other_5yz() -> None:
    for row in REPLIES:
        failure = said(row["said"])
        if row["said"].startswith("5"):
            assert (failure.outcome is Outcome.TRANSIENT) == (failure.reason in SOFT), row


@pytest.mark.parametrize("trouble", Trouble)
def test_own_words_are_judged_by_their_code_alone(trouble: Trouble) -> None:
    failure = trouble.failure("spam from a greylisted user unknown")
    assert failure.reason is STATUS[failure.enhanced[2:]] if failure.enhanced[2:] in STATUS else Reason.TROUBLE
    assert not failure.blames_recipient and not failure.blames_us


def test_recipient_is_blamed_for_a_permanent_word_on_it_alone() -> None:
    assert said("550 5.1.1 no such user").blames_recipient
    assert not said("450 4.1.1 no such user").blames_recipient
    assert not said("550 5.1.1 no such user", Verb.DOT).blames_recipient  # that is all recipients' of the transaction
    assert not said("550 5.7.1 blocked using zen.spamhaus.org").blames_recipient
    assert not said("552 5.2.2 mailbox full").blames_recipient
    assert not said("550 no").blames_recipient


def test_we_are_blamed_for_our_address_and_name_alone() -> None:
    assert said("550 5.7.1 blocked using zen.spamhaus.org").blames_us
    assert said("450 4.7.1 Client host rejected: cannot find your hostname").blames_us
    assert not said("550 5.1.1 no such user").blames_us
    assert not (BLAMES_US & BLAMES_RECIPIENT) and not (SOFT & (BLAMES_US | BLAMES_RECIPIENT))


@pytest.mark.parametrize(
    ("reply", "throttles"),
    [
        ("421 4.7.0 Too many connections", True),
        ("450 4.2.1 receiving mail too quickly", True),
        ("421 4.3.0 whatever", True),
        ("421 4.7.1 Greylisted", False),
        ("450 4.2.0 Greylisted, see http://postgrey.example", False),
        ("451 4.3.0 local problem", False),
        ("550 5.1.1 no such user", False),
    ],
)
def test_destination_throttles_where_it_wants_less_not_where_it_wants_later(reply: str, throttles: bool) -> None:
    assert said(reply).throttles is throttles


def test_recipients_own_words_count_for_nothing() -> None:
    assert (
        said("550 5.1.1 <spam.virus.greylisted.quota@dmarc.example>: Recipient address rejected").reason
        == "no-such-user"
    )
    assert said("550 5.1.1 no mailbox, see https://mail.example/help/spam_greylist.html").reason == "no-such-user"


def test_more_than_a_recipient_can_be_told_later() -> None:
    failure = judge(Verb.RCPT, RemoteReply(550, "5.5.3 Too many recipients"), accepted=3)
    assert failure is not None and (failure.outcome, failure.enhanced) == (Outcome.TRANSIENT, "4.5.3")
    failure = judge(Verb.RCPT, RemoteReply(550, "5.5.3 Too many recipients"))
    assert failure is not None and failure.outcome is Outcome.PERMANENT


@given(st.integers(-5, 1100), st.sampled_from(["", "4.0.0", "5.7.1", "9.9.9", "x"]), st.text(max_size=600))
@settings(max_examples=200)
@example(550, "5.0.0", "\u0130" * 500)
def test_any_text_has_a_reason(code: int, enhanced: str, text: str) -> None:
    assert classify(code, enhanced, text) in Reason


@pytest.mark.parametrize(
    "text",
    [
        "a" * MAX_TEXT,
        "too many" * 60,
        "5.1.1 " * 80,
        "https://" * 60,
        "https://a" * 50,
        "user " * 100,
        "1.1.1." * 80,
        "@" * MAX_TEXT,
    ],
)
def test_hostile_text_costs_little(text: str) -> None:
    classify.cache_clear()
    begun = time.perf_counter()
    for number in range(50):
        classify(550, "5.0.0", f"{text[:-3]}{number:03}")
    assert time.perf_counter() - begun < 0.5  # 50 of them: some 10 ms on an idle machine


def test_table_has_no_phrase_that_another_row_hides() -> None:
    seen: list[tuple[str, str, tuple[str, ...]]] = []
    for reason, class_, phrases in RULES:
        for phrase in phrases:
            assert all(phrase) and all(part == part.casefold() for part in phrase), phrase
            for other, of_class, before in seen:
                hidden = len(before) == 1 and len(phrase) == 1 and before[0] in phrase[0] and of_class in ("", class_)
                assert not (hidden and other != reason), (
                    f"{phrase[0]!r} ({reason}) never counts: {before[0]!r} ({other})"
                )
            seen.append((reason, class_, phrase))


def test_tables_have_words_for_every_reason() -> None:
    assert set(MEANS) == set(Reason)
    used = {reason for reason, _, _ in RULES} | set(STATUS.values()) | set(CODES.values())
    assert used | {Reason.UNKNOWN, Reason.SUPPRESSED} == set(Reason)


def test_page_lists_the_reasons() -> None:
    page = (ROOT / "docs" / "delivery.md").read_text(encoding="utf-8")
    section = page.partition("## Why a mail is refused or put off")[2].partition("\n## ")[0]
    listed = [line.split("`")[1] for line in section.splitlines() if line.startswith("| `")]
    assert sorted(listed) == sorted(str(reason) for reason in Reason)

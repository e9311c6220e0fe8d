"""What replies and silences mean."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from responder.mail.status import (
    MAX_TEXT,
    Failure,
    Outcome,
    RemoteReply,
    Scope,
    Trouble,
    Verb,
    judge,
    soften,
    verdict,
)


@pytest.mark.parametrize(
    ("code", "text", "outcome", "enhanced"),
    [
        (250, "2.1.5 fine", Outcome.SUCCESS, "2.1.5"),
        (250, "fine", Outcome.SUCCESS, "2.0.0"),
        (450, "4.2.1 later", Outcome.TRANSIENT, "4.2.1"),
        (550, "5.1.1 who?", Outcome.PERMANENT, "5.1.1"),
        (550, "5.1.10\nwho?", Outcome.PERMANENT, "5.1.10"),
        (550, "4.1.1 the classes differ", Outcome.PERMANENT, "5.0.0"),
        (450, "5.1.1 the classes differ", Outcome.TRANSIENT, "4.0.0"),
        (550, "5.1.1.1 is no code", Outcome.PERMANENT, "5.0.0"),
        (550, "5.1234.1 is no code", Outcome.PERMANENT, "5.0.0"),
        (550, "see 5.1.1", Outcome.PERMANENT, "5.0.0"),
        (550, "", Outcome.PERMANENT, "5.0.0"),
        (354, "2.0.0 go on", Outcome.TRANSIENT, "4.0.0"),
        (999, "4.4.4 nonsense", Outcome.TRANSIENT, "4.0.0"),
        (-1, "", Outcome.TRANSIENT, "4.0.0"),
    ],
)
def test_reply_is_judged_by_its_code(code: int, text: str, outcome: Outcome, enhanced: str) -> None:
    reply = RemoteReply(code, text)
    assert (reply.outcome, reply.enhanced) == (outcome, enhanced)


@given(st.integers(-10, 1100), st.text(st.characters(codec=None), max_size=700))
@settings(max_examples=100)
def test_reply_text_is_one_bounded_line_whatever_was_said(code: int, text: str) -> None:
    reply = RemoteReply(code, text)
    assert len(reply.text) <= MAX_TEXT
    assert not any(ord(c) < 32 or ord(c) == 127 for c in reply.text)
    reply.text.encode()
    assert reply.enhanced[0] == {"success": "2", "transient": "4", "permanent": "5"}[reply.outcome]


def test_multiline_reply_becomes_one_line() -> None:
    assert RemoteReply(550, "5.7.1 no\n5.7.1 really\r\n\x00no").text == "5.7.1 no 5.7.1 really no"


@pytest.mark.parametrize(
    ("verb", "code", "scope", "outcome"),
    [
        (Verb.BANNER, 421, Scope.HOST, Outcome.TRANSIENT),
        (Verb.BANNER, 554, Scope.HOST, Outcome.TRANSIENT),
        (Verb.BANNER, 521, Scope.HOST, Outcome.PERMANENT),
        (Verb.EHLO, 550, Scope.HOST, Outcome.PERMANENT),
        (Verb.HELO, 450, Scope.HOST, Outcome.TRANSIENT),
        (Verb.MAIL, 451, Scope.MESSAGE, Outcome.TRANSIENT),
        (Verb.MAIL, 552, Scope.MESSAGE, Outcome.PERMANENT),
        (Verb.MAIL, 452, Scope.MESSAGE, Outcome.TRANSIENT),
        (Verb.MAIL, 530, Scope.HOST, Outcome.PERMANENT),
        (Verb.RCPT, 550, Scope.RECIPIENT, Outcome.PERMANENT),
        (Verb.RCPT, 450, Scope.RECIPIENT, Outcome.TRANSIENT),
        (Verb.RCPT, 452, Scope.RECIPIENT, Outcome.TRANSIENT),
        (Verb.RCPT, 552, Scope.RECIPIENT, Outcome.PERMANENT),
        (Verb.RCPT, 421, Scope.HOST, Outcome.TRANSIENT),
        (Verb.RCPT, 354, Scope.HOST, Outcome.TRANSIENT),
        (Verb.DATA, 554, Scope.MESSAGE, Outcome.PERMANENT),
        (Verb.DATA, 250, Scope.HOST, Outcome.TRANSIENT),
        (Verb.DOT, 550, Scope.MESSAGE, Outcome.PERMANENT),
        (Verb.DOT, 451, Scope.MESSAGE, Outcome.TRANSIENT),
        (Verb.DOT, 421, Scope.HOST, Outcome.TRANSIENT),
        (Verb.DOT, 354, Scope.HOST, Outcome.TRANSIENT),
        (Verb.DOT, 999, Scope.HOST, Outcome.TRANSIENT),
        (Verb.DOT, 0, Scope.HOST, Outcome.TRANSIENT),
    ],
)
def test_refusal_has_scope_and_outcome(verb: Verb, code: int, scope: Scope, outcome: Outcome) -> None:
    failure = judge(verb, RemoteReply(code, "no"))
    assert failure is not None
    assert (failure.scope, failure.outcome, failure.code) == (scope, outcome, code)
    assert failure.enhanced[0] == ("5" if outcome is Outcome.PERMANENT else "4")


@pytest.mark.parametrize(
    ("verb", "code"), [(Verb.BANNER, 220), (Verb.EHLO, 250), (Verb.MAIL, 250), (Verb.RCPT, 251), (Verb.DOT, 200)]
)
def test_positive_reply_is_no_failure(verb: Verb, code: int) -> None:
    assert judge(verb, RemoteReply(code, "")) is None


def test_data_goes_on_with_354_only() -> None:
    assert judge(Verb.DATA, RemoteReply(354, "")) is None


@given(st.sampled_from(Verb), st.integers(-10, 1100))
@settings(max_examples=200)
def test_only_5yz_is_permanent(verb: Verb, code: int) -> None:
    failure = judge(verb, RemoteReply(code, ""))
    if failure is not None and failure.outcome is Outcome.PERMANENT:
        assert 500 <= code <= 599


def test_552_behind_accepted_recipients_means_too_many() -> None:
    failure = judge(Verb.RCPT, RemoteReply(552, "too many"), accepted=3)
    assert failure is not None
    assert (failure.outcome, failure.enhanced) == (Outcome.TRANSIENT, "4.5.3")


def test_552_with_mailbox_full_is_permanent_whoever_came_before() -> None:
    failure = judge(Verb.RCPT, RemoteReply(552, "5.2.2 full"), accepted=3)
    assert failure is not None
    assert (failure.outcome, failure.enhanced) == (Outcome.PERMANENT, "5.2.2")


@pytest.mark.parametrize("trouble", Trouble)
def test_trouble_has_a_text_and_an_outcome_by_its_class(trouble: Trouble) -> None:
    failure = trouble.failure()
    assert failure.text
    assert failure.code == 0
    assert (failure.outcome is Outcome.PERMANENT) == failure.enhanced.startswith("5")
    assert trouble.failure("a\r\nb").text == "a b"


def test_every_trouble_is_a_member_of_its_own() -> None:
    assert len(Trouble) == len(Trouble.__members__)  # equal values would be aliases


def test_softened_failure_keeps_code_and_text() -> None:
    failure = Failure(Scope.HOST, Outcome.PERMANENT, "5.7.1", 554, "go away")
    assert soften(failure) == Failure(Scope.HOST, Outcome.TRANSIENT, "4.7.1", 554, "go away")
    assert soften(soften(failure)) == soften(failure)


def _failure(scope: Scope, outcome: Outcome, code: int = 0) -> Failure:
    return Failure(scope, outcome, "4.0.0" if outcome is Outcome.TRANSIENT else "5.0.0", code, "")


def test_final_failure_speaks_for_all() -> None:
    final = _failure(Scope.MESSAGE, Outcome.PERMANENT, 554)
    assert verdict([_failure(Scope.HOST, Outcome.TRANSIENT), final]) is final


def test_one_host_with_hope_makes_the_verdict_transient() -> None:
    dead = _failure(Scope.HOST, Outcome.PERMANENT)
    hope = _failure(Scope.HOST, Outcome.TRANSIENT)
    assert verdict([dead, hope, dead]) is hope


def test_reply_of_a_host_says_more_than_silence() -> None:
    greylisted = _failure(Scope.RECIPIENT, Outcome.TRANSIENT, 450)
    assert verdict([_failure(Scope.HOST, Outcome.TRANSIENT), greylisted]) is greylisted


def test_hosts_that_are_all_useless_for_good_make_the_verdict_permanent() -> None:
    first, second = _failure(Scope.HOST, Outcome.PERMANENT), _failure(Scope.HOST, Outcome.PERMANENT, 521)
    assert verdict([first, second]) is first


def test_no_failure_has_no_verdict() -> None:
    with pytest.raises(ValueError, match="no failure"):
        verdict([])

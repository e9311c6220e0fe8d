"""The agent `faq`: which answer is chosen, and that neither a file nor a mail can hold it up (plugins/faq.py)."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from plugins.faq import FAQ, MAX_SEARCHED, MAX_SENTENCE, MAX_TEXT, check_pattern, fold
from responder import Answer, Forward, GiveUp, Mail, Reply
from tests.support.agents import mail
from tests.support.clock import ManualClock
from tests.support.memory import equipped

PRICE = {"keywords": ["price", "how much", "Preis"], "text": "It costs ten francs."}
HOURS = {"keywords": ["open", "opening hours", "Öffnungszeiten"], "text": "Nine to five.", "subject": "Our hours"}
ROAD = {
    "patterns": [r"where .*(office|shop)", r"\baddress\b"],
    "text": "Main Street 1.",
    "html": "<p>Main Street 1.</p>",
}


def letter(subject: str, text: str) -> Mail:
    head = f"From: ann@client.example\r\nSubject: {subject}\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n"
    return mail((head + text.replace("\n", "\r\n") + "\r\n").encode())


def ask(subject: str, text: str = "", **settings: Any) -> Answer:
    if not {"answer", "file"} & set(settings):
        settings["answer"] = [PRICE, HOURS, ROAD]
    return equipped(FAQ, **settings).answer(letter(subject, text))


def told(subject: str, text: str = "", **settings: Any) -> str | None:
    answer = ask(subject, text, **settings)
    assert answer is None or isinstance(answer, Reply)
    return answer.text.strip() if answer else None


def refused(**settings: Any) -> str:
    """The reason why settings are refused."""
    with pytest.raises(ValidationError) as caught:
        FAQ.Settings.model_validate(settings)
    assert "\n" not in caught.value.errors()[0]["msg"]
    return caught.value.errors()[0]["msg"].removeprefix("Value error, ")


# -- which answer ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("subject", "text", "expected"),
    [
        ("The price?", "", PRICE),
        ("PRICE", "", PRICE),
        ("", "how   much\nis it?", PRICE),  # a phrase, however it is wrapped
        ("", "much how", None),
        ("priceless", "", None),  # whole words
        ("", "prices", None),
        ("Offnungszeiten", "", HOURS),  # accents don't count, either way
        ("ÖFFNUNGSZEITEN!", "", HOURS),
        ("O\u0308ffnungszeiten", "", HOURS),
        ("When are you open", "What is the price, how much?", PRICE),  # two against one
        ("open: price", "", PRICE),  # of equals the first
        ("", "Where is your\noffice?", ROAD),  # a sentence goes over lines
        ("", "Where? I am in the office.", None),  # a pattern stays in its sentence
        ("", "Where I am.\n\nThe office", None),
        ("", "your ADDRESS please", ROAD),
        ("Hello", "Good day!", None),
        ("Re: AW: price", "", PRICE),
    ],
)
def test_question_when_asked_then_the_best_answer_is_given(
    subject: str, text: str, expected: dict[str, Any] | None
) -> None:
    assert told(subject, text) == (expected["text"] if expected else None)


def test_question_when_it_is_quoted_then_it_is_not_asked() -> None:
    quoted = "Thanks!\n\nOn 1 May 2024, Bob <bob@x.example> wrote:\n> What is the price?\n-- \nPrice Ltd\n"
    assert told("Hello", quoted) is None
    assert told("Hello", "price?\n" + quoted) == PRICE["text"]


def test_where_when_it_is_set_then_only_there_is_looked() -> None:
    subject, text = ({"keywords": ["price"], "text": side, "where": side} for side in ("subject", "text"))
    assert told("price", "", answer=[text, subject]) == "subject"
    assert told("", "price", answer=[subject, text]) == "text"
    assert told("", "price", answer=[subject]) is None


@pytest.mark.parametrize(
    ("keyword", "text"),
    [
        ("价格", "请问价格是多少"),
        ("가격", "가격은 얼마입니까"),
        ("Straße", "STRASSE"),
        ("prix", "Quel est le prix?"),
        ("ele\u0301phant", "éléphant".upper()),
        ("стоимость", "Какова СТОИМОСТЬ?"),
        ("τιμή", "ΤΙΜΗ"),
    ],
)
def test_keyword_when_it_is_in_another_script_then_it_is_found(keyword: str, text: str) -> None:
    assert told("", text, answer=[{"keywords": [keyword], "text": "found"}]) == "found"


def test_fold_when_marks_make_letters_then_they_stay() -> None:
    assert fold("が") != fold("か")
    assert fold("Ｚürich") == fold("zurich")


def test_best_when_several_are_wanted_then_they_stand_together_in_order_of_their_hits() -> None:
    answer = ask("price", "open? opening hours? address?", best=3)
    assert answer == Reply(text="Nine to five.\n\nIt costs ten francs.\n\nMain Street 1.\n", subject="Our hours")
    both = ask("", "address", best=2)
    assert both == Reply(text="Main Street 1.\n", html="<p>Main Street 1.</p>")
    assert told("price", "open? opening hours? address?", best=2) == "Nine to five.\n\nIt costs ten francs."


def test_fallback_when_nothing_fits_then_it_is_used() -> None:
    assert ask("Hello", "xyz") is None
    assert ask("Hello", "xyz", fallback="silence") is None
    assert ask("Hello", "xyz", fallback="forward") == Forward()
    assert ask("Hello", "xyz", fallback="Please call us.") == Reply(text="Please call us.")
    assert told("price", "xyz", fallback="forward") == PRICE["text"]


# -- the file -------------------------------------------------------------------------------------------------------------


def test_file_when_read_then_its_answers_go_before_those_of_the_settings(tmp_path: Path) -> None:
    file = tmp_path / "faq.toml"
    file.write_text('[[answer]]\nkeywords = ["prix"]\ntext = "Dix €"\n', encoding="utf-8")
    assert told("prix", file=file) == "Dix €"
    assert told("prix", file=file, answer=[{"keywords": ["prix"], "text": "no"}]) == "Dix €"
    assert told("price", file=file, answer=[PRICE]) == PRICE["text"]
    agent = equipped(FAQ, file=file)
    file.write_text('[[answer]]\nkeywords = ["prix"]\ntext = "Onze"\n')
    assert agent.answer(letter("prix", "")) == Reply(text="Dix €\n")  # until the next reload
    assert told("prix", file=file) == "Onze"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("x = [", "Invalid value (at end of document)"),
        ("", "it holds [[answer]] tables and nothing else"),
        ('[[answers]]\ntext = "a"', "it holds [[answer]] tables and nothing else"),
        ('answer = "x"', "it holds [[answer]] tables and nothing else"),
        ("answer = [1]", "answer 1: Input should be a valid dictionary or instance of Entry"),
        ('[[answer]]\nkeywords = ["a"]\ntext = "a"\n[[answer]]\ntext = "b"', "answer 2: it needs keywords or patterns"),
        ('[[answer]]\nkeywords = ["a"]', "answer 1: it needs a text or an html"),
        ('[[answer]]\nkeyword = ["a"]\ntext = "a"', "answer 1: keyword: Extra inputs are not permitted"),
        ('[[answer]]\nkeywords = ["?!"]\ntext = "a"', 'answer 1: keywords: "?!" has no word in it'),
        (
            '[[answer]]\npatterns = ["("]\ntext = "a"',
            'answer 1: patterns: "(" is no pattern: missing ), unterminated subpattern',
        ),
        ('[[answer]]\npatterns = ["(a+)+b"]\ntext = "a"', 'answer 1: patterns: "(a+)+b" may take too long'),
        (
            '[[answer]]\nkeywords = ["a"]\ntext = "a"\nwhere = "head"',
            "answer 1: where: Input should be 'subject', 'text' or 'both'",
        ),
    ],
)
def test_file_when_it_is_wrong_then_the_reason_names_it(tmp_path: Path, text: str, reason: str) -> None:
    file = tmp_path / "faq.toml"
    file.write_text(text)
    told = refused(file=file)
    assert told.startswith(str(file))
    assert told.removeprefix(str(file)).lstrip(":, ").startswith(reason)


def test_settings_when_they_are_wrong_then_they_are_refused(tmp_path: Path) -> None:
    assert refused(file=tmp_path / "none.toml") == f"{tmp_path}/none.toml: No such file or directory"
    (tmp_path / "latin.toml").write_bytes(b'x = "\xff"')
    assert refused(file=tmp_path / "latin.toml") == f"{tmp_path}/latin.toml: it is not UTF-8"
    assert refused() == "it needs a file or an answer"
    assert refused(answer=[PRICE], best=4) == "Input should be less than or equal to 3"


# -- time -----------------------------------------------------------------------------------------------------------------

BOMBS = (
    "(a+)+$", "(a*)*b", "(a|aa)+b", "(a|a)*b", "(.*a){12}", r"(\w+\s?)*x", "(?:a?){30}a{30}", "a?" * 30 + "a" * 30, ".*.*.*x",
    "(?=(a+)+b)", "((a|b)*c)*d", "(?>a+)+b", "(a{1,300}){1,300}", r"^(([a-z])+.)+[A-Z]([a-z])+$", "(x+x+)+y", "(?:(?:ab|b)|a)+c",
)  # fmt: skip
USEFUL = (
    "how much.*", r"how much .*cost.*", r"^(price|cost)s?\b", r"\b\d{1,5} (francs?|euros?)\b", r"[a-z.]+@[a-z.]+",
    "(re)?set my password",
    r"order (no\.?|number)? ?#?\d+", "(?i:refund)", r"where .*(office|shop)",
)  # fmt: skip


@pytest.mark.parametrize("pattern", BOMBS)
def test_pattern_when_it_could_take_for_ever_then_it_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match="may take too long"):
        check_pattern(pattern)


@pytest.mark.parametrize("pattern", USEFUL)
def test_pattern_when_it_is_an_ordinary_one_then_it_is_taken_and_quick_on_the_worst_sentence(pattern: str) -> None:
    check_pattern(pattern)
    for sentence in ("a" * MAX_SENTENCE, "how much cost " * 21, "where " * 50, "order #" * 42, "1 " * 150, "a.@" * 100):
        began = time.process_time()
        re.search(pattern + "\0", sentence, re.IGNORECASE)
        assert time.process_time() - began < 0.5


def test_text_when_it_is_long_then_its_beginning_is_looked_at() -> None:
    assert told("", "x " * (MAX_TEXT // 2) + "price") is None
    assert told("", "price " + "x " * MAX_TEXT) == PRICE["text"]
    assert told("", "x. " * (MAX_SEARCHED // 3) + "address") is None
    assert told("", "address. " + "x. " * MAX_SEARCHED) == ROAD["text"]


def test_patterns_when_they_take_too_long_together_then_the_run_ends_for_good() -> None:
    class Hurried(ManualClock):
        def monotonic(self) -> float:
            self.advance(1.0)
            return super().monotonic()

    agent = equipped(FAQ, Hurried(), answer=[ROAD] * 10)
    with pytest.raises(GiveUp, match="the patterns took longer than 2 s"):
        agent.answer(letter("", "hello"))


def test_worst_mail_when_a_pattern_is_looked_for_then_its_time_is_bounded() -> None:
    agent = equipped(FAQ, answer=[{"patterns": [".*a.*b\0"], "text": "x"}])
    began = time.process_time()
    assert agent.answer(letter("ab " * 100, "ab" * 100_000)) is None
    assert time.process_time() - began < 2  # 0.1 s seen

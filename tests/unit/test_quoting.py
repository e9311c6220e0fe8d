"""What is new in a reply, and how an old text is quoted."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from responder.mail.html import to_text
from responder.mail.quoting import MAX_TEXT, quote, reply_text

INTRODUCTIONS = [
    "On Mon, May 1, 2024 at 10:00 AM Ann Example <ann@example.org> wrote:",
    "On Mon, May 1, 2024 at 10:00 AM Ann Example <ann@example.org>\nwrote:",
    "On Mon, May 1, 2024 at 10:00 AM Ann Example <\nann@example.org> wrote:",
    "On Monday the first of May\n2024 at 10 in the morning, Ann\nExample wrote:",
    "On 5/1/24 10:00, Ann wrote:",
    "Am Mo., 1. Mai 2024 um 10:00 Uhr schrieb Ann Example <\nann@example.org>:",
    "Am 01.05.24 um 10:00 schrieb Ann:",
    "Le lun. 1 mai 2024 à 10:00, Ann <ann@example.org> a écrit :",
    "Le 01/05/2024 à 10:00, Ann a écrit\u00a0:",
    "El lun, 1 may 2024 a las 10:00, Ann (<ann@example.org>) escribió:",
    "Em seg., 1 de mai. de 2024 às 10:00, Ann <ann@example.org> escreveu:",
    "Il giorno lun 1 mag 2024 alle ore 10:00 Ann <ann@example.org> ha scritto:",
    "Op ma 1 mei 2024 om 10:00 schreef Ann <ann@example.org>:",
    "Den mån 1 maj 2024 kl 10:00 skrev Ann <ann@example.org>:",
    "пн, 1 мая 2024 г. в 10:00, Ann <ann@example.org> написал:",
    "Ann <ann@example.org> 于2024年5月1日周三 10:00写道：",
]


@pytest.mark.parametrize("introduction", INTRODUCTIONS)
def test_introduction_goes_with_its_quote(introduction: str) -> None:
    assert reply_text(f"Yes.\n\n{introduction}\n\n> Shall we?\n> Ann\n") == "Yes."
    assert reply_text(f"Yes.\n{introduction}\n> Shall we?\n\nOne more thing.") == "Yes.\n\nOne more thing."


@pytest.mark.parametrize("introduction", INTRODUCTIONS)
def test_all_behind_an_introduction_without_marks_is_old(introduction: str) -> None:
    assert reply_text(f"Yes.\n\n{introduction}\n\nShall we?\nAnn\n") == "Yes."
    assert reply_text(f"Yes.\n\n{introduction}\n") == "Yes."


@pytest.mark.parametrize(
    "introduction", ["Ann wrote:", "2024年5月1日(水) 10:00 Ann <ann@example.org>:", "Zitat von Ann <a@b.c>:"]
)
def test_vague_introduction_goes_only_with_a_quote(introduction: str) -> None:
    assert reply_text(f"Yes.\n{introduction}\n> Shall we?") == "Yes."
    assert reply_text(f"Yes.\n{introduction}\nShall we?") == f"Yes.\n{introduction}\nShall we?"


@pytest.mark.parametrize(
    "text",
    [
        "On Monday I wrote to Ann.\nShe agreed.",
        "On 1 May we meet:\n- Ann\n- Bob",
        "Two things:\n\nfirst\n\nsecond",
        "From: Berlin\nTo: Paris\nDate: 5 May\nA ticket, please.",
        "From: the beginning",
        "From: Berlin\nTo: ann@example.org\nSubject: trains\nThis form has no date.",
        "a -- b\n---\nc",
        "-----\nnot a mail\n-----",
        "1 > 0 and a\n    > deep in code",
        "__init__\n____",
    ],
)
def test_text_that_only_looks_like_a_mark_is_kept(text: str) -> None:
    assert reply_text(text) == text


def test_sentence_before_an_introduction_is_kept() -> None:
    text = "On Monday 6 May I am away.\nOn Mon, May 1, 2024, Ann wrote:\n> x"
    assert reply_text(text) == "On Monday 6 May I am away."


@pytest.mark.parametrize(
    "separator",
    [
        "-----Original Message-----",
        "----- Original Message -----",
        "-----Ursprüngliche Nachricht-----",
        "-----Message d'origine-----",
        "-----Mensaje original-----",
        "---------- Forwarded message ---------",
        "________________________________",
        "From: Ann <ann@example.org>\nSent: Monday, May 1, 2024 10:00\nTo: Bob\nSubject: x",
        "*From:* Ann\n*Sent:* Monday\n*To:* Bob\n*Cc:* C\n*Subject:* x",
        "________________________________\nFrom: Ann <ann@example.org>\nSent: Monday\nTo: Bob",
        "Von: Ann <ann@example.org>\nGesendet: Montag, 1. Mai 2024 10:00\nAn: Bob\nBetreff: x",
        "De : Ann <ann@example.org>\nEnvoyé : lundi 1 mai 2024\nÀ : Bob\nObjet : x",
        "De: Ann\nEnviado: lunes\nPara: Bob\nAsunto: x",
        "发件人: Ann\n发送时间: 2024\n收件人: Bob\n主题: x",
    ],
)
def test_all_behind_a_separator_is_old(separator: str) -> None:
    assert reply_text(f"Yes.\r\n\r\n{separator}\n\nShall we?\nAnn") == "Yes."
    assert reply_text(f"{separator}\n\nShall we?") == ""


def test_signature_is_removed() -> None:
    assert reply_text("Yes.\n-- \nBob\nExample Ltd") == "Yes."
    assert reply_text("Yes.\n--\nBob") == "Yes."


def test_signature_ends_at_a_quote() -> None:
    text = "Yes.\n-- \nBob\n\nOn 1 May 2024, Ann wrote:\n> one?\nfirst\n> two?\nsecond\n> -- \n> Ann"
    assert reply_text(text) == "Yes.\n\nfirst\n\nsecond"


def test_inline_answers_between_quotes_are_kept() -> None:
    text = "On 1 May 2024, Ann wrote:\n> one?\n\nfirst\n\n> two?\n>> three?\n\nsecond\nline\n"
    assert reply_text(text) == "first\n\nsecond\nline"


@pytest.mark.parametrize("text", ["", "\n \n", "> a\n> b", "On 1 May 2024, Ann wrote:\n> a\n>\n> b\n", "-- \nBob", ">"])
def test_text_without_anything_new_gives_nothing(text: str) -> None:
    assert reply_text(text) == ""


def test_reply_in_html_only_loses_its_quote() -> None:
    html = (
        '<div dir="ltr">Yes.</div><br><div class="gmail_quote"><div>On Mon, May 1, 2024 at 10:00 Ann &lt;'
        '<a href="mailto:ann@example.org">ann@example.org</a>&gt; wrote:<br></div>'
        "<blockquote><div>Shall we?</div><div>Ann</div></blockquote></div>"
    )
    assert reply_text(to_text(html)) == "Yes."


def test_each_line_is_quoted() -> None:
    assert quote("one\r\n\r\ntwo\n> three\n") == "> one\n>\n> two\n>> three"
    assert quote("") == ">"


def test_long_text_is_quoted_in_part_and_says_so() -> None:
    assert quote("abc def", 4) == "> abc\n> [...]"
    assert quote("abc", 3) == "> abc"
    assert quote("abc", 0) == "> [...]"


@given(st.text(st.sampled_from("ab >\r\n-:"), max_size=60))
def test_a_quoted_text_has_nothing_new(text: str) -> None:
    assert reply_text(quote(text)) == ""


@settings(max_examples=200)
@given(
    st.lists(st.sampled_from(["new words here", "", "> old", "more new words"]), max_size=20),
    st.sampled_from(["\n", "\r\n", "\r"]),
)
def test_new_lines_stay_in_order_and_old_ones_go(lines: list[str], end: str) -> None:
    assert [line for line in reply_text(end.join(lines)).split("\n") if line] == [
        line for line in lines if "new" in line
    ]


@settings(max_examples=200)
@given(
    st.text(max_size=200) | st.lists(st.sampled_from([*INTRODUCTIONS, "> a", "--", "b", "", "From: a"])).map("\n".join)
)
def test_reply_text_never_fails_and_adds_nothing(text: str) -> None:
    assert set(reply_text(text).split()) <= set(text.split())


@pytest.mark.parametrize(
    "piece",
    ["\n", ">a\n", "On 1 x:\n", "On 1 wrote\n", "From: a\nSent: b\n", "a:\n\n\n", "_", "-", "On ", " ", "<a@", "--\n"],
)
def test_hostile_text_takes_linear_time(piece: str) -> None:
    text = piece * (4 * MAX_TEXT // len(piece))
    begin = time.process_time()
    reply_text(text)
    quote(text)
    assert time.process_time() - begin < 1  # it takes up to 0.1 s

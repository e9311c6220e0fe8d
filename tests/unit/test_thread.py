"""Base subjects and references."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from responder.mail.headers import Headers
from responder.mail.thread import (
    MAX_ID,
    MAX_REFERENCES,
    base_subject,
    conversation_key,
    fold_references,
    message_id,
    message_ids,
    reply_references,
)


@pytest.mark.parametrize(
    "prefix",
    [
        *("Re:", "RE :", "re:", "Re[4]:", "Re (2):", "Re^2:", "Re*2:", "Re [list]:", "Fwd:", "FW:", "Fw :"),
        *("AW:", "Antwort:", "WG:", "SV:", "VS:", "Antw:", "Ref:", "RÉF:", "Rif:", "R:", "I:", "Odp:", "RES:", "ENC:"),
        *("TR :", "RV:", "Vá:", "VA\u0301:", "ΑΠ:", "απ:", "НА:", "на:", "Ответ:", "İLT:", "YNT:", "השב:", "رد:"),
        *(
            "回复:",
            "回复：",
            "答复：",
            "答覆:",
            "转发：",
            "轉寄:",
            "返信:",
            "転送：",
            "회신:",
            "Re: Fwd: AW:",
            "Re:Re:re:",
        ),
    ],
)
def test_mark_of_a_reply_is_removed(prefix: str) -> None:
    assert base_subject(f"{prefix} The topic") == "The topic"
    assert base_subject(f"  {prefix}The\t topic ") == "The topic"


@pytest.mark.parametrize(
    "subject",
    [
        "Reminder: pay",
        "Result: 5",
        "Re",
        "Regards",
        "Send: it",
        "rere: x",
        "HTTP: x",
        "[x]: y",
        "12:30",
        "Über: uns",
        "=?",
    ],
)
def test_what_is_no_mark_is_kept(subject: str) -> None:
    assert base_subject(subject) == subject


@pytest.mark.parametrize(
    ("subject", "base"),
    [
        ("", ""),
        ("Re:", ""),
        ("Re: Re:  ", ""),
        ("[list] topic", "[list] topic"),
        ("Re: [list] AW: topic", "[list] topic"),
        ("Re: [a] [b]Re: topic [c]", "[a] [b]topic [c]"),
        ("[URGENT]", "[URGENT]"),
        ("[URGENT] Re:", "[URGENT]"),
        ("topic (fwd) (FWD)", "topic"),
        ("[Fwd: Re: topic]", "topic"),
        ("[Fwd: [fwd: topic (fwd)]]", "topic"),
        ("[fwd:]", ""),
        ("(fwd)", ""),
    ],
)
def test_base_subject(subject: str, base: str) -> None:
    assert base_subject(subject) == base


@given(st.text(max_size=60))
@settings(max_examples=100)
def test_base_subject_is_not_changed_by_another_reply(topic: str) -> None:
    base = base_subject(topic)
    assert base_subject(f"Re: {topic}") == base
    assert base_subject(f"SV: Fwd[2]: {topic}") == base


@pytest.mark.parametrize(
    "unit", ["Re: ", "re", " ", "[", "[x]", "Re[", "Re(", "(fwd)", "[fwd:", "]", "r ", ":", "Re [a", "\u3000"]
)
def test_base_subject_takes_linear_time(unit: str) -> None:
    hostile = unit * (400_000 // len(unit))
    start = time.perf_counter()
    base_subject(hostile)
    base_subject(f"[fwd:{hostile}]")
    assert time.perf_counter() - start < 3  # quadratic would take minutes


def headers(**fields: str) -> Headers:
    return Headers([(name.replace("_", "-"), value) for name, value in fields.items()])


def test_reply_without_history_refers_to_the_mail() -> None:
    assert reply_references(headers(Message_ID="<a@x>")) == ("<a@x>", ["<a@x>"])


def test_reply_continues_the_references() -> None:
    mail = headers(Message_ID=" <c@x> (added by mx)", References="<a@x>\t<b@x>(note)<a@x>", In_Reply_To="<z@x>")
    assert reply_references(mail) == ("<c@x>", ["<a@x>", "<b@x>", "<c@x>"])


def test_reply_without_references_takes_the_only_id_of_in_reply_to() -> None:
    assert reply_references(headers(Message_ID="<b@x>", In_Reply_To="<a@x>")) == ("<b@x>", ["<a@x>", "<b@x>"])
    assert reply_references(headers(Message_ID="<b@x>", In_Reply_To="<a@x> <c@x>")) == ("<b@x>", ["<b@x>"])


def test_own_id_among_the_references_stands_last_and_once() -> None:
    mail = headers(Message_ID="<a@x>", References="<a@x> <b@x>")
    assert reply_references(mail) == ("<a@x>", ["<b@x>", "<a@x>"])


@pytest.mark.parametrize(
    "value",
    [
        "",
        "a@x",
        "<a>",
        "<@x>",
        "<a@>",
        "<a b@x>",
        "<a@x",
        "a@x>",
        "<a\x00@x>",
        "<a\r\n@x>",
        "<é@x>",
        f"<{'a' * MAX_ID}@x>",
    ],
)
def test_no_usable_message_id_then_no_threading_fields(value: str) -> None:
    mail = headers(Message_ID=value, References="<a@x>")
    assert message_id(mail) == ""
    assert reply_references(mail) == ("", [])
    assert fold_references([]) == ""


def test_conversation_key_is_the_root() -> None:
    assert conversation_key(headers(References="<a@x> <b@x>", In_Reply_To="<b@x>", Message_ID="<c@x>")) == "<a@x>"
    assert conversation_key(headers(References="none", In_Reply_To="Your mail <b@x>", Message_ID="<c@x>")) == "<b@x>"
    assert conversation_key(headers(Message_ID="<c@x>")) == "<c@x>"
    assert conversation_key(headers()) == ""


def test_conversation_key_of_an_answer_to_the_answer_is_the_same() -> None:
    first = headers(Message_ID="<1@x>")
    _, references = reply_references(first)
    second = headers(Message_ID="<2@y>", References=" ".join(references), In_Reply_To=references[-1])
    assert conversation_key(second) == conversation_key(first)


def test_folded_references_fit_into_lines() -> None:
    ids = [f"<{number:040}@example.org>" for number in range(12)]
    field = fold_references(ids)
    assert field.startswith("References: <") and field.endswith(">\r\n")
    assert max(map(len, field.split("\r\n"))) <= 78
    assert message_ids(field) == ids


def test_long_references_are_cut_from_the_middle() -> None:
    ids = [f"<{number:040}@example.org>" for number in range(5000)]
    mail = headers(Message_ID="<own@x>", References=" ".join(ids))
    _, references = reply_references(mail)
    field = fold_references(references)
    kept = message_ids(field)
    assert len(field) <= MAX_REFERENCES + 100
    assert kept[0] == ids[0] and kept[-2:] == [ids[-1], "<own@x>"] and len(kept) > 40
    assert kept[1:-1] == ids[-len(kept) + 2 :]


def test_ids_of_the_greatest_length_stay_under_998_octets_a_line() -> None:
    ids = [f"<{str(number) * (MAX_ID - 4)}@x>" for number in range(10)]
    assert message_ids(" ".join(ids)) == ids
    field = fold_references(ids)
    assert max(map(len, field.split("\r\n"))) < 998
    assert message_ids(field)[0] == ids[0] and message_ids(field)[-1] == ids[-1]


@given(st.text(alphabet='<>@a\u00e9 \t\r\n\x00("),', max_size=80), st.text(alphabet="<>@ab ,\n", max_size=80))
@settings(max_examples=200)
def test_whatever_the_fields_hold_only_clean_ids_come_out(own: str, references: str) -> None:
    in_reply_to, ids = reply_references(headers(Message_ID=own, References=references))
    for one in ids:
        assert re.fullmatch(r"<[^<>@\s]+@[^<>\s]+>", one) and one.isascii() and one.isprintable()
    assert (in_reply_to == "") == (ids == [])
    assert not ids or ids[-1] == in_reply_to


@pytest.mark.parametrize("unit", ["<", ">", "<a", "<a@", "@", "<a@x>", " ", "<<@>"])
def test_ids_take_linear_time(unit: str) -> None:
    start = time.perf_counter()
    message_ids(unit * (1_000_000 // len(unit)))
    assert time.perf_counter() - start < 1

"""Address fields read to the letter: what is found, and where the reading ends."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from responder.mail.mailboxes import MAX_ENTRIES, mailboxes

BOB = "bob@here.example"
EVE = "eve@there.example"


def found(value: str) -> list[str]:
    return [address.key for address in mailboxes(value)]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (BOB, [BOB]),
        (f"<{BOB}>", [BOB]),
        (f"Bob <{BOB}>", [BOB]),
        (f"Bob<{BOB}>", [BOB]),
        (f'"Smith, Bob (Sales)" <{BOB}>', [BOB]),
        (f'Bob "the builder" S. Smith <{BOB}>', [BOB]),
        (f"Björn B\ufffdb =?utf-8?q?B=C3=B6b?= <{BOB}>", [BOB]),
        (f"(a) Bob (b (c) \\)) < {BOB} > (d)", [BOB]),
        ("bob (x) @ here . example", [BOB]),
        ("BOB@HERE.Example", [BOB]),
        ('"b\\ob"@here.example', [BOB]),
        (f"{EVE}, Bob <{BOB}>,\t{EVE}", [EVE, BOB, EVE]),
        (f", ,{BOB},,", [BOB]),
        (f"Smith, Bob <{BOB}>", [BOB]),
        (f"Team: {EVE}, Bob <{BOB}>;", [EVE, BOB]),
        (f'"A: b": {EVE};, <{BOB}>', [EVE, BOB]),
        (f"undisclosed-recipients:;, {BOB}", [BOB]),
        (f"Team: {BOB}", [BOB]),
        ("", []),
        ("undisclosed-recipients:;", []),
        ("Bob", []),
    ],
)
def test_field_is_an_address_list_then_all_of_it_is_found(value: str, expected: list[str]) -> None:
    assert found(value) == expected


@pytest.mark.parametrize(
    "broken",
    [
        "'eve@there.example' <eve@there.example>",
        "<<eve@there.example>>",
        "<eve@there.example",
        "<eve@there.example> Eve",
        "eve@there.example Eve",
        "Eve eve@there.example",
        "eve@there@example",
        "eve@there..example",
        "eve..x@there.example",
        ".eve@there.example",
        ".Eve <eve@there.example>",
        "@relay.example:eve@there.example",
        "<@relay.example:eve@there.example>",
        "eve@[there.example",
        "eve@-there.example",
        f"{'e' * 65}@there.example",
        "eve@there.example;",
        "a: b: eve@there.example;",
        "a: ; eve@there.example",
        "a: ; Eve",
        ": eve@there.example;",
        "Eve [x] <eve@there.example>",
        "Eve ( <eve@there.example>",
        "Eve ) <eve@there.example>",
        '"Eve <eve@there.example>',
        '"Eve\\" <eve@there.example>',
        "Eve \\ <eve@there.example>",
        "Eve\x00 <eve@there.example>",
        '"Eve\x01" <eve@there.example>',
        "(\x00) <eve@there.example>",
        "mailto:eve@there.example:",
        ">",
        "<",
        "@",
        ".",
    ],
)
def test_something_is_no_address_then_the_reading_ends_there(broken: str) -> None:
    assert found(broken) == []
    assert found(f"{BOB}, {broken}, {BOB}") == [BOB]


def test_more_entries_than_a_person_writes_to_then_the_rest_is_not_looked_at() -> None:
    assert found(",".join([EVE] * (MAX_ENTRIES - 1) + [BOB]))[-1] == BOB
    assert BOB not in found(",".join([EVE] * MAX_ENTRIES + [BOB]))
    assert BOB not in found("Team: " + ",".join([EVE] * (MAX_ENTRIES - 2)) + f";,{BOB}")
    assert BOB not in found("Eve," * MAX_ENTRIES + BOB)


@settings(max_examples=300)
@given(st.text(st.sampled_from("abE. @<>,:;()\\\"[]\t\x00é'"), max_size=60))
def test_any_text_then_the_reading_fails_nowhere(value: str) -> None:
    for address in mailboxes(value):
        assert address.local
        assert address.domain


@pytest.mark.parametrize("piece", ["(", "()", '"', '""', "a ", ".", ",", "a:;,", "<", "\\", "é"])
def test_hostile_field_of_32_kilobytes_then_it_is_read_at_once(piece: str) -> None:
    began = time.process_time()
    list(mailboxes(piece * (32768 // len(piece))))
    assert time.process_time() - began < 0.5  # quadratic would be minutes

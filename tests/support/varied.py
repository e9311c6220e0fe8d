"""Answers of many kinds, one for each number: what a signer, a composer and a wire must carry without a changed octet."""

from __future__ import annotations

import random

from responder import Attachment, Reply

WORDS = (
    "plain",
    "Grüße",
    "日本語のテキスト",
    "🎉",
    "naïve",
    "a=b",
    "--",
    "From",
    "x" * 90,
    "Ελληνικά",
    "=?utf-8?q?no?=",
    "%00",
)
ENDS = ("", " ", "\t", "  \t ", "\u00a0")


def reply(number: int) -> Reply:
    """The answer of that number, the same each time."""
    dice = random.Random(number)
    kind = number % 12
    html = f"<p>{_text(dice, 6)}</p>\n" if kind in (2, 3, 5, 8) else ""
    files = tuple(_file(dice, one) for one in range(dice.randrange(1, 4))) if kind in (3, 4, 9, 10) else ()
    text = "" if kind in (5, 10) else _special(dice, kind) or _text(dice, 12)
    headers = {}
    if kind in (1, 6):
        headers = {
            "X-Mailer": f"a mailer  with   spaces {number}",
            "Organization": "Müller & Söhne " + "x" * dice.randrange(80),
        }
    return Reply(
        text or ("" if html or files else f"only {number}"),
        html=html,
        attachments=files,
        subject=_subject(dice, number),
        headers=headers,
    )


def references(number: int) -> list[str]:
    """Header fields of the question, so that the answer has such a thread."""
    dice = random.Random(number)
    ids = [
        f"<{dice.randrange(10**9)}.{'y' * dice.randrange(60)}@client.example>"
        for _ in range(dice.choice((0, 1, 5, 40)))
    ]
    fields = [f"Message-ID: <q{number}@client.example>"]
    return [*fields, "References: " + "\r\n ".join(ids)] if ids else fields


def _text(dice: random.Random, lines: int) -> str:
    made = []
    for _ in range(dice.randrange(1, lines)):
        words = dice.choices(WORDS, k=dice.randrange(0, 14))
        made.append("  ".join(words) + dice.choice(ENDS))
    return "\n".join(made) + dice.choice(("", "\n", "\n\n\n", "\n \n\t\n"))


def _special(dice: random.Random, kind: int) -> str:
    if kind == 6:
        return ".\n..\n. \n.hidden\nFrom here\n" + "\n" * dice.randrange(4)
    if kind == 7:
        return "long " * dice.randrange(1500, 3000)
    if kind == 8:
        return "\n\n \n" + "a\r\nb\rc\x0bd\x0c\x00e" + " " * dice.randrange(9)
    if kind == 11:
        return "Ü" * dice.randrange(1, 4000) + "\ud800"
    return ""


def _subject(dice: random.Random, number: int) -> str | None:
    return dice.choice(
        (
            None,
            f"Answer {number}",
            f"Ünïcode  subject {number} " + "ß" * dice.randrange(200),
            f"{number} " + "long words " * 30,
            f"  {number}\tspaces   \t everywhere  ",
            f"=?utf-8?q?{number}?= 漢字",
        )
    )


def _file(dice: random.Random, number: int) -> Attachment:
    name = dice.choice(("a.txt", "Übersicht März.pdf", "日本.bin", "../../etc/passwd", 'q"uote;.doc'))
    kind = dice.choice(("text/plain", "application/pdf", "message/rfc822", "nonsense"))
    return Attachment(f"{number}{name}", kind, dice.randbytes(dice.choice((0, 1, 57, 1000, 90_000))))

"""Which conversation a mail belongs to: its base subject and its references (RFC 5256 2.1, RFC 5322 3.6.4)."""

from __future__ import annotations

import re
from collections.abc import Sequence

from responder.mail.headers import Headers

MAX_ID = 500
"""Octets of a Message-ID that is worth repeating; a longer one is treated as missing, so that a line stays under 998."""

MAX_REFERENCES = 4000
"""Octets of ids in one References field: some forty ids. What a hostile mail brings must not grow with each answer."""

_MAX_SCAN = 8192  # octets looked at, at either end of a field that holds ids

# Only ids that we could repeat in an ASCII header: `<left@right>` without white space, controls or 8-bit characters.
_ID = re.compile(rf"<(?=[^<>]{{3,{MAX_ID - 2}}}>)[!-;=?A-~]+@[!-;=?-~]+>")

# What the programs of the world write before the subject of a reply or a forwarded mail.
_WORDS = (
    *("re", "fwd?", "r", "i"),  # English and most of the world; Italian
    *("aw", "antw", "wg", "antwort", "doorst"),  # German, Dutch
    *("sv", "vs", "vb", "vl", "svar", "videresendt"),  # Swedish, Danish, Norwegian, Finnish
    *("r[eé]f", "rif", "tr", "res", "enc", "rv"),  # French, Italian, Portuguese, Spanish
    *(
        "odp",
        "pd",
        "odg",
        "ats",
        "atb",
        "v(?:á|a\u0301)",
        "továbbítás",
    ),  # Polish, Slovene, Lithuanian, Welsh, Hungarian
    *("ynt", "[iİ]lt", "bls", "trs"),  # Turkish, Indonesian
    *("απ", "σχετ", "πρθ", "на", "ha", "ответ", "отв", "пересл"),  # Greek, Russian (HA also in Latin letters)
    *("השב", "הועבר", "رد", "إعادة توجيه"),  # Hebrew, Arabic
    *(
        "回[复復覆]",
        "答[复復覆]",
        "[转轉][发發寄]",
        "返信",
        "[転轉]送",
        "회신",
        "답장",
        "전달",
    ),  # Chinese, Japanese, Korean
)
_COUNT = r"(?:\[[^\[\]]{0,32}\]|\([^()]{0,32}\)|\^\d{1,9}|\*\d{1,9})"  # Re[4]: Re(2): Re^2: Re*2:
_PREFIX = re.compile(rf"(?:{'|'.join(_WORDS)}) ?{_COUNT}? ?[:：] ?", re.IGNORECASE)
_BLOB = re.compile(r"\[[^\[\]]{1,64}\] ?")
_WRAPPER = re.compile(r"\[fwd: ?", re.IGNORECASE)
_TRAILER = re.compile(r"\(fwd\)", re.IGNORECASE)


def base_subject(subject: str) -> str:
    """The subject without the marks of replying and forwarding, in any language known here and however often repeated.

    As RFC 5256 2.1, white space is made one space and `(fwd)` behind and `[Fwd: ...]` around the subject go too. Other than
    there, a list's `[name]` in front is kept, as it tells people and filters where the mail comes from; a `Re:` behind it
    goes: `Re: [list] AW: topic` -> `[list] topic`. May be empty. Never fails, takes linear time.
    """
    text = " ".join(subject.split())
    start, end = 0, len(text)
    blobs = []
    while start < end:
        if match := _PREFIX.match(text, start, end):
            start = match.end()
        elif text[end - 1] == ")" and _TRAILER.match(text, max(start, end - 5), end):
            end -= 6 if text[end - 6 : end - 5] == " " and end - 6 >= start else 5
        elif text[end - 1] == "]" and (match := _WRAPPER.match(text, start, end)):
            start, end = match.end(), end - 1
        elif match := _BLOB.match(text, start, end):
            blobs.append(match[0])
            start = match.end()
        else:
            break
    return ("".join(blobs) + text[start:end]).strip()


def message_ids(value: str) -> list[str]:
    """The usable ids of a Message-ID, In-Reply-To or References field in their order, each once. Never fails.

    Of a very long field only both ends are looked at: the root of the thread and its latest mails.
    """
    if "<" not in value:
        return []
    if len(value) > 2 * _MAX_SCAN:
        value = f"{value[:_MAX_SCAN]} {value[-_MAX_SCAN:]}"
    return list(dict.fromkeys(_ID.findall(value)))


def message_id(headers: Headers) -> str:
    """The mail's own Message-ID with its angle brackets, or "" where it has none that may be repeated."""
    ids = message_ids(headers.get("Message-ID"))
    return ids[0] if ids else ""


def reply_references(headers: Headers) -> tuple[str, list[str]]:
    """What an answer to this mail carries: the value of In-Reply-To, and the ids for References (RFC 5322 3.6.4).

    ("", []) where the mail has no usable Message-ID: then neither field is written. The old references are those of
    References, or the id of In-Reply-To where it is the only one there.
    """
    own = message_id(headers)
    if not own:
        return "", []
    old = message_ids(headers.get("References"))
    if not old:
        old = message_ids(headers.get("In-Reply-To"))
        if len(old) != 1:
            old = []
    return own, [*(known for known in old if known != own), own]


def conversation_key(headers: Headers) -> str:
    """The id that all mails of one conversation share: the first of References, else of In-Reply-To, else the mail's own;
    "" where there is none."""
    for name in ("References", "In-Reply-To", "Message-ID"):
        if ids := message_ids(headers.get(name)):
            return ids[0]
    return ""


def fold_references(ids: Sequence[str]) -> str:
    """The References field for these ids, CRLF at its end; "" for none.

    Lines end before column 78 where the ids allow it and never reach 998. Past `MAX_REFERENCES` ids are left out behind
    the first one: the root of the thread and its latest mails stay.
    """
    if not ids:
        return ""
    room = MAX_REFERENCES - len(ids[0])
    latest: list[str] = []
    for known in reversed(ids[1:]):
        room -= len(known) + 3
        if room < 0:
            break
        latest.append(known)
    field = f"References: {ids[0]}"
    column = len(field)
    for known in reversed(latest):
        if column + 1 + len(known) > 78:
            field += "\r\n"
            column = 0
        field += f" {known}"
        column += 1 + len(known)
    return field + "\r\n"

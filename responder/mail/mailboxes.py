"""The mailboxes that an address field names, read to the letter (RFC 5322 3.4).

`address.from_header` finds what it can in any text; that is right where a name found too many costs nothing. Whether a mail is
addressed to a person decides whether it is answered, so here the reading ends at the first thing that is no address: what
stands behind it may be anything. Reading takes linear time.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from responder.mail.address import MAX_ADDRESS_FIELD, Address, AddressError, domain_to_ascii, from_header, parse
from responder.mail.headers import Headers

MAX_ENTRIES: Final = 256
"""Mailboxes, names and ends of groups of one field that are looked at, as Pigeonhole does: more are a list in disguise."""

MAX_AUTHORS: Final = 64
"""Domains of authors, and From fields, that are looked at: more is nobody's honest mail."""

_QUOTED = re.compile(
    r'"(?:[^"\\]|\\.)*("?)\\?', re.DOTALL
)  # one that nothing closes goes to the end: no search begins twice
_DOMAIN = re.compile(r"@\s*([^\s,;:<>()\"@]*)")
_TOKEN = re.compile(
    r"""[ \t]+ | "(?:[^"\\\x00-\x08\x0a-\x1f\x7f]|\\[ -~])*" | [A-Za-z0-9!#$%&'*+/=?^_`{|}~\x80-\U0010ffff-]+ | [.,:;<>@(]""",
    re.VERBOSE,
)
_NONE = "\0"
_ENDS = frozenset((*",:;<>@", _NONE))
_COMMENT = re.compile(r"[^()\\\x00\x7f]+|\\[\x01-~]|[()]")


def mailboxes(value: str) -> Iterator[Address]:
    """The mailboxes of one field's value, groups' members included, up to the first thing that is no address. Never fails."""
    tokens = _tokens(value)
    grouped, entries, end = False, 0, ","
    while end == "," and entries < MAX_ENTRIES:
        words, end = _words(tokens)
        if words[:1] == ["."]:
            return
        if end == ":" and words and not grouped:  # a group's name; its members follow
            grouped, entries, end = True, entries + 1, ","
            continue
        found = None
        if end in ("<", "@"):
            found, end = _mailbox(tokens, words, end)
            if found is None:
                return
        entries += bool(words or found)  # a name alone is what an unquoted comma leaves behind
        if end == ";" and grouped:
            grouped, entries = False, entries + 1
            if found is not None:
                yield found
                found = None
            words, end = _words(tokens)
            if words:
                return
        if end not in (",", ""):
            return
        if found is not None:
            yield found


def authors(headers: Headers) -> list[str]:
    """The domains of all that any reader may take for an author, each once; [] where somebody might see one that we do not."""
    if headers.cut or not headers.count("from"):
        return []
    found: dict[str, None] = {}
    for value in headers.all("from")[: MAX_AUTHORS + 1]:
        if len(value) > MAX_ADDRESS_FIELD:
            return []
        named = [address.domain for _, address in from_header(value)]
        named += [address.domain for address in mailboxes(value)]
        try:
            # What stands behind any @ outside of quotes: programs differ in what they make of a broken field.
            named += [domain_to_ascii(text.rstrip(".")) for text in _DOMAIN.findall(_QUOTED.sub("", value))]
        except AddressError:
            return []
        if not named or not all(_QUOTED.findall(value)):
            return []
        found.update(dict.fromkeys(named))
    return list(found) if len(found) <= MAX_AUTHORS else []


def _mailbox(tokens: Iterator[str], words: list[str], end: str) -> tuple[Address | None, str]:
    """The mailbox whose name or local part is `words`, and what stands behind it; None where there is none."""
    angle = end == "<"
    if angle:
        words, end = _words(tokens)
        if end != "@":  # a source route begins with it; else there is no address
            return None, end
    domain, end = _words(tokens)
    if angle:
        if end != ">":
            return None, end
        words_behind, end = _words(tokens)
        if words_behind:
            return None, end
    if end not in (",", ";", "") or not _dotted(words) or not _dotted(domain):
        return None, end
    try:
        return parse("".join([*words, "@", *domain])), end
    except AddressError:
        return None, end


def _words(tokens: Iterator[str]) -> tuple[list[str], str]:
    """Words and dots up to the next of `,:;<>@`, and that; "" at the end, `_NONE` where no token is."""
    words: list[str] = []
    for token in tokens:
        if token in _ENDS:
            return words, token
        words.append(token)
    return words, ""


def _dotted(words: list[str]) -> bool:
    """Whether they are `word.word.word`."""
    return len(words) % 2 == 1 and all((word == ".") == bool(number % 2) for number, word in enumerate(words))


def _tokens(value: str) -> Iterator[str]:
    """Words, quoted words, dots and separators; white space and comments are left out, `_NONE` stands where no token is."""
    place = 0
    while place < len(value):
        found = _TOKEN.match(value, place)
        if found is None:
            yield _NONE
            return
        place = found.end()
        if found[0] == "(":
            place = _behind_comment(value, place)
            if not place:
                yield _NONE
                return
        elif not found[0].isspace():
            yield found[0]


def _behind_comment(value: str, place: int) -> int:
    """Where the comment that is open there has its end; 0 where it has none."""
    depth = 1
    while depth:
        found = _COMMENT.match(value, place)
        if found is None:
            return 0
        place = found.end()
        depth += (found[0] == "(") - (found[0] == ")")
    return place

"""The DKIM-Signature fields of one message (RFC 6376, RFC 8463): relaxed/relaxed, over its whole body, in UTF-8 or not.

A field in `h=` is named once more than the message has it, so that nobody can put another one in (RFC 6376 8.15): those of the
configuration whether the message has them or not, those of lists where it has them. `l=` and `i=` are never said. The signature
is over the octets that leave: `wire.canonical` must find nothing to change any more.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from responder.mail.bodyhash import BodyHash
from responder.outbound.dkim.keys import SigningKey

WHERE_PRESENT: Final = (
    "sender",
    *("list-id", "list-unsubscribe", "list-unsubscribe-post", "list-post"),  # RFC 8058 4 wants those of lists signed
    *("list-help", "list-subscribe", "list-owner", "list-archive"),
)
"""Fields that are covered where a message has them. Where it has not, a list that it goes through may add them."""

MAX_NAMES: Final = 1000
"""Names in `h=`: a message that needs more has hundreds of fields of a kind that there is one of, and nobody verifies it."""

_WIDTH: Final = 76  # RFC 5322 2.1.1 recommends 78
_NAME: Final = re.compile(rb"([!-9;-~]+)[ \t]*:")
_SPACE: Final = re.compile(rb"[ \t]+")


@dataclass(frozen=True, slots=True)
class Terms:
    """What all signatures of a server say: `headers` are the names (lower case) of fields that are covered in any case, `expire`
    is how long they are good for, in seconds, None for ever."""

    headers: tuple[str, ...]
    expire: float | None = None


class Message:
    """A message whose line ends are CRLF, read for signing. What takes time is done once, for any number of signatures."""

    def __init__(self, content: bytes) -> None:
        section, line_end, _ = content.partition(b"\r\n\r\n") if content[:2] != b"\r\n" else (b"", b"\r\n", b"")
        self.content = content
        self._body = len(section) + len(line_end)
        self._fields = _fields(section)
        self._body_hash = b""

    def drafts(
        self, keys: Sequence[SigningKey], domain: str, terms: Terms, now: float, head: bytes = b""
    ) -> list[Draft]:
        """The fields to put in front of it, one for each key in their order, without their signatures yet; none where its header
        section is none, or has no From: verifiers differ in what they make of that.

        `domain` is that of the keys, with A-labels; `head` are fields that will stand before the message, and are covered.
        """
        fields = _joined(_fields(head), self._fields)
        if not fields or b"from" not in fields:
            return []
        names = _names(terms.headers, fields)
        if len(names) > MAX_NAMES:
            return []
        signed = b"".join(_covered(names, fields))
        return [_draft(key, domain, terms, int(now), names, self.body_hash, signed) for key in keys]

    def sign(self, keys: Sequence[SigningKey], domain: str, terms: Terms, now: float, head: bytes = b"") -> bytes:
        """The same, signed here and now: lines ended by CRLF, b"" where it can't be signed. Raises what the keys raise."""
        drafts = self.drafts(keys, domain, terms, now, head)
        return b"".join([draft.field(draft.key.sign(draft.digest)) for draft in drafts])

    @property
    def body_hash(self) -> bytes:
        """Of the relaxed body, in base64. It takes a millisecond for 256 KB, once."""
        if not self._body_hash:
            digests = BodyHash(relaxed=True).run(self.content, self._body).digests
            self._body_hash = base64.b64encode(digests[None])
        return self._body_hash


class Draft(NamedTuple):
    """A field that wants its signature."""

    key: SigningKey
    digest: bytes
    lines: list[bytes]

    def field(self, signature: bytes) -> bytes:
        """The field, lines ended by CRLF."""
        value = base64.b64encode(signature)
        pieces = [value[at : at + _WIDTH - 4] for at in range(0, len(value), _WIDTH - 4)]
        return b"DKIM-Signature: " + b"\r\n ".join(self.lines) + b"\r\n  ".join(pieces) + b"\r\n"


def _draft(
    key: SigningKey, domain: str, terms: Terms, now: int, names: Sequence[bytes], body_hash: bytes, signed: bytes
) -> Draft:
    tags = [b"v=1;", b"a=%s-sha256;" % key.algorithm.encode("ascii"), b"c=relaxed/relaxed;"]
    tags += [b"d=%s;" % domain.encode("ascii"), b"s=%s;" % key.selector.encode("ascii"), b"t=%d;" % now]
    if terms.expire is not None:
        tags.append(b"x=%d;" % (now + int(terms.expire)))
    # `b=` is last: what is signed is all before its value, with spaces where the folds are (RFC 6376 3.7).
    lines = [
        *_filled(tags, b" ", len(b"DKIM-Signature: ")),
        *_filled([b"h=" + names[0] + b":", *[name + b":" for name in names[1:-1]], names[-1] + b";"], b"", 1),
        b"bh=" + body_hash + b";",
        b"b=",
    ]
    return Draft(key, hashlib.sha256(signed + b"dkim-signature:" + b" ".join(lines)).digest(), lines)


def _fields(section: bytes) -> dict[bytes, list[bytes]] | None:
    """The canonical fields by their lower-case names, each name's from the top (RFC 6376 3.4.2); None where a line is none."""
    if not section:
        return {}
    found: dict[bytes, list[list[bytes]]] = {}
    lines: list[bytes] = []
    for line in section.removesuffix(b"\r\n").split(b"\r\n"):
        if line[:1] in (b" ", b"\t"):
            if not lines:
                return None
            lines.append(line)
            continue
        match = _NAME.match(line)
        if match is None:
            return None
        lines = [line[match.end() :]]
        found.setdefault(match[1].lower(), []).append(lines)
    return {name: [_canonical(name, value) for value in values] for name, values in found.items()}


def _canonical(name: bytes, lines: Iterable[bytes]) -> bytes:
    return name + b":" + _SPACE.sub(b" ", b"".join(lines)).strip(b" ") + b"\r\n"


def _joined(
    head: dict[bytes, list[bytes]] | None, fields: dict[bytes, list[bytes]] | None
) -> dict[bytes, list[bytes]] | None:
    if not head or fields is None:
        return fields
    return fields | {name: values + fields.get(name, []) for name, values in head.items()}


def _names(sealed: Iterable[str], fields: dict[bytes, list[bytes]]) -> list[bytes]:
    """The names of `h=`."""
    always = dict.fromkeys([b"from", *[name.encode("ascii") for name in sealed]])  # RFC 6376 5.4: From must be there
    present = [name.encode("ascii") for name in WHERE_PRESENT if name.encode("ascii") in fields]
    names = []
    for name in dict.fromkeys([*always, *present]):
        names += [name] * (len(fields.get(name, ())) + 1)
    return names


def _covered(names: Iterable[bytes], fields: dict[bytes, list[bytes]]) -> list[bytes]:
    """What is signed: of each name the last field first; one that is not there is nothing (RFC 6376 5.4.2)."""
    return [field for name in dict.fromkeys(names) for field in reversed(fields.get(name, ()))]


def _filled(pieces: Sequence[bytes], divider: bytes, column: int) -> list[bytes]:
    """The pieces in lines as long as they may be; the first line begins at `column`, the others behind a space. A fold may stand
    between tags, and beside each colon of `h=` (RFC 6376 3.5)."""
    lines = [pieces[0]]
    for piece in pieces[1:]:
        if column + len(lines[-1]) + len(divider) + len(piece) > _WIDTH:
            lines.append(piece)
            column = 1
        else:
            lines[-1] += divider + piece
    return lines

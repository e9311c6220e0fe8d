"""Header fields as text that may be sent: encoded words, folding, mailboxes, dates (RFC 5322 2.2.3, RFC 2047, RFC 6532).

The standard library's generator does the same in milliseconds; an answer needs a dozen fields in some ten microseconds.
Whatever text comes in, one field comes out: no CR, LF or NUL of the text survives, and no line reaches 998 octets.
"""

from __future__ import annotations

import re
from binascii import b2a_base64
from collections.abc import Sequence
from email.utils import formatdate
from functools import lru_cache

from responder.mail.address import Address
from responder.mail.headers import clean

MAX_TEXT = 500
"""Characters of a Subject or another text; more is cut. Nobody reads them, and a hostile one must not grow."""

MAX_NAME = 200
"""Characters of a display name; more is cut."""

_MAX_PLAIN = 900  # characters of a field for programs
_COLUMN = 76  # RFC 2047 2: what a line with an encoded word may have; RFC 5322 2.1.1 recommends 78 for the others
_WORD = 75  # RFC 2047 2: what an encoded word may have
_FRAME = len("=?utf-8?q??=")

# RFC 2047 5 (3): what may stand for itself everywhere, display names included.
_Q = [f"={octet:02X}".encode() for octet in range(256)]
for _octet in b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!*+-/":
    _Q[_octet] = bytes([_octet])
_Q[0x20] = b"_"

_ATOMS = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?: [A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*")
_PIECE = re.compile(r" *[^ ]+")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def well_formed(text: str) -> str:
    """The text with surrogate pairs joined and lone surrogates made U+FFFD: what UTF-8 can carry."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def line_text(text: str, limit: int) -> str:
    """The text as one line of at most `limit` characters: controls and line breaks are a space each run."""
    text = clean(well_formed(text[: 4 * limit]))  # cut first: what comes in may be huge
    return text if len(text) <= limit else text[: limit - 3].rstrip() + "..."


def needs_smtputf8(*addresses: Address) -> bool:
    """Whether a header with these addresses needs UTF-8, and so SMTPUTF8 on its way (RFC 6531 3.1)."""
    return not all(str(address).isascii() for address in addresses)


def format_date(seconds: float) -> str:
    """Unix seconds as RFC 5322 3.3 has it, in UTC: `Mon, 02 Jan 2006 15:04:05 +0000`."""
    return _date(int(seconds))


@lru_cache(maxsize=64)
def _date(seconds: int) -> str:
    return formatdate(seconds, usegmt=True).replace("GMT", "+0000")


def text_field(name: str, text: str) -> str:
    """An unstructured field (RFC 5322 3.6.5), CRLF at its end. Never fails.

    ASCII stays as it is. Else the stretch from the first word that needs it to the last becomes RFC 2047 words.
    """
    text = line_text(text, MAX_TEXT)
    if len(name) + len(text) + 2 <= _COLUMN and text.isascii() and "=?" not in text:
        return f"{name}: {text}\r\n"
    field = _Field(name)
    pieces = _PIECE.findall(text)
    coded = [number for number, piece in enumerate(pieces) if _must_encode(piece)]
    if not coded:
        field.add(pieces)
        return field.end()
    first, last = coded[0], coded[-1] + 1
    field.add(pieces[:first])
    middle = "".join(pieces[first:last])
    if first:
        middle = middle[1:]  # the space that divides a plain word from an encoded one is shown
    field.add_encoded(middle)
    field.add(pieces[last:])
    return field.end()


def plain_field(name: str, text: str) -> str:
    """A field for programs, CRLF at its end: folded ASCII without encoded words, `?` for what is not ASCII. Never fails."""
    field = _Field(name)
    field.add(_PIECE.findall(line_text(text, _MAX_PLAIN).encode("ascii", "replace").decode("ascii")))
    return field.end()


def mailbox_field(name: str, display: str, address: Address) -> str:
    """A field with one mailbox (RFC 5322 3.4), CRLF at its end; a non-ASCII local part stays UTF-8 (RFC 6532 3.2).

    Raises `ValueError` where the address could not have come from `address.parse`, as it has controls.
    """
    spec = str(address)
    if _CONTROL.search(spec):
        raise ValueError("an address with control characters")
    spec = well_formed(spec)
    return phrase_field(name, display, f"<{spec}>") if line_text(display, MAX_NAME) else f"{name}: {spec}\r\n"


def phrase_field(name: str, phrase: str, rest: str) -> str:
    """A field that names something for people and then for programs, `List-Id: Garden club <garden.example.org>`, CRLF at
    its end. `rest` is written as it is; the phrase may be blank."""
    phrase = line_text(phrase, MAX_NAME)
    field = _Field(name)
    if not phrase:
        field.add([rest])
        return field.end()
    if _must_encode(phrase, width=MAX_NAME):
        field.add_encoded(phrase)
    elif _ATOMS.fullmatch(phrase):
        field.add([phrase])
    else:
        field.add(['"' + phrase.replace("\\", "\\\\").replace('"', '\\"') + '"'])
    field.add([f" {rest}"])
    return field.end()


def _must_encode(piece: str, width: int = MAX_NAME) -> bool:
    """Whether a piece can't stand for itself: 8-bit, an encoded word in the reader's eyes, or too long for a line."""
    return not piece.isascii() or "=?" in piece or len(piece) > width


class _Field:
    """One field that is folded while it grows."""

    __slots__ = ("_column", "_parts")

    def __init__(self, name: str) -> None:
        self._parts = [f"{name}: "]
        self._column = len(name) + 2

    def add(self, pieces: Sequence[str]) -> None:
        """Words with the white space in front of them, which is where a line may end."""
        for piece in pieces:
            if self._column + len(piece) > _COLUMN and piece[0] == " ":
                self._parts.append("\r\n")
                self._column = 0
            self._parts.append(piece)
            self._column += len(piece)

    def add_encoded(self, text: str) -> None:
        """The text as encoded words, divided from what stands before by a space."""
        lead = "" if len(self._parts) == 1 else " "
        room = _COLUMN - self._column - len(lead)
        if room < _FRAME + 16 and lead:  # one character is 12 columns at most
            self._parts.append("\r\n")
            self._column = 0
            room = _WORD
        words = encoded_words(text, min(room, _WORD))
        self._parts.append(lead + "\r\n ".join(words))
        self._column = 1 + len(words[-1]) if len(words) > 1 else self._column + len(lead) + len(words[0])

    def end(self) -> str:
        return "".join(self._parts) + "\r\n"


def encoded_words(text: str, first: int = _WORD) -> list[str]:
    """The text as RFC 2047 words in UTF-8, Q or B, whichever is shorter: the first has at most `first` characters (28 or
    more), the others 75. A character is never divided between two words (RFC 2047 5)."""
    octets = [char.encode("utf-8", "replace") for char in text]
    units = [b"".join([_Q[octet] for octet in char]) for char in octets]
    is_q = 3 * sum(map(len, units)) <= 4 * sum(map(len, octets)) + 2
    words = []
    for chunk in _chunks(units if is_q else octets, is_q, first):
        coded = chunk if is_q else b2a_base64(chunk, newline=False)
        words.append(f"=?utf-8?{'q' if is_q else 'b'}?{coded.decode('ascii')}?=")
    return words


def _chunks(units: list[bytes], is_q: bool, first: int) -> list[bytes]:
    """The units put together again, in chunks that fit into an encoded word each."""
    room = first - _FRAME
    chunks: list[bytes] = []
    chunk = b""
    for unit in units:
        if len(chunk) + len(unit) > (room if is_q else room // 4 * 3):
            chunks.append(chunk)
            chunk = b""
            room = _WORD - _FRAME
        chunk += unit
    return [*chunks, chunk]

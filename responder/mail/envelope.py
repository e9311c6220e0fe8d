"""The arguments of MAIL and RCPT (RFC 5321 4.1.1.2, 4.1.1.3, 4.1.2): path and parameters, those of RFC 3461 too. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

from responder.mail.address import Address, AddressError, parse

MAX_PATH = 256  # octets, with brackets and source route (RFC 5321 4.5.3.1.3)
MAX_ENVID = 100  # characters as written (RFC 3461 4.4)
MAX_ORCPT = 500  # characters as written (RFC 3461 4.2)

# <path> or a bare address, then parameters. A quoted local part may hold spaces and angle brackets.
_PATH = re.compile(r'[ \t]*(?:<((?:"(?:[^"\\]|\\.)*"|[^<>"])*)>|([^ \t<>]+))(?:[ \t]+(.*))?', re.DOTALL)
# RFC 5321 4.1.2 A-d-l: a source route is accepted and ignored (4.1.1.3, appendix F.2).
_ROUTE = re.compile(r"@[^@,:]+(?:,@[^@,:]+)*:")
_KEYWORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]*")
_VALUE = re.compile(r"[!-<>-~\u0080-\U0010ffff]+")  # esmtp-value: no "=", no space, no controls; UTF-8 by RFC 6531 3.3
# RFC 3461 4: "!" to "~" but for "+" and "=", which are "+" and two hexadecimal digits, of octets that print (4.2, 4.4).
_XTEXT = re.compile(r"(?:[!-*,-<>-~]|\+(?:[2-6][0-9A-F]|7[0-9A-E]))*")
_HEX = re.compile(r"\+([0-9A-F]{2})")
_ADDRESS_TYPE = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,30}[A-Za-z0-9])?")
_EMBEDDED = re.compile(r"\\x\{([0-9A-F]{2,6})\}")  # RFC 6533 3
_NO_QCHAR = re.compile(r"[^!-*,-<>-\[\]-~]")
_EVENTS = ("SUCCESS", "FAILURE", "DELAY")


class EnvelopeError(ValueError):
    """An argument that breaks the grammar."""


class PathError(EnvelopeError):
    """The grammar holds, the address in it does not."""


class LongPathError(PathError):
    """The path is longer than one may be."""


class Wish(NamedTuple):
    """What a sender asks to be told of one recipient (RFC 3461 4.1, 4.2), as it is stored and passed on; "" for what was not
    said. `notify` is NEVER or some of SUCCESS,FAILURE,DELAY in this order, `orcpt` is ASCII."""

    notify: str = ""
    orcpt: str = ""

    @property
    def success(self) -> bool:
        """Whether a success is to be told."""
        return "SUCCESS" in self.notify

    @property
    def failure(self) -> bool:
        """Whether a failure is to be told: where nothing was said, it is (RFC 3461 4.1)."""
        return not self.notify or "FAILURE" in self.notify

    @property
    def delay(self) -> bool:
        """Whether a delay may be told: where nothing was said, that is ours to choose (RFC 3461 4.1)."""
        return not self.notify or "DELAY" in self.notify


NO_WISH = Wish()


@dataclass(frozen=True, slots=True)
class Path:
    """What stands behind FROM: or TO:. `address` is None for the null reverse-path `<>`; `Postmaster` has no domain."""

    address: Address | None
    parameters: dict[str, str | None]

    @property
    def text(self) -> str:
        """The mailbox as `local@domain`; "" for the null reverse-path."""
        return "" if self.address is None else str(self.address)


def split_path(keyword: str, argument: str) -> tuple[str, dict[str, str | None]]:
    """Read `FROM:<a@b> SIZE=1` for the keyword `FROM`: the path as written, without brackets and source route, and parameters.

    Parameter names come back in upper case, their values as written (None where there is none).
    Raises `EnvelopeError` and `PathError`; the text of neither repeats the input.
    """
    if argument[: len(keyword) + 1].upper() != f"{keyword}:":
        raise EnvelopeError(f"expected {keyword}:<address>")
    match = _PATH.fullmatch(argument, len(keyword) + 1)
    if match is None:
        raise EnvelopeError(f"expected {keyword}:<address>")
    bracketed, bare, rest = match.groups()
    text = bare if bracketed is None else bracketed
    if len(text) > 62 and len(text.encode("utf-8", "replace")) > MAX_PATH - 2:  # 62: four octets each at the most
        raise LongPathError("path too long")
    parameters = _parameters(rest) if rest else {}
    if text.startswith("@"):
        route = _ROUTE.match(text)
        if route is None:
            raise PathError("malformed source route")
        text = text[route.end() :]
    return text, parameters


def parse_path(keyword: str, argument: str) -> Path:
    """Read `FROM:<a@b> SIZE=1` for the keyword `FROM`, with its address.

    Raises `EnvelopeError` and `PathError` as `split_path` does, and `PathError` where the address is none.
    """
    text, parameters = split_path(keyword, argument)
    if not text:
        return Path(None, parameters)
    if text.lower() == "postmaster" and keyword == "TO":  # RFC 5321 4.1.1.3: without a domain
        return Path(Address("postmaster", ""), parameters)
    try:
        return Path(parse(text), parameters)
    except AddressError as error:
        raise PathError(str(error)) from None


def _parameters(text: str) -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for word in text.split():
        name, equals, value = word.partition("=")
        if not _KEYWORD.fullmatch(name) or (equals and not _VALUE.fullmatch(value)) or name.upper() in found:
            raise EnvelopeError("malformed parameter")
        found[name.upper()] = value if equals else None
    return found


def parse_wish(parameters: dict[str, str | None], *, utf8: bool) -> Wish | None:
    """The parameters of RCPT; None where there is one that is not known. `utf8`: the transaction is one with SMTPUTF8.

    Raises `EnvelopeError` where one is malformed.
    """
    notify = orcpt = ""
    for name, value in parameters.items():
        if name == "NOTIFY":
            notify = _notify(value or "")
        elif name == "ORCPT":
            orcpt = _orcpt(value or "", utf8=utf8)
        else:
            return None
    return Wish(notify, orcpt)


def _notify(value: str) -> str:
    """RFC 3461 4.1: NEVER stands alone."""
    events = value.upper().split(",") if value.isascii() else []  # "ſ" in capitals is an S
    if events == ["NEVER"]:
        return "NEVER"
    if not events or not set(events) <= set(_EVENTS) or len(set(events)) < len(events):
        raise EnvelopeError("malformed NOTIFY")
    return ",".join([event for event in _EVENTS if event in events])


def _orcpt(value: str, *, utf8: bool) -> str:
    """RFC 3461 4.2, RFC 6533 3. An address in raw UTF-8 comes out in the form that any host can take."""
    kind, _, coded = value.partition(";")
    if not _ADDRESS_TYPE.fullmatch(kind) or not coded:
        raise EnvelopeError("malformed ORCPT")
    if not coded.isascii():
        if not utf8 or kind.lower() != "utf-8":
            raise EnvelopeError("malformed ORCPT")
        coded = "".join([char if char.isascii() else embed(char) for char in coded])
    if len(kind) + 1 + len(coded) > MAX_ORCPT or not _XTEXT.fullmatch(coded):
        raise EnvelopeError("malformed ORCPT")
    if kind.lower() == "utf-8":
        try:
            from_xtext(_EMBEDDED.sub(lambda found: chr(int(found[1], 16)), coded)).encode()
        except (ValueError, OverflowError):  # above U+10FFFF, or half of a pair
            raise EnvelopeError("malformed ORCPT") from None
    return f"{kind};{coded}"


def parse_envid(value: str) -> str:
    """ENVID of MAIL (RFC 3461 4.4), as written. Raises `EnvelopeError`."""
    if not value or len(value) > MAX_ENVID or not _XTEXT.fullmatch(value):
        raise EnvelopeError("malformed ENVID")
    return value


def is_xtext(value: str) -> bool:
    """Whether a value is xtext (RFC 3461 4) of octets that print."""
    return _XTEXT.fullmatch(value) is not None


def from_xtext(text: str) -> str:
    """What xtext stands for."""
    return _HEX.sub(lambda found: chr(int(found[1], 16)), text)


def embed(text: str) -> str:
    """An address in the 7-bit form of RFC 6533 3: `j\\x{FC}rgen@example.org`."""
    return _NO_QCHAR.sub(lambda found: f"\\x{{{ord(found[0]):X}}}", text)

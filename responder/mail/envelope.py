"""The arguments of MAIL and RCPT (RFC 5321 4.1.1.2, 4.1.1.3, 4.1.2): path and parameters. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

from responder.mail.address import Address, AddressError, parse

# <path> or a bare address, then parameters. A quoted local part may hold spaces and angle brackets.
_PATH = re.compile(r'[ \t]*(?:<((?:"(?:[^"\\]|\\.)*"|[^<>"])*)>|([^ \t<>]+))(?:[ \t]+(.*))?', re.DOTALL)
# RFC 5321 4.1.2 A-d-l: a source route is accepted and ignored (4.1.1.3, appendix F.2).
_ROUTE = re.compile(r"@[^@,:]+(?:,@[^@,:]+)*:")
_KEYWORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]*")
_VALUE = re.compile(r"[!-<>-~\u0080-\U0010ffff]+")  # esmtp-value: no "=", no space, no controls; UTF-8 by RFC 6531 3.3


class EnvelopeError(ValueError):
    """An argument that breaks the grammar."""


class PathError(EnvelopeError):
    """The grammar holds, the address in it does not."""


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

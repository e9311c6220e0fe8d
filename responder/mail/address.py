"""Mailbox addresses: parsing, comparing, `+tag` and international domains (RFC 5321 4.1.2, RFC 6531, RFC 5890)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from email.utils import getaddresses
from functools import lru_cache

import idna

MAX_LOCAL = 64  # RFC 5321 4.5.3.1.1, in octets
MAX_DOMAIN = 255  # RFC 5321 4.5.3.1.2, in octets
MAX_PATH = 254  # RFC 5321 4.5.3.1.3: 256 with the angle brackets

MAX_ADDRESS_FIELD = 32768  # characters of an address header that are looked at: some 1,000 mailboxes

_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~\-\u0080-\U0010ffff]+"
_DOT_STRING = re.compile(rf"{_ATOM}(?:\.{_ATOM})*")
_QUOTED = re.compile(r'"(?:[ !#-\[\]-~\u0080-\U0010ffff]|\\[ -~])*"')
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_LITERAL = re.compile(r"\[(?:\d{1,3}(?:\.\d{1,3}){3}|IPv6:[0-9A-Fa-f:.]+)\]")


class AddressError(ValueError):
    """A text that is no mailbox address; the message says why, without repeating the text."""


@dataclass(frozen=True, slots=True)
class Address:
    """One mailbox. `local` is as written, `domain` is lower case with A-labels (or an address literal)."""

    local: str
    domain: str

    def __str__(self) -> str:
        return f"{self.local}@{self.domain}" if self.domain else self.local

    @property
    def key(self) -> str:
        """What two spellings of one mailbox share: the local part's case does not count here (RFC 5321 2.4 allows a
        host to compare its own mailboxes so, and for others it only makes us more careful)."""
        return f"{unquote(self.local).casefold()}@{self.domain}"

    @property
    def person(self) -> str:
        """What the addresses of one person share: `key` without the tag, of which anybody may make up as many as they like.
        A forwarder's own rewriting (SRS) is no tag: behind it stand many people."""
        name, tag = split_tag(unquote(self.local).casefold())
        return self.key if not tag or name in ("srs0", "srs1") else f"{name}@{self.domain}"

    @property
    def is_ascii(self) -> bool:
        """Whether the address travels without SMTPUTF8."""
        return self.local.isascii()


def parse(text: str) -> Address:
    """The mailbox written as `local@domain`.

    Raises `AddressError` where the text is none by RFC 5321 4.1.2 (or RFC 6531 3.3), or is longer than it may be.
    """
    local, at, domain = text.rpartition("@")
    if not at:
        raise AddressError("no domain")
    if not local or not (_DOT_STRING.fullmatch(local) or _QUOTED.fullmatch(local)):
        raise AddressError("malformed local part")
    if len(local.encode("utf-8", "replace")) > MAX_LOCAL:
        raise AddressError("local part too long")
    address = Address(local, domain_to_ascii(domain))
    if len(local.encode("utf-8", "replace")) + 1 + len(address.domain) > MAX_PATH:
        raise AddressError("address too long")
    return address


def unquote(local: str) -> str:
    """A local part without its quotes and backslashes: `"a b"` and `a\\ b` are one mailbox."""
    if local.startswith('"') and local.endswith('"') and len(local) > 1:
        return re.sub(r"\\(.)", r"\1", local[1:-1])
    return local


@lru_cache(maxsize=4096)
def domain_to_ascii(domain: str) -> str:
    """The domain in lower case and with A-labels (UTS 46); an address literal comes back as it is.

    Raises `AddressError` where it is no domain.
    """
    if not domain:
        raise AddressError("no domain")
    if domain.startswith("["):
        if not _LITERAL.fullmatch(domain):
            raise AddressError("malformed address literal")
        return domain
    name = domain.lower()
    if not name.isascii():
        try:
            name = idna.encode(name, uts46=True).decode("ascii")
        except (idna.IDNAError, UnicodeError):
            raise AddressError("malformed international domain") from None
    if len(name) > MAX_DOMAIN:
        raise AddressError("domain too long")
    if not all(_LABEL.fullmatch(label) for label in name.split(".")):
        raise AddressError("malformed domain")
    return name


def split_tag(local: str) -> tuple[str, str]:
    """`sales+summer` -> `("sales", "summer")`; without a tag the second part is empty. A leading `+` starts no tag."""
    name, plus, tag = local.partition("+")
    return (name, tag) if plus and name else (local, "")


def from_header(value: str) -> list[tuple[str, Address]]:
    """The (display name, mailbox) pairs of an address header (From, To, Cc ...). Never fails: what is no address is left out."""
    found = []
    try:
        pairs = getaddresses([value[:MAX_ADDRESS_FIELD]])
    except (RecursionError, ValueError):  # thousands of nested comments
        return []
    for name, text in pairs:
        try:
            found.append((name, parse(text)))
        except AddressError:
            continue
    return found

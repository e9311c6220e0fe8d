"""Where a mail is about or from: the place it names, the address it came from. All of it is what a stranger says."""

import ipaddress
import re
from collections.abc import Iterator

from responder import Mail

MAX_PLACE = 80  # characters of a place's name
MAX_WORDS = 6  # of a line that may be one; a longer one is a sentence, and nothing for a stranger's server
MAX_RECEIVED = 50  # fields that are looked at, from the oldest on
ADDRESS_HEADERS = ("x-originating-ip", "x-source-ip", "x-source", "received")

_ASKED = re.compile(r"\b(?:weather|forecast|wetter|météo|meteo|tiempo|clima|weer|väder|temperature?)\b", re.IGNORECASE)
_FILLING = re.compile(
    r"(?:(?:report|forecast|like|please|bitte|now|today|tomorrow|heute|morgen|in|at|for|of|near|en|à|a|di|für|bei|von|i|om)\b"
    r"|[\s:,?!-])+",
    re.IGNORECASE,
)
_TRAILING = re.compile(r"[\s,]+(?:please|bitte|now|today|tomorrow|heute|morgen)$", re.IGNORECASE)
_ADDRESS = re.compile(r"(?<![\w.:])(?:IPv6:)?([0-9a-f:.]{3,45})(?![\w.:])", re.IGNORECASE)
_BRACKETS = re.compile(r"\[([^\[\]]{3,60})\]")
_FROM = re.compile(r"\s*from\b(.*?)(?:\sby\s|;|$)", re.IGNORECASE | re.DOTALL)


def places(mail: Mail) -> Iterator[tuple[bool, str]]:
    """What may be a place, the likeliest first, and whether the mail says that it is one ("weather in ...")."""
    first = next((line for line in mail.reply_text[:10_000].splitlines() if line.strip()), "")
    seen = set()
    for line in (mail.base_subject[:300], first[:300]):
        asked = _ASKED.search(line)
        rest = line[asked.end() :] if asked else ""
        filling = _FILLING.match(rest)
        named = clean(rest[filling.end() :] if filling else rest)
        place = named or clean(line[: asked.start()] if asked else line)  # "Bern weather" is said, too
        place = _TRAILING.sub("", place)
        if 1 < len(place) <= MAX_PLACE and len(place.split()) <= MAX_WORDS and place.casefold() not in seen:
            seen.add(place.casefold())
            yield bool(named), place


def sender_address(mail: Mail) -> str:
    """The public address that the mail came from, by its headers, "" where they name none. All of them can be forged: whoever
    does so learns the weather of another place."""
    for name in ADDRESS_HEADERS:
        values = mail.headers.all(name)
        if name == "received":  # the oldest is the last one; only what it came `from` is where somebody was
            oldest = values[: -MAX_RECEIVED - 1 : -1]
            values = [match[1] for value in oldest if (match := _FROM.match(value[:1000]))]
        for value in values[:MAX_RECEIVED]:
            # What stands in brackets was seen by the host that wrote it; the rest is what the client said (RFC 5321 4.4)
            for part in (*_BRACKETS.findall(value[:1000]), value[:1000]):
                for found in _ADDRESS.findall(part):
                    if address := public(found):
                        return address
    return ""


def public(text: str) -> str:
    """An address that anybody may have, in its usual form; "" for private, local and reserved ones, and for no address."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return ""
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    return str(address) if address.is_global and not address.is_multicast else ""


def clean(text: str) -> str:
    """One line without controls, and without the marks and dots around it."""
    line = " ".join("".join([char if char.isprintable() else " " for char in text]).split())
    return line.strip(" .,;:!?¿¡\"'()[]<>-").encode("utf-8", "replace").decode()

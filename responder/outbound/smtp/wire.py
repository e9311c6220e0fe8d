"""What a transaction puts on the wire: addresses, parameters of MAIL, and the content with its dots or as a chunk. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from responder.mail.address import parse
from responder.mail.status import Failure, FailureError, RemoteReply, Trouble
from responder.outbound.base import Envelope

BLOCK: Final = 1 << 16
"""Octets that are written before the next wait for the host to take them."""

_LONE_BREAK: Final = re.compile(rb"\r(?!\n)|(?<!\r)\n")
_SIZE: Final = re.compile(r"\d{1,18}")


def mailbox(text: str) -> str:
    """The mailbox in the only spelling that goes on the wire: A-labels, no controls. Raises `ValueError`."""
    found = str(parse(text))
    found.encode()  # a lone surrogate is a UnicodeEncodeError, which is a ValueError
    return found


def addresses(
    envelope: Envelope, offered: Mapping[str, str], ends: dict[int, Failure | RemoteReply]
) -> tuple[str, dict[int, str]]:
    """The sender's and the recipients' mailboxes. Recipients that this host can't take get their end. Raises `FailureError`."""
    utf8 = "smtputf8" in offered
    sender = ""
    if envelope.reverse_path:
        try:
            sender = mailbox(envelope.reverse_path)
        except ValueError:
            raise FailureError(Trouble.BAD_SENDER.failure()) from None
    if not utf8 and (envelope.smtputf8 or not sender.isascii()):
        raise FailureError(Trouble.NEEDS_SMTPUTF8.failure())
    mailboxes = {}
    for n, recipient in enumerate(envelope.recipients):
        try:
            address = mailbox(recipient)
        except ValueError:
            ends[n] = Trouble.BAD_ADDRESS.failure()
        else:
            if utf8 or address.isascii():
                mailboxes[n] = address
            else:
                ends[n] = Trouble.NEEDS_SMTPUTF8.failure()
    return sender, mailboxes


def parameters(envelope: Envelope, addresses: Iterable[str], size: int, offered: Mapping[str, str]) -> list[str]:
    """The parameters of MAIL for a host that offers these extensions (lower case).

    Raises `FailureError` where the message is larger than the host takes.
    """
    found = []
    if "size" in offered and not envelope.probe:
        limit = _SIZE.fullmatch(offered["size"].strip())  # RFC 1870 4: missing or 0 is no limit
        if limit and 0 < int(limit[0]) < size:
            raise FailureError(Trouble.TOO_BIG.failure(f"message has {size} octets, the host takes {limit[0]}"))
        found.append(f"SIZE={size}")
    utf8 = envelope.smtputf8 or not all(text.isascii() for text in addresses)
    if (envelope.body8bit or utf8) and "8bitmime" in offered:
        found.append(
            "BODY=8BITMIME"
        )  # where it is not offered the octets go as they are: a refusal would lose the mail
    if utf8:
        found.append("SMTPUTF8")
    if envelope.requiretls:
        found.append("REQUIRETLS")  # RFC 8689 2; whether the host offers it was seen when the session began
    if "dsn" in offered:
        found += [f"{name}={value}" for name, value in (("RET", envelope.ret), ("ENVID", envelope.envid)) if value]
    return found


def wishes(envelope: Envelope, offered: Mapping[str, str]) -> list[str]:
    """The parameters of RCPT for a host that offers these extensions (RFC 3461 4.1, 4.2)."""
    if "dsn" not in offered:
        return []
    wish = envelope.wish
    return [f"{name}={value}" for name, value in (("NOTIFY", wish.notify), ("ORCPT", wish.orcpt)) if value]


def canonical(content: bytes) -> bytes:
    """Lines that end with CRLF only: a lone CR or LF lets a second mail be smuggled in behind a false dot (RFC 5321 2.3.8).
    And no NUL: a host that leaves it out would find a dot alone where none was to be stuffed (RFC 5322 4: nobody may send it)."""
    if b"\0" in content:
        content = content.replace(b"\0", b"")
    breaks = content.count(b"\r\n")
    if content.count(b"\n") != breaks or content.count(b"\r") != breaks:
        content = _LONE_BREAK.sub(b"\r\n", content)
    return content if content.endswith(b"\r\n") or not content else content + b"\r\n"


def blocks(content: bytes) -> Iterator[tuple[bytes, bool]]:
    """What goes on the wire between 354 and the last reply, dots stuffed (RFC 5321 4.5.2). The last block has the final dot."""
    stuffed = content.replace(b"\r\n.", b"\r\n..")
    if stuffed.startswith(b"."):
        stuffed = b"." + stuffed
    last = max(len(stuffed) - 1, 0) // BLOCK * BLOCK
    for start in range(0, last, BLOCK):
        yield stuffed[start : start + BLOCK], False
    yield stuffed[last:] + b".\r\n", True


def chunks(content: bytes) -> Iterator[tuple[bytes, bool]]:
    """The same as one chunk, the last (RFC 3030 2): its length first, so that nothing within can end it."""
    head = b"BDAT %d LAST\r\n" % len(content)
    last = max(len(content) - 1, 0) // BLOCK * BLOCK
    for start in range(0, last, BLOCK):
        yield head + content[start : start + BLOCK], False
        head = b""
    yield head + content[last:], True

"""Bounce addresses: `bounces+ID@domain` is the reverse-path of one message to one recipient (VERP), so what comes back names it.

The id is the message's in the queue: 45 bits of time and 40 random ones (`clock.format_id`). Nobody guesses it: that would take
some 10^12 mails for each millisecond. Who was shown it (the recipient's side, an archive that keeps Return-Path) knows it, and
would know a signature in it as well: so there is none, and what comes there is weighed before it counts (`answering.returns`).
"""

from __future__ import annotations

import re
from typing import Final

from responder.mail.address import Address, split_tag

NAME: Final = "bounces"

_ID = re.compile(r"[0-9a-z]{18}")


def make(identifier: str, domain: str) -> str:
    """The reverse-path of the message with that id, at a domain of ours."""
    return f"{NAME}+{identifier}@{domain}"


def parse(address: Address) -> str:
    """The id in a bounce address, in whatever case it came back; "" where there is none."""
    name, tag = split_tag(address.local.lower())
    return tag if name == NAME and _ID.fullmatch(tag) else ""

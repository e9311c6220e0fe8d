"""A mail as a mailing list sends it on: one message for all members, and the few fields that each member has alone.

What is changed, and why; all else is as `mail.forward` leaves it, the body untouched:

- From becomes the list, `"Alice via Garden club" <garden@example.org>`: a DMARC policy of the author's domain would have the
  copies refused. No Sender is needed beside it (RFC 5322 3.6.2).
- Of a discussion, Reply-To is the list; the author stands in Cc (with the mail's own Reply-To, where it has one), so that a
  reply to all reaches one who is no member, and nobody loses the address. Of announcements, Reply-To leads to the author.
- The List-* fields are ours: List-Id (RFC 2919), List-Post, List-Help, List-Subscribe, List-Owner (RFC 2369), and for each
  member List-Unsubscribe with its one-click form (RFC 8058). Another list's, and its Precedence, are removed.
- `Precedence: list` keeps vacation programs silent that know no better (RFC 3834 2); Auto-Submitted is not added, as a person
  wrote the mail.
- A moderator's password (Approved) goes no further.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import quote, urlsplit

from responder.mail.address import MAX_LOCAL, Address, split_tag, unquote
from responder.mail.edit import REMOVED, SplitMail, mailboxes, missing_fields
from responder.mail.headers import decode_text
from responder.mail.write import line_text, mailbox_field, phrase_field, plain_field

REPLACED: Final = REMOVED | {
    *("precedence", "approved", "approve", "x-approved", "x-approve"),
}
"""Fields that a distributed mail loses, in lower case; and all whose name begins with `list-`. What other systems know a
loop by (X-Loop, Mailing-List, Delivered-To) stays."""

MAX_URL = 900
"""Octets of a one-click address: RFC 5322 2.1.1 allows a line 998."""

_MAX_LABEL = 60
"""Characters of the list's name in List-Id and in From."""

_MAX_FIELDS = 10  # To and Cc fields that are looked at; there should be one of each

_URL = re.compile(r"https://[!#-;=?-\[\]_a-z~]+", re.IGNORECASE)  # RFC 3986 2 without the quote, <, >, \, ^, `, { | }
_TOKEN = re.compile(r"[A-Za-z0-9._=-]+")
_DOT_ATOM = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?:\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*")


def compose_distribution(
    raw: bytes,
    *,
    inbox: Address,
    name: str,
    author_sender: Address | None,
    message_id: str,
    date: float,
    subject_prefix: str | None = None,
    discussion: bool = True,
) -> bytes:
    """The mail `raw` as a list sends it on, without what differs by member (`member_head`). Never fails, whatever `raw` is.

    `inbox` is the list's address (a `+tag` is taken off), `name` what people call it ("" for its local part),
    `author_sender` the reverse-path, None for `<>`; `date` (Unix seconds) and `message_id` serve a mail that has none.
    `subject_prefix` is `[local part]` where it is None and "" for none; it is added once. Raises `ValueError` where `inbox`
    has control characters.
    """
    mail = SplitMail(raw)
    post = _list_address(inbox)
    name = line_text(name, _MAX_LABEL)
    edited = {"from": mailbox_field("From", mail.author_name(name or post.local, author_sender), post).encode()}
    if discussion:
        edited["reply-to"] = mailbox_field("Reply-To", "", post).encode()
        copied = _copied(mail, post)
        if copied:
            edited["cc"] = copied
    elif not mail.mailboxes("reply-to"):
        author = mail.author(author_sender)
        edited["reply-to"] = mailbox_field("Reply-To", "", author).encode() if author else b""
    subject = mail.prefixed_subject(f"[{post.local}]" if subject_prefix is None else subject_prefix)
    if subject is not None:
        edited["subject"] = subject
    edited |= missing_fields(mail, message_id, date)
    top = [
        mailbox_field("X-Responder-Loop", "", post),
        phrase_field("List-Id", name, f"<{list_id(post)}>"),
        plain_field("List-Post", f"<{_mailto(post)}>" if discussion else "NO (only its owners may post)"),
        plain_field("List-Help", f"<{_mailto(post, 'help')}>"),
        plain_field("List-Subscribe", f"<{_mailto(post, 'subscribe')}>"),
        plain_field("List-Owner", f"<{_mailto(post, 'owner')}>"),
        "Precedence: list\r\n",
    ]
    return mail.assemble(top, edited, lambda field: field in REPLACED or field.startswith("list-"))


def member_head(inbox: Address, token: str = "", one_click_url: str = "") -> str:
    """The fields of one member, ASCII, lines ended by CRLF; they go on top of the message.

    `token` proves in a mail to `list+unsubscribe-TOKEN` who it is that leaves; without one that is for the list to find out.
    `one_click_url` is the https address at which a POST unsubscribes (RFC 8058), "" where there is none. Raises `ValueError`
    for any other address, for one that holds what a header can't, and for a token that makes no address.
    """
    leave = f"<{_mailto(_list_address(inbox), f'unsubscribe-{token}' if token else 'unsubscribe')}>"
    if token and not _TOKEN.fullmatch(token):
        raise ValueError("an unsubscribe token has other characters than letters, digits, and . _ = -")
    if not one_click_url:
        return f"List-Unsubscribe: {leave}\r\n"
    _check_url(one_click_url)
    return (
        f"List-Unsubscribe: <{one_click_url}>,\r\n {leave}\r\n"  # RFC 2369 2: the one that is preferred comes first
        "List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n"  # RFC 8058 3.1
    )


def list_id(inbox: Address) -> str:
    """The list's identifier, `garden.example.org` (RFC 2919 2): stable, whatever case and tag a mail was sent to."""
    post = _list_address(inbox)
    local = unquote(post.local).casefold()
    label = local if _DOT_ATOM.fullmatch(local) else quote(local, safe="").replace(".", "%2E")
    return f"{label}.{post.domain if _DOT_ATOM.fullmatch(post.domain) else quote(post.domain, safe='.')}"


def _list_address(inbox: Address) -> Address:
    """The address to which posts go: the recipient without its tag."""
    return inbox if inbox.local.startswith('"') else Address(split_tag(inbox.local)[0], inbox.domain)


def _mailto(post: Address, tag: str = "") -> str:
    """A mailto URL (RFC 6068 2) of the list or of one of its `+tag` addresses. Raises `ValueError` where that is no address."""
    local = post.local
    if tag and local.startswith('"'):
        local = f'{local[:-1]}+{tag}"'
    elif tag:
        local = f"{local}+{tag}"
    if len(local.encode("utf-8", "replace")) > MAX_LOCAL and tag.startswith("unsubscribe-"):
        raise ValueError("the list's name and the unsubscribe token together make too long an address")
    return f"mailto:{quote(local, safe='!$*+', errors='replace')}@{quote(post.domain, safe='[]:')}"


def _copied(mail: SplitMail, post: Address) -> bytes:
    """The Cc field with the author in it; b"" where everybody whom a reply to all should reach is named already."""
    named = {
        address.key
        for field in ("to", "cc")
        for value in mail.values(field)[:_MAX_FIELDS]
        for _, address in mailboxes(value)
    }
    named.add(post.key)
    authors = mail.mailboxes("reply-to") or mail.mailboxes("from")
    authors = [(name, address) for name, address in authors[:3] if address.key not in named]
    if not authors:
        return b""
    added = [mailbox_field("Cc", decode_text(name), address)[len("Cc:") : -2].encode() for name, address in authors]
    old = [value.strip().rstrip(b",").rstrip() for value in mail.values("cc")]
    return b"Cc:" + b",\r\n".join([*[b" " + value for value in old if value], *added]) + b"\r\n"


def _check_url(url: str) -> None:
    """RFC 8058 3.1: https, and nothing else; nor what would end the angle brackets or the line. Raises `ValueError`."""
    if len(url) > MAX_URL or not _URL.fullmatch(url):
        raise ValueError("a one-click address is an https URL of printable ASCII, 900 characters at most")
    parts = urlsplit(url)
    if not parts.hostname or parts.username is not None or parts.port == 0:
        raise ValueError("a one-click address has a host, and no user name")

"""What a bounce says: delivery reports (RFC 3464, RFC 6533), and as far as it goes what mail systems sent before these.

A mail to a bounce address may be anything: a report, an older system's letter, somebody's holiday notice. So a status part is
believed as it stands; a text only where the mail comes from a mail system by its own words (From, `X-Failed-Recipients`,
qmail's first line) and says of a recipient what became of it. What can't be told is `unknown`, never a failure.

Only the first `MAX_MAIL` octets are read: a report begins with what it has to say, and the returned mail follows.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal

from responder.mail.address import AddressError, parse
from responder.mail.headers import Headers, decode_text, split_section
from responder.mail.message import Message

Action = Literal["failed", "delayed", "delivered", "relayed", "expanded", "unknown"]

MAX_MAIL: Final = 1 << 18
"""Octets of a mail that are read."""

MAX_REPORTS: Final = 100
"""Recipients of one mail; our own messages have one each."""

MAX_TEXT: Final = 500
"""Characters of a report's text: it is shown in logs and histories."""

_STATUS_PARTS = ("message/delivery-status", "message/global-delivery-status")  # RFC 3464 2, RFC 6533 3
_ACTIONS: Final[dict[str, Action]] = {
    "failed": "failed",
    "failure": "failed",  # what some systems write for it
    "delayed": "delayed",
    "delivered": "delivered",
    "relayed": "relayed",
    "expanded": "expanded",
}
_MAX_VALUE = 4000  # characters of a field that are looked at
_MAX_PROSE = 20_000  # characters of a letter that are read, and the lines that belong to one recipient
_MAX_LINES = 8

_BLANK_LINE = re.compile(r"\n(?:[ \t]*\n)+")
_STATUS = re.compile(r"(?<![\d.])([245])\.(\d{1,3})\.(\d{1,3})(?![\d.])")
_CODE = re.compile(r"(?<![\d.-])([45])\d\d(?![\d.])(?=[ \-:#)]|$)", re.MULTILINE)
_EMBEDDED = re.compile(r"\\x\{([0-9A-Fa-f]{1,6})\}")  # RFC 6533 3
_ADDRESS = re.compile(r"[^\s<>()\[\]{},;:\"']{1,64}@[A-Za-z0-9\u0080-\U0010ffff._-]{1,253}")

# Who writes such letters.
_MAIL_SYSTEM = re.compile(
    r"mailer[-_. ]?daemon|postmaster|mail[-_. ]?daemon|mail delivery (?:sub)?system|microsoft exchange", re.IGNORECASE
)
_QMAIL = re.compile(r"\s{0,80}Hi\. This is the ")  # QSBMF, qmail's bounce format

# What they say of all recipients that they name.
_DELAYED = re.compile(
    r"has not yet been delivered|still undelivered|delivery (?:has been |is )?delayed|(?:this is (?:only )?a|\bjust a) warning"
    r"|not need to (?:resend|send|do anything)|will (?:keep (?:on )?try|be (?:re)?tried|continue to)|\btransient non-fatal",
    re.IGNORECASE,
)
_FAILED = re.compile(
    r"permanent(?:ly)? (?:fatal )?(?:error|fail)|could not be delivered|wasn't able to deliver|undeliver(?:able|ed)"
    r"|delivery (?:\w{1,20} ){0,4}fail|was not delivered|not be (?:sent|reached)|returned to (?:the )?sender",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Report:
    """What became of one recipient.

    `recipient` is as the reporting host wrote it, `original` as it was given to it, or "". `status` is of RFC 3463, "" where the
    report has none. `text` is one line for people.
    """

    recipient: str
    action: Action
    status: str
    text: str
    original: str = ""


def parse_report(content: bytes) -> list[Report]:
    """What a mail reports, recipient by recipient; [] where it is no report. Never fails, whatever `content` is."""
    message = Message(content[:MAX_MAIL])
    found: list[Report] = []
    for part in message.attachments:
        if part.content_type in _STATUS_PARTS and len(found) < MAX_REPORTS:
            found += _read_status(part.data)
    return (found or _read_letter(message))[:MAX_REPORTS]


def bounce_of(content: bytes, recipient: str) -> tuple[bool, str, str] | None:
    """What a mail that came to the bounce address of a message to `recipient` says of it: (permanent, status, text).

    None where it says nothing of a failure or a delay. Where a report names none but others, it is believed all the same: who
    forwards its mail has its reports speak of the address behind. An unclear one is not permanent.
    """
    reports = parse_report(content)
    key = _key(recipient)
    own = [report for report in reports if key in (_key(report.recipient), _key(report.original))] or reports
    for action in ("failed", "delayed", "unknown"):
        for report in own:
            if report.action == action:
                return action == "failed", report.status, report.text
    return None


def names(content: bytes, recipient: str) -> bool:
    """Whether a report names that recipient, as the reporting host knows it or as it was given to it."""
    key = _key(recipient)
    if any(key in (_key(report.recipient), _key(report.original)) for report in parse_report(content)):
        return True
    fields = _feedback(content)
    return fields is not None and any(_key(_bare(value)) == key for value in fields.all("Original-Rcpt-To"))


def shows(content: bytes, mark: str) -> bool:
    """Whether what a report brings along, its own header aside, holds a text of what was sent."""
    message = Message(content[:MAX_MAIL])
    wanted = mark.casefold().encode()
    own = message.raw[len(split_section(message.raw)) :]
    if wanted in own.lower():
        return True
    return any(wanted in part.data[:MAX_MAIL].lower() for part in message.attachments)  # base64, quoted-printable


def complaint_of(content: bytes) -> str:
    """What kind of complaint a feedback report (RFC 5965) brings: "abuse", "fraud" ...; "" for any other mail."""
    fields = _feedback(content)
    if fields is None:
        return ""
    kind = _line(fields.get("Feedback-Type")).casefold()[:40]
    return "" if kind == "not-spam" else kind or "abuse"


def _feedback(content: bytes) -> Headers | None:
    """The fields of a feedback report."""
    for part in Message(content[:MAX_MAIL]).attachments:
        if part.content_type == "message/feedback-report":
            text = part.data[:MAX_MAIL].replace(b"\r\n", b"\n").strip(b"\n")
            return Headers.parse(text + b"\n\n")
    return None


def _read_status(data: bytes) -> list[Report]:
    """The recipients of a message/delivery-status part: groups of fields, of which the first speaks of the message."""
    text = data[:MAX_MAIL].decode("utf-8", "replace").replace("\r\n", "\n").replace("\r", "\n")
    found: list[Report] = []
    for group in _BLANK_LINE.split(text.strip("\n") + "\n"):
        if len(found) >= MAX_REPORTS:
            break
        fields = Headers.parse(group.strip("\n").encode() + b"\n\n")
        # Some systems leave out the blank line behind the fields of the message.
        if "Final-Recipient" in fields or ("Original-Recipient" in fields and "Action" in fields):
            found.append(_recipient(fields))
    return found


def _recipient(fields: Headers) -> Report:
    _, original = _typed(fields.get("Original-Recipient"))
    kind, final = _typed(fields.get("Final-Recipient"))
    if kind.startswith("utf-8"):
        final = _EMBEDDED.sub(_embedded, final)
    word = fields.get("Action")[:100].partition("(")[0].strip().casefold()
    status = _STATUS.search(fields.get("Status")[:100])
    diagnostic = fields.get("Diagnostic-Code")[:_MAX_VALUE]
    said = _typed(diagnostic)[1] if ";" in diagnostic[:40] else diagnostic
    code = _normal(status) if status else _status_in(said)
    return Report(
        recipient=_bare(final) or _bare(original),
        action=_ACTIONS.get(word) or _action_of(code),
        status=code,
        text=_line(said) or _line(fields.get("Status")) or "no reason was given",
        original=_bare(original),
    )


def _read_letter(message: Message) -> list[Report]:
    """The best that can be made of a bounce that only people were meant to read."""
    headers = message.headers
    failed = [_bare(one) for one in headers.get("X-Failed-Recipients")[:_MAX_VALUE].split(",")]  # Exim
    sender = decode_text(headers.get("From")[:_MAX_VALUE])
    prose = message.text[:_MAX_PROSE]
    if not (any(failed) or _MAIL_SYSTEM.search(sender) or _QMAIL.match(prose)):
        return []
    if any(part.content_type == "message/disposition-notification" for part in message.attachments):
        return []  # somebody has read it, or not (RFC 8098)
    prose, _, _ = prose.partition("\n--- Below this line")  # qmail: the returned mail follows
    general = f"{headers.text('Subject')[:500]}\n{prose}"
    action: Action = "delayed" if _DELAYED.search(general) else "failed" if _FAILED.search(general) else "unknown"
    if failed := [one for one in failed if "@" in one]:
        action = "failed"
    found = []
    for recipient in dict.fromkeys(failed or _named(prose)):
        paragraph = _paragraph(prose, recipient)
        code = _status_in(paragraph)
        if action == "unknown" and not code:
            continue  # an address in a letter that says nothing of it
        one = action if action != "unknown" else _action_of(code)
        found.append(Report(recipient, one, code, _line(paragraph) or "no reason was given"))
    return found[:MAX_REPORTS]


def _named(prose: str) -> list[str]:
    """The addresses that stand at the beginning of a line, as recipients do in each of the old formats; in `<>` or bare."""
    found = []
    for line in prose.split("\n"):
        text = line[:400].strip(" \t<>*-\u2022")
        match = _ADDRESS.match(text)
        if match and match[0].isprintable() and _key(match[0]):
            found.append(match[0].rstrip("."))
            if len(found) >= MAX_REPORTS:
                break
    return found


def _paragraph(prose: str, recipient: str) -> str:
    """What stands about a recipient: from its line on, to the next empty line that follows a reason."""
    at = prose.casefold().find(recipient.casefold())
    if at < 0:
        return ""
    kept: list[str] = []
    for line in prose[at : at + 2000].split("\n")[:_MAX_LINES]:
        if not line.strip() and len(kept) > 1:
            break
        if line.strip():
            kept.append(line.strip())
    reason = kept[1:] if len(kept) > 1 else [kept[0][len(recipient) :]] if kept else []
    return " ".join(reason).strip(" >:")


def _status_in(text: str) -> str:
    """The enhanced code in a reply, or what its three digits come to; "" where there is neither."""
    text = text[:_MAX_VALUE]
    if match := _STATUS.search(text):
        return _normal(match)
    return f"{match[1]}.0.0" if (match := _CODE.search(text)) else ""


def _normal(match: re.Match[str]) -> str:
    return f"{match[1]}.{int(match[2])}.{int(match[3])}"


def _action_of(status: str) -> Action:
    """What a status alone comes to: a class says whether it is final (RFC 3463 3.1), nothing else does."""
    return {"5": "failed", "4": "delayed", "2": "delivered"}.get(status[:1], "unknown")  # type: ignore[return-value]


def _typed(value: str) -> tuple[str, str]:
    """`rfc822; ann@example.org` as its type and its text; some leave the type out."""
    kind, semicolon, text = value[:_MAX_VALUE].partition(";")
    return (kind.strip().casefold(), text.strip()) if semicolon else ("", kind.strip())


def _bare(text: str) -> str:
    """An address without brackets and blanks, on one line."""
    return _printable(text[:400]).strip(" <>")[:320]


def _line(text: str) -> str:
    return " ".join(_printable(text[:_MAX_VALUE]).split())[:MAX_TEXT]


def _printable(text: str) -> str:
    """The text without anything that a terminal obeys or that turns its direction."""
    return text if text.isprintable() else "".join([char if char.isprintable() else " " for char in text])


def _embedded(match: re.Match[str]) -> str:
    number = int(match[1], 16)
    return chr(number) if 32 < number < 0xD800 or 0xDFFF < number < 0x110000 else "\ufffd"


def _key(text: str) -> str:
    """What two spellings of one mailbox share; "" for what is none."""
    try:
        return parse(text).key
    except AddressError:
        return ""

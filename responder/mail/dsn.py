"""The delivery status notification: what could not be delivered, or was (RFC 3464, RFC 3461 6, RFC 6522, RFC 6533).

All of it is 7-bit, apart from From and To where `write.needs_smtputf8(postmaster, to)`. Texts of remote hosts are quoted, never
trusted: they come out as one line each, cut, and can neither add a field nor end a part.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import fill
from typing import Literal

from responder.mail.address import Address
from responder.mail.envelope import embed, from_xtext
from responder.mail.headers import Headers, split_section
from responder.mail.part import Part, multipart, text_part
from responder.mail.replies import Reason
from responder.mail.thread import fold_references, message_ids, reply_references
from responder.mail.wording import MEANS
from responder.mail.write import format_date, line_text, mailbox_field, plain_field, well_formed

MAX_DIAGNOSTIC = 500
"""Characters of a remote host's reply that are passed on; some hosts send pages."""

MAX_SECTION = 16384
"""Octets of the original's header section that are sent back: enough to recognise it, and no mail grows by bouncing."""

MAX_RETURNED = 262144
"""Octets of a mail that is sent back whole where its sender asks for that (RET=FULL); of a larger one the header section."""

_FAILED = re.compile(r"[45]\.\d{1,3}\.\d{1,3}", re.ASCII)  # RFC 3463 2; class 2 is no failure
_DELAYED = re.compile(r"4\.\d{1,3}\.\d{1,3}", re.ASCII)
_SUCCEEDED = re.compile(r"2\.\d{1,3}\.\d{1,3}", re.ASCII)
_HOST = re.compile(r"[!-~]{1,255}")
_FIELD_END = re.compile(rb"\n(?![ \t])")


@dataclass(frozen=True, slots=True)
class ReportedRecipient:
    """One recipient, and what became of it (RFC 3464 2.3.3): "failed" is given up, "delayed" is tried on until `retry_until`
    (unix seconds), "relayed" is in the hands of a host that won't tell of it.

    `orcpt` is what its sender called it (RFC 3461 4.2), "" where that is not known. `status` is the enhanced code
    (RFC 3463) or "", `diagnostic` what `remote_mta` said, or our own words where that is ""; `last_attempt` is in
    unix seconds, None where there was none. `reason` brings words that anybody understands.
    """

    address: Address
    status: str = ""
    diagnostic: str = ""
    remote_mta: str = ""
    last_attempt: float | None = None
    action: Literal["failed", "delayed", "delivered", "relayed"] = "failed"
    orcpt: str = ""
    reason: Reason = Reason.UNKNOWN
    retry_until: float | None = None


def compose_dsn(
    *,
    reporting_mta: str,
    postmaster: Address,
    to: Address,
    recipients: Sequence[ReportedRecipient],
    original: bytes,
    arrival: float,
    now: float,
    message_id: str,
    envid: str = "",
    ret: str = "",
) -> bytes:
    """The whole notification, lines ended by CRLF; it leaves with the null reverse-path.

    `reporting_mta` is our hostname, `to` the reverse-path of the mail that it tells of, `original` that mail, or at
    least its header section; `arrival` and `now` are in unix seconds; `envid` and `ret` are what the mail came with
    (RFC 3461 4.3, 4.4). Never fails on what `original` and `recipients` hold.
    Raises `ValueError` where `recipients` is empty, `message_id` is none, or an address has control characters.
    """
    if not recipients:
        raise ValueError("no recipient")
    if message_ids(message_id) != [message_id]:
        raise ValueError("not a Message-ID")
    in_reply_to, references = reply_references(Headers.parse(original))
    failed = any(recipient.action == "failed" for recipient in recipients)
    whole = failed and ret == "FULL" and len(original) <= MAX_RETURNED  # RFC 3461 4.3: of a success never
    parts = [
        text_part(_words(reporting_mta, recipients, arrival, whole=whole)),
        _status_part(reporting_mta, recipients, arrival, envid),
        _whole_part(original) if whole else _header_part(original),
    ]
    report = multipart("report", parts, message_id, " report-type=delivery-status;")
    if not parts[-1].body.isascii():  # RFC 2045 6.4: no less than what is in it
        report = Part(report.fields.replace("Encoding: 7bit", "Encoding: 8bit"), report.body)
    fields = [
        f"Date: {format_date(now)}\r\n",
        mailbox_field("From", "Mail Delivery System", postmaster),
        mailbox_field("To", "", to),
        f"Subject: {_SUBJECTS[_gravest(recipients)]}\r\n",
        f"Message-ID: {message_id}\r\n",
        f"In-Reply-To: {in_reply_to}\r\n" if in_reply_to else "",
        fold_references(references),
        "Auto-Submitted: auto-replied\r\n",  # RFC 3834 5, RFC 5436 2.7.1
        "X-Auto-Response-Suppress: All\r\n",
        "MIME-Version: 1.0\r\n",
        report.fields,
    ]
    return "".join(fields).encode() + b"\r\n" + report.body


_SUBJECTS = {
    "failed": "Undelivered mail returned to sender",
    "delayed": "Delayed mail (still being tried)",
    "relayed": "Your mail has arrived",
    "delivered": "Your mail has arrived",
}
_BECAME = {
    "failed": "was not delivered to:",
    "delayed": "could not be delivered yet to:",
    "delivered": "was delivered to:",
    "relayed": "was passed on, to a host that will not say what becomes of it, for:",
}


def _gravest(recipients: Sequence[ReportedRecipient]) -> str:
    """What the report is about, where its recipients fared differently."""
    actions = {recipient.action for recipient in recipients}
    return next(action for action in _SUBJECTS if action in actions)


def _words(reporting_mta: str, recipients: Sequence[ReportedRecipient], arrival: float, *, whole: bool) -> str:
    """The notification for people."""
    blocks = [f"This is the mail system at {reporting_mta}."]
    for action, became in _BECAME.items():
        those = [recipient for recipient in recipients if recipient.action == action]
        if those:
            blocks.append(_fill(f"The message that came in on {format_date(arrival)} {became}", ""))
        blocks += ["\n".join([f"  <{line_text(str(one.address), 320)}>", *_why(one)]) for one in those]
    gravest = _gravest(recipients)
    until = max((recipient.retry_until or 0.0 for recipient in recipients), default=0.0)
    again = ""
    if gravest == "failed":
        again = "It will not be tried again. "
    elif gravest == "delayed":
        again = f"It is tried on{f' until {format_date(until)}' if until else ''}. You need not send it again. "
    blocks.append(f"{again}{'The message' if whole else 'The header of the message'} follows.")
    return "\n\n".join(blocks) + "\n"


def _why(recipient: ReportedRecipient) -> list[str]:
    """What it means, and what the host said, as filled paragraphs."""
    trouble = recipient.action in ("failed", "delayed")
    said = line_text(recipient.diagnostic, MAX_DIAGNOSTIC)
    means = MEANS[recipient.reason] if trouble else ""
    if trouble and not means:
        said = said or "no reason was given"
    if said and (host := _host(recipient.remote_mta)):
        said = f"the host {host} said: {said}"
    return [_fill(text, "    ") for text in (means, said) if text]


def _status_part(reporting_mta: str, recipients: Sequence[ReportedRecipient], arrival: float, envid: str) -> Part:
    """The notification for programs: message/delivery-status, RFC 3464 2."""
    lines = [plain_field("Original-Envelope-Id", from_xtext(envid))] if envid else []
    lines += [plain_field("Reporting-MTA", f"dns; {reporting_mta}"), f"Arrival-Date: {format_date(arrival)}\r\n"]
    for recipient in recipients:
        lines.append("\r\n")
        if recipient.orcpt:  # RFC 3461 6.3: as it was, but for the coding
            kind, _, name = recipient.orcpt.partition(";")
            lines.append(plain_field("Original-Recipient", f"{kind};{from_xtext(name)}"))
        lines += [
            _final_recipient(recipient.address),
            f"Action: {recipient.action}\r\nStatus: {_status(recipient)}\r\n",
        ]
        host = _host(recipient.remote_mta)
        if host:
            lines.append(plain_field("Remote-MTA", f"dns; {host}"))
        if diagnostic := line_text(recipient.diagnostic, MAX_DIAGNOSTIC):
            # RFC 3464 2.3.6: the type "smtp" is for replies; what no host said is of a type of our own.
            lines.append(plain_field("Diagnostic-Code", f"{'smtp' if host else 'x-responder'}; {diagnostic}"))
        if recipient.last_attempt is not None:
            lines.append(f"Last-Attempt-Date: {format_date(recipient.last_attempt)}\r\n")
        if recipient.action == "delayed" and recipient.retry_until is not None:  # RFC 3464 2.3.8
            lines.append(f"Will-Retry-Until: {format_date(recipient.retry_until)}\r\n")
    fields = "Content-Type: message/delivery-status\r\nContent-Transfer-Encoding: 7bit\r\n"
    return Part(fields, "".join(lines).encode("ascii"))


def _final_recipient(address: Address) -> str:
    """RFC 3464 2.3.2; an address that is not ASCII in the 7-bit form of RFC 6533 3, so that any host can take the report."""
    text = well_formed(str(address))
    if text.isascii():
        return plain_field("Final-Recipient", f"rfc822; {text}")
    return plain_field("Final-Recipient", f"utf-8; {embed(text)}")


def _status(recipient: ReportedRecipient) -> str:
    if recipient.action == "failed":
        return recipient.status if _FAILED.fullmatch(recipient.status) else "5.0.0"
    if recipient.action == "delayed":
        return recipient.status if _DELAYED.fullmatch(recipient.status) else "4.0.0"
    return recipient.status if _SUCCEEDED.fullmatch(recipient.status) else "2.0.0"


def _whole_part(original: bytes) -> Part:
    """The mail itself (RFC 6522 3; RFC 6532 3.7 where its header is not ASCII)."""
    kind = "rfc822" if split_section(original).isascii() else "global"
    coding = "7bit" if original.isascii() else "8bit"
    return Part(f"Content-Type: message/{kind}\r\nContent-Transfer-Encoding: {coding}\r\n", original)


def _header_part(original: bytes) -> Part:
    """The header section of the mail that failed (RFC 6522 4), cut behind a field where it is too long."""
    section = split_section(original)
    if len(section) > MAX_SECTION:
        ends = [match.end() for match in _FIELD_END.finditer(section, 0, MAX_SECTION)]
        section = section[: ends[-1] if ends else MAX_SECTION]
    return text_part(section.decode("utf-8", "replace"), "text/rfc822-headers")


def _host(name: str) -> str:
    """The name, if it can be one that a report shows."""
    return name if _HOST.fullmatch(name) else ""


def _fill(text: str, indent: str) -> str:
    return fill(
        text, 76, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False, break_long_words=False
    )

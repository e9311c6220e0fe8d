"""The `Received` field that every host adds on top (RFC 5321 4.4)."""

from __future__ import annotations

from responder.mail.write import format_date


def received(
    *,
    helo: str,
    peer: str,
    hostname: str,
    protocol: str,
    mail_id: str,
    recipient: str,
    date: float,
    tls: str = "",
) -> bytes:
    """The trace field, CRLF at its end. `recipient` is "" where there are several: one must not learn of the other
    (RFC 5321 7.6). `helo` is printable ASCII without spaces; what could break the comment syntax is taken out of it.
    `tls` is protocol and cipher of an encrypted connection."""
    name = "".join([char for char in helo if char not in '()<>"\\;']) or "unknown"
    literal = f"IPv6:{peer}" if ":" in peer else peer
    origin = f"{name} ([{literal}])" if peer else f"{name} (local socket)"
    encrypted = f" ({tls})" if tls else ""
    lines = [f"Received: from {origin}", f"\tby {hostname} with {protocol}{encrypted} id {mail_id}"]
    lines.append(f"\tfor <{recipient}>; {format_date(date)}" if recipient else f"\t; {format_date(date)}")
    return "\r\n".join(lines).encode() + b"\r\n"

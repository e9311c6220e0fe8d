"""The parameters of MAIL, as a session takes them (RFC 1870, 3030, 3461, 4954 5, 6152, 6531, 8689). Pure."""

from __future__ import annotations

from responder.inbound import replies
from responder.inbound.replies import Reply
from responder.inbound.roles import Parameters
from responder.mail.envelope import EnvelopeError, is_xtext, parse_envid

BODIES = ("7BIT", "8BITMIME", "BINARYMIME")
PLAIN = Parameters()
"""What a MAIL without any said. Never changed."""


def mail_parameters(
    given: dict[str, str | None], limit: int, *, login: bool, secure: bool = False
) -> tuple[Parameters, bool] | Reply:
    """What MAIL said beside its path, and whether with SMTPUTF8; or why it is refused. `limit` is in octets, `login` whether
    clients may log in here, `secure` whether REQUIRETLS is offered."""
    body, ret, envid, utf8, size, requiretls = "7BIT", "", "", False, 0, False
    for name, value in given.items():
        if name == "SIZE":
            if value is None or not (value.isascii() and value.isdigit() and len(value) <= 20):  # RFC 1870 3
                return replies.BAD_ARGUMENT
            size = int(value)
            if size > limit:
                return replies.TOO_BIG
        elif name == "SMTPUTF8":
            if value is not None:  # RFC 6531 3.1 (6)
                return replies.BAD_ARGUMENT
            utf8 = True
        elif name == "BODY":
            body = _word(value)
            if body not in BODIES:
                return replies.BAD_ARGUMENT
        elif name == "RET":
            ret = _word(value)
            if ret not in ("FULL", "HDRS"):  # RFC 3461 4.3
                return replies.BAD_ARGUMENT
        elif name == "ENVID":
            try:
                envid = parse_envid(value or "")
            except EnvelopeError:
                return replies.BAD_ARGUMENT
        elif name == "REQUIRETLS" and secure:
            if value is not None:  # RFC 8689 2
                return replies.BAD_ARGUMENT
            requiretls = True
        elif name == "AUTH" and login:  # RFC 4954 5: whom another server vouches for. We believe ourselves alone
            if not value or (value != "<>" and not is_xtext(value)):
                return replies.BAD_ARGUMENT
        else:
            return replies.BAD_PARAMETER
    return Parameters(body, ret, envid, size, requiretls), utf8


def _word(value: str | None) -> str:
    """A value in capitals; "" for what is none of ours: there are other letters whose capitals are ASCII."""
    return value.upper() if value and value.isascii() else ""

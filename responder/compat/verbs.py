"""The verbs of an old channel, and what each says: on the attributes that a program may set, in the words that it may compare."""

from __future__ import annotations

from collections import defaultdict

from responder.compat.dispatcher import Dispatcher
from responder.mail.address import AddressError, parse
from responder.mail.envelope import EnvelopeError, split_path

# ruff: noqa: N802, N815 - the names are the old module's

COMMANDS = "EHLO HELO MAIL RCPT DATA RSET NOOP QUIT VRFY"
PARAMETERS = " [SP <mail-parameters>]"
SYNTAX = {
    "EHLO": "EHLO hostname",
    "HELO": "HELO hostname",
    "MAIL": "MAIL FROM: <address>",
    "RCPT": "RCPT TO: <address>",
    "DATA": "DATA",
    "RSET": "RSET",
    "NOOP": "NOOP",
    "QUIT": "QUIT",
    "VRFY": "VRFY <address>",
}


def debug(*words: object) -> None:
    """A line on `smtpd.DEBUGSTREAM`."""
    from responder.compat import smtpd  # a program may set it at any time

    if not isinstance(smtpd.DEBUGSTREAM, smtpd.Devnull):
        print(*words, file=smtpd.DEBUGSTREAM)


class Verbs(Dispatcher):
    """The commands of `SMTPChannel`. Each pushes its reply; `arg` is what stands behind the verb, None where no space does."""

    mailfrom: str | None
    rcpttos: list[str]
    mail_options: list[str]
    rcpt_options: list[str]
    seen_greeting: str
    extended_smtp: bool
    require_SMTPUTF8: bool
    enable_SMTPUTF8: bool
    data_size_limit: int | None
    command_size_limits: defaultdict[str, int]
    smtp_state: object
    fqdn: str
    DATA = 1
    _decode_data: bool

    def push(self, msg: str) -> None:
        """Send a reply."""
        raise NotImplementedError

    def close_when_done(self) -> None:
        """Close behind it."""
        raise NotImplementedError

    def _set_rset_state(self) -> None:
        raise NotImplementedError

    def _syntax(self, verb: str) -> str:
        return SYNTAX[verb] + (PARAMETERS if self.extended_smtp and verb in ("MAIL", "RCPT") else "")

    def _hello(self, verb: str, arg: str | None) -> bool:
        if not arg:
            self.push(f"501 Syntax: {SYNTAX[verb]}")
        elif self.seen_greeting:
            self.push("503 Duplicate HELO/EHLO")
        else:
            self._set_rset_state()
            self.seen_greeting = arg
            return True
        return False

    def smtp_HELO(self, arg: str | None) -> None:
        if self._hello("HELO", arg):
            self.push(f"250 {self.fqdn}")

    def smtp_EHLO(self, arg: str | None) -> None:
        if not self._hello("EHLO", arg):
            return
        self.extended_smtp = True
        self.push(f"250-{self.fqdn}")
        if self.data_size_limit:
            self.push(f"250-SIZE {self.data_size_limit}")
            self.command_size_limits["MAIL"] += 26  # RFC 1870 3
        if not self._decode_data:
            self.push("250-8BITMIME")
        if self.enable_SMTPUTF8:
            self.push("250-SMTPUTF8")
            self.command_size_limits["MAIL"] += 10  # RFC 6531 3.4
        self.push("250 HELP")

    def smtp_NOOP(self, arg: str | None) -> None:
        self.push("501 Syntax: NOOP" if arg else "250 OK")

    def smtp_QUIT(self, arg: str | None) -> None:
        self.push("221 Bye")
        self.close_when_done()

    def smtp_HELP(self, arg: str | None) -> None:
        if not arg:
            self.push(f"250 Supported commands: {COMMANDS}")
        elif arg.upper() in SYNTAX:
            self.push(f"250 Syntax: {self._syntax(arg.upper())}")
        else:
            self.push(f"501 Supported commands: {COMMANDS}")

    def smtp_VRFY(self, arg: str | None) -> None:
        if not arg:
            self.push(f"501 Syntax: {SYNTAX['VRFY']}")
        elif _path("TO", f"TO:{arg}"):
            self.push("252 Cannot VRFY user, but will accept message and attempt delivery")
        else:
            self.push(f"502 Could not VRFY {arg}")

    def smtp_MAIL(self, arg: str | None) -> None:
        if not self.seen_greeting:
            self.push("503 Error: send HELO first")
            return
        debug("===> MAIL", arg)
        found = _path("FROM", arg)
        if found is None or (found[1] and not self.extended_smtp):
            self.push(f"501 Syntax: {self._syntax('MAIL')}")
            return
        if self.mailfrom:
            self.push("503 Error: nested MAIL command")
            return
        address, parameters = found
        self.mail_options = _words(parameters)
        refusal = self._parameters(dict(parameters), address)
        if refusal:
            self.push(refusal)
            return
        self.mailfrom = address or "<>"  # RFC 5321 4.5.5: the null reverse-path, as the old module wrote it
        debug("sender:", self.mailfrom)
        self.push("250 OK")

    def _parameters(self, left: dict[str, str | None], address: str) -> str | None:
        """Take the parameters of MAIL in (RFC 1870, 6152, 6531); a reply where one of them is wrong."""
        self.require_SMTPUTF8 = False
        if not self._decode_data and (left.pop("BODY", "7BIT") or "").upper() not in ("7BIT", "8BITMIME"):
            return "501 Error: BODY can only be one of 7BIT, 8BITMIME"
        if self.enable_SMTPUTF8 and "SMTPUTF8" in left:
            if left.pop("SMTPUTF8") is not None:
                return "501 Error: SMTPUTF8 takes no arguments"
            self.require_SMTPUTF8 = True
        size = left.pop("SIZE", "0") or ""
        if not (size.isascii() and size.isdigit() and len(size) <= 20):
            return f"501 Syntax: {self._syntax('MAIL')}"
        if self.data_size_limit and int(size) > self.data_size_limit:
            return "552 Error: message size exceeds fixed maximum message size"
        if left:
            return "555 MAIL FROM parameters not recognized or not implemented"
        return None if address.isascii() or self.require_SMTPUTF8 else "553 Error: this address needs SMTPUTF8"

    def smtp_RCPT(self, arg: str | None) -> None:
        if not self.seen_greeting:
            self.push("503 Error: send HELO first")
            return
        debug("===> RCPT", arg)
        if not self.mailfrom:
            self.push("503 Error: need MAIL command")
            return
        found = _path("TO", arg)
        if found is None or not found[0] or (found[1] and not self.extended_smtp):
            self.push(f"501 Syntax: {self._syntax('RCPT')}")
            return
        address, parameters = found
        self.rcpt_options = _words(parameters)
        if parameters:
            self.push("555 RCPT TO parameters not recognized or not implemented")
        elif not address.isascii() and not self.require_SMTPUTF8:
            self.push("553 Error: this address needs SMTPUTF8")
        else:
            self.rcpttos.append(address)
            debug("recips:", self.rcpttos)
            self.push("250 OK")

    def smtp_RSET(self, arg: str | None) -> None:
        if arg:
            self.push("501 Syntax: RSET")
            return
        self._set_rset_state()
        self.push("250 OK")

    def smtp_DATA(self, arg: str | None) -> None:
        if not self.seen_greeting:
            self.push("503 Error: send HELO first")
        elif not self.rcpttos:
            self.push("503 Error: need RCPT command")
        elif arg:
            self.push("501 Syntax: DATA")
        else:
            self.smtp_state = self.DATA
            self.push("354 End data with <CR><LF>.<CR><LF>")

    def smtp_EXPN(self, arg: str | None) -> None:
        self.push("502 EXPN not implemented")


def _path(keyword: str, arg: str | None) -> tuple[str, dict[str, str | None]] | None:
    """The address as the client wrote it and the parameters; None where the grammar does not hold. A local part may stand
    alone, as in mail to `root`."""
    try:
        address, parameters = split_path(keyword, arg or "")
        if address:
            parse(address if "@" in address else f"{address}@localhost")
    except (EnvelopeError, AddressError):
        return None
    return address, parameters


def _words(parameters: dict[str, str | None]) -> list[str]:
    return [name if value is None else f"{name}={value}".upper() for name, value in parameters.items()]

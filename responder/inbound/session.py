"""The verbs of SMTP (RFC 5321 4.1) beside those of a transaction, and of LMTP (RFC 2033)."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

from aiosmtpd.smtp import syntax

from responder.inbound import replies
from responder.inbound.replies import Reply
from responder.inbound.transaction import Transactions

MAX_HELLO = 255  # characters behind EHLO: the length of a domain (RFC 5321 4.5.3.1.2)


class Session(Transactions):
    """One SMTP session."""

    @syntax("HELO hostname")
    def smtp_HELO(self, argument: str) -> Reply | Awaitable[Reply | None] | None:
        return self._hello(argument, extended=False)

    @syntax("EHLO hostname")
    def smtp_EHLO(self, argument: str) -> Reply | Awaitable[Reply | None] | None:
        return self._hello(argument, extended=True)

    @syntax("LHLO hostname")
    def smtp_LHLO(self, argument: str) -> Reply | Awaitable[Reply | None] | None:
        return self._hello(argument, extended=True) if self.profile.lmtp else replies.UNKNOWN_COMMAND

    def _hello(self, name: str, extended: bool) -> Reply | Awaitable[Reply | None] | None:
        if not _is_hello_name(name):
            return replies.NEED_HELLO_NAME
        found = self._handler.hello(self, name)
        if found is None:
            return self._greeted(name, extended)
        return found if isinstance(found, Reply) else self._hello_later(found, name, extended)

    async def _hello_later(self, found: Awaitable[Reply | None], name: str, extended: bool) -> Reply | None:
        return await found or self._greeted(name, extended)

    def _greeted(self, name: str, extended: bool) -> Reply | None:
        self.session.host_name = name
        self.session.extended_smtp = extended
        self._reset()  # RFC 5321 4.1.4: EHLO and HELO clear the transaction
        if not extended:
            return Reply(250, "", self.profile.hostname)
        self._out.append(self.profile.ehlo(secure=bool(self.tls), known=bool(self.user)))
        return None

    @syntax("STARTTLS")
    def smtp_STARTTLS(self, argument: str) -> Reply | Awaitable[Reply | None] | None:
        if argument:
            return replies.NO_ARGUMENT
        if self.tls:
            return replies.TLS_ALREADY
        if self.profile.certificate is None:
            return replies.NOT_IMPLEMENTED
        if not self.session.host_name:
            return replies.HELLO_FIRST
        self._flush()
        self._reset()
        return self._encrypt(self.profile.dialect.line(replies.READY_FOR_TLS))

    @syntax("NOOP [ignored]")
    def smtp_NOOP(self, argument: str) -> Reply:
        return replies.NOOP

    @syntax("VRFY <address>")
    def smtp_VRFY(self, argument: str) -> Reply:
        return replies.VERIFY if argument else replies.NO_ADDRESS  # RFC 5321 3.5.3, 7.3: names nobody

    @syntax("HELP [command]")
    def smtp_HELP(self, argument: str) -> Reply:
        name = self._verbs.get(argument.upper().encode()) if argument else None
        if name is not None:
            method = getattr(self, name)
            text = method.__smtp_syntax__ + ((self.session.extended_smtp and method.__smtp_syntax_extended__) or "")
            return Reply(214, "2.0.0", f"Syntax: {text}")
        if argument:
            return Reply(504, "5.5.4", "No help for that")
        return Reply(214, "2.0.0", "Commands: " + " ".join(verb.decode() for verb in sorted(self._verbs)))

    @syntax("QUIT")
    def smtp_QUIT(self, argument: str) -> Reply:
        if argument:
            return replies.NO_ARGUMENT
        self._closing = True
        return replies.BYE

    def smtp_EXPN(self, argument: str) -> Reply:  # type: ignore[override]  # aiosmtpd annotates this one alone
        return replies.NOT_IMPLEMENTED


def _is_hello_name(text: str) -> bool:
    """Something that may stand behind EHLO. RFC 5321 4.1.4: a name that is not the client's own is no reason to refuse."""
    return 0 < len(text) <= MAX_HELLO and text.isascii() and " " not in text


def _verbs(*classes: type[Any]) -> dict[bytes, str]:
    """The commands of these classes, found once. Only those written here: aiosmtpd's own are coroutines of its loop."""
    return {
        name.removeprefix("smtp_").encode(): name for cls in classes for name in vars(cls) if name.startswith("smtp_")
    }


Session._verbs = _verbs(Session, Transactions)

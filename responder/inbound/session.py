"""The verbs of SMTP (RFC 5321 4.1) beside those of a transaction, and of LMTP (RFC 2033)."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Awaitable
from functools import partial
from typing import TYPE_CHECKING, Any

from aiosmtpd.smtp import syntax

from responder.inbound import replies
from responder.inbound.bdat import Chunks
from responder.inbound.login.sasl import Claim, Mechanism, SASLError, decode64
from responder.inbound.replies import Reply
from responder.inbound.transaction import Transactions

if TYPE_CHECKING:
    from responder.inbound.roles import Login

LONGEST_WAIT = 16.0
"""Seconds that the reply to a failed login is held back at the most: the first waits one, and each further one twice as long."""

MAX_HELLO = 255  # characters behind EHLO: the length of a domain (RFC 5321 4.5.3.1.2)


class Session(Chunks):
    """One SMTP session."""

    _failed_logins = 0

    @syntax("HELO hostname")
    def smtp_HELO(self, argument: str) -> Reply | Awaitable[Reply | None] | None:
        return replies.NEED_LHLO if self.profile.lmtp else self._hello(argument, extended=False)  # RFC 2033 4.1

    @syntax("EHLO hostname")
    def smtp_EHLO(self, argument: str) -> Reply | Awaitable[Reply | None] | None:
        return replies.NEED_LHLO if self.profile.lmtp else self._hello(argument, extended=True)

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
            return replies.hello(self.profile.hostname)
        self._out.append(self.profile.ehlo(self, secure=bool(self.tls), known=bool(self.user)))
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
        return self._encrypt(self.profile.words.line(replies.READY_FOR_TLS, self))

    # -- who logs in (RFC 4954) -----------------------------------------------------------------------------------------

    @syntax("AUTH mechanism [initial-response]")
    def smtp_AUTH(self, argument: str) -> Reply | Awaitable[Reply | None]:
        self.said = b"AUTH"  # nothing that follows is kept
        login = self.profile.login
        if login is None:
            return replies.NOT_IMPLEMENTED
        if not self.session.extended_smtp:
            return replies.HELLO_FIRST
        if self.user:
            return replies.LOGIN_ALREADY
        if self.envelope.mail_from is not None:
            return replies.LOGIN_IN_MAIL
        if not self.tls:
            return replies.LOGIN_NEEDS_TLS
        name, _, initial = argument.partition(" ")
        if not name or " " in initial:
            return replies.BAD_ARGUMENT
        mechanism = login.begin(self, name.upper())
        if isinstance(mechanism, Reply):
            return mechanism
        if not initial:
            return self._ask(login, mechanism, None)
        return self._answered_login(login, mechanism, b"" if initial == "=" else initial.encode())

    def _answered_login(self, login: Login, mechanism: Mechanism, line: bytes) -> Reply | Awaitable[Reply | None]:
        if line == b"*":
            return replies.LOGIN_ABORTED
        try:
            response = decode64(line)
        except SASLError:
            return replies.LOGIN_BAD
        return self._ask(login, mechanism, response)

    def _ask(self, login: Login, mechanism: Mechanism, response: bytes | None) -> Reply | Awaitable[Reply | None]:
        try:
            found: bytes | Claim | None = mechanism.step(response)
        except SASLError:
            found = None
        if isinstance(found, bytes):
            self._answer_to = partial(self._answered_login, login, mechanism)
            return Reply(334, "", b64encode(found).decode())
        return self._log_in(login, mechanism.name, found)

    async def _log_in(self, login: Login, mechanism: str, claim: Claim | None) -> Reply | None:
        reply = await login.judge(self, mechanism, claim)
        if reply is replies.LOGIN_OK and claim is not None:
            self.user = claim.name
        if reply is not replies.LOGIN_FAILED:
            return reply
        self._failed_logins += 1
        await self._shared.clock.sleep(min(LONGEST_WAIT, 2.0 ** min(self._failed_logins - 1, 64)))
        end = login.refusal(self)
        if end is None:
            return reply
        self._refuse(reply)
        self._give_up(end)
        return None

    # -- the rest -------------------------------------------------------------------------------------------------------

    @syntax("NOOP [ignored]")
    def smtp_NOOP(self, argument: str) -> Reply:
        return replies.NOOP

    @syntax("VRFY <address>")
    def smtp_VRFY(self, argument: str) -> Reply:
        return replies.VERIFY if argument else replies.NO_ADDRESS  # RFC 5321 3.5.3, 7.3: names nobody

    @syntax("HELP [command]")
    def smtp_HELP(self, argument: str) -> Reply:
        name = self._verbs.get(argument.upper().encode()) if argument else None
        if name is not None and self._offers(argument.upper()):
            method = getattr(self, name)
            text = method.__smtp_syntax__ + ((self.session.extended_smtp and method.__smtp_syntax_extended__) or "")
            return replies.syntax(text)
        if argument:
            return replies.NO_HELP
        return replies.commands(
            " ".join([verb for verb in map(bytes.decode, sorted(self._verbs)) if self._offers(verb)])
        )

    def _offers(self, verb: str) -> bool:
        """Whether a command would do something here: help for what leads nowhere is none."""
        if verb == "STARTTLS":
            return self.profile.certificate is not None and not self.tls
        if verb == "AUTH":
            return self.profile.login is not None and bool(self.tls)
        if verb in ("HELO", "EHLO", "LHLO"):
            return self.profile.lmtp == (verb == "LHLO")
        return verb != "EXPN"

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


Session._verbs = _verbs(Session, Chunks, Transactions)

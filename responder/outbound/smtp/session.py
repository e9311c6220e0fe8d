"""One SMTP connection to one IP address: one transaction after another.

    greeting (banner, EHLO, STARTTLS) -> ( MAIL -> RCPT... -> DATA -> content -> dot )... -> QUIT

Each reply is judged by `mail.status`; nothing leaves here as an exception but `FailureError` from `connect`, and a cancellation.
Recipients that are too many for one transaction go in the next one, at once. A host that is slow at each step in its own right is
waited for as RFC 5321 4.5.3.2 says; over all steps of one mail it has `Timeouts.whole`.
"""

from __future__ import annotations

import asyncio
import socket
from dataclasses import replace
from typing import Final

from responder.mail.status import Failure, FailureError, RemoteReply, Scope, Trouble, Verb
from responder.outbound.base import Envelope, RecipientResult
from responder.outbound.dial import TIMEOUTS, Timeouts
from responder.outbound.smtp.channel import Channel
from responder.outbound.smtp.greeting import NOT_OFFERED, Greeted, Greeter
from responder.outbound.smtp.transaction import Transaction
from responder.outbound.smtp.wire import addresses, canonical, parameters, wishes
from responder.outbound.tls.security import OPPORTUNISTIC, Insecure, Security

MAX_RECIPIENTS: Final = 100
"""Recipients of one transaction: what every host must take (RFC 5321 4.5.3.1.8)."""

SLOWEST: Final = 1000.0
"""Octets a second that a host must take content by, over all."""


class ClientSession:
    """A connection that has been greeted. Used by one task at a time."""

    def __init__(
        self, greeted: Greeted, host: str, address: str, port: int, timeouts: Timeouts, security: Security
    ) -> None:
        self.host = host
        self.address = address
        self.port = port
        self.security = security
        self.extensions = greeted.extensions
        self.tls = greeted.tls  # the protocol's version; "" in plain text
        self.insecure: Insecure | None = greeted.insecure  # what it lacks of what was asked, or of what the host offers
        self.messages_sent = 0
        self._channel: Channel = greeted.channel
        self._timeouts = timeouts
        self._busy = False  # a transaction has begun and was neither finished nor reset

    @classmethod
    async def connect(
        cls,
        host: str,
        address: str,
        port: int,
        *,
        local_hostname: str,
        source_address: str = "",
        timeouts: Timeouts = TIMEOUTS,
        security: Security = OPPORTUNISTIC,
        sock: socket.socket | None = None,
    ) -> ClientSession:
        """A session with exactly this IP address; `host` is the name it was found by. `sock` is connected to it already, and
        belongs to the session from now on. Raises `FailureError`, and `InsecureError` where the host can't give what `security`
        asks for."""
        greeter = Greeter(host, address, port, local_hostname, source_address, timeouts, security)
        return cls(await greeter.greet(sock), host, address, port, timeouts, security)

    @property
    def reusable(self) -> bool:
        """Whether the next transaction may begin: the host is there, and has said nothing that it was not asked."""
        return not self._busy and self._channel.quiet

    @property
    def tls_failure(self) -> str:
        """Why it is plain text although the host offers TLS; "" where it does not."""
        return "" if self.tls or self.insecure is None or self.insecure is NOT_OFFERED else self.insecure.text

    async def send(self, envelope: Envelope) -> list[RecipientResult]:
        """One result per recipient, in their order."""
        ends: dict[int, Failure | RemoteReply] = {}
        timer = None
        try:
            if envelope.requiretls and not (self.tls and "requiretls" in self.extensions):  # RFC 8689 4.2.1
                raise FailureError(Trouble.NO_REQUIRETLS.failure())
            content = canonical(envelope.content)
            limit = self._timeouts.whole + len(content) / SLOWEST
            timer = asyncio.get_running_loop().call_later(limit, self._channel.expire)
            await self._transact(envelope, content, ends)
        except FailureError as error:
            for n in range(len(envelope.recipients)):
                ends.setdefault(n, error.failure)
        except BaseException:
            self.abort()
            raise
        finally:
            if timer is not None:
                timer.cancel()
        tells = bool(wishes(envelope, self.extensions))
        return [self._result(recipient, ends[n], tells) for n, recipient in enumerate(envelope.recipients)]

    async def close(self) -> None:
        """Say QUIT and hang up. Never raises, and takes a few seconds at most."""
        try:
            if self.reusable:
                self._busy = True
                self._channel.send(b"QUIT\r\n", 1)
                await self._channel.expect(Verb.QUIT, self._timeouts.farewell, 221)
                self._channel.leave()
                return
        except FailureError:
            pass  # the connection is of no use any more, whatever it says
        except BaseException:
            self.abort()
            raise
        self.abort()

    def abort(self) -> None:
        """Hang up at once."""
        self._busy = True  # never again reusable
        self._channel.abort()

    async def _transact(self, envelope: Envelope, content: bytes, ends: dict[int, Failure | RemoteReply]) -> None:
        """How each recipient ends, in as many transactions as the host wants. Raises `FailureError` before anything was said."""
        sender, mailboxes = addresses(envelope, self.extensions, ends)
        if not mailboxes:
            return
        options = parameters(envelope, (sender, *mailboxes.values()), len(content), self.extensions)
        mail = " ".join([f"MAIL FROM:<{sender}>", *options]).encode()
        asked = "".join([f" {wish}" for wish in wishes(envelope, self.extensions)])
        rest = list(mailboxes)
        while rest:
            now, later = rest[:MAX_RECIPIENTS], rest[MAX_RECIPIENTS:]
            transaction = Transaction(
                self._channel,
                self._timeouts,
                mail,
                {n: f"RCPT TO:<{mailboxes[n]}>{asked}".encode() for n in now},
                None if envelope.probe else content,
                self.extensions,
                bool(self.tls_failure),
            )
            self._busy = True
            await transaction.run()
            ends |= transaction.ends
            if transaction.spoilt:
                self.abort()
            elif transaction.taken:
                self.messages_sent += 1
                self._busy = False
            else:
                await self._reset()
            rest = transaction.left + later
            if rest and not self.reusable:
                failure = transaction.failure or Trouble.DROPPED.failure("connection lost between transactions")
                ends |= dict.fromkeys(rest, replace(failure, after_dot=False))
                return

    async def _reset(self) -> None:
        """End the transaction (RFC 5321 4.1.1.5), or hang up where the host does not agree."""
        self._channel.send(b"RSET\r\n", 1)
        try:
            await self._channel.expect(Verb.RSET, self._timeouts.farewell, 250)
            self._busy = False
        except FailureError:
            self.abort()

    def _result(self, recipient: str, end: Failure | RemoteReply, tells: bool) -> RecipientResult:
        failure = end if isinstance(end, Failure) else None
        return RecipientResult(
            recipient,
            end.outcome,
            end.enhanced,
            end.code,
            end.text,
            scope=Scope.RECIPIENT if failure is None else failure.scope,
            host=self.host,
            address=self.address,
            tls=self.tls,
            tls_failure=self.tls_failure,
            after_dot=failure is not None and failure.after_dot,
            tells=tells,
        )

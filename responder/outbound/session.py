"""One SMTP connection to one IP address: dial, greet, encrypt if possible, and then one transaction after another.

    dial -> banner -> EHLO (or HELO) -> STARTTLS -> EHLO -> ( MAIL -> RCPT... -> DATA -> content -> dot )... -> QUIT

TLS is opportunistic (RFC 7435): no certificate is checked, and where the handshake fails the host is dialled once more and
spoken to in plain text. Each reply is judged by `mail.status`; nothing leaves here as an exception but `FailureError` from
`connect`, and a cancellation.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace

import aiosmtplib
from aiosmtplib.protocol import SMTPProtocol

from responder.mail.status import Failure, FailureError, Outcome, RemoteReply, Scope, Trouble, Verb, judge, soften
from responder.outbound.base import Envelope, RecipientResult
from responder.outbound.dial import TIMEOUTS, Timeouts, dial
from responder.outbound.tls.contexts import context_for, examine
from responder.outbound.tls.security import OPPORTUNISTIC, Insecure, InsecureError, Level, Security
from responder.outbound.wire import blocks, canonical, mailbox, parameters, wishes

NOT_OFFERED = Insecure("starttls-not-supported", "the host offers no TLS")


class ClientSession:
    """A connection that has been greeted. Used by one task at a time."""

    def __init__(
        self, smtp: aiosmtplib.SMTP, host: str, address: str, port: int, timeouts: Timeouts, security: Security
    ) -> None:
        self.host = host
        self.address = address
        self.port = port
        self.tls = ""  # the protocol's version; "" in plain text
        self.security = security
        self.insecure: Insecure | None = None  # what it lacks of what was asked, or of what the host offers
        self.messages_sent = 0
        self._smtp = smtp
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
    ) -> ClientSession:
        """A session with exactly this IP address; `host` is the name it was found by. Raises `FailureError`, and `InsecureError`
        where the host can't give what `security` asks for."""

        def new() -> ClientSession:
            smtp = aiosmtplib.SMTP(local_hostname=local_hostname, start_tls=False, timeout=timeouts.command)
            return cls(smtp, host, address, port, timeouts, security)

        session = new()
        try:
            await session._greet(source_address)
            if security.level is Level.OFF:
                return session
            if session._smtp.supports_extension("starttls"):
                why = await session._start_tls()
            else:
                why = NOT_OFFERED
            if why is None:
                return session
            if security.level > Level.OPPORTUNISTIC and not security.testing:
                raise InsecureError(Trouble.INSECURE.failure(why.text), why)
            if why is not NOT_OFFERED:  # RFC 7435: plain text is better than nothing, once
                session.abort()
                session = new()
                await session._greet(source_address)
            session.insecure = why
        except BaseException:
            session.abort()
            raise
        return session

    @property
    def reusable(self) -> bool:
        """Whether the next transaction may begin."""
        return self._smtp.is_connected and not self._busy

    async def send(self, envelope: Envelope) -> list[RecipientResult]:
        """One transaction: one result per recipient, in their order."""
        try:
            ends = await self._transact(envelope)
        except BaseException:
            self.abort()
            raise
        tells = bool(wishes(envelope, self._smtp.esmtp_extensions))
        return [self._result(recipient, end, tells) for recipient, end in zip(envelope.recipients, ends, strict=True)]

    async def close(self) -> None:
        """Say QUIT and hang up. Never raises, and takes a few seconds at most."""
        try:
            if self.reusable:
                await self._smtp.quit(timeout=self._timeouts.farewell)
        except Exception:  # noqa: S110 - the connection is of no use any more, whatever went wrong
            pass
        finally:
            self.abort()

    def abort(self) -> None:
        """Hang up at once."""
        self._busy = True  # never again reusable
        self._smtp.close()

    async def _greet(self, source_address: str) -> None:
        """Connect, read the banner, say EHLO or HELO. Raises `FailureError`."""
        try:
            sock = await dial(self.address, self.port, source_address, self._timeouts.connect)
        except (OSError, ValueError) as error:
            text = "timed out" if isinstance(error, TimeoutError) else getattr(error, "strerror", None) or str(error)
            raise FailureError(Trouble.UNREACHABLE.failure(f"connect to {self.host}: {text}")) from None
        try:
            await self._smtp.connect(sock=sock, timeout=self._timeouts.greeting)
        except Exception as error:
            raise FailureError(_failure(error, Verb.BANNER)) from None
        await self._hello()

    async def _hello(self) -> None:
        try:
            await self._smtp.ehlo(timeout=self._timeouts.command)
            return
        except Exception as error:
            failure = _failure(error, Verb.EHLO)
        if failure.outcome is Outcome.PERMANENT:  # RFC 5321 3.2: a host that refuses EHLO may know HELO
            try:
                await self._smtp.helo(timeout=self._timeouts.command)
                return
            except aiosmtplib.SMTPHeloError as error:
                failure = _failure(error, Verb.HELO)
            except Exception:  # noqa: S110 - it refused EHLO and hung up: the refusal says more
                pass
        raise FailureError(failure)

    @property
    def tls_failure(self) -> str:
        """Why it is plain text although the host offers TLS; "" where it does not."""
        return "" if self.insecure is None or self.insecure is NOT_OFFERED else self.insecure.text

    async def _start_tls(self) -> Insecure | None:
        """Encrypt, and greet again (RFC 3207 4.2). Returns why that failed; the connection is then of no use."""
        name = None if self.host.startswith("[") else self.host
        try:
            await self._smtp.starttls(
                server_hostname=name, tls_context=context_for(self.security), timeout=self._timeouts.tls
            )
            await self._hello()
            connection = self._smtp.get_transport_info("ssl_object")
            self.tls = connection.version() or "TLS"
        except aiosmtplib.SMTPResponseException as error:
            return Insecure(
                "starttls-not-supported", f"STARTTLS refused: {RemoteReply(error.code, error.message).text}"
            )
        except Exception as error:  # SSLError comes bare, and a name unfit for SNI is a ValueError
            return Insecure(
                "validation-failure", f"TLS failed: {RemoteReply(0, str(error)).text or type(error).__name__}"
            )
        return examine(connection, self.security, self.host)

    async def _transact(self, envelope: Envelope) -> list[Failure | RemoteReply]:
        """How each recipient ended."""
        ends: dict[int, Failure | RemoteReply] = {}
        try:
            content = canonical(envelope.content)
            sender, mailboxes = self._addresses(envelope, ends)
            if not mailboxes:
                return [ends[n] for n in range(len(envelope.recipients))]
            addresses = (sender, *mailboxes.values())
            options = parameters(envelope, addresses, len(content), self._smtp.esmtp_extensions)
            self._busy = True
            asked = wishes(envelope, self._smtp.esmtp_extensions)
            await self._command(Verb.MAIL, f"FROM:<{sender}>", *options)
            accepted: dict[int, RemoteReply] = {}
            for n, address in mailboxes.items():
                try:
                    accepted[n] = await self._command(Verb.RCPT, f"TO:<{address}>", *asked, accepted=len(accepted))
                except FailureError as error:
                    if error.failure.scope is not Scope.RECIPIENT:
                        raise
                    ends[n] = error.failure
            if accepted and not envelope.probe:
                await self._command(Verb.DATA)
                reply = await self._transmit(content)
                self._busy = False
                self.messages_sent += 1
                ends.update(dict.fromkeys(accepted, reply))
            else:
                ends.update(accepted)
                await self._reset()
        except FailureError as error:
            if error.failure.scope is Scope.HOST:
                self.abort()
            else:
                await self._reset()
            for n in range(len(envelope.recipients)):
                ends.setdefault(n, error.failure)
        return [ends[n] for n in range(len(envelope.recipients))]

    def _addresses(self, envelope: Envelope, ends: dict[int, Failure | RemoteReply]) -> tuple[str, dict[int, str]]:
        """The addresses as they go on the wire; what this host can't take ends here. Raises `FailureError`."""
        utf8 = self._smtp.supports_extension("smtputf8")
        sender = ""
        if envelope.reverse_path:
            try:
                sender = mailbox(envelope.reverse_path)
            except ValueError:
                raise FailureError(Trouble.BAD_SENDER.failure()) from None
        if not utf8 and (envelope.smtputf8 or not sender.isascii()):
            raise FailureError(Trouble.NEEDS_SMTPUTF8.failure())
        mailboxes = {}
        for n, recipient in enumerate(envelope.recipients):
            try:
                address = mailbox(recipient)
            except ValueError:
                ends[n] = Trouble.BAD_ADDRESS.failure()
            else:
                if utf8 or address.isascii():
                    mailboxes[n] = address
                else:
                    ends[n] = Trouble.NEEDS_SMTPUTF8.failure()
        return sender, mailboxes

    async def _command(self, verb: Verb, *arguments: str, accepted: int = 0) -> RemoteReply:
        """The reply that lets the transaction go on. Raises `FailureError` for any other."""
        limit = self._timeouts.data if verb is Verb.DATA else self._timeouts.command
        try:
            code, text = await self._smtp.execute_command(
                *[part.encode() for part in (verb, *arguments)], timeout=limit
            )
        except Exception as error:
            raise FailureError(_failure(error, verb)) from None
        reply = RemoteReply(code, text)
        failure = judge(verb, reply, accepted=accepted)
        if failure is None:
            return reply
        if self.tls_failure and (code == 530 or failure.enhanced in ("5.7.10", "5.7.11")):
            failure = soften(failure)  # it wants TLS, which we could not give this time
        raise FailureError(failure)

    async def _transmit(self, content: bytes) -> RemoteReply:
        """The content with its dots stuffed, the final dot, and the reply to it. Raises `FailureError`.

        Done here and not by aiosmtplib's `data`, to know on which side of the dot a connection broke, to give each block
        its own time, and to hear a host that refuses before the end.
        """
        protocol = self._smtp.protocol
        if protocol is None:
            raise FailureError(Trouble.DROPPED.failure())
        reading = asyncio.create_task(protocol.read_response())
        dotted = False
        try:
            # aiosmtplib drops what comes before somebody reads, and uvloop may look at its sockets before it runs a new task.
            await asyncio.sleep(0)
            try:
                for block, last in blocks(content):
                    protocol.write(block)
                    dotted = last
                    if not last:
                        await _drain(protocol, reading, self._timeouts.block)
                        if reading.done():
                            break
            except ConnectionError:
                pass  # it is gone; its last words, if any, are read below
            async with asyncio.timeout(self._timeouts.dot):
                code, text = await reading
        except Exception as error:
            failure = _failure(error, Verb.DOT)
            raise FailureError(replace(failure, after_dot=dotted)) from None
        finally:
            reading.cancel()
        reply = RemoteReply(code, text)
        refusal = judge(Verb.DOT, reply)
        if not dotted:  # the host expects content still, so nothing else can be said to it
            self.abort()
            refusal = refusal or Trouble.GARBAGE.failure(f"{code} before the end of the message")
        if refusal is None:
            return reply
        raise FailureError(replace(refusal, after_dot=dotted and code // 100 not in (4, 5)))

    async def _reset(self) -> None:
        """End the transaction (RFC 5321 4.1.1.5), or hang up where the host does not agree."""
        if self._busy:
            try:
                await self._smtp.rset(timeout=self._timeouts.farewell)
                self._busy = False
            except Exception:
                self.abort()

    def _result(self, recipient: str, end: Failure | RemoteReply, tells: bool) -> RecipientResult:
        result = (
            RecipientResult.failed(recipient, end)
            if isinstance(end, Failure)
            else RecipientResult.success(recipient, end)
        )
        return replace(
            result, host=self.host, address=self.address, tls=self.tls, tls_failure=self.tls_failure, tells=tells
        )


async def _drain(protocol: SMTPProtocol, reading: asyncio.Task[aiosmtplib.SMTPResponse], limit: float) -> None:
    """Wait until the host has taken enough, has answered, or is gone. Raises `TimeoutError`."""
    draining = asyncio.create_task(protocol._drain_helper())
    try:
        done, _ = await asyncio.wait((draining, reading), timeout=limit, return_when=asyncio.FIRST_COMPLETED)
        if not done:
            raise TimeoutError
        if draining in done:
            draining.result()
    finally:
        draining.cancel()


def _failure(error: Exception, verb: Verb) -> Failure:
    """What an exception of aiosmtplib means at this step."""
    if isinstance(error, aiosmtplib.SMTPResponseException):
        reply = RemoteReply(error.code, error.message)
        return judge(verb, reply) or Trouble.GARBAGE.failure(f"{error.code} {reply.text}")
    if isinstance(error, TimeoutError):
        return Trouble.TIMED_OUT.failure(f"timed out at {verb}")
    if isinstance(error, OSError):
        return Trouble.DROPPED.failure(f"connection lost at {verb}")
    return Trouble.INTERNAL.failure(f"{type(error).__name__} at {verb}")

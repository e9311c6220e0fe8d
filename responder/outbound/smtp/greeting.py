"""How a session begins: connect, banner, EHLO or HELO, STARTTLS and EHLO again, until the connection has what is asked of it.

Nothing of a mail is said before that. TLS that is merely welcome (RFC 7435) and fails costs one new connection in plain text;
TLS that is asked for and fails ends here, in `InsecureError`. Where a policy is only tested (RFC 8461 5), an encrypted
connection whose certificate does not hold stays in use, encrypted, and `insecure` says what it lacks.
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from aiosmtplib import SMTPResponseException
from aiosmtplib.esmtp import parse_esmtp_extensions

from responder.mail.status import FailureError, Outcome, RemoteReply, Trouble, Verb
from responder.outbound.dial import Timeouts, dial
from responder.outbound.smtp.channel import Channel
from responder.outbound.tls.contexts import classify, context_for, examine
from responder.outbound.tls.security import Insecure, InsecureError, Level, Security

NOT_OFFERED: Final = Insecure("starttls-not-supported", "the host offers no TLS")
NO_REQUIRETLS: Final = Insecure("validation-failure", "the host does not offer REQUIRETLS")

_KEYWORD: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
_PARAMETERS: Final = re.compile(r"[\x20-\x7e]*")


@dataclass(slots=True)
class Greeted:
    """A connection on which a transaction may begin."""

    channel: Channel
    extensions: Mapping[str, str] = field(default_factory=dict)  # keyword in lower case: its parameters
    tls: str = ""  # the protocol's version; "" in plain text
    insecure: Insecure | None = None  # what it lacks of what was asked, or of what the host offers


@dataclass(frozen=True, slots=True)
class Greeter:
    """Begins sessions with one IP address; `host` is the name that it was found by."""

    host: str
    address: str
    port: int
    local_hostname: str
    source_address: str
    timeouts: Timeouts
    security: Security

    async def greet(self, sock: socket.socket | None) -> Greeted:
        """Connect, unless `sock` is connected, and come to what `security` asks for. Raises `FailureError`, `InsecureError`."""
        security = self.security
        greeted = await self._open(sock)
        try:
            if security.level is Level.OFF and not security.requiretls:
                return greeted
            strict = security.requiretls or (security.level > Level.OPPORTUNISTIC and not security.testing)
            try:
                why = await self._encrypt(greeted) if "starttls" in greeted.extensions else NOT_OFFERED
                if why is not None and strict:
                    raise InsecureError(Trouble.INSECURE.failure(why.text), why)
                if greeted.tls:
                    greeted.extensions = await self._hello(greeted.channel)
            except FailureError as error:  # the host stumbles over its own TLS
                if strict:
                    raise
                why, greeted.tls = Insecure("validation-failure", f"TLS failed: {error.failure.text}"), ""
            if security.requiretls and "requiretls" not in greeted.extensions:  # RFC 8689 4.2.1
                raise InsecureError(Trouble.NO_REQUIRETLS.failure(), NO_REQUIRETLS)
            if not (
                why is None or why is NOT_OFFERED or greeted.tls
            ):  # RFC 7435: plain text is better than nothing, once
                greeted.channel.abort()
                greeted = await self._open(None)
            greeted.insecure = why
        except BaseException:
            greeted.channel.abort()
            raise
        return greeted

    async def _open(self, sock: socket.socket | None) -> Greeted:
        """Banner and EHLO in plain text. Raises `FailureError`."""
        try:
            if sock is None:
                sock = await dial(self.address, self.port, self.source_address, self.timeouts.connect)
        except (OSError, ValueError) as error:
            text = "timed out" if isinstance(error, TimeoutError) else getattr(error, "strerror", None) or str(error)
            raise FailureError(Trouble.UNREACHABLE.failure(f"connect to {self.host}: {text}")) from None
        try:
            _, channel = await asyncio.get_running_loop().create_connection(Channel, sock=sock)
        except BaseException as error:
            sock.close()
            if isinstance(error, OSError):
                raise FailureError(Trouble.DROPPED.failure(f"connection lost at {Verb.BANNER}")) from None
            raise
        try:
            await channel.expect(Verb.BANNER, self.timeouts.greeting, 220)
            return Greeted(channel, await self._hello(channel))
        except BaseException:
            channel.abort()
            raise

    async def _hello(self, channel: Channel) -> Mapping[str, str]:
        """What the host offers. Raises `FailureError`."""
        name = self.local_hostname.encode()
        try:
            channel.send(b"EHLO " + name + b"\r\n", 1)
            return extensions((await channel.expect(Verb.EHLO, self.timeouts.command, 250)).message)
        except FailureError as error:
            if error.failure.outcome is not Outcome.PERMANENT:
                raise
            refused = error
        channel.send(b"HELO " + name + b"\r\n", 1)  # RFC 5321 3.2: a host that refuses EHLO may know HELO
        try:
            await channel.expect(Verb.HELO, self.timeouts.command, 250)
        except FailureError as error:
            raise error if error.failure.code else refused from None  # it hung up: the refusal says more
        return {}

    async def _encrypt(self, greeted: Greeted) -> Insecure | None:
        """STARTTLS and the handshake (RFC 3207 4), and what the connection then lacks. Without `greeted.tls` it is of no use."""
        name = None if self.host.startswith("[") else self.security.server_name(self.host)
        try:
            connection = await greeted.channel.secure(context_for(self.security), name, self.timeouts.tls)
        except SMTPResponseException as error:
            text = RemoteReply(error.code, error.message).text
            return Insecure("starttls-not-supported", f"STARTTLS refused: {text}")
        except FailureError as error:
            return Insecure("validation-failure", f"TLS failed: {error.failure.text}")
        except Exception as error:  # SSLError comes bare, and a name unfit for SNI is a ValueError
            return classify(error)
        greeted.tls = connection.version() or "TLS"
        return examine(connection, self.security, self.host)


def extensions(message: str) -> Mapping[str, str]:
    """What the reply to EHLO offers: lines that have the syntax of RFC 5321 4.1.1.1, and no others."""
    return {
        keyword: parameters
        for keyword, parameters in parse_esmtp_extensions(message)[0].items()
        if _KEYWORD.fullmatch(keyword) and _PARAMETERS.fullmatch(parameters)
    }

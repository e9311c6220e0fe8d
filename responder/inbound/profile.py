"""What one listening socket offers its clients, and in which words it does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from responder.config import Listen
from responder.inbound.dialect import GENERIC, Dialect
from responder.inbound.limits import Network
from responder.inbound.tls import Certificate

if TYPE_CHECKING:
    from responder.inbound.sessions import Handler, Login


class Profile:
    """A listener's side of a session. All sessions of a listener share it; a reload changes it under them."""

    def __init__(
        self,
        listen: Listen,
        hostname: str,
        message_size: int,
        handler: Handler,
        *,
        dialect: Dialect = GENERIC,
        certificate: Certificate | None = None,
        login: Login | None = None,
    ) -> None:
        self.listen = listen
        self.handler = handler
        self.lmtp = listen.protocol == "lmtp"
        self.implicit_tls = listen.protocol == "smtps"
        self.login_required = listen.login == "required"
        self.proxies: Sequence[Network] | None = listen.proxies if listen.proxy_protocol else None
        self.follow(hostname, message_size, dialect, certificate, login)

    def follow(
        self,
        hostname: str,
        message_size: int,
        dialect: Dialect,
        certificate: Certificate | None,
        login: Login | None,
    ) -> None:
        """Take a new configuration; sessions that are open go on under it."""
        self.hostname = hostname
        self.message_size = message_size
        self.dialect = dialect
        self.certificate = certificate
        self.login = login if self.listen.login != "off" or self.listen.decoy else None
        self._ehlo: dict[tuple[bool, bool], bytes] = {}

    def ehlo(self, *, secure: bool, known: bool) -> bytes:
        """The reply to EHLO and LHLO (RFC 5321 4.1.1.1) on a connection that is encrypted or not, of a client that has
        logged in or not."""
        found = self._ehlo.get((secure, known))
        if found is None:
            found = self._ehlo[secure, known] = self._offer(secure, known)
        return found

    def _offer(self, secure: bool, known: bool) -> bytes:
        lines = [
            self.hostname,
            "PIPELINING",
            f"SIZE {self.message_size}",
            "8BITMIME",
            "SMTPUTF8",
            "ENHANCEDSTATUSCODES",
        ]
        if self.certificate is not None and not secure:
            lines.append("STARTTLS")  # RFC 3207 4.2: not offered again once it is on
        if self.login is not None and secure and not known:
            lines.append("AUTH " + " ".join(self.login.mechanisms))  # RFC 4954 4: only under TLS
        lines.append("HELP")
        return b"".join(
            f"250{' ' if number == len(lines) else '-'}{line}\r\n".encode() for number, line in enumerate(lines, 1)
        )

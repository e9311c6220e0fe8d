"""What one listening socket offers its clients, and in which words it does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from responder.config import Listen
from responder.inbound.dialects.dialect import GENERIC, Dialect, Speaker, lines
from responder.inbound.limits.gatekeeper import Network
from responder.inbound.tls import Certificate

if TYPE_CHECKING:
    from responder.inbound.roles import Decoy, Handler, Login
    from responder.inbound.session import Session
    from responder.inbound.sessions import Sessions


class Profile:
    """A listener's side of a session. All sessions of a listener share it; a reload changes it under them."""

    def __init__(
        self,
        listen: Listen,
        hostname: str,
        message_size: int,
        handler: Handler,
        *,
        now: Callable[[], float],
        decoy: Decoy | None = None,
        dialect: Dialect = GENERIC,
        certificate: Certificate | None = None,
        login: Login | None = None,
    ) -> None:
        self._now = now
        self.decoy = decoy
        self.handler: Handler = handler if decoy is None else decoy
        self.session: Callable[[Sessions, Profile], Session] | None = None if decoy is None else decoy.session
        self.lmtp = listen.protocol == "lmtp"
        self.implicit_tls = listen.protocol == "smtps"
        self.relist(listen)
        self.follow(hostname, message_size, dialect, certificate, login)

    def relist(self, listen: Listen) -> None:
        """Take what its socket does not depend on: the next `follow` tells of it."""
        self.listen = listen
        self.login_required = listen.login == "required"
        self.proxies: Sequence[Network] | None = listen.proxies if listen.proxy_protocol else None

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
        self.words = dialect.bind(hostname, message_size, self._now, decoy=self.decoy is not None)
        self.certificate = certificate
        self.login = login if self.listen.login != "off" and self.decoy is None else None
        self._ehlo: dict[tuple[bool, bool], bytes] = {}

    def ehlo(self, session: Speaker, *, secure: bool, known: bool) -> bytes:
        """The reply to EHLO and LHLO (RFC 5321 4.1.1.1) on a connection that is encrypted or not, of a client that has
        logged in or not."""
        found = self._ehlo.get((secure, known))
        if found is None:
            offers = self._offer(secure, known) if self.decoy is None else self.decoy.offer(self, secure, known)
            found = self._ehlo[secure, known] = lines(250, offers) if offers else b""
        return f"250{'-' if found else ' '}{self.words.hello(session)}\r\n".encode() + found

    def _offer(self, secure: bool, known: bool) -> list[str]:
        offers = [
            "PIPELINING",
            f"SIZE {self.message_size}",
            "8BITMIME",
            "SMTPUTF8",
            "ENHANCEDSTATUSCODES",
            "CHUNKING",
            "BINARYMIME",
            "DSN",
        ]
        if self.certificate is not None and not secure:
            offers.append("STARTTLS")  # RFC 3207 4.2: not offered again once it is on
        if secure and not self.lmtp:
            offers.append("REQUIRETLS")  # RFC 8689 2: only under TLS
        if self.login is not None and secure and not known:
            offers.append("AUTH " + " ".join(self.login.mechanisms))  # RFC 4954 4: only under TLS
        offers.append("HELP")
        return offers

"""The certificate that clients see, and the handshake: TLS 1.2 at least, forward secrecy and authenticated ciphers only."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from responder.clock import Clock
from responder.config import TLS
from responder.config.units import DAY
from responder.inbound.followed import FileError, FollowedFiles, open_to_all, read_file

if TYPE_CHECKING:
    from cryptography import x509

HANDSHAKE = 60.0
"""Seconds that a client has for a TLS handshake."""

SOON = 14 * DAY
"""Seconds before a certificate's end from when on its operator is told."""

CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""Of TLS 1.2 (RFC 7525 4.2, 9325 4.2): no CBC, no SHA-1, no key exchange by RSA. Those of TLS 1.3 are all good."""

_LARGEST = 1 << 20  # octets of a file
_REASONS = {
    "KEY_VALUES_MISMATCH": "does not belong to the certificate",
    "KEY_TYPE_MISMATCH": "does not belong to the certificate",
    "EE_KEY_TOO_SMALL": "is too short to be safe",
}


class Certificate(FollowedFiles):
    """A certificate with its key. `context` is what a handshake takes."""

    context: ssl.SSLContext
    expires: float  # Unix seconds

    def __init__(self, settings: TLS, clock: Clock) -> None:
        """Read the files. Raises `FileError`."""
        self._minimum = ssl.TLSVersion.TLSv1_3 if settings.minimum == "1.3" else ssl.TLSVersion.TLSv1_2
        self._clock = clock
        super().__init__(settings.certificate, settings.key)

    def _read(self) -> None:
        certificate, key = self._paths
        chain = _chain(certificate)
        self.context, self.expires = self._context(certificate, key), chain[0].not_valid_after_utc.timestamp()

    def _context(self, certificate: Path, key: Path) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = self._minimum
        context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_CIPHER_SERVER_PREFERENCE | ssl.OP_NO_RENEGOTIATION
        context.set_ciphers(CIPHERS)
        if b"ENCRYPTED" in read_file("tls.key", key, _LARGEST):
            raise FileError("tls.key", key, "is encrypted, and a server has nobody to ask for the passphrase")
        try:
            context.load_cert_chain(certificate, key, password="")  # without one it would ask at the terminal
        except ssl.SSLError as error:
            raise FileError("tls.key", key, _REASONS.get(error.reason or "", "is no private key in PEM")) from error
        except OSError as error:
            raise FileError("tls.key", key, error.strerror or type(error).__name__) from error
        return context

    def remarks(self) -> Iterator[tuple[str, str]]:
        left = self.expires - self._clock.now()
        if left < SOON:
            date = datetime.fromtimestamp(self.expires, UTC).strftime("%Y-%m-%d %H:%M UTC")
            yield "tls.certificate", f"{'expires' if left > 0 else 'has expired'} on {date}: renew it"
        if open_to_all(self._paths[1]):
            yield "tls.key", "everybody on this machine can read it: chmod 640"


def _chain(path: Path) -> list[x509.Certificate]:
    from cryptography import x509  # where used: it takes its time, and most verbs need none

    content = read_file("tls.certificate", path, _LARGEST)
    try:
        chain = x509.load_pem_x509_certificates(content)
        if len(chain) < content.count(b"-----BEGIN CERTIFICATE"):  # it is silent about a last one that is cut off
            raise ValueError("cut off")
    except ValueError as error:
        raise FileError("tls.certificate", path, "is no certificate in PEM, or not a whole one") from error
    return chain


async def start_tls(
    loop: asyncio.AbstractEventLoop,
    transport: asyncio.Transport,
    protocol: asyncio.Protocol,
    context: ssl.SSLContext,
    early: Callable[[], bytes],
) -> asyncio.Transport:
    """Be the server of a handshake on an open connection; the transport to go on with.

    `early` gives what of the handshake the protocol has received already. Raises `OSError` (`ssl.SSLError` is one), also where
    the client leaves or takes more than `HANDSHAKE` seconds; the connection is of no use then.
    """
    starting = asyncio.ensure_future(
        loop.start_tls(transport, protocol, context, server_side=True, ssl_handshake_timeout=HANDSHAKE)
    )
    starting.add_done_callback(lambda done: done.cancelled() or done.exception())  # should nobody wait for it any more
    try:
        await asyncio.sleep(0)
        await asyncio.sleep(0)  # by now the octets go to the TLS layer
        octets, layer = early(), transport.get_protocol()
        if octets and layer is not None and not starting.done():  # None: so uvloop says that the client has left
            _feed(layer, octets)
        secure = await starting
    finally:
        starting.cancel()
    if secure is None:  # so asyncio says that the connection ended
        raise ConnectionResetError("the client left")
    return secure


def _feed(protocol: Any, octets: bytes) -> None:
    """Give a buffered protocol octets as its transport would."""
    left = memoryview(octets)
    while left:
        room = cast(memoryview, protocol.get_buffer(len(left)))
        part = left[: len(room)]
        room[: len(part)] = part
        protocol.buffer_updated(len(part))
        left = left[len(part) :]

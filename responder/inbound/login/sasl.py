"""SASL mechanisms, the server's side: PLAIN (RFC 4616), LOGIN, SCRAM-SHA-256 (RFC 5802, 7677). Pure.

A mechanism asks and is answered until it has a claim: who somebody says to be, and with what. Whether that is so, others judge.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from responder.inbound.login.passwords import Verifier, prepare

_FIRST = re.compile(r"(([ny]),(?:a=([^,]+))?,)(n=([^,]+),r=([\x21-\x2b\x2d-\x7e]+)(?:,.+)?)", re.DOTALL)
_FINAL = re.compile(r"(c=([^,]+),r=([^,]+)(?:,.+)?),p=([^,]+)", re.DOTALL)
_ESCAPE = re.compile(r"=(2C|3D|)")


class SASLError(Exception):
    """A message that its mechanism doesn't allow."""


@dataclass(frozen=True, slots=True)
class Claim:
    """Somebody says to be `name`, and shows a password, or has shown (`proved`) that they know it."""

    name: str
    password: str | None = field(default=None, repr=False)
    proved: bool = False


class Mechanism(Protocol):
    """One dialog."""

    name: str

    def step(self, response: bytes | None) -> bytes | Claim:
        """What to ask next, or what it came to. None: there was no initial response. Raises `SASLError`."""
        ...


class Plain:
    """All in one message: `[authzid] NUL authcid NUL passwd` (RFC 4616 2)."""

    name = "PLAIN"

    def step(self, response: bytes | None) -> bytes | Claim:
        if response is None:
            return b""
        parts = response.split(b"\0")
        if len(parts) != 3:
            raise SASLError("not the three parts of PLAIN")
        other, name, password = (_decode(part) for part in parts)
        return Claim(_own_name(name, other), _prepare(password))


class Login:
    """Name and password, each asked for (draft-murchison-sasl-login): what Outlook and old programs speak."""

    name = "LOGIN"

    def __init__(self) -> None:
        self._name: str | None = None

    def step(self, response: bytes | None) -> bytes | Claim:
        if response is None:
            return b"Username:"
        if self._name is None:
            self._name = _prepare(_decode(response))
            return b"Password:"
        return Claim(self._name, _prepare(_decode(response)))


class Scram:
    """RFC 5802 without channel binding: the password never comes, and the server shows that it knows the user, too."""

    name = "SCRAM-SHA-256"

    def __init__(self, verifier: Callable[[str], Verifier], nonce: str) -> None:
        self._verifier_of = verifier
        self._nonce = nonce
        self._next = self._first
        self._header = self._message = self._name = ""

    def step(self, response: bytes | None) -> bytes | Claim:
        return b"" if response is None else self._next(response)

    def _first(self, response: bytes) -> bytes | Claim:
        # "n" and "y" only: a client asks for channel binding ("p") where the server has offered it (RFC 5802 6)
        found = _FIRST.fullmatch(_decode(response))
        if found is None:
            raise SASLError("no client-first-message without channel binding")
        self._header = found[1]
        self._name = _own_name(_unescape(found[5]), _unescape(found[3] or ""))
        self._verifier = self._verifier_of(self._name)
        self._nonce = found[6] + self._nonce
        salt = base64.b64encode(self._verifier.salt).decode()
        question = f"r={self._nonce},s={salt},i={self._verifier.iterations}"
        self._message = f"{found[4]},{question}"
        self._next = self._final
        return question.encode()

    def _final(self, response: bytes) -> bytes | Claim:
        found = _FINAL.fullmatch(_decode(response))
        if found is None:
            raise SASLError("no client-final-message")
        if decode64(found[2].encode()) != self._header.encode() or found[3] != self._nonce:
            raise SASLError("channel binding or nonce are not those of the first message")
        message = f"{self._message},{found[1]}".encode()
        proof, signature = decode64(found[4].encode()), hmac.digest(self._verifier.stored_key, message, "sha256")
        client_key = bytes(a ^ b for a, b in zip(proof, signature, strict=False))
        if len(proof) != len(signature) or not hmac.compare_digest(
            hashlib.sha256(client_key).digest(), self._verifier.stored_key
        ):
            return Claim(self._name)
        self._next = self._end
        return b"v=" + base64.b64encode(hmac.digest(self._verifier.server_key, message, "sha256"))

    def _end(self, response: bytes) -> bytes | Claim:
        """SMTP has no place for data in a success: it was asked, and the answer is empty (RFC 4954 4)."""
        if response:
            raise SASLError("nothing was asked any more")
        return Claim(self._name, proved=True)


def decode64(text: bytes) -> bytes:
    """Octets from base64, strictly (RFC 4954 4: 4648 without white space or anything else). Raises `SASLError`."""
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except (binascii.Error, ValueError) as error:
        raise SASLError("not base64") from error


def _decode(octets: bytes) -> str:
    try:
        return octets.decode()
    except UnicodeDecodeError as error:
        raise SASLError("not UTF-8") from error


def _prepare(text: str) -> str:
    try:
        return prepare(text)
    except ValueError as error:
        raise SASLError(str(error)) from error


def _own_name(name: str, other: str) -> str:
    """Who logs in. To act as somebody else (authzid) nobody may."""
    name = _prepare(name)
    if other and _prepare(other) != name:
        raise SASLError("nobody may act as somebody else")
    return name


def _unescape(text: str) -> str:
    """A saslname: `=2C` is a comma and `=3D` an equals sign, any other `=` is a mistake (RFC 5802 5.1)."""
    if any(found[1] == "" for found in _ESCAPE.finditer(text)):
        raise SASLError("a name with a bare equals sign")
    return text.replace("=2C", ",").replace("=3D", "=")

"""Certificates and users for tests: made once, quick to check."""

from __future__ import annotations

import base64
import hashlib
import hmac
import ssl
from functools import cache
from pathlib import Path

import trustme

from responder.clock import Clock, SystemClock
from responder.config import Rate
from responder.config.reception import TLS
from responder.inbound.login.logins import Logins
from responder.inbound.login.passwords import scram_verifier
from responder.inbound.login.users import Users
from responder.inbound.tls import Certificate

NAME = "mx.test.example"
USERS = {"ann": "secret", "ann@test.example": "geheim", "grüße": "pa\u00dfwort", "bob": "only plain"}
"""Names and passwords. bob can't log in by SCRAM."""


@cache
def authority() -> trustme.CA:
    return trustme.CA()


def certificate(folder: Path, name: str = NAME, *names: str) -> TLS:
    """A certificate and its key as files in `folder`, of the authority that `trusting` trusts."""
    issued = authority().issue_cert(name, "127.0.0.1", *names)
    folder.mkdir(parents=True, exist_ok=True)
    chain = b"".join([blob.bytes() for blob in issued.cert_chain_pems])
    (folder / "cert.pem").write_bytes(chain)
    (folder / "key.pem").write_bytes(issued.private_key_pem.bytes())
    (folder / "key.pem").chmod(0o600)
    return TLS(certificate=folder / "cert.pem", key=folder / "key.pem")


def trusting() -> ssl.SSLContext:
    """A client's side that checks."""
    context = ssl.create_default_context()
    authority().configure_trust(context)
    return context


def scrypt_line(password: str, ln: int = 4) -> str:
    """A hash that costs next to nothing."""
    salt = b"0123456789abcdef"
    digest = hashlib.scrypt(password.encode(), salt=salt, n=1 << ln, r=8, p=1, dklen=32)
    text, kept = (base64.b64encode(octets).decode().rstrip("=") for octets in (salt, digest))
    return f"$scrypt$ln={ln},r=8,p=1${text}${kept}"


def users_file(folder: Path) -> Path:
    """`USERS` as a file."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["# for tests"]
    for name, password in USERS.items():
        scram = "" if name == "bob" else ":" + scram_verifier(password, SystemClock(), 4096)
        lines.append(f"{name}:{scrypt_line(password)}{scram}")
    path = folder / "users"
    path.write_text("\n".join(lines) + "\n")
    path.chmod(0o600)
    return path


def logins(folder: Path, clock: Clock, failures: Rate | None = None) -> Logins:
    return Logins(Users(users_file(folder)), failures, clock)


def shown(folder: Path, clock: Clock) -> Certificate:
    return Certificate(certificate(folder), clock)


def plain(name: str, password: str, other: str = "") -> str:
    """PLAIN in one message, in base64."""
    return base64.b64encode(f"{other}\0{name}\0{password}".encode()).decode()


class ScramClient:
    """The client's side of SCRAM-SHA-256 (RFC 5802 3), written from the RFC and not from the server's code."""

    def __init__(self, name: str, password: str, *, header: str = "n,,", nonce: str = "rOprNGfwEbeRWgbNEkqO") -> None:
        self._password = password.encode()
        self._header = header
        self._bare = f"n={name.replace('=', '=3D').replace(',', '=2C')},r={nonce}"
        self.nonce = nonce
        self.signature = ""

    def first(self) -> bytes:
        return (self._header + self._bare).encode()

    def final(self, question: bytes, *, binding: str = "", nonce: str = "") -> bytes:
        """The proof, for what the server asked. `binding` and `nonce` lie about them."""
        parts = dict(part.split("=", 1) for part in question.decode().split(","))
        assert parts["r"].startswith(self.nonce) and len(parts["r"]) > len(self.nonce)
        salted = hashlib.pbkdf2_hmac("sha256", self._password, base64.b64decode(parts["s"]), int(parts["i"]))
        client_key = hmac.digest(salted, b"Client Key", "sha256")
        header = base64.b64encode((binding or self._header).encode()).decode()
        bare = f"c={header},r={nonce or parts['r']}"
        message = f"{self._bare},{question.decode()},{bare}".encode()
        signature = hmac.digest(hashlib.sha256(client_key).digest(), message, "sha256")
        proof = bytes(a ^ b for a, b in zip(client_key, signature, strict=True))
        server_key = hmac.digest(salted, b"Server Key", "sha256")
        self.signature = base64.b64encode(hmac.digest(server_key, message, "sha256")).decode()
        return f"{bare},p={base64.b64encode(proof).decode()}".encode()

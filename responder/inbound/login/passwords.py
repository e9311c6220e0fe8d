r"""What is kept instead of a password: scrypt (RFC 7914) or Argon2id (RFC 9106) hashes, and SCRAM verifiers (RFC 5802 3).

    $scrypt$ln=15,r=8,p=3$SALT$HASH              what we make: 32 MiB and about a quarter of a second a look
    $argon2id$v=19$m=65536,t=3,p=4$SALT$HASH     taken where the extra `argon2` is installed
    SCRAM-SHA-256$65536:SALT$STORED:SERVER       PostgreSQL's format; without it a user can't log in by SCRAM

Nothing here keeps a password.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import stringprep
import unicodedata
from dataclasses import dataclass, field
from typing import Protocol

from responder.clock import Clock

LN, R, P = 15, 8, 3  # of scrypt: as hard as OWASP's N=2^17, p=1 at a quarter of the memory
ITERATIONS = 65536  # of SCRAM; its client pays them. RFC 7677 4 asks for 4096
SALT = 16  # octets
MOST_MEMORY = 256 << 20  # octets that one look at a hash may take
MOST_ITERATIONS = 10_000_000  # of a SCRAM verifier: more is a mistake

_SCRYPT = re.compile(r"\$scrypt\$ln=(\d{1,2}),r=(\d{1,3}),p=(\d{1,3})\$([A-Za-z0-9+/.]+=*)\$([A-Za-z0-9+/.]+=*)")
_ARGON2 = re.compile(r"\$argon2id\$v=19\$m=(\d{1,9}),t=(\d{1,4}),p=(\d{1,3})\$[A-Za-z0-9+/]+\$[A-Za-z0-9+/]+")
_SCRAM = re.compile(r"SCRAM-SHA-256\$(\d{1,9}):([A-Za-z0-9+/]+=*)\$([A-Za-z0-9+/]+=*):([A-Za-z0-9+/]+=*)")

_FORBIDDEN = (
    stringprep.in_table_c12,
    stringprep.in_table_c21_c22,
    stringprep.in_table_c3,
    stringprep.in_table_c4,
    stringprep.in_table_c5,
    stringprep.in_table_c6,
    stringprep.in_table_c7,
    stringprep.in_table_c8,
    stringprep.in_table_c9,
)


class Hash(Protocol):
    """A kept password."""

    def matches(self, password: str) -> bool:
        """Whether it is this one (prepared). Takes long on purpose, without Python's lock: for a thread."""
        ...


@dataclass(frozen=True, slots=True)
class Scrypt:
    """RFC 7914: cost 2^ln, block size r, parallelisation p."""

    ln: int
    r: int
    p: int
    salt: bytes = field(repr=False)
    digest: bytes = field(repr=False)

    def matches(self, password: str) -> bool:
        return hmac.compare_digest(_scrypt(password, self.salt, self.ln, self.r, self.p, len(self.digest)), self.digest)


@dataclass(frozen=True, slots=True)
class Argon2:
    """RFC 9106, as the reference program writes it."""

    encoded: str = field(repr=False)

    def matches(self, password: str) -> bool:
        from argon2.exceptions import Argon2Error
        from argon2.low_level import Type, verify_secret

        try:
            return verify_secret(self.encoded.encode(), password.encode(), Type.ID)
        except Argon2Error:
            return False


@dataclass(frozen=True, slots=True)
class Verifier:
    """What SCRAM-SHA-256 keeps of a password (RFC 5802 3)."""

    iterations: int
    salt: bytes
    stored_key: bytes = field(repr=False)
    server_key: bytes = field(repr=False)


def parse_hash(text: str) -> Hash:
    """A kept password as it was written. Raises `ValueError` with a reason that repeats nothing of it."""
    if found := _SCRYPT.fullmatch(text):
        ln, r, p = (int(found[number]) for number in (1, 2, 3))
        if not (0 < ln < 64 and r and p) or 128 * r * ((1 << ln) + p) > MOST_MEMORY:
            raise ValueError(f"its scrypt hash takes no or more than {MOST_MEMORY >> 20} MiB of memory")
        return Scrypt(ln, r, p, _unpadded(found[4]), _digest(_unpadded(found[5])))
    if found := _ARGON2.fullmatch(text):
        if int(found[1]) << 10 > MOST_MEMORY:
            raise ValueError(f"its argon2id hash takes more than {MOST_MEMORY >> 20} MiB of memory")
        return Argon2(_argon2(text))
    raise ValueError("wants a $scrypt$ or $argon2id$ hash: `responder password NAME` makes one")


def parse_verifier(text: str) -> Verifier:
    """A SCRAM verifier as it was written. Raises `ValueError`."""
    found = _SCRAM.fullmatch(text)
    if not found:
        raise ValueError("what stands behind the hash is no SCRAM-SHA-256 verifier")
    iterations, salt, stored, server = int(found[1]), *(_unpadded(found[number]) for number in (2, 3, 4))
    if not 4096 <= iterations <= MOST_ITERATIONS or len(stored) != 32 or len(server) != 32:  # RFC 7677 4
        raise ValueError("its SCRAM verifier has fewer than 4096 iterations, too many, or keys of a wrong length")
    return Verifier(iterations, salt, stored, server)


def hash_password(password: str, clock: Clock) -> str:
    """A fresh scrypt hash of a prepared password, as it is written."""
    salt = noise(clock)
    return f"$scrypt$ln={LN},r={R},p={P}${_text(salt)}${_text(_scrypt(password, salt, LN, R, P, 32))}"


def scram_verifier(password: str, clock: Clock, iterations: int = ITERATIONS) -> str:
    """A fresh SCRAM verifier of a prepared password, as it is written."""
    salt = noise(clock)
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, iterations)
    client_key, server_key = (hmac.digest(salted, word, "sha256") for word in (b"Client Key", b"Server Key"))
    stored_key = hashlib.sha256(client_key).digest()
    kept = (base64.b64encode(octets).decode() for octets in (salt, stored_key, server_key))
    return "SCRAM-SHA-256${}:{}${}:{}".format(iterations, *kept)


def noise(clock: Clock) -> bytes:
    """Octets that nobody can guess, for a salt or a nonce: each identifier brings 40 random bits."""
    return hashlib.sha256("".join([clock.new_id() for _ in range(6)]).encode()).digest()[:SALT]


def prepare(text: str) -> str:
    """A name or a password in the one form that is compared (SASLprep, RFC 4013). Raises `ValueError`.

    What Unicode 3.2 did not know is let through: people have passwords with later letters.
    """
    if text.isascii() and text.isprintable() and text:
        return text
    text = "".join([" " if stringprep.in_table_c12(c) else c for c in text if not stringprep.in_table_b1(c)])
    text = unicodedata.ucd_3_2_0.normalize("NFKC", text)
    if not text or any(table(c) for c in text for table in _FORBIDDEN):
        raise ValueError("is empty, or has a letter that no name or password may have")
    if any(map(stringprep.in_table_d1, text)):  # RFC 3454 6
        ends = stringprep.in_table_d1(text[0]) and stringprep.in_table_d1(text[-1])
        if not ends or any(map(stringprep.in_table_d2, text)):
            raise ValueError("mixes scripts of both directions")
    return text


def _scrypt(password: str, salt: bytes, ln: int, r: int, p: int, length: int) -> bytes:
    room = 128 * r * ((1 << ln) + p + 2) + 1024
    return hashlib.scrypt(password.encode(), salt=salt, n=1 << ln, r=r, p=p, maxmem=room, dklen=length)


def _digest(octets: bytes) -> bytes:
    if not 16 <= len(octets) <= 128:
        raise ValueError("its scrypt hash has a wrong length")
    return octets


def _argon2(text: str) -> str:
    """Whether the library is there, and reads it."""
    try:
        from argon2 import extract_parameters
        from argon2.exceptions import InvalidHashError
    except ImportError as error:
        raise ValueError('an argon2id hash needs the extra "argon2": pip install "responder-mta[argon2]"') from error
    try:
        extract_parameters(text)
    except (InvalidHashError, ValueError) as error:
        raise ValueError("its argon2id hash is malformed") from error
    return text


def _text(octets: bytes) -> str:
    return base64.b64encode(octets).decode().rstrip("=")


def _unpadded(text: str) -> bytes:
    """Octets in base64, with its padding or without; "." for "+", as passlib writes it."""
    text = text.rstrip("=").replace(".", "+")
    try:
        return binascii.a2b_base64(text + "=" * (-len(text) % 4), strict_mode=True)
    except binascii.Error as error:
        raise ValueError("its hash is not written in base64") from error

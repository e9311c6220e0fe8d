"""What is asked of whoever logs in to a decoy, and read from the answers: PLAIN, LOGIN, CRAM-MD5, NTLM. Pure; nobody is let in.

Each dialog is a generator: it yields challenges, gets the answers, and returns what they tell. Answers may be anything.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Generator

Found = dict[str, str]
Dialog = Generator[bytes, bytes, Found]
"""Challenges out, answers in, and what was found at the end. It raises `ValueError` for an answer that can't be read."""

MAX_TEXT = 512  # characters of a name or a password that are kept apart; the lines of the transcript have all of it
EPOCH_1601 = 11_644_473_600  # seconds from 1601, where Windows begins, to 1970
NTLM = b"NTLMSSP\x00"
FLAGS = 0xE2898235  # [MS-NLMP] 2.2.2.5: Unicode, target a domain, extended security, target info, version, 128, key exchange, 56


def text(octets: bytes, encoding: str = "utf-8") -> str:
    """What a client says, cut."""
    return octets.decode(encoding, "backslashreplace" if encoding == "utf-8" else "replace")[:MAX_TEXT]


def plain(hostname: str, seed: str, now: float) -> Dialog:
    """RFC 4616."""
    parts = (yield b"").split(b"\0")
    if len(parts) != 3:
        raise ValueError("wants three parts")
    found = {"user": text(parts[1]), "password": text(parts[2])}
    return {**found, "authorize": text(parts[0])} if parts[0] else found


def login(hostname: str, seed: str, now: float) -> Dialog:
    """The two questions that everybody asks (draft-murchison-sasl-login)."""
    user = yield b"Username:"
    return {"user": text(user), "password": text((yield b"Password:"))}


def cram_md5(hostname: str, seed: str, now: float) -> Dialog:
    """RFC 2195: what is kept is enough to try passwords against."""
    challenge = f"<{int.from_bytes(seed.encode()[-6:])}.{int(now)}@{hostname}>"
    user, _, response = text((yield challenge.encode())).rpartition(" ")
    return {"user": user, "challenge": challenge, "response": response}


def ntlm(hostname: str, seed: str, now: float) -> Dialog:
    """[MS-NLMP]: the answer to the challenge is kept, which is enough to try passwords against."""
    first = yield b""
    if not first.startswith(NTLM + struct.pack("<I", 1)):
        raise ValueError("no negotiation")
    nonce = hashlib.sha256(seed.encode()).digest()[:8]
    last = yield challenge_message(hostname, nonce, now)
    if not last.startswith(NTLM + struct.pack("<I", 3)):
        raise ValueError("no authentication")
    response, domain, user, workstation = (field_at(last, place) for place in (20, 28, 36, 44))
    return {
        "user": text(user, "utf-16-le"),
        "domain": text(domain, "utf-16-le"),
        "workstation": text(workstation, "utf-16-le"),
        "challenge": nonce.hex(),
        "response": response.hex()[:4096],
    }


def field_at(message: bytes, place: int) -> bytes:
    """A field of an NTLM message: its length and offset stand at `place`. Raises `ValueError`."""
    try:
        length, _, offset = struct.unpack_from("<HHI", message, place)
    except struct.error:
        raise ValueError("too short") from None
    return message[offset : offset + length]


def challenge_message(hostname: str, nonce: bytes, now: float) -> bytes:
    """[MS-NLMP] 2.2.1.2: a server in the domain that the host name has, by Windows's habits of naming."""
    computer, _, domain = hostname.partition(".")
    domain = domain or "local"
    short = domain.partition(".")[0].upper()
    pairs = [
        (2, short.encode("utf-16-le")),
        (1, computer[:15].upper().encode("utf-16-le")),
        (4, domain.encode("utf-16-le")),
        (3, f"{computer}.{domain}".encode("utf-16-le")),
        (5, domain.encode("utf-16-le")),
        (7, struct.pack("<Q", int((now + EPOCH_1601) * 10_000_000))),
        (0, b""),
    ]
    target = short.encode("utf-16-le")
    told = b"".join([struct.pack("<HH", kind, len(value)) + value for kind, value in pairs])
    head = 56
    return (
        NTLM
        + struct.pack("<I", 2)
        + struct.pack("<HHI", len(target), len(target), head)
        + struct.pack("<I", FLAGS)
        + nonce
        + bytes(8)
        + struct.pack("<HHI", len(told), len(told), head + len(target))
        + bytes([10, 0, 0x63, 0x45, 0, 0, 0, 15])  # 10.0.17763, NTLM revision 15
        + target
        + told
    )


MECHANISMS: dict[str, Callable[[str, str, float], Dialog]] = {
    "PLAIN": plain,
    "LOGIN": login,
    "CRAM-MD5": cram_md5,
    "NTLM": ntlm,
}
"""By its name (RFC 4422 3.1): what begins a dialog, from the host name, something that differs each time, and the time."""

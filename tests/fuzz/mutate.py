"""Inputs for the parsers: what is known to be interesting, changed a little or a lot. The same seed gives the same inputs."""

from __future__ import annotations

import base64
import random
from pathlib import Path

from tests.support.dialog import read

TESTS = Path(__file__).parents[1]
MOST = 65536
"""Octets of an input."""

WORDS = [
    b"\r\n", b"\n", b"\r", b".", b"\r\n.\r\n", b"\n.\n", b"\r\n.\n", b"\x00", b"\xff", b"\xc3\xa9", b" ", b"\t",
    b"\r\n ", b"<", b">", b"@", b'"', b"\\", b"(", b")", b"[", b"]", b",", b";", b":", b"=", b"+", b"%", b"=?", b"?=",
    b"=?utf-8?q?", b"=?utf-8?b?", b"\xe2\x80\xa8", b"xn--", b"EHLO x\r\n", b"HELO x\r\n", b"LHLO x\r\n",
    b"MAIL FROM:<a@b.example>", b"MAIL FROM:<>", b"RCPT TO:<a@b.example>\r\n", b"RCPT TO:<unknown@b.example>\r\n",
    b"DATA\r\n", b"RSET\r\n", b"NOOP\r\n", b"QUIT\r\n", b"VRFY x\r\n", b"BDAT 5\r\n", b"BDAT 10 LAST\r\n",
    b"BDAT 0 LAST\r\n", b"BDAT 99999\r\n", b" SIZE=1000", b" SIZE=", b" BODY=8BITMIME", b" BODY=BINARYMIME",
    b" SMTPUTF8", b" RET=HDRS", b" ENVID=a+2Bb", b" NOTIFY=SUCCESS,FAILURE", b" ORCPT=rfc822;a+40b", b" AUTH=<>",
    b"AUTH PLAIN AGEAYg==\r\n", b"STARTTLS\r\n", b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n", b"\r\n\r\n\x00\r\nQUIT\n",
    b"n,,n=user,r=nonce", b"Content-Type: multipart/mixed; boundary=b\r\n", b"--b\r\n", b"--b--\r\n", b"Received: ",
    b"From: ", b"DKIM-Signature: v=1; a=rsa-sha256; d=", b"ARC-Seal: i=1; cv=none; ",
    b"Authentication-Results: mx.test.example; ", b"v=spf1 ", b"include:", b"redirect=", b"exp=", b"%{i}", b"%{d}",
    b"ip4:", b"~all", b"v=DMARC1; p=reject; ", b"v=DKIM1; k=rsa; p=", b"0", b"1", b"65535", b"4294967296", b"-1",
    b"9" * 40,
]  # fmt: skip


def corpus() -> list[bytes]:
    """What clients say in the conversations of the tests, and the messages and records that the tests hold."""
    found = []
    for path in sorted((TESTS / "dialog").glob("*.txt")):
        try:
            steps = read(path).steps
        except ValueError:
            continue
        said = b"".join([value for kind, value in steps if kind == "write" and isinstance(value, bytes)])
        found.append(b"EHLO client.example\r\n" + said)
    files = sorted((TESTS / "data").rglob("*"))
    found += [path.read_bytes() for path in files if path.is_file() and path.stat().st_size <= MOST]
    found += [
        b"v=spf1 a mx include:b.example -all",
        b"v=DMARC1; p=reject; sp=none; adkim=s; aspf=r; pct=50; rua=mailto:a@b.example",
    ]
    found += [b"PROXY TCP6 2001:db8::1 2001:db8::2 65535 25\r\n", b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c" + bytes(12)]
    found += [b"n,,n=user,r=fyko+d2lbbFgONRv9qkxdawL", b"c=biws,r=abc,p=dHpi", b"\0user\0password"]
    found += [
        b'[replies]\n"550" = "no"\n',
        b"192.0.2.0/24\n2001:db8::/32 # why\n",
        b"alice:$scrypt$ln=14,r=8,p=1$c2FsdA$aGFzaA\n",
    ]
    return [one[:MOST] for one in found if one]


class Mutator:
    """An endless supply."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._corpus = corpus()

    def next(self) -> bytes:
        """One input of at most `MOST` octets."""
        dice = self._random
        octets = bytearray(dice.choice(self._corpus))
        if len(octets) > 4096 and dice.random() < 0.9:  # most inputs are small: there are more of them in a second
            begin = dice.randrange(len(octets) - 2048)
            octets = octets[begin : begin + dice.randrange(1, 2048)]
        for _ in range(1 << dice.randrange(4)):
            self._change(octets)
        return bytes(octets[:MOST])

    def _change(self, octets: bytearray) -> None:
        dice = self._random
        at = dice.randrange(len(octets) + 1)
        kind = dice.randrange(11)
        if kind <= 2:
            octets[at:at] = dice.choice(WORDS)
        elif kind == 3:
            octets[at : at + dice.randrange(1, 20)] = dice.choice(WORDS)
        elif kind == 4:
            del octets[at : at + dice.randrange(1, 40)]
        elif kind == 5 and octets:
            octets[at % len(octets)] = dice.randrange(256)
        elif kind == 6:
            octets[at:at] = octets[at : at + dice.randrange(1, 200)]
        elif kind == 7:
            other = dice.choice(self._corpus)
            begin = dice.randrange(len(other))
            octets[at:at] = other[begin : begin + dice.randrange(1, 300)]
        elif kind == 8:
            octets[at:at] = dice.choice(WORDS) * dice.choice([2, 10, 100, 1000] if dice.random() < 0.2 else [2, 3, 5])
        elif kind == 9:
            end = at + dice.randrange(1, 60)
            octets[at:end] = base64.b64encode(octets[at:end])
        else:
            octets[at:at] = dice.randbytes(dice.randrange(1, 16))

"""Mails that no agent may stumble over, by name: empty, huge, broken, hostile. All have CRLF line ends, as SMTP wants them.

`small()` are those of less than a megabyte, `large()` the others; both build anew at each call, so that no test keeps 100 MB.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Callable

FROM = "ann@sender.example"

Mails = dict[str, bytes]

PIXEL = base64.b64encode(
    b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\1\0\0\0\1\x08\6\0\0\0\x1f\x15\xc4\x89\0\0\0\rIDAT" + zlib.compress(b"\0" * 5)
)
BOMBS = (
    "a" * 40 + "!",
    "((((((((((" * 20,
    "x" * 5000 + " y" * 5000,
    ("a." * 200 + "@") * 20,
    "> " * 2000,
    "-- " * 2000,
)
TEMPLATES = (
    "{{7*7}}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{% for i in range(10**9) %}x{% endfor %}",
    "${7*7}",
    "#{7*7}",
)
NAMES = {
    "a path": "../../etc/passwd",
    "an absolute path": "/etc/passwd",
    "a path of Windows": "..\\..\\windows\\system32\\x.dll",
    "a drive": "C:evil.exe",
    "a NUL": "a\0.txt",
    "a line break": "=?utf-8?q?a=0D=0ABcc:_victim@victim.example?=",
    "an override": "=?utf-8?q?gpj=E2=80=AEexe.=E2=80=AC?=",
    "ten thousand letters": "x" * 10_000 + ".txt",
    "a device": "NUL",
    "dots": "..",
    "nothing": "",
    "a quote": 'a\\"; x=\\"y.txt',
    "a dash": "-rf",
    "a command": "$(touch hacked);`id`|x.txt",
}


def mail(
    text: str | bytes = "Hello\r\n",
    *fields: str | bytes,
    sender: str | None = f"Ann <{FROM}>",
    subject: str | bytes = "Hello",
) -> bytes:
    """A mail. Fields and text may be octets, to hold what no text may."""
    head: list[str | bytes] = [] if sender is None else [f"From: {sender}"]
    head += ["To: inbox@test.example", b"Subject: " + _octets(subject), *fields]
    return b"".join(_octets(line) + b"\r\n" for line in head) + b"\r\n" + _octets(text)


def _octets(text: str | bytes) -> bytes:
    return text.encode() if isinstance(text, str) else text


def part(body: str | bytes, *fields: str | bytes) -> bytes:
    return b"".join(_octets(line) + b"\r\n" for line in fields) + b"\r\n" + _octets(body) + b"\r\n"


def multipart(*parts: bytes, kind: str = "mixed", boundary: str = "b") -> bytes:
    """The body of a multipart; its Content-Type goes into the mail: `of(...)`."""
    line = f"--{boundary}".encode()
    return b"".join(line + b"\r\n" + one + b"\r\n" for one in parts) + line + b"--\r\n"


def of(kind: str = "mixed", boundary: str = "b") -> str:
    return f'Content-Type: multipart/{kind}; boundary="{boundary}"'


def attachment(name: str, body: bytes = b"aGVsbG8=", kind: str = "text/plain") -> bytes:
    return part(
        body,
        f'Content-Type: {kind}; name="{name}"',
        "Content-Transfer-Encoding: base64",
        f'Content-Disposition: attachment; filename="{name}"',
    )


def small() -> Mails:
    """Every bad mail of less than a megabyte, by name."""
    found: Mails = {}
    for group in (_empty, _broken, _structured, _headers, _hostile):
        found |= group()
    assert all(len(content) < 1_000_000 for content in found.values())
    return found


def large() -> dict[str, Callable[[], bytes]]:
    """Every bad mail of some megabytes, by name; each is made when it is called."""
    line = b"all work and no play makes Jack a dull boy, and that goes on and on\r\n"
    blob = base64.encodebytes(bytes(range(256)) * 40_000).replace(b"\n", b"\r\n")
    return {
        "10 MB of text": lambda: mail(line * 150_000),
        "10 MB of HTML": lambda: mail(b"<div><p>Hello <b>there</b></p></div>\r\n" * 270_000, "Content-Type: text/html"),
        "10 MB of one attachment": lambda: mail(
            multipart(part("Hello"), attachment("big.bin", blob, "application/octet-stream")), of()
        ),
        "10 MB on one line": lambda: mail(b"x" * 10_000_000 + b"\r\n"),
        "10 MB of quotes": lambda: mail(b"> > > quoted text\r\n" * 550_000),
        "10 MB of base64 that is text": lambda: mail(
            blob, "Content-Type: text/plain", "Content-Transfer-Encoding: base64"
        ),
        "100,000 header lines": lambda: mail("Hello\r\n", *[f"X-Header-{number}: value" for number in range(100_000)]),
        "a subject of 2 MB": lambda: mail("Hello\r\n", subject=b"a b\r\n " * 330_000 + b"end"),
        "100,000 attachments": lambda: mail(multipart(part("Hello"), *[b"\r\nx"] * 100_000), of()),
    }


def _empty() -> Mails:
    return {
        "zero octets": b"",
        "one line end": b"\r\n",
        "only a header": b"From: Ann <ann@sender.example>\r\nSubject: Hello\r\n",
        "only a body": b"\r\nHello\r\n",
        "no header at all": b"Hello, is anybody there?\r\n",
        "an empty text": mail(""),
        "no text part": mail(PIXEL + b"\r\n", "Content-Type: image/png", "Content-Transfer-Encoding: base64"),
        "an image in a multipart": mail(multipart(attachment("a.png", PIXEL, "image/png")), of()),
        "an empty From": mail(sender=""),
        "no From": mail(sender=None),
        "a From without an address": mail(sender="Ann"),
        "an empty Subject": mail(subject=""),
        "an empty multipart": mail(b"", of()),
        "a multipart without parts": mail(b"--b--\r\n", of()),
        "white space": mail(" \t\r\n" * 100),
    }


def _broken() -> Mails:
    text = "Content-Type: text/plain; charset="
    return {
        "an unknown charset": mail(b"Gr\xfc\xdfe\r\n", f"{text}x-unknown-8859"),
        "a wrong charset": mail(b"Gr\xfc\xdfe\r\n", f"{text}utf-8"),
        "a charset that is none": mail(b"Hello\r\n", f"{text}idna"),
        "a charset with a path": mail(b"Hello\r\n", f'{text}"../../etc/passwd"'),
        "UTF-7 with half a surrogate": mail(b"+2AA-x\r\n", f"{text}utf-7"),
        "UTF-8 with a surrogate": mail(b"\xed\xa0\x80 \xed\xb0\x80\r\n", f"{text}utf-8"),
        "UTF-16": mail("Hello".encode("utf-16"), f"{text}utf-16"),
        "broken base64": mail("SGVsbG8!!!=?\r\nabc\r\n", "Content-Transfer-Encoding: base64"),
        "broken quoted-printable": mail("a=ZZb=\r\n=4\r\n=\r\n", "Content-Transfer-Encoding: quoted-printable"),
        "an unknown encoding": mail("Hello\r\n", "Content-Transfer-Encoding: x-uuencode"),
        "binary as text": mail(bytes(octet for octet in range(256) if octet not in (10, 13)) * 20, f"{text}us-ascii"),
        "NULs": mail(b"a\0b\0\0\0c\r\n" * 50),
        "controls": mail(b"\x1b[2J\x1b]0;owned\x07\x9b31m\x08\x7f\r\n" * 50),
        "no end of the multipart": mail(b"--b\r\n\r\nHello\r\n", of()),
        "a multipart without a boundary": mail("Hello\r\n", "Content-Type: multipart/mixed"),
        "a type that is none": mail("Hello\r\n", "Content-Type: ;;;=///"),
        "a date that is none": mail("Hello\r\n", "Date: Someday, 99 Nevuary 99999 99:99:99 +9999"),
        "a Message-ID that is none": mail("Hello\r\n", "Message-ID: <<<@>>> x"),
        "a line without a colon": b"From: ann@sender.example\r\nthis is no field\r\nSubject: Hello\r\n\r\nHello\r\n",
    }


def _structured() -> Mails:
    nested = part("Hello")
    for depth in range(100):
        nested = part(multipart(nested, boundary=f"b{depth}"), of(boundary=f"b{depth}"))
    inner = mail("inner")
    for _ in range(20):
        inner = mail(inner, "Content-Type: message/rfc822")
    calendar = (
        "BEGIN:VCALENDAR\r\nMETHOD:REQUEST\r\nBEGIN:VEVENT\r\nUID:1\r\nSUMMARY:{{7*7}}\r\nEND:VEVENT\r\nEND:VCALENDAR"
    )
    return {
        "1,000 attachments": mail(
            multipart(part("Hello"), *[attachment(f"{number}.txt") for number in range(1000)]), of()
        ),
        "multiparts 100 deep": b"From: ann@sender.example\r\nSubject: deep\r\n" + nested,
        "a boundary within a boundary": mail(multipart(part(b"--b\r\n--b\r\n--b--"), part("x")), of()),
        "messages in messages": inner,
        "a digest": mail(multipart(mail("one"), mail("two"), kind="digest"), of("digest")),
        "a calendar invitation": mail(
            multipart(
                part("Join us"), part(calendar, "Content-Type: text/calendar; method=REQUEST"), kind="alternative"
            ),
            of("alternative"),
        ),
        "winmail.dat": mail(
            multipart(
                part("Hello"),
                attachment("winmail.dat", base64.b64encode(b"\x78\x9f\x3e\x22" * 9), "application/ms-tnef"),
            ),
            of(),
        ),
        "a text of attachments' type": mail("Hello\r\n", 'Content-Type: application/pdf; name="a.pdf"'),
        "HTML that is hostile": mail(
            "<script>alert(1)</script><!-- <b <i>x" + "<div>" * 5000 + "<img src=x onerror=alert(1)>",
            "Content-Type: text/html",
        ),
        "a signed one": mail(
            multipart(part("Hello"), attachment("signature.asc", b"eA==", "application/pgp-signature"), kind="signed"),
            of("signed"),
        ),
        "an encrypted one": mail(
            multipart(part("Version: 1", "Content-Type: application/pgp-encrypted")), of("encrypted")
        ),
    } | {f"a file named {name}": mail(multipart(part("Hello"), attachment(text)), of()) for name, text in NAMES.items()}


def _headers() -> Mails:
    sneaky = "Hi\r\nBcc: victim@victim.example"
    encoded = "=?utf-8?b?" + base64.b64encode(sneaky.encode()).decode() + "?="
    return {
        "8-bit headers": mail(
            "Hello\r\n", b"X-Name: Gr\xfc\xdfe", sender="Jürg <ann@sender.example>", subject=b"Gr\xfc\xdfe \xff\xfe"
        ),
        "a subject that injects": mail(subject=encoded),
        "a subject that injects, quoted": mail(
            subject="=?utf-8?q?Hi=0D=0ABcc:_victim@victim.example=0D=0A=0D=0Ahacked?="
        ),
        "a From that injects": mail(sender=f"{encoded} <{FROM}>"),
        "a From that injects, quoted": mail(sender=f"=?utf-8?q?x=0AReply-To:_victim@victim.example?= <{FROM}>"),
        "a Message-ID that injects": mail("Hello\r\n", "Message-ID: <a@b>\t\r\n Bcc:victim@victim.example"),
        "a Reply-To of others": mail(
            "Hello\r\n", "Reply-To: victim@victim.example", "Disposition-Notification-To: victim@victim.example"
        ),
        "a hundred authors": mail(sender=", ".join(f"a{number}@sender.example" for number in range(100))),
        "fields twice": mail(
            "Hello\r\n", "Subject: other", "From: bob@sender.example", "Message-ID: <1@x>", "Message-ID: <2@x>"
        ),
        "a subject of encoded words": mail(subject="\r\n ".join(["=?utf-8?q?=C3=A4?="] * 2000)),
        "a subject with half a word": mail(subject="=?utf-8?b?w6Q=?= =?utf-8?q?=C3"),
        "a subject of controls": mail(subject=b"\x1b[2J\0\x07\x9b owned"),
        "a subject with overrides": mail(subject="\u202eabc\u2066\u200f"),
        "a thousand references": mail(
            "Hello\r\n",
            "References: " + "\r\n ".join(f"<{n}@sender.example>" for n in range(1000)),
            "Message-ID: <r@x>",
        ),
        "a field of 100 KB": mail("Hello\r\n", "X-Long: " + "x" * 100_000),
        "parameters without end": mail("Hello\r\n", "Content-Type: text/plain" + ";a=b" * 5000),
        "parameters continued": mail(
            "Hello\r\n", "Content-Type: text/plain; " + "; ".join(f"name*{n}=x" for n in range(2000))
        ),
        "comments in comments": mail(
            "Hello\r\n", "Content-Type: text/plain " + "(" * 5000, sender="(" * 3000 + f" <{FROM}>"
        ),
    }


def _hostile() -> Mails:
    found = {
        f"a template: {text}": mail(f"{text}\r\n", subject=text, sender=f'"{text}" <{FROM}>') for text in TEMPLATES
    }
    found |= {
        f"a bomb for patterns, {number}": mail(f"{text}\r\n", subject=text[:900])
        for number, text in enumerate(BOMBS, 1)
    }
    return found | {
        "a command": mail("; rm -rf / $(reboot) `id` | cat /etc/passwd\r\n", subject="--help; $(reboot)"),
        "a query": mail("'; DROP TABLE inbound; --\r\n", subject="' OR 1=1 --"),
        "JSON": mail('{"a": [1, "\\ud800"], "__proto__": 1}\r\n', subject='"}],"x":['),
        "subscribe": mail("subscribe\r\n", subject="subscribe"),
        "unsubscribe": mail("unsubscribe\r\n", subject="unsubscribe"),
        "a token that is none": mail("confirm 00000000\r\n", subject="Re: confirm 0123456789abcdef"),
        "SMTP in the text": mail("\r\n.\r\nMAIL FROM:<x@victim.example>\r\nQUIT\r\n"),
        "a From line": mail("From ann@sender.example Mon Jan  1 00:00:00 2024\r\n>From x\r\n"),
    }

"""A load client that comes by every door: DATA and BDAT, STARTTLS, implicit TLS, logged in, by LMTP, behind a PROXY header.

The books are those of `tests.support.load`. A mail asks for a notification of success (its ENVID is `e` and its number) where
`wants_receipt` says so.

    python -m tests.support.mixed_load --doors smtp:8025,smtps:8026,... --ledger FILE [--connections 8] [--rate N] [--seed S]

A door is `smtp`, `bdat`, `starttls`, `smtps`, `login`, `lmtp` or `proxy`.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import ssl
from pathlib import Path

from tests.support.load import DOMAIN, INBOXES, REPLY, Connection, Load, Mail, Refused
from tests.support.logins import plain
from tests.support.proxy_header import text_header


def wants_receipt(number: int) -> bool:
    """Whether the mail of that number asks for NOTIFY=SUCCESS,FAILURE."""
    return number % 3 == 0


class Door(Connection):
    """One connection, by one of the doors."""

    kind = "smtp"
    wishes = True

    @classmethod
    async def enter(cls, kind: str, port: int) -> Door:
        """Connect, and say what is said there first. Raises `OSError`."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        async with asyncio.timeout(REPLY):
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", port, ssl=context if kind == "smtps" else None, limit=1 << 20
            )
        door = cls(reader, writer)
        door.kind = kind
        try:
            if kind == "proxy":
                writer.write(text_header(f"192.0.{random.randrange(250)}.7"))  # a stranger each time
            await door.reply()
            hello = f"{'LHLO' if kind == 'lmtp' else 'EHLO'} {DOMAIN}"
            await door.command(hello)
            if kind in ("starttls", "login"):
                if (reply := await door.command("STARTTLS"))[:3] != "220":
                    raise ConnectionResetError(reply)
                async with asyncio.timeout(REPLY):
                    await writer.start_tls(context)
                await door.command(hello)
            if kind == "login" and (reply := await door.command(f"AUTH PLAIN {plain('ann', 'secret')}"))[:3] != "235":
                raise ConnectionResetError(reply)
        except BaseException:
            door.close()
            raise
        return door

    async def envelope(self, mail: Mail) -> None:
        wish = " NOTIFY=SUCCESS,FAILURE" if wants_receipt(mail.number) else ""
        lines = [f"MAIL FROM:<{mail.sender}>{f' RET=HDRS ENVID=e{mail.number}' if wish else ''}"]
        lines += [f"RCPT TO:<{to}>{wish}" for to in mail.recipients]
        for line in [*lines, *([] if self.kind == "bdat" else ["DATA"])]:
            reply = await self.command(line)
            if reply[:1] not in "23":
                await self.command("RSET")
                raise Refused(reply)

    async def dot(self, mail: Mail) -> str:
        """The message; where there is a reply for each recipient, one that says 250 only if all do."""
        if self.kind != "bdat":
            self._writer.write(mail.content)
            found = [await self.reply() for _ in (mail.recipients if self.kind == "lmtp" else (1,))]
            return next((reply for reply in found if not reply.startswith("250 ")), found[0])
        content = mail.content.removesuffix(b".\r\n")
        cut = mail.number * 7 % len(content)
        self._writer.write(b"BDAT %d\r\n%s" % (cut, content[:cut]))
        first = await self.reply()
        if not first.startswith("250 "):
            await self.command("RSET")
            return first
        self._writer.write(b"BDAT %d LAST\r\n%s" % (len(content) - cut, content[cut:]))
        return await self.reply()


def make_mail(run: str, number: int, chance: random.Random) -> Mail:
    """Most go to one agent; some to several, some are forwarded, some to where nothing arrives."""
    recipients: tuple[str, ...] = (f"echo@{INBOXES}",)
    if number % 10 in (2, 3):
        recipients = (f"echo+one@{INBOXES}", f"echo+two@{INBOXES}", f"current-time@{INBOXES}")
    elif number % 10 == 6:
        recipients = (f"away@{INBOXES}",)
    elif number % 20 == 9:
        recipients = (f"nowhere@{INBOXES}",)
    size = chance.choice((20, 200, 2000, 20000, 90000))
    words = " ".join(f"{chance.getrandbits(32):08x}" for _ in range(size // 9 + 1))
    body = "\r\n".join(words[at : at + 72] for at in range(0, len(words), 72))
    word = chr(97 + number // 40 % 26)  # what the greylist sees of a sender
    return Mail(number, f"<{run}.{number}@{DOMAIN}>", f"{run}-{word}-{number}@{DOMAIN}", recipients, body)


class MixedLoad(Load):
    """Each connection has its door."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.doors = [(kind, int(port)) for kind, _, port in (door.partition(":") for door in options.doors.split(","))]
        options.ports = ",".join(str(number) for number in range(len(self.doors)))
        super().__init__(options)

    async def _open(self, port: int) -> Connection:
        try:
            return await Door.enter(*self.doors[port])
        except (TimeoutError, ValueError, AttributeError) as error:  # StreamReader in a handshake that is cut
            raise ConnectionResetError(str(error)) from error

    def _make(self) -> Mail:
        return make_mail(self.run_name, self.made, self.chance)


def main() -> None:
    parser = argparse.ArgumentParser(description="An SMTP client that comes by every door, and keeps account.")
    parser.add_argument("--doors", required=True)
    parser.add_argument("--ledger", type=Path, required=True)
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--mails", type=int)
    parser.add_argument("--rate", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()

    async def run() -> None:
        client = MixedLoad(options)
        print("ready", flush=True)
        await client.run()

    asyncio.run(run())


if __name__ == "__main__":
    main()

"""`responder send`: one mail, composed or taken from a file, put into the queue."""

from __future__ import annotations

import argparse
import asyncio
import sys
from mimetypes import guess_type
from pathlib import Path

from responder.agents.router import Router
from responder.cli.options import Verbs, configuration, with_store
from responder.cli.output import harmless, print_json
from responder.cli.selecting import text_of
from responder.clock import Clock, SystemClock
from responder.config import Config
from responder.mail.address import Address, AddressError, from_header, parse
from responder.mail.binary import with_line_ends
from responder.mail.compose import Attachment
from responder.mail.headers import Headers
from responder.mail.letter import compose_letter
from responder.mail.mailboxes import authors
from responder.mail.thread import message_id
from responder.mail.write import format_date
from responder.start import StartError
from responder.store.records import NewMail, NewOutbound

BAD_USE = 2
MAX_RECIPIENTS = 1000


def add(verbs: Verbs, common: argparse.ArgumentParser) -> None:
    verb = verbs.add_parser(
        "send",
        parents=[common],
        help="put one mail into the queue",
        description="Compose one mail, or take it from a file, and queue it. Works beside the server, which sends it within"
        " seconds, and without it. Who is at a domain of ours gets it in the inbox. Prints the mail's id, for `explain`.",
    )
    verb.add_argument(
        "--from", dest="sender", type=text_of, metavar="ADDRESS", required=True, help="who writes: at one of `domains`"
    )
    verb.add_argument(
        "--to",
        action="extend",
        type=text_of,
        nargs="+",
        metavar="ADDRESS",
        required=True,
        help="whom to; may be given more than once",
    )
    verb.add_argument("--subject", default="", help="the subject")
    verb.add_argument("--text", help="the text (default: standard input)")
    verb.add_argument(
        "--attach", action="append", type=Path, default=[], metavar="FILE", help="a file; may be given more than once"
    )
    verb.add_argument(
        "--eml", type=Path, metavar="FILE", help="a whole message in place of these; - for standard input"
    )
    verb.add_argument("--json", action="store_true", help="for programs")
    verb.set_defaults(run=run)


class _MisuseError(Exception):
    """What was asked for can't be done: one line."""


def run(options: argparse.Namespace) -> int:
    config, file = configuration(options)
    clock = SystemClock()
    try:
        mail = _mail(options, config, file, clock)
    except _MisuseError as error:
        sys.stderr.write(f"responder: {harmless(str(error))}\n")
        return BAD_USE
    with_store(options, lambda store: store.accept(mail))
    items = [f"{mail.id}.{number}" for number in range(len(mail.recipients))] + [item.id for item in mail.relayed]
    if options.json:
        print_json({"id": mail.id, "message_id": mail.message_id, "items": items})
    else:
        sys.stdout.write(f"Queued as {mail.id}\n")
    return 0


def _mail(options: argparse.Namespace, config: Config, file: Path, clock: Clock) -> NewMail:
    """What is stored. Raises `_MisuseError`, `StartError`."""
    name, sender = _address("--from", options.sender)
    if sender.domain not in config.domains:
        raise _MisuseError(f"--from: {sender.domain} is none of domains ({', '.join(config.domains)})")
    to = list(dict.fromkeys([_address("--to", text)[1] for text in options.to]))
    if len(to) > MAX_RECIPIENTS:
        raise _MisuseError(f"--to: more than {MAX_RECIPIENTS} recipients")
    router = Router(config.inboxes, config.domains)
    ours: list[tuple[str, str]] = []
    others: list[Address] = []
    for address in to:
        route = router.find(address) if router.serves(address.domain) else None
        if route is not None:
            ours.append((str(route.mailbox), route.inbox))
        elif router.serves(address.domain):
            raise _MisuseError(f"--to: {address}: no such inbox here")
        else:
            others.append(address)
    identifier, now = clock.new_id(), clock.now()
    content = _content(options, config, name, sender, to, f"<{identifier}@{config.hostname}>", now)
    content = _signed(content, sender.domain, config, file, clock)
    if len(content) > config.limits.message_size:
        raise _MisuseError(f"the mail has {len(content)} octets, limits.message_size is {config.limits.message_size}")
    return NewMail(
        id=identifier,
        received_at=now,
        reverse_path=str(sender),
        peer="",
        helo="",
        message_id=message_id(Headers.parse(content)),
        content=content,
        recipients=tuple(ours),
        note=f"by responder send, {len(content)} octets",
        relayed=tuple(
            [
                NewOutbound(
                    id=clock.new_id(),
                    kind="relay",
                    cause=f"{identifier}.{number}",
                    inbox="",
                    content_id=identifier,
                    reverse_path=str(sender),
                    recipient=str(address),
                    domain=address.domain,
                    return_to=str(sender),
                    created_at=now,
                    expires_at=now + config.delivery.expire,
                )
                for number, address in enumerate(others, len(ours))
            ]
        ),
    )


def _address(option: str, text: str) -> tuple[str, Address]:
    """`ann@example.org` or `Ann <ann@example.org>`. Raises `_MisuseError`."""
    try:
        return "", parse(text)
    except AddressError as error:
        found = from_header(text)
        if len(found) == 1 and text.rstrip().endswith(">"):
            return found[0]
        raise _MisuseError(f"{option}: {text}: {error}") from None


def _content(
    options: argparse.Namespace,
    config: Config,
    name: str,
    sender: Address,
    to: list[Address],
    identifier: str,
    now: float,
) -> bytes:
    if options.eml is None:
        text = sys.stdin.read() if options.text is None else options.text
        files = []
        for path in options.attach:
            kind, coding = guess_type(path.name)
            files.append(
                Attachment(path.name, kind if kind and not coding else "application/octet-stream", _read(path))
            )
        try:
            return compose_letter(
                author=sender,
                to=to,
                subject=options.subject,
                text=text,
                message_id=identifier,
                date=now,
                name=name,
                attachments=files,
            )
        except ValueError as error:
            raise _MisuseError(str(error)) from None
    if options.subject or options.text is not None or options.attach:
        raise _MisuseError("--eml is the whole message: it goes without --subject, --text and --attach")
    content = with_line_ends(_read(options.eml))
    headers = Headers.parse(content)
    found = authors(headers)
    if not found or not set(found) <= set(config.domains):
        raise _MisuseError(f"{options.eml}: its From is not one of our domains ({', '.join(config.domains)}) alone")
    missing = "" if headers.get("date") else f"Date: {format_date(now)}\r\n"
    missing += "" if headers.get("message-id") else f"Message-ID: {identifier}\r\n"
    return missing.encode() + content


def _read(path: Path) -> bytes:
    if path == Path("-"):
        return sys.stdin.buffer.read()
    try:
        return path.read_bytes()
    except OSError as error:
        raise _MisuseError(f"{path}: {error.strerror}") from None


def _signed(content: bytes, domain: str, config: Config, file: Path, clock: Clock) -> bytes:
    """With the signatures of a domain on top, where it has keys. Raises `StartError`."""
    if config.dkim.keys is None:
        return content
    from responder.inbound.followed import FileError
    from responder.sealing import Sealer, SealingError, make_signing_keys

    try:
        keys = make_signing_keys(config)
        if keys is None:
            return content
        sealer = Sealer(config.dkim, keys, clock)
        try:
            return asyncio.run(sealer.sign(content, domain)) + content
        finally:
            sealer.close()
    except (FileError, SealingError) as error:
        raise StartError(f"{file}: {error}") from error

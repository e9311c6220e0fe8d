"""`responder try`: one mail through gate, route, agent and composer, with nothing stored and nothing sent."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Collection, Sequence
from contextlib import nullcontext, redirect_stdout
from dataclasses import replace
from email.utils import parseaddr
from pathlib import Path
from typing import cast

from responder.agents.host import Host
from responder.agents.load import PluginError
from responder.answering.setup import Setup, equip
from responder.answering.stage import Answering
from responder.cli.options import Verbs, configuration
from responder.cli.output import bold, harmless, print_json
from responder.clock import SystemClock
from responder.mail.address import Address, AddressError, parse
from responder.mail.headers import Headers
from responder.mail.lifecycle import Event
from responder.mail.thread import message_id
from responder.start import StartError, prepare
from responder.store.base import Store
from responder.store.records import Claim, InboundItem, Memory, Settlement, Window

PATIENCE = 5.0  # seconds that an agent gets to stop in


def add(verbs: Verbs, common: argparse.ArgumentParser) -> None:
    verb = verbs.add_parser(
        "try",
        parents=[common],
        help="show what a mail in a file would be answered",
        description="Take one mail through gate, route, agent and composer. Nothing is stored or sent. Exit status 1 where the"
        " agent failed.",
    )
    verb.add_argument("inbox", metavar="INBOX", help="an inbox (echo) or an address (echo+tag@example.org)")
    verb.add_argument("file", metavar="FILE.eml", type=Path, help="the mail; - for standard input")
    verb.add_argument(
        "--from", dest="sender", metavar="ADDRESS", help="the reverse-path (default: Return-Path, else From)"
    )
    verb.add_argument("--json", action="store_true", help="for programs")
    verb.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    config, file = configuration(options)
    setup = _once(prepare(config, file))
    content = _read(options.file)
    headers = Headers.parse(content)
    recipient = _recipient(options.inbox, config.domains[0])
    route = setup.router.find(recipient)
    if not setup.router.serves(recipient.domain):
        raise StartError(f"{file}: domains: {recipient.domain} is not among them ({', '.join(config.domains)})")
    if route is None:
        raise StartError(
            f"{file}: inboxes: there is none for {recipient} (there are: {', '.join(config.inboxes) or 'none'})"
        )
    sender = options.sender if options.sender is not None else _sender(headers)
    item = InboundItem(
        id="000000000000000000.0",
        mail_id="000000000000000000",
        recipient=str(recipient),
        inbox=route.inbox,
        claim=Claim("", 1),
        received_at=0.0,
        reverse_path=sender.strip("<>"),
        peer="",
        helo="",
        message_id=message_id(headers),
        content=content,
    )
    with asyncio.Runner() as runner:
        with redirect_stdout(sys.stderr) if options.json else nullcontext():  # what the agent prints is no JSON
            settlement, stuck = runner.run(_answer(setup, item))
        _show(settlement, item, options.json)
        status = 1 if settlement.event in (Event.FAIL, Event.DEFER) else 0
        if stuck:  # an agent that goes on behind its time limit would be waited for, for ever
            sys.stdout.flush()
            os._exit(status)
    return status


def _show(settlement: Settlement, item: InboundItem, as_json: bool) -> None:
    """What the mail came to."""
    if as_json:
        print_json(
            {
                "inbox": item.inbox,
                "recipient": item.recipient,
                "sender": item.reverse_path,
                "event": settlement.event,
                "reason": settlement.reason,
                "messages": [
                    {
                        "kind": message.kind,
                        "reverse_path": message.reverse_path,
                        "recipient": message.recipient,
                        "content": dict(settlement.contents)[message.content_id].decode("utf-8", "replace"),
                    }
                    for message in settlement.outbound
                ],
            }
        )
        return
    reason, *details = settlement.reason.splitlines()
    sys.stdout.write(f"{bold('inbox')}     {item.inbox} ({item.recipient})\n")
    sys.stdout.write(f"{bold('sender')}    {harmless(f'<{item.reverse_path}>')}\n")
    sys.stdout.write(f"{bold('decision')}  {settlement.event}: {harmless(reason)}\n")
    sys.stdout.writelines(f"    {harmless(line)}\n" for line in details)
    for message in settlement.outbound:
        envelope = f"from <{message.reverse_path}> to <{message.recipient}>"
        sys.stdout.write(f"\n{bold(message.kind)} {harmless(envelope)}\n\n")
        text = dict(settlement.contents)[message.content_id].decode("utf-8", "replace")
        sys.stdout.write("\n".join([harmless(line) for line in text.splitlines()]) + "\n")


def _once(setup: Setup) -> Setup:
    """With one attempt: the agent's failure is told at once and in full."""
    answering = setup.config.answering.model_copy(update={"attempts": 1})
    return replace(setup, config=setup.config.model_copy(update={"answering": answering}))


class _Nothing:
    """Stands where the stage's store is: a trial has no windows to look into, brings its content along, and its agents
    remember nothing."""

    async def exceeded(self, windows: Sequence[Window]) -> Window | None:
        return None

    async def sent(self, item_id: str) -> tuple[str, str] | None:
        return None

    async def values(self, inbox: str, keys: Collection[str]) -> dict[str, tuple[str, str, float]]:
        return {}

    async def values_below(self, inbox: str, prefix: str) -> dict[str, str]:
        return {}

    async def remember(self, what: Memory) -> bool:
        return True


async def _answer(setup: Setup, item: InboundItem) -> tuple[Settlement, int]:
    """The stage's own work on one item, and how many agents don't end."""
    host, store, clock = Host(1), cast(Store, _Nothing()), SystemClock()
    equip(setup, store, clock)
    inboxes = [setup.inboxes[item.inbox]] if item.inbox in setup.inboxes else []
    try:
        await host.start(inboxes)
        settlement = await Answering(setup, store, host, clock).handle(item)
        await host.retire(inboxes, PATIENCE)
        return settlement, host.stuck
    except PluginError as error:
        raise StartError(str(error)) from error
    finally:
        host.close()


def _read(path: Path) -> bytes:
    try:
        content = sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
    except OSError as error:
        raise StartError(f"{path}: {error.strerror}") from error
    # As SMTP would have brought it
    return content.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\r\n")


def _recipient(text: str, domain: str) -> Address:
    try:
        return parse(text if "@" in text else f"{text}@{domain}")
    except AddressError as error:
        raise StartError(f"{text}: {error}") from error


def _sender(headers: Headers) -> str:
    path = headers.get("return-path")
    return path if path else parseaddr(headers.get("from"))[1]

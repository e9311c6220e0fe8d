"""`responder suppress`: who is not written to, and an operator's hand on that list."""

from __future__ import annotations

import argparse
import sys

from responder.cli.options import Verbs, count, with_store
from responder.cli.output import harmless, print_json, print_table, when
from responder.cli.selecting import text_of
from responder.clock import SystemClock
from responder.config.units import parse_span
from responder.mail.address import Address, AddressError, parse
from responder.store.base import Store
from responder.store.returns import Suppression


def add(verbs: Verbs, common: argparse.ArgumentParser) -> None:
    place = verbs.add_parser(
        "suppress",
        help="list, add, remove: mailboxes that are not written to",
        description="Mailboxes that are not written to: they do not exist, their owners complained, or you said so.",
    )
    inner = place.add_subparsers(metavar="WHAT", required=True)

    text = "who is not written to"
    verb = inner.add_parser("list", parents=[common], help=text, description=f"{text.capitalize()}.")
    verb.add_argument("--inbox", type=text_of, metavar="NAME", help="for that inbox alone")
    verb.add_argument("--limit", type=count, default=1000, metavar="N", help="at most that many (default: 1000)")
    verb.add_argument("--json", action="store_true", help="for programs")
    verb.set_defaults(run=list_entries)

    verb = inner.add_parser(
        "add", parents=[common], help="write to these no more", description="Write to these no more."
    )
    verb.add_argument(
        "addresses", type=_address, metavar="ADDRESS", nargs="+", help="a mailbox: its case does not count"
    )
    verb.add_argument(
        "--inbox",
        type=text_of,
        default="",
        metavar="NAME",
        help="only what is that inbox's mail (default: of all inboxes)",
    )
    verb.add_argument(
        "--for", dest="span", type=_span, default=0.0, metavar="TIME", help='for so long, "30d" (default: for ever)'
    )
    verb.add_argument(
        "--reason", type=text_of, default="", metavar="TEXT", help="what `suppress list` and `explain` tell"
    )
    verb.add_argument("--json", action="store_true", help="for programs")
    verb.set_defaults(run=add_entries)

    verb = inner.add_parser(
        "remove", parents=[common], help="write to these again", description="Write to these again."
    )
    verb.add_argument(
        "addresses", type=_address, metavar="ADDRESS", nargs="+", help="a mailbox: its case does not count"
    )
    verb.add_argument("--inbox", type=text_of, metavar="NAME", help="of that inbox alone (default: of all)")
    verb.add_argument("--json", action="store_true", help="for programs")
    verb.set_defaults(run=remove_entries)


def _address(argument: str) -> Address:
    try:
        return parse(argument.encode("utf-8", "replace").decode().strip("<> "))
    except AddressError as error:
        raise argparse.ArgumentTypeError(f"is no address: {error}") from None


def _span(argument: str) -> float:
    try:
        return parse_span(argument)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def list_entries(options: argparse.Namespace) -> int:
    entries = with_store(options, lambda store: store.suppressions(options.inbox, options.limit))
    if options.json:
        print_json(entries)
    elif entries:
        rows = [
            (
                e.address,
                e.inbox or "(all)",
                e.reason,
                when(e.created_at),
                when(e.expires_at) if e.expires_at else "never",
                e.detail,
            )
            for e in entries
        ]
        print_table(("address", "inbox", "reason", "since", "until", "detail"), rows)
    else:
        sys.stdout.write("Everybody is written to.\n")
    return 0


def add_entries(options: argparse.Namespace) -> int:
    now = SystemClock().now()
    until = now + options.span if options.span else 0.0
    entries = [
        Suppression(a.key, options.inbox, "operator", options.reason[:300], now, until) for a in options.addresses
    ]

    async def each(store: Store) -> None:
        for entry in entries:
            await store.suppress(entry)

    with_store(options, each)
    if options.json:
        print_json(entries)
        return 0
    for entry in entries:
        whose = f" for {entry.inbox}" if entry.inbox else ""
        sys.stdout.write(
            harmless(f"{entry.address} is not written to{whose}, until {when(until) if until else 'you say so'}") + "\n"
        )
    return 0


def remove_entries(options: argparse.Namespace) -> int:
    async def each(store: Store) -> list[tuple[str, int]]:
        return [(address.key, await store.unsuppress(address.key, options.inbox)) for address in options.addresses]

    removed = with_store(options, each)
    if options.json:
        print_json([{"address": address, "removed": number} for address, number in removed])
    for address, number in removed:
        if not number:
            sys.stderr.write(harmless(f"responder: {address}: is not on the list") + "\n")
        elif not options.json:
            sys.stdout.write(harmless(f"{address} is written to again") + "\n")
    return 0 if all(number for _, number in removed) else 1

"""`responder queue ...` and `responder explain`: the operator's view of every mail, and hand on it."""

from __future__ import annotations

import argparse
import sys

from responder.cli import decoys, destinations, selecting
from responder.cli.options import Verbs, configuration, count, with_store
from responder.cli.output import bold, harmless, print_json, print_table, when
from responder.cli.selecting import add_filters, selected, text_of
from responder.mail.lifecycle import State
from responder.outbound.base import Envelope
from responder.outbound.print import render
from responder.store.base import Store
from responder.store.records import Account, ItemView


def add(verbs: Verbs, common: argparse.ArgumentParser) -> None:
    queue = verbs.add_parser(
        "queue",
        help="list, show, retry, hold, release, drop, expire, destinations, stats",
        description="The queue: what has come in and what goes out. Works beside the server, and without it.",
    )
    inner = queue.add_subparsers(metavar="WHAT", required=True)

    verb = inner.add_parser(
        "list",
        parents=[common],
        help="what waits, is under way, held, or failed",
        description="What waits, is under way, held, or failed, oldest first. With --state, what is in that state.",
    )
    add_filters(verb)
    verb.add_argument("--limit", type=count, default=1000, metavar="N", help="at most that many (default: 1000)")
    verb.add_argument("--json", action="store_true", help="for programs")
    verb.set_defaults(run=list_items)

    text = "one item: its state, history and message"
    verb = inner.add_parser("show", parents=[common], help=text, description=f"Show {text}.")
    verb.add_argument("id", type=text_of, metavar="ID", help="an item's id, or a mail's for its first recipient")
    verb.add_argument("--json", action="store_true", help="for programs")
    verb.set_defaults(run=show)

    selecting.add(inner, common)

    destinations.add(inner, common)

    text = "how many items are in each state"
    verb = inner.add_parser("stats", parents=[common], help=text, description=f"Count {text}.")
    verb.add_argument(
        "--by", choices=("domain", "inbox"), help="what waits to leave or has failed, for those that have most of it"
    )
    verb.add_argument("--top", type=count, default=20, metavar="N", help="with --by: that many of them (default: 20)")
    verb.add_argument("--json", action="store_true", help="for programs")
    verb.set_defaults(run=stats)

    verb = verbs.add_parser(
        "explain",
        parents=[common],
        help="why a mail was (not) answered: its whole history",
        description="The whole history of a mail, from its connection to the remote host's last word.",
    )
    verb.add_argument(
        "key",
        type=text_of,
        metavar="ID-or-MESSAGE-ID",
        help="a mail's or an item's id, a Message-ID with or without <>, a decoy's session, or the id that a decoy told",
    )
    verb.add_argument("--json", action="store_true", help="for programs")
    verb.set_defaults(run=explain)


def list_items(options: argparse.Namespace) -> int:
    selection = selected(options)
    items = with_store(options, lambda store: store.items(selection.states, options.limit, selection))
    if options.json:
        print_json(items)
    elif items:
        print_table(
            ("id", "direction", "state", "kind", "from", "to", "attempts", "received", "due", "reason"),
            [_row(item) for item in items],
        )
    else:
        sys.stdout.write(
            "Nothing waits, nothing has failed.\n" if not selection.states else "Nothing is in that state.\n"
        )
    return 0


def _row(item: ItemView) -> tuple[object, ...]:
    waiting = item.state in (State.RECEIVED, State.QUEUED, State.DEFERRED)
    return (
        item.id,
        item.direction,
        item.state,
        item.kind,
        f"<{item.sender}>",
        item.recipient,
        item.attempts,
        when(item.created_at),
        when(item.due_at) if waiting else "-",
        item.reason.partition("\n")[0][:100],
    )


def show(options: argparse.Namespace) -> int:
    async def find(store: Store) -> tuple[Account, ItemView, bytes | None] | None:
        for account in await store.account(options.id):
            for item in account.items:
                if item.id == options.id or (item.direction == "inbound" and item.id == f"{options.id}.0"):
                    try:
                        content = await store.content(await store.content_of(item.id))
                    except KeyError:
                        content = None
                    return account, item, content
        return None

    found = with_store(options, find)
    if found is None:
        return _unknown(options.id)
    account, item, content = found
    history = [entry for entry in account.history if entry.item == item.id]
    if options.json:
        text = None if content is None else content.decode("utf-8", "replace")
        print_json({"item": item, "history": history, "content": text})
        return 0
    _print_item(item)
    for entry in history:
        _print_entry(entry.at, entry.event, entry.state, entry.reason)
    if content is not None:
        sys.stdout.write("\n" + render(Envelope(item.sender, (item.recipient,), content)))
    return 0


def stats(options: argparse.Namespace) -> int:
    if options.by:
        crowds = with_store(options, lambda store: store.crowds(options.by, options.top))
        if options.json:
            print_json([{options.by: name, "state": state, "items": number} for name, state, number in crowds])
        elif crowds:
            print_table((options.by, "state", "items"), crowds)
        else:
            sys.stdout.write("Nothing waits to leave, nothing has failed.\n")
        return 0
    counts = with_store(options, lambda store: store.stats())
    if options.json:
        print_json(counts)
        return 0
    rows = [(side, state, number) for side, states in counts.items() for state, number in sorted(states.items())]
    if rows:
        print_table(("direction", "state", "items"), rows)
    else:
        sys.stdout.write("No mail yet.\n")
    return 0


def explain(options: argparse.Namespace) -> int:
    accounts = with_store(options, lambda store: store.account(options.key))
    if not accounts:
        heard = decoys.explain(configuration(options)[0], options.key, as_json=options.json)
        return 0 if heard else _unknown(options.key)
    if options.json:
        print_json(accounts)
        return 0
    for number, account in enumerate(accounts):
        if number:
            sys.stdout.write("\n")
        if account.mail is not None:
            mail = account.mail
            sys.stdout.write(
                f"{bold('mail')} {mail['id']}  {harmless(str(mail['message_id'] or 'without Message-ID'))}\n"
            )
            sys.stdout.write(f"  from <{harmless(str(mail['reverse_path']))}>, {mail['size']} octets\n")
        for item in account.items:
            _print_item(item)
            for entry in account.history:
                if entry.item == item.id:
                    _print_entry(entry.at, entry.event, entry.state, entry.reason)
    return 0


def _print_item(item: ItemView) -> None:
    arrow = f"<{item.sender}> -> <{item.recipient}>"
    sys.stdout.write(f"{bold(str(item.state))}  {item.direction} {item.id}  {harmless(item.kind)}  {harmless(arrow)}\n")


def _print_entry(at: float, event: str, state: str, reason: str) -> None:
    first, _, rest = reason.partition("\n")
    sys.stdout.write(f"  {when(at)}  {event:<12} {state:<10} {harmless(first)}".rstrip() + "\n")
    for line in rest.splitlines():
        sys.stdout.write(f"      {harmless(line)}\n")


def _unknown(key: str) -> int:
    sys.stderr.write(f"responder: {harmless(key)}: no such mail (retention may have removed it)\n")
    return 1

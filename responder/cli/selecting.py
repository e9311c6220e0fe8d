"""`responder queue retry`, `hold`, `release`, `drop`, `expire`: an operator's hand on one item or many."""

from __future__ import annotations

import argparse
import sys

from responder.cli.options import Verbs, with_store
from responder.cli.output import harmless, print_json
from responder.mail.lifecycle import Event, IllegalTransitionError, State
from responder.store.base import Store
from responder.store.returns import Selection

ACTIONS = {
    "retry": (Event.RETRY, "run again now, attempts counted anew"),
    "hold": (Event.HOLD, "keep what waits to be sent from being sent"),
    "release": (Event.RELEASE, "lift a hold"),
    "drop": (Event.DROP, "give up, and tell nobody"),
    "expire": (Event.EXPIRE, "try once more, then give up and tell who wrote"),
}

WANTS = (
    "say which: ids, or what the items have in common (--domain, --inbox, --kind, --state; --all for all that may be)"
)


def add(inner: Verbs, common: argparse.ArgumentParser) -> None:
    for name, (event, text) in ACTIONS.items():
        verb = inner.add_parser(
            name,
            parents=[common],
            help=text,
            description=f"{text[0].upper()}{text[1:]}. What is on its way at this moment is left alone.",
        )
        verb.add_argument(
            "ids", type=text_of, metavar="ID", nargs="*", help="an item's id, as `responder queue list` shows it"
        )
        add_filters(verb)
        verb.add_argument("--all", action="store_true", help="all items, where nothing else narrows it down")
        verb.add_argument("--dry-run", action="store_true", help="say how many it would be, and do nothing")
        verb.add_argument("--json", action="store_true", help="for programs")
        verb.set_defaults(run=act, event=event)


def add_filters(verb: argparse.ArgumentParser) -> None:
    """The options that say what items have in common."""
    verb.add_argument("--domain", type=text_of, default="", metavar="DOMAIN", help="what goes to that domain")
    verb.add_argument(
        "--inbox", type=text_of, default="", metavar="NAME", help="what came to that inbox, or is its mail"
    )
    verb.add_argument(
        "--kind", type=text_of, default="", metavar="KIND", help="answer, forward, proxy, list, relay, dsn"
    )
    verb.add_argument(
        "--state",
        action="append",
        type=str.upper,
        choices=[str(state) for state in State],
        default=[],
        metavar="STATE",
        help=f"one of {', '.join(State)}; may be given more than once",
    )


def text_of(argument: str) -> str:
    """What was typed as a text that the store takes: octets that are no UTF-8 name nothing that it has."""
    return argument.encode("utf-8", "replace").decode()


def selected(options: argparse.Namespace) -> Selection:
    """What the filters say."""
    return Selection(
        states=tuple([State(state) for state in options.state]),
        domain=options.domain.lower().rstrip("."),
        inbox=options.inbox,
        kind=options.kind,
    )


def act(options: argparse.Namespace) -> int:
    selection = selected(options)
    narrowed = selection != Selection()
    if bool(options.ids) == (narrowed or options.all):
        reason = "ids go without filters" if options.ids else WANTS
        sys.stderr.write(f"responder: {reason}\n")
        return 2
    return _each(options) if options.ids else _many(options, selection)


def _many(options: argparse.Namespace, selection: Selection) -> int:
    if options.dry_run:
        counts = with_store(options, lambda store: store.count(selection, options.event))
    else:
        came_to = with_store(
            options, lambda store: store.act_on(selection, options.event, "by the operator, among others")
        )
        counts = {str(state): number for state, number in came_to.items()}
    if options.json:
        print_json({"items": sum(counts.values()), "states": counts, "dry_run": options.dry_run})
        return 0
    number = sum(counts.values())
    parts = ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))
    verb = "would be touched" if options.dry_run else f"{'is' if number == 1 else 'are'} done"
    told = f" ({'now ' if not options.dry_run else ''}{parts})" if parts else ""
    sys.stdout.write(f"{number} {'item' if number == 1 else 'items'} {verb}{told}\n")
    return 0


def _each(options: argparse.Namespace) -> int:
    async def each(store: Store) -> list[tuple[str, str, str]]:
        outcome = []
        for item in options.ids:
            try:
                state = await store.act(item, options.event, "by the operator")
                outcome.append((item, str(state), ""))
            except KeyError:
                outcome.append((item, "", "no such item"))
            except IllegalTransitionError as error:
                outcome.append((item, "", str(error)))
        return outcome

    if options.dry_run:
        sys.stderr.write("responder: --dry-run is for many items: `queue show ID` tells of one\n")
        return 2
    outcome = with_store(options, each)
    if options.json:
        print_json([{"id": item, "state": state or None, "error": error or None} for item, state, error in outcome])
    for item, state, error in outcome:
        if error:
            sys.stderr.write(harmless(f"responder: {item}: {error}") + "\n")
        elif not options.json:
            sys.stdout.write(f"{item} is now {state}\n")
    return 1 if any(error for _, _, error in outcome) else 0

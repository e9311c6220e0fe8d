"""`responder queue destinations`: where mail waits, who rests, and why."""

from __future__ import annotations

import argparse
import sys

from responder.cli.options import Verbs, with_store
from responder.cli.output import print_json, print_table, when


def add(queue: Verbs, common: argparse.ArgumentParser) -> None:
    """The verb, below `responder queue`."""
    text = "where mail waits in line, which places rest, and why"
    verb = queue.add_parser("destinations", parents=[common], help=text, description=f"{text[0].upper()}{text[1:]}.")
    verb.add_argument("--json", action="store_true", help="for programs")
    verb.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    found = with_store(options, lambda store: store.destinations(1000))
    if options.json:
        print_json(found)
    elif found:
        print_table(
            ("destination", "provider", "waiting", "sending", "connections", "rests until", "reason"),
            [
                (
                    one.place or "(all)",
                    one.provider or "(all)",
                    one.waiting,
                    one.sending,
                    one.room or "-",
                    when(one.rests_until) if one.rests_until else "-",
                    one.reason,
                )
                for one in found
            ],
        )
    else:
        sys.stdout.write("No destination has a line of mails, none rests.\n")
    return 0

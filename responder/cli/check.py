"""`responder check`: would it run, and what would it run?"""

from __future__ import annotations

import argparse
import sys

from responder.cli.options import Verbs, configuration
from responder.cli.output import harmless, print_json, print_table
from responder.config import Notice, format_duration, unsupported
from responder.start import look_around, prepare


def add(verbs: Verbs, common: argparse.ArgumentParser) -> None:
    verb = verbs.add_parser(
        "check",
        parents=[common],
        help="validate configuration and plugins, and say what would run",
        description="Read the configuration, load the plugins, build every inbox's agent and look at the store. Nothing is"
        " written and no socket is opened, so it may run beside the server.",
    )
    verb.add_argument("--json", action="store_true", help="for programs")
    verb.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    from responder.reception import furnish  # the network libraries come with it: other verbs need none

    config, file = configuration(options)
    setup = prepare(config, file)
    look_around(config, file)
    furniture = furnish(config, file)
    notices = [notice for notice in unsupported(config) if not notice.fatal]
    notices += [Notice(key, reason, fatal=False) for key, reason in furniture.remarks()]
    if options.json:
        print_json(
            {
                "file": str(file),
                "hostname": config.hostname,
                "domains": config.domains,
                "listen": [str(listen.address) for listen in config.listen],
                "store": config.store,
                "transport": config.delivery.transport,
                "inboxes": {
                    name: {"agent": inbox.type.name, "origin": inbox.type.origin, "kind": inbox.kind}
                    for name, inbox in setup.inboxes.items()
                },
                "checks": {
                    guard.name: {
                        "check": guard.type.name,
                        "origin": guard.type.origin,
                        "steps": guard.type.steps,
                        "failure": "ignore" if guard.lenient else "defer",
                    }
                    for guard in setup.checks
                },
                "notices": [{"key": notice.key, "reason": notice.reason} for notice in notices],
                "broken_plugins": list(setup.plugins.broken),
            }
        )
        return 0
    way = f"{config.delivery.transport} {config.delivery.smarthost}".strip()
    print_table(
        ("setting", "value"),
        [
            ("file", file),
            ("hostname", config.hostname),
            ("domains", ", ".join(config.domains)),
            ("listen", ", ".join(str(listen.address) for listen in config.listen)),
            ("store", config.store),
            ("transport", way),
        ],
    )
    sys.stdout.write("\n")
    print_table(
        ("inbox", "agent", "kind", "at most one answer in", "from"),
        [
            (
                name,
                inbox.type.name,
                inbox.kind,
                format_duration(inbox.interval) if inbox.interval else "-",
                inbox.type.origin,
            )
            for name, inbox in setup.inboxes.items()
        ],
    )
    if setup.checks:
        sys.stdout.write("\n")
        print_table(
            ("check", "is", "asked at", "within", "where it fails", "from"),
            [
                (
                    guard.name,
                    guard.type.name,
                    ", ".join(guard.type.steps),
                    format_duration(guard.timeout),
                    "mail passes" if guard.lenient else "mail is put off",
                    guard.type.origin,
                )
                for guard in setup.checks
            ],
        )
    for notice in notices:
        sys.stdout.write(f"\nnotice: {notice}")
    for reason in setup.plugins.broken:
        sys.stdout.write(f"\nbroken plugin, skipped: {harmless(reason)}")
    remarks = notices or setup.plugins.broken
    sys.stdout.write(("\n" if remarks else "") + "\nThe configuration is good.\n")
    return 0

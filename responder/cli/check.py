"""`responder check`: would it run, and what would it run?"""

from __future__ import annotations

import argparse
import asyncio
import sys

from responder.cli.options import Verbs, configuration
from responder.cli.output import harmless, print_json, print_table
from responder.clock import SystemClock
from responder.config import Config, Notice, format_duration, unsupported
from responder.start import look_around, prepare


def add(verbs: Verbs, common: argparse.ArgumentParser) -> None:
    verb = verbs.add_parser(
        "check",
        parents=[common],
        help="validate configuration and plugins, and say what would run",
        description="Read the configuration, load the plugins, build every inbox's agent and look at the store. Nothing is"
        " written and no port is opened, so it may run beside the server.",
    )
    verb.add_argument(
        "--dns", action="store_true", help="also ask whether the names and addresses of this server fit together"
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
    if options.dns:
        notices += asyncio.run(_ask(config))
    found = furniture.signing.domains if furniture.signing else {}
    signing = {domain: [key.selector for key in keys] for domain, keys in found.items()}
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
                "signing": signing,
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
    if signing:
        sys.stdout.write("\n")
        print_table(("signed domain", "by"), [(domain, ", ".join(names)) for domain, names in signing.items()])
    for notice in notices:
        sys.stdout.write(f"\nnotice: {notice}")
    for reason in setup.plugins.broken:
        sys.stdout.write(f"\nbroken plugin, skipped: {harmless(reason)}")
    remarks = notices or setup.plugins.broken
    sys.stdout.write(("\n" if remarks else "") + "\nThe configuration is good.\n")
    return 0


async def _ask(config: Config) -> list[Notice]:
    """How other servers see this one, as far as the name servers know."""
    from responder.dns import Resolver
    from responder.outbound.doctor import examine

    resolver = Resolver(config.delivery.nameservers, clock=SystemClock(), timeout=5.0)
    try:
        return [Notice(remark.key, remark.reason, fatal=False) for remark in await examine(config, resolver)]
    finally:
        await resolver.close()

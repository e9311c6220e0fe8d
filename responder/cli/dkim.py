"""`responder dkim ...`: keys that mail is signed with, made, published, changed for new ones (docs/signing.md)."""

from __future__ import annotations

import argparse
from functools import partial

from responder.cli.options import Verbs


def add(verbs: Verbs, common: argparse.ArgumentParser) -> None:
    text = "keys that mail is signed with: new, rotate, activate, records, check, list, remove"
    dkim = verbs.add_parser(
        "dkim", help=text, description="DKIM keys: see docs/signing.md. dkim.keys says where they are."
    )
    inner = dkim.add_subparsers(metavar="WHAT", required=True)

    def verb(name: str, text: str, more: str = "") -> argparse.ArgumentParser:
        made: argparse.ArgumentParser = inner.add_parser(
            name, parents=[common], help=text, description=f"{text[0].upper()}{text[1:]}.{more}"
        )
        return made

    one = verb(
        "new",
        "make keys for a domain",
        " They sign nothing before `responder dkim activate`. Prints their DNS records.",
    )
    one.add_argument("domain", metavar="DOMAIN", help="whose mail they sign")
    one.add_argument(
        "--selector", metavar="NAME", help="what to call them (default: today's date, with -rsa or -ed25519)"
    )
    one.add_argument("--algorithm", choices=["both", "rsa", "ed25519"], default="both", help="default: both")
    one.add_argument("--json", action="store_true", help="for programs")
    one.set_defaults(run=partial(_run, "new"))

    one = verb(
        "rotate", "make keys that are to follow those in use", " With --activate the second half: see `activate`."
    )
    one.add_argument("domain", metavar="DOMAIN", help="whose mail they sign")
    one.add_argument("--activate", action="store_true", help="once the records are published: sign with the new keys")
    one.add_argument("--json", action="store_true", help="for programs")
    one.set_defaults(run=partial(_run, "rotate"), selectors=[], force=False)

    more = " Keys of the same kind that sign now are retired: they stay published."
    one = verb("activate", "sign with the new keys of a domain, once the DNS has their records", more)
    one.add_argument("domain", metavar="DOMAIN", help="whose mail they sign")
    one.add_argument("selectors", nargs="*", metavar="SELECTOR", help="which (default: all new ones)")
    one.add_argument("--force", action="store_true", help="without asking the DNS")
    one.set_defaults(run=partial(_run, "activate"))

    one = verb("records", "the DNS records of a domain, as lines of a zone file")
    one.add_argument("domain", metavar="DOMAIN", help="whose mail they sign")
    one.add_argument("--json", action="store_true", help="for programs")
    one.set_defaults(run=partial(_run, "records"))

    one = verb(
        "check",
        "whether the DNS has the keys",
        " Exit status 1 where one is missing or wrong that signs, or has signed.",
    )
    one.add_argument("domain", nargs="?", metavar="DOMAIN", help="default: every one that has keys")
    one.add_argument("--json", action="store_true", help="for programs")
    one.set_defaults(run=partial(_run, "check"))

    one = verb("list", "the keys there are")
    one.add_argument("--json", action="store_true", help="for programs")
    one.set_defaults(run=partial(_run, "list"))

    one = verb("remove", "remove retired keys, when nothing is on its way any more that they have signed")
    one.add_argument("domain", metavar="DOMAIN", help="whose mail they sign")
    one.add_argument(
        "selectors", nargs="*", metavar="SELECTOR", help="which (default: all that were retired for long enough)"
    )
    one.add_argument("--force", action="store_true", help="others, too: what they have signed will not verify any more")
    one.set_defaults(run=partial(_run, "remove"))


def _run(verb: str, options: argparse.Namespace) -> int:
    from responder.cli import signing  # here: the other verbs need no cryptography

    return signing.run(verb, options)

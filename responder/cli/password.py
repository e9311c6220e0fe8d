"""`responder password`: a line for the file of those who may log in."""

from __future__ import annotations

import argparse
import sys
from getpass import getpass

from responder.cli.options import Verbs
from responder.clock import SystemClock
from responder.inbound.login.passwords import hash_password, prepare, scram_verifier
from responder.inbound.login.users import LONGEST_NAME, LONGEST_PASSWORD

FAILED = 1
BAD_USE = 2


def add(verbs: Verbs, common: argparse.ArgumentParser) -> None:
    verb = verbs.add_parser(
        "password",
        help="print a line for the users file",
        description="Ask for a user's password (twice at a terminal, else one line of standard input) and print the line that"
        " stands for it in the file that auth.users names. The password itself is kept nowhere.",
    )
    verb.add_argument("name", metavar="NAME", help="what the user logs in with, such as an address")
    verb.add_argument(
        "--no-scram",
        action="store_true",
        help="without what SCRAM-SHA-256 takes: the user can log in by PLAIN and LOGIN only",
    )
    verb.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    try:
        name = prepare(options.name)
    except ValueError as error:
        return _complain(f"NAME {error}", BAD_USE)
    if ":" in name or name.startswith("#") or name != name.strip() or len(name.encode()) > LONGEST_NAME:
        return _complain(f'NAME has a ":", begins with "#" or a space, or is over {LONGEST_NAME} octets', BAD_USE)
    try:
        password = prepare(_ask())
    except EOFError:
        return _complain("no password was given", FAILED)
    except ValueError as error:
        return _complain(f"the password {error}", FAILED)
    if len(password.encode()) > LONGEST_PASSWORD:
        return _complain(f"the password is longer than {LONGEST_PASSWORD} octets", FAILED)
    clock = SystemClock()
    scram = "" if options.no_scram else ":" + scram_verifier(password, clock)
    sys.stdout.write(f"{name}:{hash_password(password, clock)}{scram}\n")
    return 0


def _ask() -> str:
    """The password. Raises `EOFError` where none comes, `ValueError` where it came in two ways."""
    if sys.stdin is None or not sys.stdin.isatty():
        line = sys.stdin.readline(4 * LONGEST_PASSWORD) if sys.stdin is not None else ""
        if not line:
            raise EOFError
        return line.rstrip("\r\n")
    password = getpass("Password: ", sys.stderr)
    if getpass("Again: ", sys.stderr) != password:
        raise ValueError("came in two ways: try again")
    return password


def _complain(reason: str, status: int) -> int:
    sys.stderr.write(f"responder: {reason}\n")
    return status

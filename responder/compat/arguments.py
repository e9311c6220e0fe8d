"""The command line of `python -m responder.compat.smtpd`, with the options of the old module."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import sys
from typing import Any

from responder.compat import smtpd


def _place(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or not (port.isascii() and port.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is not host:port")
    return host, int(port)


def _class(name: str) -> Any:
    module, _, attribute = name.rpartition(".")
    try:
        found = getattr(importlib.import_module(module) if module else smtpd, attribute)
    except (ImportError, AttributeError) as error:
        raise argparse.ArgumentTypeError(f"no class {name!r}: {error}") from None
    if not (isinstance(found, type) and issubclass(found, smtpd.SMTPServer)):
        raise argparse.ArgumentTypeError(f"{name!r} is no SMTPServer")
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m responder.compat.smtpd", description="An SMTP server of one of the old smtpd classes."
    )
    parser.add_argument("local", nargs="?", type=_place, default="localhost:8025", help="host:port to listen on")
    parser.add_argument(
        "remote", nargs="?", type=_place, default="localhost:25", help="host:port that a proxy passes on to"
    )
    parser.add_argument("-n", "--nosetuid", action="store_true", help="do not become the user nobody, as root would")
    parser.add_argument("-V", "--version", action="version", version=smtpd.__version__)
    parser.add_argument(
        "-c", "--class", dest="kind", type=_class, default="PureProxy", help="PureProxy, or module.Class"
    )
    parser.add_argument("-s", "--size", type=int, help="octets of a message (default: no limit)")
    parser.add_argument("-u", "--smtputf8", action="store_true", help="offer SMTPUTF8 (RFC 6531)")
    parser.add_argument("-d", "--debug", action="store_true", help="tell on standard error what goes on")
    return parser


def main(arguments: list[str]) -> int:
    """Serve until Ctrl-C. The exit status: 0, or 1 where it cannot begin; raises `SystemExit` for wrong arguments."""
    with contextlib.suppress(KeyboardInterrupt):
        return _serve(_parser().parse_args(arguments))
    return 0


def _serve(options: argparse.Namespace) -> int:
    if options.debug:
        smtpd.DEBUGSTREAM = sys.stderr
    try:
        options.kind(options.local, options.remote, options.size, enable_SMTPUTF8=options.smtputf8)
    except (OSError, ValueError, ImportError) as error:
        print(f"{options.local[0]}:{options.local[1]}: {error}", file=sys.stderr)
        return 1
    if not options.nosetuid and not _become_nobody():
        print('Cannot setuid "nobody"; try running with -n option.', file=sys.stderr)
        return 1
    smtpd.serve_forever()
    return 0


def _become_nobody() -> bool:
    import pwd  # not there on every system

    try:
        os.setuid(pwd.getpwnam("nobody").pw_uid)
    except (PermissionError, KeyError):
        return False
    return True

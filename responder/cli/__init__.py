"""The command line: one file per group of verbs. Exit status 0 done, 1 the work failed, 2 bad usage or configuration."""

from __future__ import annotations

import argparse
import errno
import os
import sys
from collections.abc import Sequence
from io import TextIOWrapper
from pathlib import Path

from responder.cli import (
    check,
    dialect,
    dkim,
    new,
    password,
    plugins,
    queue,
    send,
    serve,
    suppress,
    trial,
    verbs,
    verify,
)
from responder.cli.output import harmless
from responder.config import ConfigError
from responder.start import StartError
from responder.store.base import StoreError, StoreUnusableError

FAILED = 1
BAD_USE = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; the exit status."""
    _open_standard_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal that isn't UTF-8 still shows all mail
    words = list(sys.argv[1:] if arguments is None else arguments)
    options = parser(words).parse_args(words)
    try:
        status: int = options.run(options)
        sys.stdout.flush()
        return status
    except (ConfigError, StartError) as error:
        return _complain(str(error), BAD_USE)
    except StoreUnusableError as error:
        return _complain(f"store: {error}", BAD_USE)
    except StoreError as error:
        return _complain(f"store: {error}", FAILED)
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.ENOSPC):
            raise
        # What is still buffered would fail again when the interpreter ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if error.errno == errno.EPIPE:  # `responder queue list | head`
            return 0
        return _complain(f"standard output can't be written: {error.strerror}", FAILED)


def _open_standard_streams() -> None:
    """The null device in place of each standard stream that is closed (`>&-`): a socket or a database that got its number
    would receive what is meant for people, and libuv ends the program when it closes such a one."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(number, True)
    os.close(number)
    if sys.stdin is None:
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    if sys.stdout is None:
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - for as long as the program runs
    if sys.stderr is None:
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115


def parser(words: Sequence[str] = ()) -> argparse.ArgumentParser:
    """The whole command line; with the verbs of plugins where these words need them."""
    top = argparse.ArgumentParser(
        prog="responder",
        description="An e-mail agent server: mail comes in by SMTP, its inbox's agent answers, the answer leaves through the MX.",
        epilog="`responder VERB --help` says more. Exit status: 0 done, 1 the work failed, 2 bad usage or configuration.",
    )
    top.add_argument("--version", action="version", version=f"responder {_version()}")
    places = top.add_subparsers(metavar="VERB", title="verbs", required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="the configuration (default: config/responder.toml here, else /etc/responder/responder.toml)",
    )
    for group in (serve, check, plugins, new, password, trial, queue, suppress, send, verify, dialect, dkim):
        group.add(places, common)
    verbs.add(top, places, common, words)
    return top


def _complain(text: str, status: int) -> int:
    sys.stdout.flush()
    sys.stderr.write(f"responder: {harmless(' '.join(text.split()))}\n")
    return status


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("responder-mta")
    except PackageNotFoundError:
        return "(not installed)"

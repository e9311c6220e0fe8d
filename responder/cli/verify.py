"""`responder verify`: does the address's MX take mail for it? Nothing is sent. docs/verify.md says what it may be used for."""

from __future__ import annotations

import argparse
import asyncio
import platform
import signal
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, TextIO, cast

from responder.cli.options import Verbs, configuration
from responder.cli.output import harmless
from responder.cli.verify_output import File, Format, OutputError, Sink, Terminal
from responder.cli.verify_progress import Progress
from responder.clock import SystemClock
from responder.config import DEFAULT_FILES, Config, ConfigError, parse_duration
from responder.outbound.verifying.verification import DETERMINED, Result
from responder.start import StartError

if TYPE_CHECKING:
    from responder.outbound.verifying.probe import Probe

MAX_LINE: Final = 10_000  # characters of a line of addresses; the rest is another line, and no address either
INTERRUPTED: Final = 130


def add(verbs: Verbs, common: argparse.ArgumentParser) -> None:
    verb = verbs.add_parser(
        "verify",
        parents=[common],
        help="ask whether addresses take mail, and send none",
        description="Ask the MX hosts of addresses whether they take mail for them: HELO, MAIL, RCPT, RSET, never DATA."
        " Name server, port, source address and HELO name are the configuration's, where there is one. Exit status: 0 there is a"
        " word about each address, 1 about some there is none (greylisted, blocked, timeout, no route, closed, unclear),"
        " 2 bad usage.",
    )
    add_option = verb.add_argument
    add_option("addresses", nargs="*", metavar="ADDRESS", help="a mailbox address")
    add_option("--file", metavar="FILE", help="more addresses, one a line; - is standard input")
    add_option(
        "--output", type=Path, metavar="FILE", help="append to this file; what it has already is not asked again"
    )
    add_option("--resume", action="store_true", help="go on with --output, which must exist")
    add_option(
        "--format", choices=("table", "csv", "jsonl"), help="of what is written (default: table; a file: by its name)"
    )
    add_option("--json", action="store_true", help="for programs")
    add_option("--hostname", metavar="NAME", help="the name said in HELO")
    add_option("--sender", default="", metavar="ADDRESS", help="said in MAIL FROM (default: <>)")
    add_option("--source-address", metavar="IP", help="the address to connect from")
    add_option("--max-recipients", type=_count, default=100, metavar="N", help="in one session (default: 100)")
    add_option(
        "--wait",
        type=_duration,
        default=300.0,
        metavar="TIME",
        help="before what is put off is asked again (5m; 0s: never)",
    )
    add_option(
        "--tries", type=_count, default=3, metavar="N", help="how often an address is asked, in all (default: 3)"
    )
    add_option("--timeout", type=_span, default=30.0, metavar="TIME", help="of each step of a session (30s)")
    add_option("--pause", type=_duration, default=1.0, metavar="TIME", help="between two sessions with one host (1s)")
    add_option("--concurrency", type=_count, default=50, metavar="N", help="hosts that are asked at once (default: 50)")
    add_option("--no-catch-all", action="store_true", help="don't ask whether a random address is taken as well")
    verb.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    if not options.addresses and options.file is None:
        raise StartError("verify: wants an ADDRESS, or --file FILE")
    if options.resume and (options.output is None or not options.output.exists()):
        raise StartError("verify: --resume wants an --output FILE that exists")
    with ExitStack() as stack:
        # Read before anything is asked: Ctrl-C ends the reading from a terminal, too.
        addresses = [*options.addresses, *(_lines(_opened(options.file, stack)) if options.file else ())]
    return asyncio.run(_ask(options, addresses))


async def _ask(options: argparse.Namespace, addresses: Iterable[str]) -> int:
    from responder.outbound.verifying.probe import key_of

    probe = _probe(options)
    try:
        sink = _sink(options)
    except OutputError as error:
        raise StartError(f"verify: {error}") from None
    done: set[str] = sink.done if isinstance(sink, File) else set()
    if done:
        sys.stderr.write(f"{harmless(str(options.output))} has {len(done)} addresses: they are not asked again.\n")
        addresses = (address for address in addresses if key_of(address.strip()) not in done)
    loop = asyncio.get_running_loop()
    stopped: list[int] = []

    def stop(number: int) -> None:
        stopped.append(number)
        signal.signal(number, signal.SIG_DFL)  # the second time is the last
        probe.stop()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop, number)
    clock = SystemClock()
    try:
        async with (
            Progress(clock, lambda: (probe.total, probe.postponed)) as progress,
            aclosing(probe.run(addresses)) as batches,
        ):
            async for batch in batches:
                if not isinstance(sink, File):
                    progress.clear()
                await sink.write(batch)
                progress.counts.update([str(one.result) for one in batch])
    except OSError as error:
        if not isinstance(sink, File):
            raise
        sys.stderr.write(f"responder: verify: {harmless(str(sink.path))}: can't be written: {error.strerror}\n")
        return 1
    finally:
        sink.close()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
    return _conclude(options, probe, progress.counts, bool(stopped))


def _conclude(options: argparse.Namespace, probe: Probe, counts: Counter[str], stopped: bool) -> int:
    """What is said at the end, and the exit status."""
    if options.output is not None:
        words = ", ".join([f"{word} {count}" for word, count in counts.most_common()]) or "nobody was asked"
        sys.stdout.write(f"{words}\n")
    if probe.waiting:
        again = (
            "the same command goes on from here" if options.output is not None else "with --output FILE it could go on"
        )
        sys.stderr.write(f"Interrupted: {counts.total()} of {probe.total} addresses are done; {again}.\n")
        return INTERRUPTED
    return 0 if all(Result(word) in DETERMINED for word in counts) else 1


def _probe(options: argparse.Namespace) -> Probe:
    """What asks, as configuration and options have it. Raises `ConfigError`, `StartError`."""
    from responder.dns import Resolver
    from responder.outbound.verifying.probe import Probe
    from responder.outbound.verifying.verify import make_plan

    config = _configuration(options)
    delivery = (config or Config()).delivery
    hostname = options.hostname or (config.hostname if config else platform.node())
    if "." not in hostname and not options.hostname:
        sys.stderr.write(f'Many hosts refuse the HELO name "{harmless(hostname)}": say --hostname NAME.\n')
    source = delivery.source_address if options.source_address is None else options.source_address
    clock = SystemClock()
    try:
        plan = make_plan(
            hostname=hostname,
            sender=options.sender,
            source_address=source,
            port=delivery.port,
            allow_private=delivery.allow_private_addresses,
            max_recipients=options.max_recipients,
            wait=options.wait,
            tries=options.tries,
            catch_all=not options.no_catch_all,
            timeout=options.timeout,
            pause=options.pause,
        )
    except ValueError as error:
        raise StartError(f"verify: {error}") from None
    return Probe(plan, Resolver(delivery.nameservers, clock=clock), clock, options.concurrency)


def _configuration(options: argparse.Namespace) -> Config | None:
    """The configuration; None where there is none and none was named."""
    try:
        return configuration(options)[0]
    except ConfigError as error:
        if options.config is None and str(error).startswith(f"{DEFAULT_FILES[0]}: no such file"):
            return None
        raise


def _sink(options: argparse.Namespace) -> Sink:
    """Raises `OutputError`."""
    if options.output is None:
        return Terminal("json" if options.json else cast(Format, options.format or "table"))
    by_name = "csv" if options.output.suffix.lower() == ".csv" else "jsonl"
    form = "jsonl" if options.json else options.format or by_name
    if form == "table":
        raise OutputError("a file is written as csv or jsonl")
    return File(options.output, cast(Literal["csv", "jsonl"], form))


def _opened(name: str, stack: ExitStack) -> TextIO:
    try:
        if name == "-":
            return stack.enter_context(open(0, encoding="utf-8-sig", errors="replace", closefd=False))
        return stack.enter_context(open(name, encoding="utf-8-sig", errors="replace"))
    except OSError as error:
        raise StartError(f"{name}: can't be read: {error.strerror}") from None


def _lines(file: TextIO) -> Iterator[str]:
    """The addresses of a file; empty lines, and those that begin with #, are none."""
    while line := file.readline(MAX_LINE):
        text = line.strip()
        if text and not text.startswith("#"):
            yield text


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < int(text[:10]) <= 1_000_000):
        raise argparse.ArgumentTypeError("wants a number from 1 to 1000000")
    return int(text)


def _duration(text: str) -> float:
    try:
        return parse_duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _span(text: str) -> float:
    if (seconds := _duration(text)) > 0:
        return seconds
    raise argparse.ArgumentTypeError("wants a duration above zero")

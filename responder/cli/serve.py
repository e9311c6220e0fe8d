"""`responder serve`: the server in the foreground."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from functools import partial

from responder.app import Server
from responder.cli.common import Verbs, configuration
from responder.clock import SystemClock
from responder.config import load, unsupported
from responder.observe import event, flush, set_up


def add(verbs: Verbs, common: argparse.ArgumentParser) -> None:
    verb = verbs.add_parser(
        "serve",
        parents=[common],
        help="run the server in the foreground",
        description="Run the server until SIGTERM or SIGINT, which let it finish what it has begun. SIGHUP reads the"
        " configuration and the plugins again; a bad one is refused and the old one stays.",
    )
    verb.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    config, file = configuration(options)
    set_up("json" if config.log.format == "json" else "text", config.log.level)
    for notice in unsupported(config):
        if not notice.fatal:
            event("notice", key=notice.key, reason=notice.reason)

    async def serve() -> None:
        server = Server(config, file, partial(load, options.config, os.environ), SystemClock())
        await server.run()

    with _runner() as runner:
        runner.run(serve())
    flush()
    return 0


def _runner() -> asyncio.Runner:
    """uvloop where there is one: it serves about twice as many connections with the same work."""
    if sys.platform != "win32":
        try:
            import uvloop
        except ImportError:
            pass
        else:
            return asyncio.Runner(loop_factory=uvloop.new_event_loop)
    return asyncio.Runner()

"""`responder serve`: the server in the foreground."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from responder.cli.options import Verbs, configuration
from responder.clock import SystemClock
from responder.config import Config, load, local_file
from responder.observe import event, flush, follow, set_up
from responder.start import StartError

if TYPE_CHECKING:
    from responder.app import Server

FAILED = 1
THREADS = 256  # for what agents call with `asyncio.to_thread`: where one agent's hang, others have some
PATIENCE = 1.0  # seconds that standard output gets at the end


def add(verbs: Verbs, common: argparse.ArgumentParser) -> None:
    verb = verbs.add_parser(
        "serve",
        parents=[common],
        help="run the server in the foreground",
        description="Run the server until SIGTERM or SIGINT, which let it finish what it has begun. SIGHUP reads the"
        " configuration and the plugins again; a bad one is refused and the old one stays.",
    )
    verb.add_argument(
        "--watch", action="store_true", help="reload as at SIGHUP when a plugin file or the configuration is saved"
    )
    verb.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    # Here, not above: the other verbs need neither SMTP nor DNS, and start a quarter sooner without.
    from responder.app import Server

    config, file = configuration(options)
    set_up("json" if config.log.format == "json" else "text", config.log.level)

    def reload() -> Config:
        nonlocal config
        config = load(options.config, os.environ)
        return config

    def watched() -> list[Path]:
        local = local_file(file)
        return [file, *([local] if local else []), *config.plugins]

    async def serve() -> int:
        server = Server(config, file, reload, SystemClock())
        tasks: list[asyncio.Task[None]] = []
        threads = ThreadPoolExecutor(THREADS, "responder-to-thread")
        asyncio.get_running_loop().set_default_executor(threads)
        begin = partial(_watch, server, watched, tasks) if options.watch else None
        try:
            await server.run(begin)
        except StartError:
            raise
        except (Exception, asyncio.CancelledError) as error:  # cancelled: by an agent, for nobody else does
            cause = _single(error)
            event("crashed", level=logging.ERROR, reason=type(cause).__name__, error=cause)
            status = FAILED
        else:
            status = 0
        finally:
            for task in tasks:
                task.cancel()
        threads.shutdown(wait=False, cancel_futures=True)
        stuck = server.stuck + _lasting()
        # The store is closed and the queue safe; what does not end, agents or a terminal, would be waited for, for ever.
        if stuck:
            event("agents left behind", level=logging.WARNING, agents=stuck)
        follow((), PATIENCE)
        if not _shown() or stuck:
            flush()
            os._exit(status)
        return status

    try:
        with _runner() as runner:
            return runner.run(serve())
    finally:
        flush()


def _watch(server: Server, paths: Callable[[], list[Path]], tasks: list[asyncio.Task[None]]) -> None:
    """Begin to reload at each change."""
    from responder.watch import Watcher

    async def changed(files: list[Path]) -> None:
        event("changed", files=", ".join(map(str, files)))
        await server.reload()

    tasks.append(asyncio.create_task(Watcher(paths, SystemClock()).run(changed), name="watch"))


def _shown() -> bool:
    """Whether standard output took what was waiting for it: a pipe that nobody reads would hold up the end of the program."""
    thread = threading.Thread(target=_flush_output, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    return not thread.is_alive()


def _lasting() -> int:
    """How many threads do not end which the end of the program would wait for: those of an agent's `asyncio.to_thread`, and
    its own."""
    ours = (threading.main_thread(), threading.current_thread())
    others = [thread for thread in threading.enumerate() if not thread.daemon and thread not in ours]
    for thread in others:
        thread.join(PATIENCE / len(others))
    return sum(thread.is_alive() for thread in others)


def _flush_output() -> None:
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()


def _single(error: BaseException) -> BaseException:
    """The one exception that groups are wrapped around."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


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

"""The composition root: builds everything explicitly, runs it, follows SIGHUP, drains at SIGTERM and SIGINT."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import Callable, Coroutine
from operator import attrgetter
from pathlib import Path
from typing import Any

from responder.agents.files import back_to, staying
from responder.agents.guards import Guards
from responder.agents.host import Host
from responder.agents.load import PluginError
from responder.answering.setup import Setup, equip
from responder.answering.stage import Answering
from responder.aside import aside
from responder.clock import Clock
from responder.config import Config, ConfigError, unsupported
from responder.delivery.pace import places, places_aside
from responder.delivery.stage import Delivery
from responder.departure import Departure
from responder.inbound.listening.listener import ListenError
from responder.inbound.listening.notify import Supervisor
from responder.observe import event, follow
from responder.reception import Furniture, Reception, furnish
from responder.sealing import Sealer
from responder.start import StartError, inherited, make_store, prepare
from responder.store.base import Store, StoreError, StoreUnusableError
from responder.worker import Lease, Worker

DRAIN = 20.0  # seconds that what is under way gets to end in, at a stop
RETENTION = 60.0  # seconds between two looks for what may be removed


class Server:
    """One process of `responder serve`. `reload` reads the configuration again."""

    def __init__(self, config: Config, file: Path, reload: Callable[[], Config], clock: Clock) -> None:
        self._file = file
        self._reload = reload
        self._clock = clock
        self._started = config
        self._inherited = inherited()
        self._supervisor = Supervisor(self._inherited.supervisor, clock)
        with staying() as self._home:
            self._setup = prepare(config, file)
        self._stop = asyncio.Event()
        self._reloading = asyncio.Lock()
        self._asked = False  # a reload waits for its turn
        self._equipped = False
        self._guards: list[Guards] = []  # those in use, and others of which something goes on
        self._tasks: set[asyncio.Future[None]] = set()
        self.store: Store = make_store(config, file, clock)
        self.host = Host(config.answering.concurrency)
        furniture = furnish(config, file)
        self.reception = Reception(config, furniture, self._setup.router, self._setup.checks, self.store, clock)
        self.listener = self.reception.listener
        self.departure = Departure(config, self.store, clock)
        self.lease = Lease(self.store, clock, config.queue.lease, config.answering.attempts)
        self.answering = Answering(self._setup, self.store, self.host, clock)
        self.delivery = Delivery(config, self.departure.transport, self.store, self.lease, clock)
        self._sealer: Sealer | None = None
        self._seal(config, furniture)

    async def run(self, ready: Callable[[], None] | None = None) -> None:
        """Serve until SIGTERM or SIGINT, then drain. Raises `StartError`."""
        config = self._setup.config
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        loop.add_signal_handler(signal.SIGHUP, self.ask_reload)
        try:
            await self.store.open()
        except (StoreUnusableError, StoreError) as error:
            raise StartError(f"{self._file}: store: {error}") from error
        try:
            async with self._reloading:  # a SIGHUP waits for all of it
                begun = await self._unless_stopped(self._begin(config))
            if begun:
                _remark(self._setup)
                await self._serve(config, ready)
            with contextlib.suppress(StoreError):
                await self.lease.end()
        finally:
            self._stop.set()  # for a reload that waits
            # What broke off keeps its claims until the lease runs out, and its attempts: a mail whose agent takes the server
            # down must retire itself, not take it down after every start.
            self.listener.stop()
            await self.delivery.transport.close()
            if self._equipped:
                await self._retire(self._setup)
            self.host.close()
            if self._sealer is not None:
                self._sealer.close()
            await self.store.close()
            self.reception.close()

    @property
    def stuck(self) -> int:
        """How many calls of agents and checks go on that nobody waits for any more."""
        return self.host.stuck + sum(guards.stuck for guards in self._guards)

    def stop(self) -> None:
        """Begin to drain."""
        self._stop.set()

    async def _begin(self, config: Config) -> None:
        """All that must be there before mail is taken. Raises `StartError`."""
        try:
            await self._start_agents(self._setup)
            self._equipped = True
            await self.lease.start()  # behind the agents: they may take longer to start than a lease lasts
            await self.listener.open(config.listen, self._inherited)
        except ListenError as error:
            raise StartError(f"{self._file}: listen: {error}") from error
        except StoreError as error:
            raise StartError(f"{self._file}: store: {error}") from error
        self.departure.own.update(self.listener.addresses)

    async def _unless_stopped(self, work: Coroutine[Any, Any, None]) -> bool:
        """Do it, but break it off at a stop. Whether it was done."""
        doing, stopped = asyncio.create_task(work), asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait((doing, stopped), return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopped.cancel()
            if not doing.done():
                doing.cancel()
                await asyncio.wait((doing,))
        if doing.cancelled() and self._stop.is_set():
            return False
        doing.result()
        return True

    async def _serve(self, config: Config, ready: Callable[[], None] | None) -> None:
        loop = asyncio.get_running_loop()
        answering = Worker(
            self.answering, config.answering.concurrency, self.store.wake_inbound, self.lease, self._clock
        )
        delivery = Worker(
            self.delivery,
            places(config.delivery),
            self.store.wake_outbound,
            self.lease,
            self._clock,
            aside=places_aside(config.delivery, self.reception.descriptors),
        )
        try:
            async with asyncio.TaskGroup() as group:
                beat = group.create_task(self.lease.run(), name="lease")
                retention = group.create_task(self._retention(), name="retention")
                group.create_task(answering.run(), name="answering")
                group.create_task(delivery.run(), name="delivery")
                beside = group.create_task(self.departure.run(), name="departure")
                where = ", ".join(str(listen.address) for listen in config.listen)
                event("ready", listen=where, hostname=config.hostname, inboxes=len(config.inboxes))
                self._supervisor.ready()
                if ready is not None:
                    ready()
                await self._stop.wait()
                event("stopping")
                self._supervisor.stopping()
                # No new mail first; then what is being answered, whose answers delivery may still take along.
                await self.listener.drain(DRAIN)
                await answering.stop(DRAIN)
                await delivery.stop(DRAIN)
                await self._tidy()
                for task in (beat, retention, beside):
                    task.cancel()
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):  # a second one ends it at once; a SIGHUP must not
                loop.remove_signal_handler(number)
        event("stopped")

    def ask_reload(self) -> None:
        """Begin to reload, beside all else. One that waits for its turn will read what this one would."""
        if not self._asked:
            self._asked = True
            self._beside(self.reload())

    async def reload(self) -> None:
        """Follow the configuration file. A bad one is refused, and the old one stays. Mail in flight ends on the old agents."""
        async with self._reloading:
            self._asked = False
            if not self._stop.is_set():
                with self._supervisor.reloading():
                    await self._renew()

    async def _renew(self) -> None:
        try:
            back_to(self._home)  # an agent may have left it
            config = await aside(self._reload)
            setup = await self.host.load(prepare, config, self._file)  # an import may take its time
            furniture = await aside(furnish, config, self._file)  # a deny list of a million lines does, too
            await self._start_agents(setup)
        except (ConfigError, StartError, PluginError) as error:
            event("reload refused", level=logging.ERROR, reason=str(error))
            return
        old, self._setup, self.answering.setup = self._setup, setup, setup
        self._follow(config, old.config, furniture)
        self._beside(self._retire(old))

    def _follow(self, config: Config, old: Config, furniture: Furniture) -> None:
        fixed = ("store", "processes", "log", "queue.lease", "answering.concurrency", "delivery.concurrency")
        kept = [key for key in fixed if attrgetter(key)(config) != attrgetter(key)(self._started)]
        if [listen.lasting for listen in config.listen] != [listen.lasting for listen in self._started.listen]:
            kept.insert(0, "listen")
        self.reception.follow(config, furniture, self._setup.router, self._setup.checks)
        self.lease.attempts = config.answering.attempts
        unused = self.departure.follow(config, old)
        if unused is not None:
            self.delivery.transport = self.departure.transport
            self._beside(unused.close())
        self.delivery.config = config
        self._seal(config, furniture)
        _remark(self._setup)
        event("reloaded", inboxes=len(config.inboxes), needs_restart=", ".join(kept) or None)

    def _seal(self, config: Config, furniture: Furniture) -> None:
        """Have what stages compose signed from now on, or no longer."""
        if furniture.signing is not None and self._sealer is None:
            self._sealer = Sealer(config.dkim, furniture.signing, self._clock)
        elif furniture.signing is not None and self._sealer is not None:
            self._sealer.follow(config.dkim, furniture.signing)
        self.reception.intake.sealer = self.answering.sealer = self.delivery.sealer = (
            self._sealer if furniture.signing is not None else None
        )
        self.departure.reports.sign = None if self.delivery.sealer is None else self.delivery.sealer.sign

    async def _start_agents(self, setup: Setup) -> None:
        """Give a configuration's agents what they work with, and start them. Raises `StartError`; then none is left running."""
        kept = [guards for guards in self._guards if guards.stuck or guards is self._setup.checks]
        self._guards = [*kept, setup.checks]
        equip(setup, self.store, self._clock)
        inboxes = list(setup.inboxes.values())
        try:
            await self.host.start(inboxes)
            try:
                await setup.checks.start()
            except BaseException:
                await self.host.retire(inboxes, 0.0)
                raise
        except PluginError as error:
            raise StartError(f"{self._file}: {error}") from error
        finally:
            back_to(self._home)

    async def _retire(self, setup: Setup) -> None:
        """Let what its agents and checks do come to an end, then stop them."""
        await asyncio.gather(setup.checks.stop(DRAIN), self.host.retire(list(setup.inboxes.values()), DRAIN))

    def _beside(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _tidy(self) -> None:
        """Wait for what runs beside, at a stop."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=DRAIN)

    async def _retention(self) -> None:
        """Remove what has been kept for long enough."""
        while True:
            queue = self._setup.config.queue
            now = self._clock.now()
            try:
                while await self.store.purge(now - queue.keep_answered, now - queue.keep_failed):
                    pass  # in pieces, so that others' operations go in between
            except StoreError as error:
                event("retention failed", level=logging.ERROR, cause=str(error))
            await self._clock.sleep(RETENTION)


def _remark(setup: Setup) -> None:
    """Log what the operator may not have meant; what is fatal was refused before. From now on its observers are told."""
    follow(setup.plugins.observers)
    for notice in unsupported(setup.config):
        if not notice.fatal:
            event("notice", key=notice.key, reason=notice.reason)
    for reason in setup.plugins.broken:
        event("plugin skipped", level=logging.WARNING, reason=reason)

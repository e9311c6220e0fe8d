"""The network beneath old programs: our sessions run on an event loop in a thread of their own.

The code of the program runs in the thread that serves (that called `loop`), one call at a time and in order, as it always did: so
a database connection, a signal handler or a global that the program made there goes on to work. While it is busy,
other clients are greeted, and go on up to the end of their messages.

    thread "smtpd":  accept -> session -> verbs of the stock channel     | a call, and its future
    thread of loop:  handle_accepted, verbs of a channel class of the program, process_message
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError
from functools import partial
from typing import Any, cast

from responder.clock import SystemClock
from responder.compat.session import Messages, OldSession
from responder.config import Limits, Listen
from responder.inbound.limits.gatekeeper import Gatekeeper
from responder.inbound.listening.listener import Listener, Socket, own_name
from responder.inbound.sessions import Sessions

GRACE = 5.0  # seconds that what was said last may take to reach its client
PATIENCE = 10.0  # seconds that closing a socket may take: it is a turn of a loop that never blocks

# The old module knew no limit but the message's. Those by time and by number of connections guard the process; those by rate
# would stop a test-suite that comes from one address.
LIMITS = Limits.model_validate(
    {
        "connection_rate": "off",
        "unknown_recipients": "off",
        "connections_per_ip": 1000,
        "junk_commands": 1_000_000,
    }
)

Call = Callable[[], None]

_networks: dict[int, Network] = {}
_lock = threading.Lock()


class Network:
    """Serves the servers of one map until that is empty."""

    def __init__(self, places: dict[int, Any]) -> None:
        self._places = places
        self._calls: queue.SimpleQueue[tuple[Call, asyncio.Future[None]] | None] = queue.SimpleQueue()
        self._loop = asyncio.new_event_loop()
        self._over = asyncio.Event()
        self._servers: dict[Any, asyncio.Server | None] = {}  # None: about to be served
        clock = SystemClock()
        self._sessions = Sessions(own_name(), LIMITS, Gatekeeper(LIMITS, clock), Messages(), clock)
        self._profile = self._sessions.profile(Listen())
        self._listener = Listener(self._sessions)
        self._thread = threading.Thread(target=self._run, name="smtpd", daemon=True)

    def start(self) -> None:
        """Begin to serve what the map holds."""
        self._thread.start()
        for one in list(self._places.values()):
            if one.accepting:
                self.adopt(one)

    # -- the thread that serves ----------------------------------------------------------------------------------------

    def turn(self, timeout: float | None) -> None:
        """Make one call of the program's code, when there is one; wait `timeout` seconds for it (None: for ever)."""
        try:
            job = self._calls.get(timeout=timeout)
        except queue.Empty:
            return
        if job is None:
            if self._over.is_set():
                self._calls.put(None)  # for whoever else waits here: nothing more will come
            return
        call, done = job
        try:
            call()
        except BaseException:
            self._soon(done.cancel)
            raise
        self._soon(partial(_settle, done))

    def join(self) -> None:
        """Wait until all is closed."""
        if threading.current_thread() is not self._thread:
            self._thread.join()

    # -- from any thread -----------------------------------------------------------------------------------------------

    @property
    def here(self) -> bool:
        """Whether this is the network's own thread."""
        return threading.current_thread() is self._thread

    def adopt(self, server: Any) -> None:
        """Serve one more server."""
        self._ask(self._adopt(server))

    def release(self, server: Any) -> None:
        """Close a server's socket; its sessions go on. Returns when the address is free again."""
        self._ask(self._release(server))

    def nudge(self) -> None:
        """Look whether the map is empty."""
        self._calls.put(None)
        self._soon(self._look)

    def soon(self, call: Call) -> None:
        """Call something in the network's thread, in the order of asking."""
        self._soon(call)

    def _soon(self, call: Callable[[], Any]) -> None:
        try:
            self._loop.call_soon_threadsafe(call)
        except RuntimeError:  # closed: nobody is there to be told
            return

    def _ask(self, work: Any) -> None:
        try:
            asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE)
        except (RuntimeError, CancelledError, TimeoutError):  # it has ended, and closed everything
            work.close()

    # -- the network's thread ------------------------------------------------------------------------------------------

    def submit(self, call: Call) -> asyncio.Future[None]:
        """Have a call made by the thread that serves. Cancelled where it is not made, or breaks the loop off."""
        done = self._loop.create_future()
        self._calls.put((call, done))
        return done

    def _look(self) -> None:
        with _lock:
            if self._places:
                return
            if _networks.get(id(self._places)) is self:
                del _networks[id(self._places)]
        self._over.set()

    async def _adopt(self, server: Any) -> None:
        if server not in self._servers and server.accepting:
            self._servers[server] = None
            factory = partial(OldSession, self._sessions, self._profile, server, self)
            self._servers[server] = await self._listener.adopt(cast(Socket, server.socket), factory)

    async def _release(self, server: Any) -> None:
        served = self._servers.pop(server, None)
        if served is not None:
            served.close()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._serve())
        finally:
            self._loop.close()

    async def _serve(self) -> None:
        await self._over.wait()
        self._sessions.draining = True
        while True:  # nobody will make these calls: their clients hear 451
            try:
                job = self._calls.get_nowait()
            except queue.Empty:
                break
            if job is not None:
                job[1].cancel()
        self._calls.put(None)
        await self._listener.drain(GRACE)
        for session in list(self._sessions.open):
            cast(OldSession, session).abort()
        for task in self._sessions.busy:
            task.cancel()
        await asyncio.gather(*self._sessions.busy, return_exceptions=True)
        await asyncio.sleep(0)


def _settle(done: asyncio.Future[None]) -> None:
    if not done.done():
        done.set_result(None)


def serving(places: dict[int, Any]) -> Network:
    """The network of a map, begun where there is none."""
    with _lock:
        network = _networks.get(id(places))
        if network is not None:
            return network
        network = _networks[id(places)] = Network(places)
    network.start()
    return network


def running(places: dict[int, Any]) -> Network | None:
    """The network of a map, where there is one."""
    with _lock:
        return _networks.get(id(places))


def nudge(places: dict[int, Any]) -> None:
    """Tell whoever serves a map that it has changed."""
    network = running(places)
    if network is not None:
        network.nudge()

"""The process that has one plugin loaded and forks an agent's worker processes from itself, within milliseconds each.

    server --request socket--> nursery --fork--> cell (a worker; its two pipes come with the request)
    server <--status pipe----- nursery           "forked", "ended": its pid, and how it ended

A fresh interpreter with one thread and no event loop, as a fork needs it. A cell that is replaced needs no import, and has the
code as it was when the configuration was taken into use, even if the file has changed since. Nothing of an agent runs here but
its module's import. When the server is gone, however it went, the request socket ends, and the nursery ends all that it began.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import selectors
import signal
import socket
import struct
import sys
from collections.abc import Mapping
from functools import partial
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, NoReturn

from responder.agents.files import import_file
from responder.agents.isolation import cell, frames
from responder.agents.registry import AgentType, PluginError, register
from responder.agents.results import told

REQUEST = struct.Struct("!cI")
FORK, KILL = b"F", b"K"  # what a request asks for; KILL is followed by a cell's pid
ROUNDS = 100  # times that what survives its parent is looked for

_PR_SET_PDEATHSIG = 1  # prctl(2)
_PR_SET_CHILD_SUBREAPER = 36


def main(requests: int, status: int) -> NoReturn:
    """Live until the request socket ends. Both are file descriptors that the server opened."""
    parent = os.getppid()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        # Meant for the server, which drains; a handler rather than SIG_IGN, as that would be inherited by every program.
        signal.signal(number, _nothing)
    prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    prctl(_PR_SET_CHILD_SUBREAPER, 1)
    if os.getppid() != parent:
        os._exit(0)
    os.set_inheritable(status, False)  # a program that the plugin starts must not keep them open
    os.set_inheritable(requests, False)
    with socket.socket(fileno=requests) as channel:
        channel.setblocking(True)
        order = frames.read(channel.recv, 0)
        if order is not None:
            _Nursery(channel, status, order.header).live()
    os._exit(0)


class _Nursery:
    def __init__(self, requests: socket.socket, status: int, order: dict[str, Any]) -> None:
        self._requests = requests
        self._status = status
        self._order = order
        self._cells: set[int] = set()

    def live(self) -> None:
        try:
            kind = find(self._order["sources"], self._order["agent"])
        except PluginError as error:
            self._say({"op": "failed", "reason": str(error)})
            return
        prctl(_PR_SET_PDEATHSIG, 0)  # from now on we notice ourselves, and have children to end
        gc.collect()
        gc.freeze()  # what is loaded by now is shared with the cells: no collector touches it
        self._wake, wake = os.pipe()
        os.set_blocking(wake, False)
        os.set_blocking(self._wake, False)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, _nothing)
        self._say({"op": "ready"})
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(self._requests, selectors.EVENT_READ)
                selector.register(self._wake, selectors.EVENT_READ)
                while self._turn(kind, selector, wake):
                    pass
        finally:
            self._end()

    def _turn(self, kind: AgentType, selector: selectors.BaseSelector, wake: int) -> bool:
        ready = {key.fileobj for key, _ in selector.select()}
        if self._wake in ready:
            os.read(self._wake, 4096)
            self._reap()
        if self._requests in ready:
            data, pipes, _, _ = socket.recv_fds(self._requests, REQUEST.size, 2)
            if len(data) < REQUEST.size:
                return False
            what, pid = REQUEST.unpack(data)
            if what == KILL and pid in self._cells:
                _kill_group(pid)
            elif what == FORK:
                self._fork(kind, pipes, (selector, wake))
        return True

    def _fork(self, kind: AgentType, pipes: list[int], ours: tuple[selectors.BaseSelector, int]) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        parent = os.getpid()
        try:
            pid = os.fork()
        except OSError as error:
            self._say({"op": "forked", "pid": 0, "reason": str(error.strerror)})
        else:
            if pid == 0:
                try:
                    signal.set_wakeup_fd(-1)
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                    os.setsid()
                    prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
                    ours[0].close()
                    self._requests.close()
                    for descriptor in (self._status, self._wake, ours[1]):
                        os.close(descriptor)
                    if os.getppid() == parent:
                        cell.live(self._order, kind, pipes[0], pipes[1], find)
                finally:
                    os._exit(cell.BROKEN)
            self._cells.add(pid)
            self._say({"op": "forked", "pid": pid})
        for descriptor in pipes:
            os.close(descriptor)

    def _reap(self) -> None:
        """See who has ended. What a cell leaves behind ends with it: its process group, and on Linux also what has left
        that and lost its parent."""
        while pid := _next_ended():
            if pid in self._cells:
                _kill_group(pid)  # before its number is free for another
            _, status = os.waitpid(pid, 0)
            if pid in self._cells:
                self._cells.discard(pid)
                self._kill_orphans()
                self._say({"op": "ended", "pid": pid, "status": os.waitstatus_to_exitcode(status)})

    def _kill_orphans(self) -> bool:
        """Kill what was handed to us when its parent ended. Whether there was any."""
        try:
            children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
        except OSError:  # not Linux
            return False
        orphans = [pid for pid in map(int, children) if pid not in self._cells]
        for pid in orphans:
            _kill(os.kill, pid)
        return bool(orphans)

    def _end(self) -> None:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for pid in self._cells:
            _kill_group(pid)
        for pid in self._cells:
            os.waitpid(pid, 0)
        self._cells.clear()
        for _ in range(ROUNDS):
            if not self._kill_orphans():
                break
            while _next_ended():
                os.waitpid(-1, 0)

    def _say(self, header: dict[str, Any]) -> None:
        try:
            for piece in frames.encode(header):
                os.write(self._status, piece)
        except OSError:  # the server is gone: the request socket ends next
            pass


def find(sources: Mapping[str, tuple[str, bool]], name: str) -> AgentType:
    """An agent by its name, from where it comes: a plugin file, or else an installed module. Raises `PluginError`."""
    if name not in sources:
        raise PluginError(f'there is no agent "{name}"')
    source, is_file = sources[name]
    importer = partial(import_file, Path(source)) if is_file else EntryPoint(name, source, "responder").load
    try:
        found = register(source, source, importer)
    except KeyboardInterrupt as error:
        raise PluginError(f"{source}: KeyboardInterrupt: {told(error)}") from error
    for agent in found.agents:
        if agent.name == name:
            return agent
    raise PluginError(f'{source}: it has no agent "{name}" any more')


def prctl(option: int, value: int) -> None:
    """Set an attribute of this process, on Linux."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def _next_ended() -> int:
    """The pid of a child that has ended and waits for us to take note, or 0."""
    if sys.platform == "darwin":
        return 0
    try:
        ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return 0
    return ended.si_pid if ended else 0


def _kill_group(pid: int) -> None:
    _kill(os.killpg, pid)


def _kill(kill: Any, pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        kill(pid, signal.SIGKILL)


def _nothing(number: int, frame: object) -> None:
    pass

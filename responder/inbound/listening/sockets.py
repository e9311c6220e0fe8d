"""The sockets that mail comes in by: TCP, Unix, and those that systemd has opened (sd_listen_fds(3)). Bound here, served by
`Listener`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from responder.config import Inherited, Listen
from responder.inbound.listening.descriptors import ListeningSocket

BACKLOG = 1024
LMTP_FORBIDDEN = 25  # RFC 2033 5

Socket = socket.socket


class ListenError(Exception):
    """A listening socket could not be opened; the message names the address and the reason."""


def bind(address: tuple[str, int]) -> Socket:
    """A TCP socket bound to `(host, port)`, before there is an event loop; it does not listen yet. A host with several
    addresses has the first of them. Raises `OSError`."""
    family, kind, *_ = socket.getaddrinfo(address[0], address[1], type=socket.SOCK_STREAM)[0]
    return _bound(family, kind, address)


async def open_sockets(listen: Listen, inherited: Inherited) -> list[Socket]:
    """The sockets of one listener, bound. Raises `ListenError`."""
    try:
        if listen.path is not None:
            return [_unix(listen.path, listen.permissions)]
        if listen.systemd:
            return _handed_over(listen, inherited)
        return await _tcp(listen.host, listen.port)
    except socket.gaierror as error:  # its numbers are no system's
        raise ListenError(f"{listen.address}: {error.strerror}") from error
    except OSError as error:
        raise ListenError(f"{listen.address}: {os.strerror(error.errno or 0)}") from error


async def serve(sock: Socket, factory: Callable[[], asyncio.Protocol]) -> asyncio.Server:
    """Listen on a socket that is bound, and let what `factory` makes deal with each connection. Raises `OSError`."""
    loop = asyncio.get_running_loop()
    if sock.family != socket.AF_UNIX:
        return await loop.create_server(factory, sock=sock, backlog=BACKLOG)
    if sys.version_info >= (3, 13):  # which would remove the file at the end, systemd's too
        return await loop.create_unix_server(factory, sock=sock, backlog=BACKLOG, cleanup_socket=False)
    return await loop.create_unix_server(factory, sock=sock, backlog=BACKLOG)


class SocketFile:
    """The file of a Unix socket that is ours: whoever has put another in its place since keeps that one."""

    def __init__(self, path: Path) -> None:
        """Raises `OSError`."""
        self._path = path.absolute()
        self._identity = _identity(path)

    def remove(self) -> None:
        with contextlib.suppress(OSError):
            if _identity(self._path) == self._identity:
                self._path.unlink()


def _identity(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_dev, found.st_ino


async def _tcp(host: str, port: int) -> list[Socket]:
    """One socket for each address of the host. `[::]` takes IPv6 alone, on every system: IPv4 is `0.0.0.0`."""
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    sockets: list[Socket] = []
    try:
        sockets.extend(_bound(family, kind, address) for family, kind, _, _, address in dict.fromkeys(found))
    except BaseException:
        close_all(sockets)
        raise
    return sockets


def _bound(family: int, kind: int, address: Any) -> Socket:
    sock = ListeningSocket(family, kind)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
    except BaseException:
        sock.close()
        raise
    return sock


def _unix(path: Path, permissions: int) -> Socket:
    """A socket at a path. What a dead server has left there goes; what a living one listens on stays."""
    sock = ListeningSocket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        if _is_left_over(path):
            path.unlink()
        sock.bind(str(path))
        path.chmod(permissions)  # nobody can connect before it listens
    except BaseException:
        sock.close()
        raise
    return sock


def _is_left_over(path: Path) -> bool:
    """Whether a socket is there on which nobody listens. Raises `ListenError` where something else is there, or somebody
    listens."""
    try:
        kind = path.lstat().st_mode
    except FileNotFoundError:
        return False
    if not stat.S_ISSOCK(kind):
        raise ListenError(f"unix:{path}: something that is no socket is in its place")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return True
        except FileNotFoundError:
            return False
        except BlockingIOError:  # its backlog is full
            pass
    raise ListenError(f"unix:{path}: another server listens there")


def _handed_over(listen: Listen, inherited: Inherited) -> list[Socket]:
    found = inherited.find(listen.systemd)
    if not found:
        there = ", ".join(dict.fromkeys(inherited.names)) or "none"
        raise ListenError(f"{listen.address}: systemd has handed over no such socket (there: {there})")
    sockets: list[Socket] = []
    try:
        sockets.extend(_adopted(listen, number) for number in found)
    except BaseException:
        close_all(sockets)
        raise
    return sockets


def _adopted(listen: Listen, number: int) -> Socket:
    sock = ListeningSocket(fileno=os.dup(number))  # two listeners may name one, by name and by number
    try:
        if sock.type != socket.SOCK_STREAM or sock.family not in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX):
            raise ListenError(f"{listen.address}: what systemd has handed over is no stream socket")
        sock.setblocking(False)
        name = sock.getsockname()
        if listen.protocol == "lmtp" and isinstance(name, tuple) and name[1] == LMTP_FORBIDDEN:
            raise ListenError(f"{listen.address}: LMTP must not be spoken on port 25 (RFC 2033 5)")
    except BaseException:
        sock.close()
        raise
    return sock


def close_all(sockets: list[Socket]) -> None:
    """Close them, and forget them."""
    for sock in sockets:
        sock.close()
    sockets.clear()

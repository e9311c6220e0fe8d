"""The two functions of the removed `asyncore` that a program with `smtpd` servers calls: `loop` and `close_all`."""

from __future__ import annotations

from typing import Any

from responder.compat.dispatcher import Map, socket_map
from responder.compat.network import Network, nudge, serving
from responder.compat.session import BREAKING, ExitNow

__all__ = ["ExitNow", "close_all", "loop", "socket_map"]


def loop(timeout: float = 30.0, use_poll: bool = False, map: Map | None = None, count: int | None = None) -> None:  # noqa: A002
    """Serve all servers of a map until they and their channels are closed.

    The program's code runs in the thread that calls this. With `count`, returns after so many turns: in each it waits for
    `timeout` seconds at most for something to do. `use_poll` is taken and ignored. Ctrl-C raises `KeyboardInterrupt` here;
    `ExitNow` and `SystemExit` of the program's own code come out here too.
    """
    places = socket_map if map is None else map
    network: Network | None = None
    while places and (count is None or count > 0):
        network = serving(places)
        network.turn(timeout)
        if count is not None:
            count -= 1
    if network is not None and not places:
        network.nudge()  # the program may have emptied the map itself
        network.join()


def close_all(map: Map | None = None, ignore_all: bool = False) -> None:  # noqa: A002 - the old name
    """Close all servers and channels of a map. Raises what a program's own `close` raises, unless `ignore_all`."""
    places = socket_map if map is None else map
    for one in list(places.values()):
        try:
            one.close()
        except BREAKING:
            raise
        except Exception:
            if not ignore_all:
                raise
    places.clear()
    nudge(places)


def __getattr__(name: str) -> Any:
    raise AttributeError(f"responder.compat.asyncore has no {name!r}: it serves smtpd servers only, see docs/compat.md")

"""Sockets: connected to the address that was judged, and the first of several that answers."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from responder.clock import SystemClock
from responder.outbound.dial import Candidate, Race, dial, race

CLOCK = SystemClock()


@pytest.fixture
def sockets() -> Iterator[list[socket.socket]]:
    found: list[socket.socket] = []
    yield found
    for one in found:
        one.close()


def listening(sockets: list[socket.socket], address: str = "127.0.0.1", port: int = 0, *, deaf: bool = False) -> int:
    """A port that is listened on. A deaf one answers no SYN any more: its queue is full."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    server = socket.socket(family, socket.SOCK_STREAM)
    sockets.append(server)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind((address, port))
    server.listen(0 if deaf else 16)
    if deaf:
        for _ in range(3):
            full = socket.socket(family, socket.SOCK_STREAM)
            sockets.append(full)
            full.setblocking(False)
            full.connect_ex(server.getsockname()[:2])
    number: int = server.getsockname()[1]
    return number


async def run(*addresses: str, port: int, limit: float = 5.0, stagger: float = 0.25) -> Race:
    ran = await race([Candidate(one) for one in addresses], port, limit, CLOCK, stagger=stagger)
    if ran.sock is not None:
        ran.sock.close()
    return ran


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def eventually(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


async def test_ipv6_is_refused_then_ipv4_is_connected_at_once(sockets: list[socket.socket]) -> None:
    port = listening(sockets)
    began = CLOCK.monotonic()
    ran = await run("::1", "127.0.0.1", port=port)
    assert ran.winner == Candidate("127.0.0.1")
    assert [one.address for one, _ in ran.failed] == ["::1"]
    assert CLOCK.monotonic() - began < 0.2  # not a whole stagger later


async def test_ipv4_is_refused_then_ipv6_is_connected(sockets: list[socket.socket]) -> None:
    port = listening(sockets, "::1")
    assert (await run("127.0.0.1", "::1", port=port)).winner == Candidate("::1")


@pytest.mark.parametrize(("deaf", "other"), [("::1", "127.0.0.1"), ("127.0.0.1", "::1")])
async def test_one_family_says_nothing_then_the_other_is_connected_after_the_stagger(
    sockets: list[socket.socket], deaf: str, other: str
) -> None:
    port = listening(sockets, deaf, deaf=True)
    listening(sockets, other, port)
    began = CLOCK.monotonic()
    ran = await run(deaf, other, port=port)
    took = CLOCK.monotonic() - began
    assert ran.winner == Candidate(other)
    assert ran.outrun == [Candidate(deaf)]
    assert 0.24 < took < 1.0
    assert ran.seconds < 0.2  # the winner's own, without the wait before


async def test_first_answers_then_the_second_is_never_begun_with(sockets: list[socket.socket]) -> None:
    port = listening(sockets)
    ran = await run("127.0.0.1", "::1", port=port)
    assert (ran.winner, ran.begun, ran.failed, ran.outrun) == (Candidate("127.0.0.1"), 1, [], [])


async def test_slow_first_answers_after_the_second_was_begun_with_then_one_wins_and_no_socket_is_left(
    sockets: list[socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    port = listening(sockets)
    listening(sockets, "127.0.0.2", port)
    release = asyncio.Event()
    there: list[socket.socket] = []

    async def slow(address: str, port: int, source: str, limit: float) -> socket.socket:
        sock = await dial(address, port, source, limit)
        there.append(sock)
        await release.wait()
        return sock

    monkeypatch.setattr("responder.outbound.dial.dial", slow)
    before = descriptors()
    racing = asyncio.create_task(run("127.0.0.1", "127.0.0.2", port=port, stagger=0.01))
    await eventually(lambda: len(there) == 2)
    release.set()  # both are there in the same instant
    ran = await racing
    assert (ran.winner, ran.begun) == (Candidate("127.0.0.1"), 2)
    await eventually(lambda: all(sock.fileno() == -1 for sock in there))
    assert descriptors() == before


async def test_all_fail_then_each_says_why(sockets: list[socket.socket]) -> None:
    port = listening(sockets, "127.0.0.9", deaf=True)
    ran = await run("127.0.0.1", "127.0.0.9", "::1", port=port, limit=0.4)
    assert ran.winner is None
    assert {one.address: type(error) for one, error in ran.failed} == {
        "127.0.0.1": ConnectionRefusedError,
        "127.0.0.9": TimeoutError,
        "::1": ConnectionRefusedError,
    }


@pytest.mark.parametrize("addresses", [["127.0.0.9"], ["127.0.0.9", "127.0.0.10"]])
async def test_race_is_given_up_then_no_socket_is_left(sockets: list[socket.socket], addresses: list[str]) -> None:
    port = listening(sockets, "127.0.0.9", deaf=True)
    listening(sockets, "127.0.0.10", port, deaf=True)
    before = descriptors()
    racing = asyncio.create_task(run(*addresses, port=port, stagger=0.01, limit=60))
    await eventually(lambda: descriptors() == before + len(addresses))
    racing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await racing
    await eventually(lambda: descriptors() == before)


async def test_kernel_connects_another_address_than_was_judged_then_it_is_none(sockets: list[socket.socket]) -> None:
    """Linux takes 0.0.0.0 for this host. `reach` refuses it; were anything of the kind left, nothing would be sent there."""
    port = listening(sockets)
    with pytest.raises(OSError, match="another address"):
        await dial("0.0.0.0", port, "", 1.0)


async def test_source_is_no_address_of_ours_then_it_says_so() -> None:
    with pytest.raises(OSError, match="assign"):
        await dial("127.0.0.1", 1, "192.0.2.1", 1.0)


async def test_source_is_given_then_the_connection_comes_from_there(sockets: list[socket.socket]) -> None:
    port = listening(sockets)
    ran = await race([Candidate("127.0.0.1", "127.0.0.77")], port, 1.0, CLOCK)
    assert ran.sock is not None
    assert ran.sock.getsockname()[0] == "127.0.0.77"
    ran.sock.close()

"""Where clients come in: Unix sockets, IPv6, several addresses, sockets of systemd, and what proxies say of their clients."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
import stat
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
import uvloop

from responder.config import TLS, Inherited, Listen
from responder.inbound.listening import sockets
from responder.inbound.listening.arrival import PATIENCE
from responder.inbound.listening.listener import SWEEP, Listener, ListenError
from responder.inbound.listening.notify import Supervisor
from responder.inbound.tls import Certificate
from responder.mail.lifecycle import State
from tests.support.clock import ManualClock
from tests.support.dialog import Front, listening
from tests.support.proxy_header import LOCAL, binary_header, text_header

WAIT = 20.0
LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
PROXY = {"proxy_protocol": True}


@contextlib.asynccontextmanager
async def connection(where: int | Path, host: str = "127.0.0.1", first: bytes = b"") -> AsyncIterator[Streams]:
    """A client, by a port or a path. `first` is written before anything is read."""
    if isinstance(where, Path):
        reader, writer = await asyncio.open_unix_connection(str(where))
    else:
        reader, writer = await asyncio.open_connection(host, where)
    try:
        writer.write(first)
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def line(reader: asyncio.StreamReader) -> str:
    return (await asyncio.wait_for(reader.readline(), WAIT)).decode().rstrip("\r\n")


async def ended(reader: asyncio.StreamReader) -> bool:
    """Whether the server closes without a word."""
    with contextlib.suppress(ConnectionResetError):
        return await asyncio.wait_for(reader.read(), WAIT) == b""
    return True


async def mail(streams: Streams) -> str:
    """One mail; the last reply."""
    reader, writer = streams
    writer.write(
        b"HELO c.example\r\nMAIL FROM:<a@example.org>\r\nRCPT TO:<echo@test.example>\r\nDATA\r\nhello\r\n.\r\n"
    )
    replies = [await line(reader) for _ in range(6)]
    return replies[-1]


async def trace(front: Front) -> str:
    """The trace field of the only mail, unfolded."""
    (item,) = await front.store.items([State.RECEIVED])
    content = await front.store.content(item.id.partition(".")[0])
    return content.decode().partition("\r\n\t;")[0].partition("\r\n\tfor")[0].replace("\r\n\t", " ")


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(WAIT):
        while not condition():
            await asyncio.sleep(0.005)


def run(loop: str, work: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(work)


def on_both_loops(test: Callable[[Path], Awaitable[None]]) -> Callable[[str, Path], None]:
    """Run it on both event loops: they open sockets and name peers in ways of their own."""

    @pytest.mark.parametrize("loop", LOOPS)
    def both(loop: str, tmp_path: Path) -> None:
        async def work() -> None:
            await test(tmp_path)

        run(loop, work())

    return both


def unix(path: Path, **more: Any) -> dict[str, Any]:
    return {"address": f"unix:{path}", **more}


# -- Unix sockets ------------------------------------------------------------------------------------------------------


@on_both_loops
async def test_unix_socket_when_a_client_comes_then_it_is_local_and_not_counted(tmp_path: Path) -> None:
    path = tmp_path / "s"
    limits = {"connections_per_ip": 1, "connection_rate": "1/1h"}
    async with listening(tmp_path, {"limits": limits}, unix(path)) as front:
        async with connection(path) as one, connection(path) as two:
            assert (await mail(one)).startswith("250 ")
            assert (await line(two[0])).startswith("220 ")
        assert "Received: from c.example (local socket) by mx.test.example with SMTP id" in await trace(front)
    assert not path.exists()


@pytest.mark.parametrize(("mode", "bits"), [("0660", 0o660), ("0600", 0o600), ("666", 0o666)])
async def test_unix_socket_when_a_mode_is_set_then_the_file_has_it(tmp_path: Path, mode: str, bits: int) -> None:
    async with listening(tmp_path, {}, unix(tmp_path / "s", mode=mode)):
        assert stat.S_IMODE((tmp_path / "s").stat().st_mode) == bits


@on_both_loops
async def test_unix_socket_when_a_dead_server_left_its_file_then_it_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    async with listening(tmp_path, {}, unix(path)), connection(path) as (reader, _):
        assert (await line(reader)).startswith("220 ")


@on_both_loops
async def test_unix_socket_when_a_server_listens_there_then_it_stays_the_only_one(tmp_path: Path) -> None:
    path = tmp_path / "s"
    async with listening(tmp_path, {}, unix(path)) as front:
        with pytest.raises(ListenError, match=f"^unix:{path}: another server listens there$"):
            await Listener(front.service).open([Listen(address=f"unix:{path}")])
        async with connection(path) as (reader, _):
            assert (await line(reader)).startswith("220 ")
    assert not path.exists()


async def test_unix_socket_when_the_backlog_of_its_server_is_full_then_it_counts_as_living(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with contextlib.ExitStack() as stack:
        busy = stack.enter_context(socket.socket(socket.AF_UNIX))
        busy.bind(str(path))
        busy.listen(0)
        for _ in range(8):
            client = stack.enter_context(socket.socket(socket.AF_UNIX))
            client.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                client.connect(str(path))
        with pytest.raises(ListenError, match="another server listens there"):
            await sockets.open_sockets(Listen(address=f"unix:{path}"), Inherited())
    assert path.exists()


@pytest.mark.parametrize("kind", ["file", "folder", "link"])
async def test_unix_socket_when_something_else_is_there_then_it_stays(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "s"
    if kind == "file":
        path.write_text("precious")
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(tmp_path / "nowhere")
    with pytest.raises(ListenError, match="something that is no socket is in its place"):
        async with listening(tmp_path, {}, unix(path)):
            pass
    assert os.path.lexists(path)


async def test_unix_socket_when_another_has_taken_its_place_then_that_one_stays_at_the_stop(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as other:
        async with listening(tmp_path, {}, unix(path)):
            path.rename(tmp_path / "old")
            other.bind(str(path))
        assert path.is_socket()


@on_both_loops
async def test_unix_socket_when_a_proxy_comes_by_it_then_its_header_is_believed(tmp_path: Path) -> None:
    path = tmp_path / "s"
    async with listening(tmp_path, {}, unix(path, proxy_protocol=True, proxies=[])) as front:
        async with connection(path, first=text_header("192.0.2.7")) as streams:
            assert (await mail(streams)).startswith("250 ")
        assert "from c.example ([192.0.2.7])" in await trace(front)


# -- TCP ---------------------------------------------------------------------------------------------------------------


@on_both_loops
async def test_ipv6_when_a_client_comes_then_it_is_noted_as_one(tmp_path: Path) -> None:
    async with listening(tmp_path, {}, {"address": "[::1]:0"}) as front:
        async with connection(front.port, "::1") as streams:
            assert (await mail(streams)).startswith("250 ")
        assert "from c.example ([IPv6:::1])" in await trace(front)


@on_both_loops
async def test_ipv6_when_all_addresses_are_listened_on_then_ipv4_is_not_among_them(tmp_path: Path) -> None:
    async with listening(tmp_path, {}, {"address": "[::]:0"}) as front:
        async with connection(front.port, "::1") as (reader, _):
            assert (await line(reader)).startswith("220 ")
        with pytest.raises(ConnectionRefusedError):
            async with connection(front.port, "127.0.0.1"):
                pass
        ipv4 = Listener(front.service)  # so both may be there on one port
        await ipv4.open([Listen(address=f"0.0.0.0:{front.port}")])
        async with connection(front.port, "127.0.0.1") as (reader, _):
            assert (await line(reader)).startswith("220 ")
        await ipv4.drain(0)


async def test_name_when_it_has_several_addresses_then_all_are_listened_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = socket.getaddrinfo

    def known(host: Any, *arguments: Any, **options: Any) -> Any:
        if host != "both.example":
            return asked(host, *arguments, **options)
        found = [*asked("::1", *arguments, **options), *asked("127.0.0.1", *arguments, **options)]
        return found * 2  # as one that a file names twice

    monkeypatch.setattr(socket, "getaddrinfo", known)
    async with listening(tmp_path, {}, {"address": "both.example:0"}) as front:
        assert [host for host, _ in front.listener.addresses] == ["::1", "127.0.0.1"]
        for host, port in front.listener.addresses:
            async with connection(port, host) as (reader, _):
                assert (await line(reader)).startswith("220 ")


async def test_name_when_it_has_no_address_then_one_line_says_so(tmp_path: Path) -> None:
    with pytest.raises(ListenError, match=r"^nobody\.invalid:25: .+$"):
        async with listening(tmp_path, {}, {"address": "nobody.invalid:25"}):
            pass


@on_both_loops
async def test_sockets_when_one_can_not_be_opened_then_none_is(tmp_path: Path) -> None:
    async with listening(tmp_path, {}) as front:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        wanted = [f"unix:{tmp_path}/s", f"127.0.0.1:{port}", f"127.0.0.1:{front.port}"]
        with pytest.raises(ListenError, match=f"^{wanted[2]}: Address already in use$"):
            await Listener(front.service).open([Listen(address=address) for address in wanted])
        assert not (tmp_path / "s").exists()
        with socket.create_server(("127.0.0.1", port)):
            pass


# -- systemd -----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def handed_over(*open_sockets: socket.socket, names: str = "smtp") -> Iterator[Inherited]:
    """As if systemd had started us with these, which have one number after the other only where there is one."""
    highest = max(sock.fileno() for sock in open_sockets)
    known = {sock.fileno(): name for sock, name in zip(open_sockets, names.split(":"), strict=True)}
    yield Inherited(tuple(known.get(number, "other") for number in range(3, highest + 1)))


@on_both_loops
async def test_inherited_socket_when_it_is_named_then_it_is_served_and_its_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "theirs"
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_UNIX) as local:
        local.bind(str(path))
        local.listen()
        with handed_over(tcp, local, names="smtp:local") as inherited:
            async with listening(tmp_path, {}) as front:
                listener = Listener(front.service)
                number = tcp.fileno() - 3
                listens = [Listen(address=f"systemd:{number}"), Listen(address="systemd:local")]
                await listener.open(listens, inherited)
                assert listener.addresses == [tcp.getsockname()]
                for where in (tcp.getsockname()[1], path):
                    async with connection(where) as (reader, _):
                        assert (await line(reader)).startswith("220 ")
                listener.stop()
        assert path.is_socket()
        with socket.create_connection(tcp.getsockname()):  # it is still open there, for the next of us
            pass


@on_both_loops
async def test_inherited_sockets_when_several_have_one_name_then_all_are_served(tmp_path: Path) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as one,
        socket.create_server(("127.0.0.2", 0)) as two,
        handed_over(one, two, names="smtp:smtp") as inherited,
    ):
        async with listening(tmp_path, {}) as front:
            listener = Listener(front.service)
            await listener.open([Listen(address="systemd:smtp")], inherited)
            for host, port in (one.getsockname(), two.getsockname()):
                async with connection(port, host) as (reader, _):
                    assert (await line(reader)).startswith("220 ")
            listener.stop()


@on_both_loops
async def test_inherited_socket_when_it_takes_ipv4_as_ipv6_then_the_client_is_the_ipv4_one(tmp_path: Path) -> None:
    dual = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    with dual, handed_over(dual) as inherited:
        async with listening(tmp_path, {}) as front:
            listener = Listener(front.service)
            await listener.open([Listen(address="systemd:smtp")], inherited)
            async with connection(dual.getsockname()[1]) as streams:
                assert (await mail(streams)).startswith("250 ")
            assert "from c.example ([127.0.0.1])" in await trace(front)
            listener.stop()


@pytest.mark.parametrize(
    ("names", "address", "reason"),
    [
        ((), "systemd:smtp", r"systemd has handed over no such socket \(there: none\)"),
        (("a", "b", "a"), "systemd:smtp", r"systemd has handed over no such socket \(there: a, b\)"),
        (("a",), "systemd:1", r"systemd has handed over no such socket \(there: a\)"),
        (("x",) * 4000, "systemd:3999", "Bad file descriptor"),
    ],
)
async def test_inherited_socket_when_it_is_missing_then_one_line_says_so(
    names: tuple[str, ...], address: str, reason: str
) -> None:
    with pytest.raises(ListenError, match=f"^{address}: {reason}$"):
        await sockets.open_sockets(Listen(address=address), Inherited(names))


async def test_inherited_socket_when_it_is_of_another_kind_then_one_line_says_so(tmp_path: Path) -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as datagrams, (tmp_path / "x").open("w") as file:
        with handed_over(datagrams) as inherited, pytest.raises(ListenError, match="is no stream socket"):
            await sockets.open_sockets(Listen(address="systemd:smtp"), inherited)
        with pytest.raises(ListenError, match="Socket operation on non-socket"):
            await sockets.open_sockets(Listen(address=f"systemd:{file.fileno() - 3}"), Inherited(("x",) * 99))


async def test_inherited_socket_when_lmtp_would_be_on_the_port_of_smtp_then_it_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as tcp, handed_over(tcp) as inherited:
        (opened,) = await sockets.open_sockets(Listen(address="systemd:smtp", protocol="lmtp"), inherited)
        opened.close()
        monkeypatch.setattr(sockets, "LMTP_FORBIDDEN", tcp.getsockname()[1])
        with pytest.raises(ListenError, match=r"port 25 \(RFC 2033 5\)"):
            await sockets.open_sockets(Listen(address="systemd:smtp", protocol="lmtp"), inherited)


@pytest.mark.parametrize("abstract", [False, True])
def test_supervisor_when_the_state_changes_then_it_is_told(tmp_path: Path, abstract: bool) -> None:
    name = f"@responder-test-{os.getpid()}-{tmp_path.name}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listens:
        listens.bind("\0" + name[1:] if abstract else name)
        listens.settimeout(WAIT)
        supervisor = Supervisor(name, ManualClock())
        supervisor.ready()
        with supervisor.reloading():
            pass
        supervisor.stopping()
        said = [listens.recv(200).decode() for _ in range(4)]
    assert said == ["READY=1", "RELOADING=1\nMONOTONIC_USEC=1000000000", "READY=1", "STOPPING=1"]


@pytest.mark.parametrize("address", ["", "nowhere", "@nobody-listens-there", "/nowhere/at/all", "/" + "x" * 300])
def test_supervisor_when_nobody_listens_then_nothing_comes_of_it(address: str) -> None:
    Supervisor(address, ManualClock()).ready()


# -- proxies -----------------------------------------------------------------------------------------------------------


@on_both_loops
async def test_proxy_when_it_brings_many_clients_then_each_is_counted_by_its_own_address(tmp_path: Path) -> None:
    settings = {"limits": {"connections_per_ip": 1}}
    async with listening(tmp_path, settings, PROXY) as front, contextlib.AsyncExitStack() as stack:
        for first, reply in (
            (text_header("192.0.2.7"), "220"),
            (binary_header("192.0.2.8", checksum=True), "220"),
            (text_header("192.0.2.7"), "421"),
            (text_header("::ffff:192.0.2.7"), "421"),
            (text_header("2001:db8::1"), "220"),
            (LOCAL, "220"),
            (LOCAL, "220"),
            (b"PROXY UNKNOWN\r\n", "220"),
        ):
            reader, _ = await stack.enter_async_context(connection(front.port, first=first))
            assert (await line(reader)).startswith(f"{reply} ")
        await until(lambda: len(front.service.open) == 6)
        peers = sorted(session.peer for session in front.service.open)
        await front.listener.drain(0)
    assert peers == ["127.0.0.1"] * 3 + ["192.0.2.7", "192.0.2.8", "2001:db8::1"]


@on_both_loops
async def test_proxy_when_it_is_not_listed_then_it_is_not_spoken_to(tmp_path: Path) -> None:
    settings = {**PROXY, "proxies": ["192.0.2.0/24", "::1"]}
    async with listening(tmp_path, {}, settings) as front, connection(front.port) as (reader, _):
        assert await ended(reader)
        assert not front.service.open


@on_both_loops
async def test_proxy_when_its_header_does_not_come_in_time_then_the_connection_ends(tmp_path: Path) -> None:
    async with (
        listening(tmp_path, {}, PROXY) as front,
        connection(front.port, first=b"PROXY TCP4 192.0.2.7") as slow,
        connection(front.port) as silent,
    ):
        arrivals = front.listener._arrivals._waiting
        await until(lambda: len(arrivals) == 2 and all(one._transport for one in arrivals) and front.clock.sleeping)
        front.clock.advance(PATIENCE - 0.1)
        await asyncio.sleep(0)
        front.listener._arrivals.sweep()
        assert len(arrivals) == 2
        await until(lambda: front.clock.sleeping)
        front.clock.advance(SWEEP)
        assert await ended(slow[0])
        assert await ended(silent[0])
        assert not arrivals
    assert PATIENCE + SWEEP <= 10


async def test_proxy_when_too_many_of_its_connections_say_nothing_then_further_ones_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("responder.inbound.listening.arrival.SPARE", 1)
    async with (
        listening(tmp_path, {"limits": {"connections": 2}}, PROXY) as front,
        connection(front.port) as one,
        connection(front.port) as two,
    ):
        await until(lambda: len(front.listener._arrivals._waiting) == 2)
        async with connection(front.port) as (reader, _):
            assert await ended(reader)
        for reader, writer in (one, two):
            writer.write(text_header("192.0.2.7"))
            assert (await line(reader)).startswith("220 ")
        async with connection(front.port, first=text_header("192.0.2.8")) as (reader, _):
            assert (await line(reader)).startswith("421 ")  # with as many sessions as there may be, it is still told so


@on_both_loops
async def test_proxy_when_the_server_stops_then_what_has_said_nothing_ends_at_once(tmp_path: Path) -> None:
    async with listening(tmp_path, {}, PROXY) as front, connection(front.port) as (reader, _):
        await until(lambda: front.listener._arrivals._waiting)
        await front.listener.drain(0)
        assert await ended(reader)


@on_both_loops
async def test_proxy_when_it_only_looks_whether_the_port_is_open_then_nothing_is_left(tmp_path: Path) -> None:
    async with listening(tmp_path, {}, PROXY) as front:
        async with connection(front.port):
            await until(lambda: front.listener._arrivals._waiting)
        await until(lambda: not front.listener._arrivals._waiting)


@on_both_loops
async def test_proxy_when_the_client_begins_tls_in_the_same_segment_then_the_handshake_gets_it(tmp_path: Path) -> None:
    authority = trustme.CA()
    chain = tmp_path / "chain.pem"
    authority.issue_cert("mx.test.example").private_key_and_cert_chain_pem.write_to_path(chain)
    context = ssl.create_default_context()
    authority.configure_trust(context)
    async with listening(tmp_path, {}, {**PROXY, "protocol": "smtps"}) as front:
        front.service.certificate = Certificate(TLS(certificate=chain, key=chain), front.clock)
        front.service.follow(front.service.hostname, front.service.limits)
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = context.wrap_bio(incoming, outgoing, server_hostname="mx.test.example")
        async with connection(front.port, first=binary_header("192.0.2.7")) as (reader, writer):

            async def step(call: Callable[[], Any]) -> Any:
                while True:
                    try:
                        return call()
                    except ssl.SSLWantReadError:
                        writer.write(outgoing.read())
                        octets = await asyncio.wait_for(reader.read(65536), WAIT)
                        assert octets, "the server hung up"
                        incoming.write(octets)

            await step(tls.do_handshake)
            assert (await step(lambda: tls.read(100))).startswith(b"220 mx.test.example")
            (session,) = front.service.open
            assert session.peer == "192.0.2.7"


# -- a reload ----------------------------------------------------------------------------------------------------------


async def test_reload_when_what_does_not_bind_changes_then_the_listener_follows(tmp_path: Path) -> None:
    async with listening(tmp_path, {}, {**PROXY, "proxies": ["192.0.2.0/24"]}) as front:
        async with connection(front.port) as (reader, _):
            assert await ended(reader)
        new = Listen(address="127.0.0.1:0", proxy_protocol=True, auth="required")
        front.service.follow(front.service.hostname, front.service.limits, [new])
        async with connection(front.port, first=text_header("192.0.2.7")) as (reader, writer):
            assert (await line(reader)).startswith("220 ")
            writer.write(b"HELO c.example\r\nMAIL FROM:<a@example.org>\r\n")
            assert (await line(reader)).startswith("250 ")
            assert (await line(reader)).startswith("530 ")


async def test_reload_when_a_listener_is_another_then_the_old_one_stays_as_it_is(tmp_path: Path) -> None:
    async with listening(tmp_path, {}, PROXY) as front:
        other = Listen(address="127.0.0.1:0", auth="required")
        front.service.follow(front.service.hostname, front.service.limits, [other])
        async with connection(front.port, first=text_header("192.0.2.7")) as streams:
            assert (await mail(streams)).startswith("250 ")


# -- nobody ------------------------------------------------------------------------------------------------------------


class Gone(asyncio.Transport):
    """The transport of a client that is gone before it was asked who it is."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def is_closing(self) -> bool:
        return "abort" in self.calls

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.calls.append("write")

    def close(self) -> None:
        self.calls.append("close")

    def abort(self) -> None:
        self.calls.append("abort")


@pytest.mark.parametrize("listen", [{}, PROXY], ids=["a client", "a proxy"])
async def test_connection_when_nobody_knows_who_it_was_then_it_is_not_taken_for_a_local_one(
    tmp_path: Path, listen: dict[str, Any]
) -> None:
    async with listening(tmp_path, {}, listen) as front:
        factory = front.listener._factory(front.service._profiles[0])
        session, transport = factory(), Gone()
        session.connection_made(transport)
        session.data_received(b"PROXY TCP4 192.0.2.7 192.0.2.8 1 2\r\nHELO c.example\r\nMAIL FROM:<a@example.org>\r\n")
        assert transport.calls[0] == "abort"
        assert "write" not in transport.calls
        session.connection_lost(None)
        assert not front.service.open

"""The one-click listener of mailing lists, asked by a real HTTP client and by worse ones (RFC 8058)."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest

from plugins import _one_click
from plugins.list import MailingList
from responder.agents.files import fresh, import_file
from tests.support.memory import equipped
from tests.support.server import ROOT, free_port

ANN, BOB = "ann@client.example", "bob@client.example"
ONE_CLICK = {"List-Unsubscribe": "One-Click"}


class World:
    """A started list with its listener, and a client."""

    def __init__(self, port: int, inbox: str = "talk", kind: type[Any] = MailingList) -> None:
        self.port = port
        click = {"url": "https://lists.example.org/leave", "listen": f"127.0.0.1:{port}"}
        self.list = equipped(kind, None, inbox, name="Talk", members=[ANN, BOB], one_click=click)

    async def __aenter__(self) -> World:
        await self.list.start()
        self.client = httpx.AsyncClient(base_url=f"http://127.0.0.1:{self.port}", timeout=10, trust_env=False)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.client.aclose()
        await self.list.stop()

    def path(self, member: str = BOB) -> str:
        return f"/leave/{self.list._members.token(member)}"

    async def members(self) -> list[str]:
        return [key.removeprefix("member/") for key in await self.list.context.state.items("member/")]

    async def raw(self, *octets: bytes, pause: float = 0.0) -> bytes:
        """What comes back for these octets, until the listener hangs up."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            async with asyncio.timeout(10):
                with contextlib.suppress(ConnectionError):
                    for piece in octets:
                        writer.write(piece)
                        await writer.drain()
                        await asyncio.sleep(pause)
                return await reader.read()
        except ConnectionError:
            return b""
        finally:
            writer.close()


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with World(free_port()) as world:
        yield world


async def test_post_when_it_is_one_click_then_the_member_is_gone_and_a_second_one_is_told_the_same(
    world: World,
) -> None:
    first = await world.client.post(world.path(), data=ONE_CLICK)
    assert first.status_code == 200
    assert await world.members() == [ANN]
    second = await world.client.post(world.path(), data=ONE_CLICK)
    assert (second.status_code, second.text) == (200, first.text)
    assert BOB not in first.text
    assert first.headers["connection"] == "close"
    assert first.headers["cache-control"] == "no-store"
    assert not first.is_redirect  # RFC 8058 3.1


@pytest.mark.parametrize(
    "request_",
    [
        {"files": {"List-Unsubscribe": (None, "One-Click")}},  # multipart/form-data
        {"data": {"a": "b", **ONE_CLICK}},
        {"content": b"List-Unsubscribe=One-Click"},
        {
            "content": b"List-Unsubscribe=One-Click\r\n",
            "headers": {"Content-Type": "application/x-www-form-urlencoded"},
        },
    ],
)
async def test_post_when_its_body_has_another_form_then_it_counts(world: World, request_: dict[str, Any]) -> None:
    assert (await world.client.post(world.path(), **request_)).status_code == 200
    assert await world.members() == [ANN]


async def test_post_when_it_comes_in_pieces_then_it_counts(world: World) -> None:
    async def body() -> AsyncIterator[bytes]:
        for octet in b"List-Unsubscribe=One-Click":
            yield bytes([octet])

    assert (await world.client.post(world.path(), content=body())).status_code == 200  # chunked
    head = f"POST {world.path(ANN)} HTTP/1.1\r\nHost: x\r\nContent-Length: 26\r\nExpect: 100-continue\r\n\r\n".encode()
    said = await world.raw(head[:20], head[20:], b"List-Unsubscribe=One-Click", pause=0.01)
    assert said.startswith(b"HTTP/1.1 100 \r\n")
    assert b"HTTP/1.1 200 OK\r\n" in said
    assert await world.members() == []


async def test_get_when_a_scanner_follows_the_link_then_nothing_changes(world: World) -> None:
    page = await world.client.get(world.path())
    assert page.status_code == 200
    assert '<form method="post">' in page.text
    assert 'name="List-Unsubscribe" value="One-Click"' in page.text  # what its button sends is the POST above
    head = await world.client.head(world.path())
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == page.headers["content-length"]
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert await world.members() == [ANN, BOB]


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/", ONE_CLICK, 404),
        ("POST", "/leave/", ONE_CLICK, 404),
        ("POST", f"/leave/{'a' * 26}", ONE_CLICK, 404),
        ("GET", f"/leave/{'a' * 26}", None, 404),
        ("POST", "{path}x", ONE_CLICK, 404),
        ("POST", "/%ff/é", ONE_CLICK, 404),
        ("POST", "{path}", {}, 400),
        ("POST", "{path}", {"List-Unsubscribe": "one-click?"}, 400),
        ("POST", "{path}", {f"a{number}": "b" for number in range(200)}, 400),
        ("PUT", "{path}", ONE_CLICK, 405),
        ("DELETE", "{path}", None, 405),
        ("POST", "{path}", {"x": "y" * 5000}, 413),
    ],
)
async def test_request_when_it_is_something_else_then_it_is_refused(
    world: World, method: str, path: str, body: dict[str, str] | None, status: int
) -> None:
    answer = await world.client.request(method, path.replace("{path}", world.path()), data=body)
    assert answer.status_code == status
    assert answer.headers.get("allow") == ("GET, HEAD, POST" if status == 405 else None)
    assert await world.members() == [ANN, BOB]


@pytest.mark.parametrize(
    ("octets", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500), b"400"),  # a TLS client
        (b"EHLO mx.example\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\n\r\n", b"400"),  # no Host
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", b"400"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", b"400"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n", b"501"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 50_000, b"431"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n" + b"x" * 50_000, b"413"),
        (b"HEAD / HTTP/1.1\r\nHost: x\r\nContent-Length: 9999\r\n\r\n" + b"x" * 9999, b"413"),
    ],
)
async def test_client_when_it_speaks_nonsense_then_it_is_told_and_nothing_is_logged(
    world: World, caplog: pytest.LogCaptureFixture, octets: bytes, status: bytes
) -> None:
    with caplog.at_level(logging.INFO):
        assert (await world.raw(octets)).startswith(b"HTTP/1.1 " + status)
    assert [record for record in caplog.records if record.name.startswith(("responder", "asyncio"))] == []


async def test_client_when_it_goes_on_sending_then_it_still_sees_why_it_is_refused(world: World) -> None:
    head = f"POST {world.path()} HTTP/1.1\r\nHost: x\r\nContent-Length: 40000\r\n\r\n".encode()
    said = await world.raw(head, *[b"x" * 5000] * 8, pause=0.02)
    assert said.startswith(b"HTTP/1.1 413")


async def test_client_when_it_leaves_early_then_nothing_is_logged(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    for octets in (b"", b"POST /", b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc"):
        _, writer = await asyncio.open_connection("127.0.0.1", world.port)
        writer.write(octets)
        writer.close()
    assert (await world.client.get(world.path())).status_code == 200
    assert [record for record in caplog.records if record.name.startswith(("responder", "asyncio"))] == []


async def test_client_when_it_is_slow_then_it_is_cut_off_in_time(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_one_click, "TIMEOUT", 0.3)
    began = time.monotonic()
    said = await world.raw(*[bytes([octet]) for octet in b"GET / HTTP/1.1\r\nHost: " + b"x" * 400], pause=0.02)
    assert said == b""
    assert time.monotonic() - began < 5  # it would have taken 8 s
    assert await world.raw(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 26\r\n\r\n") == b""


async def test_clients_when_they_are_too_many_then_the_rest_is_turned_away_and_soon_there_is_room(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_one_click, "TIMEOUT", 1.0)
    monkeypatch.setattr(_one_click, "MAX_CONNECTIONS", 8)
    idle = [await asyncio.open_connection("127.0.0.1", world.port) for _ in range(8)]
    assert (await world.raw(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")) == b""
    for reader, writer in idle:
        with contextlib.suppress(ConnectionError):
            assert await asyncio.wait_for(reader.read(), 5) == b""
        writer.close()
    assert (await world.client.post(world.path(), data=ONE_CLICK)).status_code == 200


async def test_state_when_it_fails_then_the_client_is_asked_to_come_again(world: World) -> None:
    delete = world.list.context.state.delete

    async def broken(key: str) -> None:
        raise OSError("disk full")

    world.list.context.state.delete = broken
    assert (await world.client.post(world.path(), data=ONE_CLICK)).status_code == 503
    world.list.context.state.delete = delete
    assert (await world.client.post(world.path(), data=ONE_CLICK)).status_code == 200
    assert await world.members() == [ANN]


# -- several lists, and reloads -------------------------------------------------------------------------------------------


async def test_lists_when_they_share_a_listener_then_each_link_is_for_its_own(world: World) -> None:
    async with World(world.port, "news") as news:
        assert (await world.client.post(news.path(), data=ONE_CLICK)).status_code == 200
        assert (await news.members(), await world.members()) == ([ANN], [ANN, BOB])
        assert (await world.client.post(world.path(), data=ONE_CLICK)).status_code == 200
        path = news.path(ANN)
    assert (await world.client.post(path, data=ONE_CLICK)).status_code == 404
    assert (await world.client.post(world.path(ANN), data=ONE_CLICK)).status_code == 200
    assert (await news.members(), await world.members()) == ([ANN], [])


@pytest.mark.parametrize("read_again", [True, False], ids=["plugin-files", "installed-module"])
async def test_reload_when_new_lists_start_before_old_ones_stop_then_no_request_is_lost(read_again: bool) -> None:
    """A folder's files are modules of their own each time; an installed module stays the same."""
    port = free_port()

    def module() -> ModuleType:
        with fresh([ROOT / "plugins"]) if read_again else contextlib.nullcontext():
            return import_file(ROOT / "plugins" / "list.py")

    old = World(port, kind=module().MailingList)
    await old.__aenter__()
    path = old.path()
    for _ in range(3):
        new = World(port, kind=module().MailingList)
        new.list.context = old.list.context
        assert (type(new.list) is not type(old.list)) == read_again
        await new.__aenter__()
        for _ in range(10):
            assert (await new.client.get(path)).status_code == 200
        await old.__aexit__()
        for _ in range(10):
            assert (await new.client.get(path)).status_code == 200
        old = new
    assert (await old.client.post(path, data=ONE_CLICK)).status_code == 200
    assert await old.members() == [ANN]
    await old.__aexit__()
    with pytest.raises(OSError):
        await asyncio.open_connection("127.0.0.1", port)


async def test_list_when_its_address_is_taken_then_it_does_not_start(tmp_path: Path) -> None:
    server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    try:
        with pytest.raises(OSError, match="address already in use"):
            await World(server.sockets[0].getsockname()[1]).__aenter__()
    finally:
        server.close()


async def test_list_when_it_stops_then_an_idle_client_does_not_hold_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async with World(free_port()) as world:
        monkeypatch.setattr(_one_click, "TIMEOUT", 2.0)
        _, writer = await asyncio.open_connection("127.0.0.1", world.port)
        began = time.monotonic()
    assert time.monotonic() - began < 5
    writer.close()

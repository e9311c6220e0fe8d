"""The check `clamav` against a real clamd, and against a server that answers as clamd does, or badly."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from plugins.clamav import ClamAV, ClamAVError
from responder import Mark, Refuse
from responder.agents.load import PluginError
from responder.testing import Door
from tests.support.guards import guarded
from tests.support.scanners import EICAR, MARKER, Clamd
from tests.support.waiting import Background


@pytest.fixture(scope="module")
def daemon() -> Iterator[Clamd]:
    with Clamd() as it:
        yield it


@pytest.mark.peer("clamd")
@pytest.mark.parametrize("way", ["unix", "tcp"])
def test_mail_when_clamd_finds_a_virus_then_it_is_refused_by_name(daemon: Clamd, way: str) -> None:
    address = f"unix:{daemon.socket}" if way == "unix" else f"127.0.0.1:{daemon.port}"
    with Door(ClamAV, {"address": address}) as door:
        found = door.data("See the file", attachments=[("tool.com", "application/octet-stream", EICAR)])
        assert found == Refuse("Virus found: Test.EICAR.UNOFFICIAL", 554)
        assert door.data(f"It says {MARKER}") == Refuse("Virus found: Test.Marker.UNOFFICIAL", 554)
        assert door.data("Nothing in it") == Mark({"X-Virus-Scanned": "ClamAV"}, note="no virus")
        assert door.data(raw=b"") == Mark({"X-Virus-Scanned": "ClamAV"}, note="no virus")


@pytest.mark.peer("clamd")
def test_mail_when_it_is_larger_than_clamd_takes_then_the_check_fails_unless_it_knows(daemon: Clamd) -> None:
    with Door(ClamAV, {"address": f"unix:{daemon.socket}"}) as door, pytest.raises((ClamAVError, OSError)):
        door.data("x" * 3_000_000)
    with Door(ClamAV, {"address": f"unix:{daemon.socket}", "max_size": 1 << 20}) as door:
        assert door.data("x" * 3_000_000) == Mark(note="not scanned, too large")
    with Door(ClamAV, {"address": f"unix:{daemon.socket}", "max_size": 1 << 20, "larger": "refuse"}) as door:
        assert door.data("x" * 3_000_000) == Refuse("Too large to be scanned for viruses", 552, "5.3.4")
        assert isinstance(door.data("x" * 500_000), Mark)


@pytest.mark.peer("clamd")
async def test_mail_when_it_comes_by_smtp_then_the_client_hears_of_the_virus(daemon: Clamd, tmp_path: Path) -> None:
    tables = {"clamav": {"settings": {"address": f"unix:{daemon.socket}"}}}
    async with guarded(tmp_path, {"clamav": ClamAV}, tables) as it, it.talk() as talk:
        await talk.greeted()
        assert await talk.mail("Subject: x", "", MARKER) == "554 5.7.1 Virus found: Test.Marker.UNOFFICIAL"
        assert (await talk.mail("Subject: x", "X-Virus-Scanned: by me", "", "fine")).startswith("250 ")
        [content] = await it.stored()
        assert content.count(b"X-Virus-Scanned: ") == 1 and b"\r\nX-Virus-Scanned: ClamAV\r\n" in content


class Fake:
    """Says one thing whatever it is sent; what it was sent, taken apart."""

    def __init__(self, said: bytes, *, early: bool = False, hang: bool = False) -> None:
        self.said = said
        self.early = early
        self.hang = hang
        self.octets = b""
        self.port = 0

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[Fake]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        async with server:
            yield self

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            assert await reader.readexactly(10) == b"zINSTREAM\0"
            while not self.early and (size := int.from_bytes(await reader.readexactly(4), "big")):
                self.octets += await reader.readexactly(size)
            if self.hang:
                await reader.read()
            writer.write(self.said)
            await writer.drain()
        writer.close()


def asked(fake: Fake, text: str = "x", **settings: Any) -> Any:
    with Background() as background:
        background.enter(fake.serving())
        with Door(ClamAV, {"address": f"127.0.0.1:{fake.port}", **settings}) as door:
            return door.data(text)


def test_mail_when_sent_then_it_arrives_whole() -> None:
    fake = Fake(b"stream: OK\0")
    asked(fake, "y" * 200_000)
    assert fake.octets.count(b"y") >= 200_000 and fake.octets.startswith(b"From: ")


@pytest.mark.parametrize(
    ("said", "name"),
    [
        (b"stream: Win.Test.EICAR_HDB-1 FOUND\0", "Win.Test.EICAR_HDB-1"),
        (b"stream: a\r\n250 Ok FOUND\0", "unnamed"),
        (b"stream: " + b"a" * 3000 + b" FOUND\0", "unnamed"),
        (b"stream: \xff\xfe FOUND\0", "unnamed"),
        (b"stream:  FOUND\0", "unnamed"),
    ],
)
def test_virus_when_its_name_is_anything_then_the_reply_is_one_line(said: bytes, name: str) -> None:
    assert asked(Fake(said)) == Refuse(f"Virus found: {name}", 554)


@pytest.mark.parametrize(
    "fake",
    [
        Fake(b"INSTREAM size limit exceeded. ERROR\0", early=True),
        Fake(b"stream: Can't allocate memory ERROR\0"),
        Fake(b"UNKNOWN COMMAND\0"),
        Fake(b""),
        Fake(b"", early=True),
        Fake(b"stream: OK"),
        Fake(b"x" * 1_000_000),
    ],
)
def test_clamd_when_it_gives_no_verdict_then_the_check_fails(fake: Fake) -> None:
    with pytest.raises((ClamAVError, OSError)):
        asked(fake)


def test_clamd_when_it_says_nothing_then_the_check_fails_in_time() -> None:
    with pytest.raises(ClamAVError, match=r"no verdict within 0\.2 s"):
        asked(Fake(b"", hang=True), timeout=0.2)


def test_clamd_when_it_is_not_there_then_the_check_fails(tmp_path: Path) -> None:
    with Door(ClamAV, {"address": f"unix:{tmp_path}/none.sock"}) as door, pytest.raises(OSError):
        door.data("x")


@pytest.mark.parametrize("address", ["", "unix:", "unix:relative", "host", "host:x", ":3310", "[::1]", "a b:1"])
def test_address_when_it_is_none_then_it_is_refused(address: str) -> None:
    with pytest.raises(PluginError, match=r'wants "unix:PATH" or "host:port"'):
        Door(ClamAV, {"address": address})

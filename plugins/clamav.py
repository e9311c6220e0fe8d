"""Has ClamAV's daemon scan each mail (clamd(8), INSTREAM), over TCP or a Unix socket: one with a virus is refused."""

import asyncio
import re
from contextlib import suppress
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from responder import Check, Client, Mail, Mark, Refuse, hookimpl

CHUNK = 65536  # octets that are sent at a time
MAX_ANSWER = 4096  # octets of what clamd says

_ADDRESS = re.compile(r"unix:/.+|\[[0-9A-Fa-f:.]+\]:\d{1,5}|[^\[\]:/\s]+:\d{1,5}")
_NAME = re.compile(r"[A-Za-z0-9_.,:()-]{1,100}")  # of a signature


class ClamAVError(Exception):
    """No verdict this time."""


class ClamAV(Check):
    """Has ClamAV scan each mail, and refuses what it finds a virus in."""

    class Settings(BaseModel):
        model_config = ConfigDict(extra="forbid")

        address: str = "unix:/run/clamav/clamd.ctl"
        """Where clamd listens: unix:PATH or host:port."""

        timeout: Annotated[float, Field(gt=0, le=600)] = 8.0
        """Seconds for one mail; keep it below the check's own `timeout`."""

        max_size: Annotated[int, Field(ge=1, le=1 << 30)] = 25 << 20
        """Octets that clamd takes: its own StreamMaxLength."""

        larger: Literal["pass", "refuse"] = "pass"
        """What becomes of a mail that is larger."""

        header: Annotated[str, Field(pattern=r"^(X-[A-Za-z0-9-]{1,60})?$")] = "X-Virus-Scanned"
        """The field on mail in which nothing was found; "": none."""

        @field_validator("address")
        @classmethod
        def _is_address(cls, text: str) -> str:
            if not _ADDRESS.fullmatch(text):
                raise ValueError('wants "unix:PATH" or "host:port"')
            return text

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.fields = [settings.header] if settings.header else []

    async def data(self, client: Client, mail: Mail) -> Refuse | Mark | None:
        if len(mail.raw) > self.settings.max_size:
            if self.settings.larger == "refuse":
                return Refuse("Too large to be scanned for viruses", 552, "5.3.4")
            return Mark(note="not scanned, too large")
        try:
            async with asyncio.timeout(self.settings.timeout):
                verdict = await self._scan(mail.raw)
        except TimeoutError:
            raise ClamAVError(f"no verdict within {self.settings.timeout:g} s") from None
        if verdict == "stream: OK":
            return Mark({self.settings.header: "ClamAV"} if self.settings.header else {}, note="no virus")
        if verdict.startswith("stream: ") and verdict.endswith(" FOUND"):
            name = verdict.removeprefix("stream: ").removesuffix(" FOUND")
            return Refuse(f"Virus found: {name if _NAME.fullmatch(name) else 'unnamed'}", 554)
        raise ClamAVError(f"clamd said {verdict[:200]!r}")

    async def _scan(self, octets: bytes) -> str:
        """What clamd says of them. Raises `OSError`, `ClamAVError`."""
        kind, _, place = self.settings.address.partition(":")
        if kind == "unix":
            reader, writer = await asyncio.open_unix_connection(place)
        else:
            host, _, port = self.settings.address.rpartition(":")
            reader, writer = await asyncio.open_connection(host.strip("[]"), int(port))
        try:
            with suppress(ConnectionError):  # it may hang up before the end, having said why
                writer.write(b"zINSTREAM\0")
                for start in range(0, len(octets), CHUNK):
                    chunk = octets[start : start + CHUNK]
                    writer.write(len(chunk).to_bytes(4, "big") + chunk)
                    await writer.drain()
                writer.write(bytes(4))
                await writer.drain()
            answer = bytearray()
            while b"\0" not in answer and len(answer) < MAX_ANSWER:
                octet = await reader.read(MAX_ANSWER)
                if not octet:
                    break
                answer += octet
        finally:
            writer.transport.abort()
        if b"\0" not in answer:
            raise ClamAVError("clamd hung up without a verdict")
        return answer.partition(b"\0")[0].decode("ascii", "replace").strip()


@hookimpl
def responder_checks() -> dict[str, type[Check]]:
    return {"clamav": ClamAV}

"""`transport = "print"`: nothing leaves the machine; each mail is shown in the terminal and kept as a file."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import TextIO

from responder.mail.message import Message
from responder.mail.status import RemoteReply, Trouble
from responder.outbound.base import Envelope, RecipientResult

SHOWN = ("From", "To", "Subject", "Message-ID", "In-Reply-To", "Auto-Submitted")
MAX_SHOWN = 4000  # characters of a text


class PrintTransport:
    """Shows what would have been sent, and keeps it as `FOLDER/ID.eml`."""

    def __init__(self, folder: Path, stream: TextIO | None = None) -> None:
        self._folder = folder
        self._stream = stream or sys.stdout

    async def send(self, envelope: Envelope) -> list[RecipientResult]:
        """Delivered, once it is on disk."""
        path = self._folder / f"{envelope.id}.eml"
        try:
            await asyncio.to_thread(_keep, path, envelope.content)
        except OSError as error:
            failure = Trouble.INTERNAL.failure(f"not kept: {error.strerror}")
            return [RecipientResult.failed(recipient, failure) for recipient in envelope.recipients]
        self._stream.write(render(envelope, path))
        self._stream.flush()
        reply = RemoteReply(250, f"2.0.0 printed and kept as {path}")
        return [RecipientResult.success(recipient, reply) for recipient in envelope.recipients]

    async def close(self) -> None:
        """Nothing is open."""


def render(envelope: Envelope, path: Path | None = None) -> str:
    """A mail for people: the envelope, the headers that matter, and the text. What a terminal would obey is made harmless."""
    message = Message(envelope.content)
    recipients = ", ".join(f"<{recipient}>" for recipient in envelope.recipients)
    lines = [f"──── mail from <{envelope.reverse_path}> to {recipients} "]
    lines[0] += "─" * max(4, 78 - len(lines[0]))
    lines += [f"{name}: {message.headers.text(name)}" for name in SHOWN if name in message.headers]
    text = message.text.rstrip()
    lines += ["", text[:MAX_SHOWN] + (" [...]" if len(text) > MAX_SHOWN else "")]
    lines += [f"[attachment {file.name}, {file.content_type}, {file.size} octets]" for file in message.attachments]
    lines.append(f"──── kept as {path} ".ljust(78, "─") if path else "─" * 78)
    return "\n".join([_harmless(line) for text in lines for line in text.split("\n")]) + "\n\n"


def _harmless(line: str) -> str:
    return line if line.isprintable() else "".join([c if c.isprintable() or c == "\t" else " " for c in line])


def _keep(path: Path, content: bytes) -> None:
    """Write and sync; the name appears when the file is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        os.chmod(part, 0o600)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)

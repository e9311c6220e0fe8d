"""`transport = "print"`: nothing leaves the machine; each mail is shown in the terminal and kept as a file."""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import sys
import threading
from concurrent.futures import Future
from pathlib import Path
from typing import TextIO

from responder.aside import aside
from responder.mail.message import Message
from responder.mail.status import RemoteReply, Trouble
from responder.outbound.base import Envelope, RecipientResult

SHOWN = ("From", "To", "Subject", "Message-ID", "In-Reply-To", "Auto-Submitted")
MAX_SHOWN = 4000  # characters of a text
MAX_WAITING = 1000  # texts that wait for a terminal; past them a mail is kept without being shown
PATIENCE = 1.0  # seconds that a mail waits to be shown before it is delivered without


class PrintTransport:
    """Shows what would have been sent, and keeps it as `FOLDER/ID.eml`."""

    def __init__(self, folder: Path, stream: TextIO | None = None) -> None:
        self._folder = folder
        self._place = folder.absolute()  # a plugin may change the working folder
        self._screen = Screen(stream or sys.stdout)

    async def send(self, envelope: Envelope) -> list[RecipientResult]:
        """Delivered, once it is on disk; what can't be shown is no reason to send it again."""
        path = self._folder / f"{envelope.id}.eml"
        try:
            await aside(_keep, self._place / path.name, envelope.content)
        except OSError as error:
            failure = Trouble.INTERNAL.failure(f"not kept: {error.strerror}")
            return [RecipientResult.failed(recipient, failure) for recipient in envelope.recipients]
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.wrap_future(self._screen.show(render(envelope, path))), PATIENCE)
        reply = RemoteReply(250, f"2.0.0 printed and kept as {path}")
        return [RecipientResult.success(recipient, reply) for recipient in envelope.recipients]

    async def provider(self, domain: str) -> str:
        """There is one way out."""
        return ""

    async def close(self) -> None:
        """Show what is waiting, as far as somebody reads it."""
        await aside(self._screen.close)


class Screen:
    """The terminal, written to by a thread of its own: one that nobody reads (Ctrl-S, a full pipe) must not stop the mail."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._texts: queue.Queue[tuple[str, Future[None]] | None] = queue.Queue(MAX_WAITING)
        self._thread: threading.Thread | None = None

    def show(self, text: str) -> Future[None]:
        """Write a text behind those that wait; done when it is written, or never will be."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="responder-print", daemon=True)
            self._thread.start()
        shown: Future[None] = Future()
        try:
            self._texts.put_nowait((text, shown))
        except queue.Full:
            shown.set_result(None)
        return shown

    def close(self) -> None:
        """End the thread, unless it hangs."""
        if self._thread is not None:
            with contextlib.suppress(queue.Full):
                self._texts.put_nowait(None)
                self._thread.join(PATIENCE)

    def _run(self) -> None:
        while (entry := self._texts.get()) is not None:
            text, shown = entry
            awaited = shown.set_running_or_notify_cancel()
            with contextlib.suppress(OSError, ValueError):  # a pipe whose reader is gone
                self._stream.write(text)
                self._stream.flush()
            if awaited:
                shown.set_result(None)


def render(envelope: Envelope, path: Path | None = None) -> str:
    """A mail for people: the envelope, the headers that matter, and the text. What a terminal would obey is made harmless."""
    message = Message(envelope.content)
    recipients = ", ".join(f"<{recipient}>" for recipient in envelope.recipients)
    way = f" by {envelope.route}" if envelope.route else ""
    lines = [f"──── mail from <{envelope.reverse_path}> to {recipients}{way} "]
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

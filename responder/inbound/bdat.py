"""BDAT: a message in chunks (RFC 3030 2). A chunk has no end that could be found, so the session must never lose count of it."""

from __future__ import annotations

from aiosmtpd.smtp import syntax

from responder.inbound import replies
from responder.inbound.chunks import SMALL, ChunkReceiver, parse_chunk
from responder.inbound.replies import Reply
from responder.inbound.transaction import Transactions


class Chunks(Transactions):
    """A session that takes messages in chunks, too."""

    @syntax("BDAT <chunk-size> [LAST]")
    def smtp_BDAT(self, argument: str) -> Reply | None:  # noqa: N802 - aiosmtpd has none to override
        """RFC 3030 2. The reply comes behind the chunk, whatever it is: what was refused is read, too."""
        chunk = parse_chunk(argument)
        if chunk is None:
            self._lose()
            return None
        size, last = chunk
        refusal = self._refuses_chunk()
        if refusal is None and self._chunks is None:
            self._chunks = ChunkReceiver(self._shared.limits.message_size)
            self._begin_message()
        chunks = self._chunks or ChunkReceiver(0)
        if refusal is None and not chunks.fits(size):
            refusal = replies.TOO_BIG
        if refusal is None:
            chunks.begin(size, last=last)
            if size >= SMALL:
                self._junk -= 1
        else:
            chunks.refuse(size, last=last, refusal=refusal)
            if self.envelope.mail_from is None:
                self._began = self._shared.clock.monotonic()
        self._data = chunks
        return None

    def _refuses_chunk(self) -> Reply | None:
        """Why there can't be one now."""
        if not self.session.host_name:
            return replies.HELLO_FIRST
        if self.envelope.mail_from is None:
            return replies.MAIL_FIRST
        return None if self._recipients else replies.RECIPIENT_FIRST

    def _lose(self) -> None:
        """A chunk whose size nobody knows has begun: nothing of it may be run as commands, so the connection ends."""
        self._give_up(replies.BAD_CHUNK)

    def _unknown(self, verb: bytes) -> None:
        if verb[:4].upper() == b"BDAT":  # "BDAT<TAB>5": whatever was meant, a chunk follows
            self._lose()
        else:
            super()._unknown(verb)

    def _malformed(self, verb: bytes, reply: Reply = replies.BAD_LINE) -> None:
        if verb[:4].upper() == b"BDAT":
            self._lose()
        else:
            super()._malformed(verb, reply)

    def _end_chunk(self, chunks: ChunkReceiver) -> None:
        """A chunk is whole: say so, refuse it, or take the message that it ends."""
        if chunks.refusal is not None and chunks.lost:
            if chunks.last:
                self._end_message(chunks.refusal)
            else:
                self._end_transaction(chunks.refusal)  # RFC 3030 2: the transaction is lost, too
        elif chunks.refusal is not None:
            self._reply(chunks.refusal)
        elif chunks.last:
            self._chunks = None
            self._take(chunks.take(), chunks.limit)
        else:
            self._say(replies.CHUNK_OK)

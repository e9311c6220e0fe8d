"""One transaction on a channel: MAIL, RCPT..., and DATA or BDAT, judged reply by reply.

Where the host offers PIPELINING (RFC 2920), everything up to DATA is one write: a small mail costs two round trips. Replies
come in while commands go out, as the event loop does both, so that neither side can wait for the other for ever.

Content goes by BDAT (RFC 3030) where the host offers CHUNKING and something is gained: a round trip where it does not
pipeline, and no stuffing of dots for a big mail. A small mail on a pipelining host goes by DATA, in as many writes, because
354 can't be the reply to anything else: a host whose replies have slipped is found out before the content is said. BDAT is
never said in one write with RCPT, though RFC 3030 4.3 allows it. It would save one more round trip; but content would go to
hosts that take no recipient, and each kept connection that its host closes meanwhile would leave a mail of which nobody knows
whether it has arrived.

A reply that can't be one to its command (250 to DATA, 503 to RCPT behind a MAIL that was accepted, 354 to RCPT, no SMTP at
all) puts all replies of the transaction in doubt: none of them counts, the mail was not sent, and the connection is of no use
any more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from responder.mail.replies import Reason
from responder.mail.status import Failure, FailureError, RemoteReply, Scope, Trouble, Verb, judge, soften
from responder.outbound.dial import Timeouts
from responder.outbound.smtp.channel import Channel
from responder.outbound.smtp.wire import BLOCK, blocks, chunks


@dataclass(slots=True)
class Transaction:
    """What is asked, and what came of it. `run` once."""

    channel: Channel
    timeouts: Timeouts
    mail: bytes  # the MAIL command with its parameters, without CRLF
    rcpt: Mapping[int, bytes]  # RCPT commands by the recipient's position
    content: bytes | None  # None: only ask
    extensions: Mapping[str, str]
    tls_failed: bool = False  # then a refusal that asks for TLS is no final one
    ends: dict[int, Failure | RemoteReply] = field(default_factory=dict)  # each recipient's, but for those `left`
    left: list[int] = field(default_factory=list)  # too many for this transaction, and nothing else is wrong with them
    taken: bool = False  # the content was
    failure: Failure | None = None  # what ended it before its time
    spoilt: bool = False  # the connection is of no use any more
    _accepted: dict[int, RemoteReply] = field(default_factory=dict)
    _refused: Failure | None = None  # the reply to MAIL
    _ready: bool = False  # the host waits for content

    async def run(self) -> None:
        """Ask, and send the content. Raises nothing but `CancelledError`."""
        try:
            await self._ask()
            if self._ready and (self._refused is not None or not self._accepted):
                await self._waive()
            if self._refused is not None:
                raise FailureError(self._refused)
            if self.content is None or not self._accepted:
                self.ends.update(self._accepted)
            else:
                reply = await self._transmit(self.content)
                self.taken = True
                self.ends.update(dict.fromkeys(self._accepted, reply))
        except FailureError as error:
            self._fail(error.failure)

    @property
    def chunked(self) -> bool:
        """Whether the content goes by BDAT."""
        if self.content is None or "chunking" not in self.extensions:
            return False
        return "pipelining" not in self.extensions or len(self.content) > BLOCK

    def _fail(self, failure: Failure) -> None:
        """It ends for all who have no end yet. Whoever was not accepted can't have got the mail, whatever became of the dot."""
        self.failure = failure
        self.spoilt = self.spoilt or failure.scope is Scope.HOST
        if is_garbage(failure) and not failure.after_dot:
            self.ends.clear()
            self.left.clear()
        if self.spoilt:
            self.left.clear()
        unasked = replace(failure, after_dot=False)
        for n in self.rcpt:
            if n not in self.ends and n not in self.left:
                self.ends[n] = failure if n in self._accepted else unasked

    async def _ask(self) -> None:
        """All that comes before the content. Raises `FailureError` where the transaction can't go on."""
        group = [(Verb.MAIL, -1, self.mail), *[(Verb.RCPT, n, command) for n, command in self.rcpt.items()]]
        if self.content is not None and not self.chunked:
            group.append((Verb.DATA, -1, b"DATA"))
        pipelined = "pipelining" in self.extensions
        if pipelined:
            self.channel.send(b"".join([command + b"\r\n" for _, _, command in group]), len(group))
        for verb, n, command in group:
            if not pipelined:
                if self._refused is not None or (verb is Verb.DATA and not self._accepted):
                    break
                if self.left and verb is Verb.RCPT:
                    self.left.append(n)
                    continue
                self.channel.send(command + b"\r\n", 1)
            try:
                await self._hear(verb, n)
            except FailureError as error:
                if self._refused is None or error.failure.scope is not Scope.HOST:
                    raise
                self.spoilt = True  # MAIL's refusal is the word that counts
                return
        if (trouble := self.channel.trouble(Verb.RCPT if self._refused is None else Verb.MAIL)) is not None:
            self.spoilt = True
            if self._refused is None:
                word = self.channel.unasked if self._ready else None  # 354 proves that it is about the content
                raise FailureError((judge(Verb.DOT, word) if word else None) or trouble)

    async def _hear(self, verb: Verb, n: int) -> None:
        """One reply. Raises `FailureError` where it ends the transaction."""
        limit = self.timeouts.data if verb is Verb.DATA else self.timeouts.command
        reply = await self.channel.reply(verb, limit)
        failure = judge(verb, reply, accepted=len(self._accepted))
        if failure is None:
            if verb is Verb.RCPT:
                self._accepted[n] = reply
            elif verb is Verb.DATA:
                self._ready = True
            return
        if self.tls_failed and (reply.code == 530 or failure.enhanced in ("5.7.10", "5.7.11")):
            failure = soften(failure)
        if failure.scope is Scope.HOST:
            raise FailureError(failure)
        if self._is_out_of_turn(verb, failure):
            raise FailureError(Trouble.GARBAGE.failure(f"{reply.code} {reply.text} to {verb}"))
        if verb is Verb.MAIL:
            self._refused = failure
        elif verb is Verb.RCPT:
            # Whoever only asks counts what is asked, and asks again by itself.
            if self._accepted and self.content is not None and is_crowded(failure):
                self.left.append(n)
            elif self._refused is None:
                self.ends[n] = failure
        elif self._accepted and self._refused is None:
            raise FailureError(failure)  # to DATA; without recipients it is what RFC 2920 3.1 expects

    def _is_out_of_turn(self, verb: Verb, failure: Failure) -> bool:
        """Whether the host finds a command out of sequence that isn't: the reply is another command's, or it has lost count."""
        if failure.code != 503 or failure.enhanced not in ("5.0.0", "5.5.1") or "pipelining" not in self.extensions:
            return False
        return self._refused is None and (verb is not Verb.DATA or bool(self._accepted))

    async def _waive(self) -> None:
        """354 without anybody to send to: a dot alone (RFC 2920 3.1), which must reach nobody."""
        if self._accepted or self.spoilt:
            self.spoilt = True
            return
        self.channel.send(b".\r\n", 1)
        try:
            await self.channel.reply(Verb.DOT, self.timeouts.command)
        except FailureError:
            self.spoilt = True

    async def _transmit(self, content: bytes) -> RemoteReply:
        """The content to its end, and the reply to it. Raises `FailureError`, which knows on which side of the end it broke."""
        ended = False
        owed = 1
        try:
            for block, last in chunks(content) if self.chunked else blocks(content):
                if not self.channel.send(block, owed):
                    break  # it is gone; its last words, if any, are read below
                owed = 0
                ended = last
                if not last:
                    await self.channel.drain(self.timeouts.block)
                    if self.channel.answered:
                        break
            reply = await self.channel.reply(Verb.DOT, self.timeouts.dot)
        except FailureError as error:
            raise FailureError(replace(error.failure, after_dot=ended)) from None
        except TimeoutError:
            raise FailureError(Trouble.TIMED_OUT.failure("timed out in the middle of the message")) from None
        refusal = judge(Verb.DOT, reply)
        if not ended:  # the host expects content still, so nothing else can be said to it
            self.spoilt = True
            refusal = refusal or Trouble.GARBAGE.failure(f"{reply.code} before the end of the message")
        if refusal is None:
            return reply
        raise FailureError(replace(refusal, after_dot=ended and reply.code // 100 not in (4, 5)))


def is_crowded(failure: Failure) -> bool:
    """Whether a recipient is refused only because the transaction has too many (RFC 5321 4.5.3.1.10).

    A bare 452 says no more than that: the next transaction will show.
    """
    if failure.enhanced == "4.5.3" or failure.reason is Reason.TOO_MANY_RECIPIENTS:
        return True
    return failure.code == 452 and failure.enhanced == "4.0.0" and failure.reason in (Reason.TROUBLE, Reason.UNKNOWN)


def is_garbage(failure: Failure) -> bool:
    """Whether the host did not speak SMTP, or not in turn."""
    return failure.scope is Scope.HOST and failure.enhanced == "4.5.0" and failure.code // 100 not in (4, 5)

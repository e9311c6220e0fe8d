"""What became of one mail: what a test asserts on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default as modern
from functools import cached_property
from typing import TYPE_CHECKING

from responder.mail.headers import Headers
from responder.mail.lifecycle import State
from responder.mail.message import Attachment, Message

if TYPE_CHECKING:
    from responder.testing.inbox import Inbox
    from responder.testing.letter import File


@dataclass(frozen=True)
class Sent:
    """One message that would leave: to whom, and the octets. `kind` is `answer`, `forward`, `proxy` or `list`."""

    kind: str
    recipient: str
    reverse_path: str
    raw: bytes

    @cached_property
    def message(self) -> EmailMessage:
        """The message, as the standard library reads it."""
        parsed = message_from_bytes(self.raw, policy=modern)
        assert isinstance(parsed, EmailMessage)
        return parsed

    @cached_property
    def headers(self) -> Headers:
        """Its headers: `.get(name)`, `.text(name)`, `.all(name)`, `in`, as those of a `Mail`."""
        return self._read.headers

    @property
    def subject(self) -> str:
        return self._read.subject

    @property
    def text(self) -> str:
        """Its text; made from the HTML where there is no plain part."""
        return self._read.text

    @property
    def html(self) -> str:
        return self._read.html

    @property
    def attachments(self) -> list[Attachment]:
        return self._read.attachments

    @cached_property
    def _read(self) -> Message:
        return Message(self.raw)


class Outcome:
    """What became of one mail. Where nothing was sent, asking for its text fails, and says why nothing was."""

    def __init__(
        self, box: Inbox, item: str, state: State, reason: str, error: str, due_at: float, sent: Sequence[Sent]
    ) -> None:
        self.id = item
        self.state = state
        self.reason, _, told = reason.partition("\n")
        self.error = error or told
        """The traceback, where the agent failed."""
        self.sent = tuple(sent)
        self._box = box
        self._due_at = due_at

    @property
    def answered(self) -> bool:
        """Whether something was sent: an answer, or the mail itself."""
        return self.state is State.ANSWERED

    @property
    def silent(self) -> bool:
        """Whether nothing was sent, and nothing will be: `reason` begins with a code of docs/operating.md."""
        return self.state is State.SILENT

    @property
    def postponed(self) -> bool:
        """Whether the agent will be run again: it asked for that, or failed."""
        return self.state is State.RECEIVED

    @property
    def failed(self) -> bool:
        """Whether the agent failed for good."""
        return self.state is State.FAILED

    @property
    def delay(self) -> float:
        """Seconds until the agent is run again, where it is `postponed`."""
        return max(self._due_at - self._box.clock.now(), 0.0)

    @property
    def first(self) -> Sent:
        """What was sent; of several messages the first one."""
        if not self.sent:
            raise AssertionError(f"nothing was sent: {self}")
        return self.sent[0]

    @property
    def recipients(self) -> list[str]:
        """Whom it was sent to."""
        return [one.recipient for one in self.sent]

    @property
    def message(self) -> EmailMessage:
        return self.first.message

    @property
    def headers(self) -> Headers:
        return self.first.headers

    @property
    def subject(self) -> str:
        return self.first.subject

    @property
    def text(self) -> str:
        return self.first.text

    @property
    def html(self) -> str:
        return self.first.html

    @property
    def attachments(self) -> list[Attachment]:
        return self.first.attachments

    def later(self) -> Outcome:
        """Let time pass until the agent is run again, and run it."""
        if not self.postponed:
            raise AssertionError(f"it is not run again: {self}")
        self._box.advance(self.delay)
        return self._box.turn(self.id)

    def reply(
        self,
        text: str = "",
        *,
        html: str = "",
        attachments: Sequence[File] = (),
        headers: Mapping[str, str] | None = None,
    ) -> Outcome:
        """The recipient answers what was sent, as a mail program does: to its Reply-To or From, tag included."""
        sent = self.first
        old = sent.headers
        thread = {
            "In-Reply-To": old.get("message-id"),
            "References": f"{old.get('references')} {old.get('message-id')}".strip(),
        }
        return self._box.receive(
            text,
            sender=sent.recipient,
            to=old.text("reply-to") or old.text("from"),
            subject=f"Re: {sent.subject.removeprefix('Re: ')}",
            html=html,
            attachments=attachments,
            headers=thread | dict(headers or {}),
        )

    def __repr__(self) -> str:
        return f"<Outcome {self.state}: {self.reason}>" + (f"\n{self.error}" if self.error else "")

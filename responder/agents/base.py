"""What a plugin author works with: a mail comes in as `Mail`, an answer goes out as `Reply`, `Forward`, text or nothing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, ConfigDict

from responder.agents.answers import Answer
from responder.agents.context import Context
from responder.mail.address import Address, from_header, split_tag
from responder.mail.automatic import Verdicts
from responder.mail.headers import Headers
from responder.mail.message import Attachment as ReceivedAttachment
from responder.mail.message import Message
from responder.mail.quoting import reply_text
from responder.mail.thread import base_subject, conversation_key

Kind = Literal["service", "personal", "group"]

Authentication = Verdicts
"""Who vouches for a sender, as `Mail.authentication` has it."""


@dataclass(frozen=True, slots=True)
class Thread:
    """Where a mail stands in its conversation. `key` is the Message-ID of the conversation's first mail, or ""."""

    key: str
    in_reply_to: str
    references: tuple[str, ...]


class Mail:
    """One mail, as an agent sees it. Everything that needs parsing is parsed when it is first asked for."""

    def __init__(
        self,
        raw: bytes,
        *,
        id: str,  # noqa: A002 - fixed by the contract
        inbox: str,
        recipient: Address,
        sender: str,
        peer: str = "",
        authentication: Authentication | None = None,
    ) -> None:
        self.raw = raw
        self.id = id
        self.inbox = inbox
        self.recipient = str(recipient)
        self.tag = split_tag(recipient.local)[1]
        self.sender = sender
        self.peer = peer
        self.authentication = authentication or Authentication()
        self._message = Message(raw)

    @property
    def headers(self) -> Headers:
        return self._message.headers

    @cached_property
    def from_(self) -> str:
        """The address of the From header, or ""."""
        found = from_header(self.headers.get("from"))
        return str(found[0][1]) if found else ""

    @property
    def subject(self) -> str:
        return self._message.subject

    @cached_property
    def base_subject(self) -> str:
        """The subject without `Re:`, `Fwd:` and their kin."""
        return base_subject(self.subject)

    @property
    def text(self) -> str:
        """The text; made from the HTML where there is no plain part."""
        return self._message.text

    @property
    def html(self) -> str:
        return self._message.html

    @cached_property
    def reply_text(self) -> str:
        """The text without quotes and signature."""
        return reply_text(self.text)

    @property
    def attachments(self) -> list[ReceivedAttachment]:
        return self._message.attachments

    @property
    def date(self) -> datetime | None:
        return self._message.date

    @property
    def message_id(self) -> str:
        return self._message.message_id

    @cached_property
    def thread(self) -> Thread:
        return Thread(
            conversation_key(self.headers),
            self.headers.text("in-reply-to"),
            tuple(self.headers.text("references").split()),
        )


class NoSettings(BaseModel):
    """The settings of an agent that has none: any key is a mistake."""

    model_config = ConfigDict(extra="forbid")


@dataclass(frozen=True, slots=True)
class Bounce:
    """What became of one message that the agent's inbox had sent (RFC 3464). `permanent`: it will never arrive there."""

    recipient: str
    permanent: bool
    status: str
    text: str


class Agent:
    """An agent of one inbox. Subclass it, write `answer`, and name it in `responder_agents`."""

    Settings: ClassVar[type[BaseModel]] = NoSettings
    """The pydantic model of the inbox's `settings` table."""

    kind: ClassVar[Kind] = "service"
    """`service` answers each request; `personal` and `group` answer like a vacation notice (RFC 3834 section 2)."""

    interval: ClassVar[float] = 0.0
    """Seconds in which one sender gets one answer at the most, where neither inbox nor `[reply]` says otherwise."""

    reads_automatic_mail: ClassVar[bool] = False
    """Whether it is run for mail that must not be answered, too (a forwarder, a logger). An answer it returns to such a
    mail is not sent, nor is a `Distribute`; a `Forward` or `HandOver` is, unless the mail is in a loop."""

    isolated: ClassVar[bool] = False
    """Whether it runs in worker processes of its own, with a memory limit, which are replaced when they hang or die."""

    needs: ClassVar[Sequence[str]] = ()
    """Keys of `[inboxes.NAME]` that it can't do without: `targets`, `upstream`, `addresses`. A configuration that leaves one out
    is refused."""

    addresses: Sequence[str] = ()
    """Other addresses of the person or group: mail to them counts as addressed to a personal inbox. May be set in `__init__`."""

    context: Context
    """What the server gives the agent: log, clock, HTTP client, state. There from `start` on, not yet in `__init__`."""

    def __init__(self, settings: Any) -> None:
        self.settings = settings

    async def start(self) -> None:
        """Called once before the first mail, when the configuration is taken into use. What it raises refuses it."""

    async def stop(self) -> None:
        """Called once behind the last mail, when the agent is replaced or the server stops."""

    async def answer(self, mail: Mail) -> Answer:
        """The answer to a mail, or None for silence. May raise `TryLater` and `GiveUp`; any other exception is contained, and
        the mail retried."""
        raise NotImplementedError

    async def bounced(self, bounce: Bounce) -> None:
        """Called where a message that `Distribute` sent did not arrive. What it raises is logged, no more."""


AgentFunction = Callable[..., Answer | Awaitable[Answer]]
F = TypeVar("F", bound=Callable[..., Any])


def agent(
    name: str,
    *,
    kind: Kind = "service",
    interval: float = 0.0,
    reads_automatic_mail: bool = False,
    isolated: bool = False,
) -> Callable[[F], F]:
    """Make a function `f(mail)` or `f(mail, context)`, plain or `async`, the agent of that name. A plain one runs in a thread."""

    def mark(function: F) -> F:
        function.__responder_agent__ = name  # type: ignore[attr-defined]
        function.__responder_traits__ = {  # type: ignore[attr-defined]
            "kind": kind,
            "interval": interval,
            "reads_automatic_mail": reads_automatic_mail,
            "isolated": isolated,
        }
        return function

    return mark

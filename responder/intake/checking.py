"""The checks of operators, asked for a session: what one says of itself, and what becomes of what they find."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import NamedTuple
from weakref import WeakKeyDictionary

from responder.agents.base import Mail
from responder.agents.checks import Client, Refuse, Step
from responder.agents.guards import FAILED, Found, Guards, States
from responder.inbound import replies
from responder.inbound.replies import Reply
from responder.inbound.roles import Recipient, Transaction
from responder.mail.address import parse
from responder.mail.automatic import Verdicts
from responder.mail.envelope import Path
from responder.mail.stamp import stamp, without_fields
from responder.observe import event

MAX_NOTE = 1000  # characters of what all checks have history say


class Passed(NamedTuple):
    """A message that no check objects to: with their fields on top and forged ones gone, and what history says of that."""

    content: bytes
    fields: bytes = b""
    note: str = ""
    id: str = ""


class Checking:
    """Asks the checks of one configuration. What they remember of a connection goes with it."""

    def __init__(self, guards: Guards) -> None:
        self._guards = guards
        self._states: WeakKeyDictionary[Transaction, States] = WeakKeyDictionary()

    def connect(self, session: Transaction) -> Awaitable[Reply | None] | None:
        """Whether the client is greeted. The reply is one that may stand in a greeting's place (RFC 5321 3.1)."""
        return self._connect(session) if "connect" in self._guards.steps else None

    async def _connect(self, session: Transaction) -> Reply | None:
        found = await self._ask("connect", session, self._client(session))
        return _reply(session, "connect", found)

    def hello(self, session: Transaction, name: str) -> Awaitable[Reply | None] | None:
        """Whether it may go by that name."""
        return self._hello(session, name) if "helo" in self._guards.steps else None

    async def _hello(self, session: Transaction, name: str) -> Reply | None:
        found = await self._ask("helo", session, self._client(session, helo=name), name)
        return _reply(session, "helo", found)

    def sender(self, session: Transaction, path: Path, accepted: Reply) -> Reply | Awaitable[Reply]:
        """The reply to MAIL, which is `accepted` where no check objects."""
        return self._sender(session, path, accepted) if "mail" in self._guards.steps else accepted

    async def _sender(self, session: Transaction, path: Path, accepted: Reply) -> Reply:
        client = self._client(session, sender=path.text)
        found = await self._ask("mail", session, client, path.text, dict(path.parameters))
        return _reply(session, "mail", found) or accepted

    def recipient(self, session: Transaction, accepted: Recipient) -> Recipient | Awaitable[Recipient]:
        """The reply to RCPT, which is `accepted` where no check objects."""
        return self._recipient(session, accepted) if "rcpt" in self._guards.steps else accepted

    async def _recipient(self, session: Transaction, accepted: Recipient) -> Recipient:
        found = await self._ask("rcpt", session, self._client(session), accepted.mailbox)
        refusal = _reply(session, "rcpt", found)
        return accepted if refusal is None else Recipient(refusal)

    async def message(
        self, session: Transaction, content: bytes, mail_id: str, verdicts: Verdicts | None
    ) -> Reply | Passed:
        """The refusal of a message, or what of it is to be stored."""
        found = Found()
        if "data" in self._guards.steps:
            mail = self._mail(session, content, mail_id, verdicts)
            found = await self._ask("data", session, self._client(session), mail)
            refusal = _reply(session, "data", found)
            if refusal is not None:
                return refusal
        names = {*self._guards.fields, *(name for _, mark in found.marks for name in mark.fields)}
        if names:
            content = without_fields(content, names)
        fields = b"".join([stamp(mark.fields) for _, mark in found.marks])
        return Passed(content, fields, _note(found), mail_id)

    def _client(self, session: Transaction, *, helo: str | None = None, sender: str | None = None) -> Client:
        return Client(
            id=session.id,
            peer=session.peer,
            helo=helo if helo is not None else session.session.host_name or "",
            tls=session.tls,
            user=session.user,
            protocol=session.protocol,
            sender=sender if sender is not None else session.envelope.mail_from,
            recipients=tuple([mailbox for mailbox, _ in session.recipients]),
        )

    def _mail(self, session: Transaction, content: bytes, mail_id: str, verdicts: Verdicts | None) -> Mail:
        mailbox, inbox = session.recipients[0]
        return Mail(
            content,
            id=mail_id,
            inbox=inbox,
            recipient=parse(mailbox),
            sender=session.envelope.mail_from or "",
            peer=session.peer,
            authentication=verdicts,
        )

    async def _ask(self, step: Step, session: Transaction, client: Client, *said: object) -> Found:
        return await self._guards.ask(step, client, self._states.setdefault(session, {}), *said)


def _reply(session: Transaction, step: Step, found: Found) -> Reply | None:
    """What the client hears of an objection, which is logged; None where there is none."""
    objection = found.objection
    if objection is None:
        return None
    code = objection.code
    if step == "connect":
        code = 554 if isinstance(objection, Refuse) else 421  # RFC 5321 3.1, 3.8
    elif step == "data" and code == 421:
        code = 451  # the connection goes on behind a message
    if objection is FAILED and step != "connect":
        reply = replies.COMMAND_FAILED
    else:
        reply = replies.objection(code, objection.enhanced, objection.text)
    event(
        "refused",
        peer=session.peer,
        code=reply.code,
        reason=reply.text,
        check=found.check,
        step=step,
        failed=True if objection is FAILED else None,
        from_=f"<{session.envelope.mail_from}>" if session.envelope.mail_from is not None else None,
    )
    return reply


def _note(found: Found) -> str:
    """What the history of a mail says of its marks."""
    told = []
    for name, mark in found.marks:
        what = mark.note or ", ".join(f"{field}: {value[:MAX_NOTE]}" for field, value in mark.fields.items())
        told.append(f", {name} says {what}" if what else "")
    note = "".join(told)
    text = "".join([char if char.isprintable() else " " for char in note[: MAX_NOTE + 1]])
    return text if len(text) <= MAX_NOTE else text[: MAX_NOTE - 3] + "..."

"""What an agent's answer comes to: the message, its envelope, and the settlement that stores both."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from responder.agents.answers import Answer, Forward, Reply
from responder.agents.host import AgentError, Inbox
from responder.answering.setup import Setup
from responder.answering.windows import sender_key
from responder.clock import Clock
from responder.config import BOUNCES
from responder.config import Inbox as InboxTable
from responder.mail import address as addresses
from responder.mail.address import Address, AddressError
from responder.mail.automatic import Reason
from responder.mail.compose import Body, compose_answer
from responder.mail.forward import compose_forward
from responder.mail.headers import Headers
from responder.mail.lifecycle import Event
from responder.store.base import InboundItem, NewOutbound, Settlement, Window


class Outgoing:
    """One item's way out: everything that is known of it, and what its agent may have said."""

    def __init__(
        self, setup: Setup, inbox: Inbox, item: InboundItem, recipient: Address, headers: Headers, clock: Clock
    ) -> None:
        self._setup = setup
        self._inbox = inbox
        self._table = setup.config.inboxes[inbox.name]
        self._item = item
        self._recipient = recipient
        self._headers = headers
        self._clock = clock

    def settle(
        self, answer: Answer, content: bytes, suppressed: Reason | None, windows: tuple[Window, ...]
    ) -> Settlement:
        """The settlement of an answer. `suppressed` is why the mail must not be answered: then only a forward leaves.

        Raises `AgentError` where the answer can't be sent.
        """
        if isinstance(answer, Forward):
            return self._forward(answer, content)
        if suppressed is not None:
            return silence(suppressed)
        if answer is None:
            return Settlement(Event.SILENCE, "agent-silent: the agent had no answer")
        assert isinstance(answer, Reply)
        return self._reply(answer, windows)

    def _reply(self, answer: Reply, windows: tuple[Window, ...]) -> Settlement:
        to = answer_to(self._table, self._inbox.kind, self._item.reverse_path, self._headers)
        personal = self._inbox.kind != "service"
        try:
            message = compose_answer(
                body=Body(answer.text, answer.html, tuple(answer.attachments)),
                original=self._headers,
                inbox=self._recipient,
                inbox_name=self._table.display_name,
                to=to,
                message_id=self._message_id(),
                date=self._clock.now(),
                personal=personal,
                subject=answer.subject,
                extra_headers=tuple(answer.headers.items()),
            )
        except (ValueError, TypeError, AttributeError) as error:  # what the agent put into its Reply
            raise AgentError(f"the agent's answer can't be sent: {error}") from error
        identifier = self._clock.new_id()
        null = personal or self._setup.config.reply.reverse_path == "null"  # RFC 3834 3.3, RFC 5230 5.1
        path = "" if null else bounce_address(identifier, self._recipient)
        outbound = self._outbound("answer", identifier, identifier, to, path, return_to="")
        return Settlement(
            Event.ANSWER, f"answered by {self._inbox.type.name}", (outbound,), ((identifier, message),), windows
        )

    def _forward(self, answer: Forward, content: bytes) -> Settlement:
        """No windows: what is passed on is somebody's mail, and none of it may be lost."""
        targets = allowed_targets(self._table, answer)
        try:
            sender = addresses.parse(self._item.reverse_path) if self._item.reverse_path else None
        except AddressError:
            sender = None
        message = compose_forward(
            content,
            inbox=self._recipient,
            sender=sender,
            message_id=self._message_id(),
            date=self._clock.now(),
            subject_prefix=answer.subject_prefix,
        )
        content_id = self._clock.new_id()
        outbound = []
        for target in targets:
            identifier = self._clock.new_id()
            # The envelope is ours, so that SPF holds at the target; a failure is told to who sent the mail.
            path = bounce_address(identifier, self._recipient) if self._item.reverse_path else ""
            outbound.append(
                self._outbound("forward", identifier, content_id, target, path, return_to=self._item.reverse_path)
            )
        return Settlement(
            Event.ANSWER, f"forwarded by {self._inbox.type.name}", tuple(outbound), ((content_id, message),)
        )

    def _message_id(self) -> str:
        """Derived from the inbound item, so that a second delivery of the one answer is recognisable."""
        return f"<auto.{self._item.id}.0@{self._setup.config.hostname}>"

    def _outbound(
        self, kind: str, identifier: str, content_id: str, to: Address, reverse_path: str, return_to: str
    ) -> NewOutbound:
        now = self._clock.now()
        return NewOutbound(
            id=identifier,
            kind=kind,
            cause=self._item.id,
            inbox=self._inbox.name,
            content_id=content_id,
            reverse_path=reverse_path,
            recipient=str(to),
            domain=to.domain,
            return_to=return_to,
            created_at=now,
            expires_at=now + self._setup.config.delivery.expire,
        )


def silence(reason: Reason) -> Settlement:
    """No answer, and why."""
    return Settlement(Event.SILENCE, f"{reason.code}: {reason.detail}")


def answer_to(table: InboxTable, kind: str, reverse_path: str, headers: Headers) -> Address:
    """Whom an answer goes to: the reverse-path (RFC 3834 4), or From where the inbox says so and both are of one domain."""
    path = addresses.parse(reverse_path)
    if table.answer_to == "from" and kind == "service":
        found = addresses.from_header(headers.get("from"))
        if len(found) == 1 and found[0][1].domain == path.domain:
            return found[0][1]
    return path


def bounce_address(identifier: str, inbox: Address) -> str:
    """The reverse-path of one message of ours: `bounces+ID` at the inbox's domain."""
    return f"{BOUNCES}+{identifier}@{inbox.domain}"


def allowed_targets(table: InboxTable, answer: Forward) -> list[Address]:
    """Where a Forward goes: all targets of the inbox, or those that the agent named. Raises `AgentError` for any other."""
    if not table.targets:
        raise AgentError("the agent forwards, but the inbox has no targets: set inboxes.NAME.targets")
    if not answer.to:
        return [addresses.parse(target) for target in table.targets if "*" not in target]
    return chosen_targets(table, answer.to)


def chosen_targets(table: InboxTable, to: Sequence[str]) -> list[Address]:
    """The addresses that an agent named, each once. Raises `AgentError` for one that the inbox's targets don't allow."""
    exact = {addresses.parse(target).key for target in table.targets if "*" not in target}
    patterns = [target for target in table.targets if "*" in target]
    chosen = {}
    for text in to:
        try:
            address = addresses.parse(text)
        except AddressError as error:
            raise AgentError(f"the agent passes mail on to what is no address: {error}") from None
        if address.key not in exact and not any(fnmatchcase(address.key, pattern) for pattern in patterns):
            raise AgentError("the agent passes mail on to an address that is not among the inbox's targets")
        chosen[address.key] = address
    return list(chosen.values())

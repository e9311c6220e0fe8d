"""What an agent's answer comes to: the message, its envelope, and the settlement that stores both."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from responder.agents.answers import Answer, Distribute, Forward, HandOver, Reply
from responder.agents.host import AgentError, Inbox
from responder.answering.setup import DAY, Setup, own_addresses
from responder.answering.windows import sender_key, window_of_forward, windows_of, windows_of_post
from responder.clock import Clock
from responder.config import Inbox as InboxTable
from responder.mail import address as addresses
from responder.mail import verp
from responder.mail.address import Address, AddressError
from responder.mail.automatic import Reason, Verdicts
from responder.mail.compose import Body, compose_answer
from responder.mail.distribute import compose_distribution, member_head
from responder.mail.forward import compose_forward
from responder.mail.headers import Headers
from responder.mail.lifecycle import Event
from responder.store.records import InboundItem, NewOutbound, Settlement


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

    def settle(self, answer: Answer, content: bytes, suppressed: Reason | None) -> Settlement:
        """The settlement of an answer. `suppressed` is why the mail must not be answered: then only what is passed on as it is
        leaves. A list sends on what people write to it, no automatic mail.

        Raises `AgentError` where the answer can't be sent.
        """
        if isinstance(answer, Forward):
            return self._forward(answer, content)
        if isinstance(answer, HandOver):
            return self._hand_over()
        if suppressed is not None:
            return silence(suppressed)
        if answer is None:
            return Settlement(Event.SILENCE, "agent-silent: the agent had no answer")
        if isinstance(answer, Distribute):
            return self._distribute(answer, content)
        assert isinstance(answer, Reply)
        return self._reply(answer)

    def _reply(self, answer: Reply) -> Settlement:
        to = (
            addresses.parse(self._item.reverse_path)
            if answer.to_sender
            else answer_to(
                self._table,
                self._inbox.kind,
                self._item.reverse_path,
                self._headers,
                Verdicts.from_json(self._item.authentication),
            )
        )
        personal = self._inbox.kind != "service"
        name, author = self._author(answer)
        try:
            message = compose_answer(
                body=Body(answer.text, answer.html, tuple(answer.attachments)),
                original=self._headers,
                inbox=self._recipient,
                inbox_name=name,
                author=author,
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
        windows = windows_of(
            self._setup.config.reply,
            self._inbox,
            self._item,
            self._recipient,
            self._headers,
            to,
            handle=answer.handle,
            pause=self._pause(answer),
        )
        return Settlement(
            Event.ANSWER, f"answered by {self._inbox.type.name}", (outbound,), ((identifier, message),), windows
        )

    def _author(self, answer: Reply) -> tuple[str, Address]:
        """The name and mailbox in From: the inbox, or one of its other addresses. Raises `AgentError`."""
        name, author = self._table.display_name, self._recipient
        if answer.from_:
            found = addresses.from_header(answer.from_)
            own = own_addresses(self._table, self._inbox) | {self._recipient.key}
            if len(found) != 1 or found[0][1].key not in own or not self._setup.router.serves(found[0][1].domain):
                raise AgentError(
                    "the agent's Reply is from an address that is none of the inbox's, or not of our domains"
                )
            name, author = found[0][0] or name, found[0][1]
        if answer.tag:
            author = Address(f"{addresses.split_tag(author.local)[0]}+{answer.tag}", author.domain)
            try:
                addresses.parse(str(author))
            except AddressError as error:
                raise AgentError(f"the agent's Reply has a tag that makes no address: {error}") from error
        return name, author

    def _pause(self, answer: Reply) -> float | None:
        """Seconds until this sender may be answered again, where the agent says so and the operator does not."""
        if answer.interval is None or self._table.interval is not None:
            return None
        return answer.interval if self._inbox.kind == "service" else max(answer.interval, DAY)

    def _distribute(self, answer: Distribute, content: bytes) -> Settlement:
        """One message for each member: a shared content, and a head of its own that says how to leave."""
        members = chosen_targets(self._table, answer.to)
        if not members:
            return Settlement(Event.SILENCE, "no-members: there is nobody to send it on to")
        links = {sender_key(member): link for member, link in answer.one_click.items()}
        tokens = {sender_key(member): token for member, token in answer.tokens.items()}
        content_id = self._clock.new_id()
        outbound = []
        try:
            message = compose_distribution(
                content,
                inbox=self._recipient,
                name=answer.name,
                author_sender=addresses.parse(self._item.reverse_path),
                message_id=self._message_id(),
                date=self._clock.now(),
                subject_prefix=answer.subject_prefix,
                discussion=answer.discussion,
            )
            for member in members:
                identifier = self._clock.new_id()
                path = bounce_address(identifier, self._recipient)
                head = member_head(self._recipient, tokens.get(member.key, ""), links.get(member.key, ""))
                one = self._outbound("list", identifier, content_id, member, path, return_to=path)
                outbound.append(replace(one, head=head))
        except ValueError as error:
            raise AgentError(f"the agent's post can't be sent on: {error}") from error
        return Settlement(
            Event.ANSWER,
            f"sent on by {self._inbox.type.name} to {len(members)}",
            tuple(outbound),
            ((content_id, message),),
            windows_of_post(self._setup.config.reply, self._item, self._recipient),
        )

    def _hand_over(self) -> Settlement:
        """Unaltered, with its own envelope: signatures hold, and what the upstream host refuses is told to who sent it."""
        route = self._table.upstream
        if not route:
            raise AgentError("the agent hands over, but the inbox has no upstream: set inboxes.NAME.upstream")
        path = self._item.reverse_path
        # The mail's own content: a hundred recipients of 25 MB are not stored a hundred times.
        outbound = self._outbound(
            "proxy", self._clock.new_id(), self._item.mail_id, self._recipient, path, return_to=self._return_to()
        )
        outbound = replace(outbound, route=route, domain=route)
        return Settlement(Event.ANSWER, f"handed over by {self._inbox.type.name}", (self._wished(outbound),))

    def _forward(self, answer: Forward, content: bytes) -> Settlement:
        """No breaker: what is passed on is somebody's mail, and none of it may be lost. But a mail to a hundred tags of one inbox
        is one mail, and its targets get it once."""
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
            one = self._outbound("forward", identifier, content_id, target, path, return_to=self._return_to())
            outbound.append(self._wished(one))
        return Settlement(
            Event.ANSWER,
            f"forwarded by {self._inbox.type.name}",
            tuple(outbound),
            ((content_id, message),),
            (window_of_forward(self._item, self._recipient, targets, answer.subject_prefix),),
        )

    def _return_to(self) -> str:
        """Who learns that what is passed on did not arrive: nobody where the reverse-path is most likely forged, as the
        notification would hit somebody who never wrote. Its failure is FAILED then, where an operator sees it."""
        verdicts = Verdicts.from_json(self._item.authentication)
        disowned = verdicts.spf == "fail" or (verdicts.dmarc == "fail" and verdicts.spf != "pass")  # RFC 7208 2.6.4
        return "" if disowned and not verdicts.overridden else self._item.reverse_path

    def _wished(self, outbound: NewOutbound) -> NewOutbound:
        """What is passed on takes along what its sender asks to be told (RFC 3461 5.2.1). A list's copies are mails of the
        list's (5.2.7.1), and answers are our own."""
        item = self._item
        if not (any(item.wish) or item.ret or item.envid):
            return outbound
        return replace(outbound, wish=item.wish, ret=item.ret, envid=item.envid)

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
            requiretls=self._item.requiretls,  # RFC 8689 6: whatever is made of it, an answer that quotes it among that
        )


def silence(reason: Reason) -> Settlement:
    """No answer, and why."""
    return Settlement(Event.SILENCE, f"{reason.code}: {reason.detail}")


def answer_to(table: InboxTable, kind: str, reverse_path: str, headers: Headers, verdicts: Verdicts) -> Address:
    """Whom an answer goes to: the reverse-path (RFC 3834 4), or From where the inbox says so, and its domain vouches for the
    mail (DMARC) or is the reverse-path's."""
    path = addresses.parse(reverse_path)
    if table.answer_to == "from" and kind == "service":
        found = addresses.from_header(headers.get("from"))
        aligned = verdicts.dmarc == "pass" or (verdicts.dmarc != "fail" and found and found[0][1].domain == path.domain)
        if len(found) == 1 and aligned:
            return found[0][1]
    return path


def bounce_address(identifier: str, inbox: Address) -> str:
    """The reverse-path of one message of ours: `bounces+ID` at the inbox's domain."""
    return verp.make(identifier, inbox.domain)


def allowed_targets(table: InboxTable, answer: Forward) -> list[Address]:
    """Where a Forward goes: all targets of the inbox, or those that the agent named. Raises `AgentError` for any other."""
    if not table.targets:
        raise AgentError("the agent forwards, but the inbox has no targets: set inboxes.NAME.targets")
    if not answer.to:
        return [addresses.parse(target) for target in table.targets if "*" not in target]
    return chosen_targets(table, answer.to)


def chosen_targets(table: InboxTable, to: Sequence[str]) -> list[Address]:
    """The addresses that an agent named, each once. Raises `AgentError` for one that the inbox's targets don't allow."""
    named = [addresses.parse(target) for target in table.targets if "*" not in target]
    exact = {address.key: address for address in named}  # in the operator's spelling
    patterns = [target for target in table.targets if "*" in target]
    chosen = {}
    for text in to:
        try:
            address = addresses.parse(text)
        except AddressError as error:
            raise AgentError(f"the agent passes mail on to what is no address: {error}") from None
        if address.key in exact:
            address = exact[address.key]
        elif not any(_matches(address.key, pattern) for pattern in patterns):
            raise AgentError("the agent passes mail on to an address that is not among the inbox's targets")
        chosen[address.key] = address
    return list(chosen.values())


def _matches(key: str, pattern: str) -> bool:
    """Whether a mailbox is one of a pattern's: `*` stands for any number of characters, of the local part alone but for `"*"`."""
    if pattern == "*":
        return True
    local, _, domain = key.rpartition("@")
    wanted, _, at = pattern.rpartition("@")
    return domain == at and re.fullmatch(".*".join(map(re.escape, wanted.split("*"))), local, re.DOTALL) is not None

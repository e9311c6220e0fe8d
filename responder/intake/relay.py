"""Who may send to other domains through us, in whose name, and how much: never an open relay (RFC 5321 7.9).

Two kinds of clients may: those whose address lies in `relay.networks`, and users who have logged in, where `relay.users` says so.
Nobody else, by whatever spelling of a recipient. An address counts as the session's limits count it: what a trusted proxy says of
its client is believed, but a proxy that names nobody, and a Unix socket, have no address. Over LMTP nothing is relayed, as that
is for final delivery (RFC 2033 1), and a decoy never asks here.
"""

from __future__ import annotations

from collections.abc import Sequence

from responder.clock import Clock
from responder.config import Config
from responder.inbound import replies
from responder.inbound.limits.addresses import Networks, client_key
from responder.inbound.limits.gatekeeper import RateCounter
from responder.inbound.replies import Reply
from responder.inbound.roles import Recipient, Transaction
from responder.mail.address import Address
from responder.mail.envelope import NO_WISH, Wish
from responder.mail.headers import Headers
from responder.mail.mailboxes import authors
from responder.mail.write import format_date
from responder.store.records import NewOutbound

KIND = "relay"


class Relay:
    """What `[relay]` allows. `follow` takes a new configuration without forgetting what was counted."""

    def __init__(self, config: Config, clock: Clock) -> None:
        self._clock = clock
        self._users = RateCounter(config.relay.per_user, clock)
        self._addresses = RateCounter(config.relay.per_address, clock)
        self.follow(config)

    def follow(self, config: Config) -> None:
        """Take a new configuration. Who is no longer allowed is refused from its next recipient, or message, on."""
        table = config.relay
        self._networks = Networks(table.networks)
        self._takes_users = table.users
        self._ours = frozenset(config.domains)
        self._senders = frozenset(table.senders or config.domains)
        self._hostname = config.hostname
        self._expire = config.delivery.expire
        self._users.follow(table.per_user)
        self._addresses.follow(table.per_address)

    def allows(self, session: Transaction) -> bool:
        """Whether a client may send to other domains at all."""
        if session.profile.lmtp:
            return False
        if self._takes_users and session.user:
            return True
        return bool(session.counted) and session.counted in self._networks

    def recipient(self, session: Transaction, address: Address) -> Recipient:
        """What becomes of a recipient at a domain that is not ours, in its sender's spelling: a local part's case is the
        business of its own host (RFC 5321 2.4). An inbox it has none."""
        if not self.allows(session):
            return Recipient(replies.NOT_OUR_DOMAIN)
        if not _is_public_name(address.domain) or address.domain == self._hostname:
            return Recipient(replies.NO_SUCH_DOMAIN)
        path = session.envelope.mail_from or ""
        if path and not self._may_write_as(path.rpartition("@")[2]):
            return Recipient(replies.SENDER_NOT_ALLOWED)
        counter, key = self._counter(session)
        if counter.full(key):
            return Recipient(replies.TOO_MANY_RELAYED)
        counter.add(key)
        return Recipient(replies.RECIPIENT_OK, str(address))

    def _counter(self, session: Transaction) -> tuple[RateCounter, str]:
        if self._takes_users and session.user:
            return self._users, session.user
        return self._addresses, client_key(session.counted)

    def refusal(self, session: Transaction, headers: Headers) -> Reply | None:
        """Why a message that leaves is not taken; None where it is. A reload may have changed what its recipients met."""
        if not self.allows(session):
            return replies.NOT_OUR_DOMAIN
        if "*" in self._senders:
            return None
        found = authors(headers)
        allowed = bool(found) and all(domain in self._senders for domain in found)
        return None if allowed else replies.AUTHOR_NOT_ALLOWED

    def _may_write_as(self, domain: str) -> bool:
        return "*" in self._senders or domain in self._senders

    def missing(self, headers: Headers, mail_id: str) -> bytes:
        """Date and Message-ID for a mail that has none, as who takes a submission may add them (RFC 6409 8.2, 8.3). It does not
        begin as those of our automatic mail do: a person, or somebody's program, wrote it."""
        lines = []
        if not headers.get("date"):
            lines.append(f"Date: {format_date(self._clock.now())}\r\n")
        if not headers.get("message-id"):
            lines.append(f"Message-ID: <{mail_id}@{self._hostname}>\r\n")
        return "".join(lines).encode()

    def signer(self, session: Transaction, headers: Headers) -> str:
        """The domain of ours that a message is written as, which signs it; "" where it is none, or not one alone. Where any
        sender may write, who merely forwards mail with our name in From has not written it: the reverse-path has to be ours."""
        found = authors(headers)
        if "*" in self._senders and (session.envelope.mail_from or "").rpartition("@")[2].lower() not in self._ours:
            return ""
        return found[0] if len(found) == 1 and found[0] in self._ours else ""

    def outbound(self, session: Transaction, mail_id: str, first: int) -> tuple[NewOutbound, ...]:
        """The rows of what leaves, all with the mail's own content and envelope. Their causes are numbered on from `first`, so
        that `explain` finds them by the mail."""
        now = self._clock.now()
        path = session.envelope.mail_from or ""
        rows = []
        for number, (mailbox, wish) in enumerate(leaving(session.recipients, session.wishes), first):
            rows.append(
                NewOutbound(
                    id=self._clock.new_id(),
                    kind=KIND,
                    cause=f"{mail_id}.{number}",
                    inbox="",
                    content_id=mail_id,
                    reverse_path=path,
                    recipient=mailbox,
                    domain=mailbox.rpartition("@")[2],
                    return_to=path,
                    created_at=now,
                    expires_at=now + self._expire,
                    wish=wish,
                    ret=session.parameters.ret,
                    envid=session.parameters.envid,
                    requiretls=session.parameters.requiretls,
                )
            )
        return tuple(rows)


def _is_public_name(domain: str) -> bool:
    """Whether it could be a domain of the DNS: no local alias (RFC 5321 2.3.5), and no address, which would choose the very
    host that we connect to."""
    last = domain.rpartition(".")
    return bool(last[1]) and not domain.startswith("[") and not last[2].isdigit()


def leaves(session: Transaction) -> bool:
    """Whether a mail has a recipient who is not ours."""
    return any(not inbox for _, inbox in session.recipients)


def leaving(recipients: Sequence[tuple[str, str]], wishes: Sequence[Wish]) -> list[tuple[str, Wish]]:
    """The mailboxes that are not ours, and what is to be told of them."""
    asked = wishes or [NO_WISH] * len(recipients)
    return [(mailbox, wish) for (mailbox, inbox), wish in zip(recipients, asked, strict=True) if not inbox]


def staying(recipients: Sequence[tuple[str, str]], wishes: Sequence[Wish]) -> tuple[Wish, ...]:
    """What is to be told of those that are ours, in their order; () where nothing is."""
    return tuple([wish for (_, inbox), wish in zip(recipients, wishes, strict=True) if inbox]) if wishes else ()

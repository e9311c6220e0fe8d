"""Asking the sender first: a request is kept until whoever is named as its sender answers a signed token.

MAIL FROM and From are claims (RFC 5321 7.1). What an agent does in somebody's name, it does once that person has shown that they
read the mail of the address: the token leaves in an answer, so only the mailbox's reader learns it.

A token is `ID-MAC`: 12 random characters that name the request, and 80 bits of HMAC-SHA256 (RFC 2104) over inbox, purpose, sender
and ID. A guess is refused before anything is looked up, and whoever is refused learns nothing of the reason.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any, Final

from responder.agents.answers import Reply
from responder.agents.base import Authentication, Mail
from responder.agents.context import JSON, Context
from responder.mail.address import MAX_LOCAL, Address, AddressError, parse, split_tag, unquote

DAY = 86400.0
MAX_SUBJECT = 1000  # characters of a Subject that are searched
MAX_TOKENS = 3  # texts of a token's form in one Subject that are tried

_ID = 12  # characters: 60 random bits
_MAC = 16  # characters: 80 bits, RFC 2104 5
_TOKEN = re.compile(rf"(?<![a-z0-9-])[a-z2-7]{{{_ID}}}-[a-z2-7]{{{_MAC}}}(?![a-z0-9-])")
_PURPOSE = re.compile(r"[a-z0-9-]{1,40}")
_HOW = "To confirm, answer this mail and leave its subject as it is. To refuse, do nothing.\n\n    [confirm {token}]\n"


class Confirmation:
    """Requests of one inbox and `purpose` that wait for their senders. One object may serve many mails at a time.

    It keeps what it needs in `context.state`, under keys that begin with `confirmation/`. Both `ask` and `redeem` are for use
    within `Agent.answer`: what they note is stored together with the answer, so a request is given out to one mail only,
    whatever fails or runs beside.
    """

    MAX_MAIL: Final = 256 << 10
    """Octets of a mail that can be kept as a request."""

    def __init__(
        self, context: Context, *, purpose: str = "confirm", expires: float = 3 * DAY, mails_per_sender: int = 5
    ) -> None:
        """`expires`: seconds that a request waits. `mails_per_sender`: mails that one sender gets for requests which are still
        open. Raises `ValueError` for a purpose that isn't of up to 40 characters `[a-z0-9-]`, and for no time."""
        if not _PURPOSE.fullmatch(purpose):
            raise ValueError("a purpose is up to 40 characters a-z, 0-9 and hyphens")
        if not expires > 0 or mails_per_sender < 1:
            raise ValueError("a confirmation needs some time, and one mail at the least")
        self._context = context
        self._state = context.state
        self._purpose = purpose
        self._expires = expires
        self._most = mails_per_sender

    async def ask(self, mail: Mail, request: JSON | Mail, text: str, subject: str | None = None) -> Reply | None:
        """The answer to `mail` that asks its sender to confirm `request`: JSON other than None, or a mail as a whole.

        The token stands in the answer's From (`inbox+TOKEN@...`), in its Subject, and in the text: in place of `{token}` there,
        else behind it. Asking once more for what is still open sends the same token again. None where the sender has had
        `mails_per_sender` mails already: stay silent then, as somebody may be writing in another's name.

        Raises `ValueError` for None, for what is no JSON, and for a mail larger than `MAX_MAIL` octets.
        """
        sender, person = sender_key(mail.sender), _person(mail.sender)
        kept, digest = _pack(request)
        digest = f"{sender} {digest}"
        now = self._context.clock.now()
        waiting = await self._waiting(person, now)
        if sum(entry["mails"] for entry in waiting.values()) >= self._most:
            return None
        identifier = next((one for one, entry in waiting.items() if entry["digest"] == digest), "")
        mails = waiting[identifier]["mails"] if identifier else 0
        identifier = identifier or self._random(2)[:_ID]
        until = now + self._expires
        waiting[identifier] = {"digest": digest, "until": until, "mails": mails + 1}
        await self._state.set(self._key(identifier), {"until": until, "by": "", **kept}, expires=self._expires)
        await self._state.set(self._key("of", person), waiting, expires=self._expires)

        token = f"{identifier}-{self._mac(await self._secret(), sender, identifier)}"
        body = text.replace("{token}", token) if "{token}" in text else f"{text.rstrip()}\n\n{_HOW}"
        local = split_tag(mail.recipient.rpartition("@")[0])[0]
        return Reply(
            text=body.replace("{token}", token),
            subject=f"[confirm {token}] {subject or 'Please confirm'}",  # in front: what is long is cut behind
            # RFC 5321 4.5.3.1.1: the local part has 64 octets. Without room for a tag the Subject alone has to do.
            tag=token if len(local.encode()) + 1 + len(token) <= MAX_LOCAL else "",
            to_sender=True,  # else who writes the From could confirm for whom MAIL FROM names
        )

    async def redeem(self, mail: Mail) -> Any:
        """The request that `mail` confirms: its tag or Subject holds the token, and its sender is the one who was asked (without
        regard to case). None for anything else: no token, a forged or foreign or expired one, one that another mail
        has used. The same mail gets it again where it is run again."""
        found = await self._find(mail)
        if found is None:
            return None
        _, identifier, record = found
        if record["by"] not in ("", mail.id):
            return None
        now = self._context.clock.now()
        if not record["by"]:
            # Kept until it expires: an agent that raises `TryLater` has its state stored, and is given the request once more.
            await self._state.set(
                self._key(identifier), {**record, "by": mail.id}, expires=max(record["until"] - now, 1.0)
            )
            person = _person(mail.sender)
            waiting = await self._waiting(person, now)
            waiting.pop(identifier, None)
            if waiting:
                await self._state.set(self._key("of", person), waiting, expires=self._expires)
            else:
                await self._state.delete(self._key("of", person))
        return _unpack(record)

    async def spent(self, mail: Mail) -> bool:
        """Whether `mail` holds a token that its sender has used already, in another mail. Only the one who was asked is told."""
        found = await self._find(mail)
        return found is not None and found[2]["by"] not in ("", mail.id)

    @staticmethod
    def carries(mail: Mail) -> bool:
        """Whether `mail` holds what looks like a token, valid or not: it is no ordinary mail."""
        return any(True for _ in _tokens(mail))

    async def _find(self, mail: Mail) -> tuple[str, str, dict[str, Any]] | None:
        """Sender, ID and record of the first valid token in a mail."""
        secret = ""
        sender = sender_key(mail.sender)
        for token in _tokens(mail):
            secret = secret or await self._secret()
            identifier, _, mac = token.partition("-")
            if not hmac.compare_digest(mac, self._mac(secret, sender, identifier)):
                continue
            record = await self._state.get(self._key(identifier))
            if record is not None and record["until"] > self._context.clock.now():
                return sender, identifier, record
        return None

    async def _waiting(self, person: str, now: float) -> dict[str, dict[str, Any]]:
        """What one person has been asked, under whatever tag, and not answered, by ID."""
        entries = await self._state.get(self._key("of", person), {})
        return {identifier: entry for identifier, entry in entries.items() if entry["until"] > now}

    async def _secret(self) -> str:
        """Made once for an inbox, and kept: tokens outlive restarts."""
        secret: str | None = await self._state.get("confirmation/secret")
        if secret is None:
            made = self._random(8)  # 320 random bits, hashed to 256
            # A trial's state forgets what it is told: then what was made has to do.
            secret = made if await self._state.add("confirmation/secret", made) else await self._secret()
        return secret

    def _random(self, ids: int) -> str:
        """Base 32 of what holds 40 random bits for each of `ids`."""
        noise = " ".join([self._context.clock.new_id() for _ in range(ids)])
        return _base32(hashlib.sha256(noise.encode()).digest())

    def _mac(self, secret: str, sender: str, identifier: str) -> str:
        signed = json.dumps([self._context.inbox, self._purpose, sender, identifier]).encode()
        return _base32(hmac.digest(secret.encode(), signed, "sha256"))[:_MAC]

    def _key(self, *parts: str) -> str:
        return "/".join(["confirmation", self._purpose, *parts])


def sender_key(sender: str) -> str:
    """What two spellings of a sender share. Outside of ASCII there is one only: `strauß` and `strauss` are two people."""
    try:
        address = parse(sender)
    except AddressError:
        return _lower(sender)
    return f"{_lower(unquote(address.local))}@{address.domain}"


def _person(sender: str) -> str:
    """Who gets the mail to a sender, whatever tag somebody made up."""
    try:
        return parse(sender).person
    except AddressError:
        return _lower(sender)


def _lower(text: str) -> str:
    return text.lower() if text.isascii() else text


def _tokens(mail: Mail) -> Iterator[str]:
    """What has a token's form: the tag, then the first few in the Subject."""
    tag = mail.tag.lower()
    if _TOKEN.fullmatch(tag):
        yield tag
    for match in islice(_TOKEN.finditer(mail.subject[:MAX_SUBJECT].lower()), MAX_TOKENS):
        if match[0] != tag:
            yield match[0]


def _pack(request: JSON | Mail) -> tuple[dict[str, JSON], str]:
    """What is stored of a request, and what two that are the same share. Raises `ValueError`."""
    if request is None:
        raise ValueError("a request must not be None: that is what `redeem` says where there is none")
    if not isinstance(request, Mail):
        try:
            text = json.dumps(request, sort_keys=True)
        except TypeError as error:
            raise ValueError(f"a request must be JSON or a mail: {error}") from None
        return {"json": request}, _digest(text.encode())
    if len(request.raw) > Confirmation.MAX_MAIL:
        raise ValueError(f"a mail of {len(request.raw)} octets: {Confirmation.MAX_MAIL} can be kept")
    mail = {
        "id": request.id,
        "inbox": request.inbox,
        "recipient": request.recipient,
        "sender": request.sender,
        "peer": request.peer,
        "authentication": request.authentication.to_json(),
        "raw": base64.b64encode(request.raw).decode(),
    }
    # A mail that a client sends twice has other Received lines the second time.
    return {"mail": mail}, _digest(
        f"{request.recipient} {request.message_id}".encode() if request.message_id else request.raw
    )


def _unpack(record: Mapping[str, Any]) -> JSON | Mail:
    if "mail" not in record:
        return record["json"]
    facts = dict(record["mail"])
    local, _, domain = facts.pop("recipient").rpartition("@")
    told = facts.pop("authentication")  # a table where an older program has kept it
    return Mail(
        base64.b64decode(facts.pop("raw")),
        recipient=Address(local or domain, domain if local else ""),  # `postmaster` may come without a domain
        authentication=Authentication.from_json(told if isinstance(told, str) else json.dumps(told)),
        **facts,
    )


def _digest(octets: bytes) -> str:
    return hashlib.sha256(octets).hexdigest()[:32]


def _base32(octets: bytes) -> str:
    return base64.b32encode(octets).decode().lower()

"""How a mail gets into an agent's process and an answer comes out: each as what a frame can hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from responder.agents.answers import Answer, Distribute, Forward, HandOver, Reply
from responder.agents.base import Authentication, Bounce, Mail
from responder.mail.address import Address, AddressError, parse
from responder.mail.compose import Attachment

Packed = tuple[dict[str, Any], list[bytes]]


def pack_mail(mail: Mail) -> Packed:
    """A mail as it came; what an agent has parsed of it is parsed again."""
    names = ("id", "inbox", "recipient", "tag", "sender", "peer")
    told = {name: getattr(mail, name) for name in names}
    return {**told, "authentication": mail.authentication.to_json()}, [mail.raw]


def unpack_mail(told: dict[str, Any], blobs: Sequence[bytes]) -> Mail:
    try:
        recipient = parse(told["recipient"])
    except AddressError:  # `Postmaster`, where it came without a domain
        recipient = Address(told["recipient"], "")
    mail = Mail(
        blobs[0],
        id=told["id"],
        inbox=told["inbox"],
        recipient=recipient,
        sender=told["sender"],
        peer=told["peer"],
        authentication=Authentication.from_json(told["authentication"]),
    )
    mail.recipient, mail.tag = told["recipient"], told["tag"]
    return mail


def pack_bounce(bounce: Bounce) -> Packed:
    return asdict(bounce), []


def unpack_bounce(told: dict[str, Any]) -> Bounce:
    return Bounce(**told)


def pack_answer(answer: Answer) -> Packed:
    """An answer that `results.check` has passed."""
    if isinstance(answer, Reply):
        told: dict[str, Any] = {
            "is": "reply",
            "subject": answer.subject,
            "headers": dict(answer.headers),
            "tag": answer.tag,
            "from_": answer.from_,
            "handle": answer.handle,
            "interval": answer.interval,
            "to_sender": answer.to_sender,
            "files": [[file.name, file.content_type] for file in answer.attachments],
        }
        texts = [text.encode("utf-8", "surrogatepass") for text in (answer.text, answer.html)]
        return told, [*texts, *[bytes(file.data) for file in answer.attachments]]
    if isinstance(answer, Forward):
        return {"is": "forward", "to": list(answer.to), "subject_prefix": answer.subject_prefix}, []
    if isinstance(answer, Distribute):
        told = {
            "is": "distribute",
            "to": list(answer.to),
            "name": answer.name,
            "subject_prefix": answer.subject_prefix,
            "discussion": bool(answer.discussion),
            "one_click": dict(answer.one_click),
            "tokens": dict(answer.tokens),
        }
        return told, []
    return {"is": "hand-over" if isinstance(answer, HandOver) else "silence"}, []


_PLAIN = ("subject", "headers", "tag", "from_", "handle", "interval", "to_sender")


def unpack_answer(told: dict[str, Any], blobs: Sequence[bytes]) -> object:
    """What somebody says is an answer. Raises any exception where it can't be one; `results.check` judges the rest."""
    match told["is"]:
        case "silence":
            return None
        case "hand-over":
            return HandOver()
        case "forward":
            return Forward(told["to"], told["subject_prefix"])
        case "distribute":
            return Distribute(
                told["to"],
                told["name"],
                told["subject_prefix"],
                bool(told["discussion"]),
                told["one_click"],
                told["tokens"],
            )
        case "reply":
            text, html, *data = blobs
            files = [Attachment(name, kind, blob) for (name, kind), blob in zip(told["files"], data, strict=True)]
            return Reply(
                text=text.decode("utf-8", "surrogatepass"),
                html=html.decode("utf-8", "surrogatepass"),
                attachments=files,
                **{name: told[name] for name in _PLAIN},
            )
    raise ValueError("it is of no known kind")

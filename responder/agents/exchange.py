"""A mail and its answer as JSON: what agents in other languages read and write. `docs/agents/webhook.md` has the schema.

Keys are only ever added to the mail's; `version` changes where an old one would change its meaning. Of an answer each key is
known, or it is refused: a misspelt one would be an answer that silently lacks something.
"""

from __future__ import annotations

import base64
import binascii
import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError

from responder.agents.answers import Answer, Forward, Reply
from responder.agents.base import Mail
from responder.mail.compose import Attachment

VERSION = 1
MAX_TEXT = 1_000_000  # characters of each text


def mail_to_json(mail: Mail, *, max_text: int = MAX_TEXT, max_attachments: int = 0, raw: bool = False) -> bytes:
    """The mail as one JSON object in UTF-8.

    Texts are cut at `max_text` characters each, and `truncated` says so. Files come with their octets while these fit into
    `max_attachments` octets together, else with their names only. `raw`: the whole mail as well. Octets are base64. Never fails.
    """
    texts = {"text": mail.text, "reply_text": mail.reply_text, "html": mail.html}
    files = []
    for file in mail.attachments:
        fits = 0 < file.size <= max_attachments
        max_attachments -= file.size if fits else 0
        files.append({
            "name": file.name,
            "content_type": file.content_type,
            "size": file.size,
            "data": _base64(file.data) if fits or not file.size else None,
        })  # fmt: skip
    told: dict[str, Any] = {
        "version": VERSION,
        "id": mail.id,
        "inbox": mail.inbox,
        "tag": mail.tag,
        "recipient": mail.recipient,
        "sender": mail.sender,
        "from": mail.from_,
        "subject": mail.subject,
        "base_subject": mail.base_subject,
        **{name: text[:max_text] for name, text in texts.items()},
        "truncated": any(len(text) > max_text for text in texts.values()),
        "headers": [[name, value] for name in mail.headers for value in mail.headers.all(name)],
        "attachments": files,
        "date": mail.date.isoformat() if mail.date else None,
        "message_id": mail.message_id,
        "thread": {
            "key": mail.thread.key,
            "in_reply_to": mail.thread.in_reply_to,
            "references": list(mail.thread.references),
        },
        "authentication": {
            "spf": mail.authentication.spf,
            "dkim": mail.authentication.dkim,
            "dmarc": mail.authentication.dmarc,
            "dmarc_policy": mail.authentication.dmarc_policy,
            "arc": mail.authentication.arc,
        },
        "peer": mail.peer,
    }
    if raw:
        told["raw"] = _base64(mail.raw)
    # Not in ASCII: a text in another script would grow to three times its size. A lone surrogate, which many a JSON reader
    # refuses, becomes "?".
    return json.dumps(told, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def answer_from_json(text: bytes | str) -> Answer:
    """What a program said in JSON: an answer, a forward, or None for `null`, `{}` and `{"action": "silence"}`.

    Raises `ValueError`: one line with the key and the reason, without the value.
    """
    try:
        value = json.loads(text)
    except UnicodeDecodeError:
        raise ValueError("it is not in UTF-8") from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except ValueError as error:
        where = f" at line {error.lineno}, column {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
        raise ValueError(f"it is no JSON{where}") from None
    if value is None:
        return None
    if not isinstance(value, dict):
        raise ValueError(f"it is a JSON {_KINDS.get(type(value), 'value')}, not an object")
    try:
        return _ANSWER.validate_python({"action": "reply", **value}).answer()
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        key = ".".join(map(str, first["loc"][1:])) or "action"  # the first is the action's name
        reason = "unknown key" if first["type"] == "extra_forbidden" else first["msg"].removeprefix("Value error, ")
        raise ValueError(f"{key[:100]!a}: {reason[:200]}") from None


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _octets(value: object) -> bytes:
    if not isinstance(value, str):
        raise ValueError("wants base64")
    try:
        return base64.b64decode("".join(value.split()), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("wants base64") from None


class _Said(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)


class _File(_Said):
    name: str
    content_type: str = "application/octet-stream"
    data: Annotated[bytes, BeforeValidator(_octets)]


class _Reply(_Said):
    action: Literal["reply"]
    text: str | None = None
    html: str | None = None
    subject: str | None = None
    attachments: list[_File] = []
    headers: dict[str, str] = {}
    tag: str | None = None
    handle: str | None = None
    interval: float | None = None

    def answer(self) -> Answer:
        return Reply(
            text=self.text or "",
            html=self.html or "",
            subject=self.subject,
            attachments=[Attachment(file.name, file.content_type, file.data) for file in self.attachments],
            headers=self.headers,
            tag=self.tag or "",
            handle=self.handle or "",
            interval=self.interval,
        )


class _Forward(_Said):
    action: Literal["forward"]
    to: list[str] = []
    subject_prefix: str | None = None

    def answer(self) -> Answer:
        return Forward(to=self.to, subject_prefix=self.subject_prefix)


class _Silence(_Said):
    action: Literal["silence"]

    def answer(self) -> Answer:
        return None


_ANSWER: TypeAdapter[_Reply | _Forward | _Silence] = TypeAdapter(
    Annotated[_Reply | _Forward | _Silence, Field(discriminator="action")]
)
_KINDS = {str: "string", list: "array", int: "number", float: "number", bool: "boolean"}

"""Asks a program elsewhere by HTTP: it gets the mail as signed JSON, and what it responds is the answer.

What may pass by itself (no connection, a time-out, 5xx, 408, 425, 429) is tried again, with the same Idempotency-Key; what will
not (any other status, a redirect, a response that is no answer) makes the mail FAILED at once, where an operator sees it.
"""

import asyncio
import hashlib
import hmac
import re
from datetime import UTC
from email.message import Message
from email.utils import parsedate_to_datetime
from typing import Annotated

import httpx
from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator

from responder import Agent, Answer, GiveUp, Mail, Reply, TryLater, answer_from_json, hookimpl, mail_to_json

PASSING = frozenset({408, 425, 429})  # the 4xx that are no verdict on the request (RFC 9110 15.5.9, RFC 8470, RFC 6585)
OURS = frozenset({
    "accept", "accept-encoding", "connection", "content-encoding", "content-length", "content-type", "expect", "host",
    "idempotency-key", "te", "trailer", "transfer-encoding", "upgrade", "x-responder-signature", "x-responder-timestamp",
})  # fmt: skip
CHARSETS = frozenset({"utf-8", "us-ascii", "iso-8859-1", "iso-8859-15", "windows-1252", "utf-16"})
"""Those in which a text may come: Python knows some that take minutes for a megabyte."""

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}")
_VALUE = re.compile(r"[\t -~]{0,8000}")


class WebhookError(Exception):
    """No answer this time. The core tries again."""


class Webhook(Agent):
    """Posts each mail as JSON to a URL and answers what comes back."""

    class Settings(BaseModel):
        model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

        url: str
        """http:// or https://; redirects are not followed."""

        secret: Annotated[SecretStr, Field(min_length=16)]
        """The key of the signature: at least 16 characters."""

        headers: dict[str, SecretStr] = {}
        """Further request headers, such as Authorization."""

        timeout: Annotated[float, Field(gt=0, le=3600)] = 20.0
        """Seconds for the whole exchange; keep it below the inbox's `timeout`."""

        attachments: bool = False
        """Whether the octets of the mail's files are sent; their names always are."""

        max_attachments: Annotated[int, Field(ge=0, le=100 << 20)] = 10 << 20
        """Octets of all of a mail's files together; what does not fit goes without its octets."""

        raw: bool = False
        """Whether the whole mail is sent too."""

        max_text: Annotated[int, Field(ge=1, le=100_000_000)] = 1_000_000
        """Characters of each text."""

        max_response: Annotated[int, Field(ge=1, le=100 << 20)] = 10 << 20
        """Octets of a response."""

        max_delay: Annotated[float, Field(gt=0, le=30 * 86400)] = 3600.0
        """Seconds: the longest Retry-After that is obeyed."""

        @field_validator("url")
        @classmethod
        def _is_url(cls, text: str) -> str:
            try:
                url = httpx.URL(text)
            except (httpx.InvalidURL, ValueError):
                raise ValueError("wants a URL") from None
            if url.scheme not in ("http", "https") or not url.host:
                raise ValueError("wants an http:// or https:// URL")
            if url.userinfo:
                raise ValueError("holds a password: put it into headers, as Authorization")
            if url.fragment:
                raise ValueError("a fragment (#) is never sent")
            return text

        @field_validator("headers")
        @classmethod
        def _may_be_sent(cls, headers: dict[str, SecretStr]) -> dict[str, SecretStr]:
            for name, value in headers.items():
                if not _TOKEN.fullmatch(name):
                    raise ValueError("a key is no header name")
                if name.lower() in OURS:
                    raise ValueError(f"{name} is set by the agent")
                if not _VALUE.fullmatch(value.get_secret_value()):
                    raise ValueError(f"the value of {name} is not printable ASCII")
            return headers

    async def answer(self, mail: Mail) -> Answer:
        settings = self.settings
        # In a thread: a mail of many MB takes a while to be parsed, and the event loop belongs to all inboxes.
        body = await asyncio.to_thread(
            mail_to_json,
            mail,
            max_text=settings.max_text,
            max_attachments=settings.max_attachments if settings.attachments else 0,
            raw=settings.raw,
        )
        try:
            async with asyncio.timeout(settings.timeout):
                status, headers, content = await self._post(mail, body)
        except TimeoutError:
            raise WebhookError(f"no response within {settings.timeout:g} s") from None
        except httpx.HTTPError as error:
            raise WebhookError(f"no response: {type(error).__name__}: {error}") from None
        if 200 <= status <= 299:
            return _answer(headers, content)
        if status < 500 and status not in PASSING:
            redirect = ": redirects are not followed" if 300 <= status <= 399 else ""
            raise GiveUp(f"the webhook said {status}{redirect}{_excerpt(headers, content)}")
        delay = self._delay(headers.get("Retry-After", ""))
        if delay is None:
            raise WebhookError(f"the webhook said {status}{_excerpt(headers, content)}")
        self.context.log.warning("the webhook said %d, Retry-After %g s", status, delay)
        raise TryLater(delay)

    async def _post(self, mail: Mail, body: bytes) -> tuple[int, httpx.Headers, bytes]:
        """One request: status, headers and body of the response. Raises `httpx.HTTPError`, and `GiveUp` where it is too large."""
        timestamp = str(int(self.context.now().timestamp()))
        request = {
            **{name: value.get_secret_value() for name, value in self.settings.headers.items()},
            "Accept": "application/json, text/plain, text/html",
            "Accept-Encoding": "identity",  # what unpacks to a thousand times its size is not asked for
            "Content-Type": "application/json",
            "Idempotency-Key": mail.id,
            "X-Responder-Timestamp": timestamp,
            "X-Responder-Signature": f"sha256={sign(self.settings.secret.get_secret_value(), timestamp, body)}",
        }
        async with self.context.http.stream(
            "POST",
            self.settings.url,
            content=body,
            headers=request,
            follow_redirects=False,
            timeout=self.settings.timeout,
        ) as response:
            if response.headers.get("Content-Encoding", "identity").lower() != "identity":
                raise GiveUp("the webhook's response is compressed, which was not asked for")
            content = bytearray()
            async for chunk in response.aiter_raw():
                content += chunk
                if len(content) > self.settings.max_response:
                    raise GiveUp(f"the webhook's response has more than {self.settings.max_response} octets")
            return response.status_code, response.headers, bytes(content)

    def _delay(self, value: str) -> float | None:
        """Seconds that a Retry-After asks for (RFC 9110 10.2.3), within bounds; None where there is none."""
        value = value.strip()[:50]
        if value.isascii() and value.isdigit():
            seconds = float(value)
        else:
            try:
                date = parsedate_to_datetime(value)
                date = date if date.tzinfo else date.replace(tzinfo=UTC)
                seconds = (date - self.context.now()).total_seconds()
            except (TypeError, ValueError, OverflowError):
                return None
        limit: float = self.settings.max_delay
        return min(max(seconds, 1.0), limit)


def sign(secret: str, timestamp: str, body: bytes) -> str:
    """HMAC-SHA256 over timestamp, a dot and the body, in lower-case hexadecimal."""
    return hmac.new(secret.encode(), timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()


def _answer(headers: httpx.Headers, content: bytes) -> Answer:
    """A response of 2xx as the answer. Raises `GiveUp`: the receiver has had the mail, and would say the same again."""
    if not content.strip():
        return None
    kind, charset = _kind(headers)
    if kind == "application/json" or kind.endswith("+json"):
        try:
            return answer_from_json(content)
        except ValueError as error:
            raise GiveUp(f"the webhook's response is no answer: {error}") from None
    if kind in ("text/plain", "text/html"):
        text = _decode(content, charset)
        return Reply(text=text) if kind == "text/plain" else Reply(html=text)
    raise GiveUp(f"the webhook's response is {kind or 'without a Content-Type'}, not JSON, text/plain or text/html")


def _kind(headers: httpx.Headers) -> tuple[str, str]:
    """Media type and charset of a response, in lower case."""
    fields = Message()
    fields["Content-Type"] = headers.get("Content-Type", "")[:200]
    if not fields["Content-Type"]:
        return "", ""
    return fields.get_content_type(), str(fields.get_content_charset("utf-8"))


def _decode(content: bytes, charset: str) -> str:
    """A text; what can't be decoded is U+FFFD."""
    return content.decode(charset if charset in CHARSETS else "utf-8", "replace")


def _excerpt(headers: httpx.Headers, content: bytes) -> str:
    """The beginning of an error's text, on one line, for the operator."""
    kind, charset = _kind(headers)
    if kind not in ("text/plain", "application/json", "application/problem+json"):
        return ""
    text = " ".join(_decode(content[:1000], charset).split())
    text = "".join([char for char in text if char.isprintable()])[:200]
    return f": {text}" if text else ""


@hookimpl
def responder_agents() -> dict[str, type[Agent]]:
    return {"webhook": Webhook}

"""Asks rspamd about each mail (its HTTP protocol, /checkv2): what it rejects is refused, what it suspects is marked or put off.

A mail is sent once, as it came, with its envelope in headers of the request. What rspamd says of it is bounded and cleaned before
it becomes a reply or a header field.
"""

import json
from typing import Annotated, Any, Literal

import httpx
from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator

from responder import Check, Client, Defer, Mail, Mark, Refuse, hookimpl

MAX_SYMBOLS = 25  # of a verdict, the weightiest first
NONE = ("no action", "accept")  # actions that are none


class RspamdError(Exception):
    """No verdict this time."""


class Rspamd(Check):
    """Asks rspamd about each mail, over HTTP."""

    class Settings(BaseModel):
        model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

        url: str = "http://127.0.0.1:11333"
        """The normal worker, or a proxy before it; /checkv2 is added."""

        password: SecretStr | None = None
        """Where the worker wants one."""

        timeout: Annotated[float, Field(gt=0, le=600)] = 8.0
        """Seconds for the whole exchange; keep it below the check's own `timeout`."""

        max_size: Annotated[int, Field(ge=1, le=1 << 30)] = 50 << 20
        """Octets of a mail that is asked about; larger ones pass, unmarked."""

        reject: Literal["refuse", "mark"] = "refuse"
        """What becomes of a mail that rspamd rejects."""

        greylist: bool = True
        """Whether `greylist` and `soft reject` put a mail off (451); else it passes, unmarked."""

        header: Annotated[str, Field(pattern=r"^(X-[A-Za-z0-9-]{1,60})?$")] = "X-Spam"
        """The field that says Yes of spam; "": none."""

        result_header: Annotated[str, Field(pattern=r"^(X-[A-Za-z0-9-]{1,60})?$")] = "X-Spamd-Result"
        """The field with action, score and symbols, on each mail; "": none."""

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
                raise ValueError("holds a password: put it into password")
            return text.rstrip("/")

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.fields = [name for name in (settings.header, settings.result_header) if name]

    async def data(self, client: Client, mail: Mail) -> Refuse | Defer | Mark | None:
        if len(mail.raw) > self.settings.max_size:
            return None
        return self._judge(await self._ask(client, mail))

    async def _ask(self, client: Client, mail: Mail) -> dict[str, Any]:
        """What rspamd says, as JSON. Raises `RspamdError`, `httpx.HTTPError`, `TimeoutError`."""
        settings = self.settings
        async with self.context.http.stream(
            "POST",
            f"{settings.url}/checkv2",
            content=mail.raw,
            headers=self._envelope(client, mail),
            timeout=settings.timeout,
        ) as response:
            content = bytearray()
            async for chunk in response.aiter_bytes(65536):
                content += chunk
                if len(content) > 1 << 20:
                    raise RspamdError("its response has more than 1 MiB")
        if response.status_code != 200:
            raise RspamdError(f"it said {response.status_code}")
        try:
            found = json.loads(content)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict) or not isinstance(found.get("action"), str):
            raise RspamdError("its response is no verdict")
        return found

    def _envelope(self, client: Client, mail: Mail) -> list[tuple[bytes, bytes]]:
        """The headers of the request (rspamd's protocol, "HTTP headers"). One that has no value is left out."""
        version, _, cipher = client.tls.partition(" ")
        given = [("From", f"<{client.sender or ''}>"), *(("Rcpt", f"<{one}>") for one in client.recipients)]
        given += [("IP", client.peer), ("Helo", client.helo), ("User", client.user), ("Queue-Id", mail.id)]
        given += [("TLS-Version", version), ("TLS-Cipher", cipher)]
        if self.settings.password is not None:
            given.append(("Password", self.settings.password.get_secret_value()))
        return [
            (name.encode(), value.encode("utf-8", "replace")) for name, value in given if value.isprintable() and value
        ]

    def _judge(self, found: dict[str, Any]) -> Refuse | Defer | Mark | None:
        action = found["action"]
        messages = found.get("messages")
        said = messages.get("smtp_message") if isinstance(messages, dict) else None
        text = said if isinstance(said, str) and said.strip() else ""
        if action == "reject" and self.settings.reject == "refuse":
            return Refuse(text or "This looks like spam", 554)
        if action in ("greylist", "soft reject"):
            return Defer(text or "Try again later") if self.settings.greylist else self._mark(found, spam=False)
        return self._mark(found, spam=action not in NONE)

    def _mark(self, found: dict[str, Any], *, spam: bool) -> Mark:
        """What the verdict comes to as header fields."""
        score, required = _number(found.get("score")), _number(found.get("required_score"))
        told = f"{found['action']:.40}, score {score:.2f} of {required:.2f}"
        symbols = found.get("symbols")
        named = sorted(
            [(-abs(_number(one.get("score"))), name) for name, one in symbols.items() if isinstance(one, dict)]
            if isinstance(symbols, dict)
            else []
        )
        fields = {}
        if spam and self.settings.header:
            fields[self.settings.header] = "Yes"
        if self.settings.result_header:
            names = ", ".join(f"{name:.60}" for _, name in named[:MAX_SYMBOLS])
            fields[self.settings.result_header] = f"{told}; {names}" if names else told
        return Mark(fields, note=told)


def _number(value: object) -> float:
    """A score; what is none is 0."""
    return float(value) if isinstance(value, int | float) and abs(value) < 1e6 else 0.0


@hookimpl
def responder_checks() -> dict[str, type[Check]]:
    return {"rspamd": Rspamd}

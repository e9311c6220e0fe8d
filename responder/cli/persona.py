"""A dialect from a language model: what is asked of an OpenAI-compatible chat endpoint, and what of the answer is believed.

The answer is another program's, and may be anything. It is bounded in time and size, JSON is looked for in it, and each entry
stands for itself: what is no valid text, key or capability is left out with a note.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, replace
from typing import Any

import httpx

from responder.inbound.dialects.dialect import CATALOGUE, EVERYWHERE, OWN, Dialect
from responder.inbound.dialects.files import DialectError, DialectFile, parse, unfolded

MAX_ANSWER = 1 << 20  # octets of the endpoint's answer
MAX_NOTES = 20
MAX_ENTRIES = 1000
TRIES = 50  # braces at which JSON may begin


class EndpointError(Exception):
    """The endpoint gave no answer: one line."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where the model is. `key` is sent as a bearer token, where there is one; `timeout` (seconds) is for all of it."""

    url: str
    model: str
    key: str
    timeout: float


def ask(endpoint: Endpoint, technology: str, base: Dialect) -> tuple[Dialect | None, list[str]]:
    """The dialect that the model wrote, on top of `base`, and what was wrong. None: nothing of it could be used."""
    try:
        text = asyncio.run(_converse(endpoint, technology))
    except EndpointError as error:
        return None, [str(error)]
    table = find_table(text)
    if table is None:
        return None, ["the answer holds no JSON object"]
    return take(table, technology, base)


def take(table: dict[str, Any], technology: str, base: Dialect) -> tuple[Dialect | None, list[str]]:
    """What of a table is valid, on top of `base`. None: nothing is."""
    notes: list[str] = []
    given = unfolded(table)
    replies = given.get("replies", {})
    texts: dict[str, str] = {}
    for key, text in list(replies.items())[:MAX_ENTRIES] if isinstance(replies, dict) else ():
        try:
            texts.update(parse({"replies": {key: text}}, "", "").texts)
        except DialectError as error:
            notes.append(f"left out: {error.reason[:200]}")
    settings = {}
    for key in DialectFile.model_fields:
        if key in given and key != "replies":
            try:
                settings[key] = getattr(parse({key: given[key]}, "", ""), key)
            except DialectError as error:
                notes.append(f"left out: {key}: {error.reason[:200]}")
    if len(notes) > MAX_NOTES:
        notes = [*notes[:MAX_NOTES], f"and {len(notes) - MAX_NOTES} more"]
    if not texts:
        return None, [*notes, "the answer holds no reply that could be used"]
    about = settings.pop("about", "") or technology if technology.isascii() else ""
    return replace(base, name="", texts={**base.texts, **texts}, about=about, **settings), notes


def find_table(text: str) -> dict[str, Any] | None:
    """The first JSON object in a text that may have words and fences around it."""
    decoder = json.JSONDecoder()
    at = text.find("{")
    for _ in range(TRIES):
        if at < 0:
            return None
        try:
            found, _ = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            at = text.find("{", at + 1)
            continue
        return found if isinstance(found, dict) else None
    return None


async def _converse(endpoint: Endpoint, technology: str) -> str:
    body: dict[str, Any] = {
        "model": endpoint.model,
        "temperature": 0,
        "messages": [
            {"role": "system", "content": instructions()},
            {"role": "user", "content": f"The server software is: {json.dumps(technology)}"},
        ],
    }
    try:
        async with asyncio.timeout(endpoint.timeout):
            headers = {"Authorization": f"Bearer {endpoint.key}"} if endpoint.key else {}
            async with httpx.AsyncClient(headers=headers, timeout=None) as client:  # noqa: S113 - it is timed as a whole
                url = f"{endpoint.url.rstrip('/')}/chat/completions"
                status, answer = await _post(client, url, {**body, "response_format": {"type": "json_object"}})
                if status in (400, 404, 415, 422):  # not every server knows that field
                    status, answer = await _post(client, url, body)
    except TimeoutError:
        raise EndpointError(f"the endpoint gave no answer in {endpoint.timeout:g} seconds") from None
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:  # ValueError: a key that is no header
        raise EndpointError(f"the endpoint can't be asked: {type(error).__name__}") from None
    if status != 200:
        raise EndpointError(f"the endpoint answered {status}")
    try:
        content = json.loads(answer)["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError, RecursionError):
        raise EndpointError("the endpoint's answer is no chat completion") from None
    if not isinstance(content, str):
        raise EndpointError("the endpoint's answer is no chat completion")
    return content


async def _post(client: httpx.AsyncClient, url: str, body: dict[str, Any]) -> tuple[int, bytes]:
    async with client.stream("POST", url, json=body) as response:
        answer = bytearray()
        async for piece in response.aiter_bytes(65536):
            answer += piece
            if len(answer) > MAX_ANSWER:
                raise EndpointError(f"the endpoint's answer is larger than {MAX_ANSWER} octets")
        return response.status_code, bytes(answer)


def instructions() -> str:
    """What the model is told."""
    known = "\n".join([f"{name}: {reply.code} {reply.text}" for name, reply in CATALOGUE.items() if reply.code != 334])
    own = "; ".join([f"{name}: {', '.join(sorted(places))}" for name, places in OWN.items() if places])
    return f"""You write dialect files: the exact words that an SMTP server software uses in its replies, as its sources or
sessions show them. Answer with one JSON object and nothing else, valid by this JSON schema:
{json.dumps(DialectFile.model_json_schema())}
The replies, each with its code and the words that our own server uses:
{known}
Rules: a text never has the reply's code, nor a line end but \\n between the lines of one reply; printable ASCII only. A text may
begin with the enhanced status code that the software uses. Placeholders in braces are filled in: {", ".join(sorted(EVERYWHERE))};
and in one reply only: {own}. The texts of greeting and hello begin with {{hostname}}, that of queued has {{id}}. Leave out a
reply that the software does not have."""

"""HTTPS to a host that a stranger's domain names: policies are fetched, and reports handed over.

The address is looked up and judged by us, and that address is connected, by no other name than the one that its certificate has
to bear: so nobody can send us to a service of our own network. No redirect is followed (RFC 8461 3.3), no proxy or cookie used.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, Final

from responder.aside import aside
from responder.dns import LookupFailedError, Resolver
from responder.mail.headers import clean
from responder.mail.status import Failure
from responder.outbound.tls.contexts import classify, web_context
from responder.outbound.tls.security import Insecure

LIMIT: Final = 10.0  # seconds for all of it; RFC 8461 3.3 has a minute, for which a mail should not wait
MAX_BODY: Final = 1 << 16  # octets of a policy (RFC 8461 3.3)
MAX_ADDRESSES: Final = 3
FETCH: Final = "sts-policy-fetch-error"
WEBPKI: Final = "sts-webpki-invalid"


class HTTPSError(Exception):
    """It came to nothing; `why` in the terms of a report (RFC 8460 4.3)."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.why = Insecure(kind, text)


@dataclass(frozen=True, slots=True)
class Web:
    """How strangers' web servers are reached. `refusal`: why an address and port must not be connected, None where they may."""

    resolver: Resolver
    refusal: Callable[[str, int], Failure | None]
    authorities: str = ""
    port: int = 443
    limit: float = LIMIT

    async def fetch(self, host: str, path: str) -> bytes:
        """The body of a text file. Raises `HTTPSError`."""
        return await self._ask("GET", host, path, b"", {"Accept": "text/plain"})

    async def post(self, host: str, path: str, body: bytes, content_type: str) -> None:
        """Hand over a report (RFC 8460 5.4). Raises `HTTPSError`."""
        await self._ask("POST", host, path, body, {"Content-Type": content_type})

    async def _ask(self, method: str, host: str, path: str, body: bytes, headers: Mapping[str, str]) -> bytes:
        try:
            async with asyncio.timeout(self.limit):
                return await self._at_its_addresses(method, host, path, body, headers)
        except TimeoutError:
            raise HTTPSError(FETCH, f"{host}: not done within {self.limit:g} s") from None

    async def _at_its_addresses(
        self, method: str, host: str, path: str, body: bytes, headers: Mapping[str, str]
    ) -> bytes:
        try:
            addresses = await self.resolver.addresses(host)
        except LookupFailedError as error:
            raise HTTPSError(FETCH, str(error)) from None
        failed = HTTPSError(FETCH, f"{host}: no address")
        for address in addresses[:MAX_ADDRESSES]:
            refused = self.refusal(address, self.port)
            if refused is not None:
                failed = HTTPSError(FETCH, f"{host}: {refused.text}")
                continue
            try:
                return await self._at(address, method, host, path, body, headers)
            except _UnreachableError as error:
                failed = HTTPSError(FETCH, f"{host}: {error}")
        raise failed

    async def _at(
        self, address: str, method: str, host: str, path: str, body: bytes, headers: Mapping[str, str]
    ) -> bytes:
        try:
            httpx, context = await aside(_prepare, self.authorities)
        except OSError as error:
            raise HTTPSError(FETCH, f"authorities: {error.strerror or error}") from None
        place = f"[{address}]" if ip_address(address).version == 6 else address
        async with httpx.AsyncClient(verify=context, trust_env=False, timeout=self.limit) as client:
            # The address is dialled; the name goes into request and handshake, where the certificate has to bear it.
            request = client.build_request(
                method,
                f"https://{place}:{self.port}{path}",
                content=body or None,
                headers={"Host": host, "Accept-Encoding": "identity", "User-Agent": "responder", **headers},
                extensions={"sni_hostname": host},
            )
            try:
                response = await client.send(request, stream=True, follow_redirects=False)
                try:
                    return await _body(response, host, text=method == "GET")
                finally:
                    await response.aclose()
            except httpx.ConnectError as error:
                cause = _tls_error(error)
                if cause is None:
                    raise _UnreachableError(clean(str(error)) or "can't be connected") from None
                raise HTTPSError(WEBPKI, f"{host}: {classify(cause).text}") from None
            except httpx.HTTPError as error:
                raise HTTPSError(FETCH, f"{host}: {clean(str(error))[:200] or type(error).__name__}") from None


class _UnreachableError(Exception):
    """Nobody answers at this address."""


async def _body(response: Any, host: str, *, text: bool) -> bytes:
    """What came, when it is what was asked for. Raises `HTTPSError`."""
    status = int(response.status_code)
    if not (status == 200 if text else 200 <= status < 300):
        raise HTTPSError(FETCH, f"{host}: HTTP status {status}")  # 3xx too (RFC 8461 3.3)
    if not text:
        return b""
    kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "text/plain":  # RFC 8461 3.2: else it may be what a user of that server has put there
        raise HTTPSError(FETCH, f"{host}: {clean(kind)[:60] or 'no media type'} in place of text/plain")
    body = b""
    async for piece in response.aiter_raw():  # as it came: nothing is unpacked
        body += piece
        if len(body) > MAX_BODY:
            raise HTTPSError(FETCH, f"{host}: more than {MAX_BODY} octets")
    return body


def _tls_error(error: BaseException) -> Exception | None:
    """The handshake's own error behind the library's."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, ssl.SSLError):
            return seen
        seen = seen.__cause__ or seen.__context__
    return None


def _prepare(authorities: str) -> tuple[Any, ssl.SSLContext]:
    """The library, and whom to trust. It takes 0.1 s the first time, hence in a thread. Raises `OSError`."""
    import httpx

    return httpx, web_context(authorities)

"""Who is on a mailing list: members in the inbox's state, one key each, and the signed links by which they leave.

Not a plugin of its own: `list.py` uses it.
"""

import asyncio
import base64
import hmac
import re
from collections.abc import Iterable

from responder import Context

DAY = 86400.0
TOGETHER = 500  # members that are put on the list at a time
MAX_ADDRESS = 254  # octets, RFC 5321 4.5.3.1.3

_ID = 10  # characters: 50 bits tell members apart
_MAC = 16  # characters: 80 bits, RFC 2104 5
TOKEN = _ID + _MAC
_TOKEN = re.compile(rf"[a-z2-7]{{{TOKEN}}}")
# A dot-atom, no quotes: what the world's mailboxes look like. UTF-8 is welcome (RFC 6531).
_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~\-\u00a1-\U0010ffff]+"
_ADDRESS = re.compile(rf"{_ATOM}(?:\.{_ATOM})*@[A-Za-z0-9\u00a1-\U0010ffff-]+(?:\.[A-Za-z0-9\u00a1-\U0010ffff-]+)*")


def is_address(text: str) -> bool:
    """Whether a text is an address that a list may send to."""
    return len(text.encode("utf-8", "replace")) <= MAX_ADDRESS and _ADDRESS.fullmatch(text) is not None


def key_of(address: str) -> str:
    """What two spellings of an address share. Outside of ASCII there is one only: `strauß` and `strauss` are two people."""
    return address.lower() if address.isascii() else address


def mailbox(address: str) -> str:
    """The key of an address without its `+tag`."""
    local, _, domain = key_of(address).rpartition("@")
    return f"{local.partition('+')[0]}@{domain}"


class Members:
    """The members of one list. What it notes within `Agent.answer` is stored along with the answer."""

    def __init__(self, context: Context, secret: str, signing: str) -> None:
        """`secret` names members in links and must stay the same; a new `signing` makes the links of old mails void."""
        self._state = context.state
        self._inbox = context.inbox
        self._now = context.clock.now
        self._secret = secret.encode()
        self._signing = signing.encode()

    async def all(self) -> dict[str, str]:
        """Every member's address by its key, in order."""
        found = await self._state.items("member/")
        return {key.removeprefix("member/"): member["address"] for key, member in found.items()}

    async def has(self, address: str) -> bool:
        return await self._state.get(f"member/{key_of(address)}") is not None

    async def add(self, address: str) -> bool:
        """Make an address a member. Whether it is a new one."""
        key = key_of(address)
        await self._state.set(f"link/{self._identifier(key)}", key)  # first: no member without a way out
        return await self._state.add(f"member/{key}", {"address": address, "since": int(self._now())})

    async def remove(self, address: str) -> bool:
        """Whether the address was a member. Its links are void from now on."""
        key = key_of(address)
        if not await self.has(key):
            return False
        identifier = self._identifier(key)
        await self._state.delete(f"member/{key}")
        await self._state.delete(f"link/{identifier}")
        for bounce in await self._state.items(f"bounce/{identifier}/"):
            await self._state.delete(bounce)
        return True

    async def seed(self, addresses: Iterable[str]) -> None:
        """Add those who were never added in this way before: who has left stays away. For `Agent.start`."""
        known = await self._state.items("seeded/")
        new = [address for address in addresses if f"seeded/{key_of(address)}" not in known]
        for at in range(0, len(new), TOGETHER):  # what waits together is stored in one transaction
            await asyncio.gather(*[self._seed(address) for address in new[at : at + TOGETHER]])

    async def _seed(self, address: str) -> None:
        await self.add(address)  # first: who dies in between has a member once more, not one less
        await self._state.set(f"seeded/{key_of(address)}", True)

    async def bounced(self, address: str, days: float) -> int:
        """Note that a mail to a member came back today; on how many of the last `days` days some did. 0 for who is no member."""
        if not await self.has(address):
            return 0
        prefix = f"bounce/{self._identifier(key_of(address))}/"
        await self._state.add(f"{prefix}{int(self._now() // DAY)}", 1, expires=days * DAY)
        return len(await self._state.items(prefix))

    def token(self, address: str) -> str:
        """The text that takes a member off the list, whoever shows it: 26 characters `[a-z2-7]`. The same at each call, and it
        says nothing of the address."""
        identifier = self._identifier(key_of(address))
        return identifier + self._mac(self._signing, "leave", identifier)[:_MAC]

    def is_token(self, token: str) -> bool:
        """Whether we made that token, in constant time and without a look at the state."""
        token = token.lower()
        if not token.isascii() or not _TOKEN.fullmatch(token):
            return False
        return hmac.compare_digest(token[_ID:], self._mac(self._signing, "leave", token[:_ID])[:_MAC])

    async def redeem(self, token: str) -> bool:
        """Take off the list whom a valid token was made for. Whether that was a member still."""
        key = await self._state.get(f"link/{token.lower()[:_ID]}") if self.is_token(token) else None
        return await self.remove(key) if key is not None else False

    def _identifier(self, key: str) -> str:
        """An address's name in links and keys; only the holder of the secret can tell whose it is."""
        return self._mac(self._secret, "member", key)[:_ID]

    def _mac(self, secret: bytes, purpose: str, text: str) -> str:
        signed = f"{purpose}\0{self._inbox}\0{text}".encode()
        return base64.b32encode(hmac.digest(secret, signed, "sha256")).decode().lower()

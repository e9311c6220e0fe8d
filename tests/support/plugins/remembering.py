"""Agents that remember, each by what its setting says: for tests of state, of replies that say more, and of what is passed on."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from pydantic import BaseModel

from responder import Agent, Context, Distribute, GiveUp, HandOver, Mail, Reply, TryLater, agent, hookimpl

STARTED: list[str] = []
STOPPED: list[str] = []
BOUNCES: list[tuple[str, bool]] = []


async def count(self: "Remembering", mail: Mail) -> Any:
    return f"number {await self.context.state.increment('n')}"


async def read_slowly(self: "Remembering", mail: Mail) -> Any:
    number = await self.context.state.get("n", 0)
    await asyncio.sleep(0)  # others read the same number meanwhile
    await self.context.state.set("n", number + 1)
    return f"number {number + 1}"


async def first_only(self: "Remembering", mail: Mail) -> Any:
    return "first" if await self.context.state.add("seen", mail.id, expires=60) else "again"


async def write_and_fail(self: "Remembering", mail: Mail) -> Any:
    await self.context.state.set("left", "behind")
    assert await self.context.state.get("left") == "behind"  # its own write is seen
    raise ValueError("it broke")


async def write_and_wait(self: "Remembering", mail: Mail) -> Any:
    tries = await self.context.state.increment("tries")
    if tries < 3:
        raise TryLater(10)
    return f"after {tries} tries"


async def write_badly(self: "Remembering", mail: Mail) -> Any:
    await self.context.state.set("bad", mail)
    return "stored"


async def delete(self: "Remembering", mail: Mail) -> Any:
    await self.context.state.set("a:1", 1)
    await self.context.state.set("a:2", {"x": [1, None, "é"]})
    await self.context.state.set("b", 1)
    await self.context.state.delete("a:1")
    await self.context.state.delete("never")
    return repr(await self.context.state.items("a:"))


async def give_up(self: "Remembering", mail: Mail) -> Any:
    raise GiveUp("nobody can do that")


async def hand_over(self: "Remembering", mail: Mail) -> Any:
    return HandOver()


async def distribute(self: "Remembering", mail: Mail) -> Any:
    to = self.settings.to or ["one@far.example", "two@far.example"]
    return Distribute(to=to, name="News", one_click={"Two@far.example": "https://lists.example/u?t=2"})


async def reply(self: "Remembering", mail: Mail) -> Any:
    return Reply(text="so", **self.settings.reply)


ACTS: dict[str, Callable[["Remembering", Mail], Awaitable[Any]]] = {
    act.__name__.replace("_", "-"): act
    for act in (
        count,
        read_slowly,
        first_only,
        write_and_fail,
        write_and_wait,
        write_badly,
        delete,
        give_up,
        hand_over,
        distribute,
        reply,
    )
}


class Remembering(Agent):
    """Does what its setting says."""

    class Settings(BaseModel):
        does: str = "count"
        to: list[str] = []
        reply: dict[str, Any] = {}
        addresses: list[str] = []

    def __init__(self, settings: Any) -> None:
        super().__init__(settings)
        self.addresses = settings.addresses

    async def start(self) -> None:
        STARTED.append(self.context.inbox)
        await self.context.state.set("started", True)

    async def stop(self) -> None:
        STOPPED.append(self.context.inbox)

    async def answer(self, mail: Mail) -> Any:
        return await ACTS[self.settings.does](self, mail)

    async def bounced(self, bounce: Any) -> None:
        BOUNCES.append((bounce.recipient, bounce.permanent))
        await self.context.state.increment(f"bounces {bounce.recipient}")


class Personal(Remembering):
    """The same for a person."""

    kind = "personal"


class Reader(Remembering):
    """The same for automatic mail, too."""

    reads_automatic_mail = True


@agent("blocking-count")
def blocking_count(mail: Mail, context: Context) -> str:
    """Counts in a thread."""
    return f"number {context.blocking.state.increment('n')}"


@hookimpl
def responder_agents() -> dict[str, Any]:
    return {"remembering": Remembering, "remembering-person": Personal, "remembering-reader": Reader}

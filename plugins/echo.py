"""Sends the text back."""

from pydantic import BaseModel, ConfigDict

from responder import Agent, Mail, Reply, hookimpl

MAX_TEXT = 250_000  # characters that are sent back; as many of a reply are looked at


class Echo(Agent):
    """Sends the text back."""

    class Settings(BaseModel):
        model_config = ConfigDict(extra="forbid")

        prefix: str = "You wrote:"

    async def answer(self, mail: Mail) -> Reply:
        # The new text only: two people who write through an echo must not see their whole correspondence grow each time.
        text = mail.reply_text or mail.text
        if len(text) > MAX_TEXT:
            text = f"{text[:MAX_TEXT]}\n[...]"
        return Reply(text=f"{self.settings.prefix}\n\n{text}")


@hookimpl
def responder_agents() -> dict[str, type[Agent]]:
    return {"echo": Echo}

"""What an agent may be and return, and what it gets (CONTRACT: Plugin API)."""

from __future__ import annotations

import asyncio
import threading

import pytest

from responder import Agent, Attachment, Forward, Mail, Reply, agent
from responder.agents.host import MAX_ANSWER, AgentError, Host, build
from responder.agents.load import PluginError
from tests.support.agents import Plugins, inbox, loaded, mail, returning

# -- what an agent may be -------------------------------------------------------------------------------------------------


async def test_class_agent_when_run_then_it_has_its_validated_settings(plugins: Plugins, host: Host) -> None:
    plugins.write(
        "own/greet.py",
        '''
        from pydantic import BaseModel

        class Greet(Agent):
            """Greets. And more."""

            kind = "personal"
            interval = 3600

            class Settings(BaseModel):
                word: str = "Hello"
                times: int = 1

            async def answer(self, mail: Mail) -> Reply:
                return Reply(text=f"{self.settings.word} {mail.from_}! " * self.settings.times)

        @hookimpl
        def responder_agents():
            return {"greet": Greet}
        ''',
    )
    agents = plugins.load()
    found = agents["greet"]
    assert (found.kind, found.interval, found.summary) == ("personal", 3600, "Greets. And more.")
    assert found.origin == str(plugins.folder / "own" / "greet.py")
    answer = await host.run(loaded(agents, "greet", word="Salü", times=2), mail())
    assert isinstance(answer, Reply)
    assert answer.text == "Salü ann@client.example! Salü ann@client.example! "
    with pytest.raises(PluginError, match=r"^inboxes\.x\.settings\.times: Input should be a valid integer"):
        build("x", agents, "greet", {"times": "many"})
    with pytest.raises(PluginError, match=r'^inboxes\.x\.agent: there is no agent "greeet" \(there are: .*greet'):
        build("x", agents, "greeet", {})


async def test_functions_when_run_then_plain_ones_are_in_a_thread_and_async_ones_in_the_loop(
    plugins: Plugins, host: Host
) -> None:
    plugins.write(
        "own/two.py",
        """
        import threading

        @agent("plain")
        def plain(mail: Mail) -> str:
            return threading.current_thread().name

        @agent("async")
        async def other(mail: Mail) -> str:
            return threading.current_thread().name

        alias = plain
        """,
    )
    agents = plugins.load()
    told = [await host.run(loaded(agents, name), mail()) for name in ("plain", "async")]
    assert [answer.text for answer in told if isinstance(answer, Reply)] == [
        "responder-agent",
        threading.current_thread().name,
    ]
    with pytest.raises(PluginError, match=r"^inboxes\.x\.settings\.word: unknown key; known here: none$"):
        build("x", agents, "plain", {"word": "a"})


async def test_plain_function_when_it_blocks_then_the_loop_goes_on(host: Host) -> None:
    entered, go_on = threading.Event(), threading.Event()

    def slow(mail: Mail) -> str:
        entered.set()
        assert go_on.wait(10)
        return "done"

    run = asyncio.create_task(host.run(inbox(slow), mail()))
    async with asyncio.timeout(10):
        while not entered.is_set():
            await asyncio.sleep(0)  # the loop turns while the agent blocks
        assert await host.run(inbox(returning("quick")), mail()) == Reply(text="quick")
        assert not run.done()
        go_on.set()
        assert await run == Reply(text="done")


async def test_class_agent_when_its_answer_is_plain_then_it_runs_in_a_thread(host: Host) -> None:
    class Plain(Agent):
        def answer(self, mail: Mail) -> str:  # type: ignore[override]
            return threading.current_thread().name

    assert await host.run(inbox(Plain(None)), mail()) == Reply(text="responder-agent")


# -- what it may return ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("returned", "expected"),
    [
        (None, None),
        ("", None),
        (" \n", None),
        ("hello", Reply(text="hello")),
        (Reply(), None),
        (Reply(text="\n", html=" "), None),
        (Reply(html="<p>x</p>"), Reply(html="<p>x</p>")),
        (
            Reply(attachments=[Attachment("a", "text/plain", b"")]),
            Reply(attachments=[Attachment("a", "text/plain", b"")]),
        ),
        (Forward(), Forward()),
        (Forward(to=["a@b.example"], subject_prefix=""), Forward(to=["a@b.example"], subject_prefix="")),
    ],
    ids=repr,
)
async def test_answer_when_of_an_allowed_type_then_it_is_taken(host: Host, returned: object, expected: object) -> None:
    assert await host.run(inbox(returning(returned)), mail()) == expected


class Odd:
    name = content_type = "text/plain"
    data = "text, not octets"


BAD: dict[str, tuple[object, str]] = {
    "number": (5, "returned a int; allowed are Reply, Forward, HandOver, Distribute, str and None"),
    "bytes": (b"text", "returned a bytes"),
    "true": (True, "returned a bool"),
    "list": (["text"], "returned a list"),
    "class": (Reply, "returned a type"),
    "text no text": (Reply(text=5), "text in text or html"),  # type: ignore[arg-type]
    "html no text": (Reply(html=b"<p>"), "text in text or html"),  # type: ignore[arg-type]
    "text None": (Reply(text=None), "text in text or html"),  # type: ignore[arg-type]
    "subject": (Reply(text="x", subject=5), "in subject"),  # type: ignore[arg-type]
    "headers a list": (Reply(text="x", headers=[("a", "b")]), "in headers"),  # type: ignore[arg-type]
    "header value": (Reply(text="x", headers={"Organization": 5}), "in headers"),  # type: ignore[dict-item]
    "header name": (Reply(text="x", headers={5: "x"}), "in headers"),  # type: ignore[dict-item]
    "attachments None": (Reply(text="x", attachments=None), "in attachments"),  # type: ignore[arg-type]
    "attachments a dict": (Reply(text="x", attachments={}), "in attachments"),  # type: ignore[arg-type]
    "attachment a path": (Reply(text="x", attachments=["/etc/passwd"]), "in attachments"),  # type: ignore[list-item]
    "attachment data text": (Reply(text="x", attachments=[Odd()]), "in attachments"),  # type: ignore[list-item]
    "attachment name": (Reply(attachments=[Attachment(None, "a/b", b"")]), "in attachments"),  # type: ignore[arg-type]
    "too large": (Reply(text="x" * (MAX_ANSWER + 1)), "too large"),
    "too large in pieces": (Reply(attachments=[Attachment("a", "a/b", b"x" * (MAX_ANSWER // 2 + 1))] * 2), "too large"),
    "forward to text": (Forward(to="a@b.example"), "list of addresses in to"),
    "forward to numbers": (Forward(to=[5]), "list of addresses in to"),  # type: ignore[list-item]
    "forward prefix": (Forward(subject_prefix=5), "in subject_prefix"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("name", BAD)
async def test_answer_when_of_a_wrong_type_then_it_is_a_contained_error_that_names_it(host: Host, name: str) -> None:
    returned, reason = BAD[name]
    with pytest.raises(AgentError, match=reason):
        await host.run(inbox(returning(returned)), mail())


async def test_answer_when_it_holds_files_that_came_with_the_mail_then_they_are_taken(host: Host) -> None:
    raw = b"Content-Type: multipart/mixed; boundary=x\r\n\r\n--x\r\nContent-Type: a/b; name=f\r\n\r\n12\r\n--x--\r\n"

    async def back(mail: Mail) -> Reply:
        return Reply(text="back", attachments=mail.attachments)  # type: ignore[arg-type]

    answer = await host.run(inbox(back), mail(raw))
    assert isinstance(answer, Reply)
    assert [(file.name, file.data) for file in answer.attachments] == [("f", b"12")]


def test_mail_when_an_agent_gets_it_then_it_has_all_that_the_contract_names() -> None:
    raw = (
        b"From: Ann <ann@client.example>\r\nSubject: Re: Fwd: Hello\r\nMessage-ID: <3@c.example>\r\n"
        b"In-Reply-To: <2@c.example>\r\nReferences: <1@c.example> <2@c.example>\r\n"
        b"Date: Fri, 21 Nov 2025 01:02:03 +0100\r\n\r\nnew\r\n\r\nOn Monday Bob wrote:\r\n> old\r\n"
    )
    one = mail(raw)
    assert (one.id, one.inbox, one.tag, one.recipient) == ("0" * 18 + ".0", "x", "tag", "x+tag@test.example")
    assert (one.sender, one.from_, one.peer) == ("ann@client.example", "ann@client.example", "")
    assert (one.subject, one.base_subject) == ("Re: Fwd: Hello", "Hello")
    assert one.text.startswith("new") and "old" in one.text
    assert one.reply_text.strip() == "new"
    assert (one.html, one.attachments) == ("", [])
    assert one.headers.get("subject").strip() == "Re: Fwd: Hello"
    assert one.date is not None and one.date.isoformat() == "2025-11-21T01:02:03+01:00"
    assert (one.message_id, one.thread.key) == ("<3@c.example>", "<1@c.example>")
    assert (one.thread.in_reply_to, one.thread.references) == ("<2@c.example>", ("<1@c.example>", "<2@c.example>"))
    assert (one.authentication.spf, one.authentication.dkim, one.authentication.dmarc) == (None, None, None)
    assert one.raw == raw


@agent("here")
async def here(mail: Mail) -> str:
    return "here"


async def test_decorated_function_when_called_then_it_is_still_the_function() -> None:
    assert await here(mail()) == "here"

"""What a plugin author may rely on, and what no agent can do to the server (CONTRACT: Plugin API)."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import pytest_asyncio

from responder import Agent, Attachment, Forward, Mail, Reply, TryLater, agent
from responder.agents import host as host_module
from responder.agents import threads as threads_module
from responder.agents.base import MAX_DELAY
from responder.agents.host import MAX_ANSWER, AgentError, Host, Inbox, build
from responder.agents.load import AgentType, PluginError, load
from responder.mail.address import Address

RAW = b"From: Ann <ann@client.example>\r\nTo: x@test.example\r\nSubject: Hello\r\n\r\nHow are you?\r\n"

HEADER = "from responder import Agent, Attachment, Forward, Mail, Reply, TryLater, agent, hookimpl\n"


class Plugins:
    """Plugin files in folders of a test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, name: str, source: str) -> Path:
        """A file, `folder/name.py`; the usual imports stand in front unless the source begins with its own."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        source = dedent(source).lstrip("\n")
        path.write_text(source if source.startswith("from __future__") else HEADER + source)
        return path

    def load(self, *folders: str) -> dict[str, AgentType]:
        return load([self.folder / name for name in folders or ("own",)])


@pytest.fixture
def plugins(tmp_path: Path) -> Plugins:
    return Plugins(tmp_path)


@pytest_asyncio.fixture
async def host() -> AsyncIterator[Host]:
    host = Host(4)
    yield host
    host.close()


def mail(raw: bytes = RAW) -> Mail:
    return Mail(
        raw, id="0" * 18 + ".0", inbox="x", recipient=Address("x+tag", "test.example"), sender="ann@client.example"
    )


def inbox(thing: Any, timeout: float = 10.0) -> Inbox:
    """An inbox whose agent is that function, or that object with an `answer`."""
    kind = AgentType("x", "here", Agent.Settings, "service", 0.0, False, "", lambda _: thing)
    return Inbox("x", kind, thing, "service", 0.0, timeout)


def loaded(agents: dict[str, AgentType], name: str, **settings: Any) -> Inbox:
    kind, built = build("x", agents, name, settings)
    return Inbox("x", kind, built, kind.kind, kind.interval, 10.0)


def returning(value: object) -> Callable[[Mail], Any]:
    async def answer(mail: Mail) -> object:
        return value

    return answer


def raising(error: BaseException) -> Callable[[Mail], Any]:
    async def answer(mail: Mail) -> None:
        raise error

    return answer


def raising_in_thread(error: BaseException) -> Callable[[Mail], Any]:
    def answer(mail: Mail) -> None:
        raise error

    return answer


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
    "number": (5, "returned a int; allowed are Reply, Forward, str and None"),
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


# -- what it may raise ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [raising, raising_in_thread])
@pytest.mark.parametrize(
    ("seconds", "waited"), [(0, 0.0), (-5, 0.0), (90, 90.0), (float("inf"), MAX_DELAY), (10**300, MAX_DELAY)]
)
async def test_try_later_when_raised_then_its_time_is_kept_within_bounds(
    host: Host, make: Callable[[BaseException], Any], seconds: float, waited: float
) -> None:
    with pytest.raises(TryLater) as caught:
        await host.run(inbox(make(TryLater(seconds))), mail())
    assert caught.value.seconds == waited


class Lazy(TryLater):
    def __init__(self, seconds: Any) -> None:  # leaves out what TryLater does
        self.seconds = seconds


@pytest.mark.parametrize("seconds", ["soon", None, float("nan")])
async def test_try_later_when_its_time_is_none_then_it_is_a_contained_error(host: Host, seconds: Any) -> None:
    with pytest.raises(AgentError, match="names no time"):
        await host.run(inbox(raising(Lazy(seconds))), mail())
    with pytest.raises((ValueError, TypeError)):
        TryLater(seconds)


class MuteError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


ERRORS: dict[str, BaseException] = {
    "exception": ValueError("one\ntwo"),
    "of ours": AgentError("forged"),
    "mute": MuteError(),
    "group": ExceptionGroup("several", [ValueError(1), KeyError(2)]),
    "timeout of its own": TimeoutError("the backend"),
    "exit": SystemExit(0),
    "interrupt": KeyboardInterrupt(),
    "cancelled": asyncio.CancelledError(),
    "generator exit": GeneratorExit(),
    "stop": StopIteration(),
    "stop async": StopAsyncIteration(),
    "memory": MemoryError(),
    "base": BaseException("bare"),
}


@pytest.mark.parametrize("make", [raising, raising_in_thread])
@pytest.mark.parametrize("name", ERRORS)
async def test_agent_when_it_raises_anything_then_it_is_contained_and_described(
    host: Host, name: str, make: Callable[[BaseException], Any]
) -> None:
    async with asyncio.timeout(5):
        with pytest.raises(AgentError) as caught:
            await host.run(inbox(make(ERRORS[name])), mail())
    assert caught.value.reason.startswith("the agent raised ")
    assert "\n" not in caught.value.reason
    assert "took longer" not in caught.value.reason
    assert "Traceback" in caught.value.detail and "test_agents.py" in caught.value.detail
    # and the next mail is answered
    assert await host.run(inbox(returning("next")), mail()) == Reply(text="next")


async def test_agent_when_it_cancels_its_own_task_then_it_is_contained(host: Host) -> None:
    async def suicidal(mail: Mail) -> str:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        return "unheard"

    with pytest.raises(AgentError, match="cancelled its own task"):
        await host.run(inbox(suicidal), mail())


# -- its time -------------------------------------------------------------------------------------------------------------


async def test_async_agent_when_it_hangs_then_it_is_ended_and_where_it_hung_is_told(host: Host) -> None:
    cleaned = []

    async def hangs(mail: Mail) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cleaned.append(True)

    with pytest.raises(AgentError, match=r"^the agent took longer than 0\.05 s$") as caught:
        await host.run(inbox(hangs, timeout=0.05), mail())
    assert cleaned == [True]
    assert "in hangs" in caught.value.detail
    assert host.stuck == 0


async def test_async_agent_when_it_will_not_be_cancelled_then_it_is_left_behind(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host_module, "GRACE", 0.05)
    go_on = asyncio.Event()

    async def stubborn(mail: Mail) -> None:
        while not go_on.is_set():
            try:
                await go_on.wait()
            except asyncio.CancelledError:
                continue

    with pytest.raises(AgentError, match="took longer than"):
        await host.run(inbox(stubborn, timeout=0.05), mail())
    assert host.stuck == 1
    assert await host.run(inbox(returning("next")), mail()) == Reply(text="next")
    go_on.set()
    async with asyncio.timeout(5):
        while host.stuck:
            await asyncio.sleep(0)


async def test_plain_agents_when_they_hang_then_others_still_run_and_the_threads_are_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(host_module, "SPARE", 3)
    host = Host(2)
    go_on = threading.Event()

    def hangs(mail: Mail) -> None:
        go_on.wait(30)

    for number in range(5):
        with pytest.raises(AgentError, match="took longer than"):
            await host.run(inbox(hangs, timeout=0.01), mail())
        assert host.stuck == number + 1
        if number < 4:
            assert await host.run(inbox(lambda mail: "plain"), mail()) == Reply(text="plain")
    with pytest.raises(AgentError, match="all 5 threads for agents are taken"):
        await host.run(inbox(lambda mail: "plain"), mail())
    assert await host.run(inbox(returning("async")), mail()) == Reply(text="async")
    go_on.set()
    async with asyncio.timeout(5):
        while host.stuck:
            await asyncio.sleep(0)
    assert await host.run(inbox(lambda mail: "plain"), mail()) == Reply(text="plain")
    host.close()


async def test_threads_when_an_agent_hangs_then_the_interpreter_does_not_wait_for_it(host: Host) -> None:
    go_on = threading.Event()
    run = host.run(inbox(lambda mail: go_on.wait(30), timeout=0.01), mail())
    with pytest.raises(AgentError):
        await run
    mine = [thread for thread in threading.enumerate() if thread.name == "responder-agent"]
    assert mine and all(thread.daemon for thread in mine)
    go_on.set()


async def test_threads_when_runs_follow_each_other_then_one_is_used_again() -> None:
    threads = threads_module.Threads(100)
    names = {(await threads.run(threading.get_ident))[0] for _ in range(20)}
    assert len(names) == 1
    threads.close()
    async with asyncio.timeout(5):
        while names & {thread.ident for thread in threading.enumerate()}:
            await asyncio.sleep(0.001)


async def test_run_when_it_is_cancelled_itself_then_the_agent_is_too(host: Host) -> None:
    """A server that drains cancels what does not end in time."""
    ended = asyncio.Event()

    async def hangs(mail: Mail) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    run = asyncio.create_task(host.run(inbox(hangs), mail()))
    await asyncio.sleep(0.01)
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    async with asyncio.timeout(5):
        await ended.wait()


# -- where plugins come from ----------------------------------------------------------------------------------------------

ONE = """
    @agent({name!r})
    def f(mail):
        return {text!r}
"""


def test_folder_when_read_then_helpers_and_tests_are_no_plugins(plugins: Plugins) -> None:
    plugins.write("own/b.py", ONE.format(name="b", text="b"))
    plugins.write("own/a-dash.py", ONE.format(name="a", text="a"))
    for name in ("_helper.py", "__init__.py", "test_b.py", "conftest.py", ".hidden.py", "notes.txt", "sub/c.py"):
        plugins.write(f"own/{name}", "raise RuntimeError('read')")
    assert list(plugins.load()) == ["a", "b"]


def test_folders_when_two_hold_one_file_name_then_that_is_a_mistake(plugins: Plugins) -> None:
    plugins.write("one/same.py", ONE.format(name="a", text="a"))
    plugins.write("two/same.py", ONE.format(name="b", text="b"))
    with pytest.raises(PluginError, match=r"two/same\.py: there is already a plugin .*one/same\.py"):
        plugins.load("one", "two")
    assert list(plugins.load("one", "one")) == ["a"]


def test_load_when_done_then_no_byte_code_is_left(plugins: Plugins, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    plugins.write("own/_shared.py", "VALUE = 1")
    plugins.write("own/a.py", "from ._shared import VALUE\n" + dedent(ONE.format(name="a", text="a")))
    plugins.load()
    assert sorted(os.listdir(plugins.folder / "own")) == ["_shared.py", "a.py"]


async def test_load_when_done_again_then_new_code_is_seen_within_the_same_second(
    plugins: Plugins, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    plugins.write("own/_shared.py", "VALUE = 'old 1'")
    source = "from ._shared import VALUE\n@agent('a')\ndef f(mail):\n    return {0!r} + VALUE\n"
    path = plugins.write("own/a.py", source.format("old "))
    before = loaded(plugins.load(), "a")
    stat = path.stat()
    plugins.write("own/_shared.py", "VALUE = 'new 1'")
    plugins.write("own/a.py", source.format("new "))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # as a fast editor would leave it
    after = loaded(plugins.load(), "a")
    assert await host.run(before, mail()) == Reply(text="old old 1")
    assert await host.run(after, mail()) == Reply(text="new new 1")


def test_load_when_it_fails_then_the_modules_of_before_stay(plugins: Plugins) -> None:
    path = plugins.write("own/a.py", ONE.format(name="a", text="a"))
    module = sys.modules[plugins.load()["a"].build(Agent.Settings()).__module__]
    path.write_text("raise SystemExit")
    with pytest.raises(PluginError, match="SystemExit"):
        plugins.load()
    assert sys.modules[module.__name__] is module


async def test_plugins_when_their_helpers_share_a_name_then_each_gets_its_own(plugins: Plugins, host: Host) -> None:
    for name in ("one", "two"):
        plugins.write(f"{name}/_helper.py", f"WORD = {name!r}")
        plugins.write(f"{name}/util/__init__.py", f"OTHER = {name!r}")
        plugins.write(
            f"{name}/agent_{name}.py",
            f"""
            from . import _helper
            from .util import OTHER

            @agent({name!r})
            def f(mail):
                from ._helper import WORD  # at run time, too
                return f"{{WORD}} {{_helper.WORD}} {{OTHER}}"
            """,
        )
    agents = plugins.load("one", "two")
    assert await host.run(loaded(agents, "one"), mail()) == Reply(text="one one one")
    assert await host.run(loaded(agents, "two"), mail()) == Reply(text="two two two")
    assert "_helper" not in sys.modules and "util" not in sys.modules


async def test_plugin_when_it_defines_models_then_their_annotations_resolve(plugins: Plugins, host: Host) -> None:
    plugins.write(
        "own/typed.py",
        """
        from __future__ import annotations

        import pickle
        from dataclasses import KW_ONLY, dataclass, field, fields
        from typing import ClassVar, Literal, Optional, get_type_hints

        from pydantic import BaseModel

        from responder import Agent, Mail, Reply, hookimpl

        class Inner(BaseModel):
            next: Optional[Inner] = None
            mode: Literal["a", "b"] = "a"

        @dataclass
        class Note:
            kind: ClassVar[int] = 1
            _: KW_ONLY
            inner: Inner = field(default_factory=Inner)

        class Typed(Agent):
            class Settings(BaseModel):
                inner: Inner = Inner()
                notes: list[Note] = []

            async def answer(self, mail: Mail) -> Reply | None:
                hints = get_type_hints(Note)
                same = pickle.loads(pickle.dumps(Note())) == Note()
                return Reply(text=f"{self.settings.inner.next.mode} {hints['inner'] is Inner} {same} {len(fields(Note))}")

        @hookimpl
        def responder_agents() -> dict[str, type[Agent]]:
            return {"typed": Typed}
        """,
    )
    agents = plugins.load()
    assert await host.run(loaded(agents, "typed", inner={"next": {"mode": "b"}}), mail()) == Reply(text="b True True 1")
    with pytest.raises(PluginError, match=r"^inboxes\.x\.settings\.inner\.next\.mode: Input should be 'a' or 'b'$"):
        build("x", agents, "typed", {"inner": {"next": {"mode": "c"}}})
    json.dumps(agents["typed"].settings.model_json_schema())


DIST = """Metadata-Version: 2.1
Name: shelf
Version: 1.0
"""


async def test_installed_package_when_it_has_an_entry_point_then_it_is_a_plugin_and_a_file_takes_its_place(
    plugins: Plugins, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = plugins.folder / "site"
    plugins.write("site/shelf_for_tests/shelf.py", ONE.format(name="shelf", text="installed"))
    (site / "shelf_for_tests" / "__init__.py").touch()
    info = site / "shelf-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(DIST)
    (info / "entry_points.txt").write_text("[responder]\nshelf = shelf_for_tests.shelf\nalso = shelf_for_tests.shelf\n")
    monkeypatch.syspath_prepend(str(site))
    try:
        (plugins.folder / "own").mkdir()
        agents = plugins.load()
        assert agents["shelf"].origin == "shelf_for_tests.shelf (shelf)"
        assert await host.run(loaded(agents, "shelf"), mail()) == Reply(text="installed")
        plugins.write("own/shelf.py", ONE.format(name="shelf", text="own"))
        agents = plugins.load()
        assert agents["shelf"].origin == str(plugins.folder / "own" / "shelf.py")
        assert await host.run(loaded(agents, "shelf"), mail()) == Reply(text="own")
        (plugins.folder / "own" / "shelf.py").rename(plugins.folder / "own" / "other.py")
        with pytest.raises(PluginError, match=r'the agent "shelf" is already there, from .*own/other\.py'):
            plugins.load()
    finally:
        for name in ("shelf_for_tests", "shelf_for_tests.shelf"):
            sys.modules.pop(name, None)


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

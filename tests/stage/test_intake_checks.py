"""Checks of operators at each step of a session: what they say is said, marks are made, and what fails is contained."""

from __future__ import annotations

import asyncio
import gc
import inspect
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from responder import Check, Client, Defer, Mail, Mark, Refuse
from responder.agents import guards as module
from responder.intake.checking import Checking
from responder.mail.lifecycle import State
from tests.support.guards import Given, Guarded, guarded, guards, started

MESSAGE = ("Subject: hello", "", "hello")


class Watching(Check):
    """Keeps what it is asked."""

    seen: list[tuple[Any, ...]]

    def __init__(self, settings: Any) -> None:
        super().__init__(settings)
        self.seen = []

    def note(self, step: str, client: Client, *said: Any) -> None:
        client.state["steps"] = [*client.state.get("steps", []), step]
        self.seen.append((step, client, *said))

    async def connect(self, client: Client) -> None:
        self.note("connect", client)

    async def helo(self, client: Client, name: str) -> None:
        self.note("helo", client, name)

    async def mail(self, client: Client, sender: str, parameters: Mapping[str, str | None]) -> None:
        self.note("mail", client, sender, dict(parameters))

    async def rcpt(self, client: Client, recipient: str) -> None:
        self.note("rcpt", client, recipient)

    async def data(self, client: Client, mail: Mail) -> None:
        self.note("data", client, mail)


def watching(it: Guarded) -> Watching:
    [guard] = it.guards
    assert isinstance(guard.check, Watching)
    return guard.check


def saying(step: str, found: Any, *, plain: bool = False) -> type[Check]:
    """A check that says the same at one step each time; an exception is raised."""

    async def method(self: Check, *said: Any) -> Any:
        if isinstance(found, BaseException):
            raise found
        return found

    def sync(self: Check, *said: Any) -> Any:
        if isinstance(found, BaseException):
            raise found
        return found

    return type("Saying", (Check,), {step: sync if plain else method})


async def test_check_when_asked_at_each_step_then_it_is_told_what_is_known_by_then(tmp_path: Path) -> None:
    async with guarded(tmp_path, {"w": Watching}) as it, it.talk() as talk:
        await talk.greeted()
        await talk.ask("MAIL FROM:<Ann@Example.org> SIZE=100 BODY=8BITMIME", "RCPT TO:<ECHO@test.example>")
        await talk.ask("RCPT TO:<bob@test.example>", "DATA")
        said = await talk.ask("\r\n".join([*MESSAGE, "."]))
        assert said.startswith("250 2.0.0 Queued as ")
        seen = watching(it).seen
    assert [one[0] for one in seen] == ["connect", "helo", "mail", "rcpt", "rcpt", "data"]
    connect, helo, mail, first, second, data = [one[1] for one in seen]
    assert (connect.peer, connect.helo, connect.sender, connect.recipients) == ("127.0.0.1", "", None, ())
    assert helo.helo == "client.example" and seen[1][2] == "client.example"
    assert (mail.protocol, mail.user, mail.tls) == ("ESMTP", "", "")
    assert (
        seen[2][2:] == ("Ann@example.org", {"SIZE": "100", "BODY": "8BITMIME"})
        or seen[2][2].lower() == "ann@example.org"
    )
    assert seen[3][2].lower() == "echo@test.example" and first.recipients == ()
    assert second.recipients == (seen[3][2],) and len(data.recipients) == 2
    letter = seen[5][2]
    assert (letter.subject, letter.inbox, letter.sender) == ("hello", "echo", data.sender)
    assert letter.id == said.rpartition(" ")[2] and letter.raw == b"Subject: hello\r\n\r\nhello\r\n"
    assert len({client.id for client in (connect, helo, mail, data)}) == 1
    assert data.state["steps"] == ["connect", "helo", "mail", "rcpt", "rcpt", "data"]


async def test_state_when_another_client_comes_then_it_is_its_own(tmp_path: Path) -> None:
    async with guarded(tmp_path, {"w": Watching}) as it:
        for _ in range(2):
            async with it.talk() as talk:
                await talk.greeted()
        assert [one[1].state["steps"] for one in watching(it).seen if one[0] == "helo"] == [["connect", "helo"]] * 2


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("found", [Refuse("No: you", 553, "5.7.7"), Defer("Later", 450, "4.2.0")])
@pytest.mark.parametrize("step", ["helo", "mail", "rcpt", "data"])
async def test_objection_when_made_then_it_is_said_and_nothing_is_stored(
    tmp_path: Path, step: str, found: Refuse | Defer, plain: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = f"{found.code} {found.enhanced} {found.text}"
    async with guarded(tmp_path, {"no": saying(step, found, plain=plain)}) as it, it.talk() as talk:
        assert (await talk.reply()).startswith("220 ")
        if step == "helo":
            assert await talk.ask("EHLO client.example") == expected
            assert await talk.ask("MAIL FROM:<a@example.org>") == "503 5.5.1 Say EHLO or HELO first"
        else:
            await talk.ask("EHLO client.example")
        if step == "mail":
            assert await talk.ask("MAIL FROM:<a@example.org>") == expected
            assert await talk.ask("RCPT TO:<echo@test.example>") == "503 5.5.1 Say MAIL first"
        if step == "rcpt":
            assert await talk.ask("MAIL FROM:<a@example.org>", "RCPT TO:<echo@test.example>") == expected
            assert await talk.ask("DATA") == "503 5.5.1 No recipient was accepted"
        if step == "data":
            assert await talk.mail(*MESSAGE) == expected
        assert await talk.ask("NOOP") == "250 2.0.0 Ok"
        assert await it.stored() == []


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (Refuse("Not you"), "554 5.7.1 Not you"),
        (Defer("Later", 450), "421 4.7.1 Later"),
        (OSError(), "421 4.3.0 Cannot do"),
    ],
)
async def test_objection_when_made_at_the_door_then_the_connection_ends(tmp_path: Path, found: Any, said: str) -> None:
    async with guarded(tmp_path, {"no": saying("connect", found)}) as it, it.talk() as talk:
        assert (await talk.reply()).startswith(said)
        assert await talk.reader.read() == b""


async def test_objection_when_it_is_421_then_the_connection_ends_but_not_behind_a_message(tmp_path: Path) -> None:
    async with guarded(tmp_path, {"no": saying("rcpt", Defer("Bye", 421))}) as it, it.talk() as talk:
        await talk.greeted()
        assert await talk.ask("MAIL FROM:<a@example.org>", "RCPT TO:<bob@test.example>") == "421 4.7.1 Bye"
        assert await talk.reader.read() == b""
    async with guarded(tmp_path / "2", {"no": saying("data", Defer("Bye", 421))}) as it, it.talk() as talk:
        await talk.greeted()
        assert await talk.mail(*MESSAGE) == "451 4.7.1 Bye"
        assert await talk.ask("NOOP") == "250 2.0.0 Ok"


async def test_checks_when_there_are_several_then_they_are_asked_in_order_and_the_first_objection_wins(
    tmp_path: Path,
) -> None:
    checks: dict[str, Given] = {
        "z-first": saying("data", Mark({"X-First": "1"})),
        "m-second": saying("data", Refuse("second")),
        "a-third": saying("data", Refuse("third")),
    }
    async with guarded(tmp_path, checks) as it, it.talk() as talk:
        await talk.greeted()
        assert await talk.mail(*MESSAGE) == "550 5.7.1 second"


async def test_recipient_when_there_is_no_such_inbox_then_no_check_is_asked(tmp_path: Path) -> None:
    async with guarded(tmp_path, {"w": Watching}) as it, it.talk() as talk:
        await talk.greeted()
        assert await talk.ask("MAIL FROM:<>", "RCPT TO:<nobody@test.example>") == "550 5.1.1 No such inbox here"
        assert await talk.ask("RCPT TO:<x@far.example>") == "550 5.7.1 We do not relay: this domain is not served here"
        assert [one[0] for one in watching(it).seen] == ["connect", "helo", "mail"]
        assert watching(it).seen[2][2] == ""  # the null reverse-path


# -- marks ----------------------------------------------------------------------------------------------------------------


async def test_marks_when_made_then_they_add_up_on_top_and_history_names_who_made_them(tmp_path: Path) -> None:
    checks: dict[str, Given] = {
        "one": saying("data", Mark({"X-One": "yes"}, note="score 7")),
        "two": saying("data", Mark({"X-Two": "näh"}), plain=True),
    }
    async with guarded(tmp_path, checks) as it, it.talk() as talk:
        await talk.greeted()
        said = await talk.mail(*MESSAGE)
        assert said.startswith("250 ")
        [content] = await it.stored()
        _, _, rest = content.partition(b"\r\nX-One: ")
        assert rest == b"yes\r\nX-Two: =?utf-8?b?bsOkaA==?=\r\nSubject: hello\r\n\r\nhello\r\n"
        assert content.startswith(b"Received: from client.example")
        history = await it.front.store.account(said.rpartition(" ")[2])
        assert "octets, one says score 7, two says X-Two: näh" in str(history)


@pytest.mark.parametrize(
    "forged",
    ["X-Spam: no", "x-SPAM : no", "X-Spam: no\r\n folded: here", "X-Spam:no\r\nX-Kept: 1\r\nX-SPAM:\r\n\tno"],
)
@pytest.mark.parametrize("marked", [True, False])
async def test_forged_mark_when_it_comes_in_then_it_is_removed_marked_or_not(
    tmp_path: Path, forged: str, marked: bool
) -> None:
    class Marking(Check):
        fields = ("X-Spam",)

        async def data(self, client: Client, mail: Mail) -> Mark | None:
            return Mark({"X-Spam": "Yes"}) if marked else None

    async with guarded(tmp_path, {"spam": Marking}) as it, it.talk() as talk:
        await talk.greeted()
        assert (await talk.mail(forged, "Subject: x", "", "X-Spam: in the body")).startswith("250 ")
        [content] = await it.stored()
    head, _, body = content.partition(b"\r\n\r\n")
    assert head.lower().count(b"x-spam") == int(marked) and (b"X-Spam: Yes\r\n" in head) == marked
    assert b"folded" not in head and b"Subject: x" in head
    assert body == b"X-Spam: in the body\r\n"


async def test_mark_of_a_header_that_a_check_does_not_own_when_made_then_forged_ones_go_too(tmp_path: Path) -> None:
    async with guarded(tmp_path, {"spam": saying("data", Mark({"X-Verdict": "ham"}))}) as it, it.talk() as talk:
        await talk.greeted()
        await talk.mail("x-verdict: spam", "Subject: x", "", "x")
        [content] = await it.stored()
        assert content.lower().count(b"x-verdict") == 1 and b"X-Verdict: ham\r\nSubject: x" in content


async def test_mark_when_made_then_the_gate_that_trusts_it_is_silent(tmp_path: Path) -> None:
    from responder.mail.address import Address, parse
    from responder.mail.automatic import Policy, judge
    from responder.mail.headers import Headers

    async with guarded(tmp_path, {"spam": saying("data", Mark({"X-Spam": "Yes"}))}) as it, it.talk() as talk:
        await talk.greeted()
        await talk.mail("From: a@example.org", "X-Spam: no", "Subject: x", "", "x")
        [content] = await it.stored()
    policy = Policy("mx.test.example", lambda address: False, spam_headers=("X-Spam",))
    to: Address = parse("echo@test.example")
    reason = judge(
        reverse_path="a@example.org", recipient=to, headers=Headers.parse(content), personal=False, policy=policy
    )
    assert reason is not None and reason.code == "spam"


# -- what goes wrong ------------------------------------------------------------------------------------------------------


class Stuck(Check):
    """Waits for ever at each step."""

    async def mail(self, client: Client, sender: str, parameters: Mapping[str, str | None]) -> None:
        await asyncio.Event().wait()

    async def data(self, client: Client, mail: Mail) -> None:
        await asyncio.Event().wait()


@pytest.mark.parametrize("failure", ["defer", "ignore"])
@pytest.mark.parametrize(
    "check",
    [
        Stuck,
        saying("mail", RuntimeError("secret")),
        saying("mail", SystemExit(3)),
        saying("mail", KeyboardInterrupt()),
        saying("mail", asyncio.CancelledError()),
        saying("mail", RuntimeError("secret"), plain=True),
        saying("mail", SystemExit(3), plain=True),
        saying("mail", "550 no"),
        saying("mail", True),
        saying("mail", Mark({"X-Spam": "Yes"})),
    ],
)
async def test_check_when_it_fails_then_its_table_decides_and_the_client_learns_nothing(
    tmp_path: Path, check: type[Check], failure: str
) -> None:
    tables = {"bad": {"timeout": "100ms", "failure": failure}}
    async with guarded(tmp_path, {"bad": check}, tables) as it, it.talk() as talk:
        await talk.greeted()
        said = await talk.ask("MAIL FROM:<a@example.org>")
        expected = {"defer": "451 4.3.0 Cannot do that now, try again later", "ignore": "250 2.1.0 Sender ok"}
        assert said == expected[failure]
        assert await talk.ask("NOOP") == "250 2.0.0 Ok"


async def test_check_when_it_fails_at_the_message_then_nothing_is_stored_and_the_client_keeps_it(
    tmp_path: Path,
) -> None:
    class Failing(Check):
        fields = ("X-Spam",)

        async def data(self, client: Client, mail: Mail) -> Mark:
            return Mark({"X-Spam": mail.nothing_of_this_name})  # type: ignore[attr-defined]

    async with guarded(tmp_path, {"bad": Failing}) as it, it.talk() as talk:
        await talk.greeted()
        assert await talk.mail(*MESSAGE) == "451 4.3.0 Cannot do that now, try again later"
        assert await it.stored() == []
    async with guarded(tmp_path / "2", {"bad": Failing}, {"bad": {"failure": "ignore"}}) as it, it.talk() as talk:
        await talk.greeted()
        assert (await talk.mail("X-Spam: no", *MESSAGE)).startswith("250 ")
        [content] = await it.stored()
        assert b"X-Spam" not in content  # nobody's word for it is taken where the check could not look


async def test_failures_when_they_go_on_then_each_is_a_line_and_one_a_minute_has_its_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[dict[str, Any]] = []

    def event(name: str, **fields: Any) -> None:
        if name == "check failed":
            told.append(fields)

    monkeypatch.setattr(module, "event", event)
    async with guarded(tmp_path, {"bad": saying("mail", ValueError("why"))}) as it, it.talk() as talk:
        await talk.greeted()
        for _ in range(3):
            await talk.ask("MAIL FROM:<a@example.org>")
        it.front.clock.advance(60)
        await talk.ask("MAIL FROM:<a@example.org>")
    assert [type(one["error"]) for one in told] == [ValueError, type(None), type(None), ValueError]
    assert all(one["reason"] == "the check raised ValueError: why" and one["level"] == logging.WARNING for one in told)
    assert {(one["check"], one["step"], one["then"]) for one in told} == {("bad", "mail", "deferred")}


async def test_client_when_it_leaves_while_a_check_ponders_then_the_check_is_told_to_stop(tmp_path: Path) -> None:
    asked, cancelled = asyncio.Event(), asyncio.Event()

    class Pondering(Check):
        async def helo(self, client: Client, name: str) -> None:
            asked.set()
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()

    async with guarded(tmp_path, {"slow": Pondering}) as it:
        async with it.talk() as talk:
            await talk.reply()
            talk.say("EHLO client.example")
            await asyncio.wait_for(asked.wait(), 20)
        await asyncio.wait_for(cancelled.wait(), 20)


async def test_session_when_its_check_ponders_then_the_others_go_on(tmp_path: Path) -> None:
    asked, go = asyncio.Event(), asyncio.Event()

    class Slow(Check):
        async def helo(self, client: Client, name: str) -> None:
            if name == "slow.example":
                asked.set()
                await go.wait()

    async with guarded(tmp_path, {"slow": Slow}) as it, it.talk() as slow, it.talk() as fast:
        await slow.reply()
        slow.say("EHLO slow.example", "MAIL FROM:<a@example.org>")
        await asyncio.wait_for(asked.wait(), 20)
        await fast.greeted()
        assert (await fast.mail(*MESSAGE)).startswith("250 ")
        go.set()
        assert (await slow.reply()).startswith("250 ")
        assert await slow.reply() == "250 2.1.0 Sender ok"


async def test_plain_checks_when_more_wait_than_there_are_threads_then_they_take_turns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import threading

    monkeypatch.setattr(module, "THREADS", 2)
    running, most = [0], [0]
    lock, gate = threading.Lock(), threading.Event()

    class Blocking(Check):
        def helo(self, client: Client, name: str) -> None:  # type: ignore[override]
            with lock:
                running[0] += 1
                most[0] = max(most[0], running[0])
            gate.wait(20)
            with lock:
                running[0] -= 1

    async with guarded(tmp_path, {"slow": Blocking}) as it:

        async def one() -> str:
            async with it.talk() as talk:
                await talk.reply()
                return await talk.ask("EHLO client.example")

        tasks = [asyncio.create_task(one()) for _ in range(6)]
        while running[0] < 2:
            await asyncio.sleep(0.01)
        gate.set()
        assert all(said.startswith("250 ") for said in await asyncio.gather(*tasks))
        assert most[0] == 2


async def test_reload_when_the_checks_change_then_a_session_that_is_open_meets_the_new_ones(tmp_path: Path) -> None:
    async with guarded(tmp_path, {"w": Watching}) as it, it.talk() as talk:
        await talk.greeted()
        async with started(guards({"no": saying("mail", Refuse("new"))})) as new:
            it.intake.checks = Checking(new)
            assert await talk.ask("MAIL FROM:<a@example.org>") == "550 5.7.1 new"
        it.intake.checks = None
        assert (await talk.mail(*MESSAGE)).startswith("250 ")
        assert len(await it.front.store.items([State.RECEIVED])) == 1


# -- what it costs where nobody asks ----------------------------------------------------------------------------------------


async def test_steps_when_no_check_has_them_then_the_reply_is_there_at_once(tmp_path: Path) -> None:
    found: list[object] = []
    async with guarded(tmp_path, {"late": saying("data", None)}) as it:
        for checks in (it.intake.checks, None):
            it.intake.checks = checks
            for name in ("connected", "hello", "sender", "recipient"):
                ask = getattr(it.intake, name)

                def asked(*said: object, ask: Any = ask) -> object:
                    found.append(ask(*said))
                    return found[-1]

                setattr(it.intake, name, asked)
            async with it.talk() as talk:
                await talk.greeted()
                assert (await talk.mail(*MESSAGE)).startswith("250 ")
            for name in ("connected", "hello", "sender", "recipient"):
                delattr(it.intake, name)
    assert len(found) == 8 and not [one for one in found if inspect.isawaitable(one)]


async def test_connection_when_it_is_over_then_nothing_is_kept_of_it(tmp_path: Path) -> None:
    async with guarded(tmp_path, {"w": Watching}) as it:
        for _ in range(20):
            async with it.talk() as talk:
                await talk.greeted()
        watching(it).seen.clear()
        assert it.intake.checks is not None
        ends = asyncio.get_running_loop().time() + 20
        while it.intake.checks._states and asyncio.get_running_loop().time() < ends:
            gc.collect()
            await asyncio.sleep(0.01)
        assert len(it.intake.checks._states) == 0

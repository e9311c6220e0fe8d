"""Asking the sender first: `responder.Confirmation`, and the agent `confirm` that stands before another."""

from __future__ import annotations

import json
import re
import threading
import tomllib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugins.confirm import Confirm
from responder import Agent, Answer, Confirmation, Context, Distribute, Forward, GiveUp, HandOver, Mail, Reply, TryLater
from responder.agents.base import NoSettings
from responder.agents.results import MAX_TAG, check
from responder.config import Config
from responder.mail.address import parse
from tests.support.agents import Plugins
from tests.support.clock import ManualClock
from tests.support.memory import MemoryState, equipped
from tests.support.server import ROOT

ANN = "ann@client.example"
TEXT = "Somebody asked for this."


class Desk:
    """Confirmations of one inbox, and mails to it."""

    def __init__(self, **settings: Any) -> None:
        self.clock = ManualClock()
        self.state = MemoryState(self.clock)
        self.confirmation = self.of("inbox", **settings)

    def of(self, inbox: str, **settings: Any) -> Confirmation:
        return Confirmation(Context(inbox, self.state, self.clock), **settings)

    def mail(
        self, *, sender: str = ANN, to: str = "inbox@test.example", subject: str = "Hello", **changes: Any
    ) -> Mail:
        raw = f"From: {sender}\r\nTo: {to}\r\nSubject: {subject}\r\n\r\n{changes.pop('text', 'Hi.')}\r\n".encode()
        facts = {"id": self.clock.new_id(), "inbox": "inbox", "recipient": parse(to), "sender": sender, **changes}
        return Mail(facts.pop("raw", raw), **facts)

    async def ask(self, request: Any = "do it", **changes: Any) -> str:
        """A token, taken out of the answer that brings it."""
        answer = await self.confirmation.ask(self.mail(**changes), request, TEXT)
        assert answer is not None
        return answer.tag

    def tagged(self, token: str, **changes: Any) -> Mail:
        return self.mail(to=f"inbox+{token}@test.example", **changes)


# -- the token ------------------------------------------------------------------------------------------------------------


async def test_request_when_asked_then_the_token_is_wherever_an_answer_may_carry_it() -> None:
    desk = Desk()
    answer = await desk.confirmation.ask(desk.mail(), {"do": "it"}, TEXT, "Really?")
    assert answer is not None
    assert re.fullmatch(r"[a-z0-9-]{20,40}", answer.tag)
    assert len(answer.tag) <= MAX_TAG
    assert answer.subject == f"[confirm {answer.tag}] Really?"
    assert answer.text.startswith(TEXT)
    assert answer.tag in answer.text
    assert answer.html == ""
    assert check(answer) is answer


async def test_text_when_it_has_a_place_for_the_token_then_nothing_is_added() -> None:
    desk = Desk()
    answer = await desk.confirmation.ask(desk.mail(), 1, "Bitte bestätigen: {token}")
    assert answer is not None
    assert answer.text == f"Bitte bestätigen: {answer.tag}"


@pytest.mark.parametrize(
    "way",
    [
        lambda desk, token: desk.tagged(token),
        lambda desk, token: desk.tagged(token.upper()),  # some hosts write local parts anew
        lambda desk, token: desk.mail(subject=f"Re: AW: [confirm {token}] Really?"),
        lambda desk, token: desk.mail(subject=f"Fwd: [list] [confirm {token.upper()}]"),
        lambda desk, token: desk.mail(subject=token),
        lambda desk, token: desk.tagged(token, sender="ANN@Client.Example"),
        lambda desk, token: desk.mail(subject=f"{'a' * 12}-{'b' * 16} {token}"),
    ],
)
async def test_answer_when_it_holds_the_token_anywhere_then_the_request_is_given_out(
    way: Callable[[Desk, str], Mail],
) -> None:
    desk = Desk()
    token = await desk.ask({"do": ["it", 1, None]})
    mail = way(desk, token)
    assert desk.confirmation.carries(mail)
    assert await desk.confirmation.redeem(mail) == {"do": ["it", 1, None]}


async def test_token_when_it_comes_from_another_sender_then_it_is_nothing() -> None:
    desk = Desk()
    token = await desk.ask()
    stranger = desk.tagged(token, sender="eve@client.example")
    assert await desk.confirmation.redeem(stranger) is None
    assert not await desk.confirmation.spent(stranger)
    assert await desk.confirmation.redeem(desk.tagged(token)) == "do it"
    assert not await desk.confirmation.spent(stranger)  # not even that it was used


async def test_token_when_it_is_for_another_inbox_or_purpose_then_it_is_nothing() -> None:
    desk = Desk()
    token = await desk.ask()
    assert await desk.of("other").redeem(desk.tagged(token)) is None
    assert await desk.of("inbox", purpose="other").redeem(desk.tagged(token)) is None
    assert await desk.of("inbox").redeem(desk.tagged(token)) == "do it"


async def test_token_when_any_character_is_another_then_it_is_nothing() -> None:
    desk = Desk()
    token = await desk.ask()
    for at in range(len(token)):
        other = "b" if token[at] == "a" else "a"
        assert await desk.confirmation.redeem(desk.tagged(f"{token[:at]}{other}{token[at + 1 :]}")) is None
    for wrong in (token[1:], token[:-1], f"{token}a", f"a{token}", ""):
        assert await desk.confirmation.redeem(desk.tagged(wrong)) is None
    assert await desk.confirmation.redeem(desk.tagged(token)) == "do it"


async def test_guess_when_it_is_wrong_then_nothing_is_looked_up() -> None:
    desk = Desk()
    token = await desk.ask()
    looked: list[str] = []
    get = desk.state.get

    async def watched(key: str, default: Any = None) -> Any:
        looked.append(key)
        return await get(key, default)

    desk.state.get = watched  # type: ignore[method-assign]
    assert await desk.confirmation.redeem(desk.tagged(f"{token[:13]}{'a' * 16}")) is None
    assert looked == ["confirmation/secret"]


@given(subject=st.text(max_size=300), tag=st.text(st.characters(codec="ascii", categories=("L", "N")), max_size=40))
def test_mail_when_it_is_anything_then_looking_for_a_token_does_not_fail(subject: str, tag: str) -> None:
    desk = Desk()
    raw = b"Subject: " + subject.encode("utf-8", "replace").replace(b"\n", b" ").replace(b"\r", b" ") + b"\r\n\r\n"
    mail = desk.mail(to=f"inbox+{tag}x@test.example", raw=raw)
    coroutine = desk.confirmation.redeem(mail)
    with pytest.raises(StopIteration) as ended:
        coroutine.send(None)  # nothing here waits for anything
    assert ended.value.value is None


# -- once, and in time ----------------------------------------------------------------------------------------------------


async def test_token_when_used_then_a_second_mail_gets_nothing_and_is_told() -> None:
    desk = Desk()
    token = await desk.ask()
    first, second = desk.tagged(token), desk.tagged(token)
    assert await desk.confirmation.redeem(first) == "do it"
    assert await desk.confirmation.redeem(second) is None
    assert await desk.confirmation.spent(second)
    # The first, run again because its agent wished so, is still the one that confirms.
    assert await desk.confirmation.redeem(first) == "do it"
    assert not await desk.confirmation.spent(first)


async def test_token_when_its_time_is_over_then_it_is_nothing_and_no_trace_is_left() -> None:
    desk = Desk(expires=3600)
    token = await desk.ask()
    await desk.ask("never answered")
    used = await desk.ask("other")
    assert await desk.confirmation.redeem(desk.tagged(used)) == "other"
    desk.clock.advance(3599)
    assert await desk.confirmation.redeem(desk.tagged(token)) == "do it"
    desk.clock.advance(1)
    assert await desk.confirmation.redeem(desk.tagged(token)) is None
    assert not await desk.confirmation.spent(desk.tagged(used))
    desk.clock.advance(3600)
    assert list(await desk.state.items("confirmation/")) == ["confirmation/secret"]


async def test_request_when_asked_again_then_the_same_token_goes_out() -> None:
    desk = Desk()
    token = await desk.ask({"a": 1, "b": 2})
    assert await desk.ask({"b": 2, "a": 1}) == token
    assert await desk.ask({"a": 1}) != token
    assert await desk.confirmation.redeem(desk.tagged(token)) == {"a": 1, "b": 2}
    assert await desk.ask({"a": 1, "b": 2}) != token  # that one is spent


async def test_sender_when_asked_too_often_then_it_is_left_in_peace() -> None:
    desk = Desk(expires=3600, mails_per_sender=5)
    for number in range(3):
        await desk.ask(number)
    for _ in range(2):
        await desk.ask(0)
    assert await desk.confirmation.ask(desk.mail(), 0, TEXT) is None
    assert await desk.confirmation.ask(desk.mail(sender="ANN@CLIENT.EXAMPLE"), 9, TEXT) is None
    assert await desk.ask(9, sender="bob@client.example")  # others are none the worse
    desk.clock.advance(3600)
    assert await desk.ask(9)


async def test_sender_when_it_has_answered_then_there_is_room_again() -> None:
    desk = Desk(mails_per_sender=1)
    for number in range(5):
        token = await desk.ask(number)
        assert await desk.confirmation.ask(desk.mail(), "more", TEXT) is None
        assert await desk.confirmation.redeem(desk.tagged(token)) == number


# -- what can be asked for ------------------------------------------------------------------------------------------------


async def test_request_when_it_is_a_mail_then_the_same_mail_comes_back() -> None:
    desk = Desk()
    asked = desk.mail(to="inbox+tag@test.example", subject="Delete all", peer="192.0.2.7")
    token = await desk.ask(asked)
    held = await desk.confirmation.redeem(desk.tagged(token))
    assert isinstance(held, Mail)
    for name in ("raw", "id", "inbox", "recipient", "tag", "sender", "peer", "authentication", "subject", "text"):
        assert getattr(held, name) == getattr(asked, name)


async def test_mail_when_a_program_before_0003_has_kept_it_then_it_comes_back() -> None:
    """Schema version 2 knew four verdicts, and kept them as a table."""
    desk = Desk()
    held = desk.mail()
    token = await desk.ask(held)
    old = {"spf": "pass", "dkim": None, "dmarc": None, "dmarc_policy": None}
    for key, (text, until) in desk.state.values.items():
        record = json.loads(text)
        if isinstance(record, dict) and "mail" in record:
            record["mail"]["authentication"] = old
            desk.state.values[key] = (json.dumps(record), until)
    found = await desk.confirmation.redeem(desk.tagged(token))
    assert isinstance(found, Mail)
    assert (found.raw, found.authentication.spf, found.authentication.dkim) == (held.raw, "pass", None)


async def test_mail_when_its_client_sends_it_again_then_the_token_is_the_same() -> None:
    desk = Desk()
    raw = b"Message-ID: <1@client.example>\r\nFrom: ann@client.example\r\n\r\nHi\r\n"
    first = await desk.ask(desk.mail(raw=b"Received: from a; 1\r\n" + raw))
    assert await desk.ask(desk.mail(raw=b"Received: from a; 2\r\n" + raw)) == first


@pytest.mark.parametrize("request_", [None, {1, 2}, object()])
async def test_request_when_it_is_no_json_then_that_is_an_error(request_: Any) -> None:
    desk = Desk()
    with pytest.raises(ValueError, match="request must"):
        await desk.confirmation.ask(desk.mail(), request_, TEXT)
    with pytest.raises(ValueError, match="can be kept"):
        await desk.confirmation.ask(desk.mail(), desk.mail(raw=b"x" * (Confirmation.MAX_MAIL + 1)), TEXT)
    with pytest.raises(ValueError, match="purpose"):
        desk.of("inbox", purpose="Not this")
    with pytest.raises(ValueError, match="needs some time"):
        desk.of("inbox", expires=0)


async def test_inbox_when_its_name_leaves_no_room_then_the_subject_alone_carries_the_token() -> None:
    desk = Desk()
    answer = await desk.confirmation.ask(desk.mail(to=f"{'x' * 40}@test.example"), 1, TEXT)
    assert answer is not None
    assert answer.tag == ""
    assert await desk.confirmation.redeem(desk.mail(subject=f"Re: {answer.subject}")) == 1


# -- the agent ------------------------------------------------------------------------------------------------------------


class Stub(Agent):
    """What stands behind the agent: gives what it was told to give."""

    def __init__(self, result: Any) -> None:
        super().__init__(None)
        self.result = result
        self.mails: list[Mail] = []

    async def answer(self, mail: Mail) -> Answer:
        self.mails.append(mail)
        if isinstance(self.result, Exception):
            raise self.result
        return self.result  # type: ignore[no-any-return]


class Plain(Stub):
    def answer(self, mail: Mail) -> Answer:  # type: ignore[override]
        self.mails.append(mail)
        return threading.current_thread().name


async def confirming(inner: Agent, **settings: Any) -> Confirm:
    agent = equipped(Confirm, agent="inner", settings={"key": 1}, **settings)

    def build(name: str, values: Any) -> Agent:
        assert (name, dict(values)) == ("inner", {"key": 1})
        return inner

    agent.context = Context("inbox", agent.context.state, agent.context.clock, build)
    await agent.start()
    return agent


async def test_mail_when_confirmed_then_the_other_agent_gets_the_original_and_its_reply_is_the_answer() -> None:
    desk, inner = Desk(), Stub(Reply(text="done"))
    agent = await confirming(inner, subject="Ja?", text="Wirklich? {token}")
    original = desk.mail(subject="Delete all")
    asked = await agent.answer(original)
    assert isinstance(asked, Reply)
    assert inner.mails == []
    assert asked.text == f"Wirklich? {asked.tag}"
    assert asked.subject == f"[confirm {asked.tag}] Ja?"
    assert "Delete all" not in f"{asked.text}{asked.subject}"  # nobody writes to others through us
    assert await agent.answer(desk.tagged(asked.tag, subject="Re: Ja?")) == Reply(text="done")
    [held] = inner.mails
    assert (held.raw, held.id, held.tag) == (original.raw, original.id, "")
    again = await agent.answer(desk.tagged(asked.tag))
    assert isinstance(again, Reply)
    assert "already" in again.text
    assert len(inner.mails) == 1


async def test_mail_when_it_confirms_nothing_then_nothing_is_done() -> None:
    desk, inner = Desk(), Stub("done")
    agent = await confirming(inner)
    asked = await agent.answer(desk.mail())
    assert isinstance(asked, Reply)
    foreign = await agent.answer(desk.tagged(asked.tag, sender="eve@client.example"))
    forged = await agent.answer(desk.tagged("a" * 12 + "-" + "b" * 16))
    assert foreign == forged
    assert isinstance(foreign, Reply)
    assert "can't be used" in foreign.text
    large = await agent.answer(desk.mail(text="x" * Confirmation.MAX_MAIL))
    assert isinstance(large, Reply)
    assert large.tag == ""
    assert "too large" in large.text
    assert inner.mails == []


async def test_other_agent_when_it_is_plain_then_it_runs_in_a_thread() -> None:
    desk, inner = Desk(), Plain(None)
    agent = await confirming(inner)
    asked = await agent.answer(desk.mail())
    assert isinstance(asked, Reply)
    name = await agent.answer(desk.tagged(asked.tag))
    assert isinstance(name, str)
    assert name != threading.current_thread().name


@pytest.mark.parametrize("result", [Forward(), HandOver(), Distribute(to=["a@b.example"]), 7])
async def test_other_agent_when_it_passes_mail_on_then_that_is_refused(result: Any) -> None:
    desk = Desk()
    agent = await confirming(Stub(result))
    asked = await agent.answer(desk.mail())
    assert isinstance(asked, Reply)
    with pytest.raises(GiveUp, match=rf'"inner" behind confirm returned a {type(result).__name__}'):
        await agent.answer(desk.tagged(asked.tag))


async def test_other_agent_when_it_asks_for_time_then_the_confirmation_holds_for_its_next_run() -> None:
    desk, inner = Desk(), Stub(TryLater(60))
    agent = await confirming(inner)
    asked = await agent.answer(desk.mail())
    assert isinstance(asked, Reply)
    confirming_mail = desk.tagged(asked.tag)
    with pytest.raises(TryLater):
        await agent.answer(confirming_mail)
    inner.result = "done"
    assert await agent.answer(confirming_mail) == "done"


def test_page_when_its_examples_are_loaded_then_they_are_valid() -> None:
    page = (ROOT / "docs" / "agents" / "confirm.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```toml\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert blocks
    for block in blocks:
        config = Config.model_validate(tomllib.loads(block))
        for inbox in config.inboxes.values():
            assert inbox.agent == "confirm"
            Confirm.Settings.model_validate(inbox.settings)
    assert re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE) == list(Confirm.Settings.model_fields)


async def test_page_when_its_agent_is_run_then_it_does_what_is_said(plugins: Plugins) -> None:
    page = (ROOT / "docs" / "agents" / "confirm.md").read_text(encoding="utf-8")
    [code] = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    plugins.write("own/newsletter.py", code)
    agent = plugins.load()["newsletter"].build(NoSettings())
    desk = Desk()
    agent.context = Context("newsletter", desk.state, desk.clock)
    await agent.start()
    asked = await agent.answer(desk.mail())
    assert isinstance(asked, Reply)
    for token, expected in (("a" * 12 + "-" + "b" * 16, "can't be used"), (asked.tag, "Welcome"), (asked.tag, "can't")):
        answer = await agent.answer(desk.tagged(token))
        assert isinstance(answer, Reply)
        assert expected in answer.text
    assert list(await desk.state.items("member/")) == [f"member/{ANN}"]

"""The mailing list: who may join, post and leave, and what each of them is told."""

from __future__ import annotations

import asyncio
import re
import time
import tomllib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from plugins._list_settings import ListSettings
from plugins.list import MailingList
from responder import Answer, Authentication, Bounce, Distribute, Forward, Mail, Reply
from responder.agents.results import check
from responder.config import Config
from responder.mail.address import parse
from tests.support.clock import ManualClock
from tests.support.memory import equipped
from tests.support.server import ROOT, free_port

LIST = "talk@test.example"
ANN, BOB, EVE = "ann@client.example", "bob@client.example", "eve@client.example"
OWNER = "olga@client.example"
DAY = 86400.0


class World:
    """A started list, and mails to it."""

    def __init__(self, **settings: Any) -> None:
        self.clock = ManualClock()
        values = {"name": "Talk", "owners": [OWNER], "members": [ANN, BOB], **settings}
        self.list = equipped(MailingList, self.clock, "talk", **values)

    async def __aenter__(self) -> World:
        await self.list.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.list.stop()

    def mail(
        self,
        tag: str = "",
        *,
        sender: str = ANN,
        from_: str = "",
        subject: str = "Hello",
        text: str = "Hi",
        **facts: Any,
    ) -> Mail:
        to = f"talk+{tag}@test.example" if tag else LIST
        fields = "".join([f"{line}\r\n" for line in facts.pop("fields", ())])
        raw = f"From: {from_ or sender}\r\nTo: {to}\r\nSubject: {subject}\r\n{fields}\r\n{text}\r\n"
        return Mail(
            raw.encode("utf-8", "replace"),
            id=self.clock.new_id(),
            inbox="talk",
            recipient=parse(to),
            sender=sender,
            **facts,
        )

    async def send(self, tag: str = "", **changes: Any) -> Answer:
        answer = await self.list.answer(self.mail(tag, **changes))
        assert check(answer) == answer  # nothing that the server would refuse
        return answer

    async def reply(self, tag: str = "", **changes: Any) -> Reply:
        answer = await self.send(tag, **changes)
        assert isinstance(answer, Reply)
        return answer

    async def join(self, sender: str) -> None:
        asked = await self.reply("subscribe", sender=sender)
        await self.reply(asked.tag, sender=sender)

    async def members(self) -> list[str]:
        found = await self.list.context.state.items("member/")
        return [key.removeprefix("member/") for key in found]

    async def posted(self, **changes: Any) -> Distribute:
        answer = await self.send(**changes)
        assert isinstance(answer, Distribute)
        return answer


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with World() as world:
        yield world


# -- joining and leaving --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["subscribe", "join", "SUBSCRIBE"])
async def test_stranger_when_joining_then_only_a_confirmation_makes_a_member(world: World, command: str) -> None:
    asked = await world.reply(command, sender="Carol@Client.example")
    assert "carol@client.example" not in await world.members()
    assert LIST in asked.text
    welcome = await world.reply(asked.tag, sender="carol@client.example", subject=f"Re: {asked.subject}")
    assert "You are on the list" in welcome.text
    assert welcome.tag == "owner"  # a thank-you must not go to the list
    assert await world.members() == [ANN, BOB, "carol@client.example"]


async def test_request_when_it_stands_in_the_subject_then_it_is_obeyed(world: World) -> None:
    for changes in (
        {"tag": "request", "subject": "Subscribe"},
        {"tag": "request", "subject": "", "text": "\n  join \n-- \nCarol"},
        {"tag": "", "subject": "subscribe"},  # sent to the list itself, as people do
    ):
        asked = await world.reply(sender="carol@client.example", **changes)
        assert "send its mail to you" in asked.text
    asked = await world.reply("", subject="Re: unsubscribe!")
    assert "send you nothing" in asked.text
    for subject in ("unsubscribe from what?", "Help", "Who?", "leave", "info"):
        assert isinstance(await world.send(subject=subject), Distribute)
    assert "This is the mailing list" in (await world.reply("request", subject="do a somersault")).text


async def test_member_when_leaving_then_it_is_asked_and_gone(world: World) -> None:
    asked = await world.reply("unsubscribe")
    assert await world.members() == [ANN, BOB]
    stolen = await world.reply(asked.tag, sender=EVE)
    assert "can't be used" in stolen.text
    assert await world.members() == [ANN, BOB]
    gone = await world.reply("", subject=f"Re: {asked.subject}")
    assert "not on the list" in gone.text
    assert await world.members() == [BOB]
    assert "can't be used" in (await world.reply(asked.tag)).text


@pytest.mark.parametrize("command", ["subscribe", "unsubscribe"])
async def test_stranger_when_asking_then_it_is_told_the_same_as_a_member(world: World, command: str) -> None:
    for one, other in ((ANN, EVE),):
        told = [await world.reply(command, sender=sender) for sender in (one, other)]
        [member, stranger] = [answer.text.replace(answer.tag, "TOKEN") for answer in told]
        assert member == stranger
    told = [await world.reply(answer.tag, sender=sender) for answer, sender in zip(told, (ANN, EVE), strict=True)]
    assert told[0] == told[1]


async def test_list_when_it_is_full_then_nobody_joins_and_members_stay() -> None:
    async with World(max_members=2) as world:
        asked = await world.reply("subscribe", sender=EVE)
        assert "no room" in (await world.reply(asked.tag, sender=EVE)).text
        asked = await world.reply("subscribe")
        assert "You are on the list" in (await world.reply(asked.tag)).text
        assert await world.members() == [ANN, BOB]


async def test_victim_when_somebody_joins_in_its_name_over_and_over_then_few_mails_reach_it(world: World) -> None:
    told = [
        await world.send(tag, sender="victim@client.example") for _ in range(20) for tag in ("subscribe", "unsubscribe")
    ]
    assert len([answer for answer in told if answer is not None]) == 5


async def test_sender_when_the_list_itself_or_odd_then_it_is_left_alone(world: World) -> None:
    for sender in (
        LIST,
        "TALK+x@test.example",
        '"a b"@client.example',
        "x@[192.0.2.1]",
        "x@a..example",
        f"{'x' * 250}@a.example",
    ):
        assert await world.send("subscribe", sender=sender) is None
    assert await world.members() == [ANN, BOB]


async def test_list_when_its_state_forgets_as_in_a_trial_then_it_answers_all_the_same(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nothing(key: str, *_: object, **__: object) -> None:
        world.list.context.state.values.clear()  # type: ignore[attr-defined]

    monkeypatch.setattr(world.list.context.state, "set", nothing)
    await nothing("")
    await world.list.start()
    assert "send its mail to you" in (await world.reply("subscribe", sender=EVE)).text
    assert "only members" in (await world.reply(sender=EVE)).text


# -- posts ----------------------------------------------------------------------------------------------------------------


async def test_member_when_posting_then_each_member_gets_it(world: World) -> None:
    await world.join("carol@client.example")
    post = await world.posted()
    assert list(post.to) == [ANN, BOB, "carol@client.example"]
    assert (post.name, post.subject_prefix, post.discussion, dict(post.one_click)) == ("Talk", "[Talk] ", True, {})
    for member, token in post.tokens.items():
        assert member in await world.members()
        assert "gets no more mail" in (await world.reply(f"unsubscribe-{token}", sender=EVE)).text
        assert member not in await world.members()


async def test_post_when_settings_say_so_then_author_prefix_and_links_differ() -> None:
    link = {"url": "https://lists.example.org/leave/"}
    async with World(echo_posts=False, subject_prefix="", name="T") as world:
        post = await world.posted(sender="ANN@client.example")
        assert (list(post.to), post.subject_prefix) == ([BOB], "")
    world = World(one_click={**link, "listen": f"127.0.0.1:{free_port()}"})
    async with world:
        post = await world.posted()
    assert list(post.one_click) == [ANN, BOB]
    for url in post.one_click.values():
        assert re.fullmatch(r"https://lists\.example\.org/leave/[a-z2-7]{26}", url)
    assert len(set(post.one_click.values())) == 2


async def test_list_when_its_name_is_too_long_then_its_mail_links_go_without_tokens(world: World) -> None:
    for length, some in ((25, True), (26, False)):
        mail = world.mail(subject=str(length))
        mail.recipient = f"{'x' * length}@test.example"
        post = await world.list.answer(mail)
        assert isinstance(post, Distribute)
        assert bool(post.tokens) == some


async def test_post_when_its_client_sends_it_twice_then_it_is_sent_on_once_a_day(world: World) -> None:
    fields = ("Message-ID: <1@client.example>",)
    assert isinstance(await world.send(fields=(*fields, "Received: from a")), Distribute)
    assert await world.send(fields=(*fields, "Received: from b")) is None
    assert isinstance(await world.send(fields=("Message-ID: <2@client.example>",)), Distribute)
    assert isinstance(await world.send(sender=BOB, fields=fields), Distribute)
    assert isinstance(await world.send(subject="No id"), Distribute)
    assert await world.send(subject="No id") is None
    world.clock.advance(DAY)
    assert isinstance(await world.send(fields=fields), Distribute)


async def test_stranger_when_posting_then_it_is_refused_and_told_once_a_day(world: World) -> None:
    refused = await world.reply(sender=EVE)
    assert "only members" in refused.text
    assert (refused.handle, refused.interval) == ("refused", DAY)


async def test_stranger_when_it_names_an_author_of_its_choice_then_the_answer_tells_nothing(world: World) -> None:
    as_member = await world.reply(sender=EVE, from_=ANN)
    as_stranger = await world.reply(sender=EVE, from_="nobody@client.example")
    assert as_member == as_stranger
    await world.reply(sender=ANN, from_=EVE)  # nor may a member speak for somebody else


async def test_discussion_when_open_then_anyone_posts() -> None:
    async with World(posting="anyone") as world:
        assert isinstance(await world.send(sender=EVE), Distribute)


async def test_announcements_when_posted_then_only_by_posters_and_owners() -> None:
    async with World(mode="announcement", posters=["news@client.example"]) as world:
        assert "for announcements" in (await world.reply()).text
        for sender in ("NEWS@client.example", OWNER):
            assert (await world.posted(sender=sender)).discussion is False
        await world.reply(sender=EVE, from_=OWNER)
        await world.reply(sender=OWNER, authentication=Authentication(dmarc="fail"))


async def test_list_when_it_is_a_member_of_itself_then_it_gets_nothing() -> None:
    async with World(members=[ANN, LIST, "Talk+post@test.example"]) as world:
        assert list((await world.posted()).to) == [ANN]


# -- owners ---------------------------------------------------------------------------------------------------------------


async def test_mail_when_it_is_for_the_owners_then_it_is_forwarded_to_them_alone(world: World) -> None:
    assert await world.send("owner", sender=EVE) == Forward(to=(OWNER,))
    async with World(owners=[]) as ownerless:
        answer = await ownerless.reply("owner", sender=EVE)
        assert "This is the mailing list" in answer.text
        assert answer.tag == "help"


async def test_owner_when_it_asks_for_members_then_it_alone_is_told_and_may_remove(world: World) -> None:
    listed = await world.reply("request", sender=OWNER, subject="members")
    assert listed.text == f"{ANN}\n{BOB}\n\n2 members\n"
    for sender in (ANN, EVE):
        assert ANN not in (await world.reply("request", sender=sender, subject="members")).text
        assert "This is the mailing list" in (await world.reply("request", sender=sender, subject=f"remove {BOB}")).text
    asked = await world.reply("request", sender=OWNER, subject=f"Remove <{BOB.upper()}>")
    assert await world.members() == [ANN, BOB]
    done = await world.reply(asked.tag, sender=OWNER)
    assert "not a member any more" in done.text
    assert await world.members() == [ANN]


async def test_members_of_the_settings_when_they_have_left_then_a_restart_does_not_bring_them_back(
    world: World,
) -> None:
    asked = await world.reply("unsubscribe")
    await world.reply(asked.tag)
    await world.list.start()
    assert await world.members() == [BOB]


# -- bounces --------------------------------------------------------------------------------------------------------------


def bounce(recipient: str = BOB, *, permanent: bool = True) -> Bounce:
    return Bounce(recipient, permanent, "5.1.1" if permanent else "4.2.2", "no such user")


async def test_member_when_mail_comes_back_on_three_days_then_it_is_removed(world: World) -> None:
    for day in range(3):
        assert await world.members() == [ANN, BOB], day
        for _ in range(5):  # several posts of one day count once
            await world.list.bounced(bounce("Bob@Client.Example"))
            await world.list.bounced(bounce(EVE))
        world.clock.advance(DAY)
    assert await world.members() == [ANN]
    assert not await world.list.context.state.items("bounce/")


async def test_member_when_mail_is_late_or_seldom_comes_back_then_it_stays(world: World) -> None:
    for _ in range(10):
        await world.list.bounced(bounce(permanent=False))
        world.clock.advance(DAY)
    for _ in range(10):
        await world.list.bounced(bounce())
        world.clock.advance(8 * DAY)  # never three in fourteen days
    assert await world.members() == [ANN, BOB]


# -- links ----------------------------------------------------------------------------------------------------------------


def token_of(world: World, member: str) -> str:
    return world.list._members.token(member)


async def test_link_when_mailed_to_then_its_member_is_gone_and_strangers_learn_nothing(world: World) -> None:
    token = token_of(world, BOB)
    told = [await world.reply(f"unsubscribe-{token.upper()}", sender=EVE, subject="unsubscribe") for _ in range(2)]
    assert told[0] == told[1]  # it was a member, and then it was none
    assert BOB not in told[0].text
    assert await world.members() == [ANN]
    await world.join(BOB)
    for at in range(len(token)):
        other = "b" if token[at] == "a" else "a"
        wrong = await world.reply(f"unsubscribe-{token[:at]}{other}{token[at + 1 :]}")
        assert "can't be used" in wrong.text
    assert await world.members() == [ANN, BOB]
    await world.reply(f"unsubscribe-{token}", sender=BOB)  # an old mail's link still does what it says
    assert await world.members() == [ANN]


async def test_link_when_of_another_list_then_it_is_nothing(world: World) -> None:
    other = equipped(MailingList, world.clock, "other", name="Other", members=[BOB], secret="0123456789abcdef")
    await other.start()
    mine = equipped(MailingList, world.clock, "talk", name="Talk", members=[BOB], secret="0123456789abcdef")
    await mine.start()
    assert not mine._members.is_token(other._members.token(BOB))
    assert not world.list._members.is_token(mine._members.token(BOB))  # nor one that was signed with another secret
    assert mine._members.is_token(mine._members.token(BOB))


async def test_secret_when_the_operator_changes_it_then_new_links_work_for_old_members(world: World) -> None:
    world.list.settings = world.list.Settings.model_validate({"name": "Talk", "secret": "another secret!!"})
    old = token_of(world, BOB)
    await world.list.start()
    assert "can't be used" in (await world.reply(f"unsubscribe-{old}")).text
    await world.reply(f"unsubscribe-{token_of(world, BOB)}")
    assert await world.members() == [ANN]


# -- whatever comes -------------------------------------------------------------------------------------------------------

TAGS = ["", "subscribe", "unsubscribe", "help", "owner", "request", "x", "unsubscribe-x", f"{'a' * 12}-{'b' * 16}"]
SUBJECTS = ["", "subscribe", "who", "members", f"remove {ANN}", "remove {token}", f"[confirm {'a' * 12}-{'b' * 16}]"]


@settings(max_examples=150, deadline=None)
@given(
    mails=st.lists(
        st.tuples(
            st.sampled_from(TAGS),
            st.sampled_from([ANN, BOB, EVE, OWNER, LIST]),
            st.one_of(st.sampled_from(SUBJECTS), st.text(max_size=40)),
            st.text(max_size=40),
        ),
        max_size=6,
    )
)
def test_list_when_anything_comes_then_only_the_sender_the_owners_and_members_hear_of_it(
    mails: list[tuple[str, str, str, str]],
) -> None:
    """A Reply has no recipient of its own: the server sends it to the sender. All else must name none but whom it may."""

    async def run() -> None:
        async with World() as world:
            for tag, sender, subject, text in mails:
                line = " ".join(f"zq{subject}".split())[2:]
                answer = await world.send(tag, sender=sender, subject=line, text=text)
                if isinstance(answer, Distribute):
                    assert sender in (ANN, BOB)
                    assert set(answer.to) == {ANN, BOB}
                elif isinstance(answer, Forward):
                    assert answer.to == (OWNER,)
                else:
                    assert answer is None or isinstance(answer, Reply)
                    assert await world.members() == [ANN, BOB]
                    assert answer is None or not answer.from_

    asyncio.run(run())


async def test_list_when_it_has_ten_thousand_members_then_a_post_takes_little_time() -> None:
    members = [f"member-{number}@client.example" for number in range(10_000)]
    async with World(members=members, one_click=click()) as world:
        began = time.perf_counter()
        post = await world.posted(sender=members[17])
        took = time.perf_counter() - began
    assert len(post.to) == len(post.one_click) == len(post.tokens) == 10_000
    assert took < 2, f"{took:.2f} s"  # 0.2 s on an idle machine


# -- settings -------------------------------------------------------------------------------------------------------------


def click() -> dict[str, str]:
    return {"url": "https://lists.example.org/leave", "listen": f"127.0.0.1:{free_port()}"}


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": ""},
        {"name": "a\nb"},
        {"mode": "announcement", "owners": []},
        {"owners": ["no address"]},
        {"members": ['"a b"@client.example']},
        {"unknown": 1},
        {"secret": "short"},
        {"one_click": {"url": "http://lists.example.org/leave"}},
        {"one_click": {"url": "https://lists.example.org/leave?x=1"}},
        {"one_click": {"url": "https://user@lists.example.org/leave"}},
        {"one_click": {"url": "https:///leave"}},
        {"one_click": {"url": "https://lists.example.org/{x}"}},
        {"one_click": {"url": "https://lists.example.org/a\r\nX: y"}},
        {"one_click": {"url": "https://lists.example.org/>, <mailto:x@y.example"}},
        {"one_click": {"url": "https://lists.example.org/leave", "listen": "8026"}},
        {"one_click": {"url": "https://lists.example.org/leave", "listen": "127.0.0.1:0"}},
    ],
)
def test_settings_when_wrong_then_they_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ListSettings.model_validate({"name": "Talk", "owners": [OWNER], **wrong})


def test_address_when_international_then_it_is_kept_as_mail_brings_it() -> None:
    assert ListSettings(name="Talk", members=("jö@bücher.example",)).members == ("jö@xn--bcher-kva.example",)


def test_page_when_its_examples_are_loaded_then_they_are_valid_and_the_table_is_complete() -> None:
    page = (ROOT / "docs" / "agents" / "list.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```toml\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert blocks
    for block in blocks:
        config = Config.model_validate(tomllib.loads(block))
        for inbox in config.inboxes.values():
            assert inbox.agent == "list"
            assert inbox.targets
            ListSettings.model_validate(inbox.settings)
    named = re.findall(r"^\| `([\w.]+)` \|", page, re.MULTILINE)
    keys = [key for key in ListSettings.model_fields if key != "one_click"]
    assert sorted(named) == sorted([*keys, "one_click.url", "one_click.listen"])

"""What a check may say, what a plugin may register as one, and how it is started, stopped and asked."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict

from responder import Check, Client, Defer, Mail, Mark, Refuse, check
from responder.agents.checks import MAX_FIELDS, MAX_TEXT
from responder.agents.guards import FAILED, NOTHING, Guards
from responder.agents.load import PluginError, load_plugins, stand_in_checks
from responder.agents.registry import check_type
from responder.agents.watchdog import Watchdog
from responder.config import Config
from responder.mail.headers import Headers
from responder.mail.stamp import stamp, without_fields
from tests.support.guards import guards, made, started

CLIENT = Client("c1", peer="192.0.2.1")


# -- what is said -----------------------------------------------------------------------------------------------------------


@given(text=st.text(max_size=600), refuses=st.booleans())
def test_reply_when_its_text_is_anything_then_one_short_printable_line_is_left(text: str, refuses: bool) -> None:
    reply = Refuse(text) if refuses else Defer(text)
    assert reply.text and reply.text.isascii() and reply.text.isprintable() and len(reply.text) <= MAX_TEXT


def test_reply_when_its_text_has_line_ends_then_there_is_no_second_reply() -> None:
    assert Refuse("no\r\n250 2.0.0 Queued").text == "no 250 2.0.0 Queued"
    assert (Refuse(" \r\n").text, Defer("").text) == ("Refused", "Try again later")


@pytest.mark.parametrize("code", [200, 250, 354, 499, 600, 560, 0, -5, 5500, "550", 550.0, None])
def test_refusal_when_its_code_is_no_5yz_then_it_is_a_mistake(code: Any) -> None:
    with pytest.raises(ValueError, match="code of Refuse"):
        Refuse("no", code)


@pytest.mark.parametrize("code", [200, 399, 460, 500, 550, "451", None])
def test_deferral_when_its_code_is_no_4yz_then_it_is_a_mistake(code: Any) -> None:
    with pytest.raises(ValueError, match="code of Defer"):
        Defer("later", code)


@pytest.mark.parametrize("enhanced", ["", "5.7", "4.7.1", "2.0.0", "5.7.1\r\n", "5.7.1 ", "5.7777.1", None, 5])
def test_refusal_when_its_enhanced_code_does_not_fit_then_it_is_a_mistake(enhanced: Any) -> None:
    with pytest.raises(ValueError, match="enhanced code of Refuse"):
        Refuse("no", 550, enhanced)


STEERING = ("Received", "From", "Subject", "DKIM-Signature", "Authentication-Results", "List-Id", "X-Responder-Loop")
MALFORMED = ("x-responder-x", "X-", "X Spam", "X-Spam:", "X-Spam\r\nTo", "X-Späm", "", 5, "X-" + "a" * 61)


@pytest.mark.parametrize("name", [*STEERING, *MALFORMED])
def test_mark_when_its_name_is_not_a_check_s_to_set_then_it_is_a_mistake(name: Any) -> None:
    with pytest.raises(ValueError, match="header fields named"):
        Mark({name: "yes"})


def test_mark_when_it_is_no_table_of_a_few_texts_then_it_is_a_mistake() -> None:
    odd: Any
    for odd in ({"X-Spam": 5}, {"X-Spam": None}, [("X-Spam", "yes")], {f"X-{n}": "" for n in range(MAX_FIELDS + 1)}):
        with pytest.raises(ValueError):
            Mark(odd)
    with pytest.raises(ValueError, match="note"):
        Mark({}, note=5)  # type: ignore[arg-type]


@given(value=st.text(max_size=1200), tail=st.text(max_size=50))
def test_stamp_when_a_value_is_anything_then_it_is_one_field_and_no_body(value: str, tail: str) -> None:
    written = stamp(Mark({"X-Spam": value, "X-Tail": tail}).fields) + b"Subject: x\r\n\r\n"
    headers = Headers.parse(written)
    assert sorted(headers) == ["subject", "x-spam", "x-tail"] and len(headers) == 3
    assert max(map(len, written.split(b"\r\n"))) < 998 and written.count(b"\n") == written.count(b"\r\n")


FIELD_NAMES = st.sampled_from(["X-Spam", "x-spam", "X-SPAM", "X-Spam ", "X-Spam-Flag", "X-Spamd", "Subject", "XX-Spam"])
VALUES = st.sampled_from(["yes", "", "a\r\n b", "a\r\n\tX-Spam: b", "X-Spam: no", "\r\n c"])


@given(fields=st.lists(st.tuples(FIELD_NAMES, VALUES), max_size=12), body=st.sampled_from([b"", b"X-Spam: body\r\n"]))
def test_fields_when_removed_then_the_others_and_the_body_are_as_they_were(
    fields: list[tuple[str, str]], body: bytes
) -> None:
    def written(kept: list[tuple[str, str]]) -> bytes:
        return b"".join(f"{name}:{value}\r\n".encode() for name, value in kept) + b"\r\n" + body

    others = [(name, value) for name, value in fields if name.strip().lower() not in ("x-spam", "x-spam-flag")]
    assert without_fields(written(fields), ["X-Spam", "X-Spam-Flag"]) == written(others)


@pytest.mark.parametrize(
    ("content", "left"),
    [
        (b"\r\nX-Spam: body\r\n", b"\r\nX-Spam: body\r\n"),
        (b"X-Spam: yes", b""),
        (b"X-Spam: yes\rSubject: x\r\n\r\n", b"Subject: x\r\n\r\n"),
        (b"A: 1\rX-Spam: yes\nB: 2\n\nX-Spam: body", b"A: 1\rB: 2\n\nX-Spam: body"),
        (b"A: X-Spam: b\r\n\r\n", b"A: X-Spam: b\r\n\r\n"),
    ],
)
def test_fields_when_the_mail_is_odd_then_what_a_reader_may_take_for_one_is_removed(
    content: bytes, left: bytes
) -> None:
    assert without_fields(content, ["X-Spam"]) == left


def test_fields_when_the_header_is_huge_then_it_takes_no_time() -> None:
    content = b"X-Spam: yes\r\n" * 80_000 + b"x" * (25 << 20)
    began = time.perf_counter()
    left = without_fields(content, ["X-Spam", "X-Other"])
    assert time.perf_counter() - began < 1.0 and b"X-Spam" not in left[: 1 << 20]


# -- what is registered -----------------------------------------------------------------------------------------------------


class Asked(Check):
    """Is asked at two steps.

    And more."""

    class Settings(BaseModel):
        model_config = ConfigDict(extra="forbid")
        limit: int
        secret: str = "s3cret"

    async def rcpt(self, client: Client, recipient: str) -> Refuse | None:
        return Refuse(f"{self.settings.limit}")

    def data(self, client: Client, mail: Mail) -> None:  # type: ignore[override]
        pass


def test_check_type_when_it_is_a_class_then_it_is_asked_where_it_has_a_method() -> None:
    found = check_type("asked", Asked, "here", "")
    assert (found.steps, found.summary) == (("rcpt", "data"), "Is asked at two steps.")
    assert list(found.settings.model_fields) == ["limit", "secret"]


def test_check_type_when_it_is_a_function_then_it_is_one_step() -> None:
    @check("lazy", "mail")
    async def lazy(client: Client, sender: str, parameters: Any) -> None:
        """Looks at senders."""

    found = check_type("lazy", lazy, "here", "")
    assert (found.steps, found.summary) == (("mail",), "Looks at senders.")


class Empty(Check):
    pass


class Takes(Check):
    async def rcpt(self, client: Client) -> None:  # type: ignore[override]
        pass


class Yields(Check):
    async def rcpt(self, client: Client, recipient: str) -> Any:
        yield None


class BadSettings(Check):
    Settings = dict  # type: ignore[assignment]

    async def connect(self, client: Client) -> None:
        pass


@check("short", "rcpt")
def short(client: Client) -> None:
    pass


@check("unknown", "ehlo")  # type: ignore[arg-type]
def unknown(client: Client) -> None:
    pass


@pytest.mark.parametrize(
    ("thing", "reason"),
    [
        (Empty, "has no step: it needs one of the methods connect, helo, mail, rcpt, data"),
        (Takes, r"rcpt of \"x\" is called with \(client, recipient\)"),
        (Yields, "has to `return`"),
        (BadSettings, "must be a pydantic model"),
        (lambda client: None, "needs @check"),
        (short, r"called with \(client, recipient\)"),
        (unknown, "needs @check"),
        (object, "must be a subclass of responder.Check"),
        (5, "must be a subclass of responder.Check"),
    ],
)
def test_check_type_when_it_can_not_be_asked_then_it_is_a_mistake(thing: object, reason: str) -> None:
    with pytest.raises(PluginError, match=reason):
        check_type("x", thing, "here", "")


def test_check_type_when_its_name_is_none_then_it_is_a_mistake() -> None:
    for name in ("", " ", "a\n", 5):
        with pytest.raises(PluginError, match="name must be a text"):
            check_type(name, Asked, "here", "")


PLUGIN = """
from responder import Check, Mark, Refuse, check, hookimpl

class One(Check):
    async def connect(self, client):
        return None

@check("two", "rcpt")
def two(client, recipient):
    return Refuse("two")

@hookimpl
def responder_checks():
    return {"one": One}
"""


def test_plugin_when_it_brings_checks_only_then_it_is_one(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(PLUGIN)
    found = load_plugins([tmp_path])
    mine = {name: one for name, one in found.checks.items() if str(tmp_path) in one.origin}
    assert {name: one.steps for name, one in mine.items()} == {"one": ("connect",), "two": ("rcpt",)}
    (tmp_path / "other.py").write_text(PLUGIN)
    with pytest.raises(PluginError, match='the check "one" is already there'):
        load_plugins([tmp_path])


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("return [1]", "responder_checks must return a dict of checks, not list"),
        ("return {'x': 5}", "must be a subclass"),
        ("return None", "must return a dict"),
    ],
)
def test_plugin_when_its_hook_returns_what_is_no_check_then_it_is_one_line(
    tmp_path: Path, source: str, reason: str
) -> None:
    (tmp_path / "bad.py").write_text(
        f"from responder import hookimpl\n\n@hookimpl\ndef responder_checks():\n    {source}\n"
    )
    with pytest.raises(PluginError, match=reason) as error:
        load_plugins([tmp_path])
    assert "\n" not in str(error.value)


# -- how it is built, started and stopped -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tables", "reason"),
    [
        ({"asked": {"settings": {"limit": "x"}}}, r"checks\.asked\.settings\.limit: Input should be a valid integer"),
        ({"asked": {}}, r"checks\.asked\.settings\.limit: is required"),
        (
            {"asked": {"settings": {"limit": 1, "limt": 2}}},
            r"checks\.asked\.settings\.limt: unknown key; known here: limit",
        ),
        ({"asked": {"check": "nosuch"}}, r'checks\.asked\.check: there is no check "nosuch" \(there are: asked\)'),
    ],
)
def test_settings_when_they_do_not_fit_then_the_key_is_named_and_no_value(tables: Any, reason: str) -> None:
    with pytest.raises(PluginError, match=reason) as error:
        guards({"asked": Asked}, tables)
    assert "s3cret" not in str(error.value)


def test_check_when_it_claims_a_field_that_is_not_its_to_set_then_it_is_a_mistake() -> None:
    class Greedy(Asked):
        fields = ("X-Spam", "From")

    with pytest.raises(PluginError, match=r"checks\.greedy: the check \"greedy\" does not start: ValueError"):
        guards({"greedy": Greedy}, {"greedy": {"settings": {"limit": 1}}})


class Living(Check):
    lives: list[str]

    async def start(self) -> None:
        self.lives.append(f"start {self.context.inbox}")
        await self.context.state.set("k", 1)
        self.context.log.info("hello")

    async def stop(self) -> None:
        self.lives.append(f"stop {self.context.inbox}")

    async def connect(self, client: Client) -> None:
        self.lives.append("asked")


async def test_checks_when_one_does_not_start_then_those_that_did_are_stopped() -> None:
    lives: list[str] = []

    class First(Living):
        pass

    class Second(Living):
        async def start(self) -> None:
            raise OSError("no such socket")

    First.lives = Second.lives = lives
    with pytest.raises(
        PluginError, match=r'checks\.b: the check "b" does not start: the check raised OSError: no such socket'
    ):
        async with started(guards({"a": First, "b": Second})):
            raise AssertionError("never reached")
    assert lives == ["start checks.a", "stop checks.b", "stop checks.a"] or lives[:2] == [
        "start checks.a",
        "stop checks.a",
    ]


async def test_checks_when_replaced_then_they_stop_behind_the_last_client() -> None:
    order: list[str] = []
    asked, go = asyncio.Event(), asyncio.Event()

    class Slow(Living):
        lives = order

        async def connect(self, client: Client) -> None:
            asked.set()
            await go.wait()
            order.append("answered")

    async with started(guards({"a": Slow})) as them:
        asking = asyncio.create_task(them.ask("connect", CLIENT, {}))
        await asked.wait()
        stopping = asyncio.create_task(them.stop(20))
        for _ in range(5):
            await asyncio.sleep(0)
        assert order == ["start checks.a"]
        go.set()
        assert await asking == NOTHING
        await stopping
    assert order[:3] == ["start checks.a", "answered", "stop checks.a"]


async def test_check_when_its_plugin_is_broken_and_skipped_then_its_table_decides(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("import nosuchmodule\n")
    plugins = load_plugins([tmp_path], skip_broken=True)
    types = {"gone": stand_in_checks(plugins, ["gone"])["gone"]}
    for failure, expected in (("defer", FAILED), ("ignore", None)):
        async with started(made(types, {"gone": {"failure": failure, "settings": {"any": 1}}})) as them:
            assert (await them.ask("mail", CLIENT, {}, "a@b.example", {})).objection is expected


# -- the hot path, and what blocks ----------------------------------------------------------------------------------------------


def test_guards_when_there_are_none_then_no_step_is_asked() -> None:
    assert not Guards() and Guards().steps == frozenset() and Guards().fields == frozenset()
    assert Config().checks == {}


async def test_check_when_it_blocks_the_loop_then_it_is_interrupted_and_the_next_one_sooner() -> None:
    class Blocking(Check):
        async def connect(self, client: Client) -> None:
            ends = time.monotonic() + 10
            while client.peer == CLIENT.peer and time.monotonic() < ends:
                time.sleep(0.01)

    watchdog = Watchdog()
    watchdog.start()
    try:
        async with started(guards({"b": Blocking}, {"b": {"timeout": "30s"}})) as them:
            took = []
            for _ in range(2):
                began = time.monotonic()
                found = await them.ask("connect", CLIENT, {})
                took.append(time.monotonic() - began)
                assert (found.objection, found.check) == (FAILED, "b")
            assert max(took) < 5.0
            # It is still asked about others.
            assert await them.ask("connect", Client("c2", peer="192.0.2.2"), {}) == NOTHING
    finally:
        watchdog.stop()


@check("spinning", "connect")
async def spinning(client: Client) -> None:
    ends = time.monotonic() + 10
    while time.monotonic() < ends:
        time.sleep(0.01)


async def test_function_when_it_blocks_the_loop_then_it_is_interrupted_too() -> None:
    watchdog = Watchdog()
    watchdog.start()
    try:
        async with started(guards({"spinning": spinning}, {"spinning": {"timeout": "30s"}})) as them:
            began = time.monotonic()
            assert (await them.ask("connect", CLIENT, {})).objection is FAILED
            assert time.monotonic() - began < 5.0
    finally:
        watchdog.stop()


@pytest.mark.parametrize("plain", [False, True])
async def test_check_when_it_takes_too_long_then_it_is_not_waited_for(plain: bool) -> None:
    async def wait(self: Check, client: Client) -> None:
        await asyncio.Event().wait()

    over = threading.Event()

    def block(self: Check, client: Client) -> None:
        over.wait(60)

    slow = type("Slow", (Check,), {"connect": block if plain else wait})
    try:
        async with started(guards({"slow": slow}, {"slow": {"timeout": "50ms"}})) as them:
            began = time.monotonic()
            assert (await them.ask("connect", CLIENT, {})).objection is FAILED
            assert time.monotonic() - began < 3.0
    finally:
        over.set()


async def test_answer_when_it_was_tampered_with_then_it_is_a_failure() -> None:
    class Sly(Refuse):
        pass

    def tampered() -> Refuse:
        found = Sly("no")
        object.__setattr__(found, "text", "no\r\n250 yes")
        return found

    def broken() -> Refuse:
        found = Sly("no")
        object.__setattr__(found, "code", 250)
        return found

    async def ask(make: Callable[[], Refuse]) -> Refuse | Defer | None:
        class Said(Check):
            async def connect(self, client: Client) -> Refuse:
                return make()

        async with started(guards({"s": Said})) as them:
            return (await them.ask("connect", CLIENT, {})).objection

    assert await ask(tampered) == Refuse("no 250 yes")
    assert await ask(broken) is FAILED

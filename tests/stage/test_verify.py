"""`responder.verify()`: hosts that answer oddly, by script. Whatever they do, none hears DATA, or more RCPT than it should."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

import responder
from responder import Verification
from responder.outbound.verifying import probe as engine
from tests.support.clock import ManualClock
from tests.support.dns_server import DNSServer, Zone
from tests.support.smtp_sink import Script, SMTPSink

LISTED = "5.7.1 Service unavailable; client [192.0.2.1] blocked using zen.spamhaus.org"


class Net:
    """A name server and some hosts on loopback addresses of their own, all on one port."""

    def __init__(self, stack: contextlib.AsyncExitStack) -> None:
        self._stack = stack
        self.zone: Zone = {}
        self.server = DNSServer(self.zone)
        self.sinks: list[SMTPSink] = []
        self.limit = 100  # RCPT in a session
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]

    async def host(self, script: Script | None = None, *domains: str, tls: bool = False) -> SMTPSink:
        """The next host, mx1 on 127.0.2.1 and so on, which is the only one of these domains (a.test)."""
        number = len(self.sinks) + 1
        sink = SMTPSink(script, address=f"127.0.2.{number}", port=self.port, tls=tls)
        self.sinks.append(await self._stack.enter_async_context(sink))
        self.zone[f"mx{number}.test"] = {"A": [sink.address]}
        for domain in domains or ("a.test",):
            self.zone[domain] = {"MX": [[10, f"mx{number}.test"]]}
        return sink

    def options(self, **changes: Any) -> dict[str, Any]:
        self.limit = changes.get("max_recipients", 100)
        return {
            "hostname": "probe.example.org",
            "nameservers": [self.server.nameserver],
            "port": self.port,
            "allow_private_addresses": True,
            "timeout": 0.6,
            "pause": 0.0,
            "wait": 0.0,
            **changes,
        }

    async def ask(self, *addresses: str, **changes: Any) -> dict[str, Verification]:
        found = [one async for one in responder.verify(addresses, **self.options(**changes))]
        assert len({one.address for one in found}) == len(found), "an address is told twice"
        return {one.address: one for one in found}

    def sessions(self, sink: SMTPSink) -> list[list[str]]:
        """The addresses of RCPT, session by session."""
        found: list[list[str]] = [[] for _ in range(sink.connections)]
        for number, line in sink.commands:
            if line.upper().startswith("RCPT TO:<"):
                found[number - 1].append(line[9:].partition(">")[0])
        return found


@pytest.fixture
async def net() -> AsyncIterator[Net]:
    async with contextlib.AsyncExitStack() as stack:
        net = Net(stack)
        await stack.enter_async_context(net.server)
        yield net
        for sink in net.sinks:
            assert not {"DATA", "BDAT", "VRFY", "EXPN"} & set(sink.verbs()), "a host was asked for more than RCPT"
            assert sink.transactions == []
            assert all(len(session) <= net.limit for session in net.sessions(sink)), "too many RCPT in a session"
    assert [task for task in asyncio.all_tasks() if task.get_name().startswith("verify")] == []


def knows(*names: str) -> Callable[[str, str], str | None]:
    """A host that has these mailboxes and no other."""

    def script(step: str, argument: str) -> str | None:
        if step == "RCPT" and argument[4:].partition("@")[0] not in names:
            return "550 5.1.1 no such user"
        return None

    return script


def words(found: dict[str, Verification]) -> dict[str, str]:
    return {address: str(one.result) for address, one in found.items()}


async def test_addresses_when_a_host_knows_some_then_each_is_told_once(net: Net) -> None:
    sink = await net.host(knows("ann"), tls=True)
    found = await net.ask("ann@a.test", "bob@a.test", "ann@A.test", " ann@a.test ", "two@@a.test")
    assert words(found) == {"ann@a.test": "exists", "bob@a.test": "unknown", "two@@a.test": "invalid"}
    ann = found["ann@a.test"]
    assert (ann.code, ann.enhanced, ann.text) == (250, "2.1.5", "2.1.5 ok")
    assert (ann.host, ann.ip, ann.tls, ann.tries, ann.catch_all) == ("mx1.test", "127.0.2.1", "TLSv1.3", 1, False)
    assert found["bob@a.test"].code == 550 and found["bob@a.test"].text == "5.1.1 no such user"
    assert sink.verbs() == ["EHLO", "STARTTLS", "EHLO", "MAIL", "RCPT", "RCPT", "RSET", "MAIL", "RCPT", "RSET", "QUIT"]
    assert (1, "EHLO probe.example.org") in sink.commands and (1, "MAIL FROM:<>") in sink.commands


async def test_domains_when_they_share_a_host_then_they_share_its_session(net: Net) -> None:
    sink = await net.host(knows("ann"), "a.test", "b.test", "c.test")
    net.zone["d.test"] = {"A": ["127.0.2.1"]}  # by another name
    found = await net.ask("ann@a.test", "ann@b.test", "bob@c.test", "bob@d.test", pause=0.2)
    assert words(found) == {
        "ann@a.test": "exists",
        "ann@b.test": "exists",
        "bob@c.test": "unknown",
        "bob@d.test": "unknown",
    }
    assert found["bob@d.test"].host == "d.test"
    assert sink.connections == 1


@pytest.mark.parametrize(("count", "sessions"), [(99, 1), (100, 2), (199, 2), (200, 3)])
async def test_session_when_it_has_had_its_recipients_then_another_begins(net: Net, count: int, sessions: int) -> None:
    sink = await net.host(knows("u0"))  # the random address is one more
    found = await net.ask(*[f"u{n}@a.test" for n in range(count)])
    assert Counter(words(found).values()) == {"exists": 1, "unknown": count - 1}
    assert [len(one) for one in net.sessions(sink)][:-1] == [100] * (sessions - 1)
    assert sum([len(one) for one in net.sessions(sink)]) == count + 1


@pytest.mark.parametrize("limit", [1, 7])
async def test_session_when_few_recipients_are_allowed_then_none_has_more(net: Net, limit: int) -> None:
    sink = await net.host(knows("u0"))
    found = await net.ask(*[f"u{n}@a.test" for n in range(20)], max_recipients=limit)
    assert len(found) == 20
    assert sink.connections == -(-21 // limit)


async def test_catch_all_when_a_random_address_is_taken_then_it_is_asked_once(net: Net) -> None:
    sink = await net.host()
    found = await net.ask(*[f"u{n}@a.test" for n in range(50)])
    assert set(words(found).values()) == {"catch-all"} and all(one.catch_all for one in found.values())
    [asked] = net.sessions(sink)
    assert len(asked) == 51
    assert [address for address in asked if not address.startswith("u")] == [asked[20]]  # behind the first batch
    found = await net.ask("u@a.test", catch_all=False)
    assert words(found) == {"u@a.test": "exists"} and found["u@a.test"].catch_all is None


@pytest.mark.parametrize(
    ("reply", "word"),
    [
        ("250 2.1.5 ok", "catch-all"),
        ("251 will forward", "catch-all"),
        ("252 2.1.5 Cannot verify; send the mail and see", "unclear"),
        ("550 5.1.1 user unknown", "unknown"),
        ("450 4.1.1 user unknown", "unknown"),
        ("550 5.2.1 mailbox disabled", "refused"),
        ("552 5.2.2 mailbox full", "exists"),
        ("452 4.2.2 mailbox full", "exists"),
        ("554 5.7.1 Relay access denied", "refused"),
        ("550 5.7.1 rejected by policy", "refused"),
        (f"554 {LISTED}", "blocked"),
        ("450 4.2.0 Greylisted, try later", "greylisted"),
        ("451 4.7.1 Greylisting in action", "greylisted"),
        ("451 4.3.0 temporary failure", "unclear"),
        ("550 too many recipients this hour", "unclear"),
        ("421 4.7.0 go away", "unclear"),
        ("550-5.1.1 The email account does not exist\n550 5.1.1 really", "unknown"),
        ("garbage", "unclear"),
        ("drop", "closed"),
        ("hang", "timeout"),
    ],
)
async def test_reply_to_rcpt_when_it_is_this_then_the_word_is_that(net: Net, reply: str, word: str) -> None:
    await net.host({"RCPT": [reply] * 4} if not reply.startswith("25") else {"RCPT": reply})
    found = await net.ask("ann@a.test")
    assert words(found) == {"ann@a.test": word}
    if reply[0].isdigit():
        assert found["ann@a.test"].code == int(reply[:3])


@pytest.mark.parametrize(
    ("step", "reply", "word"),
    [
        ("BANNER", f"554 {LISTED}", "blocked"),
        ("BANNER", "554 5.0.0 no SMTP service here", "closed"),
        ("BANNER", "521 5.0.0 this host does not accept mail", "closed"),
        ("BANNER", "421 4.3.2 shutting down", "unclear"),
        ("BANNER", "drop", "closed"),
        ("BANNER", "hang", "timeout"),
        ("BANNER", "garbage", "unclear"),
        ("EHLO", "hang", "timeout"),
        ("EHLO", "drop", "closed"),
        ("EHLO", f"421 {LISTED}", "blocked"),
        ("MAIL", f"554 {LISTED}", "blocked"),
        ("MAIL", "550 5.1.8 sender unknown", "refused"),
        ("MAIL", "530 5.7.0 must issue STARTTLS first", "refused"),
        ("MAIL", "451 4.7.1 greylisted", "greylisted"),
        ("MAIL", "452 4.3.1 no room", "unclear"),
        ("MAIL", "hang", "timeout"),
        ("RSET", "drop", "unknown"),
        ("RSET", "hang", "unknown"),
        ("RSET", "500 5.5.1 what", "unknown"),
        ("QUIT", "hang", "unknown"),
    ],
)
async def test_step_when_it_fails_then_all_addresses_hear_why(net: Net, step: str, reply: str, word: str) -> None:
    def script(at: str, argument: str) -> str | None:
        return reply if at == step else "550 5.1.1 nobody" if at == "RCPT" else None

    sink = await net.host(script, "a.test", "b.test")
    found = await net.ask(*[f"u{n}@a.test" for n in range(30)], "u@b.test")
    assert set(words(found).values()) == {word} and len(found) == 31
    assert sink.connections <= 3


async def test_host_when_it_has_enough_of_unknown_users_then_the_rest_is_asked_in_more_sessions(net: Net) -> None:
    errors: Counter[int] = Counter()

    def script(step: str, argument: str) -> str | None:
        if step == "BANNER":
            errors.clear()
        if step != "RCPT" or "u0@" in argument:
            return None
        errors[0] += 1
        return "550 5.1.1 no such user" if errors[0] <= 3 else "421 4.7.0 too many errors"

    sink = await net.host(script)
    found = await net.ask(*[f"u{n}@a.test" for n in range(20)])
    assert Counter(words(found).values()) == {"exists": 1, "unknown": 19}
    sessions = net.sessions(sink)
    answered = Counter([address for session in sessions for address in session[:4]])
    assert max(answered.values()) <= 2
    assert max([len(session) for session in sessions[2:]]) <= 4, "a host that cuts sessions off is asked less"


@pytest.mark.parametrize(("deed", "word"), [("drop", "closed"), ("hang", "timeout"), ("garbage", "unclear")])
async def test_address_when_each_session_breaks_at_it_then_the_others_are_known(net: Net, deed: str, word: str) -> None:
    def script(step: str, argument: str) -> str | None:
        if step == "RCPT":
            return deed if "u5@" in argument else "550 5.1.1 no"
        return None

    sink = await net.host(script)
    found = await net.ask(*[f"u{n}@a.test" for n in range(12)])
    assert words(found) == {f"u{n}@a.test": word if n == 5 else "unknown" for n in range(12)}
    assert sink.connections <= (4 if deed == "garbage" else 3)  # whom garbage answers, nobody knows at first


async def test_recipients_when_one_transaction_takes_few_then_the_next_has_the_rest(net: Net) -> None:
    accepted: Counter[int] = Counter()

    def script(step: str, argument: str) -> str | None:
        if step == "MAIL":
            accepted.clear()
        if step == "RCPT":
            accepted[0] += 1
            return "452 4.5.3 too many recipients" if accepted[0] > 5 else None
        return None

    sink = await net.host(script)
    found = await net.ask(*[f"u{n}@a.test" for n in range(40)], max_recipients=30)
    assert set(words(found).values()) == {"catch-all"}
    asked = Counter([address for session in net.sessions(sink) for address in session])
    assert max(asked.values()) == 2 and sum(asked.values()) == 41 + 15


async def test_hosts_when_the_best_is_down_then_the_next_is_asked_and_no_other(net: Net) -> None:
    await net.host({"BANNER": "421 4.3.2 closing"}, "other.test")
    good = await net.host(knows("ann"), "b.test")
    idle = await net.host(None, "c.test")
    net.zone["a.test"] = {
        "MX": [[5, "dead.test"], [7, "dangling.test"], [10, "mx1.test"], [20, "mx2.test"], [30, "mx3.test"]]
    }
    net.zone["dead.test"] = {"A": ["127.0.2.99"]}
    found = await net.ask("ann@a.test", "bob@a.test")
    assert words(found) == {"ann@a.test": "exists", "bob@a.test": "unknown"}
    assert found["bob@a.test"].host == "mx2.test"
    assert (good.connections, idle.connections) == (1, 0)


async def test_host_when_it_says_nothing_then_all_its_domains_cost_one_time_out(net: Net) -> None:
    names = [f"d{n}.test" for n in range(12)]
    sink = await net.host({"BANNER": "hang"}, *names)
    began = asyncio.get_running_loop().time()
    found = await net.ask(*[f"x@{name}" for name in names])
    assert set(words(found).values()) == {"timeout"}
    assert asyncio.get_running_loop().time() - began < 3 * 0.6
    assert sink.connections == 1


async def test_host_when_it_has_said_nothing_then_it_is_not_asked_again_for_domains_that_come_later(net: Net) -> None:
    first, second = await net.host({"BANNER": "hang"}, "x.test"), await net.host({"BANNER": "hang"}, "b.test")
    net.zone["a.test"] = {"MX": [[10, "mx1.test"], [20, "mx2.test"]]}
    found = await net.ask("x@a.test", "x@b.test")
    assert words(found) == {"x@a.test": "timeout", "x@b.test": "timeout"}
    assert (first.connections, second.connections) == (1, 1)


async def test_host_when_it_says_nothing_then_others_do_not_wait_for_it(net: Net) -> None:
    await net.host({"BANNER": "hang"}, "silent.test")
    await net.host(knows("ann"), "a.test")
    options = net.options(timeout=30.0, concurrency=2)
    told = responder.verify(["x@silent.test", "ann@a.test", "bob@a.test"], **options)
    first = {(await anext(told)).address for _ in range(2)}
    assert first == {"ann@a.test", "bob@a.test"}
    await told.aclose()


async def test_host_when_it_blocks_us_then_nobody_else_is_asked_there(net: Net) -> None:
    sink = await net.host({"RCPT": [f"554 {LISTED}"] * 99}, "a.test", "b.test")
    found = await net.ask(*[f"u{n}@a.test" for n in range(100)], "x@b.test")
    assert set(words(found).values()) == {"blocked"} and len(found) == 101
    assert sum([len(session) for session in net.sessions(sink)]) <= 20


async def test_block_when_it_is_said_of_one_recipient_only_then_the_others_are_asked(net: Net) -> None:
    def script(step: str, argument: str) -> str | None:
        return f"554 {LISTED}" if step == "RCPT" and "u3@" in argument else knows("u1")(step, argument)

    await net.host(script)
    found = await net.ask(*[f"u{n}@a.test" for n in range(60)])
    assert Counter(words(found).values()) == {"exists": 1, "blocked": 1, "unknown": 58}


async def test_hosts_when_they_are_not_on_the_internet_then_nobody_is_asked(net: Net) -> None:
    sink = await net.host(None, "a.test")
    net.zone["meta.test"] = {"A": ["169.254.169.254"]}
    found = await net.ask("x@a.test", "x@meta.test", "x@[127.0.2.1]", allow_private_addresses=False)
    assert set(words(found).values()) == {"no MX"} and sink.connections == 0
    assert found["x@a.test"].text == "127.0.2.1 is a loopback address"
    assert found["x@a.test"].tries == 0


async def test_source_address_when_it_is_chosen_then_it_is_used(net: Net) -> None:
    sink = await net.host(knows("ann"))
    net.zone["six.test"] = {"AAAA": ["::1"]}
    found = await net.ask("ann@a.test", "x@six.test", source_address="127.0.2.200", sender="me@sender.test")
    assert words(found) == {"ann@a.test": "exists", "x@six.test": "no route"}
    assert (1, "MAIL FROM:<me@sender.test>") in sink.commands


async def test_addresses_when_they_are_international_then_they_go_where_the_host_takes_them(net: Net) -> None:
    sink = await net.host(knows("ann", "jörg"), "a.test", "xn--bcher-kva.test")
    found = await net.ask("ann@bücher.test", "jörg@a.test")
    assert words(found) == {"ann@bücher.test": "exists", "jörg@a.test": "exists"}
    assert "ann@xn--bcher-kva.test" in net.sessions(sink)[0]


# -- those that are put off ------------------------------------------------------------------------------------------------


class Greylist:
    """A host that has what it is asked the first time asked again."""

    def __init__(self, *names: str, times: int = 1) -> None:
        self.seen: Counter[str] = Counter()
        self._names = names
        self._times = times

    def __call__(self, step: str, argument: str) -> str | None:
        if step != "RCPT":
            return None
        self.seen[argument] += 1
        if self.seen[argument] <= self._times:
            return "450 4.2.0 Greylisted, see http://postgrey.schweikert.ch/"
        return knows(*self._names)(step, argument)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


async def advance(clock: ManualClock, task: asyncio.Task[Any], step: float = 5.0) -> float:
    """Let time pass until the task is done; the seconds."""
    began = clock.monotonic()
    async with asyncio.timeout(20):
        while not task.done():
            clock.advance(step)
            await asyncio.sleep(0.02)
    return clock.monotonic() - began


async def test_greylisted_when_the_wait_is_over_then_all_are_asked_again_in_one_session(net: Net) -> None:
    host = Greylist("ann", "eve")
    sink = await net.host(host, "a.test", "b.test")
    clock = ManualClock()
    names = [f"{name}@{domain}" for name in ("ann", "bob", "eve") for domain in ("a.test", "b.test")]
    task = asyncio.create_task(net.ask(*names, wait=300.0, clock=clock))
    await until(lambda: len(host.seen) == 6 and clock.sleeping)
    await asyncio.sleep(0.1)
    for _ in range(299):
        clock.advance(1.0)
        await asyncio.sleep(0)
    await asyncio.sleep(0.05)
    assert set(host.seen.values()) == {1} and sink.connections == 1, "nobody is asked before the wait is over"
    await advance(clock, task, 1.0)
    found = task.result()
    assert Counter(words(found).values()) == {"exists": 4, "unknown": 2}
    assert {one.tries for one in found.values()} == {2}
    asked = Counter([address for session in net.sessions(sink) for address in session])
    randoms = {address: count for address, count in asked.items() if address not in names}
    assert len(randoms) == 2 and set(randoms.values()) == {2}, "the random address is the same again"
    assert sink.connections == 3  # the first, all that waited, the random ones that were put off


async def test_greylisted_when_it_never_ends_then_it_is_said_after_the_last_try(net: Net) -> None:
    host = Greylist(times=99)
    await net.host(host)
    clock = ManualClock()
    task = asyncio.create_task(net.ask("ann@a.test", wait=300.0, tries=3, clock=clock))
    await until(lambda: clock.sleeping)
    assert await advance(clock, task) >= 600
    assert words(task.result()) == {"ann@a.test": "greylisted"}
    assert task.result()["ann@a.test"].tries == 3 and set(host.seen.values()) == {3}


async def test_busy_host_when_the_wait_is_over_then_its_domains_are_asked_again(net: Net) -> None:
    calls: Counter[str] = Counter()

    def script(step: str, argument: str) -> str | None:
        calls[step] += 1
        return "421 4.3.2 busy" if step == "BANNER" and calls[step] == 1 else knows("ann")(step, argument)

    await net.host(script)
    clock = ManualClock()
    task = asyncio.create_task(net.ask("ann@a.test", "bob@a.test", wait=700.0, clock=clock))
    await until(lambda: clock.sleeping)
    await advance(clock, task)
    assert words(task.result()) == {"ann@a.test": "exists", "bob@a.test": "unknown"}


# -- manners ---------------------------------------------------------------------------------------------------------------


async def test_host_when_many_domains_wait_then_it_has_one_connection_at_a_time(net: Net) -> None:
    names = [f"d{n}.test" for n in range(40)]
    sink = await net.host({"RCPT": ["slow 0.01"] * 50}, *names)
    most = 0

    async def watch() -> None:
        nonlocal most
        while True:
            most = max(most, sink.open)
            await asyncio.sleep(0.001)

    watching = asyncio.create_task(watch())
    found = await net.ask(*[f"x@{name}" for name in names], max_recipients=4)
    watching.cancel()
    assert len(found) == 40 and most == 1 and sink.connections == 20


async def test_hosts_when_there_are_many_then_no_more_than_concurrency_are_asked_at_once(net: Net) -> None:
    for n in range(8):
        await net.host({"RCPT": "slow 0.05"}, f"d{n}.test")
    most = 0

    async def watch() -> None:
        nonlocal most
        while True:
            most = max(most, sum([sink.open for sink in net.sinks]))
            await asyncio.sleep(0.001)

    watching = asyncio.create_task(watch())
    found = await net.ask(*[f"x@d{n}.test" for n in range(8)], concurrency=3)
    watching.cancel()
    assert len(found) == 8 and 1 < most <= 3


async def test_sessions_when_there_are_several_then_there_is_a_pause_between_them(net: Net) -> None:
    sink = await net.host(knows())
    clock = ManualClock()
    task = asyncio.create_task(net.ask("a@a.test", "b@a.test", "c@a.test", max_recipients=1, pause=2.0, clock=clock))
    await until(lambda: sink.connections == 1 and clock.sleeping)
    clock.advance(1.9)
    await asyncio.sleep(0.05)
    assert sink.connections == 1
    assert await advance(clock, task, 0.1) >= 2.0
    assert len(task.result()) == 3


async def test_pause_when_one_host_rests_then_another_is_asked(net: Net) -> None:
    first, second = await net.host(knows(), "a.test"), await net.host(knows(), "b.test")
    clock = ManualClock()
    asking = net.ask("a@a.test", "b@a.test", "c@b.test", max_recipients=1, pause=2.0, concurrency=1, clock=clock)
    task = asyncio.create_task(asking)
    await until(lambda: first.connections == second.connections == 1)
    await advance(clock, task)
    assert len(task.result()) == 3


async def test_caller_when_it_goes_early_then_hosts_hear_quit_and_nothing_is_left(net: Net) -> None:
    sink = await net.host({"RCPT": "slow 0.02"})
    told = responder.verify([f"u{n}@a.test" for n in range(100)], **net.options(max_recipients=50, catch_all=False))
    first = await anext(told)
    assert first.result == "exists"
    await told.aclose()
    assert sink.verbs()[-1] == "QUIT"
    assert sum([len(session) for session in net.sessions(sink)]) < 60


async def test_caller_when_it_is_slow_then_asking_waits(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "MAX_WAITING", 30)
    sink = await net.host({"RCPT": "550 5.1.1 no"})
    told = responder.verify([f"u{n}@a.test" for n in range(300)], **net.options())
    await anext(told)
    await asyncio.sleep(0.3)
    assert sum([len(session) for session in net.sessions(sink)]) < 120
    assert len([one async for one in told]) == 299


@pytest.mark.parametrize(
    "wrong",
    [
        {"hostname": "two words"},
        {"hostname": "a\r\nMAIL FROM:<x>"},
        {"sender": "x"},
        {"source_address": "here"},
        {"max_recipients": 0},
        {"timeout": 0},
        {"port": 0},
        {"concurrency": 0},
        {"nameservers": ["x"]},
        {"timeout": float("nan")},
        {"wait": float("nan")},
    ],
)
async def test_arguments_when_they_can_not_be_then_nobody_is_asked(net: Net, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        await net.ask("x@a.test", **wrong)


def test_program_without_a_loop_when_it_asks_then_it_gets_a_list() -> None:
    [one] = responder.verify_all(["no address"], hostname="probe.example.org")
    assert (one.result, one.determined) == ("invalid", True)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"addresses": "ann@a.test", "hostname": "probe.example.org"}, "addresses: wants a list"),
        ({"addresses": ["ann@a.test"], "hostname": ""}, "host name: "),
        ({"addresses": ["ann@a.test"], "hostname": "probe.example.org", "sender": "x"}, "sender: "),
        ({"addresses": ["ann@a.test"], "hostname": "probe.example.org", "source_address": "x"}, "source address: "),
    ],
)
def test_argument_when_it_can_not_be_then_it_is_named(arguments: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        responder.verify_all(**arguments)


async def test_program_with_a_loop_when_it_asks_for_a_list_then_it_is_told_what_to_use() -> None:
    with pytest.raises(RuntimeError, match="async for one in verify"):
        responder.verify_all(["no address"], hostname="probe.example.org")

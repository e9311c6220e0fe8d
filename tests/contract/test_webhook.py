"""The agent `webhook` against a real HTTP server that answers well, badly and not at all."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import re
import shutil
import subprocess
import time
import tomllib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from plugins.webhook import Webhook, WebhookError
from responder import Answer, Forward, GiveUp, Mail, Reply, TryLater, answer_from_json, mail_to_json
from responder.agents.host import check
from responder.config import Config
from responder.mail.address import parse
from tests.support.clock import START, ManualClock
from tests.support.http_server import HTTPServer, Said, said_json
from tests.support.memory import equipped
from tests.support.server import ROOT
from tests.support.waiting import until

SECRET = "0123456789abcdef-secret"
PAGE = (ROOT / "docs" / "agents" / "webhook.md").read_text(encoding="utf-8")
RAW = b"""\
From: Ann <ann@client.example>\r
To: hook@test.example\r
Subject: =?utf-8?Q?Re:_Gr=C3=BC=C3=9Fe?=\r
Message-ID: <2@client.example>\r
In-Reply-To: <1@client.example>\r
References: <1@client.example>\r
Date: Fri, 20 Nov 2026 10:11:12 +0100\r
X-Twice: one\r
X-Twice: two\r
MIME-Version: 1.0\r
Content-Type: multipart/mixed; boundary=b\r
\r
--b\r
Content-Type: text/plain; charset=utf-8\r
\r
Sch\xc3\xb6n.\r
\r
> old\r
--b\r
Content-Type: image/png; name="../../etc/pass\x00wd.png"\r
Content-Transfer-Encoding: base64\r
\r
iVBORw==\r
--b--\r
"""


def mail(raw: bytes = RAW) -> Mail:
    return Mail(
        raw,
        id="0" * 18 + ".0",
        inbox="hook",
        recipient=parse("hook+tag@test.example"),
        sender="ann@client.example",
        peer="127.0.0.1",
    )


@pytest.fixture
def server() -> Iterator[HTTPServer]:
    with HTTPServer({}) as server:
        yield server


class Asking:
    """Agents whose contexts are closed when the test is over."""

    def __init__(self, server: HTTPServer) -> None:
        self.server = server
        self.agents: list[Webhook] = []

    def agent(self, **settings: Any) -> Webhook:
        settings = {"url": f"{self.server.url}/hook", "secret": SECRET, "timeout": 10.0, **settings}
        agent = equipped(Webhook, ManualClock(), "hook", **settings)
        self.agents.append(agent)
        return agent

    async def __call__(self, said: Said | list[Said], received: bytes = RAW, **settings: Any) -> Answer:
        """The agent's answer, as the core takes it, where the server says that."""
        self.server.routes["/hook"] = said
        return check(await self.agent(**settings).answer(mail(received)))


@pytest.fixture
async def asking(server: HTTPServer) -> AsyncIterator[Asking]:
    asking = Asking(server)
    yield asking
    for agent in asking.agents:
        await agent.context.close()


# -- the request ----------------------------------------------------------------------------------------------------------


async def test_mail_when_posted_then_the_json_is_the_documented_one(asking: Asking, server: HTTPServer) -> None:
    assert await asking(Said(204), attachments=True, raw=True, headers={"Authorization": "Bearer t"}) is None
    [request] = server.requests
    told = request.json
    assert request.method == "POST"
    assert request.headers["authorization"] == "Bearer t"
    assert request.headers["content-type"] == "application/json"
    assert request.headers["idempotency-key"] == told["id"] == "0" * 18 + ".0"
    assert (told["version"], told["inbox"], told["tag"]) == (1, "hook", "tag")
    assert (told["recipient"], told["sender"]) == ("hook+tag@test.example", "ann@client.example")
    assert (told["from"], told["subject"], told["base_subject"]) == ("ann@client.example", "Re: Grüße", "Grüße")
    assert (told["text"], told["reply_text"], told["html"]) == ("Schön.\n\n> old", "Schön.", "")
    assert [value for name, value in told["headers"] if name == "x-twice"] == ["one", "two"]
    [file] = told["attachments"]
    assert re.fullmatch(r"[^/\x00]+\.png", file["name"])
    assert file == {"name": file["name"], "content_type": "image/png", "size": 4, "data": "iVBORw=="}
    assert (told["date"], told["message_id"]) == ("2026-11-20T10:11:12+01:00", "<2@client.example>")
    assert told["thread"] == {
        "key": "<1@client.example>",
        "in_reply_to": "<1@client.example>",
        "references": ["<1@client.example>"],
    }
    assert told["authentication"] == {"spf": None, "dkim": None, "dmarc": None, "dmarc_policy": None, "arc": None}
    assert base64.b64decode(told["raw"]) == RAW
    documented = re.findall(r"^\| `(\w+)` \|", PAGE.partition("## The request")[2].partition("Three headers")[0], re.M)
    assert list(told) == documented


async def test_request_when_signed_then_the_receiver_can_tell(asking: Asking, server: HTTPServer) -> None:
    await asking(Said(204))
    [request] = server.requests
    timestamp = request.headers["x-responder-timestamp"]
    assert timestamp == str(int(START))
    wanted = hmac.new(SECRET.encode(), timestamp.encode() + b"." + request.body, hashlib.sha256).hexdigest()
    assert request.headers["x-responder-signature"] == f"sha256={wanted}"


async def test_python_example_when_it_verifies_then_only_what_is_genuine_passes(
    asking: Asking, server: HTTPServer
) -> None:
    [source] = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    scope: dict[str, Any] = {}
    exec(compile(source, "webhook.md", "exec"), scope)
    genuine = scope["genuine"]
    await asking(Said(204))
    [request] = server.requests
    headers = {name.title(): value for name, value in request.headers.items()}
    assert genuine(SECRET, headers, request.body, START)
    assert not genuine(SECRET, headers, request.body + b" ", START)
    assert not genuine("another-secret-of-some-length", headers, request.body, START)
    assert not genuine(SECRET, headers, request.body, START + 301)
    assert not genuine(SECRET, {**headers, "X-Responder-Timestamp": str(int(START) + 1)}, request.body, START)
    assert not genuine(SECRET, {}, request.body, START)


@pytest.mark.peer("node")
def test_node_example_when_run_then_it_answers_what_is_genuine_and_refuses_the_rest(tmp_path: Path) -> None:
    [source] = re.findall(r"^```javascript\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    (tmp_path / "receiver.js").write_text(source)
    node = subprocess.Popen(
        [shutil.which("node") or "node", str(tmp_path / "receiver.js")],
        env={"SECRET": SECRET, "PORT": "0"},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert node.stdout
        url = f"http://127.0.0.1:{int(node.stdout.readline())}/"

        async def ask(secret: str) -> Answer:
            clock = ManualClock(time.time())  # the receiver has the real time
            agent = equipped(Webhook, clock, "hook", url=url, secret=secret)
            try:
                return await agent.answer(mail())
            finally:
                await agent.context.close()

        answer = asyncio.run(ask(SECRET))
        assert isinstance(answer, Reply)
        assert answer.text == "You wrote about Re: Grüße:\n\nSchön.\n"
        with pytest.raises(GiveUp, match="the webhook said 401"):
            asyncio.run(ask("another-secret-of-some-length"))
    finally:
        node.kill()
        node.communicate()


async def test_mail_when_posted_again_then_key_and_body_are_the_same(asking: Asking, server: HTTPServer) -> None:
    server.routes["/hook"] = [Said(500), Said(body=b"at last")]
    agent = asking.agent()
    with pytest.raises(WebhookError):
        await agent.answer(mail())
    assert isinstance(agent.context.clock, ManualClock)
    agent.context.clock.advance(100)
    answer = await agent.answer(mail())
    assert isinstance(answer, Reply)
    first, second = server.requests
    assert first.body == second.body
    assert first.headers["idempotency-key"] == second.headers["idempotency-key"]
    assert first.headers["x-responder-timestamp"] != second.headers["x-responder-timestamp"]


async def test_files_when_not_wanted_or_too_large_then_their_names_go_alone(asking: Asking, server: HTTPServer) -> None:
    await asking(Said(204))
    await asking(Said(204), attachments=True, max_attachments=3)
    for request in server.requests:
        [file] = request.json["attachments"]
        assert (file["size"], file["data"]) == (4, None)
        assert "raw" not in request.json


# -- the response ---------------------------------------------------------------------------------------------------------


async def test_json_when_it_says_everything_then_the_answer_has_it(asking: Asking) -> None:
    said = {
        "text": "Hello",
        "html": "<p>Hello</p>",
        "subject": "About it",
        "attachments": [{"name": "a.csv", "content_type": "text/csv", "data": "MSwy"}],
        "headers": {"Organization": "Us"},
        "tag": "t-1",
        "handle": "h",
        "interval": 60,
    }
    answer = await asking(said_json(said))
    assert isinstance(answer, Reply)
    assert (answer.text, answer.html, answer.subject, answer.tag) == ("Hello", "<p>Hello</p>", "About it", "t-1")
    assert (answer.headers, answer.handle, answer.interval) == ({"Organization": "Us"}, "h", 60)
    [file] = answer.attachments
    assert (file.name, file.content_type, file.data) == ("a.csv", "text/csv", b"1,2")


@pytest.mark.parametrize(
    ("said", "text", "html"),
    [
        (Said(body="Grüße".encode()), "Grüße", ""),
        (Said(201, "Grüße".encode("latin-1"), {"Content-Type": "text/plain; charset=ISO-8859-1"}), "Grüße", ""),
        (Said(body=b"a\xff", headers={"Content-Type": "text/plain; charset=no-such"}), "a\ufffd", ""),
        (Said(body=b"<b>x</b>", headers={"Content-Type": "text/html"}), "", "<b>x</b>"),
        (Said(body=b'{"text":"j"}', headers={"Content-Type": "application/problem+json"}), "j", ""),
    ],
)
async def test_text_when_responded_then_it_is_the_answer(asking: Asking, said: Said, text: str, html: str) -> None:
    answer = await asking(said)
    assert isinstance(answer, Reply)
    assert (answer.text, answer.html) == (text, html)


@pytest.mark.parametrize(
    "said",
    [
        Said(204),
        Said(200),
        Said(202, b" \r\n"),
        said_json(None),
        said_json({}),
        said_json({"text": " \n"}),
        said_json({"action": "silence"}),
    ],
)
async def test_nothing_when_responded_then_it_is_silence(asking: Asking, said: Said) -> None:
    assert await asking(said) is None


async def test_forward_when_responded_then_the_core_gets_it(asking: Asking) -> None:
    said = {"action": "forward", "to": ["team@example.net"], "subject_prefix": "[x] "}
    assert await asking(said_json(said)) == Forward(to=["team@example.net"], subject_prefix="[x] ")


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        (Said(429, headers={"Retry-After": "120"}), 120),
        (Said(503, headers={"Retry-After": "Fri, 15 Jan 2027 08:01:00 GMT"}), 60),
        (Said(503, headers={"Retry-After": "99999999999999999999"}), 3600),
        (Said(503, headers={"Retry-After": "Thu, 01 Jan 1970 00:00:00 GMT"}), 1),
        (Said(429, headers={"Retry-After": "0"}), 1),
    ],
)
async def test_retry_after_when_said_then_it_is_obeyed_within_bounds(
    asking: Asking, said: Said, seconds: float
) -> None:
    with pytest.raises(TryLater) as caught:
        await asking(said)
    assert caught.value.seconds == seconds


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 599])
@pytest.mark.parametrize("after", [None, "soon", "-1"])
async def test_status_when_it_may_pass_then_the_core_tries_again(
    asking: Asking, status: int, after: str | None
) -> None:
    headers = {} if after is None else {"Retry-After": after}
    with pytest.raises(WebhookError, match=f"^the webhook said {status}$"):
        await asking(Said(status, headers=headers))


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 409, 410, 413, 422, 451])
async def test_status_when_it_is_final_then_the_agent_gives_up_and_says_why(asking: Asking, status: int) -> None:
    with pytest.raises(GiveUp, match=f"^the webhook said {status}: no such\\[31m thing$"):
        await asking(Said(status, b"no such\x1b[31m\r\nthing"))


async def test_redirect_when_responded_then_it_is_not_followed(asking: Asking, server: HTTPServer) -> None:
    for status in (301, 302, 303, 307, 308):
        with pytest.raises(GiveUp, match=f"^the webhook said {status}: redirects are not followed"):
            await asking(Said(status, headers={"Location": "/elsewhere"}))
    assert {request.path for request in server.requests} == {"/hook"}


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (said_json({"txet": "x"}), "no answer: 'txet': unknown key"),
        (said_json({"text": 1}), "no answer: 'text': Input should be a valid string"),
        (said_json({"action": "shout"}), "no answer: 'action': "),
        (said_json({"attachments": [{"name": "a", "data": "!"}]}), "no answer: 'attachments.0.data': wants base64"),
        (said_json(["text"]), "no answer: it is a JSON array, not an object"),
        (
            Said(body=b'{"text": "x"', headers={"Content-Type": "application/json"}),
            "no answer: it is no JSON at line 1",
        ),
        (Said(body=b"\xff", headers={"Content-Type": "application/json"}), "no answer: it is no"),
        (Said(body=b"[" * 100_000, headers={"Content-Type": "application/json"}), "no answer: it is nested too deeply"),
        (Said(body=b"9" * 5000, headers={"Content-Type": "application/json"}), "no answer: it is no JSON"),
        (Said(body=b"x", headers={"Content-Type": "image/png"}), "is image/png, not JSON"),
        (Said(body=b"x", headers={}), "is without a Content-Type"),
        (Said(body=b"x", headers={"Content-Type": "text/plain", "Content-Encoding": "gzip"}), "is compressed"),
    ],
)
async def test_response_when_it_is_no_answer_then_the_agent_gives_up(asking: Asking, said: Said, reason: str) -> None:
    with pytest.raises(GiveUp, match=re.escape(reason)):
        await asking(said)


# -- what goes wrong on the way -------------------------------------------------------------------------------------------


async def test_response_when_it_never_ends_then_it_is_left_at_the_limit(asking: Asking, server: HTTPServer) -> None:
    said = Said(body=b"x" * 4096, endless=True)
    with pytest.raises(GiveUp, match="the webhook's response has more than 100000 octets"):
        await asking(said, max_response=100_000)
    await asyncio.to_thread(until, lambda: not server._sockets, 10, "the connection is still open")
    assert server.sent < 20_000_000


@pytest.mark.parametrize("said", [Said(hang=True), Said(body=b"x" * 1000, pause=0.05)], ids=["hangs", "trickles"])
async def test_response_when_it_takes_too_long_then_the_whole_time_is_bounded(asking: Asking, said: Said) -> None:
    began = time.monotonic()
    with pytest.raises(WebhookError, match=r"^no response within 0\.3 s$"):
        await asking(said, timeout=0.3)
    assert time.monotonic() - began < 3


@pytest.mark.parametrize("drop", [-1, 0, 3])
async def test_connection_when_it_breaks_then_the_core_tries_again(asking: Asking, drop: int) -> None:
    with pytest.raises(WebhookError, match=r"^no response: \w+"):
        await asking(Said(body=b"a long text", drop=drop))


async def test_receiver_when_it_is_down_then_the_core_tries_again(asking: Asking, server: HTTPServer) -> None:
    agent = asking.agent()
    server.__exit__(None, None, None)
    try:
        with pytest.raises(WebhookError, match=r"^no response: ConnectError"):
            await agent.answer(mail())
    finally:
        server.__enter__()


async def test_agent_when_cancelled_then_the_connection_is_closed(asking: Asking, server: HTTPServer) -> None:
    server.routes["/hook"] = Said(body=b"x" * 100_000, pause=0.01)
    task = asyncio.create_task(asking.agent().answer(mail()))
    await asyncio.to_thread(until, lambda: server.sent > 3, 10, "nothing came")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.to_thread(until, lambda: not server._sockets, 10, "the connection is still open")


async def test_agents_when_many_ask_at_a_time_then_each_gets_its_own_answer(asking: Asking, server: HTTPServer) -> None:
    server.routes["/hook"] = lambda request: said_json({"text": request.json["subject"]})
    agent = asking.agent()
    answers = await asyncio.gather(*[
        agent.answer(mail(b"Subject: number %d\r\n\r\n" % number)) for number in range(50)
    ])  # fmt: skip
    assert [answer.text for answer in answers if isinstance(answer, Reply)] == [f"number {n}" for n in range(50)]


# -- hostile mail ---------------------------------------------------------------------------------------------------------

FILES = b"".join(
    b'--b\r\nContent-Type: text/x; name="f%d"\r\nContent-Disposition: attachment\r\n\r\nfile %d\r\n' % (number, number)
    for number in range(1000)
)
HOSTILE = {
    "empty": b"",
    "only a line break": b"\r\n",
    "no text": b"Content-Type: image/png\r\nContent-Transfer-Encoding: base64\r\n\r\niVBORw==\r\n",
    "unknown charset": b"Content-Type: text/plain; charset=x-no-such\r\n\r\nGr\xfc\xdfe\r\n",
    "10 MB": b"Subject: big\r\n\r\n" + b"0123456789abcdef" * 655_360,
    "1000 files": b"Content-Type: multipart/mixed; boundary=b\r\n\r\n" + FILES + b"--b--\r\n",
    "surrogates": b"Content-Type: text/plain; charset=utf-16\r\n\r\n" + b"\xd8\x00\xd8\x00",
    "NUL and controls": b"Subject: a\x00b\x1b[2J\r\n\r\n\x00\x01\r\n",
    "names": b"Content-Type: text/html; name*=utf-8''..%2F..%0D%0Ax\r\n\r\n<p>&#0;&#xD800;</p>\r\n",
}


@pytest.mark.parametrize("raw", HOSTILE.values(), ids=HOSTILE)
async def test_mail_when_hostile_then_it_is_posted_as_json_that_can_be_read(
    asking: Asking, server: HTTPServer, raw: bytes
) -> None:
    answer = await asking(Said(body=b"read"), raw, attachments=True)
    assert isinstance(answer, Reply)
    [request] = server.requests
    told = json.loads(request.body.decode("utf-8"))
    assert "\\ud8" not in request.body.decode("utf-8").lower()
    assert len(told["text"]) <= 1_000_000 and told["truncated"] is (len(raw) > 1_000_000)
    assert all("/" not in file["name"] and file["name"] for file in told["attachments"])
    if raw is HOSTILE["1000 files"]:
        assert len(told["attachments"]) >= 499 and told["attachments"][7]["name"] == "f7"


# -- settings and page ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {"url": "ftp://x.example/"},
        {"url": "hook"},
        {"url": "https://user:pass@x.example/"},
        {"url": "https://x.example/#part"},
        {"url": "http://[::1/"},
        {"secret": "short"},
        {"headers": {"X-Responder-Signature": "x"}},
        {"headers": {"content-length": "1"}},
        {"headers": {"X-A": "a\r\nX-B: b"}},
        {"headers": {"X A": "a"}},
        {"timeout": 0},
        {"no_such": 1},
    ],
)
def test_settings_when_wrong_then_they_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as caught:
        Webhook.Settings.model_validate({"url": "https://x.example/", "secret": SECRET, **settings})
    assert "pass@" not in str(caught.value)


def test_settings_when_printed_then_no_secret_is_shown() -> None:
    settings = Webhook.Settings.model_validate(
        {
            "url": "https://x.example/",
            "secret": SECRET,
            "headers": {"Authorization": "Bearer t0ken"},
        }
    )
    assert SECRET not in repr(settings) and "t0ken" not in repr(settings)


def test_page_when_read_then_its_settings_are_those_there_are_and_its_example_loads() -> None:
    table = PAGE.partition("| setting |")[2].partition("\n\n")[0]
    documented = dict(re.findall(r"^\| `(\w+)` \| (\S+) \|", table, re.MULTILINE))
    fields = Webhook.Settings.model_fields
    assert list(documented) == list(fields)
    for name, field in fields.items():
        told = documented[name].strip("`")
        assert told == "required" if field.is_required() else json.loads(told) == field.default, name
    for block in re.findall(r"^```toml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL):
        config = Config.model_validate(tomllib.loads(block))
        for inbox in config.inboxes.values():
            assert inbox.agent == "webhook"
            Webhook.Settings.model_validate(inbox.settings)


def test_response_keys_when_documented_then_they_are_those_there_are() -> None:
    table = PAGE.rpartition("| key |")[2]
    keys = [name for row in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)]
    for key in keys:
        action = "forward" if key in ("to", "subject_prefix") else "reply"
        wrong = json.dumps({"action": action, key: {"no": [1]}})
        with pytest.raises(ValueError, match=f"^'{key}[^:]*: (?!unknown key)"):
            answer_from_json(wrong)
    forwards = ["to", "subject_prefix"]
    texts = ["text", "html", "subject"]
    assert keys == ["action", *texts, "attachments", "headers", "tag", "handle", "interval", *forwards]


def test_mail_when_it_holds_a_lone_surrogate_then_its_json_can_be_read() -> None:
    odd = Mail(b"", id="1", inbox="hook", recipient=parse("hook@test.example"), sender="\ud800@client.example")
    assert json.loads(mail_to_json(odd).decode("utf-8"))["sender"] == "?@client.example"


def test_mail_when_made_json_then_a_file_that_fits_behind_one_that_does_not_is_sent() -> None:
    raw = b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\ntext\r\n"
    for data in (b"12345", b"123456", b"12", b""):
        raw += b"--b\r\nContent-Disposition: attachment\r\n\r\n" + data + b"\r\n"
    told = json.loads(mail_to_json(mail(raw + b"--b--\r\n"), max_attachments=7))
    assert [file["data"] for file in told["attachments"]] == ["MTIzNDU=", None, "MTI=", ""]

"""The check `rspamd` against a real rspamd, and against an HTTP server that answers as rspamd's protocol has it, or badly."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from plugins.rspamd import Rspamd, RspamdError
from responder import Defer, Mark, Refuse
from responder.agents.load import PluginError
from responder.testing import Door
from tests.support.guards import guarded
from tests.support.http_server import HTTPServer, Said, said_json
from tests.support.scanners import ADDED, PASSED, REJECTED, REWRITTEN
from tests.support.scanners import Rspamd as Daemon


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with Daemon() as it:
        yield it


@pytest.mark.peer("rspamd")
def test_mail_when_rspamd_rejects_it_then_it_is_refused_in_its_words(daemon: Daemon) -> None:
    with Door(Rspamd, {"url": daemon.url}) as door:
        assert door.data(REJECTED) == Refuse("Gtube pattern", 554)
    with Door(Rspamd, {"url": daemon.url, "reject": "mark"}) as door:
        found = door.data(REJECTED)
    assert isinstance(found, Mark) and found.fields["X-Spam"] == "Yes"
    assert found.fields["X-Spamd-Result"] == "reject, score 15.00 of 15.00; GTUBE"


@pytest.mark.peer("rspamd")
def test_mail_when_rspamd_suspects_it_then_it_is_marked(daemon: Daemon) -> None:
    with Door(Rspamd, {"url": daemon.url}) as door:
        found = door.data(ADDED)
        assert isinstance(found, Mark) and found.note == "add header, score 6.00 of 15.00"
        assert found.fields == {"X-Spam": "Yes", "X-Spamd-Result": "add header, score 6.00 of 15.00; GTUBE"}
        rewritten = door.data(REWRITTEN)
        assert isinstance(rewritten, Mark) and rewritten.fields["X-Spam"] == "Yes"


@pytest.mark.peer("rspamd")
def test_mail_when_rspamd_has_nothing_against_it_then_it_says_so(daemon: Daemon) -> None:
    with Door(Rspamd, {"url": daemon.url}) as door:
        for text in ("Hello", PASSED, "x" * 3_000_000):
            found = door.data(text)
            assert isinstance(found, Mark) and list(found.fields) == ["X-Spamd-Result"]
            assert found.fields["X-Spamd-Result"].startswith("no action, score 0.00 of 15.00")
    with Door(Rspamd, {"url": daemon.url, "result_header": "", "header": ""}) as door:
        found = door.data(ADDED)
        assert isinstance(found, Mark) and found.fields == {}


@pytest.mark.peer("rspamd")
async def test_mail_when_it_comes_by_smtp_then_rspamd_knows_its_envelope_and_the_client_the_verdict(
    daemon: Daemon, tmp_path: Path
) -> None:
    async with (
        guarded(tmp_path, {"rspamd": Rspamd}, {"rspamd": {"settings": {"url": daemon.url}}}) as it,
        it.talk() as talk,
    ):
        await talk.greeted()
        assert await talk.mail("Subject: x", "", REJECTED) == "554 5.7.1 Gtube pattern"
        said = await talk.mail("Subject: x", "X-Spam: no", "Message-ID: <1@x>", "", "hello", to=("echo", "bob"))
        assert said.startswith("250 ")
        [content] = await it.stored()
    assert b"\r\nX-Spamd-Result: no action, score 0.00 of 15.00\r\nSubject: x\r\n" in content
    assert b"X-Spam:" not in content
    log = daemon.log()
    assert f"qid: <{said.rpartition(' ')[2]}>" in log and "from: <a@example.org>" in log and "ip: 127.0.0.1" in log
    assert "rcpts: <echo@test.example,bob@test.example>" in log


def verdict(action: str, **more: Any) -> Said:
    return said_json({"action": action, "score": 7.256, "required_score": 15, **more})


def test_request_when_sent_then_the_envelope_is_in_its_headers_and_the_mail_its_body() -> None:
    with (
        HTTPServer({"/checkv2": verdict("no action")}) as server,
        Door(
            Rspamd,
            {"url": f"{server.url}/", "password": "q1"},
            peer="2001:db8::7",
            user="ann",
            tls="TLSv1.3 TLS_AES_256_GCM_SHA384",
        ) as door,
    ):
        door.helo("client.example")
        door.mail("ünï@example.org")
        door.rcpt("a@example.org")
        door.rcpt("b@example.org")
        door.data(raw=b"Subject: x\r\n\r\nhello\r\n")
        [request] = server.requests
    assert (request.method, request.target, request.body) == ("POST", "/checkv2", b"Subject: x\r\n\r\nhello\r\n")
    told = request.headers
    assert told["from"].encode("latin-1").decode() == "<ünï@example.org>"
    assert (told["ip"], told["helo"], told["user"], told["password"]) == ("2001:db8::7", "client.example", "ann", "q1")
    assert (told["tls-version"], told["tls-cipher"]) == ("TLSv1.3", "TLS_AES_256_GCM_SHA384")
    assert told["rcpt"] in ("<b@example.org>", "<a@example.org>, <b@example.org>") and len(told["queue-id"]) == 18


def test_request_when_something_is_not_known_then_its_header_is_left_out() -> None:
    with HTTPServer({"/checkv2": verdict("no action")}) as server, Door(Rspamd, {"url": server.url}, peer="") as door:
        door.mail("")
        door.data("x")
        [request] = server.requests
    assert request.headers["from"] == "<>"
    assert not {"ip", "helo", "user", "password", "tls-version", "tls-cipher"} & set(request.headers)


@pytest.mark.parametrize(
    ("settings", "said", "found"),
    [
        ({}, verdict("greylist"), Defer("Try again later")),
        ({}, verdict("soft reject", messages={"smtp_message": "Too\r\n250 fast"}), Defer("Too 250 fast")),
        ({}, verdict("reject", messages=["odd"]), Refuse("This looks like spam", 554)),
        ({}, verdict("reject", messages={"smtp_message": 5}), Refuse("This looks like spam", 554)),
    ],
)
def test_verdict_when_it_is_an_objection_then_it_is_said_in_one_line(
    settings: dict[str, Any], said: Said, found: object
) -> None:
    with HTTPServer({"/checkv2": said}) as server, Door(Rspamd, {"url": server.url, **settings}) as door:
        assert door.data("x") == found


def test_verdict_when_greylisting_is_somebody_else_s_then_the_mail_passes_unmarked() -> None:
    with (
        HTTPServer({"/checkv2": verdict("greylist")}) as server,
        Door(Rspamd, {"url": server.url, "greylist": False}) as door,
    ):
        found = door.data("x")
    assert isinstance(found, Mark) and list(found.fields) == ["X-Spamd-Result"]


def test_symbols_when_there_are_many_then_the_weightiest_are_named_and_none_breaks_the_header() -> None:
    symbols: dict[str, Any] = {f"S{number}": {"score": number} for number in range(300)}
    symbols |= {"EVIL\r\nX-Spam: no": {"score": 1e5}, "ODD": 5, "NAN": {"score": "x"}, "L" * 5000: {"score": -400}}
    with (
        HTTPServer({"/checkv2": verdict("add header", symbols=symbols)}) as server,
        Door(Rspamd, {"url": server.url}) as door,
    ):
        found = door.data("x")
    assert isinstance(found, Mark)
    from responder.mail.headers import Headers
    from responder.mail.stamp import stamp

    headers = Headers.parse(stamp(found.fields))
    assert sorted(headers) == ["x-spam", "x-spamd-result"] and headers.all("x-spam") == ["Yes"]
    told = headers.text("x-spamd-result")
    assert told.startswith("add header, score 7.26 of 15.00; EVIL") and ", S299, S298" in told and "S1," not in told


@pytest.mark.parametrize(
    ("said", "error"),
    [
        (Said(403, b"Unauthorized"), "it said 403"),
        (Said(500), "it said 500"),
        (Said(302, headers={"Location": "http://127.0.0.1:1/"}), "it said 302"),
        (Said(200, b"no json"), "no verdict"),
        (Said(200, b"[" * 100_000), "no verdict"),
        (Said(200, b"[1]"), "no verdict"),
        (said_json({"score": 1}), "no verdict"),
        (said_json({"action": 5}), "no verdict"),
        (Said(body=b"x" * 65536, endless=True), "more than 1 MiB"),
    ],
)
def test_response_when_it_is_no_verdict_then_the_check_fails(said: Said, error: str) -> None:
    with (
        HTTPServer({"/checkv2": said}) as server,
        Door(Rspamd, {"url": server.url}) as door,
        pytest.raises(RspamdError, match=error),
    ):
        door.data("x")


@pytest.mark.parametrize("said", [Said(hang=True), Said(drop=-1), Said(body=b"x" * 100, drop=10)])
def test_response_when_it_does_not_come_then_the_check_fails(said: Said) -> None:
    with (
        HTTPServer({"/checkv2": said}) as server,
        Door(Rspamd, {"url": server.url, "timeout": 0.2}) as door,
        pytest.raises(httpx.HTTPError),
    ):
        door.data("x")


async def test_rspamd_when_it_is_down_then_the_table_decides(tmp_path: Path) -> None:
    with HTTPServer({}) as server:
        url = server.url
    for failure, code in (("defer", "451"), ("ignore", "250")):
        tables = {"rspamd": {"failure": failure, "settings": {"url": url}}}
        async with guarded(tmp_path / failure, {"rspamd": Rspamd}, tables) as it, it.talk() as talk:
            await talk.greeted()
            assert (await talk.mail("Subject: x", "", "x")).startswith(code)


def test_mail_when_it_is_too_large_then_nobody_is_asked() -> None:
    with (
        HTTPServer({"/checkv2": verdict("reject")}) as server,
        Door(Rspamd, {"url": server.url, "max_size": 10}) as door,
    ):
        assert door.data("x" * 100) is None
        assert server.requests == []


@pytest.mark.parametrize(
    "settings",
    [{"url": "ftp://x"}, {"url": "http://a:secret@x"}, {"header": "From"}, {"nonsense": 1}, {"url": "http://"}],
)
def test_settings_when_they_do_not_fit_then_they_are_refused_and_no_secret_is_shown(settings: dict[str, Any]) -> None:
    with pytest.raises(PluginError) as error:
        Door(Rspamd, settings)
    assert "secret" not in str(error.value) and json.dumps(settings) not in str(error.value)

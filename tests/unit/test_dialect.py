"""Dialects: files are read or refused in one line, no text changes a code or a line, and the id of a mail is always told."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from responder.cli.persona import find_table, instructions, take
from responder.config import Config
from responder.inbound import replies
from responder.inbound.dialects.dialect import (
    CATALOGUE,
    COMMANDS,
    EVERYWHERE,
    GENERIC,
    MAX_LINE,
    OWN,
    PLACEHOLDER,
    Dialect,
    address_in,
    lines,
)
from responder.inbound.dialects.files import (
    DialectError,
    DialectFile,
    built_in,
    chosen,
    find,
    load,
    nearest,
    parse,
    table,
    to_toml,
)
from responder.inbound.replies import Reply
from tests.support.http_server import HTTPServer, Route, Said, said_json
from tests.support.operator import Operator

NAME = "mx.test.example"
ID = "1m7y1y92y09sr2mysw"
MADE = [
    replies.queued(ID, 1000),
    replies.unauthentic("DMARC of bad.example"),
    replies.greeting(NAME, "ESMTP"),
    replies.hello(NAME),
    replies.commands("DATA EHLO"),
    replies.syntax("RSET"),
]
ALL = [*(reply for reply in CATALOGUE.values() if not reply.name), *MADE]
NAMES = sorted(built_in())


def said(line: bytes = b"RCPT TO:<a@b.example>", peer: str = "192.0.2.7", helo: str = "client.example") -> Any:
    return SimpleNamespace(said=line, peer=peer, session=SimpleNamespace(host_name=helo))


def words(texts: Mapping[str, str] | Dialect, *, decoy: bool = False, **settings: Any) -> Any:
    dialect = texts if isinstance(texts, Dialect) else parse({"replies": texts, **settings}, "mine", "mine.toml")
    return dialect.bind(NAME, 1000, lambda: 1_800_000_000.0, decoy=decoy)


def check_wire(octets: bytes, code: int) -> list[str]:
    """A reply of RFC 5321 4.2 with that code; its texts."""
    assert octets.endswith(b"\r\n")
    found = octets.decode("ascii")[:-2].split("\r\n")
    for number, line in enumerate(found, 1):
        assert len(line) + 2 <= MAX_LINE
        assert re.fullmatch(rf"{code}{' ' if number == len(found) else '-'}[ -~]*", line), line
    return [line[4:] for line in found]


# -- what is said ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("decoy", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_built_in_dialect_when_it_says_anything_then_the_code_is_ours_and_the_lines_are_smtp(
    name: str, decoy: bool
) -> None:
    bound = words(find(name), decoy=decoy)
    for reply in ALL:
        for verb in (b"", b"RCPT TO:<a@b.example>", b"EHLO x", b"DATA", b"\xff\x00\r\n" * 9, b"HELO " + b"x" * 3000):
            texts = check_wire(bound.line(reply, said(verb, "2001:db8::1", "x" * 255)), reply.code)
            if not decoy and reply.enhanced:
                assert all(text.startswith(f"{reply.enhanced} ") for text in texts)
            elif reply.enhanced:
                assert all(re.match(rf"{reply.code // 100}\.\d+\.\d+ ", text) for text in texts)


@pytest.mark.parametrize("decoy", [False, True])
@pytest.mark.parametrize("dialect", [GENERIC, find("generic")], ids=["built", "file"])
def test_generic_when_it_says_anything_then_it_is_what_the_reply_has(dialect: Dialect, decoy: bool) -> None:
    bound = dialect.bind(NAME, 1000, lambda: 0.0, decoy=decoy)
    assert all(bound.line(reply, said()) is reply.line for reply in ALL)
    assert bound.hello(said()) == NAME


@pytest.mark.parametrize("name", NAMES)
def test_mail_is_queued_then_its_id_is_told_in_every_dialect(name: str) -> None:
    assert ID in words(find(name)).line(replies.queued(ID, 1000), said(b"DATA")).decode()


@pytest.mark.parametrize("name", NAMES)
def test_greeting_and_hello_when_said_then_our_name_comes_first(name: str) -> None:
    bound = words(find(name))
    assert bound.line(replies.greeting(NAME, "ESMTP"), said(b"")).startswith(b"220 " + NAME.encode())
    assert bound.line(replies.hello(NAME), said(b"HELO x")).startswith(b"250 " + NAME.encode())
    assert bound.hello(said()).startswith(NAME)


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("postfix", b"220 mx.test.example ESMTP Postfix\r\n"),
        ("exchange", b"220 mx.test.example Microsoft ESMTP MAIL Service ready at Fri, 15 Jan 2027 08:00:00 +0000\r\n"),
        ("sendmail", b"220 mx.test.example ESMTP Sendmail 8.17.1/8.17.1; Fri, 15 Jan 2027 08:00:00 +0000\r\n"),
    ],
)
def test_banner_when_said_then_it_is_that_of_the_real_server(
    name: str, line: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.localtime", __import__("time").gmtime)
    assert words(find(name)).line(replies.greeting(NAME, "ESMTP"), said(b"")) == line


def test_several_keys_fit_then_the_most_specific_one_counts() -> None:
    texts = {
        "sender-ok": "by name",
        "RCPT 250": "by both",
        "RCPT": "by command",
        "250": "by code",
        "NOOP": "by command",
    }
    bound = words(texts)
    assert bound.line(replies.SENDER_OK, said(b"MAIL FROM:<>")) == b"250 2.1.0 by name\r\n"
    assert bound.line(replies.SENDER_OK, said(b"RCPT TO:<>")) == b"250 2.1.0 by name\r\n"
    assert bound.line(replies.RECIPIENT_OK, said(b"rcpt to:<>")) == b"250 2.1.5 by both\r\n"
    assert bound.line(replies.NOOP, said(b"NOOP")) == b"250 2.0.0 by command\r\n"
    assert bound.line(replies.RESET, said(b"RSET")) == b"250 2.0.0 by code\r\n"
    assert bound.line(replies.BYE, said(b"QUIT")) == replies.BYE.line
    assert (
        bound.line(replies.UNKNOWN_INBOX, said(b"RCPT TO:<>")) == replies.UNKNOWN_INBOX.line
    )  # RCPT: where it accepts


def test_broad_key_when_its_text_does_not_fit_then_the_reply_keeps_its_own() -> None:
    bound = words({"250": "Fine", "220": "Welcome"})
    assert bound.line(replies.queued(ID), said(b"DATA")) == replies.queued(ID).line
    assert bound.hello(said()) == NAME
    assert bound.line(replies.greeting(NAME, "ESMTP"), said(b"")) == replies.greeting(NAME, "ESMTP").line
    assert bound.line(replies.READY_FOR_TLS, said(b"STARTTLS")) == b"220 2.0.0 Welcome\r\n"
    broad = words({"250": "{hostname} took {id}", "220": "{hostname} at {date}"})
    assert broad.line(replies.queued(ID), said(b"DATA")).decode() == f"250 2.0.0 {NAME} took {ID}\r\n"
    assert broad.line(replies.RESET, said(b"RSET")) == replies.RESET.line
    assert broad.line(replies.greeting(NAME, "ESMTP"), said(b"")).startswith(b"220 mx.test.example at ")


def test_reply_when_a_plugin_worded_it_then_it_keeps_its_words() -> None:
    own = Reply(550, "5.7.1", "Listed by bl.example, see https://bl.example/")
    assert words({"550": "No"}).line(own, said()) == own.line
    assert words({"250": "Yes"}).line(Reply(334, "", "VXNlcm5hbWU6"), said()) == b"334 VXNlcm5hbWU6\r\n"


def test_enhanced_code_when_a_text_has_its_own_then_a_decoy_shows_it_and_a_real_listener_ours() -> None:
    texts = {"unknown-command": "5.3.3 Unrecognized"}
    assert words(texts).line(replies.UNKNOWN_COMMAND, said()) == b"500 5.5.1 Unrecognized\r\n"
    assert words(texts, decoy=True).line(replies.UNKNOWN_COMMAND, said()) == b"500 5.3.3 Unrecognized\r\n"


def test_enhanced_codes_when_switched_off_then_a_decoy_has_none_and_a_real_listener_offers_them_still() -> None:
    texts = {"noop": "Right"}
    assert words(texts, decoy=True, enhanced=False).line(replies.NOOP, said()) == b"250 Right\r\n"
    assert words(texts, decoy=True, enhanced=False).line(replies.BYE, said()) == b"221 Bye\r\n"
    assert words({}, decoy=True, enhanced=False).line(replies.BYE, said()) == b"221 Bye\r\n"
    assert words(texts, enhanced=False).line(replies.NOOP, said()) == b"250 2.0.0 Right\r\n"


def test_text_has_several_lines_then_each_has_the_code() -> None:
    assert (
        words({"help": "One\nTwo"}).line(replies.commands("X"), said(b"HELP")) == b"214-2.0.0 One\r\n214 2.0.0 Two\r\n"
    )


@pytest.mark.parametrize(
    ("command", "address"),
    [
        (b"MAIL FROM:<a@b.example> SIZE=3", "a@b.example"),
        (b'rcpt to: <"a b>"@c.example>', '"a b>"@c.example'),
        (b"RCPT TO:a@b.example NOTIFY=NEVER", "a@b.example"),
        (b"VRFY root", "root"),
        (b"MAIL", ""),
        (b"", ""),
    ],
)
def test_address_when_a_text_names_it_then_it_is_the_command_s(command: bytes, address: str) -> None:
    assert address_in(command) == address


@given(
    st.binary(max_size=3000),
    st.text(max_size=600),
    st.text(max_size=600),
    st.sampled_from(NAMES),
)
def test_client_says_anything_then_no_reply_has_a_line_of_its_making(
    line: bytes, helo: str, peer: str, name: str
) -> None:
    bound = words(find(name), decoy=True)
    for reply in (replies.UNKNOWN_COMMAND, replies.SENDER_OK, replies.NEED_HELLO_NAME, replies.hello(NAME), *MADE[:2]):
        octets = bound.line(reply, said(line, peer, helo))
        assert octets.count(b"\r\n") == 1
        check_wire(octets, reply.code)
    assert bound.hello(said(line, peer, helo)).isprintable()


TEXTS = st.text(st.sampled_from('aZ 0259.-{}\n\r\x00\xe9<>"%') | st.characters(), max_size=30) | st.sampled_from(
    ["{hostname} {id}", "550 no", "2.1.0 yes", "{address}\n{helo}", "250-x\n250 y", "x" * 600]
)
KEYS = st.sampled_from(
    [*CATALOGUE, *COMMANDS, "250", "550", "RCPT 250", "MAIL 503", "SENDER_OK", "Wizard", "334", "999"]
)


@given(st.dictionaries(KEYS, TEXTS, max_size=5))
def test_dialect_when_it_may_hold_anything_then_it_is_refused_or_keeps_codes_and_lines(texts: dict[str, str]) -> None:
    try:
        bound = words(texts, decoy=True)
    except DialectError:
        return
    for reply in ALL:
        check_wire(bound.line(reply, said()), reply.code)
        if reply.name == "queued":
            assert ID.encode() in bound.line(reply, said(b"DATA"))


def test_lines_when_too_long_then_they_are_cut() -> None:
    assert [len(line) for line in lines(250, ["x" * 1000, "y"]).split(b"\r\n")] == [510, 5, 0]


# -- files ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "text", "reason"),
    [
        ("sender-ok", "550 no", "begins with the code 550"),
        ("550", "554 no", "begins with the code 554"),
        ("RCPT", "250 ok", "begins with the code 250"),
        ("help", "a\n220 b", "begins with the code 220"),
        ("sender-ok", "5.1.1 ok", "another class"),
        ("sender-ok", "a\rb", "printable ASCII"),
        ("sender-ok", "grüße", "printable ASCII"),
        ("sender-ok", "\x1b[2J", "printable ASCII"),
        ("sender-ok", "", "wants a text"),
        ("sender-ok", "x" * 500, "longer than"),
        ("sender-ok", "{id} ok", "means nothing"),
        ("sender-ok", "{adress} ok", r"did you mean \{address\}"),
        ("sender-ok", "{} ok", "unknown placeholder"),
        ("sender-ok", "a } b", "brace"),
        ("queued", "Ok: queued", r'wants "\{id\}"'),
        ("greeting", "Welcome", r'wants "\{hostname\}" first'),
        ("greeting", "mail.other.example ESMTP", r'wants "\{hostname\}" first'),
        ("hello", "{hostname}\nXSECRET", "one line"),
        ("250", "{hostname}\nAUTH PLAIN", "one line"),
        ("help", "\n".join("x" * 40), "30 lines"),
        ("sender-okay", "x", 'did you mean "sender-ok"'),
        ("MIAL", "x", 'did you mean "MAIL"'),
        ("555 MAIL", "x", "unknown key"),
        ("299", "x", "no reply has the code 299; did you mean"),
        ("RCPT 999", "x", "no reply has the code"),
        ("334", "x", "decode"),
        ("", "x", "unknown key"),
    ],
)
def test_entry_is_wrong_then_one_line_says_which_and_why(key: str, text: str, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"replies": {"noop": "Ok", key: text}}))
    with pytest.raises(DialectError, match=reason) as caught:
        load(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: replies: ")
    assert json.dumps(key) in message
    assert message.isprintable()


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.toml", b"replies = 3", "replies: "),
        ("a.toml", b"capabilites = []", 'capabilites: unknown key; did you mean "capabilities"'),
        ("a.toml", b"wizard = []", "wizard: unknown key; known here"),
        ("a.toml", b"enhanced = 'no'", "enhanced: "),
        ("a.toml", b"queue_id = 'x'", "queue_id: "),
        ("a.toml", b'about = "a\\u001b"', "about: wants printable"),
        ("a.json", b'{"about": "a\\u001b"}', "about: wants printable"),
        ("a.toml", b"capabilities = ['SIZE {limt}']", "no EHLO keyword"),
        ("a.toml", b"capabilities = ['X\\r\\nY']", "is not|no EHLO keyword"),
        ("a.json", b'{"capabilities": ["X\\r\\n250 Y"]}', "no EHLO keyword"),
        ("a.toml", b"[replies]\n'SENDER_OK' = 'a'\n'sender-ok' = 'b'", "twice"),
        ("a.toml", b"[replies]\nnoop = 3", "noop"),
        ("a.toml", b"x = ", "is not TOML"),
        ("a.json", b"[1]", "wants a table"),
        ("a.json", b"{", "is not JSON"),
        ("a.json", b"[" * 100_000, "is not JSON"),
        ("a.toml", b"\xff", "is not UTF-8"),
        ("a.toml", b"#" * ((1 << 20) + 1), "is larger"),
        ("none.toml", None, "No such file"),
    ],
)
def test_file_is_wrong_then_one_line_names_it(name: str, content: bytes | None, reason: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DialectError, match=reason) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_file_of_the_older_kind_then_codes_and_commands_stand_at_the_top(tmp_path: Path) -> None:
    path = tmp_path / "old.json"
    path.write_text('{"220": "{hostname} ready", "rcpt": "Fine", "550": "550 No", "SENDER_OK": "Right"}')
    assert load(path).texts == {"220": "{hostname} ready", "RCPT": "Fine", "550": "No", "sender-ok": "Right"}


def test_dialect_is_named_then_it_is_built_in_or_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("[replies]\nnoop = 'Right'\n")
    assert find(str(path)).name == "mine"
    with pytest.raises(DialectError, match='no dialect "postfixx"; did you mean "postfix"'):
        find("postfixx")
    with pytest.raises(DialectError, match="there are exchange, generic, postfix, sendmail"):
        find("")


def test_configuration_names_dialects_then_each_is_found_or_its_key_told(tmp_path: Path) -> None:
    config = Config.model_validate(
        {
            "dialect": "postfix",
            "listen": [{"address": "127.0.0.1:1"}, {"address": "127.0.0.1:2", "dialect": "sendmail"}],
        }
    )
    assert {name: found.name for name, found in chosen(config).items()} == {"": "postfix", "sendmail": "sendmail"}
    bad = Config.model_validate({"listen": [{"dialect": str(tmp_path / "no.toml")}]})
    with pytest.raises(DialectError, match=r"listen\[0\].dialect: .*no.toml: can't be read"):
        chosen(bad)


@pytest.mark.parametrize("name", NAMES)
def test_built_in_dialect_when_written_and_read_again_then_it_is_the_same(name: str, tmp_path: Path) -> None:
    dialect = find(name)
    path = tmp_path / f"{name}.toml"
    path.write_text(to_toml(table(dialect)))
    assert load(path) == dialect
    assert tomllib.loads(path.read_text())["replies"] == dialect.texts
    assert dialect.about and dialect.capabilities


def test_page_when_compared_then_it_names_every_reply_command_and_placeholder() -> None:
    page = (Path(__file__).parents[2] / "docs" / "dialects.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `([a-z0-9-]+)` \| (\d{3}) \|", page, re.MULTILINE)
    assert dict(listed) == {name: str(reply.code) for name, reply in CATALOGUE.items()}
    places = set(re.findall(r"`\{([a-z]+)\}`", page))
    assert places == EVERYWHERE.union(*OWN.values())
    assert all(f"`{name}`" in page for name in NAMES)
    for block in re.findall(r"^```toml\n(.*?)^```$", page, re.MULTILINE | re.DOTALL):
        found = tomllib.loads(block)
        parse(found, "page", "page") if "replies" in found else Config.model_validate(found)


def test_schema_when_read_then_it_knows_the_replies() -> None:
    schema = DialectFile.model_json_schema()
    assert schema["properties"]["replies"]["propertyNames"]["anyOf"][0]["enum"] == sorted(CATALOGUE)
    assert not schema["additionalProperties"]


# -- from a language model ------------------------------------------------------------------------------------------------

GOOD = {
    "about": "Exim",
    "capabilities": ["SIZE {limit}", "PIPELINING", "HELP"],
    "replies": {
        "greeting": "{hostname} ESMTP Exim 4.96 {date}",
        "queued": "OK id={id}",
        "bye": "{hostname} closing connection",
    },
}


def completion(content: Any, **changes: Any) -> Said:
    return said_json({"choices": [{"message": {"content": content}}]}, **changes)


def generate(operator: Operator, route: Route, *options: str) -> Any:
    with HTTPServer({"/v1/chat/completions": route}) as server:
        words = ("dialect", "generate", "--technology", "Exim 4.96", "--url", f"{server.url}/v1", *options)
        return operator.run(*words), server


def test_model_answers_well_then_its_words_are_written(operator: Operator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "s3cret")
    result, server = generate(operator, completion(json.dumps(GOOD)), "--key-env", "MY_KEY", "--model", "m")
    assert (result.status, result.err) == (0, "")
    assert load(operator.folder / "exim-4.96.toml").texts == GOOD["replies"]
    [request] = server.requests
    assert request.headers["authorization"] == "Bearer s3cret"
    assert request.json["model"] == "m"
    assert request.json["response_format"] == {"type": "json_object"}
    assert "Exim 4.96" in request.json["messages"][1]["content"]
    assert "s3cret" not in (operator.folder / "exim-4.96.toml").read_text() + result.out


def test_model_knows_no_response_format_then_it_is_asked_without(operator: Operator) -> None:
    result, server = generate(operator, [Said(400), completion(json.dumps(GOOD))])
    assert result.status == 0
    assert "response_format" not in server.requests[1].json
    assert "authorization" not in server.requests[1].headers


def test_model_writes_around_its_json_then_that_is_found(operator: Operator) -> None:
    text = f"Sure {{here}} you are:\n```json\n{json.dumps(GOOD, indent=1)}\n```\nHave fun {{}}"
    result, _ = generate(operator, completion(text), "--output", "exim.json")
    assert result.status == 0
    assert load(operator.folder / "exim.json").about == "Exim"


def test_model_changes_codes_then_the_built_in_text_stands_there(operator: Operator) -> None:
    hostile = {
        "replies": {
            "sender-ok": "550 no",
            "recipient-ok": "yes\r\n250 and more",
            "queued": "thanks",
            "wizard": "x",
            "334": "x",
            "greeting": "{hostname} ESMTP Postfix (mine)",
            "noop": 3,
            "bye": "x" * 5000,
        },
        "capabilities": ["AUTH\r\nX"],
        "enhanced": "maybe",
        "unknown": [1],
    }
    with HTTPServer({"/chat/completions": completion(json.dumps(hostile))}) as server:
        result = operator.run(
            "dialect", "generate", "--technology", "postfix 9", "--url", server.url, "--output", "p.toml"
        )
    assert result.status == 0
    found, base = load(operator.folder / "p.toml"), find("postfix")
    assert found.texts == {**base.texts, "greeting": "{hostname} ESMTP Postfix (mine)"}
    assert found.capabilities == base.capabilities
    assert len(result.err.splitlines()) == 9
    assert "begins with the code 550" in result.err


@pytest.mark.parametrize(
    ("route", "reason"),
    [
        (Said(500), "answered 500"),
        (Said(401), "answered 401"),
        (Said(302, headers={"Location": "http://127.0.0.1:1/"}), "answered 302"),
        (Said(drop=-1), "can't be asked"),
        (Said(hang=True), "no answer in"),
        (Said(body=b"{" * 50, pause=0.2), "no answer in"),
        (Said(body=b"x" * 65536, endless=True), "larger than 1048576"),
        (Said(body=b"x" * (10 << 20)), "larger than 1048576"),
        (Said(body=b"<html>"), "no chat completion"),
        (said_json([]), "no chat completion"),
        (Said(body=b"[" * 200_000), "no chat completion"),
        (completion(None), "no chat completion"),
        (completion("no"), "no JSON object"),
        (completion("{" * 5000), "no JSON object"),
        (completion('{"replies": []}'), "no reply"),
        (completion('{"a": 1}'), "no reply"),
    ],
)
def test_model_fails_then_the_nearest_built_in_dialect_is_written(
    operator: Operator, route: Route, reason: str
) -> None:
    with HTTPServer({"/chat/completions": route}) as server:
        words = ("dialect", "generate", "--technology", "MS Exchange 2003", "--url", server.url, "--timeout", "2")
        result = operator.run(*words)
    assert result.status == 1
    assert reason in result.err
    assert "is the built-in exchange" in result.err
    assert load(operator.folder / "ms-exchange-2003.toml").texts == find("exchange").texts


def test_file_is_there_then_it_is_not_overwritten_and_nobody_is_asked(operator: Operator) -> None:
    path = operator.folder / "exim-4.96.toml"
    path.write_text("mine")
    result, server = generate(operator, completion(json.dumps(GOOD)))
    assert (result.status, path.read_text(), server.requests) == (2, "mine", [])
    assert "is there already" in result.err
    result, _ = generate(operator, completion(json.dumps(GOOD)), "--force")
    assert result.status == 0
    assert load(path).about == "Exim"
    assert [one.name for one in operator.folder.iterdir() if one.name.startswith(".")] == []


def test_file_appears_while_the_model_thinks_then_it_is_not_overwritten(operator: Operator) -> None:
    path = operator.folder / "exim-4.96.toml"

    def slow(_: object) -> Said:
        path.write_text("mine")
        return completion(json.dumps(GOOD))

    result, _ = generate(operator, slow)
    assert (result.status, path.read_text()) == (2, "mine")


def test_notes_when_there_are_many_then_they_are_bounded() -> None:
    found, notes = take({"replies": {f"wizard-{n}": "x" for n in range(5000)}}, "x", find("generic"))
    assert found is None
    assert len(notes) == 22


def test_json_when_looked_for_then_only_so_many_places_are_tried() -> None:
    assert find_table("{" * 40 + '{"a": 1}') == {"a": 1}
    assert find_table("{ " * 100 + '{"a": 1}') is None
    assert find_table("[1]") is None


@pytest.mark.parametrize(
    ("technology", "name"),
    [
        ("Postfix 3.7", "postfix"),
        ("Microsoft Exchange", "exchange"),
        ("send-mail", "sendmail"),
        ("Sendmial 8", "sendmail"),
        ("Exim", "generic"),
    ],
)
def test_technology_is_named_then_the_nearest_dialect_is_its_base(technology: str, name: str) -> None:
    assert nearest(technology).name == name


def test_instructions_when_read_then_they_name_every_reply() -> None:
    text = instructions()
    assert all(f"\n{name}: {reply.code} " in text for name, reply in CATALOGUE.items())
    assert PLACEHOLDER.search("{x}")


# -- the verb -------------------------------------------------------------------------------------------------------------


def test_verbs_when_run_then_they_show_what_there_is(operator: Operator) -> None:
    listed = operator.run("dialect", "list")
    assert [line.split()[0] for line in listed.out.splitlines()[1:]] == NAMES
    assert set(operator.run("dialect", "list", "--json").json) == set(NAMES)
    assert "Ok: queued as {id}" in operator.run("dialect", "show", "postfix").out
    shown = operator.run("dialect", "show", "sendmail", "--json")
    (operator.folder / "mine.json").write_text(shown.out)
    assert operator.run("dialect", "check", "mine.json").status == 0
    assert operator.run("dialect", "schema").json["title"].startswith("A dialect")
    assert operator.run("dialect", "show", "postfixx").status == 2


def test_check_when_a_file_is_bad_then_it_says_why_in_one_line(operator: Operator) -> None:
    (operator.folder / "bad.toml").write_text("[replies]\nnoop = '550 no'\n")
    result = operator.run("dialect", "check", "bad.toml")
    assert (result.status, result.out) == (2, "")
    assert result.err == (
        'responder: bad.toml: replies: "noop": begins with the code 550: a dialect has the words, codes stay as they are\n'
    )

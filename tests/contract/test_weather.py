"""The agent `weather` against a real HTTP server that plays geocoder, locator and weather station."""

from __future__ import annotations

import asyncio
import json
import re
import time
import tomllib
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from pydantic import ValidationError

from plugins._whereabouts import ADDRESS_HEADERS, places, public, sender_address
from plugins.weather import CONDITIONS, Weather, dig, number
from responder import Mail, Reply, TryLater
from responder.config import Config
from responder.mail.address import parse
from tests.support.clock import ManualClock
from tests.support.http_server import HTTPServer, Request, Said, said_json
from tests.support.memory import equipped
from tests.support.server import ROOT

PAGE = (ROOT / "docs" / "agents" / "weather.md").read_text(encoding="utf-8")
DEFAULTS = Weather.Settings()
SPOTS = {"bern": (46.95, 7.45, "Bern", "Switzerland"), "paris": (48.85, 2.35, "Paris", "France")}


def geocode(request: Request) -> Said:
    """Open-Meteo's geocoder: no `results` for what it does not know."""
    spot = SPOTS.get(request.query["name"][0].casefold())
    if not spot:
        return said_json({"generationtime_ms": 0.5})
    return said_json({"results": [dict(zip(("latitude", "longitude", "name", "country"), spot, strict=True))]})


def locate(request: Request) -> Said:
    if not request.path.endswith("/8.8.8.8"):
        return said_json({"success": False})
    return said_json({"latitude": "46.95", "longitude": 7.45, "city": "Bern", "country": ""})


def forecast(request: Request) -> Said:
    warm = request.query["latitude"] == ["48.8500"]
    return said_json({"current": {"temperature_2m": 21.5 if warm else -3, "weather_code": 0 if warm else 73}})


class Providers:
    """The three on one server; `agent` makes an agent that asks them, in the default shapes."""

    def __init__(self, server: HTTPServer) -> None:
        self.server = server
        self.clock = ManualClock()
        self.agents: list[Weather] = []
        for ip in ("8.8.8.8", "9.9.9.9"):
            server.routes[f"/locate/{ip}"] = locate
        server.routes |= {"/v1/search": geocode, "/v1/forecast": forecast}

    def agent(self, **settings: Any) -> Weather:
        own = {
            "geocoder": DEFAULTS.geocoder.replace("https://geocoding-api.open-meteo.com", self.server.url),
            "weather": DEFAULTS.weather.replace("https://api.open-meteo.com", self.server.url),
            "locator": f"{self.server.url}/locate/{{ip}}",
            **settings,
        }
        agent = equipped(Weather, self.clock, **own)
        self.agents.append(agent)
        return agent

    async def __call__(self, raw: bytes, **settings: Any) -> str:
        return (await self.agent(**settings).answer(mail(raw))).text

    @property
    def asked(self) -> list[str]:
        return [request.target for request in self.server.requests]


@pytest.fixture
def server() -> Iterator[HTTPServer]:
    with HTTPServer({}) as server:
        yield server


@pytest.fixture
async def providers(server: HTTPServer) -> AsyncIterator[Providers]:
    providers = Providers(server)
    yield providers
    for agent in providers.agents:
        await agent.context.close()


def mail(raw: bytes) -> Mail:
    return Mail(
        raw, id="0" * 18 + ".0", inbox="weather", recipient=parse("weather@test.example"), sender="ann@client.example"
    )


def about(subject: str, text: str = "", *fields: str) -> bytes:
    head = [f"Subject: {subject}", "Content-Type: text/plain; charset=utf-8", *fields]
    return ("".join(f"{line}\r\n" for line in head) + f"\r\n{text}\r\n").encode()


BERN = "Bern, Switzerland: -3 °C, snow.\n"
PARIS = "Paris, France: 21.5 °C, clear sky.\n"

# -- which place ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("subject", "text", "answer"),
    [
        ("Bern", "", BERN),
        ("  bern. ", "", BERN),
        ("Re: AW: Paris", "", PARIS),
        ("weather in Paris", "", PARIS),
        ("What is the weather like in Paris today?", "", PARIS),
        ("What is the weather like today in Paris?", "", PARIS),
        ("Wetter in Bern?", "", BERN),
        ("Weather: Bern", "", BERN),
        ("Bern weather", "", BERN),
        ("Météo à Paris", "", PARIS),
        ("weather", "Paris\n\nThank you!", PARIS),
        ("weather please", "Wetter Bern", BERN),
        ("", "\n\n  Paris  \n-- \nAnn in Bern", PARIS),
        ("Hello", "Paris", PARIS),
        ("weather in Nowhere", "Paris", PARIS),
        ("weather in Nowhere", "", None),
        ("Hello", "Good day", None),
        ("", "", None),
        ("x" * 500, "This line is a sentence and goes nowhere", None),
    ],
)
async def test_place_when_named_then_its_weather_is_told(
    providers: Providers, subject: str, text: str, answer: str | None
) -> None:
    assert await providers(about(subject, text)) == (answer or DEFAULTS.unknown_place)


async def test_sentences_when_written_then_they_are_not_sent_to_a_provider(providers: Providers) -> None:
    await providers(about("This is a confidential letter about our money", "And this is what you must never tell"))
    assert providers.asked == []


def received(*sources: str) -> list[str]:
    return [
        f"Received: from {source} by mx.example (x [1.1.1.1]); Fri, 20 Nov 2026 10:11:12 +0100" for source in sources
    ]


@pytest.mark.parametrize(
    ("fields", "address"),
    [
        (["X-Originating-IP: [8.8.8.8]"], "8.8.8.8"),
        (["X-Originating-IP: 8.8.8.8"], "8.8.8.8"),
        (["X-Originating-IP: [IPv6:2001:4860:4860::8888]"], "2001:4860:4860::8888"),
        (["X-Originating-IP: [::ffff:8.8.8.8]"], "8.8.8.8"),
        (["X-Source: /usr/bin/php", "X-Source-IP: 8.8.4.4", *received("a ([9.9.9.9])")], "8.8.4.4"),
        (["X-Source: 8.8.8.8", "X-Source-IP: 8.8.4.4"], "8.8.4.4"),
        (["X-Source: 8.8.8.8", *received("a ([9.9.9.9])")], "8.8.8.8"),
        (["X-Originating-IP: [192.168.1.1]", "X-Source-IP: 127.0.0.1", *received("a ([8.8.8.8])")], "8.8.8.8"),
        (received("a ([9.9.9.9])", "b ([8.8.8.8])"), "8.8.8.8"),
        (received("a ([9.9.9.9])", "b ([10.0.0.1])", "c ([fe80::1])"), "9.9.9.9"),
        (received("8.8.4.4 (b.example [8.8.8.8])"), "8.8.8.8"),
        (received("[IPv6:2001:4860:4860::8888] (unknown)"), "2001:4860:4860::8888"),
        (received("localhost (localhost [127.0.0.1])"), ""),
        (["Received: by 8.8.8.8 with HTTP; Fri, 20 Nov 2026 10:11:12 +0100"], ""),
        (["X-Originating-IP: 8.8.8.8.8", "X-Source-IP: 999.1.1.1", "X-Source: dead:beef", "Received: from"], ""),
        (["X-Originating-IP: 0.0.0.0, 255.255.255.255, 224.0.0.1, 169.254.169.254, ::1, ::, fe80::1%eth0"], ""),
        ([f"X-Originating-IP: {'1.' * 5000}", f"Received: from {'[' * 5000}"], ""),
        ([f"Received: from {':' * 900} [{'a' * 900}", *received("x ([8.8.8.8])")], "8.8.8.8"),
    ],
)
def test_sender_address_when_headers_name_it_then_the_first_public_one_counts(fields: list[str], address: str) -> None:
    assert sender_address(mail(about("x", "", *fields))) == address


def test_headers_when_asked_then_they_are_those_of_the_issue_in_its_order() -> None:
    assert ADDRESS_HEADERS == ("x-originating-ip", "x-source-ip", "x-source", "received")


async def test_sender_when_no_place_is_named_then_the_weather_of_its_address_is_told(providers: Providers) -> None:
    raw = about("", "", "X-Originating-IP: [8.8.8.8]")
    assert await providers(raw) == "Bern: -3 °C, snow.\n"
    assert providers.asked[0] == "/locate/8.8.8.8"
    assert await providers(about("weather in Nowhere", "", "X-Originating-IP: [8.8.8.8]")) == DEFAULTS.unknown_place
    assert await providers(about("", "", "X-Originating-IP: [9.9.9.9]")) == DEFAULTS.unknown_place
    assert await providers(about("", "", "X-Originating-IP: [9.9.9.9]"), locator="") == DEFAULTS.unknown_place


# -- providers that fail --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/v1/search", "/v1/forecast"])
@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (Said(500), "127.0.0.1 said 500"),
        (Said(403, b"bad key"), "127.0.0.1 said 403"),
        (Said(302, headers={"Location": "/v1/forecast"}), "127.0.0.1 said 302"),
        (Said(body=b"<html>"), "127.0.0.1 sent something else than JSON"),
        (Said(body=b"[" * 100_000), "127.0.0.1 sent something else than JSON"),
        (Said(body=b"\xff\xfe"), "127.0.0.1 sent something else than JSON"),
        (Said(body=b" " * 4096, endless=True), "127.0.0.1 sent more than 1048576 octets"),
        (Said(body=b"{}" * 50, drop=3), "127.0.0.1 did not respond: RemoteProtocolError"),
        (Said(drop=-1), "127.0.0.1 did not respond: RemoteProtocolError"),
        (Said(hang=True), "127.0.0.1 did not respond within 0.5 s"),
        (Said(body=b"{}" * 500, pause=0.05), "127.0.0.1 did not respond within 0.5 s"),
        (Said(body=b"{}", headers={"Content-Encoding": "gzip"}), "127.0.0.1 sent compressed octets"),
    ],
)
async def test_provider_when_it_fails_then_the_sender_gets_the_apology_and_the_log_the_reason(
    providers: Providers, caplog: pytest.LogCaptureFixture, path: str, said: Said, reason: str
) -> None:
    providers.server.routes[path] = said
    began = time.monotonic()
    assert await providers(about("Bern"), timeout=0.5, unavailable="Later!") == "Later!"
    assert time.monotonic() - began < 3
    assert reason in caplog.text


@pytest.mark.parametrize("found", [{}, {"current": None}, {"current": {"temperature_2m": "NaN"}}, [], None, True])
async def test_weather_when_it_lacks_the_temperature_then_the_sender_gets_the_apology(
    providers: Providers, found: Any
) -> None:
    providers.server.routes["/v1/forecast"] = said_json(found)
    assert await providers(about("Bern")) == DEFAULTS.unavailable


@pytest.mark.parametrize(
    "found",
    [
        {"results": []},
        {"results": [{"latitude": 91, "longitude": 0}]},
        {"results": [{"latitude": True, "longitude": 0}]},
        {"results": [{"latitude": "1e999", "longitude": 0}]},
        {"results": {"0": None}},
        None,
    ],
)
async def test_geocoder_when_it_tells_no_spot_then_the_place_is_unknown(providers: Providers, found: Any) -> None:
    providers.server.routes["/v1/search"] = said_json(found)
    assert await providers(about("Bern"), unknown_place="Where?") == "Where?"


async def test_geocoder_when_it_says_404_then_the_place_is_unknown(providers: Providers) -> None:
    providers.server.routes["/v1/search"] = Said(404)
    assert await providers(about("Bern")) == DEFAULTS.unknown_place


async def test_provider_when_it_is_down_then_the_sender_gets_the_apology(providers: Providers) -> None:
    agent = providers.agent()
    providers.server.__exit__(None, None, None)
    try:
        assert (await agent.answer(mail(about("Bern")))).text == DEFAULTS.unavailable
    finally:
        providers.server.__enter__()


async def test_retries_when_wanted_then_the_apology_comes_behind_them(providers: Providers) -> None:
    providers.server.routes["/v1/forecast"] = Said(503)
    agent = providers.agent(retries=2, retry=30)
    for _ in range(2):
        with pytest.raises(TryLater) as caught:
            await agent.answer(mail(about("Bern")))
        assert caught.value.seconds == 30
    assert (await agent.answer(mail(about("Bern")))).text == DEFAULTS.unavailable
    providers.server.routes["/v1/forecast"] = forecast
    assert (await agent.answer(mail(about("Bern")))).text == BERN


# -- what a mail can't do -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "place",
    [
        "a&latitude=1#x",
        "../../admin",
        "%2e%2e%2fadmin",
        "http://169.254.169.254/",
        "a@evil.example:80/",
        "{key}{place.__class__}",
        "%s%n\\",
        "Zürich/北京",
    ],
)
async def test_place_when_hostile_then_it_is_only_ever_a_quoted_value(providers: Providers, place: str) -> None:
    await providers(about(f"weather in {place}"), key="s3cret")
    [request] = providers.server.requests
    assert request.path == "/v1/search"
    assert set(request.query) == {"name", "count", "format"}
    assert request.query["name"][0] in place
    assert "s3cret" not in request.target


async def test_place_when_it_stands_in_a_path_then_it_does_not_leave_it(providers: Providers) -> None:
    settings = {"geocoder": "", "weather": f"{providers.server.url}/at/{{place}}/now"}
    for place in ("..", "a/../../b", ".", "a%2f..%2fb"):
        await providers(about(place), **settings)
    assert providers.asked and all(
        target.startswith("/at/") and target.count("/") == 3 and target.endswith("/now") for target in providers.asked
    )


async def test_names_when_a_provider_lies_then_the_answer_stays_one_line_and_short(providers: Providers) -> None:
    lie = {"latitude": 1, "longitude": 1, "name": "a\r\nb\x1b[2J" + "x" * 5000, "country": ["x"]}
    providers.server.routes["/v1/search"] = said_json({"results": [lie]})
    told = await providers(about("Bern"))
    assert told.count("\n") == 1 and len(told) < 150 and "\x1b" not in told and "\r" not in told


HOSTILE = {
    "empty": b"",
    "no text": b"Content-Type: image/png\r\nContent-Transfer-Encoding: base64\r\n\r\niVBORw==\r\n",
    "unknown charset": b"Content-Type: text/plain; charset=x-no-such\r\n\r\nZ\xfcrich\r\n",
    "10 MB": b"\r\n" + b"0123456789abcdef" * 655_360,
    "1000 files": b"Content-Type: multipart/mixed; boundary=b\r\n\r\n"
    + b'--b\r\nContent-Disposition: attachment; filename="../x"\r\n\r\nfile\r\n' * 1000
    + b"--b--\r\n",
    "controls": b"Subject: =?utf-8?Q?=00=0D=0A=1B[2J?=\r\n\r\n\x00\r\n",
    "surrogates": b"Content-Type: text/plain; charset=utf-16\r\n\r\n" + b"\xd8\x00a\x00" * 3,
    "long subject": b"Subject: " + b"weather in " * 50_000 + b"\r\n\r\n",
    "many received": b"Received: from x ([10.0.0.1]) by y; z\r\n" * 20_000 + b"\r\n",
}


@pytest.mark.parametrize("raw", HOSTILE.values(), ids=HOSTILE)
async def test_mail_when_hostile_then_there_is_an_apology_and_soon(providers: Providers, raw: bytes) -> None:
    began = time.monotonic()
    assert await providers(raw) == DEFAULTS.unknown_place
    assert time.monotonic() - began < 2


# -- other providers, and the cache ---------------------------------------------------------------------------------------


async def test_provider_when_of_another_shape_then_its_fields_are_found(providers: Providers) -> None:
    found = {"main": {"temp": "12.34"}, "weather": [{"description": "leichter  Regen\n"}]}
    providers.server.routes["/current"] = [said_json(found), Said(404)]
    settings = {
        "geocoder": "",
        "weather": f"{providers.server.url}/current?q={{place}}&appid={{key}}",
        "key": "a&b",
        "weather_fields": {"temperature": "main.temp", "code": "", "words": "weather.0.description"},
        "text": "{{{place}}} {temperature}, {conditions}",
    }
    assert await providers(about("Zürich"), **settings) == "{Zürich} 12.34, leichter Regen"
    assert providers.server.requests[0].query == {"q": ["Zürich"], "appid": ["a&b"]}
    assert await providers(about("Nowhere"), **settings) == DEFAULTS.unknown_place


async def test_conditions_when_given_then_they_replace_the_english_ones(providers: Providers) -> None:
    assert await providers(about("Bern"), conditions={73: "Schnee"}) == BERN.replace("snow", "Schnee")
    providers.server.routes["/v1/forecast"] = said_json({"current": {"temperature_2m": 1e3, "weather_code": 1234}})
    assert await providers(about("Bern")) == "Bern, Switzerland: 1000 °C, conditions unknown.\n"
    assert all(0 <= code <= 99 for code in CONDITIONS)


async def test_report_when_told_before_then_it_is_told_again_until_it_is_old(providers: Providers) -> None:
    agent = providers.agent()
    for subject in ("Bern", "weather in BERN?", "bern"):
        assert (await agent.answer(mail(about(subject)))).text == BERN
    assert len(providers.asked) == 2
    providers.clock.advance(601)
    assert (await agent.answer(mail(about("Bern")))).text == BERN
    assert len(providers.asked) == 4


async def test_apologies_when_told_then_they_are_not_remembered(providers: Providers) -> None:
    agent = providers.agent()
    providers.server.routes["/v1/search"] = [
        Said(500),
        said_json({}),
        geocode(Request("", "", {"name": ["bern"]}, {}, b"", "")),
    ]
    told = [(await agent.answer(mail(about("Bern")))).text for _ in range(3)]
    assert told == [DEFAULTS.unavailable, DEFAULTS.unknown_place, BERN]


async def test_mails_when_many_come_then_each_is_answered(providers: Providers) -> None:
    agent = providers.agent()
    answers = await asyncio.gather(*[agent.answer(mail(about(("Bern", "Paris")[n % 2]))) for n in range(20)])
    assert [answer.text for answer in answers if isinstance(answer, Reply)] == [BERN, PARIS] * 10


# -- the parts ------------------------------------------------------------------------------------------------------------


def test_path_when_followed_then_it_finds_or_finds_nothing() -> None:
    value = {"a": [{"b": 1}, None], "0": "x"}
    assert dig(value, "a.0.b") == 1
    assert dig(value, "0") == "x"
    for path in ("", "a.1.b", "a.2", "a.-1", "a.b", "a.0.b.c", "a.²", "a.99999999999999", "b", "."):
        assert dig(value, path) is None, path


def test_number_when_it_is_none_then_it_is_none() -> None:
    assert [number(one) for one in (1, "2.5", -3.0)] == [1.0, 2.5, -3.0]
    none: list[Any] = [None, True, "", "x", "inf", float("nan"), [], 10**400]
    assert [number(one) for one in none] == [None] * 8


def test_address_when_not_public_then_it_is_none() -> None:
    for text in ("10.0.0.1", "127.0.0.1", "100.64.0.1", "::1", "fc00::1", "ff02::1", "192.0.2.1", "1.2.3", "x", ""):
        assert public(text) == ""


def test_places_when_looked_for_then_the_same_is_named_once() -> None:
    assert list(places(mail(about("Bern", "weather in bern")))) == [(False, "Bern")]


# -- settings and page ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {"weather": "https://{place}.example/"},
        {"weather": "{place}"},
        {"weather": ""},
        {"weather": "file:///{place}"},
        {"weather": "https://user@x.example/{place}"},
        {"weather": "https://x.example/{place"},
        {"weather": "https://x.example/{ip}"},
        {"weather": "https://x.example/{place.__class__}"},
        {"weather": "https://x.example/{place!r}"},
        {"weather": "https://x.example/{}"},
        {"geocoder": "https://x.example/{latitude}"},
        {"geocoder": ""},
        {"locator": "https://x.example:port/{ip}"},
        {"text": "{weather}"},
        {"weather_fields": {"temprature": "x"}},
        {"unavailable": ""},
        {"retries": -1},
        {"url": "x"},
    ],
)
def test_settings_when_wrong_then_they_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Weather.Settings.model_validate(settings)


def test_page_when_read_then_its_settings_are_those_there_are_and_its_examples_load() -> None:
    table = PAGE.partition("| setting |")[2].partition("\n\n")[0]
    documented = dict(re.findall(r"^\| `(\w+)` \| ([^|]+?) \|", table, re.MULTILINE))
    fields = Weather.Settings.model_fields
    assert list(documented) == list(fields)
    for name, said in documented.items():
        if said.startswith("`") and name != "key":
            assert json.loads(said.strip("`")) == fields[name].default, name
    blocks = re.findall(r"^```toml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        for inbox in Config.model_validate(tomllib.loads(block)).inboxes.values():
            assert inbox.agent == "weather"
            Weather.Settings.model_validate(inbox.settings)

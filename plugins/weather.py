"""Tells the weather of the place that a mail names, or of where its sender is, as providers on the web know it.

Three questions by HTTP: a place's coordinates (geocoder), an address's coordinates (locator, off unless it is set), and the
weather there. The mail decides no more than the quoted value of a parameter: hosts, paths and what is read from a
response are the operator's.
"""

import asyncio
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from string import Formatter
from typing import Annotated, Any, Self
from urllib.parse import quote

import httpx
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationInfo, field_validator, model_validator

from responder import Agent, Mail, Reply, TryLater, hookimpl

from ._whereabouts import MAX_PLACE, clean, places, sender_address

MAX_RESPONSE = 1 << 20  # octets
KNOWN = {"geocoder": ("place", "key"), "locator": ("ip", "key"), "weather": ("latitude", "longitude", "place", "key")}

# WMO code table 4677, as far as providers use it
CONDITIONS = {
    0: "clear sky", 1: "mainly clear", 2: "partly cloudy", 3: "overcast", 45: "fog", 48: "freezing fog",
    51: "light drizzle", 53: "drizzle", 55: "heavy drizzle", 56: "light freezing drizzle", 57: "freezing drizzle",
    61: "light rain", 63: "rain", 65: "heavy rain", 66: "light freezing rain", 67: "freezing rain",
    71: "light snow", 73: "snow", 75: "heavy snow", 77: "snow grains",
    80: "light showers", 81: "showers", 82: "violent showers", 85: "light snow showers", 86: "heavy snow showers",
    95: "thunderstorm", 96: "thunderstorm with light hail", 99: "thunderstorm with heavy hail",
}  # fmt: skip

URL = Annotated[str, Field(max_length=2000)]


class WeatherError(Exception):
    """A provider did not tell."""


@dataclass(frozen=True, slots=True)
class Report:
    """The weather at a place."""

    place: str
    temperature: float
    conditions: str


@dataclass(frozen=True, slots=True)
class Spot:
    """A place on earth, in degrees."""

    latitude: float
    longitude: float
    name: str


class Fields(BaseModel):
    """Where something stands in a provider's JSON: keys and list indices, with dots between; "" for what it does not tell."""

    model_config = ConfigDict(extra="forbid")

    latitude: str = "results.0.latitude"
    longitude: str = "results.0.longitude"
    name: str = "results.0.name"
    country: str = "results.0.country"


class LocatorFields(Fields):
    """The same, as most locators have it."""

    latitude: str = "latitude"
    longitude: str = "longitude"
    name: str = "city"
    country: str = "country"


class WeatherFields(BaseModel):
    """Where the weather stands: its code by the WMO's table, or, for providers that have them, words."""

    model_config = ConfigDict(extra="forbid")

    temperature: str = "current.temperature_2m"
    code: str = "current.weather_code"
    words: str = ""


class Weather(Agent):
    """Tells the weather of the place in the subject or the text, or of where the sender is."""

    class Settings(BaseModel):
        model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

        geocoder: URL = "https://geocoding-api.open-meteo.com/v1/search?name={place}&count=1&format=json"
        """Where {place} is; "" where the weather's own URL takes the {place}."""

        locator: URL = ""
        """Where the address {ip} is; "" to leave the sender's address alone."""

        weather: URL = (
            "https://api.open-meteo.com/v1/forecast?latitude={latitude}&longitude={longitude}"
            "&current=temperature_2m,weather_code"
        )
        """The weather at {latitude} and {longitude}, or at {place}."""

        key: SecretStr = SecretStr("")
        """What stands for {key} in each URL."""

        geocoder_fields: Fields = Fields()
        locator_fields: LocatorFields = LocatorFields()
        weather_fields: WeatherFields = WeatherFields()

        text: Annotated[str, Field(max_length=10_000)] = "{place}: {temperature} °C, {conditions}.\n"
        """The answer."""

        conditions: dict[int, str] = {}
        """Words for codes, in place of the English ones."""

        unknown_place: Annotated[str, Field(min_length=1, max_length=10_000)] = (
            "Sorry, I don't know which place you mean. Write its name into the subject, such as: weather in Bern\n"
        )
        """The answer where the mail names no place that is known."""

        unavailable: Annotated[str, Field(min_length=1, max_length=10_000)] = (
            "Sorry, I can't find out about the weather now. Please try again later.\n"
        )
        """The answer where a provider fails."""

        retries: Annotated[int, Field(ge=0, le=20)] = 0
        """How often it is tried again before that; stay below `answering.attempts`."""

        retry: Annotated[float, Field(ge=1, le=86400)] = 60.0
        """Seconds between."""

        timeout: Annotated[float, Field(gt=0, le=60)] = 8.0
        """Seconds for each question."""

        cache: Annotated[float, Field(ge=0, le=86400)] = 600.0
        """Seconds that a report is told again."""

        @field_validator("geocoder", "locator", "weather")
        @classmethod
        def _is_template(cls, template: str, info: ValidationInfo) -> str:
            if template or info.field_name == "weather":
                _check_template(template, KNOWN[str(info.field_name)])
            return template

        @field_validator("text")
        @classmethod
        def _has_known_names(cls, text: str) -> str:
            _names(text, {"place", "temperature", "conditions"})
            return text

        @model_validator(mode="after")
        def _leads_somewhere(self) -> Self:
            if not self.geocoder and "place" not in _names(self.weather, KNOWN["weather"]):
                raise ValueError("without a geocoder, weather needs {place}")
            return self

    async def answer(self, mail: Mail) -> Reply:
        try:
            report = await self._report(mail)
        except WeatherError as error:
            self.context.log.warning("%s", error)
            if self.settings.retries:
                tried = await self.context.state.increment(
                    f"tried:{mail.id}", expires=86400.0 + self.settings.retries * self.settings.retry
                )
                if tried <= self.settings.retries:
                    raise TryLater(self.settings.retry) from None
            return Reply(text=self.settings.unavailable)
        if report is None:
            return Reply(text=self.settings.unknown_place)
        told = {"place": report.place, "temperature": f"{report.temperature:g}", "conditions": report.conditions}
        return Reply(text=self.settings.text.format(**told))

    async def _report(self, mail: Mail) -> Report | None:
        """The weather of the first place that is known. Raises `WeatherError`."""
        explicit = False
        for asked, place in places(mail):
            explicit = explicit or asked
            report = await self._remembered("place", place)
            if report is not None:
                return report
        if explicit or not self.settings.locator:  # a misspelt place is not answered with another one
            return None
        address = sender_address(mail)
        return await self._remembered("ip", address) if address else None

    async def _remembered(self, kind: str, value: str) -> Report | None:
        """The report for a place or an address: one that was told before, as long as it is fresh."""
        key = f"{kind}:{value.casefold()}"
        if self.settings.cache and (known := await self.context.state.get(key)):
            return Report(**known)
        if kind == "ip":
            spot = await self._find(self.settings.locator, self.settings.locator_fields, ip=value)
        elif self.settings.geocoder:
            spot = await self._find(self.settings.geocoder, self.settings.geocoder_fields, place=value)
        else:
            spot = Spot(0.0, 0.0, value)
        report = await self._look(spot, value if kind == "place" else spot.name) if spot else None
        if report and self.settings.cache:
            await self.context.state.set(key, asdict(report), expires=self.settings.cache)
        return report

    async def _find(self, template: str, fields: Fields, **values: str) -> Spot | None:
        """Where that is; None where the provider does not know. Raises `WeatherError`."""
        found = await self._ask(template, **values)
        latitude, longitude = number(dig(found, fields.latitude)), number(dig(found, fields.longitude))
        if latitude is None or longitude is None or abs(latitude) > 90 or abs(longitude) > 180:
            return None
        names = [words(dig(found, fields.name)), words(dig(found, fields.country))]
        return Spot(latitude, longitude, ", ".join(name for name in names if name) or next(iter(values.values())))

    async def _look(self, spot: Spot, place: str) -> Report | None:
        """The weather there. Raises `WeatherError`."""
        fields = self.settings.weather_fields
        where = {"latitude": f"{spot.latitude:.4f}", "longitude": f"{spot.longitude:.4f}", "place": place}
        found = await self._ask(self.settings.weather, **where)
        if found is None:
            if self.settings.geocoder:
                raise WeatherError("the weather's provider does not know the place that the geocoder found")
            return None
        temperature = number(dig(found, fields.temperature))
        if temperature is None:
            raise WeatherError(f"the weather's provider told no {fields.temperature}")
        code = number(dig(found, fields.code))
        told = words(dig(found, fields.words))
        known = {**CONDITIONS, **self.settings.conditions}
        return Report(
            spot.name, temperature, told or known.get(int(code) if code is not None else -1, "conditions unknown")
        )

    async def _ask(self, template: str, **values: str) -> Any:
        """A provider's JSON; None where it says 404. Raises `WeatherError`, which holds no URL: there may be a key in it."""
        values["key"] = self.settings.key.get_secret_value()
        url = template.format(**{name: quote(value, safe="") for name, value in values.items()})
        host = httpx.URL(url).host
        try:
            async with (
                asyncio.timeout(self.settings.timeout),
                self.context.http.stream(
                    "GET",
                    url,
                    headers={"Accept": "application/json", "Accept-Encoding": "identity"},
                    follow_redirects=False,
                ) as response,
            ):
                if response.status_code == 404:
                    return None
                if response.status_code != 200:
                    raise WeatherError(f"{host} said {response.status_code}")
                if response.headers.get("Content-Encoding", "identity").lower() != "identity":
                    raise WeatherError(f"{host} sent compressed octets, which were not asked for")
                content = bytearray()
                async for chunk in response.aiter_raw():
                    content += chunk
                    if len(content) > MAX_RESPONSE:
                        raise WeatherError(f"{host} sent more than {MAX_RESPONSE} octets")
            return json.loads(content)
        except TimeoutError:
            raise WeatherError(f"{host} did not respond within {self.settings.timeout:g} s") from None
        except httpx.HTTPError as error:
            raise WeatherError(f"{host} did not respond: {type(error).__name__}") from None
        except (ValueError, RecursionError):
            raise WeatherError(f"{host} sent something else than JSON") from None


def dig(value: Any, path: str) -> Any:
    """What stands at `a.0.b` in JSON; None where there is nothing."""
    for step in path.split(".") if path else ():
        if isinstance(value, Mapping):
            value = value.get(step)
        elif isinstance(value, list) and step.isascii() and step.isdigit() and int(step[:6]) < len(value):
            value = value[int(step[:6])]
        else:
            return None
    return value if path else None


def number(value: Any) -> float | None:
    """A finite number, written as one or as text."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        found = float(value)
    except (ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None


def words(value: Any) -> str:
    """A provider's text, on one line and short."""
    return clean(value[:300])[:MAX_PLACE] if isinstance(value, str) else ""


def _check_template(template: str, known: Iterable[str]) -> None:
    """Raises `ValueError` where it is no URL, or where a mail could say whom to ask."""
    scheme, _, rest = template.partition("://")
    host = re.split(r"[/?#]", rest, maxsplit=1)[0]
    if scheme not in ("http", "https") or not host:
        raise ValueError("wants an http:// or https:// URL")
    if "{" in host or "}" in host or "@" in host:
        raise ValueError("its host must stand there as it is")
    try:
        httpx.URL(template.format(**dict.fromkeys(_names(template, known), "1")))
    except (httpx.InvalidURL, ValueError):
        raise ValueError("wants a URL") from None


def _names(template: str, known: Iterable[str]) -> set[str]:
    """The names between braces. Raises `ValueError` for others than those that are known."""
    try:
        found = {
            name: (spec, conversion) for _, name, spec, conversion in Formatter().parse(template) if name is not None
        }
    except ValueError:
        raise ValueError("a brace has no other end; write {{ for one that is meant") from None
    for name, extra in found.items():
        if name not in known or any(extra):
            raise ValueError(f"{{{name}}} is not known here; known are {', '.join(sorted(known))}")
    return set(found)


@hookimpl
def responder_agents() -> dict[str, type[Agent]]:
    return {"weather": Weather}

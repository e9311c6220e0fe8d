"""Tells what time it is, in the operator's time zone or at the places that the mail names.

Places are the cities of the time-zone database, its countries, the frequent names below, zones (`Europe/Berlin`, `CET`) and
offsets (`UTC+2`). They are looked for in the subject, and in the text where the subject names none. What the sender wrote
is never repeated: a place is shown by the database's spelling.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from importlib import resources
from pathlib import Path
from zoneinfo import TZPATH, ZoneInfo, available_timezones

from pydantic import BaseModel, ConfigDict, field_validator

from responder import Agent, Mail, Reply, hookimpl

MAX_PLACES = 5  # lines of an answer
MAX_TEXT = 2000  # characters of a mail's text that are looked at
MAX_WORDS = 4  # of one place's name
UNKNOWN = (
    "I don't know the place that you asked for, or it has several times. The name of a large city near it will help."
)

# What people call places that the database names after another city, or a country after its capital's zone.
NAMES = {
    "Africa/Johannesburg": "Cape Town, Pretoria, Durban",
    "Africa/Lagos": "Abuja",
    "America/Chicago": "Dallas, Houston, Austin, San Antonio, Minneapolis, St Louis, New Orleans, Texas",
    "America/Denver": "Salt Lake City, Colorado, Utah",
    "America/Los_Angeles": "San Francisco, San Diego, San Jose, Seattle, Las Vegas, California",
    "America/New_York": "NYC, Washington DC, Boston, Philadelphia, Atlanta, Miami, Orlando, Florida",
    "America/Sao_Paulo": "Rio de Janeiro, Brasilia",
    "America/Toronto": "Montreal, Ottawa, Quebec",
    "America/Edmonton": "Calgary",
    "America/Anchorage": "Alaska",
    "Asia/Dubai": "Abu Dhabi, UAE, Emirates",
    "Asia/Ho_Chi_Minh": "Hanoi, Saigon",
    "Asia/Jerusalem": "Tel Aviv, Haifa",
    "Asia/Kolkata": "Mumbai, Bombay, Delhi, New Delhi, Bangalore, Bengaluru, Chennai, Hyderabad",
    "Asia/Seoul": "Busan, Korea, South Korea",
    "Asia/Shanghai": "Beijing, Peking, Guangzhou, Shenzhen, China",
    "Asia/Tokyo": "Osaka, Kyoto, Nagoya, Sapporo",
    "Australia/Sydney": "Canberra",
    "Europe/Amsterdam": "The Hague, Rotterdam, Holland, Nederland",
    "Europe/Athens": "Hellas",
    "Europe/Berlin": "Munich, München, Hamburg, Frankfurt, Cologne, Köln, Stuttgart, Leipzig, Dresden, Germany, Deutschland",
    "Europe/Brussels": "Bruxelles, Antwerp, Belgique",
    "Europe/Copenhagen": "København, Danmark",
    "Europe/Istanbul": "Ankara, Izmir, Turkey, Türkiye, Türkei",
    "Europe/Kyiv": "Lviv, Odesa, Odessa, Ukraine",
    "Europe/Lisbon": "Lisboa, Lissabon, Porto, Portugal",
    "Europe/London": "Manchester, Liverpool, Birmingham, Edinburgh, Glasgow, England, Scotland, Wales, UK, United Kingdom, "
    "Britain, Great Britain",
    "Europe/Madrid": "Barcelona, Valencia, Sevilla, Seville, Spain, España, Spanien",
    "Europe/Moscow": "St Petersburg, Saint Petersburg, Moskau",
    "Europe/Paris": "Lyon, Marseille, Toulouse, Strasbourg, Frankreich",
    "Europe/Prague": "Brno, Praha, Prag",
    "Europe/Rome": "Roma, Rom, Milan, Milano, Naples, Napoli, Turin, Florence, Venice, Italia, Italien",
    "Europe/Stockholm": "Gothenburg, Göteborg, Malmö, Sverige, Schweden",
    "Europe/Vienna": "Wien, Salzburg, Graz, Innsbruck, Österreich",
    "Europe/Warsaw": "Krakow, Cracow, Gdansk, Warszawa, Warschau, Polska, Polen",
    "Europe/Zurich": "Zuerich, Geneva, Genf, Genève, Bern, Berne, Basel, Lausanne, Lugano, Schweiz, Suisse, Svizzera",
    "Pacific/Auckland": "Wellington, Christchurch, New Zealand",
    "Pacific/Honolulu": "Hawaii",
    "America/Guayaquil": "Ecuador",
    "America/Nuuk": "Greenland",
    "America/Santiago": "Chile",
    "Asia/Ulaanbaatar": "Mongolia",
    "UTC": "UTC, GMT, Greenwich Mean Time, Zulu Time",
}
MANY = "USA, United States, America, Russia, Australia, Brazil, Canada, Mexico, Indonesia, Kazakhstan, Congo"
"""What has several times, or is several places: the sender is asked for a city."""
SHORT = {
    "America/Chicago": "CST CDT",
    "America/Denver": "MST MDT",
    "America/Los_Angeles": "PST PDT",
    "America/New_York": "EST EDT",
    "Asia/Tokyo": "JST",
    "Australia/Sydney": "AEST AEDT",
    "Europe/London": "BST",
    "Europe/Moscow": "MSK",
    "Pacific/Auckland": "NZST NZDT",
    "UTC": "UTC GMT",
    "": "IST",
}
"""Abbreviations besides those that the database has (`CET`), known in capitals only: "ist" and "est" are words."""
# Words of an ordinary sentence that are names in the database, too.
NO_NAMES = frozenset({
    "act", "center", "central", "christmas", "easter", "eastern", "factory", "general", "gb", "jan", "knox", "mahe",
    "mountain", "nice", "north", "nz", "pacific", "prc", "rok", "south", "troll", "tell", "city", "universal", "us",
    "wake", "west", "yap", "zulu",
})  # fmt: skip
# ... and of people, who sign with them: in a text these are places behind "in" only.
PEOPLE = frozenset({
    "adelaide", "austin", "chad", "dallas", "florence", "georgia", "israel", "jordan", "orlando", "sydney",
    "victoria",
})  # fmt: skip
_ZONE = re.compile(r"\b[A-Za-z]{2,20}(?:/[A-Za-z0-9_+-]{1,30}){1,2}")
_OFFSET = re.compile(r"(?<![\w/])(?:UTC|GMT) ?([+\-\u2212]) ?(\d{1,2})(?::?([0-5]\d))?(?!\d)")
_SHORT = re.compile(r"\b[A-Z]{3,4}\b")
_WORD = re.compile(r"[^\W\d_]+(?:['’.][^\W\d_]+)*")
_ASKED = re.compile(
    r"\b(?:time|uhr|spät|spat|heure|hora|ora)\b[\w ]{0,20}? (?:in|at|for|a|à|en)\s+[^\W\d_]", re.IGNORECASE
)
_FOLDED = str.maketrans({"ø": "o", "ł": "l", "-": " ", ".": None, "'": None, "’": None})
_QUESTION = re.compile(r"[^\W\d_]+(?: [^\W\d_]+){0,2} ?\?")
_NO_PLACE = frozenset({
    "what", "whats", "when", "which", "who", "how", "is", "it", "the", "time", "now", "current", "please", "hello",
    "hi", "hey", "test", "there", "you", "anybody",
})  # fmt: skip


class CurrentTime(Agent):
    """Tells what time it is, in a time zone of the operator's choice or at the places that the mail names."""

    class Settings(BaseModel):
        model_config = ConfigDict(extra="forbid")

        timezone: str = "UTC"
        format: str = "%A, %d %B %Y, %H:%M:%S"

        @field_validator("timezone")
        @classmethod
        def _known(cls, name: str) -> str:
            try:
                zone(name)
            except (KeyError, ValueError, OSError):
                raise ValueError(f'there is no time zone "{name}"') from None
            return name

        @field_validator("format")
        @classmethod
        def _is_a_format(cls, pattern: str) -> str:
            if len(pattern) > 200 or not datetime(2026, 1, 1, tzinfo=UTC).strftime(pattern).strip():
                raise ValueError("it must be what strftime takes, of at most 200 characters")
            return pattern

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._places = Places()

    def answer(self, mail: Mail) -> Reply:  # type: ignore[override]
        # Not `async`: the file of a zone is read when it is first asked for.
        found, unknown = self._places.find(mail.base_subject[:300], subject=True)
        if not found and not unknown:
            found, unknown = self._places.find(mail.reply_text[:MAX_TEXT])
        now = self.context.now()
        if found:
            told = "".join([f"{name}: {self._told(now, where)}.\n" for name, where in found.items()])
        else:
            told = f"It is {self._told(now, self.settings.timezone)}.\n"
        return Reply(text=f"{told}\n{UNKNOWN}\n" if unknown else told)

    def _told(self, now: datetime, name: str) -> str:
        there = now.astimezone(zone(name))
        return f"{there.strftime(self.settings.format)} ({name}, UTC{there:%z})"


class Places:
    """What places there are, by name without case and accents; each a zone, or "" where it is not clear which."""

    def __init__(self) -> None:
        self._zones = {name.casefold(): name for name in available_timezones()}
        self._short = {name: name for name in self._zones.values() if name.isupper() and name.isalpha()}
        self._short |= {word: name for name, words in SHORT.items() for word in words.split() if self._has(name)}
        self._names: dict[str, str] = {}
        for name in sorted(self._zones.values()):
            area, _, last = name.rpartition("/")
            # `Etc/GMT+5` is five hours behind UTC: nobody who writes "GMT+5" means that.
            if area and area not in ("Etc", "SystemV", "US"):
                self._add(last, name)
        countries = dict(_rows("iso3166.tab"))
        for country, zones in _by_country():
            for spelling in re.split(r"[()]", countries.get(country, "")):
                self._add(spelling, zones[0] if len(zones) == 1 else "")
        for name, spellings in {**NAMES, "": MANY}.items():
            if self._has(name):
                self._names |= {fold(spelling): name for spelling in spellings.split(",")}

    def _has(self, name: str) -> bool:
        return name in ("", "UTC") or name.casefold() in self._zones

    def _add(self, spelling: str, name: str) -> None:
        key = fold(spelling.replace("_", " "))
        if key and key not in NO_NAMES:
            # Two spellings of one zone (links) are the same place; else the name is ambiguous.
            same = key not in self._names or _same(self._names[key], name)
            self._names[key] = self._names.get(key, name) if same else ""

    def find(self, text: str, *, subject: bool = False) -> tuple[dict[str, str], bool]:
        """The places that a text names and their zones, in order; and whether it names one that is not known."""
        text = unicodedata.normalize("NFC", text)
        found: dict[str, str] = {}
        unknown = False
        for name in [*self._written_out(text), *self._named(text, any_case=subject)]:
            if not name:
                unknown = True
            elif len(found) < MAX_PLACES:
                found.setdefault(name.rpartition("/")[2].replace("_", " "), name)
        asked = _ASKED.search(text) is not None
        if subject and _QUESTION.fullmatch(text.strip()):
            asked = asked or not _NO_PLACE & set(fold(text.strip(" ?")).split())
        return found, unknown or (asked and not found)

    def _written_out(self, text: str) -> Iterator[str]:
        """Offsets, zones by their full name, and abbreviations in capitals."""
        for sign, hours, minutes in _OFFSET.findall(text):
            there = f"UTC{'+' if sign == '+' else '-'}{int(hours):02}:{minutes or '00'}"
            yield there if int(hours) <= 14 else ""
        text = _OFFSET.sub(" ", text)
        for match in _ZONE.findall(text):
            if match.casefold() in self._zones:
                yield self._zones[match.casefold()]
        for match in _SHORT.findall(_ZONE.sub(" ", text)):
            if match in self._short:
                yield self._short[match]

    def _named(self, text: str, *, any_case: bool) -> Iterator[str]:
        """Cities and countries. In a text they begin with a capital, or stand behind "in": it holds many other words."""
        words = [match[0] for match in _WORD.finditer(_ZONE.sub(" ", _OFFSET.sub(" ", text)))]
        folded = [fold(word) for word in words]
        at = 0
        while at < len(words):
            plain = any_case or (not words[at][0].islower() and folded[at] not in PEOPLE)
            plain = plain or (at > 0 and folded[at - 1] in ("in", "for", "at"))
            for length in range(MAX_WORDS, 0, -1) if plain else ():
                key = " ".join(folded[at : at + length])
                if key in self._names:
                    yield self._names[key]
                    at += length
                    break
            else:
                at += 1


def zone(name: str) -> tzinfo:
    """A time zone by its name or offset; UTC needs no table of time zones, which small systems don't have."""
    if match := re.fullmatch(r"UTC([+-])(\d\d):(\d\d)", name):
        offset = timedelta(hours=int(match[2]), minutes=int(match[3]))
        return timezone(offset if match[1] == "+" else -offset)
    return UTC if name == "UTC" else ZoneInfo(name)


def fold(text: str) -> str:
    """A name without case, accents, dots and apostrophes; a hyphen is a blank."""
    bare = "".join([char for char in unicodedata.normalize("NFKD", text) if not unicodedata.combining(char)])
    return " ".join(bare.casefold().translate(_FOLDED).split())


def _same(one: str, other: str) -> bool:
    """Whether two zones are one in the database, under two names."""
    try:
        return one == other or _rules(one) == _rules(other)
    except (KeyError, ValueError, OSError):
        return False


def _rules(name: str) -> list[timedelta | None]:
    """A zone's offsets every month of two years: enough to tell zones apart that differ today."""
    there = ZoneInfo(name)
    return [there.utcoffset(datetime(year, month, 15)) for year in (2025, 2026) for month in range(1, 13)]  # noqa: DTZ001


def _by_country() -> Iterator[tuple[str, list[str]]]:
    """The zones of each country, by its code, those with different times only."""
    zones: dict[str, list[str]] = {}
    for code, row in _rows("zone.tab"):
        name = row.split("\t")[1]
        known = zones.setdefault(code, [])
        if not any(_same(name, other) for other in known):
            known.append(name)
    yield from zones.items()


def _rows(name: str) -> Iterator[tuple[str, str]]:
    """The first column and the rest of each row of a table of the database; none where the system has no such table."""
    for folder in [*map(Path, TZPATH), _packaged()]:
        path = folder / name if folder else None
        if path is not None and path.is_file():
            for line in path.read_text(encoding="utf-8").splitlines():
                if line and not line.startswith("#"):
                    yield line.partition("\t")[0], line.partition("\t")[2]
            return


def _packaged() -> Path | None:
    """The folder of the package tzdata, where it is installed."""
    try:
        return Path(str(resources.files("tzdata") / "zoneinfo"))
    except ModuleNotFoundError:
        return None


@hookimpl
def responder_agents() -> dict[str, type[Agent]]:
    return {"current-time": CurrentTime}

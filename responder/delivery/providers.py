"""The large providers, by the hosts that their customers' MX records name, and what they bear without throttling.

Field practice, and on the careful side: a provider that bears more loses us little, one that is pressed blocks us. What an
operator sets in `[providers.NAME]` takes the place of what the entry of that name here says.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from responder.config import Config, Provider

KNOWN: Final[Mapping[str, Provider]] = {
    "google": Provider(suffixes=("google.com", "googlemail.com"), connections=20),
    "microsoft": Provider(suffixes=("outlook.com", "hotmail.com"), connections=20),
    "yahoo": Provider(suffixes=("yahoodns.net",), connections=5),
    "apple": Provider(suffixes=("icloud.com",), connections=5),
    "gmx": Provider(suffixes=("gmx.net", "web.de"), connections=5),
    "ionos": Provider(suffixes=("kundenserver.de", "ionos.com", "1and1.com"), connections=5),
    "telekom": Provider(suffixes=("t-online.de",), connections=5),
    "orange": Provider(suffixes=("smtp-in.orange.fr",), connections=2),
    "free": Provider(suffixes=("mx1.free.fr", "mx2.free.fr"), connections=2),
    "laposte": Provider(suffixes=("laposte.net",), connections=2),
    "comcast": Provider(suffixes=("mx1.comcast.net", "mx2.comcast.net"), connections=5),
    "proofpoint": Provider(suffixes=("pphosted.com", "ppe-hosted.com"), connections=10),
    "mimecast": Provider(suffixes=("mimecast.com",), connections=10),
    "yandex": Provider(suffixes=("yandex.net", "yandex.ru"), connections=5),
    "mailru": Provider(suffixes=("mail.ru",), connections=5),
    "tencent": Provider(suffixes=("qq.com",), connections=5),
}


def providers(config: Config) -> dict[str, Provider]:
    """Those that are known, changed and joined by the operator's: what a table does not say stays as it is known."""
    found = dict(KNOWN)
    for name, table in config.providers.items():
        said = {key: getattr(table, key) for key in table.model_fields_set}
        found[name] = KNOWN[name].model_copy(update=said) if name in KNOWN else table
    return found

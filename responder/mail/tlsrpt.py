"""TLS reports (RFC 8460): sessions counted, the record that asks for a report, and the report as JSON and as a mail. Pure."""

from __future__ import annotations

import gzip
import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple
from urllib.parse import unquote, urlsplit

from responder.mail.address import Address, AddressError, parse
from responder.mail.part import Part, attachment_part, multipart, text_part
from responder.mail.write import format_date, line_text, mailbox_field, plain_field

DAY: Final = 86_400
MAX_POLICIES: Final = 20  # of one domain and day: DANE has one for each host
MAX_DETAILS: Final = 40  # kinds of failure of one policy; those beyond are counted and not told apart
MAX_TARGETS: Final = 5
MAX_TEXT: Final = 200
MAX_STRINGS: Final = 4000  # characters of a policy that are shown

_VERSION: Final = re.compile(rb"v=TLSRPTv1[ \t]*(?:;|$)")


class Policy(NamedTuple):
    """What sessions came under (RFC 8460 4.4)."""

    type: str
    domain: str
    strings: tuple[str, ...] = ()
    mx_hosts: tuple[str, ...] = ()


class Detail(NamedTuple):
    """One kind of failure: result type (RFC 8460 4.3), our address, the host's name and address, and a word for people."""

    kind: str
    source: str
    host: str
    address: str
    text: str


@dataclass(slots=True)
class Count:
    """The sessions under one policy."""

    succeeded: int = 0
    failed: int = 0
    details: Counter[Detail] = field(default_factory=Counter)


class Tally:
    """The sessions with one domain on one day."""

    def __init__(self) -> None:
        self.policies: dict[Policy, Count] = {}

    def add(self, policy: Policy, failure: Detail | None, times: int = 1) -> None:
        """Count sessions that went well, or failed in this way."""
        count = self._count(policy)
        if count is None:
            return
        if failure is None:
            count.succeeded += times
            return
        count.failed += times
        if failure in count.details or len(count.details) < MAX_DETAILS:
            count.details[failure] += times

    def merge(self, other: Tally) -> None:
        """Add what another one has."""
        for policy, more in other.policies.items():
            count = self._count(policy)
            if count is None:
                continue
            count.succeeded += more.succeeded
            count.failed += more.failed
            for detail, times in more.details.items():
                if detail in count.details or len(count.details) < MAX_DETAILS:
                    count.details[detail] += times

    def _count(self, policy: Policy) -> Count | None:
        if policy not in self.policies and len(self.policies) >= MAX_POLICIES:
            return None
        return self.policies.setdefault(policy, Count())

    def __str__(self) -> str:
        """As JSON, which `read` takes back."""
        return json.dumps(
            [
                [policy, count.succeeded, count.failed, list(count.details.items())]
                for policy, count in self.policies.items()
            ]
        )

    @classmethod
    def read(cls, text: str) -> Tally:
        """Raises `ValueError` where it is none."""
        tally = cls()
        try:
            for (kind, domain, strings, hosts), succeeded, failed, details in json.loads(text):
                count = Count(int(succeeded), int(failed))
                count.details.update({Detail(*detail): int(times) for detail, times in details})
                tally.policies[Policy(kind, domain, tuple(strings), tuple(hosts))] = count
        except (TypeError, AttributeError) as error:
            raise ValueError(str(error)) from None
        return tally


class Target(NamedTuple):
    """Where a report goes: to a mailbox, or to a path of a web server (https)."""

    mailbox: Address | None = None
    host: str = ""
    path: str = ""


def targets(records: Iterable[bytes]) -> list[Target]:
    """Who wants reports, by the TXT records of `_smtp._tls.DOMAIN`; nobody where there is not exactly one that counts (RFC 8460
    3)."""
    ours = [record for record in records if _VERSION.match(record)]
    if len(ours) != 1:
        return []
    found: list[Target] = []
    for pair in ours[0].decode("utf-8", "replace").split(";")[1:]:
        name, _, value = pair.strip(" \t").partition("=")
        if name.rstrip(" \t") == "rua":
            found += [target for uri in value.split(",") if (target := _target(uri.strip(" \t"))) is not None]
    first: dict[object, Target] = {}
    for target in found:  # one mailbox by five of its tags is one
        first.setdefault(target.mailbox.person if target.mailbox else target, target)
    return list(first.values())[:MAX_TARGETS]


def _target(uri: str) -> Target | None:
    try:
        parts = urlsplit(uri)
        if parts.scheme == "mailto":
            return Target(parse(unquote(parts.path)))
        if parts.scheme == "https" and parts.port in (None, 443) and parts.username is None:
            host = (parts.hostname or "").encode("idna").decode()
            path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            if re.fullmatch(r"[a-z0-9.-]+\.[a-z0-9-]*[a-z-][a-z0-9-]*", host) and re.fullmatch(r"[!-~]+", path):
                return Target(host=host, path=path)
    except (AddressError, ValueError):
        pass
    return None


@dataclass(frozen=True, slots=True)
class Report:
    """One domain's day. `day` is its first second (Unix), `id` what receivers know the report by."""

    domain: str
    day: int
    organisation: str
    contact: str
    id: str

    @property
    def filename(self) -> str:
        """RFC 8460 5.1."""
        return f"{self.organisation}!{self.domain}!{self.day}!{self.day + DAY - 1}!{self.id.partition('@')[0]}.json.gz"

    def body(self, tally: Tally) -> bytes:
        """The report itself: JSON, packed (RFC 8460 4.4)."""
        value = {
            "organization-name": self.organisation,
            "date-range": {"start-datetime": _moment(self.day), "end-datetime": _moment(self.day + DAY - 1)},
            "contact-info": self.contact,
            "report-id": self.id,
            "policies": [_policy(policy, count) for policy, count in tally.policies.items()],
        }
        return gzip.compress(json.dumps(value).encode(), mtime=0)

    def compose(self, body: bytes, *, to: Address, sender: Address, now: float, message_id: str) -> bytes:
        """The mail that carries it (RFC 8460 5.3), lines ended by CRLF. Raises `ValueError` where an address has controls."""
        words = (
            f"This is a TLS report (RFC 8460) from {self.organisation} to {self.domain}, for {_moment(self.day)[:10]} UTC:\n"
            "how encrypted delivery to its hosts went. Its DNS record _smtp._tls asks for it.\n"
        )
        parts = [text_part(words), _attached(self.filename, body)]
        report = multipart("report", parts, message_id, ' report-type="tlsrpt";')
        fields = [
            f"Date: {format_date(now)}\r\n",
            mailbox_field("From", "TLS reports", sender),
            mailbox_field("To", "", to),
            plain_field(
                "Subject", f"Report Domain: {self.domain} Submitter: {self.organisation} Report-ID: <{self.id}>"
            ),
            f"Message-ID: {message_id}\r\n",
            plain_field("TLS-Report-Domain", self.domain),
            plain_field("TLS-Report-Submitter", self.organisation),
            "TLS-Required: No\r\n",  # RFC 8460 3: a report of failures must not fall to them
            "Auto-Submitted: auto-generated\r\n",
            "MIME-Version: 1.0\r\n",
            report.fields,
        ]
        return "".join(fields).encode("ascii") + b"\r\n" + report.body


def _attached(name: str, body: bytes) -> Part:
    return attachment_part(name, "application/tlsrpt+gzip", body)


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _policy(policy: Policy, count: Count) -> dict[str, Any]:
    shown: dict[str, Any] = {"policy-type": policy.type, "policy-domain": policy.domain}
    if policy.strings:
        shown["policy-string"] = list(policy.strings)
    if policy.mx_hosts:
        shown["mx-host"] = list(policy.mx_hosts)
    summary = {
        "total-successful-session-count": count.succeeded,
        "total-failure-session-count": count.failed,
    }
    entry: dict[str, Any] = {"policy": shown, "summary": summary}
    if count.details:
        entry["failure-details"] = [_detail(detail, times) for detail, times in count.details.items()]
    return entry


def _detail(detail: Detail, times: int) -> dict[str, Any]:
    fields = {
        "result-type": detail.kind,
        "sending-mta-ip": detail.source,
        "receiving-mx-hostname": detail.host,
        "receiving-ip": detail.address,
        "failure-reason-code": detail.text,
    }
    return {key: value for key, value in fields.items() if value} | {"failed-session-count": times}


def shown(lines: Sequence[str]) -> tuple[str, ...]:
    """The lines of a policy, as far as a report shows them."""
    left, found = MAX_STRINGS, []
    for line in lines:
        left -= len(line)
        if left < 0:
            break
        found.append(line_text(line, MAX_STRINGS))
    return tuple(found)

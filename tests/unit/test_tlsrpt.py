"""TLS reports: who wants them, what is counted, and what leaves (RFC 8460)."""

from __future__ import annotations

import email
import email.policy
import gzip
import json
from typing import Any

import pytest

from responder.mail.address import Address, parse
from responder.mail.tlsrpt import MAX_DETAILS, MAX_POLICIES, Detail, Policy, Report, Tally, Target, targets

DAY = 1_799_971_200
STS = Policy("sts", "example.com", ("version: STSv1", "mode: enforce"), ("*.example.com",))
EXPIRED = Detail("certificate-expired", "192.0.2.1", "mx1.example.com", "198.51.100.7", "certificate has expired")
REPORT = Report("example.com", DAY, "mx.example.org", "postmaster@example.org", f"{DAY}.example.com@mx.example.org")


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (b"v=TLSRPTv1;rua=mailto:reports@example.com", [Target(parse("reports@example.com"))]),
        (b"v=TLSRPTv1; rua = mailto:a%2Bb@example.com ;", [Target(parse("a+b@example.com"))]),
        (
            b"v=TLSRPTv1; rua=mailto:a@example.com,https://reports.example.com/v1/tlsrpt?x=1",
            [Target(parse("a@example.com")), Target(host="reports.example.com", path="/v1/tlsrpt?x=1")],
        ),
        (b"v=TLSRPTv1; rua=https://reports.example.com", [Target(host="reports.example.com", path="/")]),
        (b"v=TLSRPTv1; rua=http://reports.example.com/", []),
        (b"v=TLSRPTv1; rua=https://reports.example.com:8443/", []),
        (b"v=TLSRPTv1; rua=https://127.0.0.1/", []),
        (b"v=TLSRPTv1; rua=https://[::1]/", []),
        (b"v=TLSRPTv1; rua=https://user@reports.example.com/", []),
        (b"v=TLSRPTv1; rua=https://localhost/", []),
        (b"v=TLSRPTv1; rua=mailto:nobody", []),
        (b"v=TLSRPTv1; rua=mailto:a@example.com%0d%0aBcc:b@example.net", []),
        (b"v=TLSRPTv2; rua=mailto:a@example.com", []),
        (b"v=TLSRPTv1", []),
    ],
)
def test_record_is_read_then_it_is_known_who_wants_reports(record: bytes, expected: list[Target]) -> None:
    assert targets([record]) == expected


def test_two_records_then_nobody_wants_any() -> None:
    assert targets([b"v=TLSRPTv1; rua=mailto:a@example.com"] * 2) == []


def test_record_names_many_then_the_first_five_get_it() -> None:
    many = ",".join([f"mailto:r{n}@example.com" for n in range(50)])
    assert len(targets([f"v=TLSRPTv1; rua={many}".encode()])) == 5


def counted() -> Tally:
    tally = Tally()
    tally.add(STS, None, 5)
    tally.add(STS, EXPIRED, 2)
    tally.add(Policy("no-policy-found", "example.com"), None)
    return tally


def body(tally: Tally) -> Any:
    return json.loads(gzip.decompress(REPORT.body(tally)))


def test_report_is_made_then_it_has_the_shape_of_the_rfc() -> None:
    assert body(counted()) == {
        "organization-name": "mx.example.org",
        "date-range": {"start-datetime": "2027-01-15T00:00:00Z", "end-datetime": "2027-01-15T23:59:59Z"},
        "contact-info": "postmaster@example.org",
        "report-id": "1799971200.example.com@mx.example.org",
        "policies": [
            {
                "policy": {
                    "policy-type": "sts",
                    "policy-domain": "example.com",
                    "policy-string": ["version: STSv1", "mode: enforce"],
                    "mx-host": ["*.example.com"],
                },
                "summary": {"total-successful-session-count": 5, "total-failure-session-count": 2},
                "failure-details": [
                    {
                        "result-type": "certificate-expired",
                        "sending-mta-ip": "192.0.2.1",
                        "receiving-mx-hostname": "mx1.example.com",
                        "receiving-ip": "198.51.100.7",
                        "failure-reason-code": "certificate has expired",
                        "failed-session-count": 2,
                    }
                ],
            },
            {
                "policy": {"policy-type": "no-policy-found", "policy-domain": "example.com"},
                "summary": {"total-successful-session-count": 1, "total-failure-session-count": 0},
            },
        ],
    }


def test_counts_are_written_and_read_then_they_are_the_same_and_add_up() -> None:
    tally = Tally.read(str(counted()))
    tally.merge(Tally.read(str(counted())))
    assert tally.policies[STS].succeeded == 10
    assert tally.policies[STS].details == {EXPIRED: 4}


@pytest.mark.parametrize("text", ["", "1", "[1]", '[["a"]]', "{}x", '[[["a","b",[],[]],"x",0,[]]]'])
def test_what_is_read_is_no_tally_then_it_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError):
        Tally.read(text)


def test_failures_are_all_different_then_totals_hold_and_details_end() -> None:
    tally = Tally()
    for number in range(10_000):
        tally.add(STS, EXPIRED._replace(address=str(number)))
        tally.add(Policy("tlsa", f"mx{number}.example.com"), None)
    assert tally.policies[STS].failed == 10_000
    assert len(tally.policies[STS].details) == MAX_DETAILS
    assert len(tally.policies) == MAX_POLICIES


def test_report_is_mailed_then_the_mail_is_as_the_rfc_wants_it() -> None:
    packed = REPORT.body(counted())
    raw = REPORT.compose(
        packed,
        to=parse("reports@example.com"),
        sender=Address("postmaster", "example.org"),
        now=DAY + 90_000.0,
        message_id="<auto.x@mx.example.org>",
    )
    assert raw.replace(b"\r\n", b"").count(b"\n") == 0
    mail = email.message_from_bytes(raw, policy=email.policy.default)
    assert mail.get_content_type() == "multipart/report"
    assert mail.get_param("report-type") == "tlsrpt"
    assert mail["TLS-Report-Domain"] == "example.com"
    assert mail["TLS-Report-Submitter"] == "mx.example.org"
    assert mail["TLS-Required"] == "No"
    assert mail["Auto-Submitted"] == "auto-generated"
    assert mail["From"].addresses[0].addr_spec == "postmaster@example.org"
    assert mail["To"].addresses[0].addr_spec == "reports@example.com"
    assert mail["Subject"] == (
        "Report Domain: example.com Submitter: mx.example.org Report-ID: <1799971200.example.com@mx.example.org>"
    )
    words, report = mail.iter_parts()
    assert words.get_content_type() == "text/plain"
    assert report.get_content_type() == "application/tlsrpt+gzip"
    assert report.get_filename() == f"mx.example.org!example.com!{DAY}!{DAY + 86_399}!{DAY}.example.com.json.gz"
    assert report.get_payload(decode=True) == packed

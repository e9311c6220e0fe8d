"""Signatures against dkimpy, which canonicalises and verifies by itself: any message, any fold, any head; and keys in files."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from responder.authentication.keys import parse
from responder.config import DKIM, Config
from responder.outbound.dkim import folder
from responder.outbound.dkim.folder import Entry, KeyFolderError
from responder.outbound.dkim.keys import KeyUnusableError, SigningKey, from_pem, generate, to_pem
from responder.outbound.dkim.signer import MAX_NAMES, Message, Terms
from responder.outbound.smtp.wire import canonical
from tests.support.signed import dkimpy_accepts, signatures, tags

TERMS = Terms(tuple([name.lower() for name in DKIM().headers]))
NOW = 1_700_000_000.5
DOMAIN = "test.example"


@cache
def keys() -> tuple[SigningKey, SigningKey]:
    return generate("r", "rsa"), generate("e", "ed25519")


def records(domain: str = DOMAIN) -> dict[str, str]:
    return {f"{key.selector}._domainkey.{domain}": key.record for key in keys()}


def signed(content: bytes, head: bytes = b"", terms: Terms = TERMS) -> bytes:
    content = canonical(content)
    return Message(content).sign(keys(), DOMAIN, terms, NOW, head) + head + content


TEXT = st.lists(
    st.sampled_from(
        [
            b"a",
            b" ",
            b"\t",
            b"  ",
            b"\r\n",
            b"\r\n\r\n",
            b"\r\n ",
            b"\r",
            b"\n",
            b".",
            b"\xc3\xbc",
            b"\xff",
            b"b=",
            b":",
            b";",
        ]
    ),
    max_size=30,
).map(b"".join)
VALUE = st.lists(
    st.sampled_from([b"a", b" ", b"\t", b"  ", b"\r\n ", b"\r\n\t", b"\xc3\xbc", b"\xff", b"b=", b":", b";"]),
    max_size=20,
).map(lambda parts: b"".join(parts) + b"x")
NAME = st.sampled_from(
    [b"To", b"CC", b"subject", b"List-Id", b"Received", b"DKIM-Signature", b"X-A", b"To", b"References"]
)


@given(st.lists(st.tuples(NAME, VALUE), max_size=8), VALUE, TEXT)
@settings(max_examples=400, deadline=None)
def test_message_when_signed_then_dkimpy_accepts_it_as_it_leaves(
    fields: list[tuple[bytes, bytes]], author: bytes, body: bytes
) -> None:
    section = b"".join([b"%s: %s\r\n" % field for field in [*fields, (b"From", author)]])
    content = signed(section + b"\r\n" + body)
    assert content == canonical(content)  # nothing is left for the wire to change
    assert dkimpy_accepts(content, records())[:2] == [True, True]


@given(st.lists(st.tuples(NAME, VALUE), max_size=4), TEXT)
@settings(max_examples=100, deadline=None)
def test_head_when_it_stands_before_the_content_then_it_is_covered(
    head: list[tuple[bytes, bytes]], body: bytes
) -> None:
    above = b"".join([b"%s: %s\r\n" % field for field in [*head, (b"List-Unsubscribe", b"<mailto:a@b>")]])
    content = signed(b"From: a@test.example\r\nList-Id: <x>\r\n\r\n" + body, above)
    assert dkimpy_accepts(content, records())[:2] == [True, True]
    changed = content.replace(b"<mailto:a@b>", b"<mailto:c@b>")
    assert dkimpy_accepts(changed, records())[:2] == [False, False]


def test_field_when_written_then_it_says_what_it_must_and_no_line_is_long() -> None:
    content = signed(b"From: a@test.example\r\nSender: x\r\n\r\nhi", terms=Terms(("subject", "to"), 3600.0))
    first, second = [tags(one) for one in signatures(content)]
    assert first["h"] == "from:from:subject:to:sender:sender"
    assert first | {"a": "", "s": "", "b": ""} == second | {"a": "", "s": "", "b": ""}
    assert (first["a"], second["a"]) == ("rsa-sha256", "ed25519-sha256")
    assert (first["t"], first["x"], first["c"], first["v"]) == ("1700000000", "1700003600", "relaxed/relaxed", "1")
    assert not {"l", "i", "q"} & first.keys()
    assert max(map(len, content.split(b"\r\n"))) <= 78
    assert signed(b"From: a@test.example\r\n\r\nhi") == signed(
        b"From: a@test.example\r\n\r\nhi"
    )  # the same octets each time


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\r\nno header",
        b"To: b@c\r\n\r\nno From",
        b" folded from nowhere\r\nFrom: a@b\r\n\r\n",
        b"From: a@b\r\nno field\r\n\r\n",
        b"From: a@b\r\n" + b"To: x\r\n" * MAX_NAMES + b"\r\n",
    ],
)
def test_message_when_its_header_is_none_then_nothing_is_signed(content: bytes) -> None:
    assert Message(content).sign(keys(), DOMAIN, TERMS, NOW) == b""


@pytest.mark.parametrize(
    "content", [b"From: a@test.example\r\n", b"From: a@test.example\r\n\r\n", b"From: a@test.example"]
)
def test_message_when_it_has_no_body_then_it_is_signed_all_the_same(content: bytes) -> None:
    assert dkimpy_accepts(signed(content), records()) == [True, True]


def test_key_when_written_and_read_then_it_is_the_same_and_shown_nowhere() -> None:
    for key in keys():
        again = from_pem(key.selector, to_pem(key))
        assert again.published == key.published and again.sign(bytes(32)) == key.sign(bytes(32))
        assert repr(key) == f"SigningKey('{key.selector}', {key.algorithm})"
        parse(key.record.encode())  # our own verifier can use it
        assert re.fullmatch(rf"v=DKIM1; k={key.algorithm}; p=[A-Za-z0-9+/]+=*", key.record)


def private(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey, password: bytes = b"") -> bytes:
    lock = BestAvailableEncryption(password) if password else NoEncryption()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, lock)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is no private key"),
        (b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "is no private key"),
        (lambda: private(rsa.generate_private_key(65537, 2048), b"secret"), "is encrypted"),
        (lambda: private(ec.generate_private_key(ec.SECP256R1())), "is neither an RSA nor an Ed25519 key"),
        (lambda: private(rsa.generate_private_key(65537, 8192)), "has 8192 bits"),
    ],
)
def test_key_when_it_can_not_sign_then_it_says_why(content: bytes | Callable[[], bytes], reason: str) -> None:
    octets = content() if callable(content) else content
    with pytest.raises(KeyUnusableError, match=reason):
        from_pem("x", octets)


def test_folder_when_written_then_it_is_read_again_and_private(tmp_path: Path) -> None:
    first, second = keys()
    with folder.changing(tmp_path / "dkim", DOMAIN, create=True):
        for key in (first, second):
            folder.add_key(tmp_path / "dkim", DOMAIN, key)
        found = {"r": Entry("active", 1_700_000_000.0), "e": Entry("retired", 1_700_000_001.0)}
        folder.write_entries(tmp_path / "dkim", DOMAIN, found)
        with pytest.raises(KeyFolderError, match="is there already"):
            folder.add_key(tmp_path / "dkim", DOMAIN, first)
    place = tmp_path / "dkim" / DOMAIN
    assert folder.domains(tmp_path / "dkim") == [DOMAIN]
    assert folder.entries(tmp_path / "dkim", DOMAIN) == found
    assert folder.read_key(tmp_path / "dkim", DOMAIN, "r").published == first.published
    assert {oct(os.stat(place / name).st_mode & 0o777) for name in ("r.pem", "e.pem")} == {"0o600"}
    assert oct(place.stat().st_mode & 0o777) == "0o700"
    assert sorted(path.name for path in place.iterdir()) == [".lock", "e.pem", "r.pem", "selectors.toml"]
    (place / "hand-made.pem").write_bytes(to_pem(second))  # not named: it signs nothing
    assert folder.entries(tmp_path / "dkim", DOMAIN)["hand-made"].state == "new"


@pytest.mark.parametrize(
    ("index", "reason"),
    [
        ("nonsense", "is not TOML"),
        ("x = 1", "wants a table for each selector"),
        ('["../x"]\nstate = "active"\nsince = 2026-01-01T00:00:00Z', "wants a table for each selector"),
        ('[r]\nstate = "on"\nsince = 2026-01-01T00:00:00Z', 'wants "new", "active" or "retired"'),
        ('[r]\nstate = "new"\nsince = 5', "wants a date"),
        ('[r]\nstate = "new"\nsince = 2026-01-01T00:00:00', "wants a date"),
        ('[r]\nstate = "new"\nsince = 2026-01-01T00:00:00Z\nmore = 1', "nothing else beside"),
        ('[gone]\nstate = "active"\nsince = 2026-01-01T00:00:00Z', "there is no gone.pem"),
        ("#" * 70_000, "larger than"),
    ],
)
def test_index_when_it_is_wrong_then_it_says_where_and_why(tmp_path: Path, index: str, reason: str) -> None:
    (tmp_path / DOMAIN).mkdir()
    (tmp_path / DOMAIN / "selectors.toml").write_text(index)
    with pytest.raises(KeyFolderError, match=reason) as caught:
        folder.entries(tmp_path, DOMAIN)
    assert str(tmp_path / DOMAIN / "selectors.toml") in str(caught.value)


@pytest.mark.parametrize("name", ["Test.example", "bücher.example", "a..b", "[192.0.2.1]"])
def test_folder_when_its_name_is_no_domain_then_it_says_so(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(KeyFolderError, match="is no domain"):
        folder.domains(tmp_path)


@pytest.mark.parametrize("name", ["Received", "return-path", "DKIM-Signature", "ARC-Seal", "Authentication-Results"])
def test_headers_when_they_change_on_the_way_then_the_configuration_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="added or changed on the way"):
        Config.model_validate({"dkim": {"headers": ["From", name]}})
    assert json.dumps(DKIM().headers)

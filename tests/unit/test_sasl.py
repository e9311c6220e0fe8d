"""SASL: each mechanism's dialog, what is kept of passwords, and the file of those who may log in."""

from __future__ import annotations

import base64
import hashlib
import stat
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from responder.clock import SystemClock
from responder.inbound.followed import FileError
from responder.inbound.login import passwords
from responder.inbound.login.passwords import (
    Scrypt,
    Verifier,
    hash_password,
    noise,
    parse_hash,
    parse_verifier,
    prepare,
    scram_verifier,
)
from responder.inbound.login.sasl import Claim, Login, Mechanism, Plain, SASLError, Scram, decode64
from responder.inbound.login.users import Users
from tests.support.clock import ManualClock
from tests.support.logins import USERS, ScramClient, scrypt_line, users_file

CLOCK = SystemClock()

# RFC 7677 3
SALT, SERVER_NONCE = base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ=="), "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
FIRST = b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO"
QUESTION = b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
FINAL = b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
SIGNATURE = b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="


def verifier(password: str = "pencil", salt: bytes = SALT, iterations: int = 4096) -> Verifier:
    import hmac

    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, iterations)
    client_key, server_key = (hmac.digest(salted, word, "sha256") for word in (b"Client Key", b"Server Key"))
    return Verifier(iterations, salt, hashlib.sha256(client_key).digest(), server_key)


def scram() -> Scram:
    return Scram(lambda name: verifier(), SERVER_NONCE)


def talk(mechanism: Mechanism, *responses: bytes | None) -> bytes | Claim:
    found: bytes | Claim = b""
    for response in responses:
        assert isinstance(found, bytes)
        found = mechanism.step(response)
    return found


# -- mechanisms ------------------------------------------------------------------------------------------------------------


def test_plain_when_its_message_comes_then_name_and_password_are_claimed() -> None:
    assert talk(Plain(), b"\0ann\0secret") == Claim("ann", "secret")
    assert talk(Plain(), None, b"ann\0ann\0secret") == Claim("ann", "secret")
    assert Plain().step(None) == b""


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"ann",
        b"\0ann",
        b"\0ann\0a\0b",
        b"bob\0ann\0secret",
        b"\0\0secret",
        b"\0ann\0",
        b"\0\xff\0x",
        b"\0a\x07\0x",
    ],
)
def test_plain_when_its_message_is_malformed_or_for_another_then_it_is_refused(message: bytes) -> None:
    with pytest.raises(SASLError):
        Plain().step(message)


def test_login_when_asked_both_then_they_are_claimed() -> None:
    mechanism = Login()
    assert [mechanism.step(None), mechanism.step(b"ann")] == [b"Username:", b"Password:"]
    assert mechanism.step(b"secret") == Claim("ann", "secret")
    assert talk(Login(), b"ann", b"secret") == Claim("ann", "secret")


def test_scram_when_the_rfcs_example_is_played_then_each_message_is_the_rfcs() -> None:
    mechanism = scram()
    assert mechanism.step(FIRST) == QUESTION
    assert mechanism.step(FINAL) == SIGNATURE
    assert mechanism.step(b"") == Claim("user", proved=True)


def test_scram_when_the_password_is_another_then_nothing_is_proved_and_nothing_signed() -> None:
    mechanism, client = scram(), ScramClient("user", "pencils")
    question = mechanism.step(client.first())
    assert isinstance(question, bytes)
    assert mechanism.step(client.final(question)) == Claim("user", proved=False)


@pytest.mark.parametrize("header", ["n,,", "y,,", "n,a=user,", "y,a=user,"])
def test_scram_when_the_client_binds_no_channel_then_it_is_let_in_and_the_server_shows_itself(header: str) -> None:
    mechanism, client = scram(), ScramClient("user", "pencil", header=header)
    question = mechanism.step(client.first())
    assert isinstance(question, bytes)
    assert mechanism.step(client.final(question)) == f"v={client.signature}".encode()
    assert mechanism.step(b"") == Claim("user", proved=True)


@pytest.mark.parametrize(
    "first",
    [
        b"p=tls-unique,,n=user,r=abc",
        b"p=tls-exporter,,n=user,r=abc",
        b"n,a=root,n=user,r=abc",
        b"n,a=,n=user,r=abc",
        b"n,,m=must,n=user,r=abc",
        b"n,,r=abc,n=user",
        b"n,,n=,r=abc",
        b"n,,n=user,r=",
        b"n,,n=user,r=a b",
        b"n,,n=us=er,r=abc",
        b"n,,n=us=2cer,r=abc",
        b"n,n=user,r=abc",
        b"n=user,r=abc",
        b"x,,n=user,r=abc",
        b"n,,n=us\x00er,r=abc",
        b"\xff",
        b"",
    ],
)
def test_scram_when_its_first_message_is_malformed_or_binds_a_channel_then_it_is_refused(first: bytes) -> None:
    with pytest.raises(SASLError):
        scram().step(first)


def test_scram_when_channel_binding_or_nonce_are_changed_on_the_way_then_it_is_refused() -> None:
    for binding, nonce in (("y,,", ""), ("p=tls-unique,,", ""), ("", "rOprNGfwEbeRWgbNEkqO"), ("", "other")):
        mechanism, client = scram(), ScramClient("user", "pencil")
        question = mechanism.step(client.first())
        assert isinstance(question, bytes)
        with pytest.raises(SASLError):
            mechanism.step(client.final(question, binding=binding, nonce=nonce))


@pytest.mark.parametrize("proof", [b"", b"AAAA", base64.b64encode(b"\0" * 32), base64.b64encode(b"\0" * 64)])
def test_scram_when_its_proof_is_of_any_length_then_it_proves_nothing(proof: bytes) -> None:
    mechanism = scram()
    mechanism.step(FIRST)
    message = FINAL.partition(b",p=")[0] + b",p=" + proof
    if proof:
        assert mechanism.step(message) == Claim("user", proved=False)
    else:
        with pytest.raises(SASLError):
            mechanism.step(message)


def test_scram_when_something_follows_the_proof_then_it_is_refused() -> None:
    with pytest.raises(SASLError):
        talk(scram(), FIRST, FINAL, FINAL)


def test_scram_when_names_have_commas_and_equals_signs_then_they_are_read() -> None:
    asked = []

    def find(name: str) -> Verifier:
        asked.append(name)
        return verifier()

    Scram(find, "x").step(ScramClient("a=b,c", "").first())
    assert asked == ["a=b,c"]


@given(st.lists(st.binary(max_size=60), min_size=1, max_size=4), st.sampled_from([Plain, Login, scram]))
@settings(max_examples=300)
def test_mechanism_when_anything_comes_then_it_asks_claims_or_refuses(
    responses: list[bytes], kind: type[Plain]
) -> None:
    mechanism = kind()
    for response in responses:
        try:
            found = mechanism.step(response)
        except SASLError:
            return
        if isinstance(found, Claim):
            assert not found.proved
            return


def test_claim_when_shown_then_its_password_is_not() -> None:
    assert "secret" not in repr(Claim("ann", "secret"))


@pytest.mark.parametrize(
    "text", [b"A", b"AA", b"AAA", b"AA=A", b" AAAA", b"AAAA\n", b"AA==AA==", b"A-_A", b"====", b"\xff"]
)
def test_base64_when_it_is_not_strictly_that_then_it_is_refused(text: bytes) -> None:
    with pytest.raises(SASLError):
        decode64(text)


# -- what is kept of a password --------------------------------------------------------------------------------------------


def test_hash_when_made_then_it_matches_its_password_only_and_no_two_are_alike() -> None:
    text = hash_password("secret", CLOCK)
    kept = parse_hash(text)
    assert kept.matches("secret") and not kept.matches("Secret") and not kept.matches("")
    assert isinstance(kept, Scrypt) and 128 * kept.r << kept.ln == 32 << 20
    assert hash_password("secret", CLOCK) != text


def test_hash_of_argon2_when_read_then_it_matches_its_password_only() -> None:
    argon2 = pytest.importorskip("argon2")
    kept = parse_hash(argon2.PasswordHasher(memory_cost=64, time_cost=1, parallelism=1).hash("secret"))
    assert kept.matches("secret") and not kept.matches("other")


def test_hash_of_argon2_when_its_library_is_missing_then_one_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "argon2", None)
    with pytest.raises(ValueError, match=r"responder-mta\[argon2\]"):
        parse_hash("$argon2id$v=19$m=65536,t=3,p=4$ot3EmdOzkHfBbJE3x0PmnA$0c5mZWjyfplcXz45SOu/ER4Q03flfTqxR91WlmliMQE")


def test_verifier_when_made_then_a_client_with_the_password_is_let_in() -> None:
    kept = parse_verifier(scram_verifier("secret", CLOCK, 4096))
    mechanism, client = Scram(lambda name: kept, "x"), ScramClient("ann", "secret")
    question = mechanism.step(client.first())
    assert isinstance(question, bytes)
    assert mechanism.step(client.final(question)) == f"v={client.signature}".encode()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "secret",
        "$2y$10$abcdefghijklmnopqrstuv",
        "{PLAIN}secret",
        "$scrypt$ln=30,r=8,p=1$AAAA$" + "A" * 43,
        "$scrypt$ln=0,r=8,p=1$AAAA$" + "A" * 43,
        "$scrypt$ln=15,r=999,p=999$AAAA$" + "A" * 43,
        "$scrypt$ln=4,r=8,p=1$AAAA$AAAA",
        "$scrypt$ln=4,r=8,p=1$A$" + "A" * 43,
        "$scrypt$ln=4,r=8,p=1$$",
        "$argon2id$v=19$m=999999999,t=3,p=4$AAAAAAAAAAA$AAAAAAAAAAAAAAAA",
        "$argon2i$v=19$m=65536,t=3,p=4$AAAAAAAAAAA$AAAAAAAAAAAAAAAA",
    ],
)
def test_hash_when_it_is_none_or_takes_too_much_then_it_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_hash(text)
    assert not text or text not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    ["SCRAM-SHA-1$4096:AAAA$AAAA:AAAA", "SCRAM-SHA-256$4096:AAAA$AAAA:AAAA", "SCRAM-SHA-256$1:AAAA$" + "A" * 43, "x"],
)
def test_verifier_when_it_is_none_or_weak_then_it_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_verifier(text)


@pytest.mark.parametrize(
    ("text", "prepared"),
    [
        ("I\u00adX", "IX"),  # RFC 4013 3
        ("user", "user"),
        ("USER", "USER"),
        ("\u00aa", "a"),
        ("\u2168", "IX"),
        ("a\u00a0b", "a b"),
        ("gru\u0308n", "gr\u00fcn"),
        ("\u0627\u0628", "\u0627\u0628"),
        ("\U0001f600", "\U0001f600"),
    ],
)
def test_prepare_when_texts_are_the_same_to_people_then_they_are_the_same(text: str, prepared: str) -> None:
    assert prepare(text) == prepared


@pytest.mark.parametrize("text", ["", "\u00ad", "\u0007", "a\0", "\u06271", "a\u0627", "\ufffd", "\ue000", "\u200e"])
def test_prepare_when_a_letter_has_no_place_then_it_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        prepare(text)


def test_noise_when_made_then_it_is_long_and_never_the_same() -> None:
    assert len({noise(CLOCK) for _ in range(100)}) == 100
    assert len(noise(CLOCK)) == 16


# -- the file ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def users(tmp_path: Path) -> Users:
    return Users(users_file(tmp_path))


def test_users_when_read_then_each_is_there_with_the_hash_of_its_password(users: Users) -> None:
    assert len(users) == len(USERS) and users.know_scram
    for name, password in USERS.items():
        user = users.find(name)
        assert user.known and user.name == name
        assert user.hash.matches(password) and not user.hash.matches(password + "x")
        assert user.verifier is not None


def test_user_when_unknown_then_what_stands_in_is_as_costly_stays_the_same_and_lets_nobody_in(users: Users) -> None:
    first, again, other = users.find("mallory"), users.find("mallory"), users.find("trudy")
    known = users.find("ann").verifier
    assert first.verifier is not None and other.verifier is not None and known is not None
    assert first.verifier == again.verifier
    assert first.verifier.salt != other.verifier.salt
    assert (first.verifier.iterations, len(first.verifier.salt)) == (known.iterations, len(known.salt))
    assert isinstance(first.hash, Scrypt) and first.hash.ln == 4
    assert not first.known and not other.known


def test_user_when_the_file_grows_then_the_salts_that_stand_in_stay(users: Users, tmp_path: Path) -> None:
    before = users.find("mallory").verifier
    path = tmp_path / "users"
    path.write_text(path.read_text() + f"new:{scrypt_line('x')}:{scram_verifier('x', CLOCK, 4096)}\n")
    assert users.refresh()
    after = users.find("mallory").verifier
    assert before is not None and after is not None
    assert before.salt == after.salt


def test_user_without_scram_when_asked_for_then_its_verifier_stands_in(users: Users) -> None:
    bob = users.find("bob")
    assert bob.known and bob.verifier == users.find("bob").verifier
    mechanism, client = Scram(lambda name: bob.verifier or verifier(), "x"), ScramClient("bob", USERS["bob"])
    question = mechanism.step(client.first())
    assert isinstance(question, bytes)
    assert mechanism.step(client.final(question)) == Claim("bob", proved=False)


def test_users_when_nobody_can_log_in_by_scram_then_it_is_known(tmp_path: Path) -> None:
    path = tmp_path / "users"
    path.write_text(f"ann:{scrypt_line('x')}\n")
    assert not Users(path).know_scram
    path.write_text("# nobody yet\n\n")
    assert not Users(path).know_scram and not Users(path).find("ann").known


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("ann", "line 1: wants NAME:HASH"),
        ("ann:secret", r"line 1: wants a \$scrypt\$"),
        (f"# x\n\nann:{scrypt_line('x')}\nann:{scrypt_line('y')}", "line 4: its name was there before"),
        (f":{scrypt_line('x')}", "line 1: its name is empty"),
        (f"{'a' * 300}:{scrypt_line('x')}", "longer than 255"),
        (f"gru\u0308n:{scrypt_line('x')}", "not as it is compared"),
        (f"ann:{scrypt_line('x')}:SCRAM-SHA-1$1:a$b:c", "no SCRAM-SHA-256 verifier"),
    ],
)
def test_users_when_a_line_is_wrong_then_file_line_and_reason_are_told(text: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "users").write_text(text)
    with pytest.raises(FileError, match=reason) as caught:
        Users(tmp_path / "users")
    assert str(caught.value).startswith(f"auth.users: {tmp_path / 'users'}: ")
    assert "\n" not in str(caught.value) and "secret" not in str(caught.value)


def test_users_when_the_file_is_missing_or_no_text_then_one_line_says_so(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="no such file"):
        Users(tmp_path / "users")
    (tmp_path / "users").write_bytes(b"\xff\xfe")
    with pytest.raises(FileError, match="is not UTF-8"):
        Users(tmp_path / "users")
    with pytest.raises(FileError, match="directory"):
        Users(tmp_path)


def test_users_when_everybody_can_read_the_file_then_it_is_remarked(users: Users, tmp_path: Path) -> None:
    assert list(users.remarks()) == []
    (tmp_path / "users").chmod(0o644)
    assert stat.S_IMODE((tmp_path / "users").stat().st_mode) == 0o644
    assert [key for key, _ in users.remarks()] == ["auth.users"]


def test_users_when_the_file_changes_then_it_is_read_again_and_a_bad_one_leaves_the_old(
    users: Users, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "users"
    assert not users.refresh()
    good = path.read_text()
    path.write_text(good + "half a li")
    assert not users.refresh() and not users.refresh()
    assert users.find("ann").known
    path.write_text(good.replace("\nbob:", "\nrob:"))
    assert users.refresh() and not users.refresh()
    assert users.find("rob").known and not users.find("bob").known


def test_parameters_when_made_then_no_test_has_weakened_them() -> None:
    assert (passwords.LN, passwords.R, passwords.P, passwords.ITERATIONS) == (15, 8, 3, 65536)
    assert hash_password("x", ManualClock()).startswith("$scrypt$ln=15,r=8,p=3$")

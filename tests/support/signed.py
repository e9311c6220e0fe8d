"""Verifiers of signatures that are none of ours: dkimpy in the process, opendkim as a program; and a domain's keys for both."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path

import dkim  # type: ignore[import-untyped]

from tests.conftest import find_peer
from tests.support.dns_server import Zone
from tests.support.server import ServerProcess

SIGNATURE = re.compile(rb"^DKIM-Signature:(?: [^\r\n]*\r\n(?:[ \t][^\r\n]*\r\n)*)", re.MULTILINE)
BATCH = 50  # messages of one run of opendkim


def make_keys(server: ServerProcess, zone: Zone, *domains: str) -> None:
    """Keys of both kinds for each domain, published and then active, as an operator makes them."""
    for domain in domains:
        publish(zone, json.loads(server.command("dkim", "new", domain, "--json").stdout))
        server.command("dkim", "activate", domain)


def publish(zone: Zone, records: Mapping[str, str]) -> None:
    for name, text in records.items():
        zone[name] = {"TXT": [text]}


def texts(zone: Zone) -> dict[str, str]:
    """The TXT records of keys."""
    return {name: entry["TXT"][0] for name, entry in zone.items() if "._domainkey." in name}


def signatures(content: bytes) -> list[bytes]:
    """The DKIM-Signature fields, from the top."""
    return SIGNATURE.findall(content.partition(b"\r\n\r\n")[0] + b"\r\n")


def tags(signature: bytes) -> dict[str, str]:
    pairs = [tag.partition("=") for tag in "".join(signature.decode("ascii").partition(":")[2].split()).split(";")]
    return {name: value for name, _, value in pairs}


def dkimpy_accepts(content: bytes, records: Mapping[str, str]) -> list[bool]:
    """What dkimpy says of each signature, from the top. Its Ed25519 is PyNaCl's, its canonical forms are its own."""

    def look_up(name: bytes, timeout: float = 5.0) -> bytes | None:
        found = records.get(name.decode("ascii").rstrip("."))
        return found.encode("ascii") if found is not None else None

    said = []
    for number in range(len(signatures(content))):
        try:
            said.append(bool(dkim.DKIM(content).verify(number, look_up)))
        except dkim.DKIMException:
            said.append(False)
    return said


def opendkim_accepts(folder: Path, contents: Iterable[bytes], records: Mapping[str, str]) -> list[dict[str, str]]:
    """For each message, what opendkim says of each algorithm: `{"rsa-sha256": "pass", "ed25519-sha256": "pass"}`."""
    folder.mkdir(exist_ok=True)
    keys = folder / "keys"
    keys.write_text("".join([f"{name} {text}\n" for name, text in records.items()]))
    configuration = folder / "opendkim.conf"
    configuration.write_text(f"Mode v\nTestDNSData file:{keys}\n")
    files = []
    for number, content in enumerate(contents):
        files.append(folder / f"{number}.eml")
        files[-1].write_bytes(content)
    program = find_peer("opendkim")
    assert program is not None
    said: list[dict[str, str]] = []
    for start in range(0, len(files), BATCH):
        some = ",".join(map(str, files[start : start + BATCH]))
        command = [program, "-x", str(configuration), "-v", "-v", "-t", some]
        out = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=120, check=True).stdout
        blocks = re.split(r"^### INSHEADER: idx=0 hname='Authentication-Results'", out, flags=re.MULTILINE)[1:]
        said += [
            {kind: word for word, kind in re.findall(r"dkim=(\w+)[^;]*?header\.a=([\w-]+)", block)} for block in blocks
        ]
    return said

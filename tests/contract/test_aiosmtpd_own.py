"""aiosmtpd's own tests, run against our session: what differs is what `docs/aiosmtpd.md` lists, with its reason."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from fnmatch import fnmatchcase
from pathlib import Path

import aiosmtpd
import pytest

from tests.support.server import ROOT

TESTS = Path(aiosmtpd.__file__).parent / "tests"
FILES = ("test_smtp.py", "test_smtps.py", "test_starttls.py", "test_lmtp.py", "test_smtpsmuggling.py")
CASES = 315
ROW = re.compile(r"^\| (`.+?`) \| .{20,} \|$", re.MULTILINE)

pytestmark = pytest.mark.skipif(not TESTS.is_dir(), reason="aiosmtpd is installed without its tests")


def run(folder: Path, **environ: str) -> tuple[set[str], int]:
    """The cases that fail, as `Class::case`, and how many pass."""
    report = folder / "report"
    command = [sys.executable, "-m", "pytest", "-q", "-rfE", "--tb=no", "-p", "tests.support.aiosmtpd_ours"]
    # Without what our own tests load: these bring their own event loops.
    command += ["-p", "no:asyncio", "-p", "no:cacheprovider", "-W", "ignore", "-c", os.devnull, "--rootdir", str(TESTS)]
    with report.open("w") as file:
        subprocess.run(
            [*command, *[str(TESTS / name) for name in FILES]],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), **environ},
            stdout=file,
            stderr=subprocess.STDOUT,
            timeout=180,
            check=False,
        )
    text = report.read_text()
    failed = {case.strip() for case in re.findall(r"^(?:FAILED|ERROR) \S*?\.py::(.+?)(?: - .*)?$", text, re.MULTILINE)}
    passed = re.search(r"(\d+) passed", text)
    assert passed, text[-3000:]
    return failed, int(passed[1])


def listed() -> list[str]:
    """The patterns of the page."""
    text = (ROOT / "docs" / "aiosmtpd.md").read_text(encoding="utf-8")
    return [name for row in ROW.findall(text) for name in re.findall(r"`([^`]+)`", row)]


def fits(case: str, pattern: str) -> bool:
    """`test_x*` is a case of whatever class, `Class::*` all of one; square brackets stand for themselves."""
    wanted = pattern.replace("[", "[[]")
    return fnmatchcase(case, wanted) or fnmatchcase(case.rpartition("::")[2] if "::" not in pattern else case, wanted)


def test_what_differs_is_what_the_page_lists(tmp_path: Path) -> None:
    failed, passed = run(tmp_path)
    assert len(failed) + passed == CASES
    patterns = listed()
    assert {case for case in failed if not any(fits(case, pattern) for pattern in patterns)} == set()
    assert [pattern for pattern in patterns if not any(fits(case, pattern) for case in failed)] == []


def test_with_their_own_class_all_of_them_pass(tmp_path: Path) -> None:
    """So what fails with ours is no doing of the adapter's other parts, nor of this machine."""
    assert run(tmp_path, AIOSMTPD_THEIRS="1") == (set(), CASES)

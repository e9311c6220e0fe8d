"""Writes `constraints.txt`, `constraints-dev.txt` and `constraints-lowest.txt`, for every supported Python, with hashes:
what was tested, and the oldest of what is allowed.

No line names a host: where packages come from is each machine's own business. Needs `uv` (`pip install uv`).
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def compile_constraints(name: str, *extras: str, resolution: str = "highest") -> None:
    """Resolve the project with these extras into one file."""
    command = ["uv", "pip", "compile", "pyproject.toml", "--universal", "--python-version", "3.11", "--generate-hashes"]
    command += ["--no-header", "--no-annotate", "--no-emit-index-url", "--no-emit-find-links", "--quiet"]
    command += [f"--resolution={resolution}"]
    command += [f"--extra={extra}" for extra in extras]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if result.returncode:
        sys.exit(f"uv: {result.stderr.strip()}")
    if re.search(r"https?://", result.stdout):
        sys.exit(f"{name}: a line names a host")
    head = "# What the project was tested with, all in one version for every machine; `make constraints` writes it.\n"
    (ROOT / name).write_text(head + result.stdout, encoding="utf-8")


if __name__ == "__main__":
    compile_constraints("constraints.txt", "build")
    compile_constraints("constraints-dev.txt", "build", "dev")
    compile_constraints("constraints-lowest.txt", "build", "dev", resolution="lowest-direct")

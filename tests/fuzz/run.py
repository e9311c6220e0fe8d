"""`python -m tests.fuzz.run --inputs 1000000 --seed 1`: mutated inputs for all that reads octets of strangers.

Prints inputs a second, the slowest input and memory at the beginning and at the end. Each find is written to tests/fuzz/cases,
where `tests/e2e/test_28_fuzz.py` plays it again; the exit status is 1 where there was one.
"""

from __future__ import annotations

import argparse
import asyncio
import faulthandler
import io
import sys
import time
import traceback
import zlib
from collections import Counter
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path

from responder import observe
from tests.fuzz.mutate import Mutator
from tests.fuzz.targets import TARGETS, feed, warm_up

CASES = Path(__file__).with_name("cases")
STALL = 1.0  # seconds
MOST_FINDS = 20


class Complaints(io.StringIO):
    """The log: an error in it is a mistake of ours that was contained."""

    def check(self) -> None:
        """Fail where there was one."""
        if self.tell():
            text = self.getvalue()
            self.seek(0)
            self.truncate()
            raise AssertionError(f"contained: {text[:3000]}")


@dataclass
class Outcome:
    """What a run came to."""

    inputs: int = 0
    seconds: float = 0.0
    slowest: float = 0.0
    slowest_target: str = ""
    memory: list[float] = field(default_factory=list)  # MB, ten times a run
    finds: list[tuple[str, bytes, str]] = field(default_factory=list)
    each: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        lines = [
            f"{self.inputs} inputs in {self.seconds:.0f} s, {self.inputs / max(self.seconds, 0.001):.0f} a second",
            f"slowest input: {self.slowest * 1000:.0f} ms ({self.slowest_target})",
            f"memory: {self.memory[0]:.0f} MB after a tenth, {self.memory[-1]:.0f} MB at the end,"
            f" {max(self.memory):.0f} MB at the most",
            "targets: " + ", ".join(f"{name} {count}" for name, count in sorted(self.each.items())),
            f"finds: {len(self.finds)}",
        ]
        return "\n".join(lines)


def resident() -> float:
    """MB of this process."""
    text = Path("/proc/self/status").read_text()
    return int(next(line for line in text.splitlines() if line.startswith("VmRSS")).split()[1]) / 1024


async def fuzz(inputs: int, seed: int, only: str, complaints: Complaints) -> Outcome:
    """Feed so many inputs, each to one target, in turns."""
    names = [name for name, (weight, _) in TARGETS.items() for _ in range(weight) if only in ("", name)]
    mutator, outcome, began = Mutator(seed), Outcome(), time.perf_counter()
    for number, name in zip(range(inputs), cycle(names)):
        octets = mutator.next()
        start = time.perf_counter()
        try:
            await feed(name, octets)
            complaints.check()
        except Exception:
            outcome.finds.append((name, octets, traceback.format_exc(limit=-4)))
            if len(outcome.finds) >= MOST_FINDS:
                break
        took = time.perf_counter() - start
        if took > outcome.slowest:
            outcome.slowest, outcome.slowest_target = took, name
            if took > STALL:
                outcome.finds.append((name, octets, f"{took:.1f} s\n"))
        outcome.each[name] += 1
        outcome.inputs += 1
        if (number + 1) % max(inputs // 10, 1) == 0:
            outcome.memory.append(resident())
    outcome.seconds = time.perf_counter() - began
    outcome.memory = outcome.memory or [resident()]
    return outcome


def run(inputs: int, seed: int, only: str = "") -> Outcome:
    warm_up()
    complaints = Complaints()
    observe.set_up("text", "error", complaints)
    try:
        return asyncio.run(fuzz(inputs, seed, only, complaints))
    finally:
        observe.set_up("text", "info", sys.stderr)


def main() -> int:
    faulthandler.enable()
    parser = argparse.ArgumentParser()
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", choices=["", *TARGETS])
    options = parser.parse_args()
    outcome = run(options.inputs, options.seed, options.only)
    print(outcome)
    CASES.mkdir(exist_ok=True)
    for name, octets, reason in outcome.finds:
        file = CASES / f"{name}-{zlib.crc32(octets):08x}"
        file.write_bytes(octets)
        print(f"\n{file}: {len(octets)} octets\n{reason}")
    return 1 if outcome.finds else 0


if __name__ == "__main__":
    sys.exit(main())

"""`make bench`: how fast, as ratios in one run.

Durable acceptance is held against a bare aiosmtpd server that stores nothing, both in turn, so that a machine whose speed
drifts does not matter; then answers a second and dot-to-answer latency of the whole server are printed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.support.server import ROOT, ServerProcess, configuration, free_port

GOAL = 1.5


@contextmanager
def program(*command: str) -> Iterator[subprocess.Popen[str]]:
    """A program of this folder, once it has said `ready`."""
    process = subprocess.Popen(
        [sys.executable, "-m", *command],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout is not None
        if process.stdout.readline() != "ready\n":
            raise SystemExit(f"{command[0]} did not start")
        yield process
    finally:
        process.terminate()
        process.wait()


def load(port: int, mails: int, *extra: str) -> float:
    """Mails a second that a server took."""
    command = [sys.executable, "-m", "tests.benchmarks.load", "--port", str(port), "--mails", str(mails), *extra]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=180)
    return float(json.loads(result.stdout)["rate"])


def acceptance(rounds: int, mails: int) -> list[float]:
    """Ours and bare aiosmtpd in turn; the ratios, for one command at a time and for pipelined ones."""
    medians = []
    for name, extra in (("one command at a time", ()), ("pipelined", ("--pipelined",))):
        ratios, ours_rates, bare_rates = [], [], []
        for _ in range(rounds):
            port = free_port()
            with program("tests.benchmarks.bare", str(port)):
                load(port, mails // 5, *extra)  # warm
                bare_rates.append(load(port, mails, *extra))
            with tempfile.TemporaryDirectory(dir=ROOT / "build") as folder:
                port = free_port()
                with program("tests.benchmarks.accepting", str(port), folder):
                    load(port, mails // 5, *extra)
                    ours_rates.append(load(port, mails, *extra))
            ratios.append(ours_rates[-1] / bare_rates[-1])
        medians.append(statistics.median(ratios))
        print(
            f"accept, {name}: ours {statistics.median(ours_rates):,.0f}/s durable, bare aiosmtpd"
            f" {statistics.median(bare_rates):,.0f}/s stored nowhere; ratio {medians[-1]:.2f}"
            f" ({min(ratios):.2f} to {max(ratios):.2f}), goal {GOAL}"
        )
    return medians


def answers(rounds: int, mails: int, connections: int, title: str) -> None:
    """The whole server: mails in over SMTP, answers out over SMTP."""
    found: list[dict[str, float]] = []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory(dir=ROOT / "build") as folder:
            sink = free_port()
            config = configuration(
                domains=["bench.example"],
                delivery={"transport": "smarthost", "smarthost": f"127.0.0.1:{sink}", "connections_per_host": 10},
                queue={"lease": "30s"},
            )
            server = ServerProcess(Path(folder), config)
            port = str(server.port)
            sizes = ("--mails", str(mails), "--connections", str(connections))
            with program("tests.benchmarks.answers", "--port", port, "--sink", str(sink), *sizes) as client:
                server.start()
                try:
                    output, _ = client.communicate("go\n", timeout=180)
                finally:
                    server.kill()
            found.append(json.loads(output))
    middle = {key: statistics.median([one[key] for one in found]) for key in found[0]}
    print(
        f"{title}: {middle['answer_rate']:,.0f} answers/s, accepting {middle['accept_rate']:,.0f}/s meanwhile;"
        f" dot to answer {middle['p50_ms']:.1f} ms, 99th percentile {middle['p99_ms']:.1f} ms"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--mails", type=int, default=5000)
    options = parser.parse_args(arguments)
    (ROOT / "build").mkdir(exist_ok=True)
    print(f"1 KB mails, 20 kept connections, {options.mails} mails a round, {options.rounds} rounds, medians")
    ratios = acceptance(options.rounds, options.mails)
    answers(options.rounds, options.mails, 20, "end to end, 20 connections")
    answers(options.rounds, 300, 1, "end to end, one mail at a time")
    return 0 if min(ratios) >= GOAL else 1


if __name__ == "__main__":
    sys.exit(main())

"""`python -m tests.benchmarks.signing`: answers a second unsigned and signed, in turn, as a machine's speed drifts."""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path

from tests.benchmarks.run import program
from tests.support.server import ServerProcess, configuration, free_port


def measure(mails: int, connections: int, keys: str) -> dict[str, float]:
    """One round. `keys`: the algorithms, "" for none."""
    with tempfile.TemporaryDirectory() as folder:
        sink = free_port()
        config = configuration(
            domains=["bench.example"],
            delivery={"transport": "smarthost", "smarthost": f"127.0.0.1:{sink}", "connections_per_host": 10},
            queue={"lease": "30s"},
            **({"dkim": {"keys": "dkim"}} if keys else {}),
        )
        server = ServerProcess(Path(folder), config)
        if keys:
            server.command("dkim", "new", "bench.example", "--algorithm", keys)
            server.command("dkim", "activate", "bench.example", "--force")
        return run(server, sink, mails, connections)


def run(server: ServerProcess, sink: int, mails: int, connections: int) -> dict[str, float]:
    sizes = ("--mails", str(mails), "--connections", str(connections))
    with program("tests.benchmarks.answers", "--port", str(server.port), "--sink", str(sink), *sizes) as client:
        server.start()
        try:
            output, _ = client.communicate("go\n", timeout=180)
        finally:
            server.kill()
    found: dict[str, float] = json.loads(output)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--mails", type=int, default=4000)
    parser.add_argument("--connections", type=int, default=20)
    options = parser.parse_args()
    kinds = ("", "rsa", "both")
    found: dict[str, list[dict[str, float]]] = {kind: [] for kind in kinds}
    for _ in range(options.rounds):
        for kind in kinds:
            found[kind].append(measure(options.mails, options.connections, kind))
    for kind in kinds:
        rates = [one["answer_rate"] for one in found[kind]]
        middle = statistics.median([one["p99_ms"] for one in found[kind]])
        ratio = statistics.median([mine / off["answer_rate"] for mine, off in zip(rates, found[""], strict=True)])
        print(
            f"{kind or 'unsigned':9} {statistics.median(rates):7.0f} answers/s  99% {middle:6.1f} ms  ratio {ratio:.2f}"
        )


if __name__ == "__main__":
    main()

"""Very many mails to very many destinations, a tenth of them dead: the others' mail takes no longer for that."""

from __future__ import annotations

import os
from pathlib import Path

from tests.support.many import deliver

MAILS = int(os.environ.get("RESPONDER_MANY", "20000"))  # 100000: the size that the promise speaks of
DOMAINS = MAILS // 20
DEAD = 10
FACTOR = 1.5  # the promise is 1.2, on a machine that does nothing else; the figure is printed


async def test_many_destinations_when_a_tenth_is_dead_then_the_rest_takes_no_longer(tmp_path: Path) -> None:
    for name in ("alone", "together"):
        (tmp_path / name).mkdir()
    alone = await deliver(tmp_path / "alone", MAILS, DOMAINS, DEAD, only_live=True, seconds=600)
    together = await deliver(tmp_path / "together", MAILS, DOMAINS, DEAD, only_live=False, seconds=1200)
    ratio = together.took / alone.took
    print(
        f"{MAILS} mails, {DOMAINS} domains: the live alone {alone.took:.1f} s, with the dead {together.took:.1f} s: {ratio:.2f}"
    )
    print(f"alone: {alone.claim}; with the dead: {together.claim}")
    print(f"attempts at dead destinations: {together.network.tried}, {together.network.most} at a time at the most")
    assert sum(alone.network.taken.values()) == sum(together.network.taken.values()) == MAILS * (DEAD - 1) // DEAD
    assert ratio < FACTOR

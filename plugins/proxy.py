"""Hands the whole mail to an upstream SMTP host, as `PureProxy` of the standard library's removed `smtpd` module did."""

import re

from responder import Agent, GiveUp, HandOver, Mail, hookimpl

MAX_PASSES = 3
"""How often one mail may come by for one recipient. Twice can be meant (somebody upstream sends it back by hand); what comes
again and again goes round, and each round would cost both hosts."""

_TRACE = re.compile(r"\bby ([^\s;]{1,255}) with \S+ id \S+\s+for <([^<>]{1,320})>")


class Proxy(Agent):
    """Hands each mail, unaltered and with its own envelope, to the inbox's `upstream`."""

    reads_automatic_mail = True  # bounces and newsletters belong to whoever reads mail upstream
    needs = ("upstream",)

    async def answer(self, mail: Mail) -> HandOver:
        if passes(mail) > MAX_PASSES:
            raise GiveUp(f"the mail goes round: it has come by more than {MAX_PASSES} times for this recipient")
        return HandOver()


def passes(mail: Mail) -> int:
    """How often this server has taken the mail in for this recipient, this time included; 0 where its trace does not say."""
    hops = [_TRACE.search(field[:2000]) for field in mail.headers.all("Received")]
    if not hops or hops[0] is None:  # the first one is this server's own; it names no recipient where there are several
        return 0
    own = (hops[0][1].lower(), mail.recipient.lower())
    return sum(1 for hop in hops if hop is not None and (hop[1].lower(), hop[2].lower()) == own)


@hookimpl
def responder_agents() -> dict[str, type[Agent]]:
    return {"proxy": Proxy}

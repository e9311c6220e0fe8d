"""`Authentication-Results` (RFC 8601): what we found, for whoever reads the mail later. authres writes it.

Everything in it is a word of ours, a domain name, or a text whose every character was looked at: nothing that a client sends can
end a value, open a comment or begin a field.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

import authres  # type: ignore[import-untyped]
from authres.core import AuthenticationResult, AuthenticationResultProperty  # type: ignore[import-untyped]

from responder.authentication.arc import Chain
from responder.authentication.dkim import Checked
from responder.authentication.dmarc import Verdict
from responder.authentication.spf import SPF

_DOMAIN = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,254}")
_ADDRESS = re.compile(r"[A-Za-z0-9_+=-](?:[A-Za-z0-9._+=-]{0,63})@[A-Za-z0-9_-][A-Za-z0-9._-]{0,254}")
_BASE64: Final = re.compile(r"[A-Za-z0-9+/]{1,8}")


def field(
    hostname: str,
    spf: SPF | None,
    dkim: Sequence[Checked],
    chain: Chain | None,
    dmarc: Verdict | None,
    *,
    reverse_path: str,
    user: str = "",
    overridden: bool = False,
) -> bytes:
    """The whole field, folded at its results, with its line end."""
    found: list[Any] = []
    if user:
        found.append(_result("auth", "pass", **{"smtp.auth": _domain(user) or _address(user)}))
    if spf is not None and spf.identity == "helo":
        found.append(_result("spf", spf.result, **{"smtp.helo": _domain(spf.domain)}))
    elif spf is not None:
        found.append(_result("spf", spf.result, **{"smtp.mailfrom": _address(reverse_path) or _domain(spf.domain)}))
    found += [_dkim(one) for one in dkim] or [_result("dkim", "none")]
    if chain is not None and chain.result != "none":
        sealer = chain.sealers[0] if chain.sealers else ""
        found.append(_result("arc", chain.result, chain.reason, **{"header.as-d": _domain(sealer)}))
    if dmarc is not None:
        asked = [f"p={dmarc.policy}"] if dmarc.policy else []
        comment = ", ".join([*asked, "trusted ARC"] if overridden else asked)
        found.append(_result("dmarc", dmarc.result, comment, **{"header.from": _domain(dmarc.domain)}))
    text = str(authres.AuthenticationResultsHeader(authserv_id=hostname, results=found))
    return text.replace("; ", ";\r\n\t").encode("ascii", "replace") + b"\r\n"


def _dkim(one: Checked) -> Any:
    properties = {
        "header.d": _domain(one.domain),
        "header.s": _domain(one.selector),
        "header.a": _domain(one.algorithm),
        "header.b": one.start if _BASE64.fullmatch(one.start) else "",  # RFC 6008
    }
    return _result("dkim", one.result, one.reason, **properties)


def _result(method: str, word: str, comment: str = "", **properties: str) -> Any:
    """One result; a property without a value is left out. The comment is in words of ours, without brackets."""
    given = [(*name.split("."), value) for name, value in properties.items() if value]
    return AuthenticationResult(
        method,
        result=word,
        result_comment=comment or None,
        properties=[AuthenticationResultProperty(*one) for one in given],
    )


def _domain(text: str) -> str:
    return text if _DOMAIN.fullmatch(text) else ""


def _address(text: str) -> str:
    return text if _ADDRESS.fullmatch(text) else ""

"""What is new in a reply, and how an old text is quoted (RFC 3676 4.3 to 4.5, and the habits of mail programs).

No standard says how a program marks what it quotes, so `reply_text` knows the marks that are in use: `>` lines, the line that
introduces them ("On ... wrote:"), Outlook's separators and header blocks, and the signature behind `-- `. In doubt a line
is kept: a quote too many is a nuisance, a lost sentence is a loss. Each line is looked at a bounded number of times.
"""

from __future__ import annotations

import re
from typing import Final

MAX_TEXT: Final = 250_000
"""Characters of a reply that are looked at. Nobody types a quarter of a megabyte; what lies beyond is left out."""

MAX_LINE: Final = 1000  # characters of a mark; a longer line is text
FOLDS: Final = 3  # lines that an introduction may be folded over
BLOCK: Final = 8  # lines behind "From:" in which the rest of a header block is looked for

_QUOTED = re.compile(r"[ \t]{0,3}>")

# An introduction: "On 1 May 2024 at 10:00, Ann <ann@example.org> wrote:" as the mail programs of many languages write it.
_FIRST = re.compile(
    r"\s*(?:(?:on|am|le|el|em|il|op|den|dne|dnia|w dniu|pe|la|på|στις|пн|вт|ср|чт|пт|сб|вс)\b|\d{4}[年년/.-])",
    re.IGNORECASE,
)
_WROTE = re.compile(
    r"\b(?:wrote|writes|schrieb|schreibt|geschrieben|a écrit|écrit|escribió|escribio|escreveu|ha scritto|scrisse|schreef|"
    r"geschreven|skrev|skrifaði|kirjoitti|napisał|napisała|napsal|napsala|napísal|написал|написала|писал|пише|yazdı|έγραψε|"
    r"írta|a scris|quoting|zitat von)\b|写道|寫道|님이|작성",
    re.IGNORECASE,
)
_DIGIT = re.compile(r"\d")
_MAILBOX = re.compile(r"[<(\[][^\s<>@]{1,64}@[^\s<>@]{1,255}[>)\]]")

_SEPARATOR = re.compile(
    r"-{3,}[ \t]*(?:original message|original appointment|ursprüngliche nachricht|originalnachricht|message d['’]origine|"
    r"mensaje original|mensagem original|messaggio originale|oorspronkelijke? bericht|ursprungligt meddelande|"
    r"opprinnelig melding|oprindelig meddelelse|alkuperäinen viesti|wiadomość oryginalna|původní zpráva|исходное сообщение|"
    r"原始邮件|原始郵件|元のメッセージ|forwarded message|weitergeleitete nachricht|message transféré|mensaje reenviado|"
    r"messaggio inoltrato|doorgestuurd bericht)[ \t]*-{3,}|begin forwarded message:|_{30,}",
    re.IGNORECASE,
)


def _field(names: str) -> re.Pattern[str]:
    """A line of a header block; some programs keep it bold, as `*From:* ...`."""
    return re.compile(rf"\s*\*?(?:{names})\s?[:：]\*?(?=\s|$)", re.IGNORECASE)


_FROM = _field("from|von|de|da|van|från|fra|od|от|lähettäjä|发件人|寄件者|差出人|보낸 사람")
_SENT = _field(
    "sent|date|gesendet|datum|envoyé|enviado|enviada em|fecha|data|inviato|verzonden|skickat|sendt|dato|odesláno|wysłano|"
    "отправлено|дата|lähetetty|发送时间|日期|送信日時|보낸 날짜"
)
_TO = _field("to|an|à|para|a|aan|till|til|komu|do|кому|vastaanottaja|收件人|收件者|宛先|받는 사람")
_SUBJECT = _field(
    "subject|betreff|objet|asunto|assunto|oggetto|onderwerp|ämne|emne|předmět|temat|тема|aihe|主题|主旨|件名|제목"
)


def reply_text(text: str) -> str:
    """The new text of a reply: without quotes, what introduces them, and the signature; "" where nothing else is there.

    What the sender wrote between quoted lines stays. Behind a separator, a header block, or an introduction that no `>`
    follows, all is old. A signature reaches to the next quote. Never fails; takes time linear in the text.
    """
    lines = _lines(text[:MAX_TEXT])
    kept: list[str] = []
    signed = False
    for number, line in enumerate(lines):
        if _QUOTED.match(line):
            signed = False
            kept.append("")
        elif _begins_old_mail(lines, number):
            break
        elif folds := _introduction(lines, number):
            if not signed:
                del kept[len(kept) - (folds - 1) :]
            if not _QUOTED.match(_next(lines, number)):
                break
        elif line.rstrip() == "--":
            signed = True
        elif not signed:
            kept.append(line.rstrip())
    return re.sub(r"\n{3,}", "\n\n", "\n".join(kept)).strip()


def quote(text: str, limit: int = 10_000) -> str:
    """The text with each line marked by `> `, as a reply quotes it; a line that is marked already gets one `>` more.

    Only the first `limit` characters are quoted; where more follow, a last line `> [...]` says so.
    """
    text = text.strip()
    if len(text) > limit:
        text = (text[:limit].rstrip() + "\n[...]").lstrip()
    return "\n".join([(">" if not line or line.startswith(">") else "> ") + line for line in _lines(text)])


def _lines(text: str) -> list[str]:
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def _introduction(lines: list[str], end: int) -> int:
    """How many lines the introduction takes that ends on this one; 0 where there is none.

    With the first word of one, a digit and a verb it is one beyond doubt; with less it is only where a quote follows.
    """
    last = lines[end]
    if len(last) > MAX_LINE or not last.rstrip().endswith((":", "：")):
        return 0
    wrote = False
    for begin in range(end, max(end - FOLDS, -1), -1):
        line = lines[begin]
        if len(line) > MAX_LINE or not line.strip() or _QUOTED.match(line):
            break
        wrote = wrote or _WROTE.search(line) is not None
        if wrote and _FIRST.match(line) and any(map(_DIGIT.search, lines[begin : end + 1])):
            return end - begin + 1
    wrote = _WROTE.search(last) is not None
    dated = _DIGIT.search(last) is not None and _MAILBOX.search(last) is not None
    return 1 if (wrote and dated) or ((wrote or dated) and _QUOTED.match(_next(lines, end))) else 0


def _begins_old_mail(lines: list[str], number: int) -> bool:
    """A separator line, or the "From:" that opens a block with a date and a subject (or a recipient and an address)."""
    line = lines[number]
    if not line or len(line) > MAX_LINE:
        return False
    if _SEPARATOR.fullmatch(line.strip()):
        return True
    if not _FROM.match(line):
        return False
    block = [line[:MAX_LINE] for line in lines[number : number + 1 + BLOCK]]
    sent, to, subject = (any(map(field.match, block[1:])) for field in (_SENT, _TO, _SUBJECT))
    return sent and (subject or (to and any("@" in line for line in block)))


def _next(lines: list[str], number: int) -> str:
    """The next line that is not blank, or ""."""
    for after in range(number + 1, len(lines)):
        if lines[after].strip():
            return lines[after]
    return ""

"""HTML turned into text for people and agents: what a mail says where it has no plain part.

The standard library's `html.parser` is not used: on unfinished comments and tags it takes quadratic time (a mail of 100 KB
holds a process for a minute), it raises on some declarations, and what it finds differs between Python's releases. This
scanner looks at each character a fixed number of times: every pattern is possessive, and a construct that is open at the
end of the text ends the scan, as it does in a browser (HTML, 13.2.5).
"""

from __future__ import annotations

import re
from html import unescape
from typing import Final

MAX_HTML: Final = 400_000
"""Characters that are looked at: real mail stays under half of it, and the most hostile mail costs some 0.2 s."""

MAX_URL = 2000  # characters of a link that is shown; longer ones are no use to a reader
MAX_QUOTE = 10  # levels of quoting that are shown

_MARKUP = re.compile(r"<(?=[A-Za-z/!?])")  # any other < is text
_TAG = re.compile(
    r"""<(/?)([A-Za-z][^\s/>]*+)          # name
        ((?:[^>=]++                       # white space, attribute names, bare values
           |=\s*+(?:"[^"]*+"|'[^']*+')?+  # only behind an equals sign does a quote hide a >
         )*+)>""",
    re.VERBOSE,
)
_ATTRIBUTE = re.compile(r"""([^\s"'>/=]++)(?:\s*+=\s*+(?:"([^"]*+)"|'([^']*+)'|([^\s"'>]++)))?+""")
_REFERENCE = re.compile(r"&(?:#[0-9]{1,7}(?![0-9])|#[xX][0-9A-Fa-f]{1,6}(?![0-9A-Fa-f])|[A-Za-z][A-Za-z0-9]{1,31});?")
_SPACE = re.compile(r"[ \t\n\f\r]+")
_SCHEME = re.compile(r"(?:https?|ftp|mailto|tel|sips?|xmpp):", re.IGNORECASE)
_UNSEEN = re.compile(r"[\s\x00-\x20\x7f-\xa0<>]+")

# Elements whose content is no text; in them only their own end tag counts.
_RAW: Final = {
    name: re.compile(rf"</{name}(?=[\s/>])[^>]*+>?", re.IGNORECASE)
    for name in ("script", "style", "title", "textarea", "xmp", "iframe", "noembed", "noframes")
}
# fmt: off
_LINE: Final = frozenset(
    {
        "address", "article", "aside", "body", "caption", "center", "dd", "details", "div", "dt", "fieldset",
        "figcaption", "figure", "footer", "form", "head", "header", "hgroup", "html", "legend", "li", "main",
        "nav", "option", "section", "select", "summary", "table", "tbody", "tfoot", "thead", "tr"
    }
)
_PARAGRAPH: Final = frozenset(
    {
        "blockquote", "dl", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "ol", "p", "pre", "ul"
    }
)
# fmt: on


def to_text(html: str) -> str:
    """The text of an HTML document or fragment. Never fails, and takes time linear in the text.

    Blocks become lines and paragraphs, list items get `- `, a block quote's lines get `> `, a link keeps its address as
    `text <address>`, an image shows its alternative text. Scripts and styles are dropped; so is what lies beyond `MAX_HTML`.
    """
    html = html[:MAX_HTML].replace("\r\n", "\n").replace("\r", "\n")
    page = _Page()
    at = 0
    while markup := _MARKUP.search(html, at):
        begin = markup.start()
        page.text(html[at:begin])
        if tag := _TAG.match(html, begin):
            at = tag.end()
            name = tag[2].lower()
            if tag[1]:
                page.end(name)
                continue
            page.start(name, tag[3])
            if name in _RAW:
                close = _RAW[name].search(html, at)
                at = close.end() if close else len(html)
        elif html.startswith("<!--", begin):
            at = _behind("-->", html, begin + 2)  # `<!-->` is a whole comment
        elif html.startswith(("<!", "<?", "</"), begin):
            at = _behind(">", html, begin)
        else:
            at = len(html)  # a tag that never ends
    page.text(html[at:])
    return page.finish()


def _behind(mark: str, html: str, begin: int) -> int:
    """Where the text goes on behind a mark; its end where there is none."""
    at = html.find(mark, begin)
    return at + len(mark) if at >= 0 else len(html)


class _Page:
    """The text so far. White space and line breaks are owed until the next word, so that none are left over."""

    def __init__(self) -> None:
        self.pieces: list[str] = []
        self.breaks = 0  # line breaks owed: 1 ends a line, 2 ends a paragraph
        self.space = False  # a blank is owed
        self.quoted = 0  # open block quotes
        self.shown = 0  # their number at the line written last
        self.pre = 0  # open <pre>
        self.link: tuple[str, int] | None = None  # address, and where its text begins in `pieces`

    def text(self, source: str) -> None:
        if not source:
            return
        text = _decode(source) if "&" in source else source
        if self.pre:
            for number, line in enumerate(text.split("\n")):
                if number:
                    self.breaks = min(self.breaks + 1, 2)
                if line.strip():
                    self.write(line)
                elif line:
                    self.space = True
            return
        text = _SPACE.sub(" ", text)
        if text.startswith(" "):
            self.space = True
        if bare := text.strip(" "):
            self.write(bare)
            self.space = text.endswith(" ")

    def write(self, text: str) -> None:
        level = min(self.quoted, MAX_QUOTE)
        if self.pieces and self.breaks:
            self.pieces.append("\n")
            if self.breaks > 1:
                self.pieces.append(">" * min(level, self.shown) + "\n")
            self.pieces.append("> " * level)
        elif not self.pieces:
            self.pieces.append("> " * level)
        elif self.space:
            self.pieces.append(" ")
        self.pieces.append(text)
        self.breaks, self.space, self.shown = 0, False, level

    def start(self, name: str, attributes: str) -> None:
        if name == "br":
            self.breaks = min(self.breaks + 1, 2)
        elif name == "a":
            self.end("a")
            if address := _address(_attribute(attributes, "href")):
                self.link = (address, len(self.pieces))
        elif name == "img":
            self.text(_attribute(attributes, "alt"))
        elif name in ("td", "th"):
            self.space = True
        else:
            self.block(name)
            if name == "blockquote":
                self.quoted += 1
            elif name == "pre":
                self.pre += 1
            elif name == "li":
                self.write("-")
                self.space = True

    def end(self, name: str) -> None:
        if name == "a":
            if self.link:
                address, begin = self.link
                self.link = None
                text = "".join(self.pieces[begin:]).strip()
                if address.removeprefix("mailto:") != text and address != text:
                    self.space = self.space or bool(text)
                    self.write(f"<{address}>")
            return
        self.block(name)
        if name == "blockquote":
            self.quoted = max(0, self.quoted - 1)
        elif name == "pre":
            self.pre = max(0, self.pre - 1)

    def block(self, name: str) -> None:
        if name in _PARAGRAPH:
            self.breaks = 2
        elif name in _LINE:
            self.breaks = max(self.breaks, 1)

    def finish(self) -> str:
        self.end("a")
        text = "".join(self.pieces).replace("\xa0", " ")
        return "\n".join([line.rstrip() for line in text.split("\n")])


def _decode(text: str) -> str:
    """Character references replaced. Longer digits than a character has stay as they are: Python refuses to read them."""
    return _REFERENCE.sub(lambda match: unescape(match[0]), text)


def _attribute(attributes: str, name: str) -> str:
    for match in _ATTRIBUTE.finditer(attributes):
        if match[1].lower() == name:
            return _decode(match[2] or match[3] or match[4] or "")
    return ""


def _address(href: str) -> str:
    """A link as it may be shown: no white space, no controls, a scheme that leads somewhere."""
    address = _UNSEEN.sub("", href[: MAX_URL + 1])
    return address if _SCHEME.match(address) and len(address) <= MAX_URL else ""

"""The agent `template`: what a template may say, and that none gets out of its bounds (plugins/template.py)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from plugins._sandbox import MAX_STEPS, Budget, OutOfTimeError
from plugins.template import FIELDS, TemplateAgent
from responder import GiveUp, Mail, Reply
from tests.support.agents import mail
from tests.support.clock import ManualClock
from tests.support.memory import equipped

ROOT = Path(__file__).parents[2]


def letter(subject: str = "Hello", text: str = "How are you?", *fields: str) -> Mail:
    lines = ["From: Ann <ann@client.example>", f"Subject: {subject}", *fields, "", text, ""]
    return mail("\r\n".join(lines).encode())


def render(text: str, to: Mail | None = None, **settings: Any) -> Reply | None:
    return equipped(TemplateAgent, text=text, **settings).answer(to or letter())


def told(text: str, to: Mail | None = None, **settings: Any) -> str:
    answer = render(text, to, **settings)
    assert answer is not None
    return answer.text


def refused(**settings: Any) -> str:
    """The reason why settings are refused."""
    with pytest.raises(ValidationError) as caught:
        TemplateAgent.Settings.model_validate(settings)
    [error] = caught.value.errors()
    assert "\n" not in error["msg"]
    return error["msg"].removeprefix("Value error, ")


# -- what it is for -------------------------------------------------------------------------------------------------------


def test_template_when_rendered_then_it_has_the_mail_the_variables_and_the_time() -> None:
    answer = render(
        "Dear {{ mail.from }},\n{% if mail.attachments %}thanks for {{ mail.attachments|map(attribute='name')|join(', ') }}.\n"
        "{% endif %}You asked: {{ mail.reply_text }}\n{{ team.name }}, {{ now.strftime('%d %B %Y %H:%M') }}\n",
        letter("Re: Hello"),
        html="<p>{{ mail.reply_text }}</p>",
        subject="About {{ mail.base_subject }}",
        variables={"team": {"name": "Support"}},
        timezone="Europe/Zurich",
    )
    assert answer == Reply(
        text="Dear ann@client.example,\nYou asked: How are you?\nSupport, 15 January 2027 09:00\n",
        html="<p>How are you?</p>",
        subject="About Hello",
    )


def test_fields_when_read_then_each_is_there_and_nothing_else_of_the_mail() -> None:
    to = mail(
        b"From: ann@client.example\r\nSubject: Re: S\r\nDate: Mon, 1 Jan 2024 10:00:00 +0100\r\n"
        b'Content-Type: multipart/mixed; boundary="b"\r\n\r\n--b\r\n\r\nText\r\n--b\r\nContent-Type: image/png\r\n'
        b"Content-Disposition: attachment; filename=../x.png\r\n\r\nabc\r\n--b--\r\n"
    )
    shown = {
        name: told(f"{{{{ mail.{name} }}}}", to) for name in FIELDS if name not in ("attachments", "text", "reply_text")
    }
    assert shown == {
        "sender": "ann@client.example",
        "from": "ann@client.example",
        "recipient": "x+tag@test.example",
        "inbox": "x",
        "tag": "tag",
        "subject": "Re: S",
        "base_subject": "S",
        "date": "2024-01-01 10:00:00+01:00",
    }
    assert told("{{ mail.text }}|{{ mail['reply_text'] }}", to).split("|") == ["Text", "Text"]
    assert (
        told("{% for f in mail.attachments %}{{ f.name }} {{ f.type }} {{ f.size }}{% endfor %}", to)
        == "x.png image/png 3"
    )
    assert refused(text="{{ mail.raw }}").startswith('text, line 1: mail has no "raw"; there are sender, from, ')


def test_template_when_it_writes_nothing_then_that_is_silence() -> None:
    assert render(" \n{% if mail.tag == 'other' %}Hello{% endif %}\n") is None


def test_subject_when_it_has_several_lines_then_it_is_one() -> None:
    answer = render("x", letter(), subject="a\nBcc: b@c.example\r\n{{ mail.subject }}")
    assert answer is not None
    assert answer.subject == "a Bcc: b@c.example Hello"


def test_file_when_named_then_it_is_the_template(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("Grüezi {{ mail.from }}", encoding="utf-8")
    (tmp_path / "letter.html").write_text("<b>{{ mail.subject }}</b>")
    answer = render("", letter("a < b"), text_file=tmp_path / "letter.txt", html_file=tmp_path / "letter.html")
    assert answer == Reply(text="Grüezi ann@client.example", html="<b>a &lt; b</b>")


# -- the mail is data -----------------------------------------------------------------------------------------------------

INJECTIONS = (
    "{{7*7}}",
    "{% for i in range(9) %}x{% endfor %}",
    "{{ mail.sender }}",
    "{# #}",
    "${7*7}",
    "{{ ''.__class__ }}",
)


@pytest.mark.parametrize("text", INJECTIONS)
def test_mail_when_it_holds_a_template_then_that_is_text(text: str) -> None:
    answer = render(
        "{{ mail.subject }} {{ mail.text }}", letter(text, text), html="{{ mail.text }}", subject="{{ mail.subject }}"
    )
    assert answer is not None
    assert answer.text.strip() == f"{text} {text}"
    assert answer.subject == text
    assert answer.html.strip() == text.replace("'", "&#39;")


def test_html_when_the_mail_holds_markup_then_it_is_escaped() -> None:
    evil = "<script>alert(1)</script>"
    answer = render("{{ mail.text }}", letter(text=evil), html="{{ mail.text }}{{ '<br>' ~ mail.subject }}")
    assert answer is not None
    assert "<script>" in answer.text
    assert "<" not in answer.html


# -- mistakes are found when the configuration is read --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a\nb {{ mail.from", "text, line 2: unexpected end of template"),
        ("a\n{% for x in [1] %}", "text, line 2: Unexpected end of template"),
        ("a\n\n{{ nmae }}", 'text, line 3: there is no "nmae"; there are mail, now, word'),
        ("{{ mail.form }}", 'text, line 1: mail has no "form"; there are sender, from,'),
        ("\n{{ word|uppper }}", "text, line 2: No filter named 'uppper'"),
        ("\n{% include 'other.txt' %}", "text, line 2: a template can't bring in another one"),
        ("{% import 'os' as os %}", "text, line 1: a template can't bring in another one"),
        ("{% extends 'x' %}", "text, line 1: a template can't bring in another one"),
        ("{{ lipsum() }}", 'text, line 1: there is no "lipsum"'),
        ("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", "text: it can't be read: RecursionError"),
        ("{% for i in [1] %}" * 30 + "{% endfor %}" * 30, "text: it can't be read: SyntaxError"),
        ("x" * 100_001, "text: a template has at most 100000 characters"),
        ("", "it needs a text or an html, or a file of one"),
    ],
)
def test_template_when_it_is_wrong_then_the_configuration_is_refused(text: str, reason: str) -> None:
    assert refused(text=text, variables={"word": "x"}).startswith(reason)


def test_settings_when_they_are_wrong_then_they_are_refused(tmp_path: Path) -> None:
    (tmp_path / "bad.txt").write_text("ok\n{{ nobody }}")
    (tmp_path / "latin.txt").write_bytes(b"\xff")
    assert (
        refused(text_file=tmp_path / "bad.txt")
        == f'{tmp_path}/bad.txt, line 2: there is no "nobody"; there are mail, now'
    )
    assert refused(html_file=tmp_path / "none.html") == f"{tmp_path}/none.html: No such file or directory"
    assert refused(text_file=tmp_path) == f"{tmp_path}: Is a directory"
    assert refused(text_file=tmp_path / "latin.txt") == f"{tmp_path}/latin.txt: it is not UTF-8"
    assert refused(text="x", text_file=tmp_path / "bad.txt") == "text and text_file exclude each other"
    assert refused(text="x", variables={"mail": 1}) == 'variables: "mail" can\'t be the name of a variable'
    assert refused(text="x", variables={"_x": 1}) == 'variables: "_x" can\'t be the name of a variable'
    assert refused(text="x", timezone="Mars/Olympus") == 'timezone: there is no time zone "Mars/Olympus"'
    assert refused(text="x", subject="{{").startswith("subject, line 1: ")
    assert refused(text="x", colour="red") == "Extra inputs are not permitted"


# -- bounds ---------------------------------------------------------------------------------------------------------------

LOOP = "{% set n = namespace(s='ab', l=[1], i=9) %}{% for i in range(200) %}"
HOSTILE = {
    "the classes of Python": ("{{ mail.text.__class__.__mro__ }}", "SecurityError"),
    "the globals of a function": ("{{ cycler.__init__.__globals__ }}", "SecurityError"),
    "an attribute by a filter": ("{{ [mail.text]|map(attribute='__class__')|list|join }}", "SecurityError"),
    "the context": ("{{ self._TemplateReference__context }}", "SecurityError"),
    "a change": ("{{ {}.update({'a': 1}) }}", "SecurityError"),
    "a format": ("{{ '{0.__class__}'.format(mail.text) }}", "SecurityError"),
    "a wide format": ("{{ '%1000000000d' % 1 }}", "formatting with % is not available"),
    "a long repetition": ("{{ 'x' * 1000000000 }}", "more than 250000 entries"),
    "a long repetition from the left": ("{{ 1000000000 * [1] }}", "more than 250000 entries"),
    "a wide filter": ("{{ mail.text|center(1000000000) }}", "numbers up to 10000"),
    "a wide indent": ("{{ ('\n' * 1000)|indent('x' * 1000) }}", "more than 250000 entries"),
    "a replacement": ("{{ ('x' * 1000)|replace('', 'y' * 1000) }}", "more than 250000 entries"),
    "a join": ("{{ (['x' * 1000] * 1000)|join }}", "more than 250000 entries"),
    "a range": ("{{ range(1000000000)|list|length }}", "at most 10000 numbers"),
    "a great power": ("{{ 10 ** 1000000000 }}", "more than 4096 bits"),
    "a number that grows": (LOOP + "{% set n.i = n.i * n.i %}{% endfor %}", "more than 4096 bits"),
    "a text that doubles": (LOOP + "{% set n.s = n.s ~ n.s %}{% endfor %}", "more than 250000 entries"),
    "a sum that doubles": (LOOP + "{% set n.s = n.s + n.s %}{% endfor %}", "more than 250000 entries"),
    "a block that doubles": (
        LOOP + "{% set n.s %}{{ n.s }}{{ n.s }}{% endset %}{% endfor %}",
        "more than 100000 characters",
    ),
    "a list of lists that is printed": (
        LOOP + "{% set n.l = [n.l, n.l] %}{% endfor %}{{ n.l }}",
        "a list can't be printed",
    ),
    "a list of lists that is joined": (
        LOOP + "{% set n.l = [n.l, n.l] %}{% endfor %}{{ n.l|join }}",
        "a list can't be printed",
    ),
    "a list of lists as text": (
        LOOP + "{% set n.l = [n.l, n.l] %}{% endfor %}{{ n.l|string }}",
        "a list can't be printed",
    ),
    "loops in loops": (
        "{% set r = range(10000) %}{% for a in r %}{% for b in r %}{% endfor %}{% endfor %}",
        f"more than {MAX_STEPS} steps",
    ),
    "a loop that writes": ("{% for i in range(10000) %}" + "x" * 100 + "{% endfor %}", "more than 100000 characters"),
    "a loop that writes into a block": (
        "{% set x %}{% for i in range(10000) %}" + "x" * 100 + "{% endfor %}{% endset %}",
        "more than 100000 characters",
    ),
    "a macro without end": ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "RecursionError"),
    "a macro that doubles": (
        "{% macro m(n) %}xxxx{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(60) }}",
        "more than 100000 characters",
    ),
    "a macro that writes into a name": (
        "{% macro m() %}" + "x" * 1000 + "{% endmacro %}{% for i in range(200) %}{% set y = m() %}{% endfor %}",
        "more than 100000 characters",
    ),
    "a method of a number": ("{{ (1).to_bytes(1000000000, 'big')|length }}", "SecurityError"),
    "a method that widens": ("{{ mail.text.ljust(1000000000)|length }}", "SecurityError"),
    "a method that replaces": ("{{ mail.text.replace('', 'x')|length }}", "SecurityError"),
    "a wide format of the method": ("{{ '{:1000000000}'.format(1)|length }}", "SecurityError"),
    "a wide format of a table": ("{{ '{a:1000000000}'.format_map({'a': 1})|length }}", "SecurityError"),
    "what is not there": ("{{ mail.date.year }}", "'None' has no attribute 'year'"),
    "nonsense": ("{{ 1 / 0 }}", "division by zero"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_template_when_it_is_hostile_then_it_ends_with_its_line_and_a_reason(name: str) -> None:
    text, reason = HOSTILE[name]
    with pytest.raises(GiveUp) as caught:
        render("\n" + text.replace("\n", "\\n"))
    assert re.match(r"text(, line 2)?: ", str(caught.value))
    assert reason in str(caught.value)


def test_template_when_it_takes_too_long_then_it_may_be_tried_again() -> None:
    class Hurried(ManualClock):
        def monotonic(self) -> float:
            self.advance(0.001)
            return super().monotonic()

    agent = equipped(TemplateAgent, Hurried(), text="{% for i in range(10000) %}{{ i }}{% endfor %}", seconds=2)
    with pytest.raises(OutOfTimeError, match=r"^the template took longer than 2 s$"):
        agent.answer(letter())


def test_budget_when_it_is_used_up_then_the_next_render_has_its_own() -> None:
    agent = equipped(TemplateAgent, text="{% for i in range(30) %}x{% endfor %}", characters=40)
    for _ in range(3):
        answer = agent.answer(letter())
        assert answer is not None
        assert answer.text == "x" * 30
    Budget(ManualClock().monotonic, 1.0, 1).spend(1)


def test_usual_templates_when_rendered_then_they_work_within_the_bounds() -> None:
    assert told("{% for i in 'abc' %}{{ loop.index }}{{ i }}{{ ',' if not loop.last }}{% endfor %}") == "1a,2b,3c"
    assert told("{% macro m(x) %}<{{ x }}>{% endmacro %}{{ m('a') }}{% filter upper %}b{% endfilter %}") == "<a>B"
    assert (
        told("{{ 'a b c'|wordwrap(1) }}|{{ 'a\\nb'|indent(2, true) }}|{{ 'aa'|replace('a', 'b', 1) }}")
        == "a\nb\nc|  a\n  b|ba"
    )
    assert told(
        "{{ 2 ** 10 + 7 % 4 * 3 // 2 }} {{ 'x' * 3 }} {{ ([1] + [2])|sum }} {{ [{'n': 2}]|sum(attribute='n') }}"
    ) == ("1028 xxx 3 2")
    assert (
        told("{{ x.y|default('d') }} {{ 3.14159|round(2) }} {{ ['b', 'a']|sort|join(' ') }}", variables={"x": {}})
        == "d 3.14 a b"
    )
    assert (
        told("{% for k, v in {'a': 1}.items() %}{{ k }}={{ v }}{% endfor %} {{ 'A'.lower() }} {{ mail.text[:3] }}")
        == "a=1 a How"
    )


def test_template_when_listed_then_it_runs_in_a_process_of_its_own() -> None:
    assert TemplateAgent.isolated

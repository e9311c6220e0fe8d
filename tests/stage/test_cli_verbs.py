"""Verbs that plugins add, and what the command line does with plugins that can't be used."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.operator import Operator
from tests.support.server import ROOT, configuration, environment

REPORT = """
from responder import Command, hookimpl


def add_arguments(parser):
    parser.add_argument("words", nargs="*", metavar="WORD", help="what to say")
    parser.add_argument("--loud", action="store_true", help="say it louder")


def run(options, config):
    text = f"{config.hostname}: {' '.join(options.words)}"
    print(text.upper() if options.loud else text)
    if "raise" in options.words:
        raise LookupError("so")
    return {"fail": 1, "none": None, "text": "x"}.get(options.words[0] if options.words else "", 0)


@hookimpl
def responder_commands():
    return [Command("report", "Say something: 100% of it.", run, add_arguments)]
"""


@pytest.fixture
def operator(operator: Operator) -> Operator:
    (operator.folder / "own").mkdir()
    write(operator, REPORT)
    operator.write(configuration(plugins=["own"], inboxes={}))
    return operator


def write(operator: Operator, source: str, name: str = "report") -> Path:
    path = operator.folder / "own" / f"{name}.py"
    path.write_text(source)
    return path


def test_verb_of_a_plugin_when_run_then_it_has_its_options_the_configuration_and_its_status(operator: Operator) -> None:
    assert operator("report", "a", "b", "--loud") == type(operator("report"))(0, "MX.TEST.EXAMPLE: A B\n", "")
    assert operator("report", "fail").status == 1
    assert operator("report", "none").status == 0
    result = operator("report", "text")
    assert result.status == 2 and "own/report.py: the verb report returned a str, no exit status" in result.err
    with pytest.raises(LookupError):
        operator("report", "raise")


def test_verb_of_a_plugin_when_help_is_asked_for_then_it_is_there(
    operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RESPONDER_CONFIG", str(operator.file))
    result = operator.run("--help")
    assert result.status == 0
    assert re.search(r"^    report +Say something: 100% of it\.$", result.out, re.MULTILINE)
    result = operator.run("report", "--help")
    assert result.status == 0 and "--loud" in result.out and "--config" in result.out
    assert re.search(r"^responder report  \(verb, from own/report\.py\)$", operator("plugins").out, re.MULTILINE)


@pytest.mark.parametrize(
    ("config", "source", "reason"),
    [
        ("hostnam = 'x'", REPORT, r'responder\.toml: hostnam: unknown key; did you mean "hostname"\?'),
        ("not toml", REPORT, r"responder\.toml: line 1.*: is not TOML"),
        ("plugins = ['missing']", REPORT, r"plugins: missing: no such plugin folder"),
    ],
)
def test_help_when_the_configuration_is_broken_then_it_is_shown_and_says_so(
    operator: Operator, monkeypatch: pytest.MonkeyPatch, config: str, source: str, reason: str
) -> None:
    monkeypatch.setenv("RESPONDER_CONFIG", str(operator.file))
    monkeypatch.setenv("COLUMNS", "300")
    operator.file.write_text(config)
    result = operator.run("--help")
    assert (result.status, result.err) == (0, "")
    assert "\n    serve " in result.out and "report" not in result.out
    assert re.search(rf"Verbs of plugins can't be shown: .*{reason}", " ".join(result.out.split()))
    result = operator.run("report")
    assert result.status == 2 and result.out == ""
    assert re.search(rf'there is no verb "report", and plugins can\'t be asked for one: .*{reason}', result.err)


def test_help_when_another_plugin_is_broken_then_the_good_one_is_shown_and_run_only_where_broken_ones_are_skipped(
    operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RESPONDER_CONFIG", str(operator.file))
    write(operator, "1 / 0\n", "bad")
    assert "\n    report " in operator.run("--help").out
    result = operator("report")
    assert result.status == 2 and "own/bad.py: ZeroDivisionError: division by zero" in result.err
    operator.write({**configuration(plugins=["own"], inboxes={}), "broken_plugins": "skip"})
    assert operator("report", "a").out == "mx.test.example: a\n"


def test_help_when_there_is_no_configuration_then_it_is_shown_without_a_remark(
    operator: Operator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    result = operator.run("--help")
    assert result.status == 0 and "can't be shown" not in result.out


def test_verb_when_nobody_has_it_then_all_that_there_are_are_named(operator: Operator) -> None:
    result = operator("frob")
    assert result.status == 2
    assert re.search(r"invalid choice: 'frob' \(choose from '?serve'?, .*report", result.err)


def test_verb_of_the_server_when_a_plugin_takes_it_then_the_plugin_is_refused_in_one_line(operator: Operator) -> None:
    write(operator, REPORT.replace('"report"', '"queue"'))
    for verb in ("check", "serve", "frob"):
        result = operator(verb)
        assert result.status == 2
        assert 'own/report.py: "queue" is one of the server\'s own verbs\n' in result.err
    assert operator("queue", "list").err.count("own verbs") == 0


def test_verb_of_a_plugin_when_its_options_clash_then_it_is_one_line(operator: Operator) -> None:
    write(operator, REPORT.replace('"--loud"', '"--config"'))
    with pytest.raises(
        Exception, match=r"own/report\.py: the verb report: ArgumentError: .*conflicting option"
    ) as raised:
        operator("report")
    assert type(raised.value).__name__ == "StartError"


@pytest.mark.parametrize(
    "verb", [("check", "--help"), ("queue", "list", "--help"), ("--version",), ("new", "--help"), ()]
)
def test_verb_of_the_server_when_run_then_no_plugin_is_loaded_for_the_verbs(
    operator: Operator, verb: tuple[str, ...]
) -> None:
    write(operator, f"open({str(operator.folder / 'loaded')!r}, 'w').close()\n" + REPORT)
    operator.run(*verb)
    assert not (operator.folder / "loaded").exists()
    operator("report")
    assert (operator.folder / "loaded").exists()


# -- plugins that are skipped ---------------------------------------------------------------------------------------------


def skipping(operator: Operator) -> None:
    write(operator, "import nothing_of_that_name\n", "bad")
    inboxes = {"shop": {"agent": "shop", "isolated": True, "settings": {"a": 1}}, "echo": {"agent": "echo"}}
    plugins = ["own", str(ROOT / "plugins")]
    operator.write({**configuration(plugins=plugins, inboxes=inboxes), "broken_plugins": "skip"})


def test_check_when_a_plugin_is_skipped_then_it_says_so_and_the_configuration_is_good(operator: Operator) -> None:
    skipping(operator)
    result = operator("check")
    assert (result.status, result.err) == (0, "")
    reason = "own/bad.py: ModuleNotFoundError: No module named 'nothing_of_that_name'"
    assert f"\nbroken plugin, skipped: {reason}\n" in result.out
    assert re.search(r"^shop +shop +service +- +a broken plugin$", result.out, re.MULTILINE)
    assert operator("check", "--json").json["broken_plugins"] == [reason]
    assert f"broken, skipped  {reason}\n" in operator("plugins").out
    listed = operator("plugins", "--json")
    assert "echo" in listed.json and "shop" not in listed.json
    assert listed.err == f"responder: broken plugin, skipped: {reason}\n"


def test_try_when_the_inbox_s_plugin_is_skipped_then_its_reason_is_shown(operator: Operator, tmp_path: Path) -> None:
    skipping(operator)
    letter = tmp_path / "mail.eml"
    letter.write_text("From: ann@client.example\nSubject: x\n\nx\n")
    result = operator("try", "shop", str(letter))
    assert result.status == 1
    assert "its plugin is broken: own/bad.py: ModuleNotFoundError" in result.out
    assert operator("try", "echo", str(letter)).status == 0


# -- how long it takes ----------------------------------------------------------------------------------------------------


def test_own_verb_when_started_then_no_more_is_imported_than_it_needs() -> None:
    code = "import sys; from responder.cli import main; main(['queue', 'list', '--config', '-']); print(*sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment(), capture_output=True, text=True, check=True
    )
    loaded = set(result.stdout.splitlines()[-1].split())
    assert not loaded & {
        "httpx",
        "jinja2",
        "aiosmtplib",
        "aiosmtpd",
        "dns",
        "uvloop",
        "responder.app",
        "responder.testing",
    }

"""`responder plugins`: which agents and checks there are, where they come from, and what they can be told."""

from __future__ import annotations

import argparse
import json
import sys

from responder.agents.load import AgentType, CheckType
from responder.cli.options import Verbs, configuration
from responder.cli.output import bold, harmless, print_json
from responder.start import find_plugins


def add(verbs: Verbs, common: argparse.ArgumentParser) -> None:
    verb = verbs.add_parser(
        "plugins",
        parents=[common],
        help="the agents and checks known, where each comes from, the JSON schema of its settings",
        description="Every agent that an inbox may have, and every check: the files of the folders that `plugins` names, and"
        " installed packages.",
    )
    verb.add_argument("--checks", action="store_true", help="the checks alone")
    verb.add_argument("--json", action="store_true", help="for programs: the agents, or with --checks the checks")
    verb.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    config, file = configuration(options)
    found = find_plugins(config, file)
    agents = found.agents
    if options.json:
        for reason in found.broken:  # not among the agents: a program would take it for one
            sys.stderr.write(f"responder: broken plugin, skipped: {harmless(reason)}\n")
        print_json(
            {check.name: _told(check, steps=check.steps) for check in found.checks.values()}
            if options.checks
            else {agent.name: _told(agent, kind=agent.kind) for agent in agents.values()}
        )
        return 0
    if not options.checks:
        if not agents:
            sys.stdout.write("There are no agents: set `plugins` to the folder that they are in.\n")
        for agent in agents.values():
            _tell(agent, agent.kind)
    for check in found.checks.values():
        _tell(check, f"check at {', '.join(check.steps)}")
    if options.checks:
        return 0
    for command in found.commands.values():
        sys.stdout.write(f"{bold(f'responder {command.name}')}  (verb, from {harmless(found.origins[command.name])})\n")
        sys.stdout.write(f"    {harmless(command.help)}\n")
    for observer in found.observers:
        sys.stdout.write(f"{bold('observer')}  (of events, from {harmless(observer.origin)})\n")
    for reason in found.broken:
        sys.stdout.write(f"{bold('broken, skipped')}  {harmless(reason)}\n")
    return 0


def _told(thing: AgentType | CheckType, **more: object) -> dict[str, object]:
    schema = thing.settings.model_json_schema()
    return {"origin": thing.origin, **more, "summary": thing.summary, "settings": schema}


def _tell(thing: AgentType | CheckType, what: str) -> None:
    sys.stdout.write(f"{bold(thing.name)}  ({what}, from {harmless(thing.origin)})\n")
    if thing.summary:
        sys.stdout.write(f"    {harmless(thing.summary)}\n")
    for name, schema in thing.settings.model_json_schema().get("properties", {}).items():
        kind = schema.get("type") or " or ".join(one.get("type", "?") for one in schema.get("anyOf", [])) or "any"
        default = f", default {json.dumps(schema['default'], ensure_ascii=False)}" if "default" in schema else ""
        sys.stdout.write(harmless(f"    {name}: {kind}{default}") + "\n")

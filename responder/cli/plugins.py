"""`responder plugins`: which agents there are, where they come from, and what they can be told."""

from __future__ import annotations

import argparse
import json
import sys

from responder.cli.options import Verbs, configuration
from responder.cli.output import bold, harmless, print_json
from responder.start import find_plugins


def add(verbs: Verbs, common: argparse.ArgumentParser) -> None:
    verb = verbs.add_parser(
        "plugins",
        parents=[common],
        help="the agents known, where each comes from, the JSON schema of its settings",
        description="Every agent that an inbox may have: the files of the folders that `plugins` names, and installed packages.",
    )
    verb.add_argument("--json", action="store_true", help="for programs")
    verb.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    config, file = configuration(options)
    found = find_plugins(config, file)
    agents = found.agents
    if options.json:
        for reason in found.broken:  # not among the agents: a program would take it for one
            sys.stderr.write(f"responder: broken plugin, skipped: {harmless(reason)}\n")
        print_json(
            {
                agent.name: {
                    "origin": agent.origin,
                    "kind": agent.kind,
                    "summary": agent.summary,
                    "settings": agent.settings.model_json_schema(),
                }
                for agent in agents.values()
            }
        )
        return 0
    if not agents:
        sys.stdout.write("There are no agents: set `plugins` to the folder that they are in.\n")
    for agent in agents.values():
        sys.stdout.write(f"{bold(agent.name)}  ({agent.kind}, from {harmless(agent.origin)})\n")
        if agent.summary:
            sys.stdout.write(f"    {harmless(agent.summary)}\n")
        properties = agent.settings.model_json_schema().get("properties", {})
        for name, schema in properties.items():
            kind = schema.get("type") or " or ".join(one.get("type", "?") for one in schema.get("anyOf", [])) or "any"
            default = f", default {json.dumps(schema['default'], ensure_ascii=False)}" if "default" in schema else ""
            sys.stdout.write(harmless(f"    {name}: {kind}{default}") + "\n")
    for command in found.commands.values():
        sys.stdout.write(f"{bold(f'responder {command.name}')}  (verb, from {harmless(found.origins[command.name])})\n")
        sys.stdout.write(f"    {harmless(command.help)}\n")
    for observer in found.observers:
        sys.stdout.write(f"{bold('observer')}  (of events, from {harmless(observer.origin)})\n")
    for reason in found.broken:
        sys.stdout.write(f"{bold('broken, skipped')}  {harmless(reason)}\n")
    return 0

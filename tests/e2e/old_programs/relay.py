#!/usr/bin/env python3
# ruff: noqa
# fmt: off
# mypy: ignore-errors
"""Usage: relay.py PORT UPSTREAM-PORT. Stamps what it relays, and leaves out recipients of the old domain."""
import asyncore, sys
from smtpd import PureProxy


class Relay(PureProxy):
    def process_message(self, peer, mailfrom, rcpttos, data):
        keep = [r for r in rcpttos if not r.lower().endswith('@old.example')]
        for r in rcpttos:
            if r not in keep:
                print('dropped', r, flush=True)
        if not keep:
            return '550 nobody is left'
        headers, sep, body = data.partition('\n\n')
        headers += '\nX-Relay: stamped'
        return PureProxy.process_message(self, peer, mailfrom, keep, headers + sep + body)

    def _deliver(self, mailfrom, rcpttos, data):
        refused = PureProxy._deliver(self, mailfrom, rcpttos, data)
        for rcpt, (code, text) in sorted(refused.items()):
            print('refused', rcpt, code, text, flush=True)
        return refused


relay = Relay(('localhost', int(sys.argv[1])), ('localhost', int(sys.argv[2])), decode_data=True)
try:
    asyncore.loop(timeout=1, use_poll=True)
except KeyboardInterrupt:
    asyncore.close_all()
    print('closed')

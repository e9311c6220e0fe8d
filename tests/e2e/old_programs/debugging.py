#!/usr/bin/env python3
# ruff: noqa
# fmt: off
# mypy: ignore-errors
"""Usage: debugging.py PORT. Shows what an application mails, for developers."""
import asyncore
import smtpd
import sys

count = 0


class DevServer(smtpd.DebuggingServer):
    def process_message(self, peer, mailfrom, rcpttos, data, **kwargs):
        global count
        count += 1
        print('#%d from %s to %s' % (count, mailfrom, ', '.join(rcpttos)))
        smtpd.DebuggingServer.process_message(self, peer, mailfrom, rcpttos, data, **kwargs)
        sys.stdout.flush()


if __name__ == '__main__':
    server = DevServer(('127.0.0.1', int(sys.argv[1])), None, enable_SMTPUTF8=True)
    try:
        asyncore.loop()
    except KeyboardInterrupt:
        print('%d mails' % count)
        server.close()

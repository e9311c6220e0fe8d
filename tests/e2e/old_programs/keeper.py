#!/usr/bin/env python3
# ruff: noqa
# fmt: off
# mypy: ignore-errors
"""Usage: keeper.py PORT FOLDER. Keeps mail for known users in files, and says no in many ways."""
import asyncore as loop, smtpd
import email
import os
import sqlite3
import sys
import threading

USERS = ('ann', 'bob')


class Channel(smtpd.SMTPChannel):
    def smtp_EHLO(self, arg):
        if not arg:
            self.push('501 who are you?')
            return
        self.seen_greeting = arg
        self.extended_smtp = True
        self.push('250-keeper')
        self.push('250-AUTH PLAIN')
        self.push('250 SIZE 2000')

    def smtp_AUTH(self, arg):
        self.push('235 fine' if arg == 'PLAIN AGFubgBzZWNyZXQ=' else '535 no')

    def smtp_RCPT(self, arg):
        address = arg.split(':', 1)[1].strip(' <>')
        if address.split('@')[0].lower() not in USERS:
            self.push('550 5.1.1 no such user: ' + address)
            return
        smtpd.SMTPChannel.smtp_RCPT(self, arg)

    def smtp_XCOUNT(self, arg):
        self.push('250 %d' % self.smtp_server.count())


class Keeper(smtpd.SMTPServer):
    channel_class = Channel

    def __init__(self, folder, *args, **kw):
        smtpd.SMTPServer.__init__(self, *args, **kw)
        self.folder = folder
        self.thread = threading.current_thread()
        self.db = sqlite3.connect(os.path.join(folder, 'index.db'))
        self.db.execute('create table mail (id integer primary key, sender, rcpt, subject, length)')

    def count(self):
        return self.db.execute('select count(*) from mail').fetchone()[0]

    def process_message(self, peer, mailfrom, rcpttos, data, mail_options=None, rcpt_options=None):
        assert threading.current_thread() is self.thread
        msg = email.message_from_bytes(data)
        subject = msg['Subject'] or ''
        if 'spam' in subject.lower():
            return '554 5.7.1 we do not like this'
        if 'later' in subject.lower():
            return '451 4.3.0 come back later'
        if 'crash' in subject.lower():
            self.close()
            loop.close_all()
            raise SystemExit(7)
        for rcpt in rcpttos:
            cur = self.db.execute('insert into mail (sender, rcpt, subject, length) values (?, ?, ?, ?)',
                                  (mailfrom, rcpt, subject, len(data)))
            with open(os.path.join(self.folder, '%d.eml' % cur.lastrowid), 'wb') as f:
                f.write(data)
        self.db.commit()
        print(self.count(), mailfrom, rcpttos, mail_options, rcpt_options, flush=True)
        return '250 2.0.0 kept as %d' % self.count()


keeper = Keeper(sys.argv[2], ('127.0.0.1', int(sys.argv[1])), None, data_size_limit=2000)
loop.loop()

"""One connection as SMTP: its replies, how a session begins, and one transaction after another."""
